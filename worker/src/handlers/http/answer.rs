//! An answer: its header and its body, and how they are sent.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::sync::Arc;

use super::header::{After, Header, Terms};
use super::small_file::SmallFile;
use super::status::Status;
use crate::connection::Connection;

/// The methods that are answered.
const METHODS: &str = "GET, HEAD, OPTIONS";

/// An answer that is ready to be sent.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: Status,
    pub(super) after: After,
    content: Content,
}

/// The header and the body.
#[derive(Debug)]
enum Content {
    /// `header` bytes of header, followed by the body.
    Memory { header: usize, bytes: Vec<u8> },
    /// The same, prepared for an earlier request. Only the first `length` bytes are sent.
    Ready { file: Arc<SmallFile>, length: usize },
    /// The header, and `length` bytes of a file from its current position.
    File { header: Vec<u8>, file: File, length: u64 },
}

impl Answer {
    /// Without a body.
    pub(super) fn without_body(header: Header) -> Answer {
        Answer::with_bytes(header, &[])
    }

    /// The allowed methods, which are the same for each path.
    pub(super) fn methods(terms: Terms) -> Answer {
        let mut header = Header::new(Status::NoContent, terms);
        header.field("Allow", METHODS);
        Answer::without_body(header)
    }

    /// With a body from memory.
    pub(super) fn with_body(mut header: Header, body: &[u8]) -> Answer {
        header.field("Content-Length", body.len());
        let body = if header.terms.head_only { &[] } else { body };
        Answer::with_bytes(header, body)
    }

    fn with_bytes(header: Header, body: &[u8]) -> Answer {
        let (status, after) = (header.status, header.terms.after);
        let mut bytes = header.end();
        let header = bytes.len();
        bytes.extend_from_slice(body);
        Answer { status, after, content: Content::Memory { header, bytes } }
    }

    pub(super) fn with_html(mut header: Header, page: &str) -> Answer {
        header.field("Content-Type", "text/html; charset=utf-8");
        Answer::with_body(header, page.as_bytes())
    }

    /// With a page that shows the status.
    pub(super) fn with_name(header: Header) -> Answer {
        let name = header.status.name();
        Answer::with_html(header, &format!("<!DOCTYPE html>\n<title>{name}</title>\n<h1>{name}</h1>\n"))
    }

    /// An answer that consists of its status.
    pub(super) fn refusal(status: Status, terms: Terms) -> Answer {
        let mut header = Header::new(status, terms);
        match status {
            Status::MethodNotAllowed => header.field("Allow", METHODS),
            Status::ServiceUnavailable => header.field("Retry-After", 1),
            _ => {}
        }
        Answer::with_name(header)
    }

    /// With `length` bytes of a file, from `start` on.
    ///
    /// # Errors
    /// When the file cannot be positioned.
    pub(super) fn with_file(mut header: Header, mut file: File, start: u64, length: u64) -> io::Result<Answer> {
        header.field("Content-Length", length);
        if header.terms.head_only {
            return Ok(Answer::without_body(header));
        }
        if start > 0 {
            file.seek(SeekFrom::Start(start))?;
        }
        let (status, after) = (header.status, header.terms.after);
        Ok(Answer { status, after, content: Content::File { header: header.end(), file, length } })
    }

    /// The answer that was prepared when the file was read. It suits only the usual terms.
    pub(super) fn ready(file: Arc<SmallFile>, head_only: bool) -> Answer {
        let length = if head_only { file.header().len() } else { file.answer().len() };
        Answer { status: Status::Ok, after: SmallFile::AFTER, content: Content::Ready { file, length } }
    }

    /// Sends the answer. Returns how many bytes of the body were sent, as far as that is known.
    pub(super) fn send(&self, client: &mut Connection) -> (u64, io::Result<()>) {
        let (header, bytes) = match &self.content {
            Content::Memory { header, bytes } => (*header, bytes.as_slice()),
            Content::Ready { file, length } => (file.header().len(), &file.answer()[..*length]),
            Content::File { header, file, length } => {
                return match client.send_file(header, file, *length) {
                    // It cannot be sent as announced, so the connection ends here.
                    Ok(sent) if sent < *length => {
                        (sent, Err(io::Error::other("the file became shorter while it was sent")))
                    }
                    Ok(sent) => (sent, Ok(())),
                    Err(error) => (0, Err(error)),
                };
            }
        };
        match client.write_all(bytes) {
            Ok(()) => ((bytes.len() - header) as u64, Ok(())),
            Err(error) => (0, Err(error)),
        }
    }

    /// The part of it that is sent from memory.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Memory { bytes, .. } => bytes,
            Content::Ready { file, length } => &file.answer()[..*length],
            Content::File { header, .. } => header,
        }
    }
}
