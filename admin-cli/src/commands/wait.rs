//! `wait`

use std::thread;
use std::time::{Duration, Instant};

use mastercontrol::Exit;
use mastercontrol::client::{self, AskError, Patience};
use mastercontrol::protocol::{Answer, ErrorCode, Refusal, Request, Status};
use mastercontrol::text::status_line;
use serde_json::json;

use crate::args::{Target, Until, WaitFor};
use crate::ask::not_understood;
use crate::failure::Failure;
use crate::found::Chosen;
use crate::output;
use crate::target::choose;

/// The first and the longest wait between two looks. Nothing announces a supervisor that has not started yet.
const LOOKS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How long a look may take at least, however little time is left: one that has no time sees nothing.
const MOMENT: Duration = Duration::from_secs(1);

pub(crate) fn wait(target: &Target, json: bool, wait: &WaitFor) -> Result<Exit, Failure> {
    let end = wait.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let mut pause = LOOKS.0;
    let mut meant = Meant::default();
    loop {
        let left = || end.map(|end| end.saturating_duration_since(Instant::now()));
        let patience = Patience { whole: left().map(|left| left.max(MOMENT)), ..Patience::short() };
        let found = match look(target, &mut meant, patience)? {
            Seen::Running(status) if is_there(&wait.until, &status) => {
                let text = if json { json!(Answer::Status(status)).to_string() } else { status_line(&status) };
                output::data(&text)?;
                return Ok(Exit::Done);
            }
            Seen::Gone if wait.until.gone => {
                output::data(&if json { json!({ "result": "gone" }).to_string() } else { "not running".into() })?;
                return Ok(Exit::Done);
            }
            Seen::Gone if meant.is_seen => {
                let what = wait.until.generation.map_or("it".into(), |generation| format!("generation {generation}"));
                return Err(Failure::new(Exit::NotRunning, format!("it ended before {what} was ready")));
            }
            Seen::Running(status) => status_line(&status),
            Seen::Gone => "no supervisor is running there".into(),
            Seen::Unknown => "it does not answer".into(),
        };
        let left = left();
        if left == Some(Duration::ZERO) {
            return Err(Failure::new(Exit::GaveUp, format!("timed out waiting: {found}")));
        }
        thread::sleep(left.map_or(pause, |left| pause.min(left)));
        pause = (pause * 2).min(LOOKS.1);
    }
}

/// What a look finds.
enum Seen {
    Running(Box<Status>),
    /// No supervisor is running: it has ended, or has not started yet.
    Gone,
    /// It did not answer: it is just starting or ending, or very busy.
    Unknown,
}

/// The supervisor that is waited for.
#[derive(Default)]
struct Meant {
    /// It is chosen once, because the user may have been asked, and again only if it has gone without an answer: the
    /// one that starts next may have another name.
    chosen: Option<Chosen>,
    /// Whether it has answered. From then on, another one that starts meanwhile is not meant.
    is_seen: bool,
}

fn look(target: &Target, meant: &mut Meant, patience: Patience) -> Result<Seen, Failure> {
    let chosen = match meant.chosen.take() {
        Some(chosen) => chosen,
        None => match choose(target) {
            Ok(chosen) => chosen,
            Err(failure) if failure.exit == Exit::NotRunning => return Ok(Seen::Gone),
            // This may or may not be the one that is meant.
            Err(failure) if failure.exit == Exit::NoAnswer => return Ok(Seen::Unknown),
            Err(failure) => return Err(failure),
        },
    };
    let seen = match client::ask(&chosen.paths, Request::Status {}, patience, |_| {}) {
        Ok(Answer::Status(status)) => {
            meant.is_seen = true;
            Seen::Running(status)
        }
        Ok(Answer::Error(Refusal { code: ErrorCode::Busy, .. })) => Seen::Unknown,
        Ok(Answer::Error(refusal)) => return Err(Failure::refused(&chosen.label, &refusal)),
        Ok(answer) => return Err(not_understood(&chosen, &answer)),
        Err(AskError::NotRunning) => return Ok(Seen::Gone),
        Err(AskError::NoResponse | AskError::Suspended { .. } | AskError::Disconnected | AskError::GaveUp) => {
            Seen::Unknown
        }
        Err(error) => return Err(Failure::asking(&chosen.label, &error)),
    };
    meant.chosen = Some(chosen);
    Ok(seen)
}

/// Whether the awaited state has been reached.
fn is_there(until: &Until, status: &Status) -> bool {
    match until.generation {
        _ if until.gone => false,
        Some(generation) => status.generation >= generation && status.ready,
        None => status.ready,
    }
}
