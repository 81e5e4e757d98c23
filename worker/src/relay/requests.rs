//! From the client to the program: finds the next request, and passes it on with its body.

use std::ops::ControlFlow;
use std::time::Duration;

use super::http::{BadBody, BodyReader, MAX_HEAD, Opening, Request, empty_lines, request};
use super::message::{Answering, Exchange, Next, Stage, UnderWay};
use super::options::Protocol;
use super::pair::{Course, Link, Pair};
use super::pending::Pending;
use super::reach::{Reached, move_on, reach};
use super::refusal::{Why, refuse};
use super::side::{Peeked, Read};
use super::tools::Tools;
use crate::event::Event;
use crate::generation::FIRST_MESSAGE_WAIT;
use crate::report::Outcome;

/// How long a client may take to send a head, from its first byte.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// A partial head that is longer than this is parsed again only if it has ended: one that arrives byte by byte, or line
/// by line, must not be parsed each time. A shorter one may be the beginning of another protocol.
const SHORT: usize = 64;

/// How often a client is read before others get a turn.
const ROUNDS: usize = 8;

/// Between two messages: finds the next request, if it is there.
pub(super) fn next(pair: &mut Pair, tools: &mut Tools) -> ControlFlow<Outcome, Next> {
    if !pair.to_client.flush(&mut pair.client) {
        return ControlFlow::Continue(Next::Wait);
    }
    pair.drop_spent_link();
    move_on(pair, tools);
    if tools.hub.pausing.is_paused() {
        return wait_in_pause(pair, tools);
    }
    pair.end_hold(tools);
    for _ in 0..ROUNDS {
        let Course::Messages(exchange) = &mut pair.course else { return ControlFlow::Continue(Next::Go) };
        if std::mem::take(&mut exchange.is_unseen) {
            let bytes = exchange.input.take();
            if let Some(next) = begin(pair, tools, &bytes)? {
                return ControlFlow::Continue(next);
            }
            continue;
        }
        if !pair.client.readable {
            return wait(pair, tools);
        }
        let mut scratch = std::mem::take(&mut tools.scratch);
        let begun = match pair.client.read(&mut scratch) {
            Read::Bytes(length) => {
                pair.received += length as u64;
                received(pair, tools, &scratch[..length])
            }
            Read::Nothing => ControlFlow::Continue(None),
            Read::End | Read::Broken => ControlFlow::Break(Outcome::Disconnected),
        };
        tools.scratch = scratch;
        if let Some(next) = begun? {
            return ControlFlow::Continue(next);
        }
    }
    pair.again = true;
    ControlFlow::Continue(Next::Wait)
}

/// No request may begin now: nothing is read, and a client that has sent something is held. One that has hung up
/// without sending anything ends, so that it takes no place until the pause is over.
fn wait_in_pause(pair: &mut Pair, tools: &Tools) -> ControlFlow<Outcome, Next> {
    let Course::Messages(exchange) = &mut pair.course else { return ControlFlow::Continue(Next::Go) };
    if exchange.head_until.take().is_some() {
        // The beginning of a head, which gets its full time after the pause.
        exchange.is_unseen = true;
    }
    if pair.client.is_gone() {
        return ControlFlow::Break(Outcome::Disconnected);
    }
    if !exchange.is_unseen {
        let is_leaving = pair.leaving.is_some();
        if !is_leaving && !pair.client.readable {
            return ControlFlow::Continue(Next::Wait);
        }
        match pair.client.peek() {
            Peeked::Bytes => {}
            Peeked::End => return ControlFlow::Break(Outcome::Disconnected),
            Peeked::Nothing if is_leaving => return ControlFlow::Break(Outcome::Closed),
            Peeked::Nothing => return ControlFlow::Continue(Next::Wait),
        }
    }
    pair.begin_hold(tools);
    ControlFlow::Continue(Next::Wait)
}

/// No whole request has arrived.
fn wait(pair: &mut Pair, tools: &mut Tools) -> ControlFlow<Outcome, Next> {
    let Course::Messages(exchange) = &pair.course else { return ControlFlow::Continue(Next::Go) };
    if let Some(until) = exchange.head_until {
        if until <= tools.now {
            refuse(pair, tools, Why::TooSlow);
            return ControlFlow::Continue(Next::Go);
        }
        pair.wake_by(until);
        return ControlFlow::Continue(Next::Wait);
    }
    let is_stopping = match &pair.target {
        Some(target) => target.is_stopping(),
        None => tools.door().listener.is_none(),
    };
    let has_to_leave = pair.leaving.is_some() || is_stopping && !stays(pair, tools);
    if has_to_leave { ControlFlow::Break(Outcome::Closed) } else { ControlFlow::Continue(Next::Wait) }
}

/// Whether a connection that is between two messages stays for now although the port closes.
fn stays(pair: &mut Pair, tools: &Tools) -> bool {
    let has_served = matches!(&pair.course, Course::Messages(exchange) if exchange.has_served);
    let active = has_served.then_some(pair.idle_since);
    // The first message of a client that has connected just before is most likely on its way.
    let first = (!has_served).then(|| pair.accepted + FIRST_MESSAGE_WAIT);
    let next = pair.target.as_ref().and_then(|target| target.stays_until(pair.id, active, tools.now));
    let deadline = pair.target.as_ref().and_then(|target| target.deadline());
    let until = first.max(next).map(|until| deadline.map_or(until, |deadline| until.min(deadline)));
    let Some(until) = until.filter(|until| tools.now < *until) else { return false };
    pair.wake_by(until);
    true
}

fn received(pair: &mut Pair, tools: &mut Tools, bytes: &[u8]) -> ControlFlow<Outcome, Option<Next>> {
    let Course::Messages(exchange) = &mut pair.course else { return ControlFlow::Continue(None) };
    if exchange.input.is_empty() {
        return begin(pair, tools, bytes);
    }
    exchange.input.push(bytes);
    exchange.is_unseen = may_be_complete(exchange.input.bytes(), bytes.len());
    if !exchange.is_unseen {
        pair.client.acknowledge();
    }
    ControlFlow::Continue(None)
}

/// Whether the last bytes, this many, decide about a head that was not complete: it has ended, has a line that ends
/// with LF alone, or is too long.
pub(super) fn may_be_complete(head: &[u8], last: usize) -> bool {
    let decides = |end: usize| match &head[..end] {
        [.., before, b'\r'] => *before == b'\n',
        _ => true,
    };
    let mut ends = (head.len() - last..head.len()).filter(|&end| head[end] == b'\n');
    head.len() <= SHORT || head.len() >= MAX_HEAD || ends.any(decides)
}

/// Starts the request that these bytes begin with. None: it is not complete.
fn begin(pair: &mut Pair, tools: &mut Tools, bytes: &[u8]) -> ControlFlow<Outcome, Option<Next>> {
    let Course::Messages(exchange) = &mut pair.course else { return ControlFlow::Continue(None) };
    let bytes = &bytes[empty_lines(bytes)..];
    if bytes.is_empty() {
        exchange.head_until = None;
        return ControlFlow::Continue(None);
    }
    let opening = if exchange.has_served { Opening::Http } else { Opening::of(bytes) };
    if let Opening::Other(protocol) = opening {
        exchange.input.push(bytes);
        pair.become_opaque();
        say_opaque(pair, tools, protocol);
        return ControlFlow::Continue(Some(Next::Go));
    }
    tools.head.clear();
    let Protocol::Http(forwarded) = tools.hub.options.protocol else { return ControlFlow::Continue(None) };
    let found = if opening == Opening::Undecided {
        Ok(None)
    } else {
        request(bytes, pair.peer.ip(), forwarded, &mut tools.head)
    };
    match found {
        Ok(Some(request)) => start(pair, tools, request, bytes).map_continue(Some),
        Ok(None) => {
            exchange.input.push(bytes);
            exchange.head_until.get_or_insert(tools.now + HEAD_LIMIT);
            pair.client.acknowledge();
            ControlFlow::Continue(None)
        }
        Err(refused) => {
            refuse(pair, tools, Why::Refused { status: refused.status, reason: refused.reason });
            ControlFlow::Continue(Some(Next::Go))
        }
    }
}

/// Reports that a client does not speak HTTP/1: once per generation, because all its clients may do the same.
fn say_opaque(pair: &Pair, tools: &Tools, protocol: &'static str) {
    if pair.target.as_ref().is_some_and(|target| target.is_first_opaque()) {
        tools.hub.say(&Event::Opaque { id: pair.id, peer: pair.peer, protocol });
    }
}

/// Sends a request whose head, as it is to be sent, is in `tools`. These bytes begin with the head as it was received.
fn start(pair: &mut Pair, tools: &mut Tools, request: Request, bytes: &[u8]) -> ControlFlow<Outcome, Next> {
    let rest = &bytes[request.head_length..];
    let mut body = BodyReader::of_request(request.body);
    let Ok(length) = body.advance(rest) else {
        refuse(pair, tools, Why::Refused { status: 400, reason: BAD_BODY });
        return ControlFlow::Continue(Next::Go);
    };
    tools.head.extend_from_slice(&rest[..length]);
    let mut is_reused = matches!(pair.link, Link::Open(_));
    if is_reused && !request.may_be_repeated() {
        // The request would be lost if the program has just closed the connection.
        pair.look_at_link();
        is_reused = matches!(pair.link, Link::Open(_));
    }
    let copy = (is_reused && request.may_be_repeated()).then(|| tools.copy_of_head());
    let Course::Messages(exchange) = &mut pair.course else { return ControlFlow::Continue(Next::Go) };
    exchange.input.push(&rest[length..]);
    exchange.is_unseen = length < rest.len();
    exchange.head_until = None;
    exchange.has_served = true;
    exchange.stage = Stage::UnderWay(UnderWay {
        request,
        body,
        is_sent: is_reused,
        copy,
        answer: Answering::Head(Pending::default()),
        answer_until: None,
    });
    let reached = reach(pair, tools);
    match &mut pair.link {
        Link::Open(link) => pair.to_program.send(&tools.head, false, link),
        Link::Connecting { .. } | Link::Absent => pair.to_program.push(&tools.head),
    }
    go_on(pair, tools, reached)
}

const BAD_BODY: &str = "its body is not what its head says";

/// A request is under way, and there may be a connection to the program.
pub(super) fn go_on(pair: &mut Pair, tools: &mut Tools, reached: Reached) -> ControlFlow<Outcome, Next> {
    let Course::Messages(Exchange { stage: Stage::UnderWay(way), .. }) = &mut pair.course else {
        return ControlFlow::Continue(Next::Go);
    };
    match reached {
        Reached::Open => {
            way.is_sent = true;
            return ControlFlow::Continue(Next::Go);
        }
        Reached::Later if pair.client.is_gone() => return ControlFlow::Break(Outcome::Disconnected),
        Reached::Later => return ControlFlow::Continue(Next::Wait),
        Reached::Unserved => refuse(pair, tools, Why::Unserved),
        Reached::Unreachable => refuse(pair, tools, Why::Unreachable),
    }
    ControlFlow::Continue(Next::Go)
}

/// Passes on what has arrived of the request's body.
pub(super) fn pass_body(pair: &mut Pair, tools: &mut Tools) -> ControlFlow<Outcome, Next> {
    for _ in 0..ROUNDS {
        let Pair { client, link: Link::Open(link), to_program, course: Course::Messages(exchange), .. } = pair else {
            return ControlFlow::Continue(Next::Wait);
        };
        let Stage::UnderWay(way) = &mut exchange.stage else { return ControlFlow::Continue(Next::Go) };
        if !to_program.flush(link) || way.body.is_done() {
            return ControlFlow::Continue(Next::Wait);
        }
        if client.heard_all {
            // The program sees it as we do: the request ends in the middle.
            link.half_close();
            return ControlFlow::Continue(Next::Wait);
        }
        if !client.readable {
            client.acknowledge();
            return ControlFlow::Continue(Next::Wait);
        }
        match client.read(&mut tools.scratch) {
            Read::Bytes(length) => {
                pair.received += length as u64;
                let bytes = &tools.scratch[..length];
                match way.body.advance(bytes) {
                    Ok(taken) => {
                        to_program.send(&bytes[..taken], false, link);
                        exchange.input.push(&bytes[taken..]);
                        exchange.is_unseen = taken < length;
                    }
                    Err(BadBody) => return bad_body(pair, tools),
                }
            }
            Read::Nothing | Read::End => {}
            Read::Broken => {
                pair.reset_link();
                return ControlFlow::Break(Outcome::Disconnected);
            }
        }
    }
    pair.again = true;
    ControlFlow::Continue(Next::Wait)
}

fn bad_body(pair: &mut Pair, tools: &Tools) -> ControlFlow<Outcome, Next> {
    if pair.has_begun_to_answer() {
        pair.reset_link();
        pair.resets_client = true;
        return ControlFlow::Break(Outcome::Closed);
    }
    refuse(pair, tools, Why::Refused { status: 400, reason: BAD_BODY });
    ControlFlow::Continue(Next::Go)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often a head that arrives in pieces of this length is parsed.
    fn looks(head: &[u8], length: usize) -> usize {
        let pieces = (length..=head.len()).step_by(length);
        pieces.filter(|&end| may_be_complete(&head[..end], length)).count()
    }

    #[test]
    fn a_head_in_many_pieces_is_looked_at_only_at_its_start_and_its_end() {
        let head = ["GET / HTTP/1.1\r\n", &"a:b\r\n".repeat(12_000), "\r\n"].concat();
        for length in [1, 5] {
            assert!(looks(head.as_bytes(), length) <= SHORT + 1);
        }
        let known = &head.as_bytes()[..head.len() - 1];
        assert!(!may_be_complete(known, 1) && may_be_complete(head.as_bytes(), 1));
        // It does not matter what arrives with the end.
        let more = [head.as_bytes(), b"GET / HT"].concat();
        assert!((9..100).all(|last| may_be_complete(&more, last)) && !may_be_complete(&more, 8));
        // A line that ends in another way decides at once.
        assert!(may_be_complete(&[known, b"a: b\n"].concat(), 1));
        assert!(may_be_complete(&[b'a'; MAX_HEAD], 1));
    }
}
