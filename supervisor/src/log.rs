//! What the operator reads on stderr: the entries of the [journal](crate::Journal), one line each. A service has no
//! stderr, and writes them into a file.

use std::fs::{self, File};
use std::io::{self, StderrLock, Write};
use std::path::{Path, PathBuf};

use crate::protocol::Entry;
use crate::text;

pub use crate::protocol::Level;

/// In what form lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Silent,
    Text,
    Json,
}

/// How events are logged: on stderr, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    form: Form,
    verbose: bool,
}

impl Log {
    /// Nothing is logged.
    pub fn silent() -> Log {
        Log { form: Form::Silent, verbose: false }
    }

    /// Lines for people.
    pub fn text() -> Log {
        Log { form: Form::Text, verbose: false }
    }

    /// One JSON object a line: an [`Entry`].
    pub fn json() -> Log {
        Log { form: Form::Json, verbose: false }
    }

    /// Whether what each connection and each request does is an event, too.
    pub fn verbose(self, verbose: bool) -> Log {
        Log { verbose, ..self }
    }

    /// Whether what has this level is an event.
    pub(crate) fn tells(self, level: Level) -> bool {
        match level {
            Level::Detail => self.verbose,
            Level::Info | Level::Warning | Level::Error => true,
        }
    }

    /// Where lines are written: into the file, if there is one. Until it is dropped nobody else writes there. None:
    /// nowhere.
    pub(crate) fn outlet(self, file: Option<&mut LogFile>) -> Option<Outlet<'_>> {
        let to = || file.map_or_else(|| To::Stderr(io::stderr().lock()), To::File);
        (self.form != Form::Silent).then(|| Outlet { to: to(), form: self.form })
    }
}

/// Where lines are written.
#[derive(Debug)]
pub(crate) struct Outlet<'a> {
    to: To<'a>,
    form: Form,
}

#[derive(Debug)]
enum To<'a> {
    Stderr(StderrLock<'static>),
    File(&'a mut LogFile),
}

impl Outlet<'_> {
    /// An entry in the form of the log. `json` is what it is in JSON.
    pub(crate) fn line(&self, entry: &Entry, json: &str) -> String {
        match self.form {
            Form::Silent => String::new(),
            Form::Text => format!("{}\n", text::entry(entry)),
            Form::Json => json.to_owned(),
        }
    }

    /// A line that cannot be written is lost: a supervisor does not end because nobody reads its log.
    pub(crate) fn write(&mut self, line: &str) {
        let _ = match &mut self.to {
            To::Stderr(stderr) => stderr.write_all(line.as_bytes()),
            To::File(file) => file.write(line.as_bytes()),
        };
    }

    /// Whether a line can be written without waiting for whoever reads it: a pipe that is writable takes some thousand
    /// bytes (PIPE_BUF, see pipe(7)). A reader that is merely slow gets a moment, but only one: `patient` is false
    /// after that.
    #[cfg(unix)]
    pub(crate) fn has_room(&self, patient: bool) -> bool {
        use nix::errno::Errno;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use std::os::fd::AsFd;

        const A_MOMENT: u8 = 200; // Milliseconds.
        let To::Stderr(stderr) = &self.to else { return true };
        let limit = if patient { A_MOMENT.into() } else { PollTimeout::ZERO };
        let mut stderr = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        loop {
            match poll(&mut stderr, limit) {
                Err(Errno::EINTR) => {}
                // An error, a closed pipe for one, does not make a write wait either.
                ready => return ready != Ok(0),
            }
        }
    }

    /// Windows does not tell; there the log waits for its reader.
    #[cfg(windows)]
    pub(crate) fn has_room(&self, _patient: bool) -> bool {
        true
    }
}

/// The longest log file, in bytes.
const MAX_FILE: u64 = 10 * 1024 * 1024;

/// A log in a file. When that is full, it is put aside with `.old` behind its name, in place of the one before.
#[derive(Debug)]
pub(crate) struct LogFile {
    path: PathBuf,
    /// None: it could not be opened again.
    file: Option<File>,
    length: u64,
    longest: u64,
}

impl LogFile {
    /// Goes on behind what is there already.
    pub(crate) fn open(path: PathBuf) -> io::Result<LogFile> {
        let file = append_to(&path)?;
        let length = file.metadata()?.len();
        Ok(LogFile { path, file: Some(file), length, longest: MAX_FILE })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64; // A line is not that long.
        if self.length > 0 && self.length + length > self.longest {
            self.begin_anew();
        }
        if self.file.is_none() {
            self.file = Some(append_to(&self.path)?);
        }
        self.length += length;
        self.file.as_mut().map_or(Ok(()), |file| file.write_all(line))
    }

    fn begin_anew(&mut self) {
        // Windows moves no file that somebody has open.
        self.file = None;
        let mut old = self.path.clone().into_os_string();
        old.push(".old");
        // If a reader holds it, it grows on, and is tried again when as much has come again.
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
        let mut file = LogFile { longest: 12, ..LogFile::open(path.clone()).unwrap() };
        for line in ["one\n", "two\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!((read(&old), read(&path)), ("zero\none\n".into(), "two\n".into()));
        for line in ["a line that is too long for any file\n", "four\n"] {
            file.write(line.as_bytes()).unwrap();
        }
        assert_eq!((read(&old), read(&path)), ("a line that is too long for any file\n".into(), "four\n".into()));
        drop(file);
        fs::remove_dir_all(&directory).unwrap();
    }
}
