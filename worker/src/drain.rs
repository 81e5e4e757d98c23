//! From the request to stop until the last connection is gone: the notice, the grace period, the forced close.

use std::sync::Arc;
use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use crate::accept;
use crate::course::close_by_force;
use crate::deadline::deadline_after;
use crate::event::{Event, ServerError};
use crate::generation::{For, Generation, Live, Stop};
use crate::handover;
use crate::idle;
use crate::port::Shared;
use crate::registry::Entry;
use crate::report::{Closed, DrainReport, Outcome};

/// How long handlers get to end after their connections were closed by force. One that takes longer is reported as
/// stuck and left behind.
const PATIENCE: Duration = Duration::from_millis(500);

/// Runs on the thread `generation`: waits until the generation is asked to stop or fails, then lets its clients go.
pub(crate) fn run(port: &Arc<Shared>, generation: &Arc<Generation>) -> Result<DrainReport, ServerError> {
    let mut live = generation.wait_for_stop();
    let failure = live.failure.take().filter(|_| live.stop.is_none());
    drop(live);
    if let Some(failure) = &failure {
        generation.retire(deadline_after(Instant::now(), generation.grace_on_failure));
        generation.say(&Event::Failed { failure });
    }
    if generation.closes_port() {
        accept::close(port, generation);
    }
    port.withdraw(generation);
    let drain = drain(port, generation);
    generation.drop_handler();
    generation.say(&Event::Finished);
    match failure {
        None => Ok(drain),
        Some(failure) => Err(ServerError { failure, drain }),
    }
}

/// Waits for all connections to end, lets idle ones go as soon as they have to leave, and closes the remaining ones by
/// force at the deadline.
fn drain(port: &Arc<Shared>, generation: &Arc<Generation>) -> DrainReport {
    // When to look at the idle connections next. None: all remaining ones find out by themselves that they have to
    // leave.
    let mut next = Some(Instant::now());
    let mut before = None;
    let mut live = generation.lock();
    let now = loop {
        // A stop may follow a replacement, which left some connections alone; and turns may be moved to earlier times.
        let course = Some((generation.is_leaving(), generation.turns.end()));
        if std::mem::replace(&mut before, course) != course {
            next = Some(Instant::now());
        }
        if next.is_some_and(|next| next <= Instant::now()) {
            drop(live);
            next = idle::release(port, generation);
            live = generation.lock();
            continue;
        }
        let now = Instant::now();
        let deadline = live.stop.map_or(now, |stop| stop.deadline);
        if live.counts.now == 0 || deadline <= now {
            break now;
        }
        let until = next.map_or(deadline, |next| next.min(deadline));
        live = generation.wait(live, For::TheLast, until.saturating_duration_since(now));
    };
    drop(live);
    // Connections that were allowed to stay idle until now are closed, not forced. A message that arrives at this very
    // moment is still answered, if that does not take long.
    generation.leave_now();
    for entry in port.registry.of(generation) {
        if !handover::move_waiting(port, &entry)
            && !idle::close(port, generation, &entry)
            && !idle::is_being_answered(&entry, generation)
        {
            close_by_force(port, generation, &entry);
        }
    }
    drop(wait_until_empty(generation, now + PATIENCE * 3 / 4));
    for entry in port.registry.of(generation) {
        close_by_force(port, generation, &entry);
    }
    let mut live = wait_until_empty(generation, now + PATIENCE);
    let stuck = if live.counts.now == 0 { Vec::new() } else { port.registry.of(generation) };
    let forced = std::mem::take(&mut live.forced);
    let (counts, stop) = (live.counts, live.stop);
    drop(live);
    DrainReport {
        notified: stop.map_or(0, |stop: Stop| generation.notified_in_drain(&stop)),
        disconnected: counts.disconnected,
        closed: counts.closed,
        forced,
        stuck: stuck.iter().map(|entry| entry.info()).collect(),
        took: stop.map_or(Duration::ZERO, |stop| stop.began.elapsed()),
    }
}

fn wait_until_empty(generation: &Generation, until: Instant) -> MutexGuard<'_, Live> {
    let mut live = generation.lock();
    while live.counts.now > 0 {
        let Some(remaining) = until.checked_duration_since(Instant::now()) else { break };
        live = generation.wait(live, For::TheLast, remaining);
    }
    live
}

/// Ends one connection: notifies its client, waits for it to disconnect, and closes it by force when the time is up. A
/// connection that has moved is looked up in the generation that serves now. None: there is no such connection.
pub(crate) fn close(port: &Arc<Shared>, generation: &Arc<Generation>, id: u64, grace: Duration) -> Option<Closed> {
    let entry = port.registry.of(generation).into_iter().find(|entry| entry.id == id);
    entry.and_then(|entry| close_one(port, generation, &entry, grace)).or_else(|| {
        let next = port.successor(generation).filter(|next| next.ids.are_shared_with(&generation.ids))?;
        close(port, &next, id, grace)
    })
}

/// The same for one connection. None: it has ended, or has moved to another generation.
pub(crate) fn close_one(
    port: &Arc<Shared>,
    generation: &Arc<Generation>,
    entry: &Arc<Entry>,
    grace: Duration,
) -> Option<Closed> {
    let connection = entry.info();
    let ended = generation.await_end(entry.id, || entry.claim_to_leave(generation))?;
    // It may have ended, and been counted, before it was awaited.
    port.registry.get(entry.key)?;
    idle::release_one(port, generation, entry);
    if let Ok(outcome) = ended.recv_timeout(grace) {
        return Some(Closed { connection, outcome, stuck: false });
    }
    close_by_force(port, generation, entry);
    let outcome = ended.recv_timeout(PATIENCE);
    Some(Closed { connection, outcome: outcome.unwrap_or(Outcome::Forced), stuck: outcome.is_err() })
}
