//! The admin thread on Windows: it waits for clients, and one of ours wakes it for its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use interprocess::local_socket::traits::{Listener as _, Stream as _};
use interprocess::os::windows::security_descriptor::SecurityDescriptor;
use widestring::{U16CStr, u16cstr};

use super::{Duration, Infallible, Place, Receiver, Reception, Stream, io};

/// How long to wait before accepting again when that failed.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Only its owner, administrators and the system may do anything with the pipe. The owner is the user; but what runs as
/// an administrator belongs to all of these.
const ACCESS: &U16CStr = u16cstr!("D:P(A;;GA;;;OW)(A;;GA;;;BA)(A;;GA;;;SY)");

pub(super) fn for_its_owner() -> io::Result<SecurityDescriptor> {
    SecurityDescriptor::deserialize(ACCESS)
}

/// A pipe's first instance cannot be made where there is a pipe already. The name has been claimed, so that is none of
/// our own.
pub(super) fn told_in_words(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(
            io::ErrorKind::AddrInUse,
            "another program has a pipe of this name; choose another one with --name",
        ),
        _ => error,
    }
}

/// Closing it ends the thread `admin`: a flag, and then a connection to the pipe that wakes its `accept`.
#[derive(Debug)]
pub(super) struct Door {
    closed: Arc<AtomicBool>,
    place: Place,
}

pub(super) struct Knock(Arc<AtomicBool>);

impl Door {
    pub(super) fn new(place: &Place) -> io::Result<(Door, Knock)> {
        let closed = Arc::new(AtomicBool::new(false));
        Ok((Door { closed: closed.clone(), place: place.clone() }, Knock(closed)))
    }

    pub(super) fn close(self, gone: &Receiver<Infallible>) {
        self.closed.store(true, Ordering::SeqCst);
        // If nobody can connect, nobody is waiting to accept either. A client that has left again when the thread comes
        // to accept it does not wake it, so this one stays.
        let _waker = self.place.socket_name().and_then(Stream::connect);
        let _ = gone.recv();
    }
}

impl Reception {
    /// Runs on the thread `admin`.
    pub(super) fn serve(self) {
        loop {
            let client = self.listener.accept();
            if self.knock.0.load(Ordering::SeqCst) {
                return;
            }
            match client {
                Ok(client) => self.desk.attend(client),
                // Nothing says when the system has room again.
                Err(_) => std::thread::sleep(EXHAUSTED_WAIT),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::{Admin, Claim, Post, mpsc, thread};
    use super::*;
    use crate::{Journal, Log};

    #[test]
    fn one_that_is_closed_at_once_is_gone_and_leaves_its_name_to_the_next_one() {
        let place = Place::of(&format!("closed-at-once-{}", std::process::id()).parse().unwrap()).unwrap();
        let (done, all) = mpsc::channel();
        thread::spawn(move || {
            for _ in 0..200 {
                let (events, _received) = mpsc::channel();
                let claim = Claim::new(&place).unwrap();
                let admin =
                    Admin::start(place.clone(), claim, Post::new(events, None), Journal::new(Log::silent())).unwrap();
                admin.close().wait();
            }
            done.send(()).unwrap();
        });
        all.recv_timeout(Duration::from_secs(60)).unwrap();
    }
}
