//! What a server waits at before it accepts, as long as another one accepts from the same listener.

use std::net::SocketAddr;
use std::sync::{Condvar, Mutex, PoisonError};

/// Closed at first. Once open, it stays open.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    opened: Condvar,
}

#[derive(Debug, Default, Clone, Copy)]
enum State {
    #[default]
    Closed,
    /// A connection from this address waits in the queue, and is no client.
    Open { no_client: Option<SocketAddr> },
}

impl Gate {
    pub(crate) fn open(&self, no_client: Option<SocketAddr>) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = State::Open { no_client };
        self.opened.notify_all();
    }

    /// Waits until it is open. Returns whose connection is no client.
    pub(crate) fn pass(&self) -> Option<SocketAddr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match *state {
                State::Open { no_client } => return no_client,
                State::Closed => state = self.opened.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}
