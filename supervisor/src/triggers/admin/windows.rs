//! The admin thread on Windows: it waits for clients, and one of ours wakes it for its end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use interprocess::local_socket::traits::{Listener as _, Stream as _};

use super::{Duration, Place, Reception, Stream, io};

/// How long to wait before accepting again when that failed.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

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

    pub(super) fn close(self) {
        self.closed.store(true, Ordering::SeqCst);
        // If nobody can connect, nobody is waiting to accept either.
        let _ = self.place.socket_name().and_then(Stream::connect);
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
