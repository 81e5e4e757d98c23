//! Mutexes without poison.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex, though a thread may have panicked while it held the lock. For state that is whole at any time, since
/// each change is an assignment, or code of others that begins anew each time.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
