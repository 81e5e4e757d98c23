//! One epoll instance, on which as many threads wait as there are cores. They serve the connections that it reports.
//!
//! Each wait is a system call, so a thread takes several events at once and serves them one after the other. Those that
//! it has not reached yet are shared: another thread takes them if this one does not come back soon.
//!
//! A new connection is read from before its socket is registered: its first message has usually arrived by then, and
//! many connections have only one. A socket is registered once, edge-triggered: what happens while a thread has the
//! connection is remembered in its [slot](crate::slot::Slot). The listener is one-shot: one thread accepts.
//!
//! Another thread is started only when these are blocked, not when they are busy: more threads than cores serve fewer
//! clients. A connection announces that it is about to wait ([`Engine::blocked`]). For handlers that wait in their own
//! code there is a sentinel: it checks every millisecond whether any thread has come back, and sleeps while nothing
//! happens.

mod crew;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::iter;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::events::{Events, Key, Rearm, Why};
use crew::{Crew, lock};

/// How long all threads may be away before another one is started.
const AWAY: Duration = Duration::from_millis(1);

/// How many events are taken at once.
const BATCH: usize = 8;

/// The keys of event sources that are not connections.
const LISTENER: Key = Key { place: u32::MAX, serial: 0 };
const QUEUE: Key = Key { place: u32::MAX, serial: 1 };
const TIMER: Key = Key { place: u32::MAX, serial: 2 };

/// What the engine knows of one socket.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    registered: Registered,
    /// Whether room in the send buffer is awaited.
    pub(crate) room: bool,
    /// When the timer fires for it. If its time has been postponed since, the timer is set again.
    scheduled: Option<Instant>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Registered {
    #[default]
    Never,
    Silent,
    For {
        room: bool,
    },
}

#[derive(Debug, Clone)]
pub(crate) struct Engine(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    queue: Mutex<VecDeque<Key>>,
    /// Events that a thread has taken but not reached yet.
    taken: Mutex<VecDeque<(Key, Why)>>,
    /// Their number, to be read without the lock.
    left: AtomicUsize,
    /// Readable while something is queued, and for ever once the engine is closed.
    wake: OwnedFd,
    timer: OwnedFd,
    dues: Mutex<Dues>,
    events: OnceLock<Weak<dyn Events>>,
    crew: Crew,
    listener: Mutex<Listening>,
}

#[derive(Debug, Default)]
struct Dues {
    at: BTreeSet<(Instant, Key)>,
    armed: Option<Instant>,
}

#[derive(Debug, Default)]
struct Listening {
    registered: bool,
    listener: Option<Arc<TcpListener>>,
}

impl Engine {
    /// Sockets are polled, so a call that would wait for a client is tried without waiting first.
    pub(crate) const POLLS: bool = true;

    /// # Errors
    /// When the system gives no descriptor.
    pub(crate) fn new() -> io::Result<Engine> {
        let shared = Shared {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            queue: Mutex::default(),
            taken: Mutex::default(),
            left: AtomicUsize::new(0),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            timer: timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?,
            dues: Mutex::default(),
            events: OnceLock::new(),
            crew: Crew::default(),
            listener: Mutex::default(),
        };
        epoll::add(&shared.epoll, &shared.wake, data(QUEUE), EventFlags::IN)?;
        epoll::add(&shared.epoll, &shared.timer, data(TIMER), EventFlags::IN | EventFlags::ET)?;
        Ok(Engine(Arc::new(shared)))
    }

    /// Starts one thread per core, which report to `events`, and the sentinel.
    ///
    /// # Errors
    /// When the system does not give a single thread, or no sentinel.
    pub(crate) fn run(&self, events: &Arc<dyn Events>) -> io::Result<()> {
        let shared = &self.0;
        let _ = shared.events.set(Arc::downgrade(events)); // Called once.
        let base = thread::available_parallelism().map_or(1, NonZero::get).max(2);
        shared.crew.base.store(base, Ordering::Relaxed);
        shared.add_thread()?;
        for _ in 1..base {
            let _ = shared.add_thread(); // One is enough to begin with; the sentinel adds others when they are needed.
        }
        let watched = shared.clone();
        let sentinel = thread::Builder::new().name("sentinel".into()).spawn(move || sentinel(&watched))?;
        let _ = shared.crew.sentinel.set(sentinel.thread().clone());
        Ok(())
    }

    pub(crate) fn watch(&self, key: Key, socket: &Arc<TcpStream>, watch: &mut Watch, due: Option<Instant>) {
        if watch.registered != (Registered::For { room: watch.room }) {
            self.0.register(key, socket, watch);
        }
        // The timer may have fired while a thread had the connection, and does not fire again.
        let has_come = |scheduled: Instant| scheduled <= Instant::now();
        let is_needed = |due: &Instant| watch.scheduled.is_none_or(|at| *due < at || has_come(at));
        if let Some(due) = due.filter(is_needed) {
            self.0.schedule(key, watch.scheduled.replace(due), Some(due));
        }
    }

    /// Reports a new connection before it is watched, to the thread that has accepted it or to another one.
    pub(crate) fn welcome(&self, key: Key, _socket: &Arc<TcpStream>, _watch: &mut Watch, _due: Option<Instant>) {
        self.0.leave(iter::once((key, Why::New)));
    }

    /// The timer has fired for it.
    pub(crate) fn came(watch: &mut Watch) {
        watch.scheduled = None;
    }

    pub(crate) fn unwatch(&self, socket: &TcpStream, watch: &mut Watch) {
        let is_watched = matches!(watch.registered, Registered::For { .. });
        if is_watched && epoll::modify(&self.0.epoll, socket, data(QUEUE), EventFlags::ET).is_ok() {
            watch.registered = Registered::Silent;
        }
    }

    /// Closing the socket ends its registration.
    pub(crate) fn forget(&self, key: Key, watch: &mut Watch) {
        if let Some(scheduled) = watch.scheduled.take() {
            self.0.schedule(key, Some(scheduled), None);
        }
    }

    pub(crate) fn again(&self, key: Key) {
        let mut queue = lock(&self.0.queue);
        queue.push_back(key);
        if queue.len() == 1 {
            self.0.wake();
        }
    }

    pub(crate) fn blocked<T>(&self, call: impl FnOnce() -> T) -> T {
        self.0.crew.blocked.fetch_add(1, Ordering::SeqCst);
        self.0.fill_in();
        if self.0.left.load(Ordering::SeqCst) > 0 {
            self.0.wake();
        }
        let result = call();
        self.0.crew.blocked.fetch_sub(1, Ordering::SeqCst);
        result
    }

    /// # Errors
    /// What the listener or the system says.
    pub(crate) fn listen(&self, listener: &Arc<TcpListener>, _is_shared: bool) -> io::Result<()> {
        listener.set_nonblocking(true)?;
        lock(&self.0.listener).listener = Some(listener.clone());
        Ok(())
    }

    /// Reports the listener once, when a client connects or the time has passed.
    pub(crate) fn arm_listener(&self, when: Rearm) {
        match when {
            Rearm::OnClient => self.0.arm_listener(),
            Rearm::After(wait) => {
                self.0.schedule(LISTENER, None, Some(Instant::now() + wait));
            }
        }
    }

    /// Any thread can accept.
    #[allow(clippy::unused_self, reason = "the other engine has one for it")]
    pub(crate) fn replace_acceptor(&self) {}

    pub(crate) fn kick_listener(&self) {
        self.again(LISTENER);
    }

    /// Gives the listener up. Returns clients that have been accepted but not reported: none here.
    pub(crate) fn unlisten(&self) -> Vec<(TcpStream, SocketAddr)> {
        let mut listening = lock(&self.0.listener);
        let listener = listening.listener.take();
        if let Some(listener) = listener.filter(|_| listening.registered) {
            // Other holders of the same socket would keep it registered.
            let _ = epoll::delete(&self.0.epoll, &*listener);
        }
        Vec::new()
    }

    /// Always false: no thread here needs a connection to wake it.
    #[allow(clippy::unused_self, reason = "the other engine has some")]
    pub(crate) fn is_own(&self, _peer: SocketAddr) -> bool {
        false
    }

    pub(crate) fn close(&self) {
        self.0.crew.closed.store(true, Ordering::SeqCst);
        self.0.wake();
        self.0.crew.dismiss();
    }
}

fn data(key: Key) -> EventData {
    EventData::new_u64(u64::from(key.place) << 32 | u64::from(key.serial))
}

impl Shared {
    fn register(&self, key: Key, socket: &TcpStream, watch: &mut Watch) {
        let room = if watch.room { EventFlags::OUT } else { EventFlags::empty() };
        let flags = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET | room;
        let registered = match watch.registered {
            Registered::Never => epoll::add(&self.epoll, socket, data(key), flags),
            Registered::Silent | Registered::For { .. } => epoll::modify(&self.epoll, socket, data(key), flags),
        };
        match registered {
            Ok(()) => watch.registered = Registered::For { room: watch.room },
            // The system is out of memory, so the timer retries until it works.
            Err(_) => {
                let at = Instant::now() + AWAY;
                self.schedule(key, watch.scheduled.replace(at), Some(at));
            }
        }
    }

    fn arm_listener(&self) {
        let mut listening = lock(&self.listener);
        let Some(listener) = &listening.listener else { return };
        let flags = EventFlags::IN | EventFlags::ONESHOT;
        let armed = if listening.registered {
            epoll::modify(&self.epoll, &**listener, data(LISTENER), flags)
        } else {
            epoll::add(&self.epoll, &**listener, data(LISTENER), flags)
        };
        match armed {
            Ok(()) => listening.registered = true,
            Err(_) => self.schedule(LISTENER, None, Some(Instant::now() + AWAY)),
        }
    }

    /// Moves one due time. The timer is set only if the new time is earlier than the one it is set to.
    fn schedule(&self, key: Key, from: Option<Instant>, to: Option<Instant>) {
        let mut dues = lock(&self.dues);
        if let Some(from) = from {
            dues.at.remove(&(from, key));
        }
        if let Some(to) = to {
            dues.at.insert((to, key));
            if dues.armed.is_none_or(|armed| to < armed) {
                self.set_timer(&mut dues, to);
            }
        }
    }

    fn set_timer(&self, dues: &mut Dues, at: Instant) {
        let wait = at.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let value = Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: i64::from(u32::MAX), tv_nsec: 0 });
        let spec = Itimerspec { it_interval: zero, it_value: value };
        // It cannot fail with valid arguments.
        let _ = timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &spec);
        dues.armed = Some(at);
    }

    /// Returns the keys that are due now, and sets the timer for the next.
    fn due(&self) -> Vec<Key> {
        let mut dues = lock(&self.dues);
        let now = Instant::now();
        let mut due = Vec::new();
        while let Some((_, key)) = dues.at.first().copied().filter(|(at, _)| *at <= now) {
            dues.at.pop_first();
            due.push(key);
        }
        dues.armed = None;
        if let Some((at, _)) = dues.at.first().copied() {
            self.set_timer(&mut dues, at);
        }
        due
    }

    fn wake(&self) {
        // It fails only if it is readable already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn queued(&self) -> Option<Key> {
        let mut queue = lock(&self.queue);
        let key = queue.pop_front();
        if queue.is_empty() && !self.crew.closed.load(Ordering::SeqCst) {
            let _ = rustix::io::read(&self.wake, &mut [0; 8]); // Nothing to read means that it is silent already.
            if self.crew.closed.load(Ordering::SeqCst) {
                self.wake();
            }
        }
        key
    }

    fn take(&self) -> Option<(Key, Why)> {
        if self.left.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut taken = lock(&self.taken);
        let event = taken.pop_front();
        self.left.store(taken.len(), Ordering::SeqCst);
        event
    }

    fn leave(&self, events: impl Iterator<Item = (Key, Why)>) {
        let mut taken = lock(&self.taken);
        taken.extend(events);
        self.left.store(taken.len(), Ordering::SeqCst);
    }

    /// Starts a thread, or calls a spare one back, if fewer threads than wanted can take events.
    fn fill_in(self: &Arc<Self>) {
        if self.crew.available() < self.crew.wanted() {
            self.reinforce();
        }
    }

    /// Returns false if the system gives no thread: the existing ones have to do.
    fn reinforce(self: &Arc<Self>) -> bool {
        self.crew.call_spare() || self.add_thread().is_ok()
    }

    fn add_thread(self: &Arc<Self>) -> io::Result<()> {
        let Some(events) = self.events.get().and_then(Weak::upgrade) else { return Ok(()) };
        let shared = self.clone();
        self.crew.threads.fetch_add(1, Ordering::SeqCst);
        let name = format!("engine-{}", self.crew.made.fetch_add(1, Ordering::Relaxed) + 1);
        let thread = thread::Builder::new().name(name).spawn(move || {
            work(&shared, &events);
            shared.crew.threads.fetch_sub(1, Ordering::SeqCst);
        });
        if thread.is_err() {
            self.crew.threads.fetch_sub(1, Ordering::SeqCst);
        }
        thread.map(drop)
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("crew", &self.crew).finish_non_exhaustive()
    }
}

/// An engine thread.
fn work(shared: &Arc<Shared>, events: &Arc<dyn Events>) {
    let crew = &shared.crew;
    let mut buffer = [Event { flags: EventFlags::empty(), data: EventData::new_u64(0) }; BATCH];
    let mut is_under_load = false;
    loop {
        if let Some((key, why)) = shared.take() {
            handle(shared, events, key, why);
            continue;
        }
        if crew.is_one_too_many() && !crew.stand_by() {
            return;
        }
        if is_under_load {
            // More events may be about to come, and one wait for several is cheaper than a wake-up for each.
            thread::yield_now();
        }
        if !crew.begin_wait() {
            continue;
        }
        let waited = epoll::wait(&shared.epoll, &mut buffer, None);
        crew.end_wait();
        if crew.closed.load(Ordering::Relaxed) {
            return;
        }
        match waited {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(count) => {
                is_under_load = count > 1;
                if is_under_load {
                    shared.leave(buffer[1..count].iter().map(event));
                    crew.wake_sentinel();
                }
                let (key, why) = event(&buffer[0]);
                handle(shared, events, key, why);
            }
            Err(_) => return, // The epoll itself is broken, which no system does.
        }
    }
}

fn event(event: &Event) -> (Key, Why) {
    let (flags, data) = (event.flags, event.data.u64());
    let is_closing = flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
    let key = Key { place: (data >> 32) as u32, serial: data as u32 };
    (key, if is_closing { Why::Closing } else { Why::Ready })
}

fn handle(shared: &Arc<Shared>, events: &Arc<dyn Events>, key: Key, why: Why) {
    match key {
        LISTENER => accept(shared, events),
        QUEUE => match shared.queued() {
            Some(LISTENER) => accept(shared, events),
            Some(key) => events.clone().ready(key, Why::Again),
            None => {}
        },
        TIMER => {
            let _ = rustix::io::read(&shared.timer, &mut [0; 8]);
            // Other threads take the rest if one of them takes long.
            shared.leave(shared.due().into_iter().map(|key| (key, Why::Due)));
            shared.crew.wake_sentinel();
        }
        key => events.clone().ready(key, why),
    }
}

fn accept(shared: &Arc<Shared>, events: &Arc<dyn Events>) {
    let listener = lock(&shared.listener).listener.clone();
    if let Some(listener) = listener {
        events.clone().acceptable(&mut || -> io::Result<(TcpStream, SocketAddr)> {
            let client = listener.accept()?;
            // Admitting this client may take a while; meanwhile other threads serve the one before.
            if shared.left.load(Ordering::SeqCst) > 0 {
                shared.crew.wake_sentinel();
            }
            Ok(client)
        });
    }
    // Several clients have connected at once: have another thread take some of them.
    if shared.left.load(Ordering::SeqCst) > 1 && shared.crew.waiting() > 0 {
        shared.wake();
    }
}

/// Has other threads take the remaining events when no thread has come back for a while, because their handlers wait in
/// their own code.
fn sentinel(shared: &Arc<Shared>) {
    let crew = &shared.crew;
    let needs_no_one = || crew.waiting() > 0 && shared.left.load(Ordering::SeqCst) == 0;
    while !crew.closed.load(Ordering::SeqCst) {
        let waits = crew.waits();
        thread::park_timeout(AWAY);
        if crew.waits() != waits {
            continue; // Some thread has come back, or been called.
        }
        if needs_no_one() {
            crew.sleep_if(needs_no_one);
        } else if crew.waiting() > 0 {
            shared.wake();
        } else {
            crew.extra.fetch_add(1, Ordering::Relaxed);
            if !shared.reinforce() {
                crew.give_up_extra();
            }
        }
    }
}
