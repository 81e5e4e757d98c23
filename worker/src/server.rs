//! The accept loop: [`Server`], its [`Handle`], and what they report.

use std::any::Any;
use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::drain::{self, DrainReport};
use crate::quit::Quit;
use crate::registry::{ConnectionInfo, Counts, Entry, For, Outcome, Registry};
use crate::socket;
use crate::threads::Threads;

/// How long to wait before trying again when the system is out of descriptors, memory or threads, unless a connection
/// ends before. Nothing else would say that there is room again.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// While the system stays exhausted, that is said once in this time.
const EXHAUSTED_QUIET: Duration = Duration::from_secs(60);

/// How many clients are still taken from the accept queue when a stop has begun: as many as can have waited there, which
/// is what Linux allows unless told otherwise. Clients that keep coming meanwhile must not hold up the stop.
const QUEUE: usize = 4096;

/// How many clients are turned away politely at the same time, each by a thread of its own for up to
/// [`REFUSAL_LIMIT`]. Beyond that the answer may be lost.
const REFUSALS: usize = 32;

/// How long a client that is turned away gets to read why.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// How many connections a server serves at once, unless told otherwise.
const MAX_CONNECTIONS: usize = 10_000;

/// What serves the connections of a server, each in a thread of its own.
pub trait Handler: Send + Sync + 'static {
    /// Serves one connection until [`Connection::next_message`] returns false, or until the handler itself wants to
    /// close it.
    ///
    /// # Errors
    /// Anything that ends this connection. A panic ends this connection, too, and no other.
    fn serve(&self, client: &mut Connection) -> io::Result<()>;

    /// What a client is told when the server goes away. It then has until the end of the grace period to leave by
    /// itself. With None, for a protocol without a farewell, idle connections are simply closed.
    fn notice(&self) -> Option<&[u8]> {
        None
    }

    /// What a client is told when there are too many connections already.
    fn refusal(&self) -> &[u8] {
        b""
    }
}

/// What happens in a server, for logs. [`Server::observer`] sets who hears of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A client has connected.
    Connected {
        /// The number of the connection.
        id: u64,
        /// The client's address.
        peer: SocketAddr,
    },
    /// A connection has ended.
    Ended {
        /// The connection as it was at its end.
        connection: &'a ConnectionInfo,
        /// How it ended.
        outcome: Outcome,
        /// Why, if the handler ended it with an error.
        error: Option<&'a io::Error>,
    },
    /// A client was turned away because there are too many connections.
    Refused {
        /// The client's address.
        peer: SocketAddr,
    },
    /// A handler has panicked, which ended its connection.
    Panicked {
        /// The number of the connection.
        id: u64,
        /// The client's address.
        peer: SocketAddr,
        /// The panic's message.
        message: &'a str,
    },
    /// No connection can be taken at the moment: the system is out of descriptors, memory or threads. The server
    /// waits and goes on. Said once a minute while that lasts.
    Exhausted {
        /// What the system said.
        error: &'a io::Error,
    },
    /// The server thread is done; [`Handle::join`] returns at once.
    Finished,
}

type Observer = dyn Fn(&Event<'_>) + Send + Sync;

/// A server that has not been started yet.
pub struct Server {
    handler: Arc<dyn Handler>,
    observer: Arc<Observer>,
    max_connections: usize,
}

impl Server {
    /// A server whose connections are served by `handler`.
    pub fn new(handler: impl Handler) -> Server {
        Server { handler: Arc::new(handler), observer: Arc::new(|_| {}), max_connections: MAX_CONNECTIONS }
    }

    /// How many connections are served at once, 10,000 by default. The one too many gets [`Handler::refusal`].
    pub fn max_connections(mut self, limit: usize) -> Server {
        self.max_connections = limit;
        self
    }

    /// Who hears of everything that happens. Called from the server's threads: it must not block.
    pub fn observer(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Server {
        self.observer = Arc::new(observer);
        self
    }

    /// Starts a thread named `server` that accepts connections from a listener that is bound already.
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread.
    pub fn start(self, listener: TcpListener) -> io::Result<Handle> {
        listener.set_nonblocking(false)?;
        let shared = Arc::new(Shared {
            quit: Quit::new(&listener)?,
            registry: Arc::new(Registry::default()),
            handler: self.handler,
            observer: self.observer,
        });
        let threads = Threads::new({
            let shared = shared.clone();
            move |entry| serve(&shared, entry)
        });
        let acceptor = Acceptor {
            shared: shared.clone(),
            threads,
            max_connections: self.max_connections,
            refusals: Arc::new(AtomicUsize::new(0)),
            exhausted: None,
        };
        let address = listener.local_addr()?;
        let thread = thread::Builder::new().name("server".into()).spawn(move || acceptor.run(listener))?;
        Ok(Handle { stopper: Stopper { shared, address }, thread })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

/// A server that runs. Dropping the handle leaves it running.
#[derive(Debug)]
pub struct Handle {
    stopper: Stopper,
    thread: JoinHandle<Result<DrainReport, ServerError>>,
}

impl Handle {
    /// What stops this server from any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for the server to end and says what became of its connections.
    ///
    /// Not to be called by a handler of the same server: it would wait for itself until the end of the grace period.
    ///
    /// # Errors
    /// When the server ended by itself instead of being stopped.
    pub fn join(self) -> Result<DrainReport, ServerError> {
        self.thread.join().unwrap_or_else(|panic| Err(ServerError::Panicked(panic_message(&*panic).to_owned())))
    }
}

impl std::ops::Deref for Handle {
    type Target = Stopper;

    fn deref(&self) -> &Stopper {
        &self.stopper
    }
}

/// Stops a server, and looks into it, from any thread: a handler's own thread included.
#[derive(Debug, Clone)]
pub struct Stopper {
    shared: Arc<Shared>,
    address: SocketAddr,
}

impl Stopper {
    /// Begins to stop the server: its clients have from now until the end of the grace period to leave. Returns at
    /// once; [`Handle::join`] waits for the end.
    ///
    /// If the server is stopping already, its deadline moves: shorter, longer, or with [`Duration::ZERO`] to now, which
    /// closes by force what is left.
    pub fn stop(&self, grace: Duration) {
        self.stop_by(deadline_after(Instant::now(), grace));
    }

    /// The same as [`Stopper::stop`], with the end of the grace period as a point in time.
    pub fn stop_by(&self, deadline: Instant) {
        self.shared.registry.set_deadline(deadline);
        self.shared.quit.set();
    }

    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// When what is left will be closed by force. None while the server is not stopping.
    pub fn deadline(&self) -> Option<Instant> {
        self.shared.registry.lock().stop.map(|stop| stop.deadline)
    }

    /// How many connections there are and were.
    pub fn counts(&self) -> Counts {
        self.shared.registry.counts()
    }

    /// The connections that are open now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.shared.registry.connections()
    }
}

/// The end of a grace period that begins now.
pub fn deadline_after(now: Instant, grace: Duration) -> Instant {
    // Longer than the clock can count is as good as for ever.
    now.checked_add(grace).unwrap_or(now + Duration::from_secs(u32::MAX.into()))
}

/// Why a server ended without having been stopped.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServerError {
    /// The listener failed for good, and connections that were open have been closed.
    Accept(io::Error),
    /// The server thread panicked, with this message.
    Panicked(String),
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerError::Accept(error) => write!(formatter, "the listening socket failed: {error}"),
            ServerError::Panicked(message) => write!(formatter, "the server thread panicked: {message}"),
        }
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ServerError::Accept(error) => Some(error),
            ServerError::Panicked(_) => None,
        }
    }
}

/// What the threads of one server share.
pub(crate) struct Shared {
    pub(crate) quit: Quit,
    pub(crate) registry: Arc<Registry>,
    pub(crate) handler: Arc<dyn Handler>,
    observer: Arc<Observer>,
}

impl Shared {
    /// Tells the observer. If it panics, that costs its own report and nothing else.
    fn say(&self, event: &Event<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| (self.observer)(event)));
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("quit", &self.quit).finish_non_exhaustive()
    }
}

/// Runs on the thread `server`.
struct Acceptor {
    shared: Arc<Shared>,
    threads: Arc<Threads<Arc<Entry>>>,
    max_connections: usize,
    refusals: Arc<AtomicUsize>,
    /// When it was last said that the system is exhausted.
    exhausted: Option<Instant>,
}

/// Says that the server thread is done, however it ends.
struct Finish(Arc<Shared>, Arc<Threads<Arc<Entry>>>);

impl Drop for Finish {
    fn drop(&mut self) {
        self.0.say(&Event::Finished);
        self.1.end();
    }
}

impl Acceptor {
    fn run(mut self, listener: TcpListener) -> Result<DrainReport, ServerError> {
        let _finish = Finish(self.shared.clone(), self.threads.clone());
        let failed = self.accept_until_quit(&listener).err();
        self.shared.quit.noticed.set();
        self.threads.keep_all();
        let shared = self.shared.clone();
        match failed {
            None => self.empty_queue(&listener),
            Some(_) => {
                shared.registry.set_deadline(Instant::now());
                shared.quit.flag.set();
            }
        }
        drop(listener);
        let report = drain::drain(&shared.registry, shared.handler.notice());
        failed.map_or(Ok(report), |error| Err(ServerError::Accept(error)))
    }

    fn accept_until_quit(&mut self, listener: &TcpListener) -> io::Result<()> {
        while !self.shared.quit.flag.is_set() {
            match listener.accept() {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if concerns_one_client(&error) => {}
                // No longer a listening socket: it was shut down to end this loop, or by somebody else.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    return if self.shared.quit.flag.is_set() { Ok(()) } else { Err(error) };
                }
                Err(error) => self.wait_for_room(&error),
            }
        }
        Ok(())
    }

    /// Accepts what waited in the queue when the stop began: those clients are told, too.
    fn empty_queue(&mut self, listener: &TcpListener) {
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        for _ in 0..QUEUE {
            let alone = self.shared.registry.lock().connections.is_empty();
            match listener.accept() {
                Ok((stream, peer)) => {
                    // Where accepted sockets inherit it, they must not stay non-blocking.
                    let _ = stream.set_nonblocking(false);
                    self.admit(stream, peer);
                }
                Err(error) if concerns_one_client(&error) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::InvalidInput) => return,
                // No descriptor is left, and nobody has one to give.
                Err(_) if alone => return,
                Err(_) => {
                    if !self.make_room() {
                        return;
                    }
                }
            }
        }
    }

    /// No descriptor is left for those who wait in the queue. The others are told now: who leaves makes room. Returns
    /// whether there is time to try again.
    fn make_room(&self) -> bool {
        let shared = &self.shared;
        drain::tell_idle(&shared.registry, shared.handler.notice());
        let live = shared.registry.lock();
        let left = live.stop.map_or(Duration::ZERO, |stop| stop.deadline.saturating_duration_since(Instant::now()));
        if !live.connections.is_empty() {
            drop(shared.registry.wait(live, For::Room, left.min(EXHAUSTED_WAIT)));
        }
        !left.is_zero()
    }

    /// Serves, refuses, or recognizes as our own wake-up what was accepted.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let shared = &self.shared;
        if shared.quit.flag.is_set() && shared.quit.is_wake_up(peer) {
            return;
        }
        if shared.registry.lock().connections.len() >= self.max_connections {
            return self.refuse(stream, peer);
        }
        let entry = shared.registry.enter(stream, peer);
        loop {
            match self.threads.hand(entry.clone()) {
                Ok(()) => return,
                Err(error) if self.shared.quit.flag.is_set() => {
                    self.shared.say(&Event::Exhausted { error: &error });
                    return self.tell_without_thread(entry);
                }
                Err(error) => self.wait_for_room(&error),
            }
        }
    }

    /// There is no thread left and the server is quitting: the client hears it from this one.
    fn tell_without_thread(&self, entry: Arc<Entry>) {
        let shared = &self.shared;
        entry.turn.rest(&shared.quit.flag);
        if let Some(notice) = shared.handler.notice()
            && socket::send_at_once(&entry.stream, notice).is_ok_and(|written| written == notice.len())
        {
            drain::told(&shared.registry, &entry);
        }
        shared.registry.leave(entry, Outcome::Closed);
    }

    fn refuse(&self, stream: TcpStream, peer: SocketAddr) {
        self.shared.registry.count_refused();
        self.shared.say(&Event::Refused { peer });
        if self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS {
            let (shared, refusals) = (self.shared.clone(), self.refusals.clone());
            let thread = thread::Builder::new().name("refusal".into()).spawn(move || {
                refuse(&stream, shared.handler.refusal());
                refusals.fetch_sub(1, Ordering::Relaxed);
            });
            if thread.is_ok() {
                return;
            }
        }
        self.refusals.fetch_sub(1, Ordering::Relaxed);
    }

    fn wait_for_room(&mut self, error: &io::Error) {
        if self.exhausted.is_none_or(|said| said.elapsed() >= EXHAUSTED_QUIET) {
            self.exhausted = Some(Instant::now());
            self.shared.say(&Event::Exhausted { error });
        }
        let live = self.shared.registry.lock();
        if !self.shared.quit.flag.is_set() {
            drop(self.shared.registry.wait(live, For::Room, EXHAUSTED_WAIT));
        }
    }
}

/// Whether `accept` failed because of a client that had not been accepted yet, and not because of the listener.
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    )
}

/// Tells a client that there is no room for it, and lets it read that.
fn refuse(mut stream: &TcpStream, answer: &[u8]) {
    let end = Instant::now() + REFUSAL_LIMIT;
    let _ = stream.set_write_timeout(Some(REFUSAL_LIMIT));
    let said = io::Write::write_all(&mut stream, answer).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut rest = [0; 1024];
    while said.is_ok() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        if !stream.read(&mut rest).is_ok_and(|length| length > 0) {
            return;
        }
    }
}

/// Runs on a thread `handler-N`.
fn serve(shared: &Arc<Shared>, entry: Arc<Entry>) {
    shared.say(&Event::Connected { id: entry.id, peer: entry.peer });
    let mut connection = Connection::new(entry.clone(), shared.clone());
    // A handler that panics costs its connection and nothing else: what it shares with others is its own affair, as
    // it would be if the thread had ended with the panic.
    let served = panic::catch_unwind(AssertUnwindSafe(|| shared.handler.serve(&mut connection)));
    let served = served.unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        shared.say(&Event::Panicked { id: entry.id, peer: entry.peer, message });
        Err(io::Error::other(format!("the handler panicked: {message}")))
    });
    let outcome = connection.finish(&served);
    // Said before it leaves: a drain ends with the last to leave, and then nothing follows.
    shared.say(&Event::Ended { connection: &entry.info(), outcome, error: served.as_ref().err() });
    shared.registry.leave(entry, outcome);
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<&str>() {
        Some(message) => message,
        None => panic.downcast_ref::<String>().map_or("(no message)", String::as_str),
    }
}
