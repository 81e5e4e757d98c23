//! A client's connection, and the connection to the program that belongs to it. One thread owns both.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;
use std::time::Instant;

use rustix::io::Errno;

use super::message::{Answering, Exchange, Stage, UnderWay};
use super::pending::Pending;
use super::side::{Read, Side};
use super::slab::Key;
use super::target::Target;
use super::tools::Tools;
use crate::report::{Activity, ConnectionInfo, Outcome};

/// The number that all refused clients have.
pub(super) const REFUSED: u64 = 0;

pub(super) struct Pair {
    pub(super) key: Key,
    pub(super) id: u64,
    pub(super) peer: SocketAddr,
    pub(super) accepted: Instant,
    /// When its last message has ended.
    pub(super) idle_since: Instant,
    pub(super) client: Side,
    pub(super) link: Link,
    /// The generation that it belongs to. None: it waits for one, or it is refused.
    pub(super) target: Option<Arc<Target>>,
    /// Whether a generation has counted it as a new one.
    pub(super) counted: bool,
    pub(super) course: Course,
    pub(super) to_client: Pending,
    pub(super) to_program: Pending,
    pub(super) received: u64,
    pub(super) sent: u64,
    /// Since when it waits for a generation that serves.
    pub(super) held_since: Option<Instant>,
    /// The attempts to connect to the program, including the one under way.
    pub(super) attempts: Option<Attempts>,
    /// Whether it is counted as one for which there is no descriptor.
    pub(super) is_starved: bool,
    /// When to look at it even if nothing happens. Determined anew each time it is worked on.
    pub(super) due: Option<Instant>,
    /// When its timer fires, which may be earlier.
    pub(super) scheduled: Option<Instant>,
    /// At its end the client has to see that this is no regular end.
    pub(super) resets_client: bool,
    /// There is more to do, but others get a turn first.
    pub(super) again: bool,
    /// It is already in the queue for its next turn. Twice there, it would get more turns than others.
    pub(super) is_queued: bool,
    /// It has been asked to end; these callers wait for that.
    pub(super) leaving: Option<Vec<Sender<Outcome>>>,
}

/// The connection to the program.
pub(super) enum Link {
    Absent,
    /// Until the next attempt.
    Connecting(Side),
    Open(Side),
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Attempts {
    pub(super) since: Instant,
    pub(super) next: Instant,
}

/// What is done with the bytes.
pub(super) enum Course {
    /// Messages are told apart.
    Messages(Exchange),
    /// They are passed on.
    Bytes(Bytes),
    /// The client gets its remaining bytes, and has to close.
    Parting(Parting),
}

/// Opaque bytes in both directions.
#[derive(Debug, Default)]
pub(super) struct Bytes {
    /// How it will have ended, known once one side has.
    pub(super) outcome: Option<Outcome>,
}

/// Further input is discarded until the client closes: a socket that is closed with unread input is reset, and a reset
/// can destroy what the client has not read yet.
#[derive(Debug)]
pub(super) struct Parting {
    pub(super) outcome: Outcome,
    /// None: the client has not been sent everything.
    pub(super) until: Option<Instant>,
}

impl Pair {
    /// Whether it was refused: it is no connection of any generation, and is not counted.
    pub(super) fn is_refused(&self) -> bool {
        self.id == REFUSED
    }

    /// Whether it belongs to this generation. None: whether it belongs to no generation.
    pub(super) fn belongs_to(&self, target: Option<u64>) -> bool {
        self.target.as_ref().map(|own| own.number) == target && !self.is_refused()
    }

    /// Has it looked at by this time.
    pub(super) fn wake_by(&mut self, at: Instant) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn side(&mut self, is_link: bool) -> Option<&mut Side> {
        match (is_link, &mut self.link) {
            (false, _) => Some(&mut self.client),
            (true, Link::Open(side) | Link::Connecting(side)) => Some(side),
            (true, Link::Absent) => None,
        }
    }

    /// Has the events of both sockets reported.
    ///
    /// # Errors
    /// When the system lacks memory.
    pub(super) fn watch(&mut self, tools: &Tools) -> Result<(), Errno> {
        let key = self.key;
        self.client.watch(&tools.epoll, key.with(false))?;
        match &mut self.link {
            Link::Open(side) | Link::Connecting(side) => side.watch(&tools.epoll, key.with(true)),
            Link::Absent => Ok(()),
        }
    }

    pub(super) fn activity(&self) -> Activity {
        match &self.course {
            _ if self.held_since.is_some() => Activity::Held,
            Course::Messages(Exchange { stage: Stage::Between, input, .. })
                if input.is_empty() && self.to_client.is_empty() =>
            {
                Activity::Idle
            }
            Course::Messages(_) | Course::Bytes(_) => Activity::Busy,
            Course::Parting(_) => Activity::Draining,
        }
    }

    pub(super) fn info(&self) -> ConnectionInfo {
        ConnectionInfo {
            id: self.id,
            peer: self.peer,
            age: self.accepted.elapsed(),
            activity: self.activity(),
            received: self.received,
            sent: self.sent,
        }
    }

    /// Holds it from now on, unless it is held already. Returns since when.
    pub(super) fn begin_hold(&mut self, tools: &Tools) -> Instant {
        *self.held_since.get_or_insert_with(|| {
            tools.hub.begin_hold();
            tools.now
        })
    }

    pub(super) fn end_hold(&mut self, tools: &Tools) {
        if let Some(since) = self.held_since.take() {
            tools.hub.end_hold(since.elapsed());
        }
    }

    /// Records whether it lacks a descriptor for its connection to the program.
    pub(super) fn starve(&mut self, is_starved: bool, tools: &Tools) {
        match (std::mem::replace(&mut self.is_starved, is_starved), is_starved) {
            (false, true) => _ = tools.hub.starved.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = tools.hub.starved.fetch_sub(1, Ordering::Relaxed),
            (true, true) | (false, false) => {}
        }
    }

    /// From now on it belongs to no generation.
    pub(super) fn detach(&mut self) {
        if let Some(target) = self.target.take() {
            target.leave();
        }
    }

    pub(super) fn take_link(&mut self) -> Option<Side> {
        match std::mem::replace(&mut self.link, Link::Absent) {
            Link::Open(side) | Link::Connecting(side) => Some(side),
            Link::Absent => None,
        }
    }

    /// Resets the connection to the program, which has to see that this is no regular end.
    pub(super) fn reset_link(&mut self) {
        if let Some(link) = self.take_link() {
            link.reset();
        }
        self.to_program.clear();
    }

    /// Closes the connection to the program, which has done its part. Nothing is lost.
    pub(super) fn close_link(&mut self) {
        if let Some(link) = self.take_link() {
            link.close_idle();
        }
        self.to_program.clear();
    }

    /// Drops a connection to the program that has become readable: between two messages only its end can arrive.
    pub(super) fn drop_spent_link(&mut self) {
        if matches!(&self.link, Link::Open(side) if side.readable) {
            self.look_at_link();
        }
    }

    /// The same, without an event that says so.
    pub(super) fn look_at_link(&mut self) {
        let Link::Open(side) = &mut self.link else { return };
        match side.read(&mut [0]) {
            Read::Nothing => {}
            Read::End => self.close_link(),
            Read::Bytes(_) | Read::Broken => self.reset_link(),
        }
    }

    pub(super) fn under_way(&mut self) -> Option<&mut UnderWay> {
        match &mut self.course {
            Course::Messages(Exchange { stage: Stage::UnderWay(way), .. }) => Some(way),
            Course::Messages(_) | Course::Bytes(_) | Course::Parting(_) => None,
        }
    }

    /// Whether the program is working on a request of this client, or is about to get it.
    pub(super) fn has_message_under_way(&self) -> bool {
        let is_under_way = matches!(&self.course, Course::Messages(Exchange { stage: Stage::UnderWay(_), .. }));
        is_under_way && self.held_since.is_none()
    }

    /// Whether the client has received something of the final answer.
    pub(super) fn has_begun_to_answer(&mut self) -> bool {
        self.under_way().is_some_and(|way| !matches!(way.answer, Answering::Head(_)))
    }

    /// Whether the connection ends with the message under way.
    pub(super) fn is_last_message(&self) -> bool {
        self.leaving.is_some() || self.target.as_ref().is_some_and(|target| target.is_last_message_of(self.id))
    }

    /// Whether everything has been sent to the client, and all of its input was read.
    pub(super) fn has_said_and_heard_all(&self) -> bool {
        let is_read = matches!(&self.course, Course::Messages(exchange) if exchange.input.is_empty());
        is_read && self.to_client.is_empty() && !self.client.readable
    }

    /// Sends to the client.
    pub(super) fn send(&mut self, bytes: &[u8], more: bool) {
        self.sent += bytes.len() as u64;
        self.to_client.send(bytes, more, &mut self.client);
    }

    /// From now on its bytes are opaque.
    pub(super) fn become_opaque(&mut self) {
        let before = std::mem::replace(&mut self.course, Course::Bytes(Bytes::default()));
        if let Course::Messages(exchange) = before {
            self.to_program.push(exchange.input.bytes());
        }
    }
}
