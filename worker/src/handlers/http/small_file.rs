//! A small file in memory, with its answer.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};

use super::date::Now;
use super::header::{After, Header, Terms};
use super::media_type::MediaType;
use super::status::Status;
use super::version::Version;

/// The longest file that is small, in bytes.
pub(super) const SMALL: u64 = 64 * 1024;

/// A file that has been read, and the answer to a plain request for it.
#[derive(Debug)]
pub(super) struct SmallFile {
    pub(super) version: Version,
    pub(super) media_type: MediaType,
    /// The length of the header, with which `answer` begins.
    header: usize,
    answer: Vec<u8>,
}

impl SmallFile {
    /// The answer is for a connection that stays.
    pub(super) const AFTER: After = After::Keep { tell: false };

    /// Reads a file. `metadata` was asked for before: what is read now is at least as new.
    ///
    /// # Errors
    /// When it cannot be read, or is shorter than it was.
    pub(super) fn read(file: File, metadata: &Metadata, media_type: MediaType, now: Now) -> io::Result<SmallFile> {
        let version = Version::of(metadata);
        let mut header = Header::new(Status::Ok, Terms { now, after: SmallFile::AFTER, head_only: false });
        header.file(version, media_type);
        header.field("Content-Length", version.length);
        let mut answer = header.end();
        let header = answer.len();
        let length = file.take(version.length).read_to_end(&mut answer)?;
        if (length as u64) < version.length {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        Ok(SmallFile { version, media_type, header, answer })
    }

    pub(super) fn header(&self) -> &[u8] {
        &self.answer[..self.header]
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.answer[self.header..]
    }

    /// Header and content.
    pub(super) fn answer(&self) -> &[u8] {
        &self.answer
    }
}
