//! From the request to stop until the last connection is gone: the notice, the grace period, the forced close.

use std::io::Write;
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::registry::{ConnectionInfo, Entry, For, Live, Outcome, Registry};
use crate::server::Shared;
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
/// disconnected, closed or forced.
#[derive(Debug, Clone, Default)]
pub struct DrainReport {
    /// Clients that got the notice.
    pub notified: usize,
    /// Clients that disconnected.
    pub disconnected: usize,
    /// Connections that were closed with nothing owed to their clients.
    pub closed: usize,
    /// Connections that were closed by force at the deadline, as they were at that moment.
    pub forced: Vec<ConnectionInfo>,
    /// Those of the forced ones whose handler thread could not be ended either.
    pub stuck: Vec<ConnectionInfo>,
    /// From the request until the last connection was gone.
    pub took: Duration,
}

/// Waits for all connections to end, tells the idle ones as soon as they have to leave, and closes by force what is
/// left at the deadline.
///
/// A deadline has been set, and no new connection comes.
pub(crate) fn drain(shared: &Shared) -> DrainReport {
    let (registry, leave) = (&shared.registry, &shared.leave);
    // When idle clients are told next, if they have to leave. None: all have been.
    let mut next = Some(Instant::now());
    let mut forced = Vec::new();
    let mut live = registry.lock();
    let now = loop {
        if leave.is_set() && next.is_some_and(|next| next <= Instant::now()) {
            drop(live);
            next = tell_idle(shared);
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
    // Those that were allowed to stay idle until now are not forced, but closed; a message that has arrived in this
    // very moment is still answered, if that does not take long.
    leave.set();
    // Nor are those without a notice that have just been closed, and are about to find that out.
    let is_closed = |entry: &Entry| shared.notice.is_none() && entry.turn.phase() == Phase::Leaving;
    let mut given_up = Vec::new();
    force(&mut live, &mut forced, &mut given_up, |entry, given_up| {
        !tell_if_idle(shared, entry, given_up) && !is_closed(entry)
    });
    live = wait_until_empty(shared, live, given_up, now + PATIENCE * 3 / 4);
    let mut given_up = Vec::new();
    force(&mut live, &mut forced, &mut given_up, |_, _| true);
    live = wait_until_empty(shared, live, given_up, now + PATIENCE);
    DrainReport {
        notified: registry.told() - live.stop.map_or(0, |stop| stop.told_before),
        disconnected: live.counts.disconnected,
        closed: live.counts.closed,
        forced,
        stuck: live.connections.values().map(|entry| entry.info()).collect(),
        took: live.stop.map_or(Duration::ZERO, |stop| stop.began.elapsed()),
    }
}

/// Connections whose threads were given up: nothing wakes them. They are still to be [ended](end).
type GivenUp = Vec<Arc<Entry>>;

/// Closes by force those of the connections for which that is due.
fn force(
    live: &mut Live,
    forced: &mut Vec<ConnectionInfo>,
    given_up: &mut GivenUp,
    is_due: impl Fn(&Arc<Entry>, &mut GivenUp) -> bool,
) {
    for entry in live.connections.values().filter(|entry| !entry.forced.load(Ordering::SeqCst)) {
        if is_due(entry, given_up) {
            forced.push(entry.info());
            live.counts.forced += 1;
            entry.forced.store(true, Ordering::SeqCst);
            if entry.close_by_force() {
                given_up.push(entry.clone());
            }
        }
    }
}

/// Ends those whose threads do not. Not to be called under a lock: the observer hears of it.
fn end(shared: &Shared, given_up: GivenUp) {
    for entry in given_up {
        let outcome = if entry.forced.load(Ordering::SeqCst) { Outcome::Forced } else { Outcome::Closed };
        shared.end(entry, outcome, None);
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

/// Ends one connection: tells its client, waits for it to leave, and closes it by force when the time is up. None:
/// there is no such connection.
pub(crate) fn close(shared: &Shared, id: u64, grace: Duration) -> Option<Closed> {
    let (entry, ended) = shared.registry.await_end(id)?;
    let connection = entry.info();
    entry.leave.set();
    let mut given_up = Vec::new();
    tell_if_idle(shared, &entry, &mut given_up);
    // It holds the socket.
    drop(entry);
    end(shared, given_up);
    if let Ok(outcome) = ended.recv_timeout(grace) {
        return Some(Closed { connection, outcome, stuck: false });
    }
    end(shared, shared.registry.force(id).into_iter().collect());
    let outcome = ended.recv_timeout(PATIENCE);
    Some(Closed { connection, outcome: outcome.unwrap_or(Outcome::Forced), stuck: outcome.is_err() })
}

fn wait_until_empty<'a>(
    shared: &'a Shared,
    live: MutexGuard<'a, Live>,
    given_up: GivenUp,
    until: Instant,
) -> MutexGuard<'a, Live> {
    drop(live);
    end(shared, given_up);
    let registry = &shared.registry;
    let mut live = registry.lock();
    while let Some(left) = until.checked_duration_since(Instant::now())
        && !live.connections.is_empty()
    {
        live = registry.wait(live, For::TheLast, left);
    }
    live
}

/// Tells every idle client, except for those whose first message is awaited. The busy ones find at their next message
/// boundary that they have to leave. Returns when no first message is awaited any more: the time to come again. None:
/// nobody was left out.
pub(crate) fn tell_idle(shared: &Shared) -> Option<Instant> {
    let now = Instant::now();
    let mut again = None;
    let mut given_up = Vec::new();
    for entry in shared.registry.entries() {
        match awaited_until(&entry, shared.notice.as_deref()) {
            Some(until) if now < until => again = again.max(Some(until)),
            Some(_) | None => {
                tell_if_idle(shared, &entry, &mut given_up);
            }
        }
    }
    end(shared, given_up);
    again
}

/// Tells a client if its connection is idle. Returns whether it is.
fn tell_if_idle(shared: &Shared, entry: &Arc<Entry>, given_up: &mut GivenUp) -> bool {
    entry.turn.claim(|| match &shared.notice {
        Some(notice) => tell(&shared.registry, entry, notice),
        // Nothing is owed to it.
        None if end_read(entry) => given_up.push(entry.clone()),
        None => {}
    })
}

/// Ends the read of an idle connection. A message that has arrived in this moment is still read. Returns whether the
/// thread was given up.
#[cfg(not(windows))]
fn end_read(entry: &Entry) -> bool {
    let _ = entry.stream.shutdown(Shutdown::Read);
    false
}

#[cfg(windows)]
fn end_read(entry: &Entry) -> bool {
    let given_up = socket::is_silent(&entry.stream) && entry.blocked.give_up();
    if given_up {
        // Only this half: a client that leaves then still wakes the thread.
        let _ = entry.stream.shutdown(Shutdown::Write);
    }
    given_up
}

/// Until when a stop waits for the first message of this client. None: the client has sent something already, or gets a
/// notice, by which it hears at once that it has to come back, whatever it was about to send.
pub(crate) fn awaited_until(entry: &Entry, notice: Option<&[u8]>) -> Option<Instant> {
    let is_silent = entry.received.load(Ordering::Relaxed) == 0;
    (notice.is_none() && is_silent).then(|| entry.since + FIRST_MESSAGE_WAIT)
}

/// Tells an idle client from the draining thread, which must not wait for a client that does not read.
fn tell(registry: &Arc<Registry>, entry: &Arc<Entry>, notice: &[u8]) {
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
