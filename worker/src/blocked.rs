//! Who ends a connection whose thread is in a read or a write: on Windows nothing wakes it there.
//!
//! A thread says that it is about to wait, waits, and says that it is back. Who closes a connection whose thread waits
//! gives that thread up, and ends the connection itself. Both do so under one lock, so one of the two ends it: `loom`
//! checks that (see the tests below). Elsewhere no thread says that it waits, and so none is given up.

#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(not(loom))]
use std::sync::Mutex;

use std::sync::PoisonError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Awake,
    Waiting,
    /// There is no way back. The connection ends, or has ended, without its thread.
    GivenUp,
}

/// Whether a connection's thread is in a read or a write, or was given up there.
#[derive(Debug)]
pub(crate) struct Blocked(Mutex<State>);

impl Blocked {
    pub(crate) fn new() -> Blocked {
        Blocked(Mutex::new(State::Awake))
    }

    /// The thread is about to wait. Returns false if it shall not, since it was given up.
    #[cfg_attr(not(windows), allow(dead_code, reason = "elsewhere it can be woken"))]
    pub(crate) fn wait(&self) -> bool {
        self.change(State::Awake, State::Waiting)
    }

    /// The thread has waited. Returns false if it was given up meanwhile.
    #[cfg_attr(not(windows), allow(dead_code, reason = "elsewhere it can be woken"))]
    pub(crate) fn back(&self) -> bool {
        self.change(State::Waiting, State::Awake)
    }

    /// Gives the thread up if it waits. Returns whether it did: then the caller ends the connection.
    pub(crate) fn give_up(&self) -> bool {
        self.change(State::Waiting, State::GivenUp)
    }

    /// Whether somebody else ends the connection of this thread, or has ended it.
    pub(crate) fn is_given_up(&self) -> bool {
        *self.lock() == State::GivenUp
    }

    fn change(&self, from: State, to: State) -> bool {
        let mut state = self.lock();
        let changes = *state == from;
        if changes {
            *state = to;
        }
        changes
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // A state is one assignment: a panic elsewhere cannot leave it half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_a_thread_that_waits_is_given_up_and_only_once() {
        let blocked = Blocked::new();
        assert!(!blocked.give_up());
        assert!(blocked.wait() && blocked.back());
        assert!(blocked.wait() && blocked.give_up() && !blocked.give_up());
        assert!(!blocked.back() && !blocked.wait() && blocked.is_given_up());
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p mastercontrol-worker --release model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use crate::turn::{Phase, Turn};
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::{sync::Arc, thread};

    /// An idle connection is to be closed while its thread goes into its read. Either the drain ends it, or the thread
    /// has seen that it has to leave before it could wait for nothing.
    #[test]
    fn model_exactly_one_ends_an_idle_connection_and_no_thread_waits_in_vain() {
        loom::model(|| {
            let (turn, blocked) = (Arc::new(Turn::new()), Arc::new(Blocked::new()));
            let ended = Arc::new(AtomicUsize::new(0));
            assert_eq!(turn.rest(|| false), Phase::Idle);

            let connection = {
                let (turn, blocked, ended) = (turn.clone(), blocked.clone(), ended.clone());
                thread::spawn(move || {
                    if !blocked.wait() {
                        return;
                    }
                    let told = turn.phase() == Phase::Leaving;
                    // If it was not told, it stays in its read until the drain gives it up.
                    if told && blocked.back() {
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                })
            };

            assert!(turn.claim(|| {
                if blocked.give_up() {
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            }));
            connection.join().expect("the connection's thread does not panic");
            assert_eq!(ended.load(Ordering::Relaxed), 1);
        });
    }
}
