//! How a pair gets its connection to the program: which generation it belongs to, and what happens while there is none.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::connect::{self, Asked};
use super::pair::{Attempts, Link, Pair};
use super::side::Side;
use super::tally::Fate;
use super::tools::Tools;
use crate::deadline::deadline_after;

/// How long to keep asking the program for a connection, at least. A program that does not listen may have just ended,
/// which others find out and report.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The shortest and the longest time between two attempts. A program whose queue is full gives no answer, and the system
/// would ask it again only after a second, and then less and less often.
const PAUSES: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// The time between two attempts while the system is out of descriptors.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(100);

/// Why an attempt has not led to a connection yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// The program does not listen.
    Refused,
    /// The program listens and has not answered: its queue is full.
    Full,
    /// The system is out of descriptors, ports or memory.
    Exhausted,
}

/// Whether there is a connection to the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    Open,
    /// It is being established, or no generation serves.
    Later,
    /// The program does not accept it.
    Unreachable,
    /// No generation has served for too long, or none ever will.
    Unserved,
}

/// Connects to the generation that serves now, unless there is a connection.
pub(super) fn reach(pair: &mut Pair, tools: &mut Tools) -> Reached {
    match std::mem::replace(&mut pair.link, Link::Absent) {
        Link::Open(side) => {
            pair.link = Link::Open(side);
            Reached::Open
        }
        Link::Connecting(side) => settle(pair, tools, side),
        Link::Absent => begin(pair, tools),
    }
}

fn begin(pair: &mut Pair, tools: &mut Tools) -> Reached {
    // A pause does not wait for what is held when it begins.
    let begins = pair.held_since.is_some() || pair.under_way().is_none();
    if begins && tools.hub.pausing.is_paused() || !attach(pair, tools) {
        return hold(pair, tools);
    }
    pair.end_hold(tools);
    if let Some(next) = next_attempt(pair, tools) {
        pair.wake_by(next);
        return Reached::Later;
    }
    let Some(target) = &pair.target else { return Reached::Unserved };
    match connect::begin(target.address, &tools.hub) {
        Ok(Asked::Made(socket)) => opened(pair, tools, link(socket, true)),
        Ok(Asked::UnderWay(socket)) => {
            if !schedule(pair, tools, Obstacle::Full) {
                return unreachable(pair, tools);
            }
            pair.link = Link::Connecting(link(socket, false));
            Reached::Later
        }
        Err(error) => failed(pair, tools, error),
    }
}

/// Checks the outcome of an attempt. Its socket becomes writable with the event that reports it.
fn settle(pair: &mut Pair, tools: &mut Tools, side: Side) -> Reached {
    if side.writable {
        return match side.failure() {
            None => opened(pair, tools, side),
            Some(error) => failed(pair, tools, error),
        };
    }
    if pair.target.as_ref().is_some_and(|target| target.is_lost()) {
        return begin(pair, tools);
    }
    let Some(next) = next_attempt(pair, tools) else { return begin(pair, tools) };
    pair.link = Link::Connecting(side);
    pair.wake_by(next);
    Reached::Later
}

/// When the next attempt is to be made. None: now.
fn next_attempt(pair: &Pair, tools: &Tools) -> Option<Instant> {
    pair.attempts.map(|attempts| attempts.next).filter(|next| tools.now < *next)
}

fn link(socket: OwnedFd, writable: bool) -> Side {
    let mut side = Side::new(socket);
    side.readable = false; // Registering it reports whether there is something to read.
    side.writable = writable;
    side
}

fn opened(pair: &mut Pair, tools: &Tools, side: Side) -> Reached {
    pair.starve(false, tools);
    pair.link = Link::Open(side);
    pair.attempts = None;
    Reached::Open
}

/// Nothing has been sent, so the attempt can be repeated.
fn failed(pair: &mut Pair, tools: &mut Tools, error: Errno) -> Reached {
    let is_exhausted = connect::is_exhaustion(error);
    if is_exhausted {
        tools.hub.report_exhausted(&error.into());
    }
    let obstacle = if is_exhausted { Obstacle::Exhausted } else { Obstacle::Refused };
    if schedule(pair, tools, obstacle) { Reached::Later } else { unreachable(pair, tools) }
}

/// Schedules the next attempt. Returns false if it has been tried for long enough.
fn schedule(pair: &mut Pair, tools: &Tools, obstacle: Obstacle) -> bool {
    let is_exhausted = obstacle == Obstacle::Exhausted;
    if pair.is_starved != is_exhausted {
        pair.starve(is_exhausted, tools);
        // A different limit applies, and counts from now.
        pair.attempts = None;
    }
    let since = pair.attempts.map_or(tools.now, |attempts| attempts.since);
    let tried = tools.now.saturating_duration_since(since);
    let (wait, next) = (tools.hub.options.wait, (tried / 4).clamp(PAUSES.0, PAUSES.1));
    let (limit, pause) = match obstacle {
        Obstacle::Refused => (CONNECT_TIMEOUT, next),
        // It is busy, and others cannot find out that it has ended, because it has not.
        Obstacle::Full => (wait.max(CONNECT_TIMEOUT), next),
        Obstacle::Exhausted => (wait, EXHAUSTED_PAUSE),
    };
    if tried >= limit {
        return false;
    }
    let next = tools.now + pause;
    pair.attempts = Some(Attempts { since, next });
    pair.wake_by(next);
    true
}

fn unreachable(pair: &mut Pair, tools: &Tools) -> Reached {
    pair.starve(false, tools);
    pair.attempts = None;
    tools.count(Fate::UpstreamFailure);
    Reached::Unreachable
}

/// Makes it belong to the generation that serves now. Returns false if there is none.
pub(super) fn attach(pair: &mut Pair, tools: &mut Tools) -> bool {
    if let Some(target) = pair.target.as_ref().filter(|target| target.is_stopping()) {
        return !target.is_lost();
    }
    loop {
        let Some(serving) = tools.serving() else { return false };
        if pair.target.as_ref().is_some_and(|target| target.number == serving.number) {
            return true;
        }
        let serving = serving.clone();
        // It may have been replaced in this instant; then another one serves now.
        if serving.enter(!pair.counted) {
            pair.detach();
            pair.attempts = None;
            pair.counted = true;
            pair.target = Some(serving);
            return true;
        }
    }
}

/// Between two messages it belongs to the generation that serves now, or waits for the next one.
pub(super) fn move_on(pair: &mut Pair, tools: &mut Tools) {
    let before = pair.target.as_ref().map(|target| target.number);
    if !attach(pair, tools) {
        detach_if_moving(pair);
    }
    if before != pair.target.as_ref().map(|target| target.number) {
        pair.close_link();
    }
}

/// Detaches it from a generation that has been replaced, which does not wait for the next one.
fn detach_if_moving(pair: &mut Pair) {
    if pair.target.as_ref().is_some_and(|target| target.is_moving()) {
        pair.detach();
    }
}

fn hold(pair: &mut Pair, tools: &mut Tools) -> Reached {
    pair.attempts = None;
    pair.starve(false, tools);
    detach_if_moving(pair);
    // A stop closes the port before it ends a pause: the generation that stops then serves what is held.
    if tools.door().listener.is_none() && !attach(pair, tools) {
        return Reached::Unserved;
    }
    let since = pair.begin_hold(tools);
    if tools.hub.pausing.is_paused() {
        return Reached::Later;
    }
    let until = deadline_after(tools.hub.waits_since(since), tools.hub.options.wait);
    if until <= tools.now {
        return Reached::Unserved;
    }
    pair.wake_by(until);
    Reached::Later
}
