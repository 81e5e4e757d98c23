//! The listener, for as long as clients may come: who accepts from it, and which generation gets the clients.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::connection;
use crate::drain;
use crate::engine::{Engine, Events, Key, Rearm, Watch, Why};
use crate::event::{Event, Failure, panic_message};
use crate::farewell::Farewell;
use crate::generation::{For, Generation};
use crate::registry::{Applied, Entry, Held, New, Registry, Service};

/// How long to wait before trying again when the system is out of descriptors, memory or threads, unless a connection
/// ends before. Nothing else would say that there is room again.
const EXHAUSTED_WAIT: Duration = Duration::from_secs(1);

/// While the system stays exhausted, that is reported once in this time.
const EXHAUSTED_QUIET: Duration = Duration::from_secs(60);

/// How many clients are accepted before others get a turn.
const BATCH: usize = 64;

/// How many clients are still taken from the accept queue when a stop has begun: as many as can have waited there,
/// which is what Linux allows unless told otherwise. Clients that keep coming meanwhile must not hold up the stop.
const QUEUE: usize = 4096;

/// How long the port waits for a thread that is just accepting a client.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many clients that were refused may be there to read it, at most. They must not use up the descriptors of those
/// that are served.
const REFUSALS: usize = 8;

/// A listening socket. It accepts clients for the [server](crate::Handle) that [serves](crate::Stopper::serve) there,
/// and replacing that one by another is one assignment: nothing is refused meanwhile. While none serves, clients wait in
/// the accept queue.
///
/// Dropping it is [`Port::close`].
#[derive(Debug)]
pub struct Port {
    shared: Arc<Shared>,
}

impl Port {
    /// A port for a listener that is bound already. Nothing is accepted before a server serves there.
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread.
    pub fn start(listener: TcpListener) -> io::Result<Port> {
        Port::new(listener, false)
    }

    /// A port for a listener from which others accept, too, or will: a process that passed it to this one and keeps it,
    /// say. A stop leaves the accept queue to them, and the listener as it is. Otherwise a stop takes what waits in the
    /// queue, to notify it.
    ///
    /// All who share a listener share its mode: while a server serves there, it does not block.
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
            is_shared,
            address,
        });
        let events: Arc<dyn Events> = shared.clone();
        shared.engine.run(&events)?;
        shared.engine.listen(&listener, is_shared)?;
        Ok(Port { shared })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Accepts nothing any more, and closes the listener, unless it is shared. Connections are left as they are.
    pub fn close(self) {
        drop(self);
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shared.close(None);
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
    is_shared: bool,
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
    /// The generation for which that thread is just admitting a client.
    admitting: Option<u64>,
    /// How often a thread has finished accepting.
    rounds: u64,
    refusals: usize,
    /// Whether what waits in the queue is still being taken from it, since the listener has been given up.
    closing: bool,
    /// When it was last reported that the system is exhausted.
    exhausted: Option<Instant>,
    /// Why nothing can be accepted ever again.
    failure: Option<Failure>,
    /// The engine ends with the last connection, when no other one can come.
    abandoned: bool,
}

impl Shared {
    /// From now on this generation gets the clients.
    pub(crate) fn serve_by(self: &Arc<Shared>, generation: &Arc<Generation>) {
        let mut door = self.lock();
        if let Some(failure) = &door.failure {
            return generation.fail(failure.duplicate());
        }
        door.target = Some(generation.clone());
        drop(door);
        self.engine.arm_listener(Rearm::OnClient);
        // Those of a generation that failed before there was another one have waited for this.
        for entry in self.registry.all() {
            self.hand_over(&entry);
        }
    }

    /// This generation gets no clients any more. Returns when none is being admitted for it.
    pub(crate) fn withdraw(&self, generation: &Generation) {
        let mut door = self.lock();
        if door.target.as_ref().is_some_and(|target| target.number == generation.number) {
            door.target = None;
        }
        let admits = |door: &mut Door| door.admitting == Some(generation.number);
        let (mut door, waited) =
            self.passed.wait_timeout_while(door, PATIENCE, admits).unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            // It hangs in the handler. The next one who serves here needs the turn.
            door.turn = None;
            door.admitting = None;
            drop(door);
            self.engine.replace_acceptor();
        }
    }

    /// Closes the listener. What waits in its queue is accepted for the generation and notified, if there is one and no
    /// other process accepts there.
    pub(crate) fn close(self: &Arc<Shared>, generation: Option<&Arc<Generation>>) {
        let mut door = self.lock();
        if generation
            .is_some_and(|generation| door.target.as_ref().is_none_or(|target| target.number != generation.number))
        {
            return; // It has been replaced, and the queue is another one's.
        }
        if generation.is_none() && door.target.as_ref().is_some_and(|target| target.closes_port()) {
            return; // It does.
        }
        let Some(listener) = door.listener.take() else { return };
        door.closing = true;
        door.target = None;
        // No other thread begins to accept.
        door.turns += 1;
        door.turn = Some(door.turns);
        drop(door);
        let late = self.engine.unlisten();
        if let Some(generation) = generation {
            for (stream, peer) in late {
                self.admit(generation, stream, peer);
            }
            if !self.is_shared {
                self.empty_queue(generation, &listener);
            }
        }
        drop(listener);
        let admits = |door: &mut Door| door.admitting.is_some();
        let waited = self.passed.wait_timeout_while(self.lock(), PATIENCE, admits);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing = false;
        self.end_if_unused();
    }

    /// Accepts what waited in the queue when the stop began: those clients are notified, too.
    fn empty_queue(self: &Arc<Shared>, generation: &Arc<Generation>, listener: &TcpListener) {
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        for _ in 0..QUEUE {
            let alone = self.registry.is_empty();
            match listener.accept() {
                Ok((_, peer)) if self.engine.is_own(peer) => {}
                Ok((stream, peer)) => self.admit(generation, stream, peer),
                Err(error) if concerns_one_client(&error) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::InvalidInput) => return,
                // No descriptor is left, and none of ours could be given back.
                Err(_) if alone => return,
                Err(_) => {
                    if !self.make_room(generation) {
                        return;
                    }
                }
            }
        }
    }

    /// No descriptor is left for those that wait in the queue. The others are notified now: each that disconnects makes
    /// room. Returns whether there is time to try again.
    fn make_room(self: &Arc<Shared>, generation: &Arc<Generation>) -> bool {
        drain::release_idle(self, generation);
        let live = generation.lock();
        let remaining =
            live.stop.map_or(Duration::ZERO, |stop| stop.deadline.saturating_duration_since(Instant::now()));
        if live.counts.now > 0 {
            drop(generation.wait(live, For::Room, remaining.min(Duration::from_millis(100))));
        }
        !remaining.is_zero()
    }

    /// Whether a thread of the engine still looks at the listener: it is asked to, and has so long.
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

    /// The generation that serves now, if it is another one.
    pub(crate) fn successor(&self, of: &Generation) -> Option<Arc<Generation>> {
        self.lock().target.clone().filter(|target| target.number != of.number)
    }

    /// Gives a waiting connection to the generation that has replaced its own, if it carries nothing over. Returns
    /// whether it did.
    pub(crate) fn hand_over(&self, entry: &Entry) -> bool {
        entry.slot.look(|held| held.can_move(entry) && held.move_on(entry)).unwrap_or(false)
    }

    /// A connection has ended: there is room for another one.
    pub(crate) fn connection_ended(&self, refused: bool) {
        if refused {
            self.lock().refusals -= 1;
        }
        if self.lacks_room.swap(false, Ordering::SeqCst) {
            self.engine.arm_listener(Rearm::OnClient);
        }
        self.end_if_unused();
    }

    fn end_if_unused(&self) {
        let door = self.lock();
        let is_unused = door.abandoned && door.listener.is_none() && !door.closing;
        drop(door);
        // Asked last: no other connection can have come since.
        if is_unused && self.registry.is_empty() {
            self.engine.close();
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    fn begin_turn(&self) -> Option<u64> {
        let mut door = self.lock();
        if door.turn.is_some() || door.listener.is_none() || door.target.is_none() {
            return None;
        }
        door.turns += 1;
        door.turn = Some(door.turns);
        door.turn
    }

    /// The generation that gets the next client of this turn. None: the turn is over.
    fn target(&self, turn: u64) -> Option<Arc<Generation>> {
        let mut door = self.lock();
        // One that has been asked to stop decides itself what becomes of the queue.
        let target = door.target.clone().filter(|target| door.turn == Some(turn) && !target.is_draining())?;
        door.admitting = Some(target.number);
        Some(target)
    }

    fn end_turn(&self, turn: u64, next: Option<Rearm>) {
        let mut door = self.lock();
        if door.turn == Some(turn) {
            door.turn = None;
            door.admitting = None;
            door.rounds += 1;
            if door.target.is_some() {
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

    /// Serves or refuses a client that was accepted.
    fn admit(self: &Arc<Shared>, generation: &Arc<Generation>, stream: TcpStream, peer: SocketAddr) {
        // Where accepted sockets inherit it, they must not stay non-blocking. Small answers are whole messages: they go
        // out at once. A failure means that the client is gone already.
        #[cfg(not(target_os = "linux"))]
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_nodelay(true);
        match panic::catch_unwind(AssertUnwindSafe(|| generation.handler.admits(peer))) {
            Ok(true) => {}
            Ok(false) => return,
            Err(panic) => return generation.fail(Failure::Panicked(panic_message(&*panic).to_owned())),
        }
        let socket = Arc::new(stream);
        let is_full = generation.counts().now >= generation.max_connections;
        let refused = is_full && !drain::give_up_idlest(self, generation);
        if refused {
            generation.count_refused();
            generation.say(&Event::Refused { peer });
            let mut door = self.lock();
            if door.refusals >= REFUSALS {
                drop(door);
                let _ = crate::socket::send_at_once(&socket, generation.handler.refusal(), false);
                return;
            }
            door.refusals += 1;
        }
        let id = if refused { 0 } else { generation.ids.next() };
        let entry = self.registry.enter(&New { id, peer, generation: generation.number, refused }, socket.clone());
        let held = Held {
            socket,
            port: self.clone(),
            generation: generation.clone(),
            service: Some(Service::Unasked(generation.handler.clone())),
            speaks: !refused && generation.handler.speaks_first(),
            rest: Vec::new(),
            idle_timeout: generation.handler.idle_timeout(),
            write_timeout: None,
            applied: Applied::default(),
            due: None,
            farewell: refused.then(|| Box::new(Farewell::refusal(generation.handler.refusal()))),
            watch: Watch::default(),
        };
        if !refused {
            generation.connected();
            generation.say(&Event::Connected { id, peer });
        }
        connection::begin(entry, held);
    }

    fn report_exhausted(&self, generation: &Generation, error: &io::Error) {
        let mut door = self.lock();
        if door.exhausted.is_none_or(|said| said.elapsed() >= EXHAUSTED_QUIET) {
            door.exhausted = Some(Instant::now());
            drop(door);
            generation.say(&Event::Exhausted { error });
        }
    }

    fn fail(&self, error: io::Error) {
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

    fn accept_batch(
        self: &Arc<Shared>,
        turn: u64,
        accept: &mut dyn FnMut() -> io::Result<(TcpStream, SocketAddr)>,
    ) -> Option<Rearm> {
        for _ in 0..BATCH {
            let target = self.target(turn)?;
            match accept() {
                Ok((stream, peer)) => self.admit(&target, stream, peer),
                Err(error) if concerns_one_client(&error) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Rearm::OnClient),
                // No longer a listening socket: it was shut down by another process.
                Err(error) if error.kind() == ErrorKind::InvalidInput => {
                    self.fail(error);
                    return None;
                }
                Err(error) => {
                    self.report_exhausted(&target, &error);
                    return Some(Rearm::After(EXHAUSTED_WAIT));
                }
            }
        }
        Some(Rearm::OnClient)
    }
}

/// The engine reports to the port, which finds whom it concerns.
impl Events for Shared {
    fn ready(&self, key: Key, why: Why) {
        if let Some(entry) = self.registry.get(key) {
            connection::ready(entry, why);
        }
    }

    fn acceptable(self: Arc<Self>, accept: &mut dyn FnMut() -> io::Result<(TcpStream, SocketAddr)>) {
        if let Some(turn) = self.begin_turn() {
            let next = self.accept_batch(turn, accept);
            self.end_turn(turn, next);
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Shared").field("address", &self.address).finish_non_exhaustive()
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
