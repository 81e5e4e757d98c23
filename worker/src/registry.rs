//! The live connections. An entry leaves when its connection has ended.

use std::collections::BTreeMap;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::blocked::Blocked;
use crate::quit::Flag;
use crate::turn::{Phase, Turn};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client disconnected.
    Disconnected,
    /// The server closed it, and owed its client nothing.
    Closed,
    /// The server closed it at the deadline of a drain, although it was still in use.
    Forced,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It waits for the first byte of its next message.
    Idle,
    /// It works on a message.
    Busy,
    /// Its client has been notified that the server goes away, or is about to be.
    Draining,
}

/// A connection as seen from outside.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its number, see [`Ids`].
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// Since the connection was accepted.
    pub age: Duration,
    /// What it is doing.
    pub activity: Activity,
    /// Bytes received from the client.
    pub received: u64,
    /// Bytes sent to the client.
    pub sent: u64,
}

/// How many connections there are and were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open at the moment.
    pub now: usize,
    /// Accepted since the start, the open ones included.
    pub total: u64,
    /// Refused because there were too many.
    pub refused: u64,
    /// Notified that the server goes away, in a drain or each for itself.
    pub notified: usize,
    /// Disconnected by their clients during a drain.
    pub disconnected: usize,
    /// Closed during a drain with nothing owed to them.
    pub closed: usize,
    /// Closed by force, at the deadline of a drain or of their own.
    pub forced: usize,
}

/// One live connection, shared by its own thread and whoever looks at it from outside.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) stream: TcpStream,
    pub(crate) turn: Turn,
    pub(crate) blocked: Blocked,
    pub(crate) forced: AtomicBool,
    /// Set when this one has to leave at its next message boundary, whatever becomes of the others.
    pub(crate) leave: Flag,
    /// Whether it was closed by force because somebody wanted this one closed.
    ordered: AtomicBool,
    pub(crate) received: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) since: Instant,
}

impl Entry {
    /// Ends the socket, and so what its thread does with it. Returns whether the thread was given up: the caller ends
    /// the connection.
    pub(crate) fn close_by_force(&self) -> bool {
        // Wakes a blocked read or write. It fails only where the client is gone already.
        let _ = self.stream.shutdown(Shutdown::Both);
        self.blocked.give_up()
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            peer: self.peer,
            age: self.since.elapsed(),
            activity: match self.turn.phase() {
                Phase::Idle => Activity::Idle,
                Phase::Busy => Activity::Busy,
                Phase::Leaving => Activity::Draining,
            },
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}

/// Numbers for connections, from 1. Servers that share them never give one number twice.
#[derive(Debug, Clone, Default)]
pub struct Ids(Arc<AtomicU64>);

impl Ids {
    fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// All live connections, and the deadline by which they have to be gone.
#[derive(Debug)]
pub(crate) struct Registry {
    live: Mutex<Live>,
    ids: Ids,
    /// Beside the lock, because it is counted under a connection's own lock, which others take under this one.
    told: AtomicUsize,
    /// Signalled when the server thread waits, and what it waits for happens or the deadline changes.
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) connections: BTreeMap<u64, Arc<Entry>>,
    pub(crate) counts: Counts,
    pub(crate) stop: Option<Stop>,
    waiting: Option<For>,
    /// Those who want to hear how one connection ends.
    awaited: Vec<(u64, Sender<Outcome>)>,
}

/// What the server thread waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// That any connection leaves.
    Room,
    /// That the last connection leaves. The others would wake it for nothing.
    TheLast,
}

/// The request to stop, or to make room for another server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    pub(crate) began: Instant,
    /// May be moved while the drain runs.
    pub(crate) deadline: Instant,
    pub(crate) queue: Queue,
    /// How many had been told before, each for itself.
    pub(crate) told_before: usize,
}

/// What becomes of the clients that wait in the accept queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queue {
    /// They are accepted and told: nobody else is going to.
    Emptied,
    /// They are left to another server on the same listener.
    Left,
}

impl Registry {
    pub(crate) fn new(ids: Ids) -> Registry {
        Registry { live: Mutex::default(), ids, told: AtomicUsize::new(0), changed: Condvar::new() }
    }

    pub(crate) fn enter(&self, stream: TcpStream, peer: SocketAddr) -> Arc<Entry> {
        let mut live = self.lock();
        live.counts.total += 1;
        let entry = Arc::new(Entry {
            id: self.ids.next(),
            peer,
            stream,
            turn: Turn::new(),
            blocked: Blocked::new(),
            forced: AtomicBool::new(false),
            leave: Flag::new(),
            ordered: AtomicBool::new(false),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            since: Instant::now(),
        });
        live.connections.insert(entry.id, entry.clone());
        entry
    }

    /// Takes a connection out and counts its outcome. One that the drain has closed by force has been counted already,
    /// even if it was about to end by itself. One that was closed because somebody wanted it closed is none that a
    /// drain had to force.
    pub(crate) fn leave(&self, entry: Arc<Entry>, outcome: Outcome) {
        let mut live = self.lock();
        let id = entry.id;
        live.connections.remove(&id);
        let by_drain = entry.forced.load(Ordering::SeqCst) && !entry.ordered.load(Ordering::SeqCst);
        if live.stop.is_some() && !by_drain {
            match outcome {
                Outcome::Disconnected => live.counts.disconnected += 1,
                Outcome::Closed | Outcome::Forced => live.counts.closed += 1,
            }
        }
        // This closes the socket: whoever hears that a connection has left can use its descriptor.
        drop(entry);
        live.awaited.retain(|(awaited, tell)| {
            let goes_on = *awaited != id;
            if !goes_on {
                let _ = tell.send(outcome); // Whoever wanted to know has given up.
            }
            goes_on
        });
        let awaited = match live.waiting {
            None => false,
            Some(For::Room) => true,
            Some(For::TheLast) => live.connections.is_empty(),
        };
        if awaited {
            self.changed.notify_all();
        }
    }

    /// Begins to stop, or changes the deadline of a stop that has begun. A queue that was left to another server is
    /// that one's for good.
    pub(crate) fn begin_stop(&self, deadline: Instant, queue: Queue) {
        let mut live = self.lock();
        live.stop = Some(match live.stop {
            None => Stop { began: Instant::now(), deadline, queue, told_before: self.told() },
            Some(stop @ Stop { queue: Queue::Emptied, .. }) => Stop { deadline, queue, ..stop },
            Some(stop @ Stop { queue: Queue::Left, .. }) => Stop { deadline, ..stop },
        });
        if live.waiting.is_some() {
            self.changed.notify_all();
        }
    }

    /// Moves the deadline of a stop that has begun. Returns whether there is one.
    pub(crate) fn move_deadline(&self, deadline: Instant) -> bool {
        let mut live = self.lock();
        let Some(stop) = &mut live.stop else { return false };
        stop.deadline = deadline;
        if live.waiting.is_some() {
            self.changed.notify_all();
        }
        true
    }

    /// A connection, and where its outcome will be told. None: there is no such connection.
    pub(crate) fn await_end(&self, id: u64) -> Option<(Arc<Entry>, Receiver<Outcome>)> {
        let mut live = self.lock();
        let entry = live.connections.get(&id)?.clone();
        let (tell, ended) = mpsc::channel();
        live.awaited.push((id, tell));
        Some((entry, ended))
    }

    /// Closes a connection by force because somebody wants it closed, unless that has been done or it has ended.
    /// Returns it if its thread was given up: the caller ends it.
    pub(crate) fn force(&self, id: u64) -> Option<Arc<Entry>> {
        let mut live = self.lock();
        let entry = live.connections.get(&id)?.clone();
        if entry.forced.swap(true, Ordering::SeqCst) {
            return None;
        }
        entry.ordered.store(true, Ordering::SeqCst);
        live.counts.forced += 1;
        entry.close_by_force().then_some(entry)
    }

    /// There is no stop after all.
    pub(crate) fn call_off_stop(&self) {
        self.lock().stop = None;
    }

    pub(crate) fn count_told(&self) {
        self.told.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.lock().counts.refused += 1;
    }

    pub(crate) fn counts(&self) -> Counts {
        let live = self.lock();
        Counts { now: live.connections.len(), notified: self.told(), ..live.counts }
    }

    pub(crate) fn told(&self) -> usize {
        self.told.load(Ordering::Relaxed)
    }

    pub(crate) fn connections(&self) -> Vec<ConnectionInfo> {
        self.entries().iter().map(|entry| entry.info()).collect()
    }

    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.lock().connections.values().cloned().collect()
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Live> {
        // Counters and map entries change in single steps: a panic elsewhere cannot leave them half written.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for that, or until the deadline changes or the time is up.
    pub(crate) fn wait<'a>(&self, mut live: MutexGuard<'a, Live>, what: For, limit: Duration) -> MutexGuard<'a, Live> {
        live.waiting = Some(what);
        let (mut live, _) = self.changed.wait_timeout(live, limit).unwrap_or_else(PoisonError::into_inner);
        live.waiting = None;
        live
    }
}
