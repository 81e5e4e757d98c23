//! Takes the name of an instance, or the path of its admin socket, before anything else.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::builder::Options;
use crate::client::{self, Patience};
use crate::error::Error;
use crate::instance::{InstanceLock, InstanceLockError, InstanceName, InstancePaths};
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{Answer, Request};
use crate::settings::AdminSocket;
use crate::text;

/// How often to check whether a taken lock is free. Nothing announces that.
const LOOK: Duration = Duration::from_millis(10);

/// How long a lock may outlive the supervisor that held it.
const FORKED: Duration = Duration::from_millis(500);

/// The name of an instance, taken: no other instance has its paths.
pub(super) type Claimed = (InstancePaths, InstanceLock);

/// Takes the name, unless there is to be no admin socket.
pub(super) fn claim(options: &Options) -> Result<Option<Claimed>, Error> {
    if options.admin == AdminSocket::Off {
        return Ok(None);
    }
    let paths = match &options.socket {
        Some(path) => InstancePaths::at(path),
        None => InstancePaths::of(&options.name),
    };
    let claimed = paths
        .map_err(|message| Error::AdminSocket {
            path: options.socket.clone().unwrap_or_else(|| options.name.as_str().into()),
            source: io::Error::new(io::ErrorKind::InvalidInput, message),
        })
        .and_then(|paths| match take_lock(|| paths.take_lock(), || describe_holder(&paths).is_some()) {
            Ok(lock) => Ok((paths, lock)),
            Err(InstanceLockError::Taken) if options.socket.is_some() => Err(socket_taken(&paths)),
            Err(InstanceLockError::Taken) => Err(name_taken(&options.name, &paths)),
            Err(InstanceLockError::Unusable { path, source }) => Err(Error::AdminSocket { path, source }),
        });
    match claimed {
        Ok(claimed) => Ok(Some(claimed)),
        Err(error) => without_admin(options.admin, &options.journal, error).map(|()| None),
    }
}

/// Takes a lock. If it is taken but no instance answers, this is retried for a moment: a process that was forked by a
/// killed supervisor holds the lock until it runs another program.
fn take_lock(
    mut take: impl FnMut() -> Result<InstanceLock, InstanceLockError>,
    mut answers: impl FnMut() -> bool,
) -> Result<InstanceLock, InstanceLockError> {
    let began = Instant::now();
    loop {
        match take() {
            Err(InstanceLockError::Taken) if began.elapsed() < FORKED && !answers() => thread::sleep(LOOK),
            taken => return taken,
        }
    }
}

/// Starts without an admin socket, if that is allowed, unless the name is taken.
pub(super) fn without_admin(admin: AdminSocket, log: &Journal, error: Error) -> Result<(), Error> {
    match (&error, admin) {
        (Error::AdminSocket { .. }, AdminSocket::Try) => {
            let message = format!("{error}; starting without it: only Enter, signals and code stop this server");
            log.line(Level::Warning, "no_admin_socket", message, []);
            Ok(())
        }
        _ => Err(error),
    }
}

fn name_taken(name: &InstanceName, paths: &InstancePaths) -> Error {
    Error::NameTaken { name: name.to_string(), holder: describe_holder(paths) }
}

fn socket_taken(paths: &InstancePaths) -> Error {
    Error::SocketTaken { path: paths.socket.clone(), holder: describe_holder(paths) }
}

/// What the instance with these paths says about itself.
fn describe_holder(paths: &InstancePaths) -> Option<String> {
    match client::ask(paths, Request::Status {}, Patience::short(), |_| {}) {
        Ok(Answer::Status(status)) => Some(format!("{} on {} (pid {})", status.kind, text::place(&status), status.pid)),
        Ok(_) | Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_that_no_instance_answers_for_is_tried_again() {
        let path = std::env::temp_dir().join(format!("mastercontrol-start-{}.lock", std::process::id()));
        let mut held = Some(InstanceLock::of_file(path.clone()).unwrap());
        let taken = take_lock(|| InstanceLock::of_file(path.clone()), || true);
        assert!(matches!(taken, Err(InstanceLockError::Taken)));
        let releases = || {
            held.take();
            false
        };
        take_lock(|| InstanceLock::of_file(path.clone()), releases).unwrap();
    }
}
