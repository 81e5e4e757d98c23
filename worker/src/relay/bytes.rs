//! Passes opaque bytes on, in both directions.

use std::ops::ControlFlow;

use super::pair::{Bytes, Course, Link, Pair};
use super::parting;
use super::pending::Pending;
use super::reach::{Reached, reach};
use super::side::{Read, Side};
use super::tally::Fate;
use super::tools::Tools;
use crate::report::Outcome;

/// How often one direction is read before others get a turn.
const ROUNDS: usize = 8;

/// A side that sends this many bytes at once may have more, and wait for an acknowledgement before it sends the rest.
const BULK: usize = 16 * 1024;

/// What becomes of a pair. `Break`: it has ended.
pub(super) type Step = ControlFlow<Outcome>;

/// Does all that can be done now.
pub(super) fn run(pair: &mut Pair, tools: &mut Tools) -> Step {
    if let Some(at) = pair.target.as_ref().and_then(|target| target.forced_at(pair.id, tools.now)) {
        if at <= tools.now {
            pair.resets_client = true;
            pair.reset_link();
            return Step::Break(Outcome::Forced);
        }
        pair.wake_by(at);
    }
    match reach(pair, tools) {
        Reached::Open => {}
        // A client whose connection was reset waits for nothing.
        Reached::Later if pair.client.is_gone() => return Step::Break(Outcome::Disconnected),
        Reached::Later => return Step::Continue(()),
        Reached::Unserved => {
            tools.count(Fate::GivenUp);
            return Step::Break(Outcome::Closed);
        }
        Reached::Unreachable => return Step::Break(Outcome::Closed),
    }
    let Pair { client, link: Link::Open(link), course: Course::Bytes(state), to_client, to_program, .. } = pair else {
        return Step::Continue(());
    };
    let more = [
        pump(client, link, to_program, &mut pair.received, tools),
        pump(link, client, to_client, &mut pair.sent, tools),
    ];
    pair.again = more.contains(&true);
    let ended = end(client, link, to_client, state);
    let has_all = link.heard_all && !link.broken && to_client.is_empty();
    if ended.is_continue() && has_all && pair.target.as_ref().is_some_and(|target| target.is_lost()) {
        // The program has ended, not only its half of the connection: nothing will read what the client still sends.
        let outcome = state.outcome.unwrap_or(Outcome::Closed);
        parting::begin(pair, outcome);
        return parting::run(pair, tools);
    }
    if let Step::Break(_) = ended {
        let (client_broken, link_broken) = (client.broken, link.broken);
        if client_broken {
            pair.reset_link();
        } else if link_broken {
            pair.resets_client = true;
        }
    }
    ended
}

/// Passes on what one side sends. Returns whether there may be more.
fn pump(from: &mut Side, to: &mut Side, pending: &mut Pending, passed: &mut u64, tools: &mut Tools) -> bool {
    for _ in 0..ROUNDS {
        if !pending.flush(to) {
            return false;
        }
        if from.heard_all {
            if !from.broken {
                to.half_close();
            }
            return false;
        }
        if !from.readable {
            return false;
        }
        match from.read(&mut tools.scratch) {
            Read::Bytes(length) => {
                *passed += length as u64;
                pending.send(&tools.scratch[..length], false, to);
                if length >= BULK && !from.readable {
                    from.acknowledge();
                }
            }
            Read::Nothing => return false,
            Read::End | Read::Broken => {}
        }
    }
    true
}

fn end(client: &Side, link: &Side, to_client: &Pending, state: &mut Bytes) -> Step {
    if client.broken {
        return Step::Break(Outcome::Disconnected);
    }
    // What the program had sent before is delivered first.
    if link.broken && link.heard_all && to_client.is_empty() {
        return Step::Break(Outcome::Closed);
    }
    if state.outcome.is_none() {
        state.outcome = match (client.heard_all, link.heard_all) {
            (true, _) => Some(Outcome::Disconnected),
            (false, true) => Some(Outcome::Closed),
            (false, false) => None,
        };
    }
    match state.outcome {
        Some(outcome) if client.heard_all && client.said_all && link.heard_all && link.said_all => Step::Break(outcome),
        _ => Step::Continue(()),
    }
}
