//! The header of an answer, put together.

use std::fmt::Display;
use std::io::Write;

use super::date::Now;
use super::media_type::MediaType;
use super::status::Status;
use super::version::Version;

/// Room for the header of most answers, in bytes.
const ROOM: usize = 512;

/// The future of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// The next request may follow. An HTTP/1.0 client expects a field that announces it.
    Keep { announce: bool },
    /// It is closed.
    Close,
    /// It is closed, though the client may still be sending.
    Abandon,
}

/// The properties of an answer that do not depend on its status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) now: Now,
    pub(super) after: After,
    /// Whether the request was HEAD: then the body is described, but not sent.
    pub(super) head_only: bool,
}

/// A header under way: its status and fields so far.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) status: Status,
    pub(super) terms: Terms,
    bytes: Vec<u8>,
}

impl Header {
    pub(super) fn new(status: Status, terms: Terms) -> Header {
        let mut header = Header { status, terms, bytes: Vec::with_capacity(ROOM) };
        header.bytes.extend_from_slice(status.line().as_bytes());
        if let Some(date) = terms.now.date() {
            header.field("Date", date);
        }
        match terms.after {
            After::Keep { announce: false } => {}
            After::Keep { announce: true } => header.field("Connection", "keep-alive"),
            After::Close | After::Abandon => header.field("Connection", "close"),
        }
        header
    }

    pub(super) fn field(&mut self, name: &str, value: impl Display) {
        // Writing to memory does not fail.
        let _ = write!(self.bytes, "{name}: {value}\r\n");
    }

    pub(super) fn version(&mut self, version: Version) {
        if let Some(date) = version.last_modified(self.terms.now) {
            self.field("Last-Modified", date);
        }
        self.field("ETag", version.etag());
    }

    /// The fields that describe a file, except its length.
    pub(super) fn file(&mut self, version: Version, media_type: MediaType) {
        self.version(version);
        self.field("Accept-Ranges", "bytes");
        self.field("Content-Type", media_type);
    }

    /// Ends the header.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.bytes.extend_from_slice(b"\r\n");
        self.bytes
    }
}
