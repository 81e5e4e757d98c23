//! Whose turn it is to tell a client: the handshake between "I am idle" and "we are draining".
//!
//! A connection says that it is idle and then waits for its client. A drain sets a flag, or waits for a time, and then
//! looks who is idle. Both do so under the lock of the connection, so one of the two sees the other: either the drain
//! finds the connection idle and tells the client, or the connection finds the flag set, or that it is time, at its
//! next boundary and tells it. `loom` checks that exactly one does (see the tests below).

#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(not(loom))]
use std::sync::Mutex;

use std::sync::PoisonError;

/// What a connection is doing, as far as a drain has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It works on a message, and must not be disturbed.
    Busy,
    /// It waits for the first byte of its next message.
    Idle,
    /// The drain, or the connection itself, has taken the turn to tell its client. There is no way back.
    Leaving,
}

/// The lock around a connection's [`Phase`].
#[derive(Debug)]
pub(crate) struct Turn(Mutex<Phase>);

impl Turn {
    /// A new connection is busy: its handler has not asked for a message yet.
    pub(crate) fn new() -> Turn {
        Turn(Mutex::new(Phase::Busy))
    }

    /// The connection reaches a message boundary. Returns [`Phase::Idle`] if it may wait for its client, or
    /// [`Phase::Leaving`] if it has to leave and the caller tells its client. Whether it has to is asked under the
    /// lock, and once it has to, it always has to.
    pub(crate) fn rest(&self, has_to_leave: impl FnOnce() -> bool) -> Phase {
        let mut phase = self.lock();
        *phase = if has_to_leave() { Phase::Leaving } else { Phase::Idle };
        *phase
    }

    /// The connection stops waiting. Returns [`Phase::Busy`] if it goes on with a message, or [`Phase::Leaving`] if the
    /// drain took its turn meanwhile (and has finished telling).
    pub(crate) fn wake(&self) -> Phase {
        let mut phase = self.lock();
        if *phase == Phase::Idle {
            *phase = Phase::Busy;
        }
        *phase
    }

    /// The drain comes by, and the connection has to leave by now. If it is idle, its turn is taken and `tell` runs
    /// before the connection can go on. Returns whether it did.
    pub(crate) fn claim(&self, tell: impl FnOnce()) -> bool {
        let mut phase = self.lock();
        if *phase != Phase::Idle {
            return false;
        }
        *phase = Phase::Leaving;
        tell();
        true
    }

    /// What the connection is doing now.
    pub(crate) fn phase(&self) -> Phase {
        *self.lock()
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, Phase> {
        // A phase is one assignment: a panic elsewhere cannot leave it half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::quit::Flag;

    #[test]
    fn an_idle_connection_is_told_by_the_drain_and_only_once() {
        let (turn, flag) = (Turn::new(), Flag::new());
        assert_eq!(turn.rest(|| flag.is_set()), Phase::Idle);
        flag.set();
        let mut told = 0;
        assert!(turn.claim(|| told += 1));
        assert!(!turn.claim(|| told += 1));
        assert_eq!((turn.wake(), told), (Phase::Leaving, 1));
    }

    #[test]
    fn a_busy_connection_is_left_alone_and_tells_its_client_at_the_next_boundary() {
        let (turn, flag) = (Turn::new(), Flag::new());
        assert_eq!(turn.rest(|| flag.is_set()), Phase::Idle);
        assert_eq!(turn.wake(), Phase::Busy);
        flag.set();
        assert!(!turn.claim(|| panic!("a busy connection was disturbed")));
        assert_eq!(turn.rest(|| flag.is_set()), Phase::Leaving);
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p mastercontrol-worker --release model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::quit::Flag;
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::{sync::Arc, thread};

    /// A connection serves up to `messages` messages and rests after each, while the server begins to drain. The flag
    /// also stands for a time that has come: neither goes back.
    fn exactly_one_tells(messages: usize) {
        loom::model(move || {
            let turn = Arc::new(Turn::new());
            let flag = Arc::new(Flag::new());
            let told = Arc::new(AtomicUsize::new(0));

            let connection = {
                let (turn, flag, told) = (turn.clone(), flag.clone(), told.clone());
                thread::spawn(move || {
                    for message in 0..=messages {
                        if turn.rest(|| flag.is_set()) == Phase::Leaving {
                            told.fetch_add(1, Ordering::Relaxed);
                            return;
                        }
                        // After the last message it stays idle: only the drain can tell it then.
                        if message == messages {
                            return;
                        }
                        if turn.wake() == Phase::Leaving {
                            return;
                        }
                        assert_eq!(turn.phase(), Phase::Busy, "a busy connection was disturbed");
                    }
                })
            };

            flag.set();
            turn.claim(|| {
                told.fetch_add(1, Ordering::Relaxed);
            });
            // The drain may have found it busy; then the connection is bound to find the flag.
            connection.join().expect("the connection's thread does not panic");
            assert_eq!(turn.phase(), Phase::Leaving);
            assert_eq!(told.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn model_exactly_one_tells_an_idle_client() {
        exactly_one_tells(0);
    }

    #[test]
    fn model_exactly_one_tells_a_client_between_messages() {
        exactly_one_tells(1);
        exactly_one_tells(3);
    }
}
