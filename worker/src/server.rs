//! [`Server`], its [`Handle`], and what they report.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::acceptor::Acceptor;
use crate::connection::Connection;
use crate::drain::{self, Closed, DrainReport};
use crate::gate::Gate;
use crate::probe::Probe;
use crate::quit::{Flag, Quit, Unreachable, may_be_full_queue};
use crate::registry::{ConnectionInfo, Counts, Entry, Ids, Outcome, Queue, Registry};
use crate::threads::Threads;

/// How many connections a server serves at once, unless told otherwise.
pub const MAX_CONNECTIONS: usize = 10_000;

/// How long to wait before `accept` is woken once more, where somebody else may have accepted the wake-up.
const AGAIN: Duration = Duration::from_millis(100);

/// What serves the connections of a server, each in a thread of its own.
pub trait Handler: Send + Sync + 'static {
    /// Serves one connection until [`Connection::next_message`] returns false, or until the handler itself wants to
    /// close it.
    ///
    /// # Errors
    /// Anything that ends this connection. A panic ends this connection, too, and no other.
    fn serve(&self, client: &mut Connection) -> io::Result<()>;

    /// What a client is told when the server goes away. It then has until the end of the grace period to leave by
    /// itself. With None, for a protocol without a farewell, idle connections are simply closed. (One that was accepted
    /// just before, and has sent nothing yet, has [a moment](crate::FIRST_MESSAGE_WAIT) for its first message.) Asked
    /// for once, by [`Server::new`].
    fn notice(&self) -> Option<&[u8]> {
        None
    }

    /// What a client is told when there are too many connections already.
    fn refusal(&self) -> &[u8] {
        b""
    }

    /// Whether a client is served at all. False closes its connection without a word.
    ///
    /// Called on the server thread: while it runs nobody else is accepted, and a panic in it ends the server.
    fn admits(&self, _peer: SocketAddr) -> bool {
        true
    }
}

/// One handler for several servers, such as those that replace one another.
impl<H: Handler + ?Sized> Handler for Arc<H> {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        (**self).serve(client)
    }

    fn notice(&self) -> Option<&[u8]> {
        (**self).notice()
    }

    fn refusal(&self) -> &[u8] {
        (**self).refusal()
    }

    fn admits(&self, peer: SocketAddr) -> bool {
        (**self).admits(peer)
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
    /// The server takes connections from now on.
    Accepting,
    /// The server can accept nothing any more, though it was not told to quit. It lets its clients go.
    Failed {
        /// Why.
        failure: &'a Failure,
    },
    /// The server is done; [`Handle::join`] returns at once.
    Finished,
}

type Observer = dyn Fn(&Event<'_>) + Send + Sync;

/// A server that has not been started yet.
pub struct Server {
    handler: Arc<dyn Handler>,
    notice: Option<Box<[u8]>>,
    observer: Arc<Observer>,
    max_connections: usize,
    grace_on_failure: Duration,
    shared_listener: bool,
    ids: Ids,
}

impl Server {
    /// A server whose connections are served by `handler`.
    pub fn new(handler: impl Handler) -> Server {
        Server {
            notice: handler.notice().map(Into::into),
            handler: Arc::new(handler),
            observer: Arc::new(|_| {}),
            max_connections: MAX_CONNECTIONS,
            grace_on_failure: Duration::ZERO,
            shared_listener: false,
            ids: Ids::default(),
        }
    }

    /// How many connections are served at once, 10,000 by default. The one too many gets [`Handler::refusal`].
    pub fn max_connections(mut self, limit: usize) -> Server {
        self.max_connections = limit;
        self
    }

    /// How long clients get to leave when the server fails, see [`Event::Failed`]. By default they are closed at once.
    pub fn grace_on_failure(mut self, grace: Duration) -> Server {
        self.grace_on_failure = grace;
        self
    }

    /// Whether others accept from the same listener, too, or will: a process that passed it to this one and keeps it,
    /// say. A stop leaves the accept queue to them then, and the listener as it is. By default a stop takes what waits
    /// in the queue, to tell it, too.
    ///
    /// All who share a listener share its mode: a server waits in `accept`, and sets it to be blocking.
    pub fn shared_listener(mut self, shared: bool) -> Server {
        self.shared_listener = shared;
        self
    }

    /// Where the numbers of its connections come from. By default it counts its own from 1.
    pub fn ids(mut self, ids: Ids) -> Server {
        self.ids = ids;
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
        let handle = self.start_closed(listener)?;
        handle.open(None);
        Ok(handle)
    }

    /// Like [`Server::start`], but accepts nothing before [`Stopper::open`] is called: another server still accepts
    /// from the same listener, of which this one has a clone. See [`Stopper::retire_by`].
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread.
    pub fn start_closed(self, listener: TcpListener) -> io::Result<Handle> {
        listener.set_nonblocking(false)?;
        let shared = Arc::new(Shared {
            quit: Quit::new(&listener)?,
            shared_listener: self.shared_listener,
            waking: AtomicBool::new(false),
            draining: Flag::new(),
            leave: Flag::new(),
            gate: Gate::default(),
            successor: Mutex::default(),
            probe: Probe::default(),
            registry: Arc::new(Registry::new(self.ids)),
            notice: self.notice,
            handler: self.handler,
            observer: self.observer,
            ending: AtomicBool::new(false),
        });
        let threads = Threads::new({
            let shared = shared.clone();
            move |entry| serve(&shared, entry)
        });
        let address = listener.local_addr()?;
        let end = End { shared: shared.clone(), threads: threads.clone(), grace_on_failure: self.grace_on_failure };
        let acceptor = Acceptor::new(shared.clone(), threads.clone(), self.max_connections);
        let thread = spawn(end.clone(), move |end| {
            let no_client = end.shared.gate.pass();
            // What the accepting thread leaves behind after a panic is a loop that is over.
            let accepted = panic::catch_unwind(AssertUnwindSafe(|| acceptor.run(&listener, no_client)));
            drop(listener);
            let failure = match accepted {
                Ok(accepted) => accepted.err().map(Failure::Accept),
                Err(panic) => Some(Failure::Panicked(panic_message(&*panic).to_owned())),
            };
            end.come(failure)
        })?;
        Ok(Handle { stopper: Stopper { shared, address }, end, thread })
    }
}

/// Starts the thread `server`, or one in its place.
fn spawn(
    end: End,
    run: impl FnOnce(End) -> Result<DrainReport, ServerError> + Send + 'static,
) -> io::Result<JoinHandle<Result<DrainReport, ServerError>>> {
    thread::Builder::new().name("server".into()).spawn(move || run(end))
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
    end: End,
    thread: JoinHandle<Result<DrainReport, ServerError>>,
}

impl Handle {
    /// What stops this server from any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for the server to end and says what became of its connections.
    ///
    /// On Windows a handler may still be in [`Connection::next_message`], in a read or in a write, if the server has
    /// closed its connection and the client has not: nothing wakes it there. It finds that its client has left when
    /// that closes; a read finds it after half a minute at the latest, or when its own limit is over.
    ///
    /// Not to be called by a handler of the same server: it would wait for itself until the end of the grace period.
    ///
    /// # Errors
    /// When the server ended by itself instead of being stopped.
    pub fn join(self) -> Result<DrainReport, ServerError> {
        self.thread.join().unwrap_or_else(|panic| {
            let failure = Failure::Panicked(panic_message(&*panic).to_owned());
            Err(ServerError { failure, drain: DrainReport::default() })
        })
    }

    /// Gives up the server thread, which hangs, and lets its clients go from a new one: a failure like a panic. Should
    /// the old thread ever go on, it ends without a word.
    ///
    /// # Errors
    /// When the system gives no thread. Nothing has changed then.
    pub fn abandon_thread(&mut self, why: impl Into<String>) -> io::Result<()> {
        if self.end.shared.ending.load(Ordering::SeqCst) {
            return Ok(()); // It does not accept any more, and knows what becomes of its clients.
        }
        let failure = Failure::Hung(why.into());
        self.thread = spawn(self.end.clone(), move |end| end.come(Some(failure)))?;
        Ok(())
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
        // All set before anybody is woken: whoever wakes finds everything as it is going to be.
        self.shared.leave.set();
        self.shared.draining.set();
        let (queue, unreachable) = match self.shared.shared_listener {
            false => (Queue::Emptied, Unreachable::Shut),
            true => (Queue::Left, Unreachable::Wait),
        };
        self.shared.registry.begin_stop(deadline, queue);
        // It fails only where the thread is to go on.
        let _ = self.wake(unreachable);
    }

    /// Moves the deadline of a stop that is under way, of either kind: nearer or farther, also to now. Returns whether
    /// there is one.
    pub fn move_deadline(&self, deadline: Instant) -> bool {
        self.shared.registry.move_deadline(deadline)
    }

    /// Begins to stop the server, since another one on the same listener takes its place: the accept queue is left to
    /// that one. Returns at once. As soon as this one accepts nothing any more it calls `successor`, on its own thread:
    /// the place for the [`Stopper::open`] of the other one, which takes the same argument.
    ///
    /// Clients are told as in any stop, except for those of a handler without a notice: their next message is still
    /// answered, and a connection that stays quiet is closed at the end of the grace period.
    ///
    /// [`Stopper::stop`] afterwards lets these go as any stop does, and moves the deadline.
    ///
    /// # Errors
    /// When nothing can connect to its address, so that the accepting thread cannot be woken: the address has been
    /// removed, or loopback is switched off. The server goes on then as if nothing had been.
    pub fn retire_by(
        &self,
        deadline: Instant,
        successor: impl FnOnce(Option<SocketAddr>) + Send + 'static,
    ) -> io::Result<()> {
        let shared = &self.shared;
        *shared.lock_successor() = Some(Box::new(successor));
        // Before the thread is woken: it looks at it when it accepts no more.
        shared.registry.begin_stop(deadline, Queue::Left);
        if let Err(error) = self.wake(Unreachable::Fail) {
            shared.registry.call_off_stop();
            shared.lock_successor().take();
            return Err(error);
        }
        shared.retire(deadline);
        if shared.ending.load(Ordering::SeqCst) {
            // It has ended before it could see that.
            shared.make_way();
        }
        Ok(())
    }

    /// Tells the accepting thread to quit, and wakes it. Where others accept, too, one of them may accept the wake-up
    /// instead; then a thread named `wake-up` tries again until it has worked. There is nothing that it could give up
    /// for: a deadline may have passed already, and a server whose accepting thread does not quit never ends.
    fn wake(&self, unreachable: Unreachable) -> io::Result<()> {
        let shared = &self.shared;
        shared.quit.set(unreachable)?;
        if !shared.shared_listener || shared.waking.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let waking = shared.clone();
        let thread = thread::Builder::new().name("wake-up".into()).spawn(move || {
            while !waking.quit.is_gone_within(AGAIN) {
                if !waking.quit.set_again() && waking.leave.is_set() {
                    // Nothing can connect to the listener, and it must not be shut down: the accepting thread goes on
                    // when a client comes. Those that are there shall not have to wait for that.
                    drain::tell_idle(&waking);
                }
            }
        });
        if thread.is_err() {
            // The first one may have worked, and the next one who asks for a stop tries again.
            shared.waking.store(false, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Lets a server accept that was started with [`Server::start_closed`]. A connection from `no_client`, which waits
    /// in the queue, is the one that woke its predecessor.
    pub fn open(&self, no_client: Option<SocketAddr>) {
        self.shared.gate.open(no_client);
    }

    /// Whether the server takes connections: connects to it, and waits up to `limit` until the accepting thread has
    /// gone round, for this connection or another one.
    ///
    /// # Errors
    /// When that cannot be told, because nothing can connect: this process is out of descriptors, say, or the system
    /// out of ports.
    pub fn is_accepting(&self, limit: Duration) -> io::Result<bool> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // Somebody else may have accepted the connection.
            let wait = if self.shared.shared_listener { left.min(AGAIN) } else { left };
            let (seen, knocked) = self.shared.probe.look(wait, || self.shared.quit.knock(wait));
            match knocked {
                _ if seen => return Ok(true),
                Err(error) if !may_be_full_queue(&error) => return Err(error),
                Ok(_) | Err(_) => {} // Not yet.
            }
        }
    }

    /// Ends one connection: its client is told as in a stop, and closed by force if it is still there when the grace
    /// period is over. Waits for that. None: there is no such connection.
    ///
    /// Not to be called by the connection's own handler: it would wait for itself.
    pub fn close(&self, id: u64, grace: Duration) -> Option<Closed> {
        drain::close(&self.shared, id, grace)
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
    // A hundred years are as good as for ever, and far from what the clock cannot count.
    now + grace.min(Duration::from_secs(u32::MAX.into()))
}

/// A server ended without having been stopped.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServerError {
    /// Why it ended.
    pub failure: Failure,
    /// What became of its connections.
    pub drain: DrainReport,
}

/// Why a server cannot accept any more.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The listener failed for good.
    Accept(io::Error),
    /// The server thread panicked, with this message.
    Panicked(String),
    /// The server thread was given up, for this reason.
    Hung(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Accept(error) => write!(formatter, "the listening socket failed: {error}"),
            Failure::Panicked(message) => write!(formatter, "the server thread panicked: {message}"),
            Failure::Hung(why) => write!(formatter, "the server thread hangs: {why}"),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(formatter)
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.failure {
            Failure::Accept(error) => Some(error),
            Failure::Panicked(_) | Failure::Hung(_) => None,
        }
    }
}

/// What the threads of one server share.
pub(crate) struct Shared {
    pub(crate) quit: Quit,
    /// Whether others accept from the same listener.
    shared_listener: bool,
    /// Set while a thread sees to it that the accepting thread is woken.
    waking: AtomicBool,
    /// Set when the server goes away: a handler that can say so in an answer does.
    pub(crate) draining: Flag,
    /// Set when connections have to leave at their next message boundary. That is not so from the beginning when a
    /// server makes room for another one, and its clients have no notice: they may ask once more.
    pub(crate) leave: Flag,
    gate: Gate,
    successor: Mutex<Option<Successor>>,
    pub(crate) probe: Probe,
    pub(crate) registry: Arc<Registry>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) notice: Option<Box<[u8]>>,
    observer: Arc<Observer>,
    /// Set by the thread that lets the clients go: one does.
    ending: AtomicBool,
}

type Successor = Box<dyn FnOnce(Option<SocketAddr>) + Send>;

impl Shared {
    /// Tells the observer. If it panics, that costs its own report and nothing else.
    pub(crate) fn say(&self, event: &Event<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| (self.observer)(event)));
    }

    /// A connection has ended: whoever finds that says so, its thread or who has given that up.
    pub(crate) fn end(&self, entry: Arc<Entry>, outcome: Outcome, error: Option<&io::Error>) {
        // Said before it leaves: a drain ends with the last to leave, and then nothing follows.
        self.say(&Event::Ended { connection: &entry.info(), outcome, error });
        self.registry.leave(entry, outcome);
    }

    fn retire(&self, deadline: Instant) {
        self.draining.set();
        if self.notice.is_some() {
            self.leave.set();
        }
        self.registry.begin_stop(deadline, Queue::Left);
    }

    /// Nobody accepts here any more.
    fn make_way(&self) {
        let successor = self.lock_successor().take();
        if let Some(successor) = successor {
            successor(self.quit.left_in_queue());
        }
    }

    fn lock_successor(&self) -> std::sync::MutexGuard<'_, Option<Successor>> {
        self.successor.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("quit", &self.quit).finish_non_exhaustive()
    }
}

/// The end of a server, after its accept loop.
#[derive(Clone)]
struct End {
    shared: Arc<Shared>,
    threads: Arc<Threads<Arc<Entry>>>,
    grace_on_failure: Duration,
}

impl End {
    /// Makes way for the successor, if there is one, and lets the clients go.
    fn come(self, failure: Option<Failure>) -> Result<DrainReport, ServerError> {
        let shared = &self.shared;
        if shared.ending.swap(true, Ordering::SeqCst) {
            return Ok(DrainReport::default()); // Another thread does, and nobody waits for this one.
        }
        let _finish = Finish(&self);
        if let Some(failure) = &failure {
            if let Failure::Hung(_) = failure {
                // In case that it does accept after all: it must not take the clients and wake-ups of others.
                let _ = shared.quit.set(Unreachable::Wait);
            }
            shared.quit.flag.set();
            shared.quit.leave();
            self.threads.keep_all();
            if shared.registry.lock().stop.is_none() {
                shared.retire(deadline_after(Instant::now(), self.grace_on_failure));
            }
            shared.say(&Event::Failed { failure });
        }
        shared.make_way();
        let drain = drain::drain(shared);
        match failure {
            None => Ok(drain),
            Some(failure) => Err(ServerError { failure, drain }),
        }
    }
}

impl fmt::Debug for End {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("End").finish_non_exhaustive()
    }
}

/// Says that the server is done, however it ends.
struct Finish<'a>(&'a End);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.shared.say(&Event::Finished);
        self.0.threads.end();
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
    if !entry.blocked.is_given_up() {
        shared.end(entry, outcome, served.as_ref().err());
    }
}

/// What a panic said, from what [`std::panic::catch_unwind`] or a thread's end returns of it.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<&str>() {
        Some(message) => message,
        None => panic.downcast_ref::<String>().map_or("(no message)", String::as_str),
    }
}
