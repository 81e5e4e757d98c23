//! An answer: put together in one buffer, then sent.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Page;
use super::version::http_date;
use crate::Connection;

/// Up to this length, a file is read and sent together with its header.
const SMALL: u64 = 64 * 1024;

/// A connection that waits for its next request keeps no more memory than this for the answer.
const KEPT: usize = 16 * 1024;

/// The status of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Ok = 200,
    PartialContent = 206,
    MovedPermanently = 301,
    NotModified = 304,
    BadRequest = 400,
    Forbidden = 403,
    NotFound = 404,
    MethodNotAllowed = 405,
    RequestTimeout = 408,
    PreconditionFailed = 412,
    UriTooLong = 414,
    RangeNotSatisfiable = 416,
    ExpectationFailed = 417,
    FieldsTooLarge = 431,
    InternalServerError = 500,
    NotImplemented = 501,
    ServiceUnavailable = 503,
    VersionNotSupported = 505,
}

/// What happens to the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request may come. HTTP/1.0 has to be told.
    Keep { tell: bool },
    /// It is closed.
    Close,
    /// It is closed, though the client may still be sending.
    Abandon,
}

/// An answer under way. Its buffer serves all answers of a connection.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) after: After,
    /// Whether the request was HEAD: then the body is described, but not sent.
    pub(super) head_only: bool,
    /// The header, and as much of the body as is sent with it.
    bytes: Buffer,
    /// The length of the header.
    header: usize,
    /// What remains of the body: so many bytes of the file, from where it stands.
    rest: Option<(File, u64)>,
    date: Date,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Status::Ok => "HTTP/1.1 200 OK\r\n",
            Status::PartialContent => "HTTP/1.1 206 Partial Content\r\n",
            Status::MovedPermanently => "HTTP/1.1 301 Moved Permanently\r\n",
            Status::NotModified => "HTTP/1.1 304 Not Modified\r\n",
            Status::BadRequest => "HTTP/1.1 400 Bad Request\r\n",
            Status::Forbidden => "HTTP/1.1 403 Forbidden\r\n",
            Status::NotFound => "HTTP/1.1 404 Not Found\r\n",
            Status::MethodNotAllowed => "HTTP/1.1 405 Method Not Allowed\r\n",
            Status::RequestTimeout => "HTTP/1.1 408 Request Timeout\r\n",
            Status::PreconditionFailed => "HTTP/1.1 412 Precondition Failed\r\n",
            Status::UriTooLong => "HTTP/1.1 414 URI Too Long\r\n",
            Status::RangeNotSatisfiable => "HTTP/1.1 416 Range Not Satisfiable\r\n",
            Status::ExpectationFailed => "HTTP/1.1 417 Expectation Failed\r\n",
            Status::FieldsTooLarge => "HTTP/1.1 431 Request Header Fields Too Large\r\n",
            Status::InternalServerError => "HTTP/1.1 500 Internal Server Error\r\n",
            Status::NotImplemented => "HTTP/1.1 501 Not Implemented\r\n",
            Status::ServiceUnavailable => "HTTP/1.1 503 Service Unavailable\r\n",
            Status::VersionNotSupported => "HTTP/1.1 505 HTTP Version Not Supported\r\n",
        }
    }

    fn name(self) -> &'static str {
        self.line().trim_start_matches("HTTP/1.1 ").trim_end()
    }
}

impl Answer {
    pub(super) fn new() -> Answer {
        Answer {
            status: Status::Ok,
            after: After::Abandon,
            head_only: false,
            bytes: Buffer::default(),
            header: 0,
            rest: None,
            date: Date::default(),
        }
    }

    /// Begins the header. What was there before is gone.
    pub(super) fn begin(&mut self, status: Status) {
        self.status = status;
        self.rest = None;
        self.bytes.clear();
        self.bytes.push(status.line().as_bytes());
        self.date.write_to(&mut self.bytes);
        match self.after {
            After::Keep { tell: false } => {}
            After::Keep { tell: true } => self.field("Connection", "keep-alive"),
            After::Close | After::Abandon => self.field("Connection", "close"),
        }
    }

    pub(super) fn field(&mut self, name: &str, value: impl Display) {
        // To write to memory does not fail.
        let _ = write!(self.bytes, "{name}: {value}\r\n");
    }

    /// Ends the header of an answer that has no body.
    pub(super) fn end(&mut self) {
        self.bytes.push(b"\r\n");
        self.header = self.bytes.end;
    }

    /// Ends the answer with a body from memory.
    pub(super) fn end_with_html(&mut self, page: &str) {
        self.end_with_text("text/html; charset=utf-8", page);
    }

    fn end_with_text(&mut self, media_type: &str, text: &str) {
        self.field("Content-Type", media_type);
        self.field("Content-Length", text.len());
        self.end();
        if !self.head_only {
            self.bytes.push(text.as_bytes());
        }
    }

    /// A whole answer with a page that was made for it.
    pub(super) fn page(&mut self, page: &Page) {
        self.begin(if page.available { Status::Ok } else { Status::ServiceUnavailable });
        self.field("Cache-Control", "no-store");
        self.end_with_text(page.media_type, &page.text);
    }

    /// Ends the answer with so many bytes of a file, beginning at `start`.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter than it was. The answer is to begin again, then.
    pub(super) fn end_with_file(&mut self, mut file: File, start: u64, length: u64) -> io::Result<()> {
        self.field("Content-Length", length);
        self.end();
        if self.head_only || length == 0 {
            return Ok(());
        }
        if start > 0 {
            file.seek(SeekFrom::Start(start))?;
        }
        if length <= SMALL {
            return self.bytes.read_from(&file, length);
        }
        self.rest = Some((file, length));
        Ok(())
    }

    /// A whole answer that says why there is no other.
    pub(super) fn refuse(&mut self, status: Status) {
        self.begin(status);
        match status {
            Status::MethodNotAllowed => self.field("Allow", "GET, HEAD"),
            Status::ServiceUnavailable => self.field("Retry-After", 1),
            _ => {}
        }
        self.end_with_name();
    }

    /// Ends the answer with a page that says what its status says.
    pub(super) fn end_with_name(&mut self) {
        let name = self.status.name();
        self.end_with_html(&format!("<!DOCTYPE html>\n<title>{name}</title>\n<h1>{name}</h1>\n"));
    }

    /// Sends the answer. Returns how many bytes of the body went out, as far as that is known.
    pub(super) fn send(&mut self, client: &mut Connection) -> (u64, io::Result<()>) {
        let Some((file, length)) = self.rest.take() else {
            let in_memory = (self.bytes.end - self.header) as u64;
            return match client.write_all(self.bytes.filled()) {
                Ok(()) => (in_memory, Ok(())),
                Err(error) => (0, Err(error)),
            };
        };
        match client.send_file(self.bytes.filled(), &file, length) {
            Err(error) => (0, Err(error)),
            // It cannot be sent as announced: the connection ends here.
            Ok(sent) if sent < length => (sent, Err(io::Error::other("a file became shorter while it was sent"))),
            Ok(sent) => (sent, Ok(())),
        }
    }

    /// Gives memory back that a large answer took.
    pub(super) fn recycle(&mut self) {
        self.bytes.recycle(KEPT);
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.filled()
    }
}

/// A buffer that stays initialized, so that files can be read into it by one system call.
#[derive(Debug, Default)]
struct Buffer {
    bytes: Vec<u8>,
    end: usize,
}

impl Buffer {
    fn filled(&self) -> &[u8] {
        &self.bytes[..self.end]
    }

    fn clear(&mut self) {
        self.end = 0;
    }

    fn push(&mut self, bytes: &[u8]) {
        self.room(bytes.len()).copy_from_slice(bytes);
        self.end += bytes.len();
    }

    fn read_from(&mut self, mut file: &File, length: u64) -> io::Result<()> {
        // A piece fits into memory.
        let length = usize::try_from(length).map_err(io::Error::other)?;
        file.read_exact(self.room(length))?;
        self.end += length;
        Ok(())
    }

    /// The next `length` bytes to fill.
    fn room(&mut self, length: usize) -> &mut [u8] {
        let end = self.end + length;
        if end > self.bytes.len() {
            self.bytes.resize(end.max(2 * 1024), 0);
        }
        &mut self.bytes[self.end..end]
    }

    fn recycle(&mut self, kept: usize) {
        self.clear();
        if self.bytes.len() > kept {
            self.bytes = Vec::new();
        }
    }
}

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The field `Date`, formatted once a second.
#[derive(Debug, Default)]
struct Date {
    second: u64,
    field: String,
}

impl Date {
    fn write_to(&mut self, bytes: &mut Buffer) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
        if second != self.second {
            self.second = second;
            self.field = http_date(now).map(|date| format!("Date: {date}\r\n")).unwrap_or_default();
        }
        bytes.push(self.field.as_bytes());
    }
}
