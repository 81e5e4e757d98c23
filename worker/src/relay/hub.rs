//! What the loops of a relay share: the listener, the generation that serves, and the way to reach a loop.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::options::{Options, RelayCounts};
use super::tally::Tally;
use super::target::Target;
use crate::event::{Event, Failure, Observer};
use crate::pausing::Pausing;
use crate::port::REFUSALS;
use crate::report::{ConnectionInfo, Outcome};

/// How many descriptors the relay leaves for others: the clients of an admin socket, and the program's next generation.
const RESERVED: RawFd = 64;

/// The shortest time between two reports while the system stays exhausted.
const EXHAUSTED_QUIET: Duration = Duration::from_secs(60);

pub(super) struct Hub {
    pub(super) options: Options,
    /// Whether others accept from the listener, too.
    pub(super) is_shared: bool,
    observer: Box<Observer>,
    /// Changes with each change of the door, so that a loop need not lock it to see that there was none.
    epoch: AtomicU64,
    /// Whether clients should connect here.
    in_rotation: AtomicBool,
    pub(super) pausing: Arc<Pausing>,
    /// When the last pause has ended.
    resumed: Mutex<Option<Instant>>,
    door: Mutex<Door>,
    /// Clients that were accepted and not refused.
    pub(super) connections: AtomicUsize,
    held: AtomicUsize,
    /// Refused clients that stay to read the refusal.
    refusals: AtomicUsize,
    /// Clients on their way to another loop that may have an idle client to close for them.
    pub(super) passed_on: Arc<AtomicUsize>,
    /// Accepted clients for which there is no descriptor to reach the program. No others are accepted before these are
    /// served: they would take the next descriptors, and no client would ever be served.
    pub(super) starved: AtomicUsize,
    /// In microseconds.
    longest_wait: AtomicU64,
    pub(super) mailboxes: Box<[Mailbox]>,
    exhausted: Mutex<Option<Instant>>,
    /// Descriptors from this number on are kept for others.
    reserve: RawFd,
}

/// Where clients come in, and where they go.
#[derive(Debug, Clone, Default)]
pub(super) struct Door {
    /// None: it has been closed.
    pub(super) listener: Option<Arc<TcpListener>>,
    /// The generation that gets the clients. None: they are held, or refused if the door is closed.
    pub(super) serving: Option<Arc<Target>>,
    /// Generations whose connections have a deadline, or may get one.
    pub(super) draining: Vec<Arc<Target>>,
}

/// What a loop is asked to do.
#[derive(Debug)]
pub(super) enum Command {
    /// Serve a client that another thread has accepted.
    Adopt(Accepted),
    /// Serve a client in place of one that is idle here: the loops that were asked before have none.
    Replace(Accepted, PassedOn),
    /// The door has changed. Dropping the sender reports that the loop has seen it.
    Look(Option<Sender<()>>),
    /// Describe all connections of this generation, or all that belong to none.
    List(Option<u64>, Sender<ConnectionInfo>),
    /// How many messages are under way.
    Count(Sender<usize>),
    /// Let the connection with this number go at its next message boundary, if there is one.
    Leave {
        id: u64,
        target: Option<u64>,
        found: Sender<ConnectionInfo>,
        ended: Sender<Outcome>,
    },
    /// End a connection.
    Force(u64),
    /// Free a descriptor, if one is used for nothing.
    MakeRoom,
    Quit,
}

#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) socket: OwnedFd,
    pub(super) peer: SocketAddr,
    /// The generation that has already taken it, in case the door closes.
    pub(super) target: Option<Arc<Target>>,
    /// How many loops have found no idle client to close for it.
    pub(super) asked: usize,
}

/// Counts a client as on its way to another loop, which may have ended.
#[derive(Debug)]
pub(super) struct PassedOn(Arc<AtomicUsize>);

impl PassedOn {
    pub(super) fn new(hub: &Hub) -> PassedOn {
        hub.passed_on.fetch_add(1, Ordering::Relaxed);
        PassedOn(hub.passed_on.clone())
    }
}

impl Drop for PassedOn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The way to reach a loop.
#[derive(Debug)]
pub(super) struct Mailbox {
    /// None: the loop has ended.
    queue: Mutex<Option<Vec<Command>>>,
    pub(super) wake: OwnedFd,
    /// How many connections its loop has, or is about to get.
    pub(super) load: AtomicUsize,
    pub(super) tally: Tally,
}

impl Mailbox {
    fn new() -> io::Result<Mailbox> {
        Ok(Mailbox {
            queue: Mutex::new(Some(Vec::new())),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            load: AtomicUsize::new(0),
            tally: Tally::default(),
        })
    }

    pub(super) fn send(&self, command: Command) {
        let mut queue = lock(&self.queue);
        // A loop that has ended gets no commands; what the command holds is dropped, which answers it.
        let Some(commands) = queue.as_mut() else { return };
        commands.push(command);
        if commands.len() == 1 {
            // It fails only if it is readable already.
            let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
        }
    }

    pub(super) fn take(&self) -> Vec<Command> {
        let mut queue = lock(&self.queue);
        let _ = rustix::io::read(&self.wake, &mut [0; 8]); // Nothing to read means that it is silent already.
        queue.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// The loop has ended.
    pub(super) fn close(&self) {
        drop(lock(&self.queue).take());
    }
}

/// The lowest number of the descriptors that are kept for others.
fn reserve() -> RawFd {
    let most = getrlimit(Resource::Nofile).current.and_then(|most| RawFd::try_from(most).ok()).unwrap_or(RawFd::MAX);
    most - RESERVED.min(most / 4)
}

impl Hub {
    pub(super) fn new(
        listener: Arc<TcpListener>,
        is_shared: bool,
        options: Options,
        observer: Box<Observer>,
        loops: usize,
    ) -> io::Result<Hub> {
        let mailboxes = (0..loops).map(|_| Mailbox::new()).collect::<io::Result<_>>()?;
        Ok(Hub {
            options,
            is_shared,
            observer,
            epoch: AtomicU64::new(0),
            in_rotation: AtomicBool::new(true),
            pausing: Arc::default(),
            resumed: Mutex::default(),
            door: Mutex::new(Door { listener: Some(listener), ..Door::default() }),
            connections: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            refusals: AtomicUsize::new(0),
            passed_on: Arc::default(),
            starved: AtomicUsize::new(0),
            longest_wait: AtomicU64::new(0),
            mailboxes,
            exhausted: Mutex::new(None),
            reserve: reserve(),
        })
    }

    pub(super) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn is_in_rotation(&self) -> bool {
        self.in_rotation.load(Ordering::Relaxed)
    }

    pub(super) fn set_in_rotation(&self, in_rotation: bool) {
        self.in_rotation.store(in_rotation, Ordering::Relaxed);
    }

    /// How many messages are under way.
    pub(super) fn under_way(&self) -> usize {
        let (to, from) = mpsc::channel();
        self.tell(|| Command::Count(to.clone()));
        drop(to);
        from.iter().sum()
    }

    /// Ends a pause, if there is one.
    pub(super) fn resume(&self) {
        if self.pausing.is_paused() {
            // First, so that what is looked at after the pause does not count it.
            *lock(&self.resumed) = Some(Instant::now());
        }
        if self.pausing.resume() {
            self.tell(|| Command::Look(None));
        }
    }

    /// Since when something that has been held since then waits for a generation: not before the end of a pause.
    pub(super) fn waits_since(&self, held_since: Instant) -> Instant {
        lock(&self.resumed).map_or(held_since, |resumed| resumed.max(held_since))
    }

    /// The door as it is now, and its epoch.
    pub(super) fn door(&self) -> (Door, u64) {
        let door = lock(&self.door);
        (door.clone(), self.epoch())
    }

    /// Changes the door, and has all loops look at it. Returns what `change` returns.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Door) -> T) -> T {
        let mut door = lock(&self.door);
        let result = change(&mut door);
        self.has_changed(door);
        result
    }

    fn has_changed(&self, door: MutexGuard<'_, Door>) {
        self.epoch.fetch_add(1, Ordering::Release);
        drop(door);
        self.tell(|| Command::Look(None));
    }

    /// Takes the listener from the door. Returns it, and the generation that serves. None: it is already gone, and no
    /// loop is disturbed.
    pub(super) fn take_listener(&self) -> Option<(Arc<TcpListener>, Option<Arc<Target>>)> {
        let mut door = lock(&self.door);
        let taken = (door.listener.take()?, door.serving.clone());
        self.has_changed(door);
        Some(taken)
    }

    /// The listener has failed for good. All loops notice that; one of them reports it.
    pub(super) fn fail(&self, error: Errno) {
        if self.take_listener().is_some() {
            self.say(&Event::Failed { failure: &Failure::Accept(error.into()) });
        }
    }

    /// Waits until all loops have seen the door as it is now. They never block, so that does not take long.
    pub(super) fn wait_until_seen(&self) {
        let (seen, all) = mpsc::channel();
        self.tell(|| Command::Look(Some(seen.clone())));
        drop(seen);
        let _ = all.recv(); // Nothing is ever sent: it ends when the last loop has dropped its end.
    }

    pub(super) fn tell(&self, command: impl Fn() -> Command) {
        for mailbox in &self.mailboxes {
            mailbox.send(command());
        }
    }

    /// Reports an event. If the observer panics, only this report is lost.
    pub(super) fn say(&self, event: &Event<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| (self.observer)(event)));
    }

    /// Whether nearly all descriptors are in use: the system assigns the lowest free number.
    pub(super) fn is_in_reserve(&self, socket: &OwnedFd) -> bool {
        socket.as_raw_fd() >= self.reserve
    }

    pub(super) fn report_exhausted(&self, error: &io::Error) {
        let mut said = lock(&self.exhausted);
        if said.is_none_or(|said| said.elapsed() >= EXHAUSTED_QUIET) {
            *said = Some(Instant::now());
            drop(said);
            self.say(&Event::Exhausted { error });
        }
    }

    /// Reserves one of the places for refused clients that stay to read the refusal. Returns false if all are taken. The
    /// place is reserved until [`end_refusal`](Hub::end_refusal).
    pub(super) fn reserve_refusal(&self) -> bool {
        let reserve = |taken: usize| (taken < REFUSALS).then_some(taken + 1);
        self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, reserve).is_ok()
    }

    pub(super) fn end_refusal(&self) {
        self.refusals.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn begin_hold(&self) {
        self.held.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end_hold(&self, took: Duration) {
        self.held.fetch_sub(1, Ordering::Relaxed);
        self.longest_wait.fetch_max(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn longest_wait(&self) -> Duration {
        Duration::from_micros(self.longest_wait.load(Ordering::Relaxed))
    }

    pub(super) fn reset_longest_wait(&self) {
        self.longest_wait.store(0, Ordering::Relaxed);
    }

    pub(super) fn counts(&self) -> RelayCounts {
        let mut counts = RelayCounts { held: self.held.load(Ordering::Relaxed), ..RelayCounts::default() };
        for mailbox in &self.mailboxes {
            mailbox.tally.add_to(&mut counts);
        }
        counts
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hub").field("options", &self.options).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks changes in single steps: a panic elsewhere cannot leave it half written.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
