//! Who holds a port, and how it is freed.

use std::fmt;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol::client::Patience;
use mastercontrol::holder::{self, End, Ended, Ending, Holder, Process};
use mastercontrol::instance::InstanceName;
use mastercontrol::protocol::{Answer, Report, Request};
use mastercontrol::text::{ToGo, listed, milliseconds};
use mastercontrol::{DEFAULT_GRACE, Exit};
use serde_json::{Value, json};

use crate::args::{self, Free};
use crate::commands::{converse, describe_report, not_understood};
use crate::failure::Failure;
use crate::output::{self, LiveLine};
use crate::target;

/// How many of those who hold a port are named in a sentence.
const NAMED: usize = 2;

/// How long a socket may outlive those who had it: the kernel ends what `io_uring` still does with it in its own time.
const OUTLIVED: Duration = Duration::from_secs(1);

/// How often to look whether it is gone. Nothing announces that.
const LOOK: Duration = Duration::from_millis(10);

/// Who holds a port.
struct Held {
    port: u16,
    by: Vec<By>,
}

/// Somebody who holds a port.
struct By {
    address: SocketAddr,
    /// What the system tells. None: only the supervisor itself says so.
    holder: Option<Holder>,
    /// The supervisor of this user that it is, or belongs to.
    supervisor: Option<Ours>,
}

/// A supervisor of this user.
#[derive(Clone, PartialEq, Eq)]
struct Ours {
    name: InstanceName,
    pid: u32,
    addresses: Vec<SocketAddr>,
}

/// What became of those who held a port.
#[derive(Default)]
struct Freed {
    stopped: Vec<(InstanceName, Report)>,
    ended: Vec<Ended>,
}

pub(crate) fn port(json: bool, port: u16) -> Result<Exit, Failure> {
    let held = Held::look(port)?;
    let is_held = !held.by.is_empty();
    if json {
        let by: Vec<Value> = held.by.iter().map(By::json).collect();
        output::data(&json!({ "result": "port", "port": port, "held": is_held, "by": by }).to_string())?;
    } else if is_held {
        output::data(&held.to_string())?;
        held.table().iter().try_for_each(|line| output::data(line))?;
    } else {
        output::data(&format!("port {port} is free: nobody listens there"))?;
    }
    Ok(if is_held { Exit::Done } else { Exit::NotRunning })
}

pub(crate) fn free(json: bool, free: &Free) -> Result<Exit, Failure> {
    let port = free.port.number;
    let held = Held::look(port)?;
    if held.by.is_empty() {
        let text = format!("port {port} is free already");
        output::data(&if json { Freed::default().json(port).to_string() } else { text })?;
        return Ok(Exit::Done);
    }
    let freed = held.free(json, free)?;
    let held = Held::look_after_the_end(port)?;
    if !held.by.is_empty() {
        let message = format!("{held}, still or again; if something starts that, stop it first");
        return Err(Failure::new(Exit::Failed, message));
    }
    output::data(&if json { freed.json(port).to_string() } else { format!("port {port} is free") })?;
    Ok(freed.exit())
}

impl Held {
    fn look(port: u16) -> Result<Held, Failure> {
        let holders = holder::holders(port).map_err(|error| Failure::system(&error))?;
        let found = target::find()?.into_iter().filter_map(|found| {
            let status = found.status.ok()?;
            let addresses = status.all_addresses().iter().filter_map(|address| address.parse().ok()).collect();
            Some(Ours { name: found.name, pid: status.pid, addresses })
        });
        let ours: Vec<Ours> = found.collect();
        let mut by: Vec<By> = holders.into_iter().map(|holder| By::new(holder, &ours)).collect();
        // Where the system does not tell of all addresses, our own supervisors do.
        if !cfg!(target_os = "linux") {
            for supervisor in ours {
                let address = supervisor.addresses.iter().find(|address| address.port() == port);
                let Some(&address) = address else { continue };
                if !by.iter().any(|by| by.supervisor.as_ref() == Some(&supervisor)) {
                    by.push(By { address, holder: None, supervisor: Some(supervisor) });
                }
            }
        }
        Ok(Held { port, by })
    }

    /// Looks whether anybody holds it who has not just ended.
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

    /// Ends whoever holds it.
    fn free(&self, json: bool, free: &Free) -> Result<Freed, Failure> {
        let others = self.others();
        // They are taken hold of before anybody is asked: the answer is about these processes and about no other.
        let ending = if others.is_empty() { None } else { Some(Ending::new(self.port, &others)) };
        let ending = ending.transpose().map_err(|error| Failure::system(&error))?;
        let mut supervisors = self.supervisors();
        if !free.yes {
            self.confirm()?;
            // By now another one may have the name.
            let now = Held::look(self.port)?.supervisors();
            supervisors.retain(|supervisor| now.contains(supervisor));
        }
        let mut freed = Freed::default();
        // One line that cannot be written does not keep the others from being ended; the last one says so.
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

    fn confirm(&self) -> Result<(), Failure> {
        let whom = if self.names().len() > 1 { "them" } else { "it" };
        match output::ask(&format!("{}\n{self}: end {whom}? [y/N]", self.table().join("\n"))) {
            Some(answer) if ["y", "yes"].contains(&answer.to_lowercase().as_str()) => Ok(()),
            Some(_) => Err(Failure::new(Exit::Failed, "nobody was ended")),
            None => Err(Failure::new(Exit::Usage, format!("{self}; without a terminal say --yes to end {whom}"))),
        }
    }

    /// Our supervisors, each once.
    fn supervisors(&self) -> Vec<Ours> {
        each_once(self.by.iter().filter_map(|by| by.supervisor.clone()))
    }

    /// What holds it beside our supervisors.
    fn others(&self) -> Vec<Holder> {
        let others = self.by.iter().filter(|by| by.supervisor.is_none());
        others.filter_map(|by| by.holder.clone()).collect()
    }

    /// All of them in words, each once.
    fn names(&self) -> Vec<String> {
        each_once(self.by.iter().map(By::to_string))
    }

    fn table(&self) -> Vec<String> {
        let head = ["ADDRESS", "PID", "USER", "PROGRAM", "SUPERVISOR", "COMMAND"].map(str::to_owned);
        output::table(std::iter::once(head).chain(self.by.iter().map(By::row)).collect())
    }
}

/// `port 8888 is held by python3 (pid 412, root)`.
impl fmt::Display for Held {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "port {} is held by {}", self.port, some(self.names()))
    }
}

fn each_once<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}

/// The first few of them, and how many more there are.
fn some(mut names: Vec<String>) -> String {
    if names.len() > NAMED + 1 {
        let more = names.split_off(NAMED).len();
        names.push(format!("{more} more"));
    }
    listed(&names, "and")
}

impl By {
    fn new(holder: Holder, ours: &[Ours]) -> By {
        let supervisor = match &holder.process {
            // The outermost one: it would start the others again.
            Some(process) => {
                process.keepers().iter().rev().find_map(|&pid| ours.iter().find(|supervisor| supervisor.pid == pid))
            }
            // It cannot be seen, but says itself where it listens.
            None => ours.iter().find(|supervisor| {
                supervisor.addresses.iter().any(|own| {
                    *own == holder.address || own.ip().is_unspecified() && own.port() == holder.address.port()
                })
            }),
        };
        By { address: holder.address, supervisor: supervisor.cloned(), holder: Some(holder) }
    }

    fn process(&self) -> Option<&Process> {
        self.holder.as_ref()?.process.as_ref()
    }

    fn pid(&self) -> Option<u32> {
        let process = self.process().map(|process| process.pid);
        process.or_else(|| self.supervisor.as_ref().map(|supervisor| supervisor.pid))
    }

    fn user(&self) -> Option<holder::User> {
        let process = self.process().map(|process| process.user);
        process.or_else(|| self.holder.as_ref()?.user)
    }

    fn row(&self) -> [String; 6] {
        let process = self.process();
        let cells = [
            Some(self.address.to_string()),
            self.pid().map(|pid| pid.to_string()),
            self.user().map(|user| user.to_string()),
            process.map(|process| process.name.clone()),
            self.supervisor.as_ref().map(|supervisor| supervisor.name.to_string()),
            process.map(|process| process.command.clone()),
        ];
        cells.map(|cell| cell.unwrap_or_else(|| "-".into()))
    }

    fn json(&self) -> Value {
        let process = self.process();
        json!({
            "address": self.address,
            "pid": self.pid(),
            "user": self.user().map(|user| user.to_string()),
            "program": process.map(|process| &process.name),
            "command": process.map(|process| &process.command),
            "supervisor": self.supervisor.as_ref().map(|supervisor| supervisor.name.as_str()),
        })
    }
}

/// Who it is, in a sentence.
impl fmt::Display for By {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.supervisor, self.process(), self.user()) {
            (Some(Ours { name, pid, .. }), _, _) => write!(formatter, "{name}, a supervisor of yours (pid {pid})"),
            (None, Some(process), _) => write!(formatter, "{process}"),
            (None, None, Some(user)) => write!(formatter, "a process of {user} that cannot be seen from here"),
            (None, None, None) => write!(formatter, "a program that is no supervisor of yours"),
        }
    }
}

/// Stops a supervisor. None: it has ended meanwhile.
fn stop(name: &InstanceName, json: bool, free: &Free) -> Result<Option<Report>, Failure> {
    let chosen = target::named(name)?;
    let grace_ms = args::grace_of(free.grace, free.now).map(milliseconds);
    let request = Request::Stop { grace_ms, delay_ms: 0, wait: true };
    match converse(&chosen, json, request, Patience { whole: None, ..Patience::short() }) {
        Ok(Answer::Stopped { report }) => Ok(Some(report)),
        Ok(answer) => Err(not_understood(&chosen, &answer)),
        Err(failure) if failure.exit == Exit::NotRunning => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// Ends those that are no supervisors of ours.
fn end(ending: Ending, json: bool, free: &Free) -> Result<Vec<Ended>, Failure> {
    let live = LiveLine::new();
    let show = |processes: &[&Process], left: Duration| {
        let whom = some(processes.iter().map(|process| process.to_string()).collect());
        live.say(&format!("waiting for {whom}, {}", ToGo(left)));
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
        End::LetGo => "let go of the port and goes on",
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
