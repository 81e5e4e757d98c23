//! Exit codes, for `supervisor` and `admin-cli` alike.

use std::process::ExitCode;

use crate::protocol::Report;

/// How a program of this project ends. The reference has a column for each of the two programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// `admin-cli`: done. `supervisor`: stopped, and no client was closed by force.
    Done = 0,
    /// `admin-cli`: failed. After a failed restart the old server keeps serving, and after `free` the port is not free.
    /// `supervisor`: did not start, because the port is taken, a directory or a file of settings is missing, …; or the
    /// server crashed, with `--restart never`.
    Failed = 1,
    /// `admin-cli`: the arguments are invalid, or several supervisors are running and none was named. `supervisor`: the
    /// arguments or the settings are invalid.
    Usage = 2,
    /// `admin-cli`: no supervisor is running there. With `port`: the port is free.
    NotRunning = 3,
    /// `admin-cli`: not permitted: the supervisor or the process belongs to another user. `supervisor`: not permitted:
    /// a port below 1024, a directory, …
    NotPermitted = 4,
    /// `admin-cli`: done, but clients were closed by force, or processes had to be killed. `supervisor`: stopped, but
    /// clients were closed by force, or processes had to be killed.
    Forced = 5,
    /// `admin-cli`: the supervisor does not answer.
    NoAnswer = 6,
    /// `admin-cli`: stopped waiting, because of `--timeout` or because the supervisor is out of threads. The stop or
    /// restart is still in progress.
    GaveUp = 7,
    /// `admin-cli`: done, but a handler could not be ended. `supervisor`: something hung, and the process ended at the
    /// deadline without it.
    Overrun = 8,
    /// `supervisor`: the server crashed too often.
    CrashedTooOften = 9,
    /// `supervisor`: the supervisor itself hung or panicked. It exits rather than leave a server that accepts no
    /// commands.
    OutOfControl = 10,
    /// `admin-cli`: done, but a request of `--verify` was lost.
    Lost = 11,
}

/// The code for a stop.
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
