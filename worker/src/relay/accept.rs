//! From the accept queue to a pair.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};

use super::hub::{Accepted, Hub, Mailbox};
use super::message::Exchange;
use super::options::Protocol;
use super::pair::{Bytes, Course, Link, Pair, Parting, REFUSED};
use super::pending::Pending;
use super::refusal::{Why, refuse};
use super::side::Side;
use super::slab::Key;
use super::tools::Tools;
use crate::event::Event;
use crate::report::Outcome;

/// How many more connections a loop may have than the loop with the fewest, before it gives new ones away: that costs a
/// wakeup.
const LEAD: usize = 4;

/// The result of an attempt to accept.
pub(super) enum Taken {
    Client(Accepted),
    /// Nothing waits there.
    None,
    /// The client was gone before it was accepted.
    Vanished,
    /// The system is out of descriptors or memory, or something else that may pass.
    Failed(Errno),
    /// It is no longer a listening socket: another process has shut it down.
    ShutDown(Errno),
}

pub(super) fn take(listener: &TcpListener) -> Taken {
    match acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        Ok((socket, peer)) => match peer.and_then(|peer| SocketAddr::try_from(peer).ok()) {
            Some(peer) => Taken::Client(Accepted { socket, peer, target: None, asked: 0 }),
            None => Taken::Vanished,
        },
        Err(Errno::AGAIN) => Taken::None,
        Err(
            Errno::INTR
            | Errno::CONNABORTED
            | Errno::CONNRESET
            | Errno::TIMEDOUT
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::NETDOWN
            | Errno::PROTO,
        ) => Taken::Vanished,
        Err(error @ Errno::INVAL) => Taken::ShutDown(error),
        Err(error) => Taken::Failed(error),
    }
}

/// Counts a client, and returns the other loop that gets it. None: this loop keeps it.
pub(super) fn least_loaded(hub: &Hub, number: usize) -> Option<&Mailbox> {
    let load = |mailbox: &Mailbox| mailbox.load.load(Ordering::Relaxed);
    let own = &hub.mailboxes[number];
    let least = hub.mailboxes.iter().min_by_key(|mailbox| load(mailbox)).unwrap_or(own);
    let gives = load(own) > load(least) + LEAD;
    let taker = if gives { least } else { own };
    taker.load.fetch_add(1, Ordering::Relaxed);
    gives.then_some(least)
}

/// The pair of a client that is served.
pub(super) fn admit(accepted: Accepted, key: Key, tools: &Tools) -> Box<Pair> {
    let (id, peer) = (tools.hub.options.ids.next(), accepted.peer);
    tools.hub.say(&Event::Connected { id, peer });
    let course = match tools.hub.options.protocol {
        Protocol::Tcp => Course::Bytes(Bytes::default()),
        Protocol::Http(_) => Course::Messages(Exchange::default()),
    };
    pair(accepted, key, id, course)
}

/// The pair of a client beyond the limit. It gets a refusal where the protocol has one.
pub(super) fn refused(accepted: Accepted, key: Key, tools: &Tools) -> Box<Pair> {
    let parting = Course::Parting(Parting { outcome: Outcome::Closed, until: None });
    let mut pair = pair(accepted, key, REFUSED, parting);
    if let Protocol::Http(_) = tools.hub.options.protocol {
        refuse(&mut pair, tools, Why::TooMany);
    }
    pair
}

fn pair(accepted: Accepted, key: Key, id: u64, course: Course) -> Box<Pair> {
    let Accepted { socket, peer, target, .. } = accepted;
    let now = Instant::now();
    Box::new(Pair {
        key,
        id,
        peer,
        accepted: now,
        idle_since: now,
        client: Side::new(socket),
        link: Link::Absent,
        counted: target.is_some(),
        target,
        course,
        to_client: Pending::default(),
        to_program: Pending::default(),
        received: 0,
        sent: 0,
        held_since: None,
        attempts: None,
        is_starved: false,
        due: None,
        scheduled: None,
        resets_client: false,
        again: false,
        is_queued: false,
        leaving: None,
    })
}
