//! Lets idle connections go, because they have to leave or because a place is needed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::course;
use crate::generation::Generation;
use crate::handover;
use crate::port::Shared;
use crate::registry::{Entry, Held};
use crate::report::Outcome;

/// The shortest time between two passes when connections leave one by one. Turns that fall in between share a pass.
const STEP: Duration = Duration::from_millis(10);

/// The pause after a pass, as a multiple of the time that the pass took. `LONGEST_STEP` limits it.
const SHARE: u32 = 10;

/// The longest time between two passes while turns are due: a pass that took long because its thread was held up must
/// not delay the next one, too.
const LONGEST_STEP: Duration = Duration::from_millis(50);

/// Lets go of every idle connection that has to leave or that another generation can serve. Busy connections find out
/// at their next message boundary. Returns when to call this again: at the next turn, or when no message is awaited any
/// longer. None: there is no need to.
pub(crate) fn release(port: &Arc<Shared>, generation: &Generation) -> Option<Instant> {
    let began = Instant::now();
    let (mut turn, mut awaited): (Option<Instant>, Option<Instant>) = (None, None);
    for entry in port.registry.of(generation) {
        if generation.hands_over() && handover::move_waiting(port, &entry) || !generation.is_leaving() {
            continue;
        }
        // Checked first: it is cheap, and for most connections the turn has not come yet.
        if let Some(own) = generation.turn(entry.id) {
            turn = Some(turn.map_or(own, |turn| turn.min(own)));
            continue;
        }
        // A busy connection counts as active now.
        let active = entry.slot.look(|held| held.idle_since).unwrap_or_else(|| Some(Instant::now()));
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

/// Closes a connection of a generation if it is idle and owed nothing. If a message has arrived, the engine looks at
/// the connection once more, so that the message is answered first: no event announces again what a pause or another
/// turn has postponed. Returns whether the connection was closed.
pub(crate) fn close(port: &Shared, generation: &Generation, entry: &Entry) -> bool {
    let mut is_owed = false;
    let is_idle = |held: &mut Held| {
        let may_end = held.belongs_to(generation) && held.farewell.is_none() && held.generation.notice.is_none();
        let has_message = may_end && held.has_message();
        is_owed = has_message && handover::must_leave(port, entry, held, held.idle_since);
        may_end && !has_message
    };
    let idle = entry.slot.take_if(is_idle);
    if is_owed && !port.pausing.is_paused() {
        port.engine.again(entry.key);
    }
    match idle {
        Some(held) => {
            course::close(port, entry, held, Outcome::Closed, None);
            true
        }
        None => false,
    }
}

/// Closes the connection that has been idle longest, to make room for a new one. Returns false if none may be closed:
/// all are busy, or the protocol has a notice, so that its idle clients are meant to stay. Where slow clients may be
/// closed, too, their time counts from the connection, which nothing that they send renews.
pub(crate) fn give_up_idlest(port: &Shared, generation: &Generation) -> bool {
    if generation.notice.is_some() {
        return false;
    }
    let idle_since = |entry: Arc<Entry>| {
        let since = match entry.slot.look(|held| held.idle_since.filter(|_| held.farewell.is_none())) {
            None if !generation.closes_slow => return None,
            since => since.flatten(),
        };
        Some((since.unwrap_or(entry.since), entry))
    };
    let all = port.registry.all().into_iter();
    let mut idle: Vec<_> = all.filter(|entry| entry.belongs_to(generation)).filter_map(idle_since).collect();
    idle.sort_unstable_by_key(|(since, entry)| (*since, entry.id));
    let may_close_slow = generation.closes_slow;
    idle.iter().any(|(_, entry)| {
        close(port, generation, entry) || may_close_slow && course::close_slow(port, generation, entry)
    })
}

/// Whether a waiting connection has a message that is about to be served.
pub(crate) fn is_being_answered(entry: &Entry, generation: &Generation) -> bool {
    generation.notice.is_none() && entry.slot.look(|held| held.farewell.is_none()).unwrap_or(false)
}
