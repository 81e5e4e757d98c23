//! The processes that hold a port.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use mastercontrol::holder::{self, Holder, Process};
use mastercontrol::instance::InstanceName;
use mastercontrol::text::listed;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::found::{self, Found};
use crate::output;

/// How many of the holders of a port are named in a sentence.
const NAMED: usize = 2;

/// The processes that hold a port.
pub(crate) struct Held {
    pub(crate) port: u16,
    pub(crate) by: Vec<By>,
}

/// A process that holds a port.
pub(crate) struct By {
    pub(crate) address: SocketAddr,
    /// What the system reports. None: only the supervisor itself says so.
    pub(crate) holder: Option<Holder>,
    /// The supervisor of this user that the process is, or belongs to.
    pub(crate) supervisor: Option<Ours>,
}

/// A supervisor of this user.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Ours {
    pub(crate) name: InstanceName,
    /// None: its process cannot be seen from here.
    pub(crate) pid: Option<u32>,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Held {
    pub(crate) fn look(port: u16) -> Result<Held, Failure> {
        Held::by(port, &found::find()?)
    }

    /// The holders of a port, and which of them are our supervisors.
    pub(crate) fn by(port: u16, found: &[Found]) -> Result<Held, Failure> {
        let holders = holder::holders(port).map_err(|error| Failure::system(&error))?;
        let ours = found.iter().filter_map(|found| {
            let status = found.status.as_ref().ok()?;
            let own = status.all_addresses().into_iter().filter_map(|address| address.parse().ok());
            Some(Ours { name: found.name.clone(), pid: found.pid, addresses: own.chain(status.health).collect() })
        });
        let ours: Vec<Ours> = ours.collect();
        let mut by: Vec<By> = holders.into_iter().map(|holder| By::new(holder, &ours)).collect();
        // Where the system does not report all addresses, ask our own supervisors.
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

    /// Our supervisors, each once.
    pub(crate) fn supervisors(&self) -> Vec<Ours> {
        each_once(self.by.iter().filter_map(|by| by.supervisor.clone()))
    }

    /// The holders that are not our supervisors.
    pub(crate) fn others(&self) -> Vec<Holder> {
        let others = self.by.iter().filter(|by| by.supervisor.is_none());
        others.filter_map(|by| by.holder.clone()).collect()
    }

    /// All of them in words, each once.
    pub(crate) fn names(&self) -> Vec<String> {
        each_once(self.by.iter().map(By::to_string))
    }

    pub(crate) fn table(&self) -> Vec<String> {
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

pub(crate) fn each_once<T: PartialEq>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut once = Vec::new();
    for one in all {
        if !once.contains(&one) {
            once.push(one);
        }
    }
    once
}

/// The first few names, and how many more there are.
pub(crate) fn some(mut names: Vec<String>) -> String {
    if names.len() > NAMED + 1 {
        let more = names.split_off(NAMED).len();
        names.push(format!("{more} more"));
    }
    listed(&names, "and")
}

/// The supervisor that says of itself that it listens at this address, as the system shows it.
fn listening_at(address: SocketAddr, ours: &[Ours]) -> Option<&Ours> {
    let find = |is_it: fn(IpAddr, IpAddr) -> bool| {
        ours.iter().find(|supervisor| {
            let mut own = supervisor.addresses.iter().filter(|own| own.port() == address.port());
            own.any(|own| is_it(own.ip(), address.ip()))
        })
    };
    let same = find(|own, shown| own == shown);
    // Linux shows the address that a socket is bound to. Elsewhere it is one where a connection was accepted.
    if cfg!(target_os = "linux") { same } else { same.or_else(|| find(covers)) }
}

/// Whether a listener on all addresses accepts connections on this one.
fn covers(own: IpAddr, shown: IpAddr) -> bool {
    // Except on Windows, a listener on [::] has both families by default.
    let has_family = own.is_ipv6() == shown.is_ipv6() || own.is_ipv6() && !cfg!(windows);
    own.is_unspecified() && has_family
}

impl By {
    fn new(holder: Holder, ours: &[Ours]) -> By {
        let supervisor = match &holder.process {
            // The outermost one, because it would start the others again.
            Some(process) => {
                let is = |pid| ours.iter().find(|supervisor| supervisor.pid == Some(pid));
                process.keepers().iter().rev().find_map(|&pid| is(pid))
            }
            // Its process cannot be seen, but the supervisor itself says where it listens.
            None if holder.user.is_none_or(|user| !user.is_foreign()) => listening_at(holder.address, ours),
            None => None,
        };
        By { address: holder.address, supervisor: supervisor.cloned(), holder: Some(holder) }
    }

    pub(crate) fn process(&self) -> Option<&Process> {
        self.holder.as_ref()?.process.as_ref()
    }

    fn pid(&self) -> Option<u32> {
        let process = self.process().map(|process| process.pid);
        process.or_else(|| self.supervisor.as_ref()?.pid)
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

    pub(crate) fn json(&self) -> Value {
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

/// The holder, in a sentence.
impl fmt::Display for By {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.supervisor, self.process(), self.user()) {
            (Some(Ours { name, pid: Some(pid), .. }), _, _) => {
                write!(formatter, "{name}, a supervisor of yours (pid {pid})")
            }
            (Some(Ours { name, pid: None, .. }), _, _) => write!(formatter, "{name}, a supervisor of yours"),
            (None, Some(process), _) => write!(formatter, "{process}"),
            (None, None, Some(user)) => write!(formatter, "a process of {user} that cannot be seen from here"),
            (None, None, None) => write!(formatter, "a program that is no supervisor of yours"),
        }
    }
}
