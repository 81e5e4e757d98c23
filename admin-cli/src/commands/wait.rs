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
    let mut seen = None;
    loop {
        let left = || end.map(|end| end.saturating_duration_since(Instant::now()));
        let patience = Patience { whole: left().map(|left| left.max(MOMENT)), ..Patience::short() };
        let found = match look(target, &mut seen, patience)? {
            Seen::Running(status) if is_there(&wait.until, &status) => {
                let text = if json { json!(Answer::Status(status)).to_string() } else { status_line(&status) };
                output::data(&text)?;
                return Ok(Exit::Done);
            }
            Seen::Gone if wait.until.gone => {
                output::data(&if json { json!({ "result": "gone" }).to_string() } else { "not running".into() })?;
                return Ok(Exit::Done);
            }
            Seen::Gone if seen.is_some() => {
                return Err(Failure::new(Exit::NotRunning, "it has ended, and is not what was waited for"));
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

/// `seen` is the supervisor that was found, from the first answer on: another one that starts meanwhile is not meant.
fn look(target: &Target, seen: &mut Option<Chosen>, patience: Patience) -> Result<Seen, Failure> {
    let new = match seen {
        Some(_) => None,
        None => match choose(target) {
            Ok(chosen) => Some(chosen),
            Err(failure) if failure.exit == Exit::NotRunning => return Ok(Seen::Gone),
            // This may or may not be the one that is meant.
            Err(failure) if failure.exit == Exit::NoAnswer => return Ok(Seen::Unknown),
            Err(failure) => return Err(failure),
        },
    };
    let Some(chosen) = new.as_ref().or(seen.as_ref()) else { return Ok(Seen::Gone) };
    match client::ask(&chosen.paths, Request::Status {}, patience, |_| {}) {
        Ok(Answer::Status(status)) => {
            if new.is_some() {
                *seen = new;
            }
            Ok(Seen::Running(status))
        }
        Ok(Answer::Error(Refusal { code: ErrorCode::Busy, .. })) => Ok(Seen::Unknown),
        Ok(Answer::Error(refusal)) => Err(Failure::refused(&chosen.label, &refusal)),
        Ok(answer) => Err(not_understood(chosen, &answer)),
        Err(AskError::NotRunning) => Ok(Seen::Gone),
        Err(AskError::NoResponse | AskError::Suspended { .. } | AskError::Disconnected | AskError::GaveUp) => {
            Ok(Seen::Unknown)
        }
        Err(error) => Err(Failure::asking(&chosen.label, &error)),
    }
}

/// Whether the awaited state has been reached.
fn is_there(until: &Until, status: &Status) -> bool {
    match until.generation {
        _ if until.gone => false,
        Some(generation) => status.generation >= generation && status.ready,
        None => status.ready,
    }
}
