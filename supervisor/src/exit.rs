//! Exit codes, for `supervisor` and `admin-cli` alike.

use std::process::ExitCode;

use crate::protocol::Report;

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
    /// Something hung: a handler could not be ended, or the stop overran its deadline. The process ended all the same.
    Overrun = 8,
    /// The server crashed too often.
    CrashedTooOften = 9,
    /// Master control did not go on, so the process ended: nobody could have commanded it any more.
    OutOfControl = 10,
}

/// How a stop went.
impl From<&Report> for Exit {
    fn from(report: &Report) -> Exit {
        if report.stuck > 0 {
            Exit::Overrun
        } else if report.forced > 0 || report.killed > 0 {
            Exit::Forced
        } else {
            Exit::Done
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}
