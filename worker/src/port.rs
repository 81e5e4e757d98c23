//! The listener, for as long as clients may connect: which generation gets the clients, and which thread may accept.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Events, Rearm};
use crate::event::{Event, Failure};
use crate::generation::Generation;
use crate::pausing::{Paused, Pausing};
use crate::registry::{Entry, Registry};
use crate::report::Activity;

/// The shortest time between two reports while the system stays exhausted.
const EXHAUSTED_QUIET: Duration = Duration::from_secs(60);

/// How long the port waits for a thread that is just accepting a client.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many refused clients may stay to read the refusal, at most. They must not use up the descriptors of clients that
/// are served.
pub(crate) const REFUSALS: usize = 8;

/// A listening socket. It accepts clients for the [server](crate::Handle) that [serves](crate::Stopper::serve) there,
/// and replacing that server with another is one assignment: nothing is refused meanwhile. While no server serves,
/// clients wait in the accept queue.
///
/// Dropping it closes it like [`Port::close`], and ends its threads when the last connection has ended.
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
}

impl Port {
    /// A port for a listener that is already bound. Nothing is accepted before a server serves there.
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread.
    pub fn start(listener: TcpListener) -> io::Result<Port> {
        Port::new(listener, false)
    }

    /// A port for a listener from which other processes accept, too, or will: for example one that passed it to this
    /// process and keeps it. A stop leaves the accept queue to them, and the listener as it is. If a listener is not
    /// shared, a stop takes the clients in its queue, to notify them.
    ///
    /// All processes that share a listener share its mode: from here on it does not block on Linux with the feature `epoll`,
    /// and blocks otherwise.
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread.
    pub fn start_shared(listener: TcpListener) -> io::Result<Port> {
        Port::new(listener, true)
    }

    fn new(listener: TcpListener, is_shared: bool) -> io::Result<Port> {
        let address = listener.local_addr()?;
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared {
            engine: Engine::new()?,
            registry: Registry::default(),
            door: Mutex::new(Door { listener: Some(listener.clone()), ..Door::default() }),
            passed: Condvar::new(),
            lacks_room: AtomicBool::new(false),
            in_rotation: AtomicBool::new(true),
            pausing: Arc::default(),
            is_shared,
            address,
        });
        // If something fails, dropping it closes the listener and ends the threads that were started.
        let port = Port { shared };
        let events: Arc<dyn Events> = port.shared.clone();
        port.shared.engine.run(&events)?;
        port.shared.engine.listen(&listener, is_shared)?;
        Ok(port)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Sets whether clients should connect here; initially they should. If not, a handler whose protocol can say so
    /// asks each client to [reconnect](crate::Connection::is_last_answer); nothing else changes.
    pub fn set_in_rotation(&self, in_rotation: bool) {
        self.shared.in_rotation.store(in_rotation, Ordering::SeqCst);
    }

    /// From now on no client is accepted and no message served: they wait, in the accept queue and in their
    /// connections. Messages under way are served to their end. A server can be replaced meanwhile; a
    /// [stop](crate::Stopper::stop) ends the pause.
    pub fn pause(&self) -> Paused {
        self.shared.pausing.pause();
        let shared = self.shared.clone();
        Paused::new(self.shared.pausing.clone(), move || shared.under_way())
    }

    /// Ends a pause: waiting clients and messages are served.
    pub fn resume(&self) {
        self.shared.resume();
    }

    /// Stops accepting, and closes the listener, unless it is shared. Connections are left as they are.
    pub fn close(&self) {
        if let Some(listener) = self.shared.begin_to_close(None) {
            drop(listener);
            self.shared.end_close();
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.close();
        self.shared.lock().abandoned = true;
        self.shared.end_if_unused();
    }
}

/// What the threads of a port share.
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) registry: Registry,
    door: Mutex<Door>,
    /// Signalled when a thread has finished accepting.
    passed: Condvar,
    /// Nothing is accepted until a connection ends.
    lacks_room: AtomicBool,
    /// Whether clients should connect here.
    pub(crate) in_rotation: AtomicBool,
    pub(crate) pausing: Arc<Pausing>,
    /// Whether others accept from the listener, too.
    pub(crate) is_shared: bool,
    address: SocketAddr,
}

#[derive(Debug, Default)]
struct Door {
    /// None: it has been closed.
    listener: Option<Arc<TcpListener>>,
    /// The generation that gets the clients. None: they wait in the queue.
    target: Option<Arc<Generation>>,
    /// The number of the turn of the thread that accepts now.
    turn: Option<u64>,
    turns: u64,
    /// The generation for which that thread is currently admitting a client.
    admitting: Option<u64>,
    /// How often a thread has finished accepting.
    rounds: u64,
    refusals: usize,
    /// Whether the queue of a listener that has been given up is still being emptied.
    closing: bool,
    /// When it was last reported that the system is exhausted.
    exhausted: Option<Instant>,
    /// Why nothing can be accepted ever again.
    failure: Option<Failure>,
    /// The port was dropped: the engine ends with the last connection, when no other one can come.
    abandoned: bool,
}

impl Door {
    /// Whether a generation serves here that gets more clients. One that has been asked to stop decides itself what
    /// becomes of the queue: no client may be taken from the queue for it.
    fn takes_clients(&self) -> bool {
        self.target.as_ref().is_some_and(|target| !target.is_draining())
    }
}

/// A listener that nothing accepts from any more.
pub(crate) struct GivenUp {
    pub(crate) listener: Arc<TcpListener>,
    /// Clients that the engine has accepted but not reported.
    pub(crate) accepted: Vec<(TcpStream, SocketAddr)>,
}

impl Shared {
    /// From now on this generation gets the clients.
    pub(crate) fn serve_by(&self, generation: &Arc<Generation>) {
        let mut door = self.lock();
        if let Some(failure) = &door.failure {
            return generation.fail(failure.duplicate());
        }
        let before = door.target.replace(generation.clone());
        drop(door);
        drop(before); // Its handler may be dropped with it.
        self.engine.arm_listener(Rearm::OnClient);
    }

    /// This generation gets no more clients. Returns when none is being admitted for it.
    pub(crate) fn withdraw(&self, generation: &Generation) {
        let mut door = self.lock();
        if door.target.as_ref().is_some_and(|target| target.number == generation.number) {
            door.target = None;
        }
        let admits = |door: &mut Door| door.admitting == Some(generation.number);
        let (mut door, waited) =
            self.passed.wait_timeout_while(door, PATIENCE, admits).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            // The accepting thread hangs in the handler. The next generation that serves here needs the turn, and its
            // clients may meanwhile have been reported to threads that did not have the turn.
            door.turn = None;
            door.admitting = None;
            drop(door);
            self.engine.replace_acceptor();
            self.await_client();
        }
    }

    /// Gives up the listener, for this generation, or without one. Some: the listener is now the caller's, with the
    /// clients that the engine has already accepted; the caller closes it and then calls
    /// [`end_close`](Shared::end_close). None: it is closed already, or another generation's to close.
    pub(crate) fn begin_to_close(&self, generation: Option<&Generation>) -> Option<GivenUp> {
        let mut door = self.lock();
        let others = match generation {
            // It has been replaced, and the queue belongs to another one.
            Some(generation) => door.target.as_ref().is_none_or(|target| target.number != generation.number),
            // A generation that is stopping closes it.
            None => door.target.as_ref().is_some_and(|target| target.closes_port()),
        };
        if others {
            return None;
        }
        let listener = door.listener.take()?;
        door.closing = true;
        door.target = None;
        // No other thread begins to accept.
        door.turns += 1;
        door.turn = Some(door.turns);
        drop(door);
        Some(GivenUp { accepted: self.engine.unlisten(), listener })
    }

    /// Nothing more is taken from the queue.
    pub(crate) fn end_close(&self) {
        let admits = |door: &mut Door| door.admitting.is_some();
        let waited = self.passed.wait_timeout_while(self.lock(), PATIENCE, admits);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing = false;
        self.end_if_unused();
    }

    /// Reserves one of the places for refused clients that stay to read the refusal. Returns false if all are taken.
    /// The place is reserved until [`connection_ended`](Shared::connection_ended).
    pub(crate) fn reserve_refusal(&self) -> bool {
        let mut door = self.lock();
        let has_room = door.refusals < REFUSALS;
        door.refusals += usize::from(has_room);
        has_room
    }

    /// Whether a thread of the engine still looks at the listener: asks for that, and waits up to `limit` for it.
    pub(crate) fn is_accepting(&self, limit: Duration) -> bool {
        let door = self.lock();
        let rounds = door.rounds;
        drop(door);
        self.engine.kick_listener();
        let unseen = |door: &mut Door| door.rounds == rounds;
        let (_door, waited) =
            self.passed.wait_timeout_while(self.lock(), limit, unseen).unwrap_or_else(PoisonError::into_inner);
        !waited.timed_out()
    }

    /// The generation that serves now, if it is not `of`.
    pub(crate) fn successor(&self, of: &Generation) -> Option<Arc<Generation>> {
        self.lock().target.clone().filter(|target| target.number != of.number)
    }

    /// Whether another generation serves now. Called under other locks, so it takes no reference that would have to be
    /// dropped.
    pub(crate) fn has_successor(&self, of: &Generation) -> bool {
        self.lock().target.as_ref().is_some_and(|target| target.number != of.number)
    }

    /// A connection has ended: there is room for another one.
    pub(crate) fn connection_ended(&self, refused: bool) {
        if refused {
            self.lock().refusals -= 1;
        }
        if self.lacks_room.swap(false, Ordering::SeqCst) {
            self.await_client();
        }
        self.end_if_unused();
    }

    fn end_if_unused(&self) {
        let door = self.lock();
        let is_unused = door.abandoned && door.listener.is_none() && !door.closing;
        drop(door);
        // Checked last: no other connection can have been added since.
        if is_unused && self.registry.is_empty() {
            self.engine.close();
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Has the engine report the next client, if a generation would take it.
    fn await_client(&self) {
        if self.lock().takes_clients() {
            self.engine.arm_listener(Rearm::OnClient);
        }
    }

    /// How many messages are under way.
    fn under_way(&self) -> usize {
        let is_busy = |entry: &Arc<Entry>| !entry.refused && entry.info().activity == Activity::Busy;
        self.registry.all().iter().filter(|entry| is_busy(entry)).count()
    }

    /// Ends a pause, if there is one.
    pub(crate) fn resume(&self) {
        if !self.pausing.resume() {
            return;
        }
        self.await_client();
        // A connection that a thread has may be about to wait, because that thread has seen the pause.
        let has_waited = |entry: &Arc<Entry>| entry.slot.look(|held| held.has_something_to_do()).unwrap_or(true);
        for entry in self.registry.all().into_iter().filter(has_waited) {
            self.engine.again(entry.key);
        }
    }

    pub(crate) fn begin_turn(&self) -> Option<u64> {
        let mut door = self.lock();
        if self.pausing.is_paused() {
            // The thread has looked at the listener, which is all that `is_accepting` asks.
            door.rounds += 1;
            drop(door);
            self.passed.notify_all();
            return None;
        }
        if door.turn.is_some() || door.listener.is_none() || door.target.is_none() {
            return None;
        }
        door.turns += 1;
        door.turn = Some(door.turns);
        door.turn
    }

    /// The generation that gets the next client of this turn. None: the turn is over.
    pub(crate) fn target(&self, turn: u64) -> Option<Arc<Generation>> {
        let mut door = self.lock();
        if door.turn != Some(turn) || !door.takes_clients() || self.pausing.is_paused() {
            return None;
        }
        let target = door.target.clone()?;
        door.admitting = Some(target.number);
        Some(target)
    }

    pub(crate) fn end_turn(&self, turn: u64, next: Option<Rearm>) {
        let mut door = self.lock();
        if door.turn == Some(turn) {
            door.turn = None;
            door.admitting = None;
            door.rounds += 1;
            if door.takes_clients() {
                let next = next.unwrap_or(Rearm::OnClient);
                self.lacks_room.store(next != Rearm::OnClient, Ordering::SeqCst);
                self.engine.arm_listener(next);
            }
        } else if door.turn.is_none() || door.listener.is_none() {
            door.admitting = None;
        }
        drop(door);
        self.passed.notify_all();
    }

    pub(crate) fn report_exhausted(&self, generation: &Generation, error: &io::Error) {
        let mut door = self.lock();
        if door.exhausted.is_none_or(|said| said.elapsed() >= EXHAUSTED_QUIET) {
            door.exhausted = Some(Instant::now());
            drop(door);
            generation.say(&Event::Exhausted { error });
        }
    }

    pub(crate) fn fail(&self, error: io::Error) {
        let mut door = self.lock();
        let failure = Failure::Accept(error);
        let target = door.target.take();
        door.failure = Some(failure.duplicate());
        drop(door);
        if let Some(target) = target {
            target.fail(failure);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Door> {
        // No user code runs under it, and its fields change one by one.
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("address", &self.address).finish_non_exhaustive()
    }
}
