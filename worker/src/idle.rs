//! Idle connections: how one is let go, because it has to leave or because its place is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::course;
use crate::generation::Generation;
use crate::handover;
use crate::port::Shared;
use crate::registry::{Entry, Held};
use crate::report::Outcome;
use crate::socket;

/// The shortest time between two turns of connections that are let go over a time. Those between have theirs together.
const STEP: Duration = Duration::from_millis(10);

/// How much of the time goes to looking at connections, as far as the longest step allows.
const SHARE: u32 = 10;

/// The longest time between two turns that are due: a look that took long because its thread was held up must not make
/// the next one late, too.
const LONGEST_STEP: Duration = Duration::from_millis(50);

/// Lets every idle connection go that has to, or that another generation can serve. The busy ones find out at their
/// next message boundary. Returns when it is the turn of the next one, or no message is awaited any longer: the time to
/// come again. None: there is nothing to come for.
pub(crate) fn release(port: &Arc<Shared>, generation: &Generation) -> Option<Instant> {
    let began = Instant::now();
    let (mut turn, mut awaited): (Option<Instant>, Option<Instant>) = (None, None);
    for entry in port.registry.of(generation) {
        if generation.hands_over() && handover::move_waiting(port, &entry) || !generation.is_leaving() {
            continue;
        }
        // Asked first, since it costs little, and the turn of most has not come.
        if let Some(own) = generation.turn(entry.id) {
            turn = Some(turn.map_or(own, |turn| turn.min(own)));
            continue;
        }
        // One that is busy is active now.
        let active = entry.slot.look(|held| held.idle_since()).unwrap_or_else(|| Some(Instant::now()));
        if entry.must_leave(generation, active) {
            release_one(port, generation, &entry);
        } else {
            awaited = awaited.max(entry.awaits(generation, active));
        }
    }
    let pause = (began.elapsed() * SHARE).clamp(STEP, LONGEST_STEP);
    turn.map(|turn| turn.max(began + pause)).into_iter().chain(awaited).min()
}

/// Lets one connection of a generation go if it is idle.
pub(crate) fn release_one(port: &Arc<Shared>, generation: &Generation, entry: &Arc<Entry>) {
    let owed =
        |held: &mut Held| held.belongs_to(generation) && held.farewell.is_none() && held.generation.notice.is_some();
    match entry.slot.take_if(owed) {
        Some(held) => course::notify(port, entry, held),
        None => {
            close(port, generation, entry);
        }
    }
}

/// Closes a connection of a generation that is idle and owed nothing. A message that has arrived is answered first:
/// then it is left to the engine, which reports it. Returns whether it was idle.
pub(crate) fn close(port: &Shared, generation: &Generation, entry: &Entry) -> bool {
    let is_idle = |held: &mut Held| {
        held.belongs_to(generation)
            && held.farewell.is_none()
            && held.generation.notice.is_none()
            && !socket::has_input(&held.socket)
    };
    match entry.slot.take_if(is_idle) {
        Some(held) => {
            course::close(port, entry, held, Outcome::Closed, None);
            true
        }
        None => false,
    }
}

/// Closes the connection that has been idle for longest, to make room for a new one. Returns false if none may be
/// closed: all are busy, or the protocol has a notice, and an idle client is there to stay.
pub(crate) fn give_up_idlest(port: &Shared, generation: &Generation) -> bool {
    if generation.notice.is_some() {
        return false;
    }
    let idle_since = |entry: Arc<Entry>| {
        let since = entry.slot.look(|held| held.idle_since())?;
        Some((since.unwrap_or(entry.since), entry))
    };
    let all = port.registry.all().into_iter();
    let mut idle: Vec<_> = all.filter(|entry| entry.belongs_to(generation)).filter_map(idle_since).collect();
    idle.sort_unstable_by_key(|(since, entry)| (*since, entry.id));
    idle.iter().any(|(_, entry)| close(port, generation, entry))
}

/// Whether a connection waits, but has a message that is about to be served.
pub(crate) fn is_being_answered(entry: &Entry, generation: &Generation) -> bool {
    generation.notice.is_none() && entry.slot.look(|held| held.farewell.is_none()).unwrap_or(false)
}
