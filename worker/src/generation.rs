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

/// How long a stop waits for the first message of a client that has connected just before, counted from when its
/// connection was accepted: that message is most likely on its way. Only where there is no
/// [notice](crate::Handler::notice), and never beyond the stop's deadline.
///
/// It is long enough for a packet that was lost, if the client is near: systems send it again after a fifth of a
/// second. It is short enough for a stop that waits in vain, since some clients connect and then are silent.
pub const FIRST_MESSAGE_WAIT: Duration = Duration::from_millis(250);

/// How long a stop waits for the next message of a client whose last one came within a second before: it may be on its
/// way, and is answered as the last one. Where there is no [notice](crate::Handler::notice), and never beyond the
/// stop's deadline.
pub const NEXT_MESSAGE_WAIT: Duration = Duration::from_millis(250);

/// A client that has been idle for longer when a stop begins is not expected to send anything in that moment.
pub(crate) const ACTIVE: Duration = Duration::from_secs(1);

/// Numbers for connections, from 1. Servers that share them never give one number twice.
#[derive(Debug, Clone, Default)]
pub struct Ids(Arc<AtomicU64>);

impl Ids {
    /// Whether one number is one connection in both.
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
    observer: Arc<Observer>,
    pub(crate) max_connections: usize,
    pub(crate) grace_on_failure: Duration,
    pub(crate) ids: Ids,
    /// Set when another generation takes its place: connections that carry nothing over move to that one.
    replaced: AtomicBool,
    /// Set when the next message of a connection is its last.
    draining: AtomicBool,
    /// Set when connections have to leave at their next message boundary.
    leave: AtomicBool,
    /// When that was asked for first, by a stop.
    stopping: OnceLock<Instant>,
    /// When connections have to leave, if not all at once.
    pub(crate) turns: Turns,
    /// Set when the deadline has come: no message is awaited any more.
    overdue: AtomicBool,
    /// Beside the lock, because a connection counts it while it is being served.
    notified: AtomicUsize,
    live: Mutex<Live>,
    changed: Condvar,
}

#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) counts: Counts,
    pub(crate) stop: Option<Stop>,
    pub(crate) failure: Option<Failure>,
    /// Those that were closed by force during the drain, as they were then.
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
    /// Whether the port is closed, and what waits in its queue notified. Otherwise another generation serves there.
    pub(crate) closes_port: bool,
    /// How many had been notified before, each for itself.
    notified_before: usize,
}

/// What the drain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// That any connection ends, or a deadline changes.
    Room,
    /// That the last connection ends, or a deadline changes. The others would wake it for nothing.
    TheLast,
}

/// What [`Server`](crate::Server) knows. The handler has been asked for all that is the same for all clients.
pub(crate) struct Plan {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) notice: Option<Box<[u8]>>,
    pub(crate) refusal: Box<[u8]>,
    pub(crate) speaks_first: bool,
    pub(crate) idle_timeout: Option<Duration>,
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

    /// What serves its connections. None: it has ended.
    pub(crate) fn handler(&self) -> Option<Arc<dyn Handler>> {
        self.handler.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets go of the handler, whose drop may do anything. That is a matter of the generation's own thread, however
    /// long others look into the generation. A panic in it costs nothing else.
    pub(crate) fn drop_handler(&self) {
        let handler = self.handler.lock().unwrap_or_else(PoisonError::into_inner).take();
        let_go(handler);
    }

    /// Reports an event. If the observer panics, that costs its own report and nothing else.
    pub(crate) fn say(&self, event: &Event<'_>) {
        let _ = panic::catch_unwind(AssertUnwindSafe(|| (self.observer)(event)));
    }

    /// Its clients have until then to disconnect. If it stops already, the deadline moves.
    pub(crate) fn stop(&self, deadline: Instant) {
        // All set before anything is woken: a thread that wakes finds everything as it is going to be.
        self.stopping.get_or_init(Instant::now);
        self.leave.store(true, Ordering::SeqCst);
        self.draining.store(true, Ordering::SeqCst);
        self.begin(deadline, true);
    }

    /// Another generation takes its place, or is going to.
    pub(crate) fn retire(&self, deadline: Instant) {
        self.replaced.store(true, Ordering::SeqCst);
        self.draining.store(true, Ordering::SeqCst);
        if self.notice.is_some() {
            self.leave.store(true, Ordering::SeqCst);
        }
        self.begin(deadline, false);
    }

    /// At the deadline nothing may stay that was allowed to be idle until then.
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

    /// Moves the deadline of a drain. Returns whether there is one.
    pub(crate) fn move_deadline(&self, deadline: Instant) -> bool {
        self.turns.end_by(deadline, Instant::now());
        let mut live = self.lock();
        let Some(stop) = &mut live.stop else { return false };
        stop.deadline = deadline;
        self.changed.notify_all();
        true
    }

    /// It cannot accept any more: its thread lets its clients go.
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

    /// When this connection has to leave, if it is to stay for a while although others leave. None: it has to now.
    pub(crate) fn turn(&self, id: u64) -> Option<Instant> {
        self.turns.of(id, Instant::now()).filter(|_| !self.overdue.load(Ordering::SeqCst))
    }

    /// Until when a stop waits for the next message of a client that was active at this time. None: it does not.
    pub(crate) fn awaits_next(&self, id: u64, active: Instant) -> Option<Instant> {
        let began = *self.stopping.get()?;
        let began = self.turns.when(id, Instant::now()).unwrap_or(began);
        let is_awaited = self.notice.is_none()
            && began.saturating_duration_since(active) < ACTIVE
            && !self.overdue.load(Ordering::SeqCst);
        is_awaited.then(|| began + NEXT_MESSAGE_WAIT)
    }

    /// Whether all have to leave.
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

    /// Gives a connection to another generation by `hand_over`, which returns whether it was still to be had. It runs
    /// under the lock under which [`count_forced`](Generation::count_forced) and [`await_end`](Generation::await_end)
    /// claim a connection: one that is claimed stays, and one that has moved cannot be claimed here.
    pub(crate) fn give_away(&self, hand_over: impl FnOnce() -> bool) -> bool {
        let mut live = self.lock();
        let moves = hand_over();
        if moves {
            live.counts.now -= 1;
            self.wake(&live);
        }
        moves
    }

    /// Counts how a connection has ended, unless that is counted: when it was closed by force.
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

    /// Counts a connection that is to be closed by force, if `claim` returns true, which runs under the lock.
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

    /// Where the outcome of a connection will be sent, if `claim` returns true, which runs under the lock.
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

    /// Waits for that, or until a deadline changes or the time is up.
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
