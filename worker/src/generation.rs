//! One run of a server: its handler, from its build to the end of its drain.

use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::event::{Event, Failure, Observer, let_go};
use crate::handler::Handler;
use crate::report::{ConnectionInfo, Counts, Outcome};
use crate::spread::Turns;

/// How long a stop waits for the first message of a client that connected just before, counted from when its connection
/// was accepted: that message is most likely on its way. Applies only without a [notice](crate::Handler::notice), and
/// never beyond the stop's deadline.
///
/// It is long enough for a lost packet, which systems send again after a fifth of a second and a round trip or two, and
/// for a client on a machine that stalls for a moment. It is short enough for a stop that waits in vain because some
/// clients connect and then stay silent.
pub const FIRST_MESSAGE_WAIT: Duration = Duration::from_secs(1);

/// How long a stop waits for the next message of a client whose last one was answered within the second before, or since
/// then: the next one may be on its way, and is answered as the client's last. Applies only without a
/// [notice](crate::Handler::notice), and never beyond the stop's deadline.
pub const NEXT_MESSAGE_WAIT: Duration = Duration::from_millis(250);

/// A client that has been idle for longer than this when a stop begins is not expected to send anything just then.
pub(crate) const ACTIVE: Duration = Duration::from_secs(1);

/// Connection numbers, starting at 1. Servers that share an `Ids` never use a number twice.
#[derive(Debug, Clone, Default)]
pub struct Ids(Arc<AtomicU64>);

impl Ids {
    /// Whether a number identifies the same connection in both.
    pub(crate) fn are_shared_with(&self, other: &Ids) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn next(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What the threads that serve a generation share.
pub(crate) struct Generation {
    /// Unique within this process.
    pub(crate) number: u64,
    /// None: its thread has dropped it.
    handler: Mutex<Option<Arc<dyn Handler>>>,
    pub(crate) notice: Option<Box<[u8]>>,
    pub(crate) refusal: Box<[u8]>,
    pub(crate) speaks_first: bool,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) closes_slow: bool,
    observer: Arc<Observer>,
    pub(crate) max_connections: usize,
    pub(crate) grace_on_failure: Duration,
    pub(crate) ids: Ids,
    /// Set when another generation replaces it: connections that carry nothing over move to the new one.
    replaced: AtomicBool,
    /// Set when the next message of a connection is its last.
    draining: AtomicBool,
    /// Set when connections have to leave at their next message boundary.
    leave: AtomicBool,
    /// When a stop first asked for that.
    stopping: OnceLock<Instant>,
    /// When each connection has to leave, if not all at once.
    pub(crate) turns: Turns,
    /// Set at the deadline: no message is awaited any more.
    overdue: AtomicBool,
    /// Outside the lock, because a connection increments it while it is being served.
    notified: AtomicUsize,
    live: Mutex<Live>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) counts: Counts,
    pub(crate) stop: Option<Stop>,
    pub(crate) failure: Option<Failure>,
    /// Connections that were closed by force during the drain, as they were then.
    pub(crate) forced: Vec<ConnectionInfo>,
    waiting: Option<For>,
    /// The callers that wait for the end of one connection.
    awaited: Vec<(u64, Sender<Outcome>)>,
}

/// The request to stop, or to hand over to another generation.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stop {
    pub(crate) began: Instant,
    /// May be moved while the drain runs.
    pub(crate) deadline: Instant,
    /// Whether the port is closed and the clients in its queue are notified. Otherwise another generation serves there.
    pub(crate) closes_port: bool,
    /// How many clients had been notified individually before.
    notified_before: usize,
}

/// What the drain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// For any connection to end, or a deadline to change.
    Room,
    /// For the last connection to end, or a deadline to change. Other ends would wake it for nothing.
    TheLast,
}

/// The settings of a [`Server`](crate::Server), and the handler's answers that are the same for all clients.
pub(crate) struct Plan {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) notice: Option<Box<[u8]>>,
    pub(crate) refusal: Box<[u8]>,
    pub(crate) speaks_first: bool,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) closes_slow: bool,
    pub(crate) observer: Arc<Observer>,
    pub(crate) max_connections: usize,
    pub(crate) grace_on_failure: Duration,
    pub(crate) ids: Ids,
}

impl Generation {
    pub(crate) fn new(plan: Plan) -> Generation {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        Generation {
            number: NUMBERS.fetch_add(1, Ordering::Relaxed) + 1,
            handler: Mutex::new(Some(plan.handler)),
            notice: plan.notice,
            refusal: plan.refusal,
            speaks_first: plan.speaks_first,
            idle_timeout: plan.idle_timeout,
            closes_slow: plan.closes_slow,
            observer: plan.observer,
            max_connections: plan.max_connections,
            grace_on_failure: plan.grace_on_failure,
            ids: plan.ids,
            replaced: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            leave: AtomicBool::new(false),
            stopping: OnceLock::new(),
            turns: Turns::default(),
            overdue: AtomicBool::new(false),
            notified: AtomicUsize::new(0),
            live: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// The handler that serves its connections. None: the generation has ended.
    pub(crate) fn handler(&self) -> Option<Arc<dyn Handler>> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Drops the handler on the generation's own thread, however long others hold the generation, because a handler's
    /// drop may do anything. A panic in it has no other effect.
    pub(crate) fn drop_handler(&self) {
        let handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner).take();
        let_go(handler);
    }

    /// Reports an event. If the observer panics, only this report is lost.
    pub(crate) fn say(&self, event: &Event<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| (self.observer)(event)));
    }

    /// Asks it to stop: its clients have until `deadline` to disconnect. If it is already stopping, the deadline moves.
    pub(crate) fn stop(&self, deadline: Instant) {
        // Set everything before waking anything, so that a thread that wakes finds the final state.
        self.stopping.get_or_init(Instant::now);
        self.leave.store(true, Ordering::SeqCst);
        self.draining.store(true, Ordering::SeqCst);
        self.begin(deadline, true);
    }

    /// Another generation replaces it, or is about to.
    pub(crate) fn retire(&self, deadline: Instant) {
        self.replaced.store(true, Ordering::SeqCst);
        self.draining.store(true, Ordering::SeqCst);
        if self.notice.is_some() {
            self.leave.store(true, Ordering::SeqCst);
        }
        self.begin(deadline, false);
    }

    /// The deadline has come: connections that were allowed to be idle until now have to leave.
    pub(crate) fn leave_now(&self) {
        self.overdue.store(true, Ordering::SeqCst);
        self.leave.store(true, Ordering::SeqCst);
    }

    fn begin(&self, deadline: Instant, closes_port: bool) {
        self.turns.end_by(deadline, Instant::now());
        let mut live = self.lock();
        live.stop = Some(match live.stop {
            None => Stop { began: Instant::now(), deadline, closes_port, notified_before: self.notified() },
            Some(stop) => Stop { deadline, ..stop },
        });
        drop(live);
        self.changed.notify_all();
    }

    /// Whether it has been asked to stop, and closes its port.
    pub(crate) fn closes_port(&self) -> bool {
        self.lock().stop.is_some_and(|stop| stop.closes_port)
    }

    /// Moves the deadline of a drain. Returns whether a drain is under way.
    pub(crate) fn move_deadline(&self, deadline: Instant) -> bool {
        self.turns.end_by(deadline, Instant::now());
        let mut live = self.lock();
        let Some(stop) = &mut live.stop else { return false };
        stop.deadline = deadline;
        self.changed.notify_all();
        true
    }

    /// Records that it cannot accept any more; its thread then lets the clients go.
    pub(crate) fn fail(&self, failure: Failure) {
        let mut live = self.lock();
        if live.failure.is_none() && live.stop.is_none() {
            live.failure = Some(failure);
            self.changed.notify_all();
        }
    }

    /// Whether its connections that carry nothing over move to the generation that replaces it.
    pub(crate) fn hands_over(&self) -> bool {
        self.notice.is_none() && self.replaced.load(Ordering::SeqCst)
    }

    /// Whether a message that a connection receives now is its last, if it cannot move.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    /// When this connection has to leave, if it may stay for a while although others leave. None: it has to leave now.
    pub(crate) fn turn(&self, id: u64) -> Option<Instant> {
        self.turns.of(id, Instant::now()).filter(|_| !self.overdue.load(Ordering::SeqCst))
    }

    /// Whether a stop may wait for a message: clients get no notice, and the deadline has not come.
    pub(crate) fn awaits_messages(&self) -> bool {
        self.notice.is_none() && !self.overdue.load(Ordering::SeqCst)
    }

    /// Until when a stop waits for the next message of a client that was active at `active`. None: it does not wait.
    pub(crate) fn awaits_next(&self, id: u64, active: Instant) -> Option<Instant> {
        let began = *self.stopping.get()?;
        let began = self.turns.when(id, Instant::now()).unwrap_or(began);
        let is_awaited = self.awaits_messages() && began.saturating_duration_since(active) < ACTIVE;
        is_awaited.then(|| began.max(active) + NEXT_MESSAGE_WAIT)
    }

    /// Whether all connections have to leave.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leave.load(Ordering::SeqCst)
    }

    /// A client has connected.
    pub(crate) fn connected(&self) {
        let mut live = self.lock();
        live.counts.now += 1;
        live.counts.total += 1;
    }

    /// A connection has moved here from another generation.
    pub(crate) fn took_over(&self) {
        self.lock().counts.now += 1;
    }

    /// Gives a connection to another generation by `hand_over`, which returns whether the connection was still
    /// available. `hand_over` runs under the same lock as the claims of [`count_forced`](Generation::count_forced) and
    /// [`await_end`](Generation::await_end): a claimed connection stays, and one that has moved cannot be claimed here.
    pub(crate) fn give_away(&self, hand_over: impl FnOnce() -> bool) -> bool {
        let mut live = self.lock();
        let moves = hand_over();
        if moves {
            live.counts.now -= 1;
            self.wake(&live);
        }
        moves
    }

    /// Counts how a connection has ended, unless it was already counted because it was closed by force.
    pub(crate) fn ended(&self, id: u64, counted: &AtomicBool, outcome: Outcome) {
        let mut live = self.lock();
        live.counts.now -= 1;
        if !counted.swap(true, Ordering::SeqCst) && live.stop.is_some() {
            match outcome {
                Outcome::Disconnected => live.counts.disconnected += 1,
                Outcome::Closed | Outcome::Forced => live.counts.closed += 1,
            }
        }
        live.awaited.retain(|(awaited, tell)| {
            let others = *awaited != id;
            if !others {
                let _ = tell.send(outcome); // It may not be waited for any more.
            }
            others
        });
        self.wake(&live);
    }

    /// Counts a connection as closed by force if `claim` returns true. `claim` runs under the lock.
    pub(crate) fn count_forced(&self, connection: ConnectionInfo, claim: impl FnOnce() -> bool) -> bool {
        let mut live = self.lock();
        let claimed = claim();
        if claimed {
            live.counts.forced += 1;
            if live.stop.is_some() {
                live.forced.push(connection);
            }
        }
        claimed
    }

    pub(crate) fn count_notified(&self) {
        self.notified.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn count_refused(&self) {
        self.lock().counts.refused += 1;
    }

    /// How many clients were notified since the drain began.
    pub(crate) fn notified_in_drain(&self, stop: &Stop) -> usize {
        self.notified() - stop.notified_before
    }

    fn notified(&self) -> usize {
        self.notified.load(Ordering::SeqCst)
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts { notified: self.notified(), ..self.lock().counts }
    }

    /// Returns a receiver for the outcome of a connection if `claim` returns true. `claim` runs under the lock.
    pub(crate) fn await_end(&self, id: u64, claim: impl FnOnce() -> bool) -> Option<Receiver<Outcome>> {
        let (tell, ended) = mpsc::channel();
        let mut live = self.lock();
        if !claim() {
            return None;
        }
        live.awaited.push((id, tell));
        Some(ended)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Live> {
        // Counters change in single steps: a panic elsewhere cannot leave them half written.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `what`, a change of a deadline, or the end of `limit`.
    pub(crate) fn wait<'a>(&self, mut live: MutexGuard<'a, Live>, what: For, limit: Duration) -> MutexGuard<'a, Live> {
        live.waiting = Some(what);
        let (mut live, _) = self.changed.wait_timeout(live, limit).unwrap_or_else(PoisonError::into_inner);
        live.waiting = None;
        live
    }

    /// Waits until it is asked to stop, or fails.
    pub(crate) fn wait_for_stop(&self) -> MutexGuard<'_, Live> {
        let serves = |live: &mut Live| live.stop.is_none() && live.failure.is_none();
        self.changed.wait_while(self.lock(), serves).unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, live: &Live) {
        let awaited = match live.waiting {
            None => false,
            Some(For::Room) => true,
            Some(For::TheLast) => live.counts.now == 0,
        };
        if awaited {
            self.changed.notify_all();
        }
    }
}

impl fmt::Debug for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Generation").field("number", &self.number).finish_non_exhaustive()
    }
}
