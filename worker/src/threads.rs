//! The threads that serve connections, one each. One that has finished waits for the next connection: to make a thread
//! and to end it costs more than many a connection, and at a stop all of them would end while the clients are told.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// How many threads may wait for a connection. More than that end when they have nothing to do.
const SPARE: usize = 64;

/// Threads named `handler-N`, each of which serves one `T` at a time.
pub(crate) struct Threads<T> {
    serve: Box<dyn Fn(T) + Send + Sync>,
    state: Mutex<State<T>>,
    handed: Condvar,
}

struct State<T> {
    /// Handed to threads that wait, and not taken yet. Never more than there are threads that wait.
    queue: VecDeque<T>,
    waiting: usize,
    /// How many threads have been made so far.
    made: u64,
    /// Whether threads stay when they are not needed: to end them would take time from something more important.
    keep_all: bool,
    ended: bool,
}

impl<T: Send + 'static> Threads<T> {
    pub(crate) fn new(serve: impl Fn(T) + Send + Sync + 'static) -> Arc<Threads<T>> {
        let state = State { queue: VecDeque::new(), waiting: 0, made: 0, keep_all: false, ended: false };
        Arc::new(Threads { serve: Box::new(serve), state: Mutex::new(state), handed: Condvar::new() })
    }

    /// Has a thread serve this: one that waits, or else a new one.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn hand(self: &Arc<Self>, item: T) -> io::Result<()> {
        let mut state = self.lock();
        if state.waiting > state.queue.len() {
            state.queue.push_back(item);
            self.handed.notify_one();
            return Ok(());
        }
        let name = format!("handler-{}", state.made + 1);
        let threads = self.clone();
        thread::Builder::new().name(name).spawn(move || {
            let mut next = Some(item);
            while let Some(item) = next {
                (threads.serve)(item);
                next = threads.next();
            }
        })?;
        state.made += 1;
        Ok(())
    }

    /// From now on no thread ends before [`Threads::end`].
    pub(crate) fn keep_all(&self) {
        self.lock().keep_all = true;
    }

    /// Ends those that wait, and each other when it has finished. Those that wait end one after the other, and each
    /// wakes the next: some thousand at once would keep everybody else from going on.
    pub(crate) fn end(&self) {
        self.lock().ended = true;
        self.handed.notify_one();
    }

    /// Waits for the next item. None: the thread ends.
    fn next(&self) -> Option<T> {
        let mut state = self.lock();
        if state.waiting >= SPARE && !state.keep_all {
            return None;
        }
        state.waiting += 1;
        while state.queue.is_empty() && !state.ended {
            state = self.handed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
        if state.ended {
            self.handed.notify_one();
        }
        state.queue.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // Nothing that could panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_thread_that_has_finished_serves_the_next_one_and_everything_handed_is_served() {
        let (served, count) = mpsc::channel();
        let threads = Threads::new(move |item| served.send(item).unwrap());
        for round in 0..1000_u32 {
            threads.hand(round).unwrap();
            if round % 10 == 9 {
                // All ten have been served before the next ten come.
                let mut ten: Vec<u32> = count.iter().take(10).collect();
                ten.sort_unstable();
                assert_eq!(ten, (round - 9..=round).collect::<Vec<_>>());
            }
        }
        assert!(threads.lock().made < 500, "{} threads were made", threads.lock().made);
        threads.end();
    }

    #[test]
    fn threads_end_when_they_are_told_to_and_what_was_handed_before_is_still_served() {
        let (served, count) = mpsc::channel();
        let threads = Threads::new(move |item| served.send(item).unwrap());
        for item in 0..10 {
            threads.hand(item).unwrap();
        }
        threads.end();
        drop(threads);
        // The channel ends when the last thread has dropped what it shares with the others, which is when it ends.
        assert_eq!(count.iter().count(), 10);
    }
}
