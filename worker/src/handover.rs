//! A connection moves to the generation that has replaced its own, if it carries nothing over and there is no notice.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::port::Shared;
use crate::registry::{Entry, Held, Service};

/// Whether its generation has been replaced by one that it can move to.
pub(crate) fn can_move(port: &Shared, entry: &Entry, held: &Held) -> bool {
    held.generation.hands_over()
        && held.carries_nothing()
        && !entry.leave.load(Ordering::SeqCst)
        && port.successor(&held.generation).is_some()
}

/// Whether it has to leave at the boundary that it has reached. It was `active` then, as far as that is known.
pub(crate) fn must_leave(port: &Shared, entry: &Entry, held: &Held, active: Option<Instant>) -> bool {
    entry.leave.load(Ordering::SeqCst) || entry.must_leave(&held.generation, active) && !can_move(port, entry, held)
}

/// Moves to the generation that serves now. Returns false if there is none.
pub(crate) fn move_on(port: &Shared, entry: &Entry, held: &mut Held) -> bool {
    let Some(next) = port.successor(&held.generation) else { return false };
    next.took_over();
    entry.generation.store(next.number, Ordering::SeqCst);
    held.idle_timeout = next.idle_timeout;
    held.service = Some(Service::Unasked(next.handler.clone()));
    std::mem::replace(&mut held.generation, next).gave_away();
    true
}

/// Moves a connection that waits. Returns whether it did.
pub(crate) fn move_waiting(port: &Shared, entry: &Entry) -> bool {
    entry.slot.look(|held| can_move(port, entry, held) && move_on(port, entry, held)).unwrap_or(false)
}

/// Moves those that have waited for a generation to serve: the last one failed before there was another.
pub(crate) fn move_all_waiting(port: &Shared) {
    for entry in port.registry.all() {
        move_waiting(port, &entry);
    }
}
