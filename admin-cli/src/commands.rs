//! What `admin-cli` can ask for.

use std::cmp::Reverse;
use std::path::Path;
use std::time::Duration;

use mastercontrol::Exit;
use mastercontrol::cli::{self, HandlerKind, KINDS, OwnServer, Server};
use mastercontrol::client::{self, AskError, Patience};
use mastercontrol::metrics;
use mastercontrol::protocol::{
    Activity, Answer, Connection, Counts, Delay, Drain, LastEnd, Outcome, Progress, Report, Request, Status,
};
use mastercontrol::text::{
    self, Age, Count, Seconds, countdown, describe_closed, describe_forced, describe_restart, listed, milliseconds,
    status_line, summary,
};
use mastercontrol::worker::handlers::Http;
use serde_json::json;

use crate::args::{self, Check, Close, Grace, List, Restart, Stop, Target, Wait};
use crate::failure::Failure;
use crate::output::{self, LiveLine};
use crate::target::{self, Chosen, Found};

pub(crate) fn ping(target: &Target, json: bool) -> Result<Exit, Failure> {
    ask(target, json, Request::Ping {}, Patience::short(), |answer| match answer {
        Answer::Pong { name, pid, version } => {
            Some((format!("{name} is there (pid {pid}, version {version})"), Exit::Done))
        }
        _ => None,
    })
}

pub(crate) fn status(target: &Target, json: bool, status: &args::Status) -> Result<Exit, Failure> {
    let describe = if status.short { status_line } else { describe_status };
    ask(target, json, Request::Status {}, Patience::short(), |answer| match answer {
        Answer::Status(status) => Some((describe(status), Exit::Done)),
        _ => None,
    })
}

pub(crate) fn metrics(target: &Target, json: bool) -> Result<Exit, Failure> {
    ask(target, json, Request::Status {}, Patience::short(), |answer| match answer {
        Answer::Status(status) => Some((metrics::text(status).trim_end().into(), Exit::Done)),
        _ => None,
    })
}

pub(crate) fn stop(target: &Target, json: bool, stop: &Stop) -> Result<Exit, Failure> {
    let grace_ms = args::grace_of(stop.grace, stop.now).map(milliseconds);
    let delay_ms = stop.delay.map_or(0, milliseconds);
    let request = Request::Stop { grace_ms, delay_ms, wait: !stop.wait.no_wait };
    ask(target, json, request, stop.wait.patience(), |answer| match answer {
        Answer::Stopping(drain) => Some((describe_drain(drain), Exit::Done)),
        Answer::Delayed(delay) => Some((describe_delay(delay), Exit::Done)),
        Answer::Stopped { report } => Some((describe_report(report), Exit::from(report))),
        _ => None,
    })
}

pub(crate) fn close(target: &Target, json: bool, close: &Close) -> Result<Exit, Failure> {
    let grace_ms = args::grace_of(close.grace, close.now).map(milliseconds);
    let request = Request::Close { id: close.id, grace_ms };
    ask(target, json, request, Wait::FOR_EVER.patience(), |answer| match answer {
        Answer::Closed { id, outcome } => {
            let exit = match outcome {
                Outcome::Disconnected | Outcome::Closed | Outcome::Other(_) => Exit::Done,
                Outcome::Forced => Exit::Forced,
                Outcome::Stuck => Exit::Overrun,
            };
            Some((describe_closed(*id, outcome), exit))
        }
        _ => None,
    })
}

pub(crate) fn grace(target: &Target, json: bool, grace: &Grace) -> Result<Exit, Failure> {
    let request = Request::Grace { grace_ms: milliseconds(grace.grace) };
    ask(target, json, request, Patience::short(), |answer| match answer {
        Answer::Moved { drains } => {
            let lines: Vec<_> = drains.iter().map(describe_drain).collect();
            Some((lines.join("\n"), Exit::Done))
        }
        _ => None,
    })
}

/// Asks for it to be ready or not.
pub(crate) fn readiness(target: &Target, json: bool, request: Request) -> Result<Exit, Failure> {
    ask(target, json, request, Patience::short(), |answer| match answer {
        Answer::Readiness { ready: true } => Some(("ready for new clients".into(), Exit::Done)),
        Answer::Readiness { ready: false } => Some(("not ready for new clients".into(), Exit::Done)),
        _ => None,
    })
}

pub(crate) fn connections(target: &Target, json: bool) -> Result<Exit, Failure> {
    let mut all = Vec::new();
    let chosen = target.choose()?;
    let answer = answer(&chosen, Request::Connections {}, Patience::short(), |progress| {
        if let Progress::Connections { connections } = progress {
            all.extend(connections);
        }
    })?;
    if !matches!(answer, Answer::Connections { .. }) {
        return Err(not_understood(&chosen, &answer));
    }
    all.sort_by_key(|connection| (holds_up(&connection.activity), Reverse(connection.age_ms)));
    if json {
        output::data(&json!({ "result": "connections", "connections": all }).to_string())?;
    } else if all.is_empty() {
        output::message(&format!("{} has no connections", chosen.label));
    } else {
        let head = ["ID", "PEER", "AGE", "STATE", "IN", "OUT", "GENERATION"].map(str::to_owned);
        let row = |it: &Connection| {
            let generation = it.generation.map_or_else(|| "-".into(), |generation| generation.to_string());
            let age = Age(Duration::from_millis(it.age_ms)).to_string();
            let (received, sent) = (it.received.to_string(), it.sent.to_string());
            [it.id.to_string(), it.peer.to_string(), age, it.activity.to_string(), received, sent, generation]
        };
        let lines = output::table(std::iter::once(head).chain(all.iter().map(row)).collect());
        lines.iter().try_for_each(|line| output::data(line))?;
    }
    Ok(Exit::Done)
}

/// The smaller, the longer it may hold up a drain: an idle connection has been told at once, or closed.
fn holds_up(activity: &Activity) -> u8 {
    match activity {
        Activity::Stuck => 0,
        Activity::Busy => 1,
        Activity::Draining => 2,
        Activity::Idle => 3,
        // Of a newer supervisor.
        Activity::Other(_) => 4,
    }
}

pub(crate) fn restart(target: &Target, json: bool, restart: &Restart) -> Result<Exit, Failure> {
    let request = Request::Restart { grace_ms: restart.grace.map(milliseconds), wait: !restart.wait.no_wait };
    ask(target, json, request, restart.wait.patience(), |answer| match answer {
        Answer::Restarting { ahead } => Some((describe_restart(*ahead), Exit::Done)),
        Answer::Restarted { generation, replaced, report, down_ms } => {
            let mut text = format!("restarted: generation {generation} serves");
            if let (Some(replaced), Some(report)) = (replaced, report) {
                text = format!("{text}\n  generation {replaced} {}", describe_report(report));
            }
            if let Some(down_ms) = down_ms {
                text = format!("{text}\n  nothing served for {}", Seconds(Duration::from_millis(*down_ms)));
            }
            Some((text, report.as_ref().map_or(Exit::Done, Exit::from)))
        }
        _ => None,
    })
}

impl Wait {
    const FOR_EVER: Wait = Wait { no_wait: false, timeout: None };

    fn patience(&self) -> Patience {
        Patience { whole: self.timeout, ..Patience::short() }
    }
}

pub(crate) fn list(json: bool, list: &List) -> Result<Exit, Failure> {
    let mut found = target::find()?;
    let mut exit = Exit::Done;
    if list.clean {
        found.retain(|found| {
            let is_dead = matches!(found.status, Err(AskError::NotRunning));
            let cleaned = if is_dead { found.clean() } else { Ok(()) };
            if let Err(failure) = &cleaned {
                // It stays in the list, and the others are removed all the same.
                exit = failure.tell(false);
            }
            !is_dead || cleaned.is_err()
        });
    }
    if json {
        let instances: Vec<_> = found
            .iter()
            .map(|found| match &found.status {
                Ok(status) => json!(status),
                Err(AskError::NotRunning) => json!({ "name": found.name.as_str(), "state": "dead" }),
                Err(error) => json!({ "name": found.name.as_str(), "state": "unknown", "message": error.to_string() }),
            })
            .collect();
        output::data(&json!({ "result": "list", "instances": instances }).to_string())?;
    } else if found.is_empty() {
        output::message("no supervisor of yours is running");
    } else {
        let head = ["NAME", "KIND", "ADDRESS", "PID", "STATE"].map(str::to_owned);
        let lines = output::table(std::iter::once(head).chain(found.iter().map(Found::row)).collect());
        lines.iter().try_for_each(|line| output::data(line))?;
    }
    Ok(exit)
}

pub(crate) fn check(json: bool, check: &Check) -> Result<Exit, Failure> {
    let file = check.file.display();
    let (mut right, mut problem) = (Vec::new(), None);
    for &kind in KINDS.iter().filter(|&&kind| check.kind.as_deref().is_none_or(|only| only == kind)) {
        match check_for(&check.file, kind) {
            Ok(()) => right.push(kind),
            // Of several the one is told that comes from what the file is most likely meant for.
            Err(message) if problem.is_none() || cli::has_settings_of(&check.file, kind) => problem = Some(message),
            Err(_) => {}
        }
    }
    match problem {
        Some(message) if right.is_empty() => return Err(Failure::new(Exit::Failed, message)),
        _ if json => output::data(&json!({ "result": "right", "for": right }).to_string())?,
        _ => output::data(&format!("{file} is right for {}", listed(&right, "and")))?,
    }
    Ok(Exit::Done)
}

/// Whether a server of this kind could be started with the file.
fn check_for(file: &Path, kind: &str) -> Result<(), String> {
    let config = cli::check(file, kind).map_err(|error| error.to_string())?;
    if let Server::Own(OwnServer { handler: HandlerKind::Http { dir }, .. }) = config.server {
        Http::new(dir).map_err(|error| format!("{}: {error}", file.display()))?;
    }
    Ok(())
}

/// Asks, and writes the answer as `show` puts it, or as JSON. `show` returns None for an answer to another question.
fn ask(
    target: &Target,
    json: bool,
    request: Request,
    patience: Patience,
    show: impl Fn(&Answer) -> Option<(String, Exit)>,
) -> Result<Exit, Failure> {
    if !target.all {
        let (answer, text, exit) = ask_one(&target.choose()?, json, request, patience, show)?;
        // As it was received, in the order of the specification.
        output::data(&if json { serde_json::to_string(&answer).unwrap_or_default() } else { text })?;
        return Ok(exit);
    }
    let names_itself = matches!(request, Request::Ping {} | Request::Status {});
    let mut whole = Exit::Done;
    for chosen in target::all()? {
        let exit = match ask_one(&chosen, json, request.clone(), patience, &show) {
            Ok((answer, text, exit)) => {
                let name = &chosen.label;
                output::data(&match json {
                    true => json!({ "name": name, "answer": answer }).to_string(),
                    false if names_itself => text,
                    false => format!("{name}: {text}"),
                })?;
                exit
            }
            Err(failure) => {
                let exit = failure.tell_of(&chosen.label, json);
                if !target.keep_going {
                    return Ok(exit);
                }
                exit
            }
        };
        if whole == Exit::Done {
            whole = exit;
        }
    }
    Ok(whole)
}

/// The answer, how `show` puts it, and the exit code.
fn ask_one(
    chosen: &Chosen,
    json: bool,
    request: Request,
    patience: Patience,
    show: impl Fn(&Answer) -> Option<(String, Exit)>,
) -> Result<(Answer, String, Exit), Failure> {
    let answer = converse(chosen, json, request, patience)?;
    match show(&answer) {
        Some((text, exit)) => Ok((answer, text, exit)),
        None => Err(not_understood(chosen, &answer)),
    }
}

/// Asks, and shows meanwhile how it goes, unless `quiet`.
pub(crate) fn converse(chosen: &Chosen, quiet: bool, request: Request, patience: Patience) -> Result<Answer, Failure> {
    let live = LiveLine::new();
    answer(chosen, request, patience, |progress| {
        if !quiet {
            live.show(&progress);
        }
    })
}

/// Asks. That there is no answer, or a refusal, is a failure.
fn answer(
    chosen: &Chosen,
    request: Request,
    patience: Patience,
    progress: impl FnMut(Progress),
) -> Result<Answer, Failure> {
    let answer = client::ask(&chosen.paths, request, patience, progress);
    match answer.map_err(|error| Failure::asking(&chosen.label, &error))? {
        Answer::Error(refusal) => Err(Failure::refused(&chosen.label, &refusal)),
        answer => Ok(answer),
    }
}

/// An answer to another question.
pub(crate) fn not_understood(chosen: &Chosen, answer: &Answer) -> Failure {
    Failure::asking(&chosen.label, &AskError::UnexpectedResponse(json!(answer).to_string()))
}

fn describe_status(status: &Status) -> String {
    let Status { name, kind, state, pid, uptime_ms, generation, connections, restarts, crashes, .. } = status;
    let ago = |ms: u64| Age(Duration::from_millis(ms));
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut lines = vec![
        format!("{name} is {state}, {ready}, for {}", ago(status.state_ms)),
        format!("  kind         {kind}"),
        format!("  pid          {pid}"),
        format!("  uptime       {}", ago(*uptime_ms)),
        format!("  generation   {generation}, {} and {}", Count(*restarts, "restart"), Count(*crashes, "crash")),
    ];
    lines.extend(connections.map(|Counts { now, total, refused, forced, .. }| {
        format!("  connections  {now} now, {total} in all, {refused} refused, {forced} forced")
    }));
    lines.push(format!("  version      {}", status.version));
    if let Some(program) = &status.program {
        lines.insert(2, format!("  program      {program}"));
    }
    let addresses = status.all_addresses();
    if !addresses.is_empty() {
        lines.insert(2, format!("  address      {}", listed(&addresses, "and")));
    }
    if let Some(delay) = &status.delay {
        lines.push(format!("  delay        {}", describe_delay(delay)));
    }
    if let Some(health) = status.health {
        lines.push(format!("  health       {health}"));
    }
    if let Some(drain) = &status.drain {
        lines.push(format!("  drain        {}", describe_drain(drain)));
    }
    if let Some(LastEnd { generation, reason, ago_ms }) = &status.last_end {
        lines.push(format!("  last crash   generation {generation}, {} ago: {reason}", ago(*ago_ms)));
    }
    if let Some(next_try_ms) = status.next_try_ms {
        lines.push(format!("  next try     in {}", ago(next_try_ms)));
    }
    lines.join("\n")
}

fn describe_delay(delay: &Delay) -> String {
    format!("{}, asked by {}", text::delay(delay), delay.by)
}

fn describe_drain(drain: &Drain) -> String {
    let what = match drain.generation {
        None => "stopping".into(),
        Some(generation) => format!("generation {generation} makes way"),
    };
    format!("{what}, asked by {}: {}", drain.by, countdown(drain))
}

pub(crate) fn describe_report(report: &Report) -> String {
    let mut lines = vec![summary(report)];
    lines.extend(report.connections.iter().map(|connection| format!("  forced: {}", describe_forced(connection))));
    let more = report.forced.saturating_sub(report.connections.len());
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.join("\n")
}
