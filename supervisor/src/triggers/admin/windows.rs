//! Ends the admin thread on Windows, and defines who may use its pipe.

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use interprocess::os::windows::security_descriptor::SecurityDescriptor;
use widestring::{U16CStr, u16cstr};

use crate::instance::InstancePaths;

/// How long to wait for the thread's end before trying to wake it again, if that failed.
const WAKE_AGAIN: Duration = Duration::from_millis(10);

/// The pipe's access list: full access for its owner, administrators and the system, none for others. The owner is the
/// user; but what an administrator's process creates belongs to all administrators.
const ACCESS: &U16CStr = u16cstr!("D:P(A;;GA;;;OW)(A;;GA;;;BA)(A;;GA;;;SY)");

pub(super) fn for_its_owner() -> io::Result<SecurityDescriptor> {
    SecurityDescriptor::deserialize(ACCESS)
}

/// Turns the error into words. The first instance of a pipe cannot be created if the pipe exists already. The name has
/// been claimed, so that pipe is not one of ours.
pub(super) fn told_in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            io::ErrorKind::AddrInUse,
            "another program has a pipe of this name; choose another one with --name",
        ),
        _ => error,
    }
}

/// Closing it ends the thread `admin`: it sets a flag, and then connects to the pipe to wake the thread's `accept`.
#[derive(Debug)]
pub(super) struct ShutdownHandle {
    closed: Arc<AtomicBool>,
    paths: InstancePaths,
}

pub(super) struct ShutdownSignal(pub(super) Arc<AtomicBool>);

impl ShutdownHandle {
    pub(super) fn new(paths: &InstancePaths) -> io::Result<(ShutdownHandle, ShutdownSignal)> {
        let closed = Arc::new(AtomicBool::new(false));
        Ok((ShutdownHandle { closed: closed.clone(), paths: paths.clone() }, ShutdownSignal(closed)))
    }

    pub(super) fn close(self, gone: &Receiver<Infallible>) {
        self.closed.store(true, Ordering::SeqCst);
        loop {
            // Without waiting for room in the pipe: once the thread has ended, there may be none until the clients that
            // it has left behind are answered, and that happens only after this returns.
            let waker = self.paths.client_path().and_then(|path| File::options().read(true).write(true).open(path));
            // A client that has disconnected again before the thread accepts it does not wake the thread, so the waker
            // stays connected.
            let over = match waker {
                Ok(_waker) => gone.recv().map_err(|mpsc::RecvError| RecvTimeoutError::Disconnected),
                // Another client has just connected, and may have disconnected again. Or the thread has ended.
                Err(_) => gone.recv_timeout(WAKE_AGAIN),
            };
            match over {
                Ok(never) => match never {},
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::super::Admin;
    use super::*;
    use crate::event::EventSender;
    use crate::journal::Journal;
    use crate::log::Log;
    use crate::protocol::{self, Request};

    #[test]
    fn one_that_is_closed_at_once_is_gone_and_leaves_its_name_to_the_next_one() {
        let paths = InstancePaths::of(&format!("closed-at-once-{}", std::process::id()).parse().unwrap()).unwrap();
        let (done, all) = mpsc::channel();
        thread::spawn(move || {
            for _ in 0..200 {
                let (events, _received) = mpsc::channel();
                let lock = paths.take_lock().unwrap().into();
                let admin =
                    Admin::start(paths.clone(), lock, EventSender::new(events, None), Journal::new(Log::silent()))
                        .unwrap();
                admin.close().wait();
            }
            done.send(()).unwrap();
        });
        all.recv_timeout(Duration::from_secs(60)).unwrap();
    }

    #[test]
    fn one_that_is_closed_while_clients_come_is_gone_though_nobody_answers_them() {
        let (done, all) = mpsc::channel();
        thread::spawn(move || {
            for round in 0..50 {
                let name = format!("closed-in-a-crowd-{}-{round}", std::process::id());
                let paths = InstancePaths::of(&name.parse().unwrap()).unwrap();
                let (events, unanswered) = mpsc::channel();
                let lock = paths.take_lock().unwrap().into();
                let admin =
                    Admin::start(paths.clone(), lock, EventSender::new(events, None), Journal::new(Log::silent()))
                        .unwrap();
                let crowd = || {
                    let mut clients = Vec::new();
                    // As many as fit, until no more instances of the pipe are created.
                    while clients.len() < 32 {
                        match File::options().read(true).write(true).open(paths.client_path().unwrap()) {
                            Ok(client) => {
                                let _ = protocol::write_request(&mut &client, &Request::Ping {});
                                clients.push(client);
                            }
                            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                            Err(_) => thread::yield_now(),
                        }
                    }
                };
                thread::scope(|scope| {
                    scope.spawn(crowd);
                    scope.spawn(crowd);
                    admin.close();
                    drop(unanswered);
                });
            }
            done.send(()).unwrap();
        });
        all.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
