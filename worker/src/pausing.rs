//! Whether a port is paused. While it is, no client or message reaches a handler or a program. What was under way
//! before is served to its end.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

#[derive(Debug, Default)]
pub(crate) struct Pausing {
    /// Outside the lock, because it is read for each message.
    is_paused: AtomicBool,
    /// Counts the occasions on which something that was under way may have ended.
    ended: Mutex<u64>,
    changed: Condvar,
}

impl Pausing {
    pub(crate) fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::SeqCst)
    }

    pub(crate) fn pause(&self) {
        self.is_paused.store(true, Ordering::SeqCst);
    }

    /// Returns whether it was paused.
    pub(crate) fn resume(&self) -> bool {
        let was_paused = self.is_paused.swap(false, Ordering::SeqCst);
        self.tell();
        was_paused
    }

    /// Something that was under way may have ended.
    pub(crate) fn something_ended(&self) {
        if self.is_paused() {
            self.tell();
        }
    }

    /// Waits until `under_way` returns 0. Returns false if the port is resumed first.
    pub(crate) fn wait_until_quiet(&self, under_way: impl Fn() -> usize) -> bool {
        loop {
            let before = *self.ended();
            if !self.is_paused() {
                return false;
            }
            if under_way() == 0 {
                return true;
            }
            drop(self.changed.wait_while(self.ended(), |ended| *ended == before));
        }
    }

    fn tell(&self) {
        *self.ended() += 1;
        self.changed.notify_all();
    }

    fn ended(&self) -> MutexGuard<'_, u64> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner) // One number.
    }
}

/// A paused port, on which a caller can wait for what is still under way.
pub struct Paused {
    pausing: Arc<Pausing>,
    under_way: Box<dyn Fn() -> usize + Send + Sync>,
}

impl Paused {
    pub(crate) fn new(pausing: Arc<Pausing>, under_way: impl Fn() -> usize + Send + Sync + 'static) -> Paused {
        Paused { pausing, under_way: Box::new(under_way) }
    }

    /// How many messages are under way.
    pub fn under_way(&self) -> usize {
        (self.under_way)()
    }

    /// Waits until no message is under way. Returns false if the port is resumed first.
    pub fn wait(&self) -> bool {
        self.pausing.wait_until_quiet(&self.under_way)
    }
}

impl fmt::Debug for Paused {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Paused").finish_non_exhaustive()
    }
}
