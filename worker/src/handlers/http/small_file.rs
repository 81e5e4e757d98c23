//! A small file in memory, with its answer.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::path::PathBuf;
use std::time::Duration;

use super::date::Now;
use super::header::{After, Header, Terms};
use super::media_type::MediaType;
use super::status::Status;
use super::version::{Identity, Version};

/// The longest file that is small, in bytes.
pub(super) const SMALL: u64 = 64 * 1024;

/// A change that follows another one within this time may leave the same times behind: FAT counts in steps of two
/// seconds.
const SETTLED: Duration = Duration::from_secs(3);

/// A file that has been read, and the answer to a plain request for it, which carries the date of one second.
#[derive(Debug)]
pub(super) struct SmallFile {
    /// The absolute path at which it was found.
    path: PathBuf,
    /// The number of directories between the served one and the file.
    depth: usize,
    /// The second whose date the answer carries.
    pub(super) second: u64,
    pub(super) version: Version,
    pub(super) media_type: MediaType,
    /// The length of the header, with which `answer` begins.
    header: usize,
    answer: Vec<u8>,
}

impl SmallFile {
    /// The answer suits a connection that stays open.
    pub(super) const AFTER: After = After::Keep { announce: false };

    /// Reads a file. Its `metadata` was read before, so the content is at least as new.
    ///
    /// # Errors
    /// When it cannot be read, or is shorter than it was.
    pub(super) fn read(
        path: PathBuf,
        depth: usize,
        mut file: File,
        metadata: &Metadata,
        media_type: MediaType,
        now: Now,
    ) -> io::Result<SmallFile> {
        let version = Version::of(metadata);
        let mut header = Header::new(Status::Ok, Terms { now, after: SmallFile::AFTER, head_only: false });
        header.file(version, media_type);
        header.field("Content-Length", version.length);
        let mut answer = header.end();
        let header = answer.len();
        answer.resize(header + version.length as usize, 0); // A small one fits into memory.
        file.read_exact(&mut answer[header..])?;
        Ok(SmallFile { path, depth, second: now.second(), version, media_type, header, answer })
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

    /// Whether a later change would show, see [`SmallFile::is_unchanged`].
    pub(super) fn is_settled(&self, now: Now) -> bool {
        self.version
            .identity
            .is_some_and(|identity| now.0.checked_sub(identity.changed).is_some_and(|since| since >= SETTLED))
    }

    /// Whether this very file is still there, unchanged, and no part of its path below the served directory is a
    /// symbolic link.
    pub(super) fn is_unchanged(&self) -> bool {
        let is_directory = |path| fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir());
        self.version.identity.is_some()
            && self.path.ancestors().skip(1).take(self.depth).all(is_directory)
            && fs::symlink_metadata(&self.path).is_ok_and(|metadata| Identity::of(&metadata) == self.version.identity)
    }
}
