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
        (_, _, Some(port)) => with_port(port),
        (None, None, None) => only_one(),
    }
}

/// The supervisor whose server has this port. If none has, the one whose health endpoint has it.
fn with_port(port: u16) -> Result<Chosen, Failure> {
    let all = find()?;
    let those = |has: &dyn Fn(&Status) -> bool| -> Vec<&Found> {
        all.iter().filter(|found| found.status.as_ref().is_ok_and(has)).collect()
    };
    let mut found = those(&|status| status.has_port(port));
    if found.is_empty() {
        found = those(&|status| status.has_health_port(port));
    }
    if found.is_empty() {
        // A program may listen on a port of its own that its supervisor does not know.
        let held = Held::by(port, &all)?.supervisors();
        found = all.iter().filter(|found| held.iter().any(|ours| ours.name == found.name)).collect();
    }
    match found[..] {
        [] => Err(nobody_has(port, &all)),
        [one] => match silent(&all) {
            Some((other, error)) if !is_only_holder(one, port, &all) => Err(unclear(port, one, other, error)),
            _ => named(&one.name),
        },
        _ => {
            let have = format!("several supervisors of yours have port {port}:");
            named(&ask_which(&have, &found, "say which one is meant with --name")?.name)
        }
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

/// One of these that did not report its status, although it may be running.
fn silent(found: &[Found]) -> Option<(&Found, &AskError)> {
    found.iter().find_map(|found| match &found.status {
        Ok(_) | Err(AskError::NotRunning) => None,
        Err(error) => Some((found, error)),
    })
}

/// Whether the system shows that nobody but this supervisor listens on the port. Only Linux shows that.
fn is_only_holder(one: &Found, port: u16, all: &[Found]) -> bool {
    let is_one = |held: Held| held.others().is_empty() && held.supervisors().iter().any(|ours| ours.name == one.name);
    cfg!(target_os = "linux") && Held::by(port, all).is_ok_and(is_one)
}

/// The failure if `one` has the port, but `other`, which did not report its status, may have it, too.
fn unclear(port: u16, one: &Found, other: &Found, error: &AskError) -> Failure {
    let (one, other) = (&one.name, &other.name);
    let Failure { exit, .. } = Failure::asking(other.as_str(), error);
    let message =
        format!("{one} has port {port}, but {other} may have it, too ({error}): say which one is meant with --name");
    Failure::new(exit, message)
}

/// The failure if none of these says that it has the port.
fn nobody_has(port: u16, found: &[Found]) -> Failure {
    match silent(found) {
        Some((other, error)) => {
            let Failure { exit, message, .. } = Failure::asking(other.name.as_str(), error);
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
    let running = running()?;
    match &running.iter().collect::<Vec<_>>()[..] {
        [one] => named(&one.name),
        several => {
            let unclear = "say which one is meant with --name or --port";
            named(&ask_which("several supervisors are running:", several, unclear)?.name)
        }
    }
}

/// `unclear` is the failure if there is no answer.
fn ask_which<'a>(message: &str, several: &[&'a Found], unclear: &str) -> Result<&'a Found, Failure> {
    output::message(message);
    for (number, line) in output::table(several.iter().map(|found| found.row()).collect()).iter().enumerate() {
        output::message(&format!("  {}  {line}", number + 1));
    }
    let unclear = || Failure::new(Exit::Usage, unclear);
    let answer = output::ask("which one?").ok_or_else(unclear)?;
    let by_number = answer.parse::<usize>().ok().and_then(|number| several.get(number.checked_sub(1)?));
    by_number.or_else(|| several.iter().find(|found| found.name.as_str() == answer)).copied().ok_or_else(unclear)
}
