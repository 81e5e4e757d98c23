//! Where the [writer](super::Writer) writes: stderr, or a file.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::log::Place;
use crate::text::Clock;

/// Where lines are written.
#[derive(Debug)]
pub(crate) struct Sink {
    to: To,
    /// A write failed in the middle of a line.
    torn: bool,
}

#[derive(Debug)]
enum To {
    Stderr(Stderr),
    File(LogFile),
}

impl Sink {
    pub(crate) fn stderr() -> Sink {
        Sink { to: To::Stderr(Stderr::new()), torn: false }
    }

    pub(crate) fn file(file: LogFile) -> Sink {
        Sink { to: To::File(file), torn: false }
    }

    pub(crate) fn place(&self) -> Place {
        match self.to {
            To::Stderr(_) if io::stderr().is_terminal() => Place::Stderr(Clock::LocalTime),
            To::Stderr(_) => Place::Stderr(Clock::Utc),
            To::File(_) => Place::File,
        }
    }

    /// As if a write had failed.
    #[cfg(all(test, unix))]
    pub(crate) fn tear(&mut self) {
        self.torn = true;
    }

    /// Waits until a small piece can be written without waiting, but at most this long. Never waits for a disk.
    #[cfg(unix)]
    pub(crate) fn has_room_within(&self, limit: Duration) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;

        let stderr = io::stderr();
        let to = match &self.to {
            To::Stderr(_) => stderr.as_fd(),
            To::File(LogFile { file: Some(file), .. }) => file.as_fd(),
            To::File(LogFile { file: None, .. }) => return true,
        };
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
        poll(&mut [PollFd::new(to, PollFlags::POLLOUT)], limit).is_ok_and(|ready| ready > 0)
    }

    /// Windows does not tell.
    #[cfg(windows)]
    pub(crate) fn has_room_within(&self, _limit: Duration) -> bool {
        true
    }

    /// Writes all of it, however long that takes. Returns how many lines could not be written: a supervisor does not
    /// end because its log has lost its reader, or its disk is full.
    pub(crate) fn write(&mut self, lines: &[u8]) -> usize {
        if let To::File(file) = &mut self.to {
            file.make_room(lines.len());
        }
        let mut rest = lines;
        while !rest.is_empty() {
            let part = if self.torn { b"\n" } else { rest };
            match self.to.write(part) {
                Ok(1..) if self.torn => self.torn = false,
                Ok(written @ 1..) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => {
                    self.torn |= lines[..lines.len() - rest.len()].last().is_some_and(|&last| last != b'\n');
                    return rest.iter().filter(|&&byte| byte == b'\n').count().max(1);
                }
            }
        }
        0
    }
}

impl To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            To::Stderr(stderr) => stderr.write(bytes),
            To::File(file) => file.write(bytes),
        }
    }
}

/// Our own stderr, without std's lock for it: others that take that lock must not wait for a reader.
#[cfg(unix)]
#[derive(Debug)]
struct Stderr;

#[cfg(unix)]
impl Stderr {
    fn new() -> Stderr {
        Stderr
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use nix::errno::Errno;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;

        let stderr = io::stderr();
        match nix::unistd::write(&stderr, bytes) {
            // Another process that shares stderr has made it non-blocking. This one waits for room.
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                Err(ErrorKind::Interrupted.into())
            }
            written => Ok(written?),
        }
    }
}

/// Our own stderr, without std's lock for it: others that take that lock must not wait for a reader. But only std can
/// write all characters to a console.
#[cfg(windows)]
#[derive(Debug)]
struct Stderr(Option<File>);

#[cfg(windows)]
impl Stderr {
    fn new() -> Stderr {
        Stderr(None)
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use std::io::IsTerminal;
        use std::os::windows::io::AsHandle;

        let stderr = io::stderr();
        if stderr.is_terminal() {
            return (&stderr).write(bytes);
        }
        let file = match self.0.take() {
            Some(file) => file,
            None => stderr.as_handle().try_clone_to_owned()?.into(),
        };
        self.0.insert(file).write(bytes)
    }
}

/// The longest log file, in bytes.
const MAX_FILE: u64 = 10 * 1024 * 1024;

/// A log file. When it is full, it is renamed, with `.old` after its name, replacing the one before.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    /// None: it could not be opened again.
    file: Option<File>,
    length: u64,
    longest: u64,
}

impl LogFile {
    /// Appends to what is there already.
    pub(crate) fn open(path: PathBuf) -> io::Result<LogFile> {
        let file = append_to(&path)?;
        let length = file.metadata()?.len();
        Ok(LogFile { path, file: Some(file), length, longest: MAX_FILE })
    }

    /// Begins a new file if this many bytes do not fit any more.
    fn make_room(&mut self, length: usize) {
        if self.length > 0 && self.length + length as u64 > self.longest {
            self.begin_anew();
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let file = match self.file.take() {
            Some(file) => file,
            None => append_to(&self.path)?,
        };
        let written = self.file.insert(file).write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn begin_anew(&mut self) {
        // Windows does not rename an open file.
        self.file = None;
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        // If a reader holds the file, it keeps growing, and renaming is tried again after as many bytes.
        let _ = fs::rename(&self.path, old);
        self.length = 0;
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_log_file_that_is_full_is_put_aside_and_only_the_last_one_is_kept() {
        let directory = std::env::temp_dir().join(format!("mastercontrol-log-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let (path, old) = (directory.join("x.log"), directory.join("x.log.old"));
        let read = |path| fs::read_to_string(path).unwrap();
        fs::write(&path, "zero\n").unwrap();
        let mut file = Sink::file(LogFile { longest: 12, ..LogFile::open(path.clone()).unwrap() });
        for line in ["one\n", "two\n"] {
            assert_eq!(file.write(line.as_bytes()), 0);
        }
        assert_eq!((read(&old), read(&path)), ("zero\none\n".into(), "two\n".into()));
        for line in ["a line that is too long for any file\n", "four\n"] {
            assert_eq!(file.write(line.as_bytes()), 0);
        }
        assert_eq!((read(&old), read(&path)), ("a line that is too long for any file\n".into(), "four\n".into()));
        drop(file);
        fs::remove_dir_all(&directory).unwrap();
    }
}
