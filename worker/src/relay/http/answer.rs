//! The head of an answer: what follows it, and what becomes of the connection.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Status};

use super::body::Body;
use super::fields::{Coding, End, Fields, Framing, Length, MAX_FIELDS, Rewriting};
use super::request::{Method, Request};

/// What each answer begins with.
const START: &[u8] = b"HTTP/1.";

/// An answer whose head is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// How many of the received bytes its head takes.
    pub(crate) head_length: usize,
    pub(crate) status: u16,
    pub(crate) kind: Kind,
}

/// What follows the head of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Another answer to the same request (1xx).
    Interim,
    /// Its body, and then the next request.
    Final {
        body: Body,
        /// Whether the program's connection can be used for the next request.
        keeps_upstream: bool,
        /// Whether the client's connection can be.
        keeps_client: bool,
    },
    /// Another protocol, in both directions, until they are closed: after a 101, and after a 2xx to CONNECT.
    Opaque,
}

/// It is not known where the answer ends. It is passed on, unchanged, until the program closes, and then the client's
/// connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Doubt;

/// The answer that these bytes begin with. The bytes to send for its head are added to `head`; with `close` they tell
/// the client that its connection ends. None: the head is not complete.
///
/// # Errors
/// When its end is in doubt, in whatever pieces its bytes come.
pub(crate) fn answer(
    buffer: &[u8],
    request: &Request,
    close: bool,
    head: &mut Vec<u8>,
) -> Result<Option<Answer>, Doubt> {
    let known = buffer.len().min(START.len());
    if buffer[..known] != START[..known] {
        return Err(Doubt);
    }
    let end = match End::find(buffer, 0) {
        End::At(end) => end,
        End::Missing => return Ok(None),
        End::Ambiguous | End::TooFar => return Err(Doubt),
    };
    let source = &buffer[..end];
    let mut fields: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    match ParserConfig::default().parse_response_with_uninit_headers(&mut parsed, source, &mut fields) {
        Ok(Status::Complete(length)) if length == end => {}
        Ok(_) | Err(_) => return Err(Doubt),
    }
    let (Some(version), Some(status)) = (parsed.version, parsed.code) else { return Err(Doubt) };
    let fields: &[Header<'_>] = parsed.headers;
    let framing = Framing::of(fields);
    let kind = kind(status, version == 0, framing, request, close)?;
    match kind {
        Kind::Final { .. } if close && !framing.connection.close => add_close(source, fields, head),
        _ => head.extend_from_slice(source),
    }
    Ok(Some(Answer { head_length: end, status, kind }))
}

fn kind(status: u16, is_old: bool, framing: Framing, request: &Request, close: bool) -> Result<Kind, Doubt> {
    match status {
        0..100 => return Err(Doubt),
        101 if request.asks_for_upgrade => return Ok(Kind::Opaque),
        101 => return Err(Doubt),
        100..200 => return Ok(Kind::Interim),
        200..300 if request.method == Method::Connect => return Ok(Kind::Opaque),
        _ => {}
    }
    let body = match (framing.coding, framing.length) {
        _ if request.method == Method::Head || matches!(status, 204 | 304) => Body::None,
        (Coding::Absent, Length::Absent) => Body::UntilClose,
        (Coding::Absent, Length::Bytes(0)) => Body::None,
        (Coding::Absent, Length::Bytes(length)) => Body::Length(length),
        // HTTP/1.0 has no chunks: a client of that version would take them for the body itself.
        (Coding::Chunked, Length::Absent) if !is_old && !request.is_old => Body::Chunked,
        _ => return Err(Doubt),
    };
    // A client of HTTP/1.0 that is not told that its connection is kept waits for its end.
    let options = framing.connection;
    let is_kept = !options.close && (options.keep_alive || !is_old && !request.is_old);
    let is_kept = is_kept && request.keeps_alive && body != Body::UntilClose;
    Ok(Kind::Final { body, keeps_upstream: is_kept && !request.has_unusual_body(), keeps_client: is_kept && !close })
}

/// Writes a head that tells the client that its connection ends.
fn add_close(source: &[u8], fields: &[Header<'_>], head: &mut Vec<u8>) {
    let mut rewriting = Rewriting::new(source, head);
    for field in fields {
        if field.name.eq_ignore_ascii_case("connection") {
            rewriting.keep_options(field, |option| !option.eq_ignore_ascii_case(b"keep-alive"));
        } else if field.name.eq_ignore_ascii_case("keep-alive") {
            rewriting.leave_out(field);
        }
    }
    rewriting.finish(|head| head.extend_from_slice(b"Connection: close\r\n"));
}
