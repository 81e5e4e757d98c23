//! A thread for each connection, which waits in `peek` for its client and serves it. With std alone, on any system.
//!
//! A waiting thread owns nothing: its connection is in its slot meanwhile. So a thread that never wakes does no harm,
//! as may happen on Windows, where nothing ends a blocked call. Another thread accepts; when the listener is closed, a
//! connection of our own wakes it.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use super::events::{Events, Key, Rearm, Why};

/// How many threads may wait for a connection. Further ones end when they have nothing to do.
const SPARE: usize = 64;

/// How long a connection to our own port may take. On loopback it is made at once, or not at all because the accept
/// queue is full; in that case `accept` has something to return.
const KNOCK_LIMIT: Duration = Duration::from_millis(100);

/// How often the caller itself tries to wake the accepting thread, where others may accept those connections.
const KNOCKS: u32 = 10;

/// On Windows: how often a waiting thread checks whether its connection has ended.
const LOOK_UP: Duration = Duration::from_secs(30);

/// What the engine knows of one socket.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    pub(crate) room: bool,
    job: Option<Arc<Job>>,
}

/// What a thread waits for.
#[derive(Debug)]
struct Job {
    key: Key,
    socket: Arc<TcpStream>,
    state: Mutex<Waiting>,
}

#[derive(Debug)]
enum Task {
    /// Wait, with this number.
    Wait(Arc<Job>, u64),
    Report(Key, Why),
}

#[derive(Debug, Default)]
struct Waiting {
    waiter: Waiter,
    /// The number of the current waiter. An older one waits for too long, and ends when it returns.
    number: u64,
    armed: bool,
    due: Option<Instant>,
    gone: bool,
}

/// The thread that waits for a connection's client.
#[derive(Debug, Default)]
enum Waiter {
    #[default]
    Absent,
    /// It looks at what it waits for before it waits.
    Awake,
    /// It waits in a system call. None: without a limit.
    Waits { until: Option<Instant> },
}

#[derive(Debug, Clone)]
pub(crate) struct Engine(Arc<Shared>);

#[derive(Default)]
struct Shared {
    events: OnceLock<Weak<dyn Events>>,
    pool: Mutex<Pool>,
    handed: Condvar,
    door: Mutex<Door>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pool {
    queue: VecDeque<Task>,
    idle: usize,
    made: usize,
    closed: bool,
}

/// The accepting thread.
#[derive(Debug, Default)]
struct Door {
    armed: bool,
    not_before: Option<Instant>,
    closing: bool,
    is_shared: bool,
    gone: bool,
    /// The number of the current accepting thread. An older one hangs, and ends when it returns.
    acceptor: u64,
    /// It waits for a client in a system call, or is about to.
    accepting: bool,
    /// The source addresses of the connections that wake it.
    knocks: Vec<SocketAddr>,
    late: Vec<(TcpStream, SocketAddr)>,
    listener: Option<Arc<TcpListener>>,
    /// A spare descriptor, given up when none is left to connect with.
    spare: Option<TcpListener>,
}

impl Engine {
    /// A call that may wait for a client just waits: nothing else needs its thread.
    pub(crate) const POLLS: bool = false;

    #[allow(clippy::unnecessary_wraps, reason = "the other engine needs the system for it")]
    pub(crate) fn new() -> io::Result<Engine> {
        Ok(Engine(Arc::default()))
    }

    #[allow(clippy::unnecessary_wraps, reason = "the other engine starts threads here")]
    pub(crate) fn run(&self, events: &Arc<dyn Events>) -> io::Result<()> {
        let _ = self.0.events.set(Arc::downgrade(events)); // Called once.
        Ok(())
    }

    pub(crate) fn watch(&self, key: Key, socket: &Arc<TcpStream>, watch: &mut Watch, due: Option<Instant>) {
        let job =
            watch.job.get_or_insert_with(|| Arc::new(Job { key, socket: socket.clone(), state: Mutex::default() }));
        let mut state = lock(&job.state);
        state.armed = true;
        state.due = due;
        let new = state.replace_waiter();
        drop(state);
        if let Some(number) = new {
            self.0.hand(Task::Wait(job.clone(), number));
        }
        if watch.room {
            self.0.hand(Task::Report(key, Why::Room));
        }
    }

    /// A new connection waits for its client as it will later.
    pub(crate) fn welcome(&self, key: Key, socket: &Arc<TcpStream>, watch: &mut Watch, due: Option<Instant>) {
        self.watch(key, socket, watch, due);
    }

    pub(crate) fn came(_watch: &mut Watch) {}

    pub(crate) fn unwatch(&self, _socket: &TcpStream, _watch: &mut Watch) {}

    pub(crate) fn forget(&self, _key: Key, watch: &mut Watch) {
        if let Some(job) = watch.job.take() {
            lock(&job.state).gone = true;
            // Its thread has the socket, too. `shutdown` fails only if the client is already gone.
            let _ = job.socket.shutdown(Shutdown::Both);
        }
    }

    pub(crate) fn again(&self, key: Key) {
        self.0.hand(Task::Report(key, Why::Again));
    }

    pub(crate) fn blocked<T>(&self, call: impl FnOnce() -> T) -> T {
        call()
    }

    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn listen(&self, listener: &Arc<TcpListener>, is_shared: bool) -> io::Result<()> {
        listener.set_nonblocking(false)?;
        let mut door = lock(&self.0.door);
        door.is_shared = is_shared;
        door.spare = listener.try_clone().ok();
        door.listener = Some(listener.clone());
        self.0.start_acceptor(&mut door)
    }

    /// The accepting thread hangs in a handler: another one takes its place.
    pub(crate) fn replace_acceptor(&self) {
        let _ = self.0.start_acceptor(&mut lock(&self.0.door)); // Without it clients wait until the old one returns.
    }

    pub(crate) fn arm_listener(&self, when: Rearm) {
        let mut door = lock(&self.0.door);
        door.armed = true;
        door.not_before = match when {
            Rearm::OnClient => None,
            Rearm::After(wait) => Some(Instant::now() + wait),
        };
        self.0.changed.notify_all();
    }

    /// The accepting thread either waits for clients, or has the turn; then this finds nothing to do.
    pub(crate) fn kick_listener(&self) {
        if let Some(events) = self.0.events() {
            events.acceptable(&mut || Err(ErrorKind::WouldBlock.into()));
        }
    }

    /// Gives the listener up, and returns clients that have been accepted but not reported.
    pub(crate) fn unlisten(&self) -> Vec<(TcpStream, SocketAddr)> {
        let mut door = lock(&self.0.door);
        door.closing = true;
        self.0.changed.notify_all();
        let Some(listener) = door.listener.take() else { return Vec::new() };
        let is_shared = door.is_shared;
        drop(door);
        if !self.0.wake_acceptor(&listener, KNOCKS) && is_shared {
            // Others accept the connections that should wake it, or none can be made: it finds out when a client
            // connects.
            let shared = self.0.clone();
            let wake = move || while !shared.wake_acceptor(&listener, KNOCKS) {};
            let _ = thread::Builder::new().name("wake-up".into()).spawn(wake);
        }
        std::mem::take(&mut lock(&self.0.door).late)
    }

    /// Whether a connection from `peer` is our own, made to wake the accepting thread.
    pub(crate) fn is_own(&self, peer: SocketAddr) -> bool {
        lock(&self.0.door).knocks.iter().any(|knock| is_same(*knock, peer))
    }

    pub(crate) fn close(&self) {
        lock(&self.0.pool).closed = true;
        self.0.handed.notify_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that could panic runs under these locks.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Waiting {
    /// Returns the number of a new waiter, if there is none, or the present one would return too late.
    fn replace_waiter(&mut self) -> Option<u64> {
        let is_needed = match self.waiter {
            Waiter::Absent => true,
            Waiter::Awake => false,
            Waiter::Waits { until } => self.due.is_some_and(|due| until.is_none_or(|until| due < until)),
        };
        is_needed.then(|| {
            self.waiter = Waiter::Awake;
            self.number += 1;
            self.number
        })
    }

    /// Whether this waiter has to wait, and until when. None: it has to end.
    fn begin_to_wait(&mut self, number: u64) -> Option<Option<Instant>> {
        if self.number != number {
            return None;
        }
        let waits = std::mem::take(&mut self.armed) && !self.gone;
        self.waiter = if waits { Waiter::Waits { until: self.due } } else { Waiter::Absent };
        waits.then_some(self.due)
    }

    /// Whether this waiter, which has returned, reports the connection: it is the current one.
    fn end_wait(&mut self, number: u64) -> bool {
        let is_current = self.number == number;
        if is_current {
            self.waiter = Waiter::Awake;
        }
        is_current
    }
}

impl Shared {
    fn events(&self) -> Option<Arc<dyn Events>> {
        self.events.get().and_then(Weak::upgrade)
    }

    /// Has a thread do this: an idle one, or else a new one. If none can be started, the next one that becomes idle
    /// does it.
    fn hand(self: &Arc<Self>, task: Task) {
        lock(&self.pool).queue.push_back(task);
        let _ = self.provide(0);
        self.handed.notify_one();
    }

    /// Makes sure that there are idle threads for everything that is queued and for `more` further connections.
    fn provide(self: &Arc<Self>, more: usize) -> io::Result<()> {
        let mut pool = lock(&self.pool);
        if pool.idle < pool.queue.len() + more {
            let shared = self.clone();
            let name = format!("engine-{}", pool.made + 1);
            thread::Builder::new().name(name).spawn(move || shared.work())?;
            pool.made += 1;
            pool.idle += 1;
        }
        Ok(())
    }

    fn start_acceptor(self: &Arc<Self>, door: &mut Door) -> io::Result<()> {
        let Some(listener) = door.listener.clone() else { return Ok(()) };
        let (shared, number) = (self.clone(), door.acceptor + 1);
        thread::Builder::new().name("acceptor".into()).spawn(move || {
            shared.accept(&listener, number);
            // Dropped before others learn that this thread is gone.
            drop(listener);
            let mut door = lock(&shared.door);
            door.gone |= door.acceptor == number;
            shared.changed.notify_all();
        })?;
        door.acceptor = number;
        Ok(())
    }

    fn work(&self) {
        let mut pool = lock(&self.pool);
        loop {
            let Some(task) = pool.queue.pop_front() else {
                if pool.closed || pool.idle > SPARE {
                    pool.idle -= 1;
                    return;
                }
                pool = self.handed.wait(pool).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            pool.idle -= 1;
            drop(pool);
            if let Some(events) = self.events() {
                match task {
                    Task::Wait(job, number) => wait_and_serve(&job, number, &events),
                    Task::Report(key, why) => events.ready(key, why),
                }
            }
            pool = lock(&self.pool);
            pool.idle += 1;
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener, number: u64) {
        let mut in_hand = None;
        loop {
            let Some(events) = self.wait_until_armed(&mut in_hand, number) else { return };
            if in_hand.is_none() {
                if let Err(error) = self.provide(1) {
                    let mut error = Some(error);
                    events.acceptable(&mut || Err(error.take().unwrap_or(ErrorKind::WouldBlock.into())));
                    continue;
                }
                if !self.begin_to_accept() {
                    continue;
                }
                in_hand = Some(listener.accept());
                lock(&self.door).accepting = false;
                // Another process may have made the listener non-blocking; this thread needs it to block.
                let found_none = matches!(&in_hand, Some(Err(error)) if error.kind() == ErrorKind::WouldBlock);
                if found_none && listener.set_nonblocking(false).is_ok() {
                    in_hand = None;
                    lock(&self.door).armed = true;
                    continue;
                }
                lock(&self.door).armed = true;
                continue; // The listener may have been closed meanwhile, or nothing serves.
            }
            events.acceptable(&mut || in_hand.take().unwrap_or_else(|| Err(ErrorKind::WouldBlock.into())));
        }
    }

    /// From now on this thread may block in `accept` and has to be woken. False: the listener is closed.
    fn begin_to_accept(&self) -> bool {
        let mut door = lock(&self.door);
        door.accepting = !door.closing;
        door.accepting
    }

    /// Waits until clients are accepted, and ends that. None: the listener is closed, or this thread was replaced. A
    /// client in hand is then a late one, unless it is a connection of our own.
    fn wait_until_armed(
        &self,
        in_hand: &mut Option<io::Result<(TcpStream, SocketAddr)>>,
        number: u64,
    ) -> Option<Arc<dyn Events>> {
        let mut door = lock(&self.door);
        loop {
            if door.closing || door.acceptor != number {
                if let Some(Ok((stream, peer))) = in_hand.take() {
                    if !door.knocks.iter().any(|knock| is_same(*knock, peer)) {
                        door.late.push((stream, peer));
                    }
                }
                door.spare = None;
                return None;
            }
            let wait = door.not_before.map(|at| at.saturating_duration_since(Instant::now()));
            match wait {
                Some(wait) if door.armed && !wait.is_zero() => {
                    let waited = self.changed.wait_timeout(door, wait);
                    door = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
                _ if door.armed => {
                    door.armed = false;
                    door.not_before = None;
                    return self.events();
                }
                _ => door = self.changed.wait(door).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// Wakes the accepting thread by a connection to its own port. Returns whether the thread has stopped accepting.
    fn wake_acceptor(&self, listener: &Arc<TcpListener>, times: u32) -> bool {
        let Ok(address) = listener.local_addr() else { return false };
        for _ in 0..times {
            let mut door = lock(&self.door);
            if door.gone {
                return true;
            }
            if door.accepting {
                // Under the lock, so that the thread knows where the connection came from when it has accepted it.
                let mut knocked = knock(address);
                if knocked.is_none() && door.spare.take().is_some() {
                    knocked = knock(address);
                }
                door.knocks.extend(knocked.as_ref().and_then(|stream| stream.local_addr().ok()));
                if knocked.is_none() && !door.is_shared {
                    shut(listener);
                }
            }
            let is_there = |door: &mut Door| !door.gone;
            let waited = self.changed.wait_timeout_while(door, KNOCK_LIMIT, is_there);
            if waited.unwrap_or_else(PoisonError::into_inner).0.gone {
                return true;
            }
        }
        false
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Shared").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// Waits for a client and serves it, again each time its connection waits again.
fn wait_and_serve(job: &Job, number: u64, events: &Arc<dyn Events>) {
    loop {
        let Some(due) = lock(&job.state).begin_to_wait(number) else { return };
        let why = wait_for(job, due);
        if !lock(&job.state).end_wait(number) {
            return;
        }
        events.clone().ready(job.key, why);
    }
}

fn wait_for(job: &Job, due: Option<Instant>) -> Why {
    loop {
        let remaining = due.map(|due| due.saturating_duration_since(Instant::now()));
        if remaining.is_some_and(|remaining| remaining.is_zero()) {
            return Why::Due;
        }
        let limit = if cfg!(windows) { Some(remaining.map_or(LOOK_UP, |limit| limit.min(LOOK_UP))) } else { remaining };
        if job.socket.set_read_timeout(limit).is_err() {
            return Why::Ready;
        }
        match job.socket.peek(&mut [0]) {
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
            {
                if lock(&job.state).gone {
                    return Why::Ready;
                }
            }
            Ok(_) | Err(_) => return Why::Ready,
        }
    }
}

/// Connects to a listener through an address at which this machine can reach it: connecting to `0.0.0.0` fails on
/// Windows, and where IPv6 is disabled, as in many containers, there is no `::1`, though `[::]` accepts IPv4 clients.
fn knock(listener: SocketAddr) -> Option<TcpStream> {
    let through = |ip: IpAddr| SocketAddr::new(ip, listener.port());
    let doors = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![through(Ipv4Addr::LOCALHOST.into())],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![through(Ipv6Addr::LOCALHOST.into()), through(Ipv4Addr::LOCALHOST.into())]
        }
        // Unchanged: a link-local address is useless without its scope.
        _ => vec![listener],
    };
    doors.iter().filter(|door| is_here(**door)).find_map(|door| TcpStream::connect_timeout(door, KNOCK_LIMIT).ok())
}

/// Whether this machine still has that address, which may belong to another machine by now.
fn is_here(mut door: SocketAddr) -> bool {
    door.set_port(0);
    let nowhere = |error: io::Error| error.kind() == ErrorKind::AddrNotAvailable;
    door.ip().is_loopback() || !TcpListener::bind(door).is_err_and(nowhere)
}

/// Whether these are the same address. A listener on every IPv6 address sees an IPv4 client under a mapped address.
fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}

/// Ends a blocked `accept` on this socket, on Linux: std offers this only for streams, but a socket is a socket.
#[cfg(unix)]
fn shut(listener: &TcpListener) {
    if let Ok(listener) = listener.try_clone() {
        let _ = TcpStream::from(std::os::fd::OwnedFd::from(listener)).shutdown(Shutdown::Both);
    }
}

/// On Windows this would end nothing.
#[cfg(windows)]
fn shut(_listener: &TcpListener) {}
