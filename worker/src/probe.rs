//! Whether the accepting thread still goes round: somebody connects, and it has to accept something.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between one that looks and the accepting thread.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    /// Beside the lock: the accepting thread shall not pay for it as long as nobody looks.
    looking: AtomicBool,
    /// Held by whoever looks: one after the other.
    turn: Mutex<()>,
    seen: Mutex<bool>,
    changed: Condvar,
}

impl Probe {
    /// The accepting thread has gone round once more.
    pub(crate) fn round(&self) {
        if self.looking.load(Ordering::SeqCst) {
            *self.lock() = true;
            self.changed.notify_all();
        }
    }

    /// Returns whether the accepting thread goes round within `limit`, once `knock` has given it a reason to. `knock`
    /// may fail because nothing is accepted and the queue is full: then only the rounds count.
    pub(crate) fn look<K>(&self, limit: Duration, knock: impl FnOnce() -> K) -> (bool, K) {
        let began = Instant::now();
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        *self.lock() = false;
        self.looking.store(true, Ordering::SeqCst);
        let knocked = knock();
        let left = limit.saturating_sub(began.elapsed());
        let seen = self.changed.wait_timeout_while(self.lock(), left, |seen| !*seen);
        let seen = *seen.unwrap_or_else(PoisonError::into_inner).0;
        self.looking.store(false, Ordering::SeqCst);
        (seen, knocked)
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        // A flag cannot be left half written.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
