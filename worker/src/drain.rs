//! From the request to stop until the last connection is gone: the notice, the grace period, the forced close.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::quit::Flag;
use crate::registry::{ConnectionInfo, Entry, For, Live, Outcome, Registry};
use crate::socket;
use crate::turn::Phase;

/// How long handler threads get to end after their connections were closed by force. One that takes longer is
/// reported as stuck and left behind.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long a stop waits for the first message of a client that has connected just before, counted from when its
/// connection was accepted: that message is most likely on its way. Only where there is no
/// [notice](crate::Handler::notice), and never beyond the stop's deadline.
///
/// It is long enough for a packet that was lost, if the client is near: systems send it again after a fifth of a
/// second. It is short enough for a stop that waits in vain, since some clients connect and then are silent.
pub const FIRST_MESSAGE_WAIT: Duration = Duration::from_millis(250);

/// What became of the connections when a server stopped.
///
/// Each connection that was open when the stop began, or was accepted from the queue after it, is counted once as
/// left, closed or forced.
#[derive(Debug, Clone, Default)]
pub struct DrainReport {
    /// Clients that got the notice.
    pub told: usize,
    /// Clients that left by themselves.
    pub left: usize,
    /// Connections that were closed with nothing owed to their clients.
    pub closed: usize,
    /// Connections that were closed by force at the deadline, as they were at that moment.
    pub forced: Vec<ConnectionInfo>,
    /// Those of the forced ones whose handler thread could not be ended either.
    pub stuck: Vec<ConnectionInfo>,
    /// From the request until the last connection was gone.
    pub took: Duration,
}

/// Waits for all connections to end, tells the idle ones as soon as they have to leave, and closes by force what is left
/// at the deadline.
///
/// A deadline has been set, and no new connection comes.
pub(crate) fn drain(registry: &Arc<Registry>, leave: &Flag, notice: Option<&[u8]>) -> DrainReport {
    // When idle clients are told next, if they have to leave. None: all have been.
    let mut next = Some(Instant::now());
    let mut forced = Vec::new();
    let mut live = registry.lock();
    let now = loop {
        if leave.is_set() && next.is_some_and(|next| next <= Instant::now()) {
            drop(live);
            next = tell_idle(registry, notice);
            live = registry.lock();
        }
        let now = Instant::now();
        let deadline = live.stop.map_or(now, |stop| stop.deadline);
        if live.connections.is_empty() || deadline <= now {
            break now;
        }
        let until = next.filter(|_| leave.is_set()).map_or(deadline, |next| next.min(deadline));
        live = registry.wait(live, For::TheLast, until.saturating_duration_since(now));
    };
    // Those that were allowed to stay idle until now are not forced, but closed; a message that has arrived in this very
    // moment is still answered, if that does not take long.
    leave.set();
    // Nor are those without a notice that have just been closed, and are about to find that out.
    let is_closed = |entry: &Entry| notice.is_none() && entry.turn.phase() == Phase::Leaving;
    force(&mut live, &mut forced, |entry| !entry.turn.claim(|| tell(registry, entry, notice)) && !is_closed(entry));
    live = wait_until_empty(registry, live, now + PATIENCE * 3 / 4);
    force(&mut live, &mut forced, |_| true);
    live = wait_until_empty(registry, live, now + PATIENCE);
    DrainReport {
        told: registry.told() - live.stop.map_or(0, |stop| stop.told_before),
        left: live.counts.left,
        closed: live.counts.closed,
        forced,
        stuck: live.connections.values().map(|entry| entry.info()).collect(),
        took: live.stop.map_or(Duration::ZERO, |stop| stop.began.elapsed()),
    }
}

/// Closes by force those of the connections for which that is due.
fn force(live: &mut Live, forced: &mut Vec<ConnectionInfo>, is_due: impl Fn(&Arc<Entry>) -> bool) {
    for entry in live.connections.values().filter(|entry| !entry.forced.load(Ordering::SeqCst)) {
        if is_due(entry) {
            forced.push(entry.info());
            live.counts.forced += 1;
            entry.forced.store(true, Ordering::SeqCst);
            // Wakes a blocked read or write. It fails only where the client is gone already.
            let _ = entry.stream.shutdown(Shutdown::Both);
        }
    }
}

/// How one connection ended that somebody wanted closed.
#[derive(Debug, Clone)]
pub struct Closed {
    /// As it was when it was asked to leave.
    pub connection: ConnectionInfo,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether its handler goes on all the same, since it could not be ended.
    pub stuck: bool,
}

/// Ends one connection: tells its client, waits for it to leave, and closes it by force when the time is up. None: there is no
/// such connection.
pub(crate) fn close(registry: &Arc<Registry>, id: u64, notice: Option<&[u8]>, grace: Duration) -> Option<Closed> {
    let (entry, ended) = registry.await_end(id)?;
    let connection = entry.info();
    entry.leave.set();
    entry.turn.claim(|| tell(registry, &entry, notice));
    // It holds the socket.
    drop(entry);
    if let Ok(outcome) = ended.recv_timeout(grace) {
        return Some(Closed { connection, outcome, stuck: false });
    }
    registry.force(id);
    let outcome = ended.recv_timeout(PATIENCE);
    Some(Closed { connection, outcome: outcome.unwrap_or(Outcome::Forced), stuck: outcome.is_err() })
}

fn wait_until_empty<'a>(registry: &Registry, mut live: MutexGuard<'a, Live>, end: Instant) -> MutexGuard<'a, Live> {
    while let Some(left) = end.checked_duration_since(Instant::now())
        && !live.connections.is_empty()
    {
        live = registry.wait(live, For::TheLast, left);
    }
    live
}

/// Tells every idle client, except for those whose first message is awaited. The busy ones find at their next message
/// boundary that they have to leave. Returns when no first message is awaited any more: the time to come again. None:
/// nobody was left out.
pub(crate) fn tell_idle(registry: &Arc<Registry>, notice: Option<&[u8]>) -> Option<Instant> {
    let now = Instant::now();
    let mut again = None;
    for entry in registry.entries() {
        match awaited_until(&entry, notice) {
            Some(until) if now < until => again = again.max(Some(until)),
            Some(_) | None => drop(entry.turn.claim(|| tell(registry, &entry, notice))),
        }
    }
    again
}

/// Until when a stop waits for the first message of this client. None: the client has sent something already, or gets a
/// notice, by which it hears at once that it has to come back, whatever it was about to send.
pub(crate) fn awaited_until(entry: &Entry, notice: Option<&[u8]>) -> Option<Instant> {
    let is_silent = entry.received.load(Ordering::Relaxed) == 0;
    (notice.is_none() && is_silent).then(|| entry.since + FIRST_MESSAGE_WAIT)
}

/// Tells an idle client from the draining thread, which must not wait for a client that does not read.
fn tell(registry: &Arc<Registry>, entry: &Arc<Entry>, notice: Option<&[u8]>) {
    let Some(notice) = notice else {
        // Nothing is owed. This ends the connection's read; a message that has arrived in this moment is still read.
        let _ = entry.stream.shutdown(Shutdown::Read);
        return;
    };
    match socket::send_at_once(&entry.stream, notice) {
        Ok(written) if written == notice.len() => told(registry, entry),
        Ok(written) => {
            // The client has not read what it was sent before. A thread of its own waits for it, until the deadline.
            let (registry, late, rest) = (registry.clone(), entry.clone(), notice[written..].to_vec());
            let thread = thread::Builder::new().name(format!("notice-{}", entry.id));
            // Without a thread the notice is lost to this client, which was not reading anyway.
            let _ = thread.spawn(move || {
                if (&late.stream).write_all(&rest).is_ok() {
                    told(&registry, &late);
                }
            });
        }
        Err(_) => {} // The client is gone, as its own thread is about to find out.
    }
}

/// The notice has been written: half-close, so that the client hears that nothing follows.
pub(crate) fn told(registry: &Registry, entry: &Entry) {
    registry.count_told();
    let _ = entry.stream.shutdown(Shutdown::Write);
}
