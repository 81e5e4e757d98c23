//! How many threads there are and what they are doing, to tell whether one more or one fewer is needed.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{self, Thread};
use std::time::Duration;

/// How long a thread that is not needed waits before it ends.
const SPARE: Duration = Duration::from_secs(1);

/// The threads, and what they are doing.
#[derive(Debug, Default)]
pub(super) struct Crew {
    /// How many threads should be able to take events.
    pub(super) base: AtomicUsize,
    pub(super) threads: AtomicUsize,
    pub(super) made: AtomicUsize,
    /// Threads that wait for a client in a system call.
    pub(super) blocked: AtomicUsize,
    /// Threads that the sentinel has added because others wait for something else.
    pub(super) extra: AtomicUsize,
    /// Threads that are not needed and stand by.
    spares: Mutex<usize>,
    idle: AtomicUsize,
    /// How many of them have been called back and are on their way.
    called: AtomicUsize,
    needed: Condvar,
    /// The lowest 16 bits count the threads that wait for events; the bits above count how often any began to.
    waits: AtomicU64,
    /// Whether the sentinel sleeps until no thread waits.
    asleep: AtomicBool,
    pub(super) sentinel: OnceLock<Thread>,
    pub(super) closed: AtomicBool,
}

const WAITING: u64 = 0xffff;

impl Crew {
    pub(super) fn available(&self) -> usize {
        let away = self.blocked.load(Ordering::Relaxed) + self.idle.load(Ordering::Relaxed);
        self.threads.load(Ordering::Relaxed).saturating_sub(away)
    }

    /// How many threads should be able to take events, including those that wait in their own code.
    pub(super) fn wanted(&self) -> usize {
        self.base.load(Ordering::Relaxed) + self.extra.load(Ordering::Relaxed)
    }

    /// Whether there are enough threads without the calling one, which is about to wait for events.
    pub(super) fn is_one_too_many(&self) -> bool {
        self.available() > self.wanted() || self.waiting() >= self.base.load(Ordering::Relaxed)
    }

    /// How many threads wait for events.
    pub(super) fn waiting(&self) -> usize {
        (self.waits.load(Ordering::SeqCst) & WAITING) as usize
    }

    /// Begins to wait for events. Returns false if enough threads wait already: one more would wait for ever.
    pub(super) fn begin_wait(&self) -> bool {
        let base = self.base.load(Ordering::Relaxed) as u64;
        let begin = |waits: u64| (waits & WAITING < base).then(|| waits.wrapping_add(1 + (WAITING + 1)));
        self.waits.fetch_update(Ordering::SeqCst, Ordering::SeqCst, begin).is_ok()
    }

    pub(super) fn end_wait(&self) {
        let before = self.waits.fetch_sub(1, Ordering::SeqCst);
        if before & WAITING == 1 {
            self.wake_sentinel();
        }
    }

    /// A value that changes whenever a thread begins or stops waiting for events.
    pub(super) fn waits(&self) -> u64 {
        self.waits.load(Ordering::SeqCst)
    }

    /// Has the sentinel sleep until a thread wakes it, if no thread is needed.
    pub(super) fn sleep_if(&self, needs_no_one: impl Fn() -> bool) {
        self.asleep.store(true, Ordering::SeqCst);
        if needs_no_one() && !self.closed.load(Ordering::SeqCst) {
            thread::park();
        }
        self.asleep.store(false, Ordering::SeqCst);
    }

    pub(super) fn wake_sentinel(&self) {
        if self.asleep.load(Ordering::SeqCst) {
            if let Some(sentinel) = self.sentinel.get() {
                sentinel.unpark();
            }
        }
    }

    /// One extra thread fewer is wanted.
    pub(super) fn give_up_extra(&self) {
        let _ = self.extra.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |extra| extra.checked_sub(1));
    }

    /// Calls back a thread that is not needed. Returns false if there is none.
    pub(super) fn call_spare(&self) -> bool {
        let spares = lock(&self.spares);
        let has_one = *spares > self.called.load(Ordering::SeqCst);
        if has_one {
            self.called.fetch_add(1, Ordering::SeqCst);
            self.needed.notify_one();
        }
        has_one
    }

    /// Ends the spare threads and the sentinel, because the engine is closed.
    pub(super) fn dismiss(&self) {
        let _spares = lock(&self.spares);
        self.needed.notify_all();
        if let Some(sentinel) = self.sentinel.get() {
            sentinel.unpark();
        }
    }

    /// Waits until this thread is needed. False: it was not for a while, or the engine is closed, so the thread should
    /// end.
    pub(super) fn stand_by(&self) -> bool {
        let mut spares = lock(&self.spares);
        if self.closed.load(Ordering::SeqCst) {
            return false;
        }
        if !self.is_one_too_many() {
            return true;
        }
        if self.waiting() >= self.base.load(Ordering::Relaxed) {
            // The blockage that the sentinel compensated for is over.
            self.give_up_extra();
        }
        *spares += 1;
        self.idle.fetch_add(1, Ordering::SeqCst);
        let is_idle = |_: &mut usize| self.called.load(Ordering::SeqCst) == 0 && !self.closed.load(Ordering::SeqCst);
        let (mut spares, waited) =
            self.needed.wait_timeout_while(spares, SPARE, is_idle).unwrap_or_else(PoisonError::into_inner);
        *spares -= 1;
        self.idle.fetch_sub(1, Ordering::SeqCst);
        let is_needed = !waited.timed_out() && !self.closed.load(Ordering::SeqCst);
        if is_needed {
            self.called.fetch_sub(1, Ordering::SeqCst);
        }
        is_needed
    }
}

/// A lock under which nothing runs that could panic.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_threads_wait_for_events_than_there_are_cores() {
        let crew = Crew { base: AtomicUsize::new(2), ..Crew::default() };
        assert!(crew.begin_wait() && crew.begin_wait());
        let before = crew.waits();
        assert!(!crew.begin_wait());
        assert_eq!((crew.waiting(), crew.waits()), (2, before));
        crew.end_wait();
        assert!(crew.begin_wait());
    }
}
