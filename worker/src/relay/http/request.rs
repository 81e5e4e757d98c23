//! The head of a request: what is refused, what is passed on, and what follows it.

use std::mem::MaybeUninit;
use std::net::IpAddr;

use httparse::{Error, Header, ParserConfig, Status};

use super::body::Body;
use super::fields::{Coding, End, Fields, Framing, Length, MAX_FIELDS};
use super::forwarded::{self, Forwarded};
use super::target;

/// A request whose head is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    /// How many of the received bytes its head takes, including the empty lines before it.
    pub(crate) head_length: usize,
    pub(crate) method: Method,
    pub(crate) body: Body,
    /// Whether the client wants to send more requests on this connection.
    pub(crate) keeps_alive: bool,
    /// Whether the client would speak another protocol after a 101.
    pub(crate) asks_for_upgrade: bool,
    /// Whether it is HTTP/1.0.
    pub(crate) is_old: bool,
}

/// The request methods that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// Its answer has no body.
    Head,
    /// After a 2xx the connection is a tunnel.
    Connect,
    /// A method that may be sent a second time, and whose body few programs look for: GET, OPTIONS, TRACE.
    Safe,
    /// A method that may be sent a second time: PUT, DELETE.
    Idempotent,
    Other,
}

impl Method {
    fn of(name: &str) -> Method {
        match name {
            "HEAD" => Method::Head,
            "CONNECT" => Method::Connect,
            "GET" | "OPTIONS" | "TRACE" => Method::Safe,
            "PUT" | "DELETE" => Method::Idempotent,
            _ => Method::Other,
        }
    }
}

impl Request {
    /// Whether it may be sent again if the program has closed the connection instead of answering.
    pub(crate) fn may_be_repeated(&self) -> bool {
        self.body == Body::None && matches!(self.method, Method::Head | Method::Safe | Method::Idempotent)
    }

    /// Whether the program may leave the body unread, and take its first byte for the start of another request: many
    /// do, for methods that usually have no body.
    pub(super) fn has_unusual_body(&self) -> bool {
        self.body != Body::None && matches!(self.method, Method::Head | Method::Safe)
    }
}

/// A request that is not passed on. It is unknown where the next one would begin: the connection ends with the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) status: u16,
    /// What is wrong with it, for one line of text.
    pub(crate) reason: &'static str,
}

/// How many of these bytes are empty lines before a request, which some clients send after a body. They can be
/// discarded while the connection is between two messages.
pub(crate) fn empty_lines(buffer: &[u8]) -> usize {
    buffer.chunks_exact(2).take_while(|line| *line == b"\r\n").count() * 2
}

/// The request that these bytes begin with. The bytes to send for its head are added to `head`. None: it is not
/// complete.
///
/// # Errors
/// What to answer instead. Bytes that are refused are refused in whatever pieces they come.
pub(crate) fn request(
    buffer: &[u8],
    peer: IpAddr,
    forwarded: Forwarded,
    head: &mut Vec<u8>,
) -> Result<Option<Request>, Refused> {
    let start = empty_lines(buffer);
    let end = match End::find(buffer, start) {
        End::At(end) => end,
        End::Missing => return Ok(None),
        End::Ambiguous => return bad("a line ends without a carriage return"),
        End::TooFar => return Err(Refused { status: 431, reason: "the head is longer than 64 KiB" }),
    };
    let source = &buffer[start..end];
    let mut fields: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Request::new(&mut []);
    match ParserConfig::default().parse_request_with_uninit_headers(&mut parsed, source, &mut fields) {
        Ok(Status::Complete(length)) if length == source.len() => {}
        Ok(_) => return bad("the head has no end"),
        Err(error) => return Err(unreadable(error, source)),
    }
    let (Some(method), Some(target), Some(version)) = (parsed.method, parsed.path, parsed.version) else {
        return bad("the request line is not complete");
    };
    let fields: &[Header<'_>] = parsed.headers;
    let (is_old, method) = (version == 0, Method::of(method));
    let host = host(fields, is_old)?;
    if !target::is_valid(parsed.method == Some("OPTIONS"), method == Method::Connect, target, host) {
        return bad("the request target is invalid, or is not that of the field Host");
    }
    let framing = Framing::of(fields);
    let options = framing.connection;
    let request = Request {
        head_length: end,
        method,
        body: body(framing, method, is_old)?,
        keeps_alive: !options.close && (!is_old || options.keep_alive),
        asks_for_upgrade: !is_old && options.upgrade && framing.has_upgrade,
        is_old,
    };
    forwarded::rewrite(source, fields, peer, forwarded, head);
    Ok(Some(request))
}

fn bad<T>(reason: &'static str) -> Result<T, Refused> {
    Err(Refused { status: 400, reason })
}

/// Why a head cannot be parsed.
fn unreadable(error: Error, source: &[u8]) -> Refused {
    let (status, reason) = match error {
        Error::TooManyHeaders => (431, "there are more than 128 fields"),
        Error::Version if has_other_version(source) => (505, "its version of HTTP is neither 1.0 nor 1.1"),
        Error::Version => (400, "the request line is not one of HTTP"),
        Error::Token => (400, "the method or the target of the request is invalid"),
        Error::HeaderName => (400, "the name of a field is invalid, or a field is folded"),
        Error::HeaderValue => (400, "the value of a field is invalid"),
        Error::NewLine => (400, "a carriage return does not end a line"),
        Error::Status => (400, "it is no request"),
    };
    Refused { status, reason }
}

/// Whether the request line ends with a version of HTTP.
fn has_other_version(source: &[u8]) -> bool {
    let line = source.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut parts = line.split(|&byte| byte == b' ').skip(2);
    let (Some(version), None) = (parts.next(), parts.next()) else { return false };
    matches!(version, [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'])
}

/// The field `Host`. HTTP/1.1 has exactly one.
fn host<'bytes>(fields: &[Header<'bytes>], is_old: bool) -> Result<Option<&'bytes [u8]>, Refused> {
    let mut hosts = fields.iter().filter(|field| field.name.eq_ignore_ascii_case("host")).map(|field| field.value);
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if target::is_authority(host) || host.is_empty() => Ok(Some(host)),
        (Some(_), None) => bad("the field Host is invalid"),
        (None, _) if is_old => Ok(None),
        (None, _) => bad("there is no field Host"),
        (Some(_), Some(_)) => bad("there is more than one field Host"),
    }
}

fn body(framing: Framing, method: Method, is_old: bool) -> Result<Body, Refused> {
    match (framing.coding, framing.length) {
        (Coding::Bad, _) => bad("the field Transfer-Encoding is invalid"),
        (_, Length::Bad) => bad("the field Content-Length is invalid, or there are several"),
        (Coding::Absent, Length::Absent) => Ok(Body::None),
        _ if method == Method::Connect => bad("CONNECT has no body"),
        (Coding::Absent, Length::Bytes(0)) => Ok(Body::None),
        (Coding::Absent, Length::Bytes(length)) => Ok(Body::Length(length)),
        (_, Length::Bytes(_)) => bad("there are both Content-Length and Transfer-Encoding"),
        (_, Length::Absent) if is_old => bad("HTTP/1.0 has no Transfer-Encoding"),
        (Coding::Chunked, Length::Absent) => Ok(Body::Chunked),
        (Coding::Unknown, Length::Absent) => {
            Err(Refused { status: 501, reason: "only chunked is known as a Transfer-Encoding" })
        }
    }
}
