//! `free`

use std::thread;
use std::time::{Duration, Instant};

use mastercontrol::client::Patience;
use mastercontrol::holder::{End, Ended, Ending, Process};
use mastercontrol::instance::InstanceName;
use mastercontrol::protocol::{Answer, Report, Request};
use mastercontrol::text::{ToGo, milliseconds};
use mastercontrol::{DEFAULT_GRACE, Exit};
use serde_json::{Value, json};

use crate::args::{self, Free};
use crate::ask::{converse, not_understood};
use crate::describe::describe_report;
use crate::failure::Failure;
use crate::found;
use crate::held::{By, Held, some};
use crate::live::LiveLine;
use crate::output;

/// How long a socket may outlive the processes that held it: the kernel ends pending `io_uring` work on it in its own
/// time.
const OUTLIVED: Duration = Duration::from_secs(1);

/// How often to check whether it is gone. Nothing announces that.
const LOOK: Duration = Duration::from_millis(10);

/// What became of the processes that held a port.
#[derive(Default)]
struct Freed {
    stopped: Vec<(InstanceName, Report)>,
    ended: Vec<Ended>,
}

pub(crate) fn free(json: bool, free: &Free) -> Result<Exit, Failure> {
    let mut whole = Exit::Done;
    for &port in &free.ports.ports {
        let exit = free_port(json, port, free)?;
        if whole == Exit::Done {
            whole = exit;
        }
    }
    Ok(whole)
}

fn free_port(json: bool, port: u16, free: &Free) -> Result<Exit, Failure> {
    let held = Held::look(port)?;
    if held.by.is_empty() {
        let text = format!("port {port} is free already");
        output::data(&if json { Freed::default().json(port).to_string() } else { text })?;
        return Ok(Exit::Done);
    }
    let freed = free_held(&held, json, free)?;
    let held = look_after_the_end(port)?;
    if !held.by.is_empty() {
        let message = format!("{held}, still or again; if something restarts it, stop that first");
        return Err(Failure::new(Exit::Failed, message));
    }
    output::data(&if json { freed.json(port).to_string() } else { format!("port {port} is free") })?;
    Ok(freed.exit())
}

/// Checks whether the port is still held by any process other than those that have just ended.
fn look_after_the_end(port: u16) -> Result<Held, Failure> {
    let end = Instant::now() + OUTLIVED;
    loop {
        let held = Held::look(port)?;
        let is_unseen = |by: &By| by.process().is_none() && by.supervisor.is_none();
        if !held.by.iter().any(is_unseen) || Instant::now() >= end {
            return Ok(held);
        }
        thread::sleep(LOOK);
    }
}

/// Ends the processes that hold the port.
fn free_held(held: &Held, json: bool, free: &Free) -> Result<Freed, Failure> {
    let others = held.others();
    // Handles to the processes are taken before the user is asked: the answer is about these processes and no others.
    let ending = if others.is_empty() { None } else { Some(Ending::new(held.port, &others)) };
    let ending = ending.transpose().map_err(|error| Failure::system(&error))?;
    let mut supervisors = held.supervisors();
    if !free.yes {
        confirm(held)?;
        // By now another supervisor may have the name.
        let now = Held::look(held.port)?.supervisors();
        supervisors.retain(|supervisor| now.contains(supervisor));
    }
    let mut freed = Freed::default();
    // A line that cannot be written does not keep the other processes from being ended; the last line reports the
    // error.
    let tell = |line: &str| {
        if !json {
            let _ = output::data(line);
        }
    };
    for supervisor in supervisors {
        if let Some(report) = stop(&supervisor.name, json, free)? {
            tell(&format!("{} {}", supervisor.name, describe_report(&report)));
            freed.stopped.push((supervisor.name, report));
        }
    }
    if let Some(ending) = ending {
        freed.ended = end(ending, json, free)?;
        freed.ended.iter().for_each(|ended| tell(&describe(ended)));
    }
    Ok(freed)
}

fn confirm(held: &Held) -> Result<(), Failure> {
    let whom = if held.names().len() > 1 { "them" } else { "it" };
    match output::ask(&format!("{}\n{held}: end {whom}? [y/N]", held.table().join("\n"))) {
        Some(answer) if ["y", "yes"].contains(&answer.to_lowercase().as_str()) => Ok(()),
        Some(_) => Err(Failure::new(Exit::Failed, "nothing was ended")),
        None => Err(Failure::new(Exit::Usage, format!("{held}; without a terminal say --yes to end {whom}"))),
    }
}

/// Stops a supervisor. None: it has ended meanwhile.
fn stop(name: &InstanceName, json: bool, free: &Free) -> Result<Option<Report>, Failure> {
    let chosen = found::named(name)?;
    let grace_ms = args::grace_of(free.grace, free.now).map(milliseconds);
    let request = Request::Stop { grace_ms, spread_ms: None, delay_ms: Some(0), wait: true };
    match converse(&chosen, json, request, Patience { whole: None, ..Patience::short() }) {
        Ok(Answer::Stopped { report }) => Ok(Some(report)),
        // The supervisor is out of threads, and waiting would take one.
        Ok(Answer::Stopping(_)) => {
            let message = format!("{name} is stopping, but has no thread to say when that is done; try again");
            Err(Failure::new(Exit::GaveUp, message))
        }
        Ok(answer) => Err(not_understood(&chosen, &answer)),
        Err(failure) if failure.exit == Exit::NotRunning => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Ends the processes that are not our supervisors.
fn end(ending: Ending, json: bool, free: &Free) -> Result<Vec<Ended>, Failure> {
    let live = LiveLine::new();
    let show = |processes: &[&Process], left: Duration| {
        let whom = some(processes.iter().map(|process| process.to_string()).collect());
        live.say(&format!("waiting for {whom}, {}", ToGo::from(left)));
    };
    let grace = args::grace_of(free.grace, free.now).unwrap_or(DEFAULT_GRACE);
    let shown = live.is_shown() && !json;
    let ended = ending.run(grace, shown.then_some(&show));
    ended.map_err(|error| Failure::system(&error))
}

fn describe(ended: &Ended) -> String {
    let end = match ended.end {
        End::Asked => "has ended",
        End::Killed => "was killed",
        End::LetGo => "released the port and is still running",
    };
    format!("{} {end}", ended.process)
}

impl Freed {
    fn json(&self, port: u16) -> Value {
        let stopped = self.stopped.iter().map(|(name, report)| json!({ "name": name.as_str(), "report": report }));
        let ended = self.ended.iter().map(|Ended { process, end }| {
            let end = match end {
                End::Asked => "asked",
                End::Killed => "killed",
                End::LetGo => "let_go",
            };
            json!({ "pid": process.pid, "program": process.name, "command": process.command, "end": end })
        });
        let (stopped, ended): (Vec<_>, Vec<_>) = (stopped.collect(), ended.collect());
        json!({ "result": "freed", "port": port, "stopped": stopped, "ended": ended })
    }

    fn exit(&self) -> Exit {
        let mut exits = self.stopped.iter().map(|(_, report)| Exit::from(report));
        let killed = self.ended.iter().any(|ended| ended.end == End::Killed);
        if exits.clone().any(|exit| exit == Exit::Overrun) {
            Exit::Overrun
        } else if killed || exits.any(|exit| exit == Exit::Forced) {
            Exit::Forced
        } else {
            Exit::Done
        }
    }
}
