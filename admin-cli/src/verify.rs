//! Real requests before, during and after a restart or a stop, and the fate of each.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use load::{Expected, Fate, Load, Mode, PATIENCE, Report, Running, Url};
use mastercontrol::Exit;
use mastercontrol::text::{Count, Reason};
use serde_json::{Map, Value, json};

use crate::args::Verify;
use crate::failure::Failure;
use crate::live::LiveLine;
use crate::output;

/// How long requests are sent before and after the action.
const AROUND: Duration = Duration::from_secs(1);

/// Carries out an action, a `restart` or a `stop`, while requests are sent, if the user wants that. They are also sent
/// before it: if any of those is lost, nothing is carried out.
pub(crate) fn verified(
    verify: &Verify,
    json: bool,
    what: &str,
    carry_out: impl FnOnce() -> Result<Exit, Failure>,
) -> Result<Exit, Failure> {
    let Some(url) = &verify.url else { return carry_out() };
    let live = LiveLine::new();
    live.say(&format!("sending requests to {url} before the {what}"));
    let verification = Verification::begin(url, verify, what)?;
    drop(live);
    let asked = Instant::now();
    let done = carry_out();
    thread::sleep(AROUND);
    let (began, report) = verification.end();
    let since = |at: Duration| at.saturating_sub(asked.saturating_duration_since(began));
    let losses = report.losses.map(|(first, last)| (since(first), since(last)));
    output::data(&if json { data(url, &report, losses) } else { text(&report, losses, what) })?;
    match done? {
        Exit::Done | Exit::Forced | Exit::Overrun if report.lost() > 0 => Ok(Exit::Lost),
        exit => Ok(exit),
    }
}

/// Loads in progress that have been answered so far.
struct Verification(Vec<Running>);

impl Verification {
    fn begin(url: &Url, verify: &Verify, what: &str) -> Result<Verification, Failure> {
        let load = |expected, mode| {
            Load::from_url(url, expected, mode)
                .map(Load::resend)
                .map_err(|error| unanswered(url, what, &format!("its host is not found ({})", Reason(&error))))
        };
        let status = match load(Expected::Any, Mode::OnePerConnection)?.once() {
            (Fate::Answered, Some(status)) if status < 500 => status,
            (Fate::Answered, Some(status)) => {
                return Err(unanswered(url, what, &format!("it answers with status {status}")));
            }
            (fate, _) => return Err(unanswered(url, what, &describe(fate))),
        };
        let half = verify.connections.div_ceil(2);
        let loads = [(Mode::KeptAlive, half), (Mode::OnePerConnection, verify.connections - half)];
        let pace = verify
            .rate
            .map_or(Duration::ZERO, |rate| Duration::from_secs_f64(verify.connections as f64 / f64::from(rate.get())));
        let running = loads.into_iter().map(|(mode, connections)| {
            let load = load(Expected::Status(status), mode)?.connections(connections).pace(pace);
            load.try_begin().map_err(|error| Failure::system(&error))
        });
        let verification = Verification(running.collect::<Result<_, Failure>>()?);
        thread::sleep(AROUND);
        if verification.0.iter().any(|load| load.lost() > 0) {
            let (_, report) = verification.end();
            let lost =
                format!("{} of {} requests were lost before: {}", report.lost(), report.requests(), fates(&report));
            return Err(unanswered(url, what, &lost));
        }
        Ok(verification)
    }

    /// When the requests began, and their fates.
    fn end(self) -> (Instant, Report) {
        let began = self.0.iter().map(Running::began).min().unwrap_or_else(Instant::now);
        let reports = self.0.into_iter().map(Running::end);
        (
            began,
            reports.fold(Report::default(), |mut whole, report| {
                whole.add(report);
                whole
            }),
        )
    }
}

/// The failure if the requests before the action are not answered.
fn unanswered(url: &Url, what: &str, why: &str) -> Failure {
    let message = format!("no {what}: {url} does not answer as it should before it: {why}. Nothing was changed");
    Failure::unanswered(message)
}

fn describe(fate: Fate) -> String {
    match fate {
        Fate::Answered | Fate::Wrong => "the answer is not HTTP".into(),
        Fate::Empty => "it closed the connection without an answer".into(),
        Fate::Cut => "it closed the connection in the middle of its answer".into(),
        Fate::Failed(io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            format!("it did not answer within {} s", PATIENCE.as_secs())
        }
        Fate::Failed(kind) => kind.to_string(),
    }
}

/// The fates of all requests that were lost.
fn fates(report: &Report) -> String {
    let fates = report.fates().into_iter().filter(|(_, count)| *count > 0);
    fates.map(|(name, count)| format!("{count} {name}")).collect::<Vec<_>>().join(", ")
}

fn text(report: &Report, losses: Option<(Duration, Duration)>, what: &str) -> String {
    let requests = Count(usize::try_from(report.requests()).unwrap_or(usize::MAX), "request");
    let mut text = match losses {
        None => format!("verified: {requests}, none lost"),
        Some((first, last)) => format!(
            "not verified: {} of {requests} lost: {}\n  the first {:.2} s after the {what} was requested, the last after {:.2} s",
            report.lost(),
            fates(report),
            first.as_secs_f64(),
            last.as_secs_f64()
        ),
    };
    let milliseconds = |time: Duration| (time.as_secs_f64() * 10_000.0).ceil() / 10.0;
    let (most, longest) = (milliseconds(report.percentile(99)), milliseconds(report.slowest));
    text += &format!("\n  99 % took at most {most} ms, the longest {longest} ms");
    if report.sent_again > 0 {
        text +=
            &format!("\n  {} sent again: the server closed an idle connection without reading them", report.sent_again);
    }
    if report.no_port > 0 {
        text += &format!("\n  {} not sent: this machine had no free port for a connection", report.no_port);
    }
    text
}

fn data(url: &Url, report: &Report, losses: Option<(Duration, Duration)>) -> String {
    let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    let fates: Map<String, Value> =
        report.fates().into_iter().map(|(name, count)| (name.replace(' ', "_"), count.into())).collect();
    json!({
        "result": "verification",
        "url": url.to_string(),
        "requests": report.requests(),
        "answered": report.answered,
        "lost": report.lost(),
        "fates": fates,
        "first_loss_ms": losses.map(|(first, _)| milliseconds(first)),
        "last_loss_ms": losses.map(|(_, last)| milliseconds(last)),
        "sent_again": report.sent_again,
        "not_sent": report.no_port,
        "connections": report.connections,
        "p99_ms": milliseconds(report.percentile(99)),
        "longest_ms": milliseconds(report.slowest),
    })
    .to_string()
}
