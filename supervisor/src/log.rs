//! What the operator reads on stderr: one line an event, with its time.

use std::fmt::Display;
use std::io::{StderrLock, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use serde_json::{Map, Value};

use crate::text::Count;

/// How much weight a line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One connection's or request's doings, shown with [`Log::verbose`].
    Detail,
    /// What an operator wants to know.
    Info,
    /// Something is not as it should be, and the supervisor goes on.
    Warning,
    /// Something failed.
    Error,
}

/// In what form lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Silent,
    Text,
    Json,
}

/// Where events are logged: on stderr, or nowhere.
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

    /// One JSON object a line, with `time`, `level`, `event`, `message`, and what else belongs to the event.
    pub fn json() -> Log {
        Log { form: Form::Json, verbose: false }
    }

    /// Whether each connection and each request is logged, too.
    pub fn verbose(self, verbose: bool) -> Log {
        Log { verbose, ..self }
    }

    /// Whether [`Level::Detail`] is logged.
    pub fn is_verbose(self) -> bool {
        self.verbose && self.form != Form::Silent
    }

    /// Logs an event with its name, a message for people, and fields for programs.
    ///
    /// A line that cannot be written, or not without waiting for a reader, is lost: a supervisor does not end or stall
    /// because nobody reads its log. How many were lost is said with the next line that can be written.
    pub fn line<const N: usize>(self, level: Level, event: &str, message: impl Display, fields: [(&str, Value); N]) {
        if self.form == Form::Silent || (level == Level::Detail && !self.verbose) {
            return;
        }
        let mut stderr = std::io::stderr().lock();
        if !has_room(&stderr) {
            LOST.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let lost = LOST.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let message = format!("nobody read the log: {} lost", Count(lost, "line"));
            let line = self.format(Level::Warning, "log_lines_lost", &message, [("lost", lost.into())]);
            let _ = stderr.write_all(line.as_bytes());
        }
        let line = self.format(level, event, &message.to_string(), fields);
        let _ = stderr.write_all(line.as_bytes());
    }

    fn format<const N: usize>(self, level: Level, event: &str, message: &str, fields: [(&str, Value); N]) -> String {
        let time = humantime::format_rfc3339_millis(SystemTime::now()).to_string();
        match self.form {
            Form::Silent => String::new(),
            Form::Text => match level {
                Level::Detail | Level::Info => format!("{time} {message}\n"),
                Level::Warning => format!("{time} warning: {message}\n"),
                Level::Error => format!("{time} error: {message}\n"),
            },
            Form::Json => {
                let level = match level {
                    Level::Detail => "detail",
                    Level::Info => "info",
                    Level::Warning => "warning",
                    Level::Error => "error",
                };
                let always = [
                    ("time", Value::from(time)),
                    ("level", Value::from(level)),
                    ("event", Value::from(event)),
                    ("message", Value::from(message)),
                ];
                let object: Map<_, _> =
                    always.into_iter().chain(fields).map(|(name, value)| (name.to_owned(), value)).collect();
                format!("{}\n", Value::Object(object))
            }
        }
    }
}

/// Lines that were lost since the last one that was written.
static LOST: AtomicUsize = AtomicUsize::new(0);

/// Whether a line can be written without waiting for whoever reads it: a pipe that is writable takes some thousand
/// bytes (PIPE_BUF, see pipe(7)). A reader that is merely slow gets a moment, but only one.
#[cfg(unix)]
fn has_room(stderr: &StderrLock<'_>) -> bool {
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    const A_MOMENT: u8 = 200; // Milliseconds.
    let limit = if LOST.load(Ordering::Relaxed) == 0 { A_MOMENT.into() } else { PollTimeout::ZERO };
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
fn has_room(_stderr: &StderrLock<'_>) -> bool {
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_json_line_is_one_object_whatever_the_message() {
        let line = Log::json().format(Level::Info, "test", "two\nlines \"quoted\"", [("id", 7.into())]);
        assert_eq!(line.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&line).unwrap();
        assert!(object["time"].as_str().unwrap().ends_with('Z'), "{line}");
        assert_eq!((&object["id"], &object["event"]), (&7.into(), &"test".into()));
    }
}
