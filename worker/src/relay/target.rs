//! One generation of the program: where it listens, its connections, and its drain.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::generation::{ACTIVE, NEXT_MESSAGE_WAIT};
use crate::report::{ConnectionInfo, Counts, DrainReport, Outcome};
use crate::spread::Turns;

#[derive(Debug)]
pub(super) struct Target {
    /// Unique within this process.
    pub(super) number: u64,
    pub(super) address: SocketAddr,
    /// The port closes, and messages are the last ones. Outside the lock, because it is read for each message.
    stopping: AtomicBool,
    /// Connections between two messages belong to another generation now. Outside the lock for the same reason.
    moves: AtomicBool,
    /// The program has ended.
    lost: AtomicBool,
    /// When each connection has to leave, if not all at once.
    turns: Turns,
    /// When each opaque connection is closed by force, if not all at once: the last ones at the deadline.
    cuts: Turns,
    /// A client has spoken a protocol other than HTTP/1.
    has_opaque: AtomicBool,
    live: Mutex<Live>,
    /// Signalled when the drain may be over.
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Live {
    counts: Counts,
    drain: Option<Drain>,
    /// When it was asked to stop.
    stopping: Option<Instant>,
    /// Connections that were closed by force during the drain, as they were then.
    forced: Vec<ConnectionInfo>,
    /// The relay has ended.
    abandoned: bool,
}

#[derive(Debug, Clone, Copy)]
struct Drain {
    began: Instant,
    /// None: its program has ended, and no deadline was set for clients that still read what it had sent.
    deadline: Option<Instant>,
    /// What was counted before it began.
    before: Counts,
}

impl Target {
    pub(super) fn new(address: SocketAddr) -> Target {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Target {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed) + 1,
            address,
            stopping: AtomicBool::new(false),
            moves: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            turns: Turns::default(),
            cuts: Turns::default(),
            has_opaque: AtomicBool::new(false),
            live: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    pub(super) fn is_moving(&self) -> bool {
        self.moves.load(Ordering::Relaxed)
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }

    /// A client speaks a protocol other than HTTP/1. Returns whether it is the first one.
    pub(super) fn is_first_opaque(&self) -> bool {
        !self.has_opaque.swap(true, Ordering::Relaxed)
    }

    /// It gets clients from now on, even if it was draining.
    pub(super) fn serve(&self) {
        let mut live = self.lock();
        (live.drain, live.stopping) = (None, None);
        self.turns.clear();
        self.cuts.clear();
        live.forced.clear();
        for flag in [&self.stopping, &self.moves, &self.lost] {
            flag.store(false, Ordering::SeqCst);
        }
    }

    /// Another generation gets the clients. If this one is already draining, the deadline moves.
    pub(super) fn retire(&self, deadline: Instant) {
        self.moves.store(true, Ordering::SeqCst);
        self.drain(Some(deadline));
    }

    /// Spreads the end of these connections: they are let go over this time from now, or, if they are opaque, closed by
    /// force over a period of this length that ends at the deadline. If a spread has begun already, it takes this long
    /// at most.
    pub(super) fn spread(&self, ids: Vec<u64>, over: Duration, deadline: Instant) {
        let now = Instant::now();
        self.turns.begin(|| ids.clone(), over, now);
        self.cuts.begin_before(deadline, ids, over, now);
    }

    /// The port closes, too.
    pub(super) fn stop(&self, deadline: Instant) {
        self.lock().stopping.get_or_insert_with(Instant::now);
        self.stopping.store(true, Ordering::SeqCst);
        self.drain(Some(deadline));
    }

    pub(super) fn lose(&self) {
        self.lost.store(true, Ordering::SeqCst);
        self.moves.store(true, Ordering::SeqCst);
        self.drain(None);
    }

    fn drain(&self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.end_turns(deadline);
        }
        let mut live = self.lock();
        let counts = live.counts;
        let drain = live.drain.get_or_insert_with(|| Drain { began: Instant::now(), deadline: None, before: counts });
        drain.deadline = deadline.or(drain.deadline);
        drop(live);
        self.changed.notify_all();
    }

    /// Returns whether there is a deadline.
    pub(super) fn move_deadline(&self, to: Instant) -> bool {
        self.end_turns(to);
        let mut live = self.lock();
        let deadline = live.drain.as_mut().and_then(|drain| drain.deadline.as_mut());
        deadline.map(|deadline| *deadline = to).is_some()
    }

    fn end_turns(&self, deadline: Instant) {
        let now = Instant::now();
        self.turns.end_by(deadline, now);
        self.cuts.end_at(deadline, now);
    }

    /// Whether the message that this connection is about to send, or is sending, is its last.
    pub(super) fn is_last_message_of(&self, id: u64) -> bool {
        self.is_stopping() && self.turns.of(id, Instant::now()).is_none()
    }

    /// Until when a connection that is between two messages stays during a stop: its turn may not have come, or its
    /// next message may be on its way. `active` is when its last message ended.
    pub(super) fn stays_until(&self, id: u64, active: Option<Instant>, now: Instant) -> Option<Instant> {
        let began = self.lock().stopping?;
        let turn = self.turns.when(id, now).unwrap_or(began);
        let is_active = active.is_some_and(|active| turn.saturating_duration_since(active) < ACTIVE);
        Some(active.filter(|_| is_active).map_or(turn, |active| turn.max(active) + NEXT_MESSAGE_WAIT))
    }

    /// When an opaque connection is closed by force, if not with all others at the deadline.
    pub(super) fn forced_at(&self, id: u64, now: Instant) -> Option<Instant> {
        if self.is_stopping() || self.is_moving() { self.cuts.when(id, now) } else { None }
    }

    /// When its connections are closed by force. None: there is no deadline, or no connection.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let live = self.lock();
        live.drain.filter(|_| live.counts.now > 0).and_then(|drain| drain.deadline)
    }

    /// Takes a connection that was just accepted, or another generation's. Returns false if it gets no more.
    pub(super) fn enter(&self, is_new: bool) -> bool {
        let mut live = self.lock();
        let is_open = live.drain.is_none();
        if is_open {
            live.counts.now += 1;
            live.counts.total += u64::from(is_new);
        }
        is_open
    }

    /// A connection has moved to another generation, or waits for that.
    pub(super) fn leave(&self) {
        let mut live = self.lock();
        live.counts.now -= 1;
        self.wake(&live);
    }

    /// A connection has ended.
    pub(super) fn ended(&self, outcome: Outcome, as_it_was: impl FnOnce() -> ConnectionInfo) {
        let mut live = self.lock();
        live.counts.now -= 1;
        let drains = live.drain.is_some();
        match outcome {
            Outcome::Disconnected => live.counts.disconnected += usize::from(drains),
            Outcome::Closed => live.counts.closed += usize::from(drains),
            Outcome::Forced => {
                live.counts.forced += 1;
                if drains {
                    live.forced.push(as_it_was());
                }
            }
        }
        self.wake(&live);
    }

    pub(super) fn count_notified(&self) {
        self.lock().counts.notified += 1;
    }

    pub(super) fn count_refused(&self) {
        self.lock().counts.refused += 1;
    }

    pub(super) fn counts(&self) -> Counts {
        self.lock().counts
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().counts.now == 0
    }

    /// Waits until it has been asked to let its connections go, and the last one has ended.
    pub(super) fn wait(&self) -> DrainReport {
        let is_busy = |live: &mut Live| !live.abandoned && (live.drain.is_none() || live.counts.now > 0);
        let live = self.changed.wait_while(self.lock(), is_busy).unwrap_or_else(PoisonError::into_inner);
        let before = live.drain.map_or(live.counts, |drain| drain.before);
        DrainReport {
            notified: live.counts.notified - before.notified,
            disconnected: live.counts.disconnected - before.disconnected,
            closed: live.counts.closed - before.closed,
            forced: live.forced.clone(),
            stuck: Vec::new(),
            took: live.drain.map_or(Duration::ZERO, |drain| drain.began.elapsed()),
        }
    }

    /// The relay has ended, and with it all connections.
    pub(super) fn abandon(&self) {
        self.lock().abandoned = true;
        self.changed.notify_all();
    }

    fn wake(&self, live: &Live) {
        if live.counts.now == 0 && live.drain.is_some() {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Its fields change in single steps: a panic elsewhere cannot leave them half written.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
