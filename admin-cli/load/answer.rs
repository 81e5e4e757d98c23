//! One answer of HTTP/1: where it ends, and whether it is the right one.

use std::io::{self, BufRead, ErrorKind, Read};

use crate::Expected;

/// The longest header accepted.
const LONGEST_HEADER: usize = 64 * 1024;

/// The most fields it may have.
const MOST_FIELDS: usize = 128;

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// A whole answer, and the right one.
    Answered,
    /// Not an HTTP answer, or not the expected one.
    Wrong,
    /// The connection was closed without a byte of an answer.
    Empty,
    /// The connection was closed after a part of an answer.
    Cut,
    /// The connection failed.
    Failed(ErrorKind),
}

impl From<io::Error> for Fate {
    fn from(error: io::Error) -> Fate {
        Fate::Failed(error.kind())
    }
}

/// An answer that was read to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) is_right: bool,
    /// Whether the server ends the connection after it.
    pub(crate) is_last: bool,
}

/// How the end of a body is recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(u64),
    Chunks,
    /// It ends with the connection.
    Close,
}

struct Header {
    status: u16,
    framing: Framing,
    is_last: bool,
}

/// Reads an answer to a GET request.
pub(crate) fn read(stream: &mut impl BufRead, expected: &Expected, buffer: &mut Vec<u8>) -> Result<Answer, Fate> {
    let header = loop {
        read_header(stream, buffer)?;
        let header = Header::parse(buffer).ok_or(Fate::Wrong)?;
        // Interim answers are skipped; the final one follows.
        if !(100..200).contains(&header.status) || header.status == 101 {
            break header;
        }
    };
    let mut body = Body { is_right: true, rest: None };
    let is_right = match expected {
        Expected::Body(expected) => {
            body.rest = Some(expected);
            header.status == 200
        }
        Expected::Status(status) => header.status == *status,
        // A switch to another protocol was not asked for.
        Expected::Any => header.status != 101,
    };
    match header.framing {
        Framing::Length(length) => body.take(stream, length)?,
        Framing::Chunks => body.take_chunks(stream, buffer)?,
        Framing::Close => while body.take_some(stream, u64::MAX)? > 0 {},
    }
    Ok(Answer { status: header.status, is_right: is_right && body.is_whole(), is_last: header.is_last })
}

/// A body that is compared with the expected one as it arrives, and never kept.
struct Body<'a> {
    is_right: bool,
    /// What is still expected. None: anything.
    rest: Option<&'a [u8]>,
}

impl Body<'_> {
    fn is_whole(&self) -> bool {
        self.is_right && self.rest.is_none_or(<[u8]>::is_empty)
    }

    fn take(&mut self, stream: &mut impl BufRead, mut length: u64) -> Result<(), Fate> {
        while length > 0 {
            match self.take_some(stream, length)? {
                0 => return Err(Fate::Cut),
                taken => length -= taken,
            }
        }
        Ok(())
    }

    /// Takes at most `most` bytes; returns 0 at the end.
    fn take_some(&mut self, stream: &mut impl BufRead, most: u64) -> Result<u64, Fate> {
        let received = fill(stream)?;
        let length = received.len().min(usize::try_from(most).unwrap_or(usize::MAX));
        if let Some(rest) = self.rest {
            let after = rest.strip_prefix(&received[..length]);
            self.is_right &= after.is_some();
            self.rest = Some(after.unwrap_or_default());
        }
        stream.consume(length);
        Ok(length as u64)
    }

    fn take_chunks(&mut self, stream: &mut impl BufRead, line: &mut Vec<u8>) -> Result<(), Fate> {
        loop {
            line.clear();
            read_line(stream, line)?;
            let Ok(httparse::Status::Complete((_, length))) = httparse::parse_chunk_size(line) else {
                return Err(Fate::Wrong);
            };
            if length == 0 {
                break;
            }
            self.take(stream, length)?;
            line.clear();
            read_line(stream, line)?;
            if line.trim_ascii() != b"" {
                return Err(Fate::Wrong);
            }
        }
        // Trailers, up to an empty line.
        while line.trim_ascii() != b"" {
            line.clear();
            read_line(stream, line)?;
        }
        Ok(())
    }
}

impl Header {
    /// None: not an HTTP header.
    fn parse(bytes: &[u8]) -> Option<Header> {
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        let Ok(httparse::Status::Complete(_)) = head.parse(bytes) else { return None };
        let (version, status) = (head.version?, head.code?);
        let (mut framing, mut closes, mut keeps) = (Framing::Close, false, false);
        for field in &*head.headers {
            if field.name.eq_ignore_ascii_case("transfer-encoding") {
                framing = if has_token(field.value, "chunked") { Framing::Chunks } else { Framing::Close };
            } else if field.name.eq_ignore_ascii_case("content-length") && framing != Framing::Chunks {
                framing = Framing::Length(std::str::from_utf8(field.value).ok()?.trim().parse().ok()?);
            } else if field.name.eq_ignore_ascii_case("connection") {
                closes |= has_token(field.value, "close");
                keeps |= has_token(field.value, "keep-alive");
            }
        }
        if matches!(status, 100..=199 | 204 | 304) {
            framing = Framing::Length(0);
        }
        let is_last = closes || framing == Framing::Close || status == 101 || (version == 0 && !keeps);
        Some(Header { status, framing, is_last })
    }
}

fn has_token(value: &[u8], token: &str) -> bool {
    value.split(|&byte| byte == b',').any(|part| part.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// Reads a header up to the empty line.
fn read_header(stream: &mut impl BufRead, header: &mut Vec<u8>) -> Result<(), Fate> {
    header.clear();
    loop {
        let before = header.len();
        read_line(stream, header)?;
        if header[before..].trim_ascii().is_empty() && before > 0 {
            return Ok(());
        }
        if header.len() >= LONGEST_HEADER {
            return Err(Fate::Wrong);
        }
    }
}

/// Appends a line, including its end.
fn read_line(stream: &mut impl BufRead, line: &mut Vec<u8>) -> Result<(), Fate> {
    let most = (LONGEST_HEADER - line.len().min(LONGEST_HEADER)) as u64;
    stream.by_ref().take(most).read_until(b'\n', line)?;
    match line.last() {
        Some(b'\n') => Ok(()),
        _ if line.len() >= LONGEST_HEADER => Err(Fate::Wrong),
        _ => Err(Fate::Cut),
    }
}

/// The bytes at hand, or the next that arrive. Empty: the end.
pub(crate) fn fill(stream: &mut impl BufRead) -> io::Result<&[u8]> {
    // Two calls, because the first result cannot be inspected and then returned.
    loop {
        match stream.fill_buf() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    stream.fill_buf()
}
