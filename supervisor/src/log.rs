//! What the operator reads on stderr: the entries of the [journal](crate::Journal), one line each.

use std::io::{StderrLock, Write};

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

    /// Where lines are written. Until it is dropped nobody else writes there. None: nowhere.
    pub(crate) fn outlet(self) -> Option<Outlet> {
        (self.form != Form::Silent).then(|| Outlet { stderr: std::io::stderr().lock(), form: self.form })
    }
}

/// Stderr.
#[derive(Debug)]
pub(crate) struct Outlet {
    stderr: StderrLock<'static>,
    form: Form,
}

impl Outlet {
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
        let _ = self.stderr.write_all(line.as_bytes());
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
        let limit = if patient { A_MOMENT.into() } else { PollTimeout::ZERO };
        let mut stderr = [PollFd::new(self.stderr.as_fd(), PollFlags::POLLOUT)];
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
