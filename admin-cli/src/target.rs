//! Which supervisor is meant.

use std::thread;
use std::time::Duration;

use mastercontrol::Exit;
use mastercontrol::client::{self, AskError, Patience};
use mastercontrol::instance::{self, InstanceName, InstancePaths};
use mastercontrol::protocol::{Answer, Request, Status};
use mastercontrol::text;

use crate::args::Target;
use crate::failure::Failure;
use crate::output;

/// How long each of several supervisors may take to say what it is.
const LOOK: Patience = Patience { first: Duration::from_secs(2), whole: Some(Duration::from_secs(2)) };

/// A supervisor to talk to.
#[derive(Debug)]
pub(crate) struct Chosen {
    pub(crate) paths: InstancePaths,
    /// What it is called in messages.
    pub(crate) label: String,
}

/// An instance that has a socket.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) name: InstanceName,
    /// What it said of itself.
    pub(crate) status: Result<Status, AskError>,
}

/// Finds the supervisor that is meant. If that is not clear, asks on a terminal.
pub(crate) fn choose(target: &Target) -> Result<Chosen, Failure> {
    match (&target.name, &target.socket, target.port) {
        _ if target.all => Err(Failure::new(Exit::Usage, "this command is for one supervisor, not for all")),
        (Some(name), _, _) => named(name),
        (_, Some(socket), _) => Ok(Chosen {
            paths: InstancePaths::at(socket).map_err(|message| Failure::new(Exit::Usage, message))?,
            label: socket.display().to_string(),
        }),
        (_, _, Some(port)) => {
            let on_port = |status: &Status| status.has_port(port);
            let all = find()?;
            match all.iter().find(|found| found.status.as_ref().is_ok_and(on_port)) {
                Some(found) => named(&found.name),
                None => Err(nobody_has(port, &all)),
            }
        }
        (None, None, None) => only_one(),
    }
}

/// All instances of this user that have a socket, in the order of their names.
pub(crate) fn find() -> Result<Vec<Found>, Failure> {
    let names = instance::list().map_err(|error| Failure::system(&error))?;
    let places = names.iter().map(|name| named(name).map(|chosen| chosen.paths)).collect::<Result<Vec<_>, _>>()?;
    // At the same time: one that hangs keeps nobody waiting for the others.
    let looks: Vec<_> = places.into_iter().map(|paths| thread::spawn(move || look(&paths))).collect();
    let looked = looks.into_iter().map(|look| look.join().unwrap_or(Err(AskError::Disconnected)));
    Ok(names.into_iter().zip(looked).map(|(name, status)| Found { name, status }).collect())
}

/// None of these says that it has the port.
fn nobody_has(port: u16, found: &[Found]) -> Failure {
    let unknown = found.iter().find_map(|Found { name, status }| match status {
        Ok(_) | Err(AskError::NotRunning) => None,
        Err(error) => Some(Failure::asking(name.as_str(), error)),
    });
    match unknown {
        Some(Failure { exit, message, .. }) => {
            Failure::new(exit, format!("no other supervisor of yours has port {port}, and {message}"))
        }
        None => Failure::new(Exit::NotRunning, format!("no supervisor of yours has port {port}")),
    }
}

fn look(paths: &InstancePaths) -> Result<Status, AskError> {
    match client::ask(paths, Request::Status {}, LOOK, |_| {})? {
        Answer::Status(status) => Ok(*status),
        Answer::Error(refusal) => Err(AskError::Refused(refusal)),
        other => Err(AskError::UnexpectedResponse(serde_json::json!(other).to_string())),
    }
}

pub(crate) fn named(name: &InstanceName) -> Result<Chosen, Failure> {
    let paths = InstancePaths::of(name).map_err(|message| Failure::new(Exit::Failed, message))?;
    Ok(Chosen { paths, label: name.to_string() })
}

/// All that are running, in the order of their names.
pub(crate) fn all() -> Result<Vec<Chosen>, Failure> {
    running()?.iter().map(|found| named(&found.name)).collect()
}

/// At least one.
fn running() -> Result<Vec<Found>, Failure> {
    // One that does not answer is there, too; only leftovers are not.
    let mut found = find()?;
    found.retain(|found| !matches!(found.status, Err(AskError::NotRunning)));
    if found.is_empty() {
        return Err(Failure::new(Exit::NotRunning, "no supervisor of yours is running"));
    }
    Ok(found)
}

fn only_one() -> Result<Chosen, Failure> {
    // Whether that one runs shows when it is asked for what is wanted.
    if let [one] = &instance::list().map_err(|error| Failure::system(&error))?[..] {
        return named(one);
    }
    match &running()?[..] {
        [one] => named(&one.name),
        several => named(&ask_which(several)?.name),
    }
}

fn ask_which(several: &[Found]) -> Result<&Found, Failure> {
    output::message("several supervisors are running:");
    for (number, line) in output::table(several.iter().map(Found::row).collect()).iter().enumerate() {
        output::message(&format!("  {}  {line}", number + 1));
    }
    let unclear = || Failure::new(Exit::Usage, "say which one is meant with --name or --port");
    let answer = output::ask("which one?").ok_or_else(unclear)?;
    let by_number = answer.parse::<usize>().ok().and_then(|number| several.get(number.checked_sub(1)?));
    by_number.or_else(|| several.iter().find(|found| found.name.as_str() == answer)).ok_or_else(unclear)
}

impl Found {
    /// Removes what it has left, and says so. It is dead.
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
