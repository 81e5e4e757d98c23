//! The supervisors of this user.

use std::thread;
use std::time::Duration;

use mastercontrol::Exit;
use mastercontrol::client::{self, AskError, Patience};
use mastercontrol::instance::{self, InstanceName, InstancePaths};
use mastercontrol::protocol::Status;
use mastercontrol::text;

use crate::failure::Failure;
use crate::output;

/// How long each of several supervisors may take to report its status.
const LOOK: Patience = Patience { first: Duration::from_secs(2), whole: Some(Duration::from_secs(2)) };

/// A supervisor to talk to.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) paths: InstancePaths,
    /// Its name in messages.
    pub(crate) label: String,
}

/// An instance that has a socket.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: InstanceName,
    /// The status that it reported.
    pub(crate) status: Result<Status, AskError>,
    /// Its process id. None: it did not report its status, or its process cannot be seen from here.
    pub(crate) pid: Option<u32>,
}

/// All instances of this user that have a socket, in the order of their names.
pub(crate) fn find() -> Result<Vec<Found>, Failure> {
    let names = instance::list().map_err(|error| Failure::system(&error))?;
    let places = names.iter().map(|name| named(name).map(|chosen| chosen.paths)).collect::<Result<Vec<_>, _>>()?;
    // All at the same time, so that one that hangs does not delay the others. Without threads it may: a program that
    // uses up all threads must not lock out its administrator.
    let begin = |paths: InstancePaths| {
        let theirs = paths.clone();
        thread::Builder::new().spawn(move || client::status(&theirs, LOOK)).map_err(|_| paths)
    };
    let looks: Vec<_> = places.into_iter().map(begin).collect();
    let looked = looks.into_iter().map(|begun| match begun {
        Ok(thread) => thread.join().unwrap_or(Err(AskError::Disconnected)),
        Err(paths) => client::status(&paths, LOOK),
    });
    let found = names.into_iter().zip(looked).map(|(name, looked)| {
        let (status, pid) = match looked {
            Ok((status, pid)) => (Ok(status), pid),
            Err(error) => (Err(error), None),
        };
        Found { name, status, pid }
    });
    Ok(found.collect())
}

pub(crate) fn named(name: &InstanceName) -> Result<Chosen, Failure> {
    let paths = InstancePaths::of(name).map_err(|message| Failure::new(Exit::Failed, message))?;
    Ok(Chosen { paths, label: name.to_string() })
}

impl Found {
    /// Removes the leftovers of a dead supervisor, and says so.
    pub(crate) fn clean(&self) -> Result<(), Failure> {
        let Found { name, .. } = self;
        match named(name)?.paths.clean() {
            Ok(true) => output::message(&format!("removed the stale socket of {name}")),
            Ok(false) => output::message(&format!("{name} is just starting, so nothing of it is removed")),
            Err(error) => {
                let Failure { exit, .. } = Failure::system(&error);
                let reason = text::Reason(&error);
                return Err(Failure::new(exit, format!("cannot remove the stale socket of {name}: {reason}")));
            }
        }
        Ok(())
    }

    /// Name, kind, address, process and state.
    pub(crate) fn row(&self) -> [String; 5] {
        let unknown = |state: String| [self.name.to_string(), "-".into(), "-".into(), "-".into(), state];
        match &self.status {
            Ok(status @ Status { kind, pid, state, .. }) => {
                [self.name.to_string(), kind.clone(), text::place(status), pid.to_string(), state.to_string()]
            }
            Err(AskError::NotRunning) => unknown("dead".into()),
            Err(error) => unknown(error.to_string()),
        }
    }
}
