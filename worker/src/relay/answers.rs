//! From the program to the client: the answer to the request that is under way.

use std::ops::ControlFlow;

use super::http::{Answer, BodyReader, Kind, answer};
use super::message::{Answering, Next, Stage, UnderWay};
use super::pair::{Course, Link, Pair};
use super::parting;
use super::reach::reach;
use super::refusal::{Why, refuse};
use super::requests::{go_on, may_be_complete, pass_body};
use super::side::Read;
use super::tally::Fate;
use super::tools::Tools;
use crate::deadline::deadline_after;
use crate::report::Outcome;

/// How often an answer is read before others get a turn.
const ROUNDS: usize = 8;

/// A request is under way: passes on what is available, in both directions.
pub(super) fn carry_on(pair: &mut Pair, tools: &mut Tools) -> ControlFlow<Outcome, Next> {
    let Some(way) = pair.under_way() else { return ControlFlow::Continue(Next::Go) };
    if !way.is_sent {
        let reached = reach(pair, tools);
        let next = go_on(pair, tools, reached)?;
        if next == Next::Wait || pair.under_way().is_none() {
            return ControlFlow::Continue(next);
        }
    }
    if pass_body(pair, tools)? == Next::Go {
        return ControlFlow::Continue(Next::Go);
    }
    for _ in 0..ROUNDS {
        let is_flushed = pair.to_client.flush(&mut pair.client);
        if pair.client.broken || pair.client.is_gone() {
            pair.reset_link();
            return ControlFlow::Break(Outcome::Disconnected);
        }
        if !is_flushed {
            return ControlFlow::Continue(Next::Wait);
        }
        let Link::Open(link) = &mut pair.link else { return closed(pair, tools, true) };
        if !link.readable {
            return await_answer(pair, tools);
        }
        let mut scratch = std::mem::take(&mut tools.scratch);
        let next = match link.read(&mut scratch) {
            Read::Bytes(length) => {
                let next = pass(pair, tools, &scratch[..length]);
                if next == ControlFlow::Continue(Next::Wait) {
                    acknowledge(pair);
                }
                next
            }
            Read::Nothing => ControlFlow::Continue(Next::Wait),
            Read::End => closed(pair, tools, false),
            Read::Broken => closed(pair, tools, true),
        };
        tools.scratch = scratch;
        if next? == Next::Go {
            return ControlFlow::Continue(Next::Go);
        }
    }
    pair.again = true;
    ControlFlow::Continue(Next::Wait)
}

/// The answer is not complete, and no more of it has arrived.
fn acknowledge(pair: &Pair) {
    match &pair.link {
        Link::Open(link) if !link.readable => link.acknowledge(),
        Link::Open(_) | Link::Connecting { .. } | Link::Absent => {}
    }
}

/// No more of the answer has arrived.
fn await_answer(pair: &mut Pair, tools: &mut Tools) -> ControlFlow<Outcome, Next> {
    let limit = tools.hub.options.answer_within;
    let Some(way) = pair.under_way() else { return ControlFlow::Continue(Next::Go) };
    // A request that is not complete cannot be answered yet.
    let is_due = matches!(way.answer, Answering::Head(_)) && way.body.is_done();
    if let Some(limit) = limit.filter(|_| is_due) {
        let until = *way.answer_until.get_or_insert_with(|| deadline_after(tools.now, limit));
        if until <= tools.now {
            tools.count(Fate::UpstreamFailure);
            refuse(pair, tools, Why::AnswerTooLate);
            return ControlFlow::Continue(Next::Go);
        }
        pair.wake_by(until);
    }
    ControlFlow::Continue(Next::Wait)
}

/// Passes on what the program has sent. `Wait`: there may be more of the answer.
fn pass(pair: &mut Pair, tools: &mut Tools, bytes: &[u8]) -> ControlFlow<Outcome, Next> {
    let Some(way) = pair.under_way() else { return ControlFlow::Continue(Next::Go) };
    match &mut way.answer {
        Answering::UntilClose => {
            pair.send(bytes, false);
            ControlFlow::Continue(Next::Wait)
        }
        Answering::Body { reader, .. } => match reader.advance(bytes) {
            Ok(length) => {
                let is_done = reader.is_done();
                pair.send(&bytes[..length], false);
                if is_done { done(pair, tools, length < bytes.len()) } else { ControlFlow::Continue(Next::Wait) }
            }
            Err(_) => {
                way.answer = Answering::UntilClose;
                pair.send(bytes, false);
                ControlFlow::Continue(Next::Wait)
            }
        },
        Answering::Head(part) => {
            if part.is_empty() {
                return heads(pair, tools, bytes);
            }
            part.push(bytes);
            if !may_be_complete(part.bytes(), bytes.len()) {
                return ControlFlow::Continue(Next::Wait);
            }
            let all = part.take();
            heads(pair, tools, &all)
        }
    }
}

/// Handles bytes that begin with the head of an answer: interim ones, if any, and then the final one.
fn heads(pair: &mut Pair, tools: &mut Tools, bytes: &[u8]) -> ControlFlow<Outcome, Next> {
    // Decided once: the connection's turn may come at any moment.
    let is_last = pair.is_last_message();
    let closes = is_last || !tools.hub.is_in_rotation();
    let mut rest = bytes;
    loop {
        let Some(way) = pair.under_way() else { return ControlFlow::Continue(Next::Go) };
        tools.head.clear();
        match answer(rest, &way.request, closes, &mut tools.head) {
            Ok(Some(Answer { head_length, kind: Kind::Interim, .. })) => {
                forget_copy(way, tools);
                pair.send(&rest[..head_length], false);
                rest = &rest[head_length..];
                if rest.is_empty() {
                    return ControlFlow::Continue(Next::Wait);
                }
            }
            Ok(Some(Answer { head_length, status, kind: Kind::Final { body, keeps_upstream, keeps_client } })) => {
                count(tools, status);
                forget_copy(way, tools);
                let reader = BodyReader::of_answer(body);
                way.answer = Answering::Body { reader, keeps_upstream, keeps_client };
                if let Some(target) = pair.target.as_ref().filter(|_| is_last) {
                    target.count_notified();
                }
                return first_of_body(pair, tools, rest, head_length, closes);
            }
            Ok(Some(Answer { status, kind: Kind::Opaque, .. })) => {
                count(tools, status);
                forget_copy(way, tools);
                pair.send(rest, false);
                pair.become_opaque();
                return ControlFlow::Continue(Next::Go);
            }
            Ok(None) => {
                if let Answering::Head(part) = &mut way.answer {
                    part.push(rest);
                }
                return ControlFlow::Continue(Next::Wait);
            }
            Err(_) => {
                forget_copy(way, tools);
                way.answer = Answering::UntilClose;
                pair.send(rest, false);
                return ControlFlow::Continue(Next::Wait);
            }
        }
    }
}

/// Sends the head, and what has arrived of the body.
fn first_of_body(
    pair: &mut Pair,
    tools: &mut Tools,
    bytes: &[u8],
    head_length: usize,
    closes: bool,
) -> ControlFlow<Outcome, Next> {
    let Some(UnderWay { answer: Answering::Body { reader, .. }, .. }) = pair.under_way() else {
        return ControlFlow::Continue(Next::Go);
    };
    let body = &bytes[head_length..];
    let taken = reader.advance(body);
    let is_done = reader.is_done();
    let length = taken.unwrap_or(body.len());
    if closes {
        let head = std::mem::take(&mut tools.head);
        pair.send(&head, length > 0);
        pair.send(&body[..length], false);
        tools.head = head;
    } else {
        // It is passed on as it is.
        pair.send(&bytes[..head_length + length], false);
    }
    if taken.is_err() {
        if let Some(way) = pair.under_way() {
            way.answer = Answering::UntilClose;
        }
    } else if is_done {
        return done(pair, tools, length < body.len());
    }
    ControlFlow::Continue(Next::Wait)
}

fn count(tools: &Tools, status: u16) {
    tools.count(match status {
        ..300 => Fate::Succeeded,
        300..400 => Fate::Redirected,
        400..500 => Fate::ClientError,
        500.. => Fate::ServerError,
    });
}

/// The program has begun to answer: the request is not sent again.
fn forget_copy(way: &mut UnderWay, tools: &mut Tools) {
    if let Some(copy) = way.copy.take() {
        tools.recycle(copy);
    }
}

/// The answer is complete. `has_more`: the program has sent something after it.
fn done(pair: &mut Pair, tools: &mut Tools, has_more: bool) -> ControlFlow<Outcome, Next> {
    let Course::Messages(exchange) = &mut pair.course else { return ControlFlow::Continue(Next::Go) };
    let Stage::UnderWay(mut way) = std::mem::take(&mut exchange.stage) else {
        return ControlFlow::Continue(Next::Go);
    };
    forget_copy(&mut way, tools);
    let (keeps_upstream, keeps_client) = match way.answer {
        Answering::Body { keeps_upstream, keeps_client, .. } => (keeps_upstream, keeps_client),
        Answering::Head(_) | Answering::UntilClose => (false, false),
    };
    // A part of the request may never arrive, or has not been sent.
    let is_complete = way.body.is_done() && pair.to_program.is_empty();
    if has_more || !is_complete {
        pair.reset_link();
    } else if !keeps_upstream {
        pair.close_link();
    }
    if keeps_client && is_complete {
        pair.idle_since = tools.now;
        return ControlFlow::Continue(Next::Go);
    }
    if is_complete && pair.has_said_and_heard_all() {
        return ControlFlow::Break(Outcome::Closed);
    }
    parting::begin(pair, Outcome::Closed);
    ControlFlow::Continue(Next::Go)
}

/// The program has closed the connection, or reset it.
fn closed(pair: &mut Pair, tools: &mut Tools, is_broken: bool) -> ControlFlow<Outcome, Next> {
    let Some(way) = pair.under_way() else { return ControlFlow::Continue(Next::Go) };
    match &mut way.answer {
        Answering::Head(part) => {
            if let Some(copy) = way.copy.take_if(|_| part.is_empty()) {
                way.is_sent = false;
                way.answer_until = None;
                pair.close_link();
                pair.to_program.clear();
                pair.to_program.push(&copy);
                tools.recycle(copy);
                tools.count(Fate::Retry);
            } else {
                tools.count(Fate::UpstreamFailure);
                refuse(pair, tools, Why::Unanswered);
            }
            return ControlFlow::Continue(Next::Go);
        }
        Answering::Body { reader, .. } if !reader.is_until_close() => {
            // The client sees that something is missing.
            tools.count(Fate::UpstreamFailure);
            pair.reset_link();
        }
        Answering::Body { .. } | Answering::UntilClose if is_broken => {
            // A regular end of the connection would look like the end of the answer.
            tools.count(Fate::UpstreamFailure);
            pair.resets_client = true;
            return ControlFlow::Break(Outcome::Closed);
        }
        Answering::Body { .. } | Answering::UntilClose => return done(pair, tools, false),
    }
    parting::begin(pair, Outcome::Closed);
    ControlFlow::Continue(Next::Go)
}
