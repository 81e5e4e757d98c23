//! Which supervisor is meant.

use mastercontrol::Exit;
use mastercontrol::client::AskError;
use mastercontrol::instance::{self, InstancePaths};
use mastercontrol::protocol::Status;

use crate::args::Target;
use crate::failure::Failure;
use crate::found::{Chosen, Found, find, named};
use crate::held::Held;
use crate::output;

/// Finds the supervisor that is meant. If that is ambiguous, asks on a terminal.
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
                // A program may listen on a port of its own that its supervisor does not know.
                None => match Held::by(port, &all)?.supervisors().first() {
                    Some(supervisor) => named(&supervisor.name),
                    None => Err(nobody_has(port, &all)),
                },
            }
        }
        (None, None, None) => only_one(),
    }
}

/// The supervisor that is meant. None: several are running, and the target names none of them.
pub(crate) fn one_or_several(target: &Target) -> Result<Option<Chosen>, Failure> {
    if target.is_given() {
        return choose(target).map(Some);
    }
    match &running()?[..] {
        [one] => named(&one.name).map(Some),
        _ => Ok(None),
    }
}

/// The failure if none of these says that it has the port.
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

/// All running supervisors, in the order of their names.
pub(crate) fn all() -> Result<Vec<Chosen>, Failure> {
    running()?.iter().map(|found| named(&found.name)).collect()
}

/// At least one supervisor.
fn running() -> Result<Vec<Found>, Failure> {
    // A supervisor that does not answer is running, too; only leftovers are not.
    let mut found = find()?;
    found.retain(|found| !matches!(found.status, Err(AskError::NotRunning)));
    if found.is_empty() {
        return Err(Failure::new(Exit::NotRunning, "no supervisor of yours is running"));
    }
    Ok(found)
}

fn only_one() -> Result<Chosen, Failure> {
    // Whether it is running will show when the request is sent.
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
