//! All connections of a port, whatever their generation. An entry is removed when its connection has ended.

use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::engine::{Engine, Key, Watch};
use crate::farewell::Farewell;
use crate::generation::{FIRST_MESSAGE_WAIT, Generation};
use crate::handler::{Handler, Session};
use crate::report::{Activity, ConnectionInfo};
use crate::slot::Slot;
use crate::socket;

/// One connection, as others see it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) key: Key,
    pub(crate) peer: SocketAddr,
    pub(crate) since: Instant,
    /// Where the connection itself is.
    pub(crate) slot: Slot<Held>,
    /// The number of the generation that it belongs to.
    pub(crate) generation: AtomicU64,
    /// It was refused, and stays only until its client has read the refusal.
    pub(crate) refused: bool,
    /// Set when this connection has to leave at its next message boundary, whatever becomes of the others.
    pub(crate) leave: AtomicBool,
    /// Set when its client is being notified.
    pub(crate) draining: AtomicBool,
    /// Set when it is closed by force.
    pub(crate) forced: AtomicBool,
    /// Set when its end has been counted, or the forced close that is about to end it.
    pub(crate) counted: AtomicBool,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    socket: Mutex<Option<Arc<TcpStream>>>,
}

/// The connection itself. One place at a time has it: its slot while it waits, or a thread.
pub(crate) struct Held {
    pub(crate) socket: Arc<TcpStream>,
    pub(crate) generation: Arc<Generation>,
    /// None: it is being called.
    pub(crate) service: Option<Service>,
    /// Whether it keeps state between messages. Known even while its service is being called.
    pub(crate) has_session: bool,
    /// Its handler is called although the client has sent nothing.
    pub(crate) speaks: bool,
    /// Bytes that were received but not consumed when its turn was over.
    pub(crate) rest: Vec<u8>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) write_timeout: Option<Duration>,
    /// The write timeout that the socket has now.
    pub(crate) applied_write_timeout: Option<Duration>,
    /// Since when it has been waiting for its client. None: unknown, because no clock is read without an idle timeout.
    pub(crate) idle_since: Option<Instant>,
    /// What is still to be done before it is closed.
    pub(crate) farewell: Option<Box<Farewell>>,
    pub(crate) watch: Watch,
}

/// What serves a connection.
pub(crate) enum Service {
    /// The handler has not been asked for a session yet.
    Unasked(Arc<dyn Handler>),
    /// It has none.
    Stateless(Arc<dyn Handler>),
    Session(Box<dyn Session>),
}

impl std::fmt::Debug for Held {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Held").field("farewell", &self.farewell).finish_non_exhaustive()
    }
}

impl Held {
    pub(crate) fn belongs_to(&self, generation: &Generation) -> bool {
        self.generation.number == generation.number
    }

    /// Whether another generation can continue where this one has stopped.
    pub(crate) fn carries_nothing(&self) -> bool {
        !self.has_session && self.farewell.is_none() && self.rest.is_empty()
    }

    /// Whether its client, its handler or the clock wants something.
    pub(crate) fn has_something_to_do(&self) -> bool {
        self.due().is_some_and(|due| due <= Instant::now()) || self.has_message()
    }

    /// Whether its handler is owed a call: for a message, or for the first word.
    pub(crate) fn has_message(&self) -> bool {
        self.speaks || !self.rest.is_empty() || socket::has_input(&self.socket)
    }

    /// When its time is up.
    pub(crate) fn due(&self) -> Option<Instant> {
        match &self.farewell {
            Some(farewell) => farewell.until,
            None => self.idle_since?.checked_add(self.idle_timeout?),
        }
    }

    /// Has the engine report when something happens to it.
    pub(crate) fn arm(&mut self, engine: &Engine, key: Key) {
        let due = self.due();
        engine.watch(key, &self.socket, &mut self.watch, due);
    }

    /// The same for a new connection, which the engine may report at once.
    pub(crate) fn arm_first(&mut self, engine: &Engine, key: Key) {
        let due = self.due();
        engine.welcome(key, &self.socket, &mut self.watch, due);
    }
}

impl Entry {
    /// Whether its generation lets no connection stay, its turn has come, and no message from it is awaited. `active`
    /// is when it was last active, as far as known.
    pub(crate) fn must_leave(&self, generation: &Generation, active: Option<Instant>) -> bool {
        generation.is_leaving()
            && generation.turn(self.id).is_none()
            && self.awaits(generation, active).is_none_or(|until| until <= Instant::now())
    }

    /// Until when a stop waits for a message of this client: its first one, or the next one of a client that was just
    /// active. None: it does not, or the client gets a notice, which tells it at once that it has to come back,
    /// whatever it was about to send.
    pub(crate) fn awaits(&self, generation: &Generation, active: Option<Instant>) -> Option<Instant> {
        if self.received.load(Ordering::Relaxed) == 0 {
            generation.awaits_messages().then(|| self.since + FIRST_MESSAGE_WAIT)
        } else {
            generation.awaits_next(self.id, active?)
        }
    }

    /// Runs a call that may wait for the client. None: the connection was closed from outside meanwhile.
    pub(crate) fn while_blocked<T>(&self, engine: &Engine, call: impl FnOnce() -> T) -> Option<T> {
        if !self.slot.set_blocked(true) {
            return None;
        }
        let result = engine.blocked(call);
        self.slot.set_blocked(false).then_some(result)
    }

    /// Shuts the socket down, and so ends a call that waits on it. Fails only if the client is already gone.
    pub(crate) fn shut(&self) {
        if let Some(socket) = &*self.socket() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Gives up its hold on the socket.
    pub(crate) fn release(&self) {
        self.socket().take();
    }

    fn socket(&self) -> std::sync::MutexGuard<'_, Option<Arc<TcpStream>>> {
        self.socket.lock().unwrap_or_else(PoisonError::into_inner) // One assignment.
    }

    /// Moves it to another generation, unless its own one has claimed it. Called under the lock of its own one.
    pub(crate) fn hand_over(&self, next: &Generation) -> bool {
        let moves = !self.leave.load(Ordering::SeqCst) && !self.counted.load(Ordering::SeqCst);
        if moves {
            self.generation.store(next.number, Ordering::SeqCst);
        }
        moves
    }

    /// Claims it for a forced close, if it still belongs to this generation. Called under that generation's lock.
    pub(crate) fn claim_by_force(&self, generation: &Generation) -> bool {
        let first = self.belongs_to(generation) && !self.counted.swap(true, Ordering::SeqCst);
        if first {
            self.forced.store(true, Ordering::SeqCst);
        }
        first
    }

    /// Has it leave at its next message boundary, if it still belongs to this generation. Called under that
    /// generation's lock.
    pub(crate) fn claim_to_leave(&self, generation: &Generation) -> bool {
        let stays = self.belongs_to(generation);
        if stays {
            self.leave.store(true, Ordering::SeqCst);
        }
        stays
    }

    pub(crate) fn belongs_to(&self, generation: &Generation) -> bool {
        self.generation.load(Ordering::SeqCst) == generation.number && !self.refused
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            peer: self.peer,
            age: self.since.elapsed(),
            activity: match self.slot.look(|_| ()) {
                _ if self.draining.load(Ordering::SeqCst) => Activity::Draining,
                Some(()) => Activity::Idle,
                None => Activity::Busy,
            },
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

/// What [`Registry::enter`] needs to know about a connection.
pub(crate) struct New {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) generation: u64,
    pub(crate) refused: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Places>);

#[derive(Debug, Default)]
struct Places {
    places: Vec<Place>,
    free: Vec<u32>,
    taken: usize,
}

#[derive(Debug, Default)]
struct Place {
    serial: u32,
    entry: Option<Arc<Entry>>,
}

impl Registry {
    /// Adds a connection that the caller has.
    pub(crate) fn enter(&self, new: &New, socket: Arc<TcpStream>) -> Arc<Entry> {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let place = places.free.pop().unwrap_or_else(|| {
            places.places.push(Place::default());
            u32::try_from(places.places.len() - 1).expect("a process has fewer descriptors")
        });
        places.taken += 1;
        let at = &mut places.places[place as usize];
        at.serial = at.serial.wrapping_add(1);
        let entry = Arc::new(Entry {
            id: new.id,
            key: Key { place, serial: at.serial },
            peer: new.peer,
            since: Instant::now(),
            slot: Slot::new(),
            generation: AtomicU64::new(new.generation),
            refused: new.refused,
            leave: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            forced: AtomicBool::new(false),
            counted: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            socket: Mutex::new(Some(socket)),
        });
        at.entry = Some(entry.clone());
        entry
    }

    /// The connection with this key. None: it has ended.
    pub(crate) fn get(&self, key: Key) -> Option<Arc<Entry>> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        places.places.get(key.place as usize).filter(|place| place.serial == key.serial)?.entry.clone()
    }

    pub(crate) fn remove(&self, key: Key) {
        let mut places = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let place = &mut places.places[key.place as usize];
        if place.serial == key.serial && place.entry.take().is_some() {
            places.free.push(key.place);
            places.taken -= 1;
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).taken == 0
    }

    /// The connections of a generation, oldest first.
    pub(crate) fn of(&self, generation: &Generation) -> Vec<Arc<Entry>> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let entries = places.places.iter().filter_map(|place| place.entry.as_ref());
        let mut entries: Vec<_> = entries.filter(|entry| entry.belongs_to(generation)).cloned().collect();
        drop(places);
        entries.sort_unstable_by_key(|entry| entry.id);
        entries
    }

    pub(crate) fn all(&self) -> Vec<Arc<Entry>> {
        let places = self.0.read().unwrap_or_else(PoisonError::into_inner);
        places.places.iter().filter_map(|place| place.entry.clone()).collect()
    }
}
