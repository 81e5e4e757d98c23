//! Moves a connection to the generation that has replaced its own, if it carries nothing over and there is no notice.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::event::let_go;
use crate::generation::Generation;
use crate::port::Shared;
use crate::registry::{Entry, Held, Service};

/// Whether its generation has been replaced by one that it can move to.
pub(crate) fn can_move(port: &Shared, entry: &Entry, held: &Held) -> bool {
    held.generation.hands_over()
        && held.carries_nothing()
        && !entry.leave.load(Ordering::SeqCst)
        && !entry.counted.load(Ordering::SeqCst)
        && port.has_successor(&held.generation)
}

/// Whether it has to leave at the boundary that it has reached. `active` is when it was last active, as far as known.
pub(crate) fn must_leave(port: &Shared, entry: &Entry, held: &Held, active: Option<Instant>) -> bool {
    entry.leave.load(Ordering::SeqCst) || entry.must_leave(&held.generation, active) && !can_move(port, entry, held)
}

/// What a move, completed or not, leaves to be dropped. Dropping it may run a handler's drop.
type Left = Option<(Arc<Generation>, Option<Service>)>;

/// Moves to the generation that serves now. Returns false if there is none, or if its own generation has claimed it.
pub(crate) fn move_on(port: &Shared, entry: &Entry, held: &mut Held) -> bool {
    let (moved, left) = change(port, entry, held);
    let_go(left);
    moved
}

/// Moves a waiting connection. Returns whether it moved.
pub(crate) fn move_waiting(port: &Shared, entry: &Entry) -> bool {
    let change = |held: &mut Held| {
        let (moved, left) = if can_move(port, entry, held) { change(port, entry, held) } else { (false, None) };
        if moved {
            held.arm(&port.engine, entry.key); // It may be due earlier now.
        }
        (moved, left)
    };
    // Dropped only after the slot's lock has been released.
    let (moved, left) = entry.slot.look(change).unwrap_or_default();
    let_go(left);
    moved
}

fn change(port: &Shared, entry: &Entry, held: &mut Held) -> (bool, Left) {
    let Some(next) = port.successor(&held.generation) else { return (false, None) };
    let Some(handler) = next.handler() else { return (false, Some((next, None))) };
    let new = Service::Unasked(handler);
    // Counted twice for a moment, rather than not at all: neither drain may end without it.
    next.took_over();
    if !held.generation.give_away(|| entry.hand_over(&next)) {
        next.give_away(|| true);
        return (false, Some((next, Some(new))));
    }
    held.idle_timeout = next.idle_timeout;
    held.idle_since = held.idle_since.or_else(|| held.idle_timeout.map(|_| Instant::now()));
    let service = held.service.replace(new);
    (true, Some((std::mem::replace(&mut held.generation, next), service)))
}

/// Moves the connections that waited for a generation to serve: the last one failed before there was another.
pub(crate) fn move_all_waiting(port: &Shared) {
    for entry in port.registry.all() {
        move_waiting(port, &entry);
    }
}
