//! What `admin-cli` can ask for.

use std::time::Duration;

use serde_json::json;
use supervisor::Exit;
use supervisor::client::{self, AskError, Patience};
use supervisor::protocol::{Answer, Drain, Progress, Report, Request, Status};
use supervisor::text::{Seconds, countdown, describe_forced, milliseconds, summary};

use crate::args::{Stop, Target};
use crate::failure::Failure;
use crate::output::{self, LiveLine};
use crate::target::{self, Found};

pub(crate) fn ping(target: &Target, json: bool) -> Result<Exit, Failure> {
    ask(target, json, Request::Ping {}, Patience::short(), |answer| match answer {
        Answer::Pong { name, pid, version } => {
            Some((format!("{name} is there (pid {pid}, version {version})"), Exit::Done))
        }
        _ => None,
    })
}

pub(crate) fn status(target: &Target, json: bool) -> Result<Exit, Failure> {
    ask(target, json, Request::Status {}, Patience::short(), |answer| match answer {
        Answer::Status(status) => Some((describe_status(status), Exit::Done)),
        _ => None,
    })
}

pub(crate) fn stop(target: &Target, json: bool, stop: &Stop) -> Result<Exit, Failure> {
    let grace = if stop.now { Some(Duration::ZERO) } else { stop.grace };
    let grace_ms = grace.map(milliseconds);
    let patience = Patience { whole: stop.timeout, ..Patience::short() };
    ask(target, json, Request::Stop { grace_ms, wait: !stop.no_wait }, patience, |answer| match answer {
        Answer::Stopping(drain) => Some((describe_drain(drain), Exit::Done)),
        Answer::Stopped { report } => Some((describe_report(report), Exit::from(report))),
        _ => None,
    })
}

pub(crate) fn list(json: bool) -> Result<Exit, Failure> {
    let found = target::find()?;
    if json {
        let instances: Vec<_> = found
            .iter()
            .map(|found| match &found.status {
                Ok(status) => json!(status),
                Err(AskError::NotRunning) => json!({ "name": found.name.as_str(), "state": "dead" }),
                Err(error) => json!({ "name": found.name.as_str(), "state": "unknown", "message": error.to_string() }),
            })
            .collect();
        output::data(&json!({ "result": "list", "instances": instances }).to_string());
    } else if found.is_empty() {
        output::message("no supervisor of yours is running");
    } else {
        let head = ["NAME", "KIND", "ADDRESS", "PID", "STATE"].map(str::to_owned);
        for line in output::table(std::iter::once(head).chain(found.iter().map(Found::row)).collect()) {
            output::data(&line);
        }
    }
    Ok(Exit::Done)
}

/// Asks, and writes the answer as `show` puts it, or as JSON. `show` returns None for an answer to another question.
fn ask(
    target: &Target,
    json: bool,
    request: Request,
    patience: Patience,
    show: impl Fn(&Answer) -> Option<(String, Exit)>,
) -> Result<Exit, Failure> {
    let chosen = target.choose()?;
    let live = LiveLine::new();
    let answer = client::ask(&chosen.place, request, patience, |progress| match progress {
        Progress::Draining(drain) if !json => live.show(&drain),
        Progress::Draining(_) => {}
    });
    drop(live);
    let answer = answer.map_err(|error| Failure::asking(&chosen.label, &error))?;
    match (&answer, show(&answer)) {
        (Answer::Error(refusal), _) => Err(Failure::refused(&chosen.label, refusal)),
        (_, Some((_, exit))) if json => {
            // As it was received, in the order of the specification.
            output::data(&serde_json::to_string(&answer).unwrap_or_default());
            Ok(exit)
        }
        (_, Some((text, exit))) => {
            output::data(&text);
            Ok(exit)
        }
        (_, None) => {
            let error = AskError::NotUnderstood(json!(answer).to_string());
            Err(Failure::asking(&chosen.label, &error))
        }
    }
}

fn describe_status(status: &Status) -> String {
    let Status { name, kind, state, pid, address, uptime_ms, connections, drain, version } = status;
    let mut text = format!(
        "{name} is {state}\n  kind         {kind}\n  address      {address}\n  pid          {pid}\n  \
         uptime       {}\n  connections  {} now, {} in all, {} refused\n  version      {version}",
        Seconds(Duration::from_millis(*uptime_ms)),
        connections.now,
        connections.total,
        connections.refused,
    );
    if let Some(drain) = drain {
        text = format!("{text}\n  drain        {}", describe_drain(drain));
    }
    text
}

fn describe_drain(drain: &Drain) -> String {
    format!("stopping, asked by {}: {}", drain.by, countdown(drain))
}

fn describe_report(report: &Report) -> String {
    let mut lines = vec![summary(report)];
    lines.extend(report.connections.iter().map(|connection| format!("  by force: {}", describe_forced(connection))));
    let more = report.forced.saturating_sub(report.connections.len());
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.join("\n")
}
