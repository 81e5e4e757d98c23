//! Exit codes, for `supervisor` and `admin-cli` alike.

use std::process::ExitCode;

/// How a program of this project ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It did what was asked.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// No supervisor is running there.
    NotRunning = 3,
    /// Somebody else's, or a privilege is missing.
    NotPermitted = 4,
    /// Done, but clients were closed by force at the deadline.
    Forced = 5,
    /// The supervisor does not answer.
    NoAnswer = 6,
    /// Gave up waiting; what was asked for goes on.
    GaveUp = 7,
    /// A stop overran its deadline because something hung; the process ended all the same.
    Overrun = 8,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
