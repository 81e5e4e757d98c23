//! Where a connection is: waiting here for its client, or with the thread that serves it.
//!
//! An event (the client has sent something), the timer or the drain may want a waiting connection. Each takes it out of
//! the slot under the slot's lock, so only one gets it. Hence a message and the notice never cross, and exactly one
//! thread ends each connection. `loom` checks this (see the models below).

#[cfg(loom)]
use loom::sync::Mutex;
#[cfg(not(loom))]
use std::sync::Mutex;

use std::sync::PoisonError;

/// The place of one connection. `T` is what a waiting connection consists of.
#[derive(Debug)]
pub(crate) struct Slot<T>(Mutex<State<T>>);

#[derive(Debug)]
enum State<T> {
    /// It waits for its client.
    Waiting(T),
    /// A thread has it.
    Busy {
        /// Something has happened to its socket since it was taken.
        again: bool,
        /// The thread is in a system call that may wait for the client.
        blocked: bool,
    },
    /// It has ended.
    Ended,
}

/// What [`Slot::park`] has done.
#[derive(Debug)]
pub(crate) enum Parked<T> {
    /// It waits.
    Waits,
    /// Something has happened to its socket since it was taken: look once more.
    Again(T),
    /// It has to leave at this boundary.
    Leaves(T),
    /// It was ended from outside while the thread had it: by force, or because its place was needed.
    Ended(T),
}

impl<T> Slot<T> {
    /// The place of a connection that a thread has.
    pub(crate) fn new() -> Slot<T> {
        Slot(Mutex::new(State::Busy { again: false, blocked: false }))
    }

    /// Lets the connection wait, unless it has to leave. `leaves` is evaluated under the lock: a drain that sets its
    /// flag first and looks here afterwards either finds the connection waiting or has its flag seen here. `arm` runs
    /// under the lock, too, so that no later owner can have armed the socket before.
    pub(crate) fn park(&self, mut it: T, leaves: impl FnOnce(&T) -> bool, arm: impl FnOnce(&mut T)) -> Parked<T> {
        let mut state = self.lock();
        match &mut *state {
            State::Ended => return Parked::Ended(it),
            State::Busy { again, .. } if *again => {
                *again = false;
                return Parked::Again(it);
            }
            State::Busy { .. } | State::Waiting(_) => {}
        }
        if leaves(&it) {
            return Parked::Leaves(it);
        }
        arm(&mut it);
        *state = State::Waiting(it);
        Parked::Waits
    }

    /// Takes the connection because something has happened to its socket. None: it does not wait. If a thread has it,
    /// that thread looks once more before it lets the connection wait again.
    pub(crate) fn take(&self) -> Option<T> {
        let mut state = self.lock();
        if let State::Busy { again, .. } = &mut *state {
            *again = true;
        }
        take(&mut state)
    }

    /// Takes the connection if it waits and the condition holds.
    pub(crate) fn take_if(&self, condition: impl FnOnce(&mut T) -> bool) -> Option<T> {
        let mut state = self.lock();
        let wanted = match &mut *state {
            State::Waiting(it) => condition(it),
            State::Busy { .. } | State::Ended => false,
        };
        if wanted { take(&mut state) } else { None }
    }

    /// Looks at a waiting connection. None: it does not wait.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
        match &mut *self.lock() {
            State::Waiting(it) => Some(look(it)),
            State::Busy { .. } | State::Ended => None,
        }
    }

    /// Records whether the thread that has the connection may be waiting for its client in a system call. Returns false
    /// if the connection has been ended from outside.
    pub(crate) fn set_blocked(&self, now: bool) -> bool {
        match &mut *self.lock() {
            State::Busy { blocked, .. } => {
                *blocked = now;
                true
            }
            State::Waiting(_) | State::Ended => false,
        }
    }

    /// Ends the connection if it waits, or if its thread only waits for the client. The caller has it then.
    pub(crate) fn end_by_force(&self) -> Force<T> {
        let mut state = self.lock();
        match std::mem::replace(&mut *state, State::Ended) {
            State::Waiting(it) => Force::Ended(Some(it)),
            State::Busy { blocked: true, .. } => Force::Ended(None),
            busy @ State::Busy { blocked: false, .. } => {
                *state = busy;
                Force::Busy
            }
            State::Ended => Force::TooLate,
        }
    }

    /// Ends the connection if its thread only waits for the client and the condition holds. The thread finds that out
    /// when it returns from its system call.
    pub(crate) fn end_if_blocked(&self, condition: impl FnOnce() -> bool) -> bool {
        let mut state = self.lock();
        let ends = matches!(*state, State::Busy { blocked: true, .. }) && condition();
        if ends {
            *state = State::Ended;
        }
        ends
    }

    /// Ends the connection, which the caller has. Returns false if it was ended from outside before.
    pub(crate) fn end(&self) -> bool {
        !matches!(std::mem::replace(&mut *self.lock(), State::Ended), State::Ended)
    }

    #[cfg(not(loom))]
    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        // Each change is one assignment: a panic elsewhere cannot leave it half made.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[cfg(loom)]
    fn lock(&self) -> loom::sync::MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What [`Slot::end_by_force`] has done.
#[derive(Debug)]
pub(crate) enum Force<T> {
    /// The connection has ended. Its thread, if one has it, finds that out when it returns from its system call.
    Ended(Option<T>),
    /// A handler works on it.
    Busy,
    /// It had ended before.
    TooLate,
}

fn take<T>(state: &mut State<T>) -> Option<T> {
    match state {
        State::Waiting(_) => {}
        State::Busy { .. } | State::Ended => return None,
    }
    match std::mem::replace(state, State::Busy { again: false, blocked: false }) {
        State::Waiting(it) => Some(it),
        State::Busy { .. } | State::Ended => None,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_connection_is_taken_once() {
        let slot = Slot::new();
        assert!(matches!(slot.park(7, |_| false, |_| {}), Parked::Waits));
        assert_eq!((slot.take(), slot.take_if(|_| true)), (Some(7), None));
    }

    #[test]
    fn what_happens_while_a_thread_has_the_connection_is_looked_at_before_it_waits() {
        let slot = Slot::new();
        assert_eq!(slot.take(), None::<i32>);
        assert!(matches!(slot.park(7, |_| false, |_| panic!("it was armed")), Parked::Again(7)));
        assert!(matches!(slot.park(7, |_| false, |_| {}), Parked::Waits));
    }

    #[test]
    fn force_ends_what_waits_and_what_is_blocked_but_not_what_a_handler_works_on() {
        let slot = Slot::new();
        assert!(matches!(slot.end_by_force(), Force::<i32>::Busy));
        assert!(slot.set_blocked(true));
        assert!(matches!(slot.end_by_force(), Force::Ended(None)));
        assert!(!slot.set_blocked(false) && !slot.end());
        assert!(matches!(slot.park(7, |_| false, |_| {}), Parked::Ended(7)));
        assert!(matches!(slot.end_by_force(), Force::TooLate));
    }

    #[test]
    fn only_a_blocked_connection_is_ended_while_a_thread_has_it() {
        let slot = Slot::<i32>::new();
        assert!(!slot.end_if_blocked(|| true));
        assert!(slot.set_blocked(true) && !slot.end_if_blocked(|| false) && slot.end_if_blocked(|| true));
        assert!(!slot.set_blocked(false) && !slot.end());
    }
}

/// Run with `RUSTFLAGS="--cfg loom" cargo test -p mastercontrol-worker --release model`.
#[cfg(all(test, loom))]
mod model {
    use super::*;
    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use loom::sync::{Arc, Condvar};
    use loom::thread;

    /// A poller that reports each edge once: an event is lost unless it is taken or remembered.
    struct Poller {
        events: loom::sync::Mutex<usize>,
        comes: Condvar,
    }

    impl Poller {
        fn report(&self) {
            *self.events.lock().expect("no panic under the lock") += 1;
            self.comes.notify_one();
        }

        fn wait(&self) {
            let mut events = self.events.lock().expect("no panic under the lock");
            while *events == 0 {
                events = self.comes.wait(events).expect("no panic under the lock");
            }
            *events -= 1;
        }
    }

    /// A client sends two messages, each an edge, while a thread of the engine serves. Whichever thread gets the second
    /// edge, both messages are served.
    #[test]
    fn model_no_message_is_lost_between_serving_and_waiting() {
        // Without a bound it takes hours.
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(2);
        model.check(|| {
            let slot = Arc::new(Slot::new());
            let unread = Arc::new(AtomicUsize::new(0));
            let served = Arc::new(AtomicUsize::new(0));
            let poller = Arc::new(Poller { events: loom::sync::Mutex::new(0), comes: Condvar::new() });
            assert!(matches!(slot.park((), |()| false, |()| {}), Parked::Waits));
            let engine =
                |slot: Arc<Slot<()>>, unread: Arc<AtomicUsize>, served: Arc<AtomicUsize>, poller: Arc<Poller>| {
                    move || {
                        poller.wait();
                        let Some(mut it) = slot.take() else { return };
                        loop {
                            served.fetch_add(unread.swap(0, Ordering::SeqCst), Ordering::SeqCst);
                            match slot.park(it, |()| false, |()| {}) {
                                Parked::Waits => return,
                                Parked::Again(back) => it = back,
                                Parked::Leaves(()) | Parked::Ended(()) => unreachable!("there is no drain"),
                            }
                        }
                    }
                };
            let one = thread::spawn(engine(slot.clone(), unread.clone(), served.clone(), poller.clone()));
            let other = thread::spawn(engine(slot.clone(), unread.clone(), served.clone(), poller.clone()));
            for _ in 0..2 {
                unread.fetch_add(1, Ordering::SeqCst);
                poller.report();
            }
            one.join().expect("no panic");
            other.join().expect("no panic");
            assert_eq!(served.load(Ordering::SeqCst), 2);
        });
    }

    /// A connection serves messages and waits after each, while a drain begins: exactly one of them notifies the
    /// client.
    fn exactly_one_notifies(messages: usize) {
        loom::model(move || {
            let (slot, flag) = (Arc::new(Slot::new()), Arc::new(AtomicBool::new(false)));
            let notified = Arc::new(AtomicUsize::new(0));
            let serving = {
                let (slot, flag, notified) = (slot.clone(), flag.clone(), notified.clone());
                thread::spawn(move || {
                    for message in 0..=messages {
                        match slot.park((), |()| flag.load(Ordering::SeqCst), |()| {}) {
                            Parked::Waits => {}
                            Parked::Leaves(()) => {
                                notified.fetch_add(1, Ordering::SeqCst);
                                assert!(slot.end());
                                return;
                            }
                            Parked::Again(()) | Parked::Ended(()) => unreachable!("no event, no force"),
                        }
                        // After the last message it waits: only the drain can take it then.
                        if message == messages || slot.take_if(|()| true).is_none() {
                            return;
                        }
                    }
                })
            };
            flag.store(true, Ordering::SeqCst);
            if slot.take_if(|()| true).is_some() {
                notified.fetch_add(1, Ordering::SeqCst);
                assert!(slot.end());
            }
            serving.join().expect("no panic");
            assert_eq!(notified.load(Ordering::SeqCst), 1);
            assert!(matches!(slot.end_by_force(), Force::TooLate));
        });
    }

    #[test]
    fn model_exactly_one_notifies_an_idle_client() {
        exactly_one_notifies(0);
    }

    #[test]
    fn model_exactly_one_notifies_a_client_between_messages() {
        exactly_one_notifies(1);
        exactly_one_notifies(2);
    }

    /// A thread waits for its client in a system call while the connection is ended from outside, and kicked: exactly one
    /// of the threads ends it.
    fn exactly_one_ends(ends: fn(&Slot<()>) -> bool) {
        loom::model(move || {
            let (slot, ended) = (Arc::new(Slot::<()>::new()), Arc::new(AtomicUsize::new(0)));
            let serving = {
                let (slot, ended) = (slot.clone(), ended.clone());
                thread::spawn(move || {
                    let goes_on = slot.set_blocked(true) && slot.set_blocked(false);
                    if slot.end() {
                        ended.fetch_add(1, Ordering::SeqCst);
                    } else {
                        assert!(!goes_on || ended.load(Ordering::SeqCst) <= 1);
                    }
                })
            };
            let kick = {
                let slot = slot.clone();
                thread::spawn(move || assert!(slot.take().is_none()))
            };
            if ends(&slot) {
                ended.fetch_add(1, Ordering::SeqCst);
            }
            serving.join().expect("no panic");
            kick.join().expect("no panic");
            assert_eq!(ended.load(Ordering::SeqCst), 1);
        });
    }

    #[test]
    fn model_exactly_one_ends_a_connection_that_is_closed_by_force() {
        exactly_one_ends(|slot| matches!(slot.end_by_force(), Force::Ended(None)));
    }

    #[test]
    fn model_exactly_one_ends_a_connection_that_is_closed_because_its_client_is_slow() {
        exactly_one_ends(|slot| slot.end_if_blocked(|| true));
    }
}
