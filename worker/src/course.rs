//! What a thread does with a connection that has been reported: it serves messages, notifies the client, waits again,
//! or ends it.

use std::io::{self, ErrorKind};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::connection::{Connection, Course};
use crate::engine::{Engine, Why};
use crate::event::{Event, let_go, panic_message};
use crate::farewell::{Farewell, Step};
use crate::generation::Generation;
use crate::handover;
use crate::port::Shared;
use crate::registry::{Entry, Held, Service};
use crate::report::Outcome;
use crate::slot::{Force, Parked};

/// A connection begins, and waits for its first message.
pub(crate) fn begin(port: &Arc<Shared>, entry: &Arc<Entry>, held: Held) {
    if held.farewell.is_some() {
        return take_leave(port, entry, held, Why::Again);
    }
    let speaks = held.speaks;
    let arm = |held: &mut Held| {
        if held.generation.is_draining() {
            // A stop empties the queue on a thread that is not one of the engine's.
            held.arm(&port.engine, entry.key);
        } else {
            held.arm_first(&port.engine, entry.key);
        }
    };
    if let Some(held) = park_armed(port, entry, held, Awaits::Input, arm) {
        return attend(port, entry, held, Why::Closing);
    }
    if speaks {
        port.engine.again(entry.key);
    }
}

/// Something has happened to a connection.
pub(crate) fn ready(port: &Arc<Shared>, entry: &Arc<Entry>, why: Why) {
    if why == Why::Due && !is_due(port, entry) {
        return;
    }
    // Checked early, because it needs no lock, and usually there is no pause. A new connection has yet to be watched.
    if why != Why::New
        && port.pausing.is_paused()
        && entry.slot.look(|held| awaits_resume(port, entry, held)).unwrap_or(false)
    {
        return;
    }
    if let Some(held) = entry.slot.take() {
        attend(port, entry, held, why);
    }
}

/// Whether its time is really up when the timer fires. If it has been postponed, the timer is set again.
fn is_due(port: &Shared, entry: &Entry) -> bool {
    let due = entry.slot.look(|held| {
        Engine::came(&mut held.watch);
        let due = held.due().is_some_and(|due| due <= Instant::now());
        if !due {
            held.arm(&port.engine, entry.key);
        }
        due
    });
    due.unwrap_or(false)
}

/// Whether the next message of this connection has to wait because the port is paused. The connection is reported again
/// when the pause ends.
fn awaits_resume(port: &Shared, entry: &Entry, held: &Held) -> bool {
    port.pausing.is_paused() && held.farewell.is_none() && !handover::must_leave(port, entry, held, held.idle_since)
}

/// Serves a connection that this thread has taken, until it waits again or has ended.
fn attend(port: &Arc<Shared>, entry: &Arc<Entry>, mut held: Held, mut why: Why) {
    loop {
        if held.farewell.is_some() {
            return take_leave(port, entry, held, why);
        }
        if handover::must_leave(port, entry, &held, held.idle_since) && held.generation.notice.is_some() {
            return notify(port, entry, held);
        }
        if awaits_resume(port, entry, &held) {
            let Some(back) = park(port, entry, held, Awaits::Input) else { return };
            (held, why) = (back, Why::Again);
            continue;
        }
        let mut connection = Connection::open(port.clone(), entry.clone(), held);
        let speaks = connection.takes_the_word();
        if connection.buffered().is_empty() && !speaks {
            match connection.receive_at_once() {
                Ok(Some(0)) | Err(_) => return close(port, entry, connection.put_away(), Outcome::Disconnected, None),
                Ok(Some(_)) => {}
                Ok(None) => {
                    // Nothing is there after all.
                    let waits = connection.put_away();
                    // A stop may have begun since that was checked above.
                    if handover::must_leave(port, entry, &waits, waits.idle_since) {
                        return notify_or_close(port, entry, waits);
                    }
                    let idle_for_too_long = why == Why::Due && waits.due().is_some();
                    if idle_for_too_long {
                        return close(port, entry, waits, Outcome::Closed, None);
                    }
                    let Some(back) = park(port, entry, waits, Awaits::Input) else { return };
                    (held, why) = (back, Why::Closing);
                    continue;
                }
            }
        }
        // When its turn ended, what its last event had reported was forgotten.
        connection.closing = matches!(why, Why::Closing | Why::Again);
        let Some(back) = serve(port, entry, connection) else { return };
        // Meanwhile the client may have closed its side after its last message.
        (held, why) = (back, Why::Closing);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Awaits {
    Input,
    /// Room in the send buffer.
    Room,
}

/// Lets a connection wait. Some: there is something to do first.
fn park(port: &Arc<Shared>, entry: &Arc<Entry>, held: Held, awaits: Awaits) -> Option<Held> {
    park_armed(port, entry, held, awaits, |held| held.arm(&port.engine, entry.key))
}

/// The same, with `arm` to tell the engine.
fn park_armed(
    port: &Arc<Shared>,
    entry: &Arc<Entry>,
    mut held: Held,
    awaits: Awaits,
    arm: impl Fn(&mut Held),
) -> Option<Held> {
    held.watch.room = awaits == Awaits::Room;
    held.idle_since = held.idle_timeout.map(|_| Instant::now());
    let leaves = |held: &Held| {
        held.farewell.is_none()
            && (handover::must_leave(port, entry, held, held.idle_since) || handover::can_move(port, entry, held))
    };
    loop {
        match entry.slot.park(held, leaves, &arm) {
            Parked::Waits => {
                port.pausing.something_ended();
                return None;
            }
            Parked::Again(back) => return Some(back),
            Parked::Ended(back) => {
                discard(port, entry, back);
                return None;
            }
            Parked::Leaves(back) => {
                held = back;
                if handover::must_leave(port, entry, &held, held.idle_since)
                    || !handover::move_on(port, entry, &mut held)
                {
                    return Some(held);
                }
            }
        }
    }
}

/// Notifies a client that is owed nothing else, or closes its connection if there is no notice.
fn notify_or_close(port: &Arc<Shared>, entry: &Arc<Entry>, held: Held) {
    match held.generation.notice {
        Some(_) => notify(port, entry, held),
        None => close(port, entry, held, Outcome::Closed, None),
    }
}

/// Notifies a client that is owed nothing else, and waits for it to disconnect.
pub(crate) fn notify(port: &Arc<Shared>, entry: &Arc<Entry>, mut held: Held) {
    entry.draining.store(true, Ordering::SeqCst);
    let notice = held.generation.notice.as_deref().unwrap_or_default();
    held.farewell = Some(Box::new(Farewell::notice(notice)));
    take_leave(port, entry, held, Why::Again);
}

/// Carries out the farewell, as far as possible now.
fn take_leave(port: &Arc<Shared>, entry: &Arc<Entry>, mut held: Held, why: Why) {
    loop {
        let Some(farewell) = &mut held.farewell else { return close(port, entry, held, Outcome::Closed, None) };
        let generation = &held.generation;
        let step = farewell.step(&held.socket, || generation.count_notified());
        let awaits = match step {
            Step::Done(outcome) => return close(port, entry, held, outcome, None),
            Step::AwaitsRoom if why != Why::Room => Awaits::Room,
            Step::AwaitsRoom => match entry.while_blocked(&port.engine, || farewell.write_all(&held.socket)) {
                Some(Ok(())) => continue,
                Some(Err(_)) => return close(port, entry, held, Outcome::Disconnected, None),
                None => return discard(port, entry, held),
            },
            Step::AwaitsClose | Step::Again => Awaits::Input,
        };
        match park(port, entry, held, awaits) {
            Some(back) => held = back,
            None if step == Step::Again => return port.engine.again(entry.key),
            None => return,
        }
    }
}

/// Ends a connection that the caller has.
pub(crate) fn close(port: &Shared, entry: &Entry, held: Held, outcome: Outcome, error: Option<&io::Error>) {
    if !entry.slot.end() {
        return discard(port, entry, held); // It was ended from outside.
    }
    let generation = held.generation.clone();
    let outcome = if entry.forced.load(Ordering::SeqCst) { Outcome::Forced } else { outcome };
    finish(port, &generation, entry, Some(held), outcome, error);
    let_go(generation);
}

/// Closes a connection of a generation by force, unless that was already done, or it has moved to another generation.
/// If a handler works on it, it ends when the handler returns.
pub(crate) fn close_by_force(port: &Shared, generation: &Generation, entry: &Entry) {
    if !generation.count_forced(entry.info(), || entry.claim_by_force(generation)) {
        return;
    }
    entry.shut();
    if let Force::Ended(held) = entry.slot.end_by_force() {
        finish(port, generation, entry, held, Outcome::Forced, None);
    }
}

/// Closes a connection of a generation whose client is awaited in the middle of a message, or after its last one.
/// Returns false if there is none such.
pub(crate) fn close_slow(port: &Shared, generation: &Generation, entry: &Entry) -> bool {
    let lingers = |held: &mut Held| held.belongs_to(generation) && held.farewell.is_some();
    if let Some(held) = entry.slot.take_if(lingers) {
        close(port, entry, held, Outcome::Closed, None);
        return true;
    }
    let is_ended = entry.slot.end_if_blocked(|| entry.belongs_to(generation));
    if is_ended {
        entry.shut();
        let outcome = if entry.forced.load(Ordering::SeqCst) { Outcome::Forced } else { Outcome::Closed };
        finish(port, generation, entry, None, outcome, None);
    }
    is_ended
}

/// A connection has ended: it leaves the registry, its socket is closed, and its generation is informed, in this order.
fn finish(
    port: &Shared,
    generation: &Generation,
    entry: &Entry,
    held: Option<Held>,
    outcome: Outcome,
    error: Option<&io::Error>,
) {
    if !entry.refused {
        // Reported before it leaves the registry: a drain ends when the last one has left, and then no event follows.
        generation.say(&Event::Ended { connection: &entry.info(), outcome, error });
    }
    port.registry.remove(entry.key);
    entry.release();
    if let Some(held) = held {
        discard(port, entry, held);
    }
    if !entry.refused {
        generation.ended(entry.id, &entry.counted, outcome);
    }
    port.connection_ended(entry.refused);
    port.pausing.something_ended();
}

/// Drops a connection.
fn discard(port: &Shared, entry: &Entry, mut held: Held) {
    port.engine.forget(entry.key, &mut held.watch);
    let_go(held);
}

/// Has the handler serve the available messages. Some: the connection has not ended, and there may be more to do.
fn serve(port: &Arc<Shared>, entry: &Arc<Entry>, mut connection: Connection) -> Option<Held> {
    let mut service = connection.held.service.take();
    let served = panic::catch_unwind(AssertUnwindSafe(|| {
        if let Some(Service::Unasked(handler)) = &service {
            service = Some(match handler.session(entry.peer) {
                Some(session) => {
                    connection.held.has_session = true;
                    Service::Session(session)
                }
                None => Service::Stateless(handler.clone()),
            });
        }
        match &mut service {
            Some(Service::Session(session)) => session.serve(&mut connection),
            Some(Service::Stateless(handler) | Service::Unasked(handler)) => handler.serve(&mut connection),
            None => Ok(()),
        }
    }));
    connection.held.service = service;
    let served = served.unwrap_or_else(|panic| {
        let message = panic_message(&*panic);
        connection.held.generation.say(&Event::Panicked { id: entry.id, peer: entry.peer, message });
        Err(io::Error::other(format!("the handler panicked: {message}")))
    });
    conclude(port, entry, connection, served)
}

/// The handler has returned.
fn conclude(port: &Arc<Shared>, entry: &Arc<Entry>, connection: Connection, served: io::Result<()>) -> Option<Held> {
    let course = match connection.course {
        Course::Open if !connection.buffered().is_empty() => Course::Abandoned,
        course => course,
    };
    let mut held = connection.put_away();
    match (course, served) {
        (Course::Waits, Ok(())) => return park(port, entry, held, Awaits::Input),
        (Course::Yields, Ok(())) => {
            let back = park(port, entry, held, Awaits::Input);
            if back.is_none() {
                port.engine.again(entry.key);
            }
            return back;
        }
        (Course::Leaves, Ok(())) => notify_or_close(port, entry, held),
        // The client is waited for, and the end of that is what is reported, without an error of the handler.
        (Course::Abandoned, _) => {
            held.rest = Vec::new();
            held.farewell = Some(Box::new(Farewell::linger()));
            take_leave(port, entry, held, Why::Again);
        }
        (Course::ClientLeft, served) => close(port, entry, held, Outcome::Disconnected, served.err().as_ref()),
        (_, Ok(())) => close(port, entry, held, Outcome::Closed, None),
        (_, Err(error)) => {
            let outcome = if is_gone(&error) { Outcome::Disconnected } else { Outcome::Closed };
            close(port, entry, held, outcome, Some(&error));
        }
    }
    None
}

fn is_gone(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
