//! The head of a request: its limits, its framing, and the fields that matter here.

use std::mem::MaybeUninit;
use std::str;

use httparse::{Error, Header, ParserConfig};

use super::authority;
use super::status::Status;

/// The longest accepted head, in bytes: the request line and all fields.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// The most header fields that are accepted.
pub(super) const MAX_FIELDS: usize = 100;

/// Room for the header fields of one request, on the stack.
pub(super) type Fields<'bytes> = [MaybeUninit<Header<'bytes>>; MAX_FIELDS];

/// A request up to and including its empty line.
#[derive(Debug)]
pub(super) struct Head<'fields, 'bytes> {
    /// How many of the received bytes it takes.
    pub(super) length: usize,
    pub(super) method: Method,
    /// The request target as it was received.
    pub(super) target: &'bytes str,
    /// Whether it is HTTP/1.0.
    pub(super) old: bool,
    /// Whether the client wants to send more requests on this connection.
    pub(super) keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    pub(super) body: Body,
    /// Whether its fields ask for no part of a file and set no conditions.
    pub(super) is_plain: bool,
    fields: &'fields [Header<'bytes>],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Options,
    /// A method that exists, but does not apply to files.
    Known,
    Unknown,
}

/// What follows the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// This many bytes, 0 for no body.
    Bytes(u64),
    Chunked,
}

/// What the fields determine about the message itself.
#[derive(Default)]
struct Framing<'bytes> {
    hosts: usize,
    length: Option<u64>,
    encoding: Option<&'bytes [u8]>,
    expect: Option<&'bytes [u8]>,
    close: bool,
    keep_alive: bool,
    is_conditional: bool,
}

impl<'fields, 'bytes> Head<'fields, 'bytes> {
    /// Parses what was received so far. None: it is not complete.
    ///
    /// # Errors
    /// The status to answer with. Where the next request would begin is not known then.
    pub(super) fn parse(
        received: &'bytes [u8],
        fields: &'fields mut Fields<'bytes>,
    ) -> Result<Option<Head<'fields, 'bytes>>, Status> {
        let mut request = httparse::Request::new(&mut []);
        let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, received, fields);
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD => length,
            Ok(httparse::Status::Partial) if received.len() < MAX_HEAD => return Ok(None),
            Ok(_) => return Err(too_large(received)),
            Err(Error::TooManyHeaders) => return Err(Status::FieldsTooLarge),
            Err(Error::Version) => return Err(unknown_version(received)),
            Err(_) => return Err(Status::BadRequest),
        };
        // A complete request has all three.
        let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
            return Err(Status::BadRequest);
        };
        let old = version == 0;
        let framing = Framing::read(request.headers)?;
        if framing.hosts > 1 || framing.hosts == 0 && !old {
            return Err(Status::BadRequest);
        }
        Ok(Some(Head {
            length,
            method: Method::of(method),
            target,
            old,
            keep_alive: !framing.close && (!old || framing.keep_alive),
            expects_continue: framing.expects_continue(old)?,
            body: framing.body(old)?,
            is_plain: !framing.is_conditional,
            fields: request.headers,
        }))
    }

    /// The values of all fields of this name, in their order.
    pub(super) fn values<'name>(
        &self,
        name: &'name str,
    ) -> impl Iterator<Item = &'bytes [u8]> + use<'name, 'fields, 'bytes> {
        self.fields.iter().filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }

    /// The value of a field that may occur once. If it occurs more often, none of the values counts.
    pub(super) fn value(&self, name: &str) -> Option<&'bytes [u8]> {
        let mut values = self.values(name);
        values.next().filter(|_| values.next().is_none())
    }
}

impl Method {
    fn of(name: &str) -> Method {
        match name {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "OPTIONS" => Method::Options,
            "POST" | "PUT" | "DELETE" | "PATCH" | "TRACE" | "CONNECT" => Method::Known,
            _ => Method::Unknown,
        }
    }
}

impl<'bytes> Framing<'bytes> {
    /// Reads all fields once. Anything ambiguous is refused: a proxy in front of this server might have chosen the
    /// other interpretation.
    fn read(fields: &[Header<'bytes>]) -> Result<Framing<'bytes>, Status> {
        let mut framing = Framing::default();
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            if is("host") {
                framing.hosts += 1;
                if !field.value.is_empty() && !authority::is_valid(field.value) {
                    return Err(Status::BadRequest);
                }
            } else if is("connection") {
                for option in field.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    framing.close |= option.eq_ignore_ascii_case(b"close");
                    framing.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
                }
            } else if is("content-length") {
                let length = number(field.value).ok_or(Status::BadRequest)?;
                if framing.length.replace(length).is_some_and(|other| other != length) {
                    return Err(Status::BadRequest);
                }
            } else if is("transfer-encoding") {
                if framing.encoding.replace(field.value).is_some() {
                    return Err(Status::BadRequest);
                }
            } else if is("expect") {
                framing.expect = Some(field.value);
            } else if is("range") || field.name.len() > 3 && field.name[..3].eq_ignore_ascii_case("if-") {
                framing.is_conditional = true;
            }
        }
        Ok(framing)
    }

    fn body(&self, old: bool) -> Result<Body, Status> {
        match (self.encoding, self.length) {
            (None, length) => Ok(Body::Bytes(length.unwrap_or(0))),
            (Some(_), Some(_)) => Err(Status::BadRequest),
            (Some(_), None) if old => Err(Status::BadRequest),
            (Some(encoding), None) => {
                let mut codings = encoding.rsplit(|&byte| byte == b',').map(<[u8]>::trim_ascii);
                let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
                match (codings.next().is_some_and(is_chunked), codings.next()) {
                    (true, None) => Ok(Body::Chunked),
                    (true, Some(other)) if !other.is_empty() && !is_chunked(other) => Err(Status::NotImplemented),
                    // It is unknown where the body ends.
                    _ => Err(Status::BadRequest),
                }
            }
        }
    }

    fn expects_continue(&self, old: bool) -> Result<bool, Status> {
        match self.expect {
            None => Ok(false),
            Some(_) if old => Ok(false),
            Some(value) if value.eq_ignore_ascii_case(b"100-continue") => Ok(true),
            Some(_) => Err(Status::ExpectationFailed),
        }
    }
}

/// A number of decimal digits and nothing else. One that is too large for its type is not a number either.
pub(super) fn number(text: &[u8]) -> Option<u64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None; // A sign, for example, which `parse` would take.
    }
    str::from_utf8(text).ok()?.parse().ok()
}

/// Which part of a head is too large: the request line, or the whole head.
fn too_large(received: &[u8]) -> Status {
    let start = &received[..received.len().min(MAX_HEAD)];
    if has_line_end(start) { Status::FieldsTooLarge } else { Status::UriTooLong }
}

/// Whether the request line has been received to its end.
fn has_line_end(received: &[u8]) -> bool {
    received.trim_ascii_start().contains(&b'\n')
}

/// The status for a request whose version is neither 1.0 nor 1.1: it may have another one, or none at all. The part of
/// its line that has been received decides.
fn unknown_version(received: &[u8]) -> Status {
    let mut parts = request_line(received).split(|&byte| byte == b' ').skip(1);
    let (Some([_, ..]), Some(version), None) = (parts.next(), parts.next(), parts.next()) else {
        return Status::BadRequest;
    };
    let pattern = b"HTTP/0.0";
    let fits = |(&own, &byte): (&u8, &u8)| own == byte || own == b'0' && byte.is_ascii_digit();
    let may_be_one = pattern.iter().zip(version).all(fits) && version.len() <= pattern.len();
    if may_be_one && (version.len() == pattern.len() || !has_line_end(received)) {
        Status::VersionNotSupported
    } else {
        Status::BadRequest
    }
}

/// The same request as HTTP/1.1, if it has a later version of HTTP/1: such requests must be understood as HTTP/1.1.
pub(super) fn as_http_1_1(received: &[u8]) -> Option<Vec<u8>> {
    let start = received.len() - received.trim_ascii_start().len();
    let line = request_line(received);
    let (rest, minor) = line.split_at(line.len().checked_sub(1)?);
    (rest.ends_with(b" HTTP/1.") && matches!(minor, [b'2'..=b'9'])).then(|| {
        let mut same = received.to_vec();
        same[start + rest.len()] = b'1';
        same
    })
}

/// The length of the empty lines with which the received bytes begin.
pub(super) fn empty_lines(received: &[u8]) -> usize {
    let mut rest = received;
    while let Some(next) = rest.strip_prefix(b"\r\n").or_else(|| rest.strip_prefix(b"\n")) {
        rest = next;
    }
    received.len() - rest.len()
}

/// The first line that is not empty, without its line ending.
pub(super) fn request_line(received: &[u8]) -> &[u8] {
    let start = received.trim_ascii_start();
    start.split(|&byte| byte == b'\n').next().unwrap_or_default().trim_ascii_end()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    /// The body of a request and whether the connection may be kept. None if the request is not complete.
    fn parse(request: &str) -> Result<Option<(Body, bool)>, Status> {
        let mut fields: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        Ok(Head::parse(request.as_bytes(), &mut fields)?.map(|head| (head.body, head.keep_alive)))
    }

    fn with(fields: &str) -> Result<Option<(Body, bool)>, Status> {
        parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
    }

    #[test]
    fn a_request_is_complete_with_its_empty_line() {
        let whole = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..whole.len() {
            assert_eq!(parse(&whole[..length]), Ok(None), "{:?}", &whole[..length]);
        }
        assert_eq!(parse(whole), Ok(Some((Body::Bytes(0), true))));
    }

    #[test]
    fn whether_the_connection_is_kept_depends_on_version_and_request() {
        for (request, keep_alive) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", false),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: TE, Close\r\n\r\n", false),
            ("GET / HTTP/1.0\r\n\r\n", false),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", true),
            ("GET / HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n", false),
        ] {
            assert_eq!(parse(request), Ok(Some((Body::Bytes(0), keep_alive))), "{request}");
        }
    }

    #[test]
    fn one_host_is_needed_in_http_1_1() {
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n"), Err(Status::BadRequest));
        assert_eq!(with("Host: b\r\n"), Err(Status::BadRequest));
    }

    #[test]
    fn a_length_that_could_be_understood_in_two_ways_is_refused() {
        assert_eq!(with("Content-Length: 5\r\n"), Ok(Some((Body::Bytes(5), true))));
        assert_eq!(with("Content-Length: 5\r\nContent-Length: 5\r\n"), Ok(Some((Body::Bytes(5), true))));
        assert_eq!(with("Transfer-Encoding: Chunked\r\n"), Ok(Some((Body::Chunked, true))));
        for fields in [
            "Content-Length: 5\r\nContent-Length: 6\r\n",
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "Content-Length: 5, 5\r\n",
            "Content-Length: +5\r\n",
            "Content-Length: -5\r\n",
            "Content-Length: 0x5\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length : 5\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            " folded: 5\r\n",
        ] {
            assert_eq!(with(fields), Err(Status::BadRequest), "{fields}");
        }
        assert_eq!(with("Transfer-Encoding: gzip, chunked\r\n"), Err(Status::NotImplemented));
        assert_eq!(parse("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Status::BadRequest));
    }

    #[test]
    fn another_version_is_told_apart_from_nonsense() {
        for request in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET / HTTP/3.0\r\n\r\n", "GET / HTTP/0.9\r\n\r\n"] {
            assert_eq!(parse(request), Err(Status::VersionNotSupported), "{request}");
        }
        for request in ["GET / HTTX/1.1\r\n\r\n", "GET /\r\n\r\n", "\u{16}\u{3}\u{1}", "GET  / HTTP/1.1\r\n\r\n"] {
            assert_eq!(parse(request), Err(Status::BadRequest), "{request}");
        }
    }

    #[test]
    fn a_part_that_is_too_large_has_its_status() {
        let long = "a".repeat(MAX_HEAD);
        assert_eq!(parse(&format!("GET /{long}")), Err(Status::UriTooLong));
        assert_eq!(parse(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), Err(Status::UriTooLong));
        assert_eq!(with(&format!("X: {long}\r\n")), Err(Status::FieldsTooLarge));
        assert_eq!(with(&"X: y\r\n".repeat(MAX_FIELDS - 1)), Ok(Some((Body::Bytes(0), true))));
        assert_eq!(with(&"X: y\r\n".repeat(MAX_FIELDS)), Err(Status::FieldsTooLarge));
    }

    #[test]
    fn only_one_expectation_is_known() {
        assert!(with("Expect: 100-Continue\r\n").is_ok());
        assert_eq!(with("Expect: a miracle\r\n"), Err(Status::ExpectationFailed));
    }
}
