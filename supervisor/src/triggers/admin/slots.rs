//! The clients of the admin socket that are about to send their request. There is room for [`MAX_CLIENTS`], or for
//! fewer when descriptors run out (Unix); a further client replaces the one that has been silent longest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use interprocess::local_socket::Stream;

use crate::sync::lock;

/// How many clients can be about to send their request at the same time.
const MAX_CLIENTS: usize = 64;

/// The clients that have a slot, in the order of their arrival.
#[derive(Clone, Default)]
pub(super) struct Slots(Arc<Mutex<VecDeque<Arc<Stream>>>>);

/// The slot of one client, released on drop.
pub(super) struct ClientSlot {
    slots: Slots,
    client: Arc<Stream>,
}

impl Slots {
    pub(super) fn take(&self, client: Arc<Stream>) -> ClientSlot {
        let mut clients = lock(&self.0);
        clients.push_back(client.clone());
        let silent = if clients.len() > MAX_CLIENTS { clients.pop_front() } else { None };
        drop(clients);
        if let Some(silent) = silent {
            hang_up(&silent, format!("{MAX_CLIENTS} clients that came later are about to ask, try again"));
        }
        ClientSlot { slots: self.clone(), client }
    }

    /// Disconnects the client that has been silent longest. Its thread then returns its descriptor.
    #[cfg(unix)]
    pub(super) fn make_room(&self) {
        let silent = lock(&self.0).pop_front();
        if let Some(silent) = silent {
            hang_up(&silent, "out of file descriptors, try again".into());
        }
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        lock(&self.slots.0).retain(|client| !Arc::ptr_eq(client, &self.client));
    }
}

/// Disconnects a client; its thread reads end of file now.
#[cfg(unix)]
fn hang_up(client: &Stream, message: String) {
    use std::time::Instant;

    use super::answer::{disconnect, refuse};
    use crate::protocol::ErrorCode;

    // Without waiting. A client that has disconnected needs neither.
    let _ = refuse(client, ErrorCode::Busy, message, Instant::now());
    disconnect(client);
}

/// Nothing wakes a read from a pipe on Windows. So that thread stays until its client has disconnected, or has made its
/// request after all.
#[cfg(windows)]
fn hang_up(_client: &Stream, _message: String) {}
