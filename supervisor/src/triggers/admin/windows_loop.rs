//! The admin thread on Windows: it waits for clients, and a client of our own wakes it when it has to end.

use std::sync::atomic::Ordering;
use std::time::Duration;

use interprocess::local_socket::traits::Listener as _;

use super::server::Acceptor;

/// How long to wait before accepting again after a failure.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

impl Acceptor {
    /// Runs on the thread `admin`.
    pub(super) fn serve(self) {
        loop {
            let client = self.place.listener.accept();
            if self.signal.0.load(Ordering::SeqCst) {
                return;
            }
            match client {
                Ok(client) => self.server.handle_client(client),
                // Nothing announces when the system has room again.
                Err(_) => std::thread::sleep(EXHAUSTED_WAIT),
            }
        }
    }
}
