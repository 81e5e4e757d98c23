//! The observer, on bytes.

#![allow(clippy::unwrap_used)]

mod answers;
mod bodies;
mod cuts;
mod forwarding;
mod requests;
mod second_opinion;
mod smuggling;

use std::net::{IpAddr, Ipv4Addr};

use super::answer::Doubt;
use super::body::Body;
use super::fields::MAX_FIELDS;
use super::*;

/// The client of all tests.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// A request as it is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Passed {
    request: Request,
    /// The bytes of its head, as the program gets them.
    head: Vec<u8>,
    /// The bytes of its body, as far as they have arrived.
    body: Vec<u8>,
    is_whole: bool,
}

/// How a connection's bytes end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// In the middle of a message, or between two.
    Open,
    /// The client asked for the end, and what may follow is ignored.
    Closed,
    Refused(u16),
    BadBody,
    Doubt,
    Opaque,
}

/// Reads what has arrived of a body. Returns how many bytes it takes.
fn read_body(reader: &mut BodyReader, received: &[u8], body: &mut Vec<u8>) -> Result<usize, BadBody> {
    let taken = reader.advance(received)?;
    body.extend_from_slice(&received[..taken]);
    assert!(reader.is_done() || taken == received.len(), "a body that is not done takes all there is");
    Ok(taken)
}

/// What the relay does with the bytes of a client whose requests are answered one after the other. `cuts` are where
/// reading paused: until the next one, only the bytes that have arrived are known.
fn pass_requests(bytes: &[u8], cuts: &[usize], forwarded: Forwarded) -> (Vec<Passed>, Ending) {
    let (mut passed, mut start, mut body) = (Vec::<Passed>::new(), 0, None::<BodyReader>);
    for &cut in cuts.iter().chain([&bytes.len()]) {
        loop {
            let received = &bytes[start..cut.max(start)];
            if let Some(reader) = &mut body {
                let last = passed.last_mut().unwrap();
                let Ok(taken) = read_body(reader, received, &mut last.body) else { return (passed, Ending::BadBody) };
                last.is_whole = reader.is_done();
                start += taken;
                if !last.is_whole {
                    break;
                }
                body = None;
                if !last.request.keeps_alive {
                    return (passed, Ending::Closed);
                }
            } else {
                let mut head = Vec::new();
                match request(received, PEER, forwarded, &mut head) {
                    Ok(None) => break,
                    Err(refused) => return (passed, Ending::Refused(refused.status)),
                    Ok(Some(request)) => {
                        start += request.head_length;
                        body = Some(BodyReader::of_request(request.body));
                        passed.push(Passed { request, head, body: Vec::new(), is_whole: false });
                    }
                }
            }
        }
    }
    (passed, Ending::Open)
}

/// The same in one piece.
fn pass(bytes: &[u8]) -> (Vec<Passed>, Ending) {
    pass_requests(bytes, &[], Forwarded::Off)
}

/// The request that these bytes are, and nothing else.
fn one(text: &str) -> Request {
    let (passed, ending) = pass(text.as_bytes());
    assert!(matches!(ending, Ending::Open | Ending::Closed), "{text:?}: {ending:?}");
    assert_eq!(passed.len(), 1, "{text:?}: {passed:?}");
    passed[0].request
}

/// A GET with these fields besides its host.
fn with(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

/// The status that these bytes are refused with.
fn status(bytes: impl AsRef<[u8]>) -> Option<u16> {
    let mut head = Vec::new();
    let refused = request(bytes.as_ref(), PEER, Forwarded::Off, &mut head).err();
    assert!(head.is_empty() || refused.is_none(), "nothing is sent of a request that is refused");
    refused.map(|refused| refused.status)
}

/// An answer as it is passed on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    answer: Answer,
    head: Vec<u8>,
    body: Vec<u8>,
    is_whole: bool,
}

/// What the relay does with the bytes that a program answers to these requests, one after the other.
fn pass_answers(bytes: &[u8], cuts: &[usize], requests: &[Request], close: bool) -> (Vec<Answered>, Ending) {
    let (mut passed, mut start, mut body) = (Vec::<Answered>::new(), 0, None::<(BodyReader, bool)>);
    let mut requests = requests.iter();
    let Some(mut current) = requests.next() else { return (passed, Ending::Open) };
    for &cut in cuts.iter().chain([&bytes.len()]) {
        loop {
            let received = &bytes[start..cut.max(start)];
            if let Some((reader, is_kept)) = &mut body {
                let last = passed.last_mut().unwrap();
                let Ok(taken) = read_body(reader, received, &mut last.body) else { return (passed, Ending::BadBody) };
                last.is_whole = reader.is_done();
                start += taken;
                if !last.is_whole {
                    break;
                }
                if !*is_kept {
                    return (passed, Ending::Closed);
                }
                body = None;
                let Some(next) = requests.next() else { return (passed, Ending::Open) };
                current = next;
            } else {
                let mut head = Vec::new();
                match answer(received, current, close, &mut head) {
                    Ok(None) => break,
                    Err(Doubt) => return (passed, Ending::Doubt),
                    Ok(Some(answer)) => {
                        start += answer.head_length;
                        passed.push(Answered { answer, head, body: Vec::new(), is_whole: true });
                        match answer.kind {
                            Kind::Opaque => return (passed, Ending::Opaque),
                            Kind::Interim => {}
                            Kind::Final { body: kind, keeps_client, .. } => {
                                body = Some((BodyReader::of_answer(kind), keeps_client));
                            }
                        }
                    }
                }
            }
        }
    }
    (passed, Ending::Open)
}
