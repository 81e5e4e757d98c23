//! What to run, and why it did not run.

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::ready::Ready;
use crate::server::{BuildError, ProgramEnd};
use crate::settings::Settings;

/// The shell's exit code for a program that is not found.
pub(super) const NOT_FOUND: u8 = 127;

/// The shell's exit code for one that cannot be run.
pub(super) const NOT_RUN: u8 = 126;

/// Says what the program of a generation is, and may change its settings.
pub(crate) type ProgramFactory = Box<dyn FnMut(&mut Settings) -> Result<Program, BuildError> + Send>;

/// What to run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path, or a name to be looked for. A relative path is looked up in the directory in which it starts.
    pub program: OsString,
    /// What it is told.
    pub args: Vec<OsString>,
    /// The directory in which it starts: the one that has this path then. None: that of the supervisor.
    pub directory: Option<PathBuf>,
    /// What asks it to end.
    #[cfg(unix)]
    pub stop_signal: i32,
    /// What shows that it is ready.
    pub ready: Ready,
    /// How long that may take.
    pub ready_within: Duration,
}

impl Program {
    /// Whether it does not matter that it has ended so before it was looked at. Nobody shall make way for it then; but
    /// where nobody serves, it is no different from ending a moment later: the end of the first one is passed on, and
    /// one that has ended well has done its work.
    pub(super) fn may_have_ended(&self, end: ProgramEnd, build: u64, somebody_serves: bool) -> bool {
        let is_done = !somebody_serves && end == ProgramEnd::Exited(0);
        self.ready == Ready::AtOnce && (build == 1 || is_done)
    }
}

impl fmt::Display for Program {
    /// As it might be typed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.program.display())?;
        self.args.iter().try_for_each(|argument| write!(formatter, " {}", argument.display()))
    }
}

/// A program that cannot be started at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotStart {
    /// The shell's exit code for this: 127 if it is not found, 126 if it cannot be run.
    pub code: u8,
    /// Which program, and why.
    pub message: String,
}

impl fmt::Display for CannotStart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for CannotStart {}

/// A program that ended before it was ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedEarly {
    /// How it ended.
    pub end: ProgramEnd,
    /// The last lines that it wrote to stderr.
    pub wrote: Vec<String>,
}

impl EndedEarly {
    pub(super) fn of(end: ProgramEnd) -> BuildError {
        Box::new(EndedEarly { end, wrote: Vec::new() })
    }
}

impl fmt::Display for EndedEarly {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} before it was ready{}", self.end, LastWords(&self.wrote))
    }
}

impl Error for EndedEarly {}

/// What a program wrote before it was given up, after the reason for that.
pub(super) struct LastWords<'a>(pub(super) &'a [String]);

impl fmt::Display for LastWords<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            lines => write!(formatter, "; its last output: {}", lines.join(" | ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_end_is_a_failure_where_somebody_would_have_made_way_or_it_was_to_be_ready() {
        let program = |ready| Program {
            program: "p".into(),
            args: Vec::new(),
            directory: None,
            #[cfg(unix)]
            stop_signal: 15,
            ready,
            ready_within: Duration::ZERO,
        };
        let (clean, badly) = (ProgramEnd::Exited(0), ProgramEnd::Exited(3));
        for (end, build, somebody_serves, may) in [
            (clean, 1, false, true),
            (badly, 1, false, true),
            (clean, 2, true, false),
            (badly, 2, true, false),
            (clean, 2, false, true),
            (badly, 2, false, false),
        ] {
            let at_once = program(Ready::AtOnce).may_have_ended(end, build, somebody_serves);
            assert_eq!(at_once, may, "{end}, {build}, {somebody_serves}");
            assert!(!program(Ready::After(Duration::ZERO)).may_have_ended(end, build, somebody_serves));
        }
    }
}
