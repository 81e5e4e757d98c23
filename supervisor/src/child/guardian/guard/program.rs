//! The program, as its guardian knows it: from its launcher on.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use rustix::process::{Pid, Signal};

use crate::child::guardian::line::Report;
use crate::child::guardian::stage::{self, Stage};

/// The program, or the launcher that becomes it.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) pid: Pid,
    /// It has been reaped, so another process may have its number.
    pub(super) ended: bool,
    /// The socket on which the launcher says that it could not become the program. None: the outcome is known.
    pub(super) launcher: Option<UnixStream>,
    /// Signals that arrived before the outcome was known: the launcher would lose them.
    pub(super) early: Vec<Signal>,
    /// The launcher could not become the program.
    pub(super) refused: bool,
}

impl Program {
    pub(super) fn start(stage: &Stage) -> io::Result<Program> {
        let (launcher, its_end) = UnixStream::pair()?;
        let mut command = stage.command(OsStr::new(&stage::own()?), stage::LAUNCH);
        command.process_group(0).stdin(Stdio::from(OwnedFd::from(its_end)));
        // It is reaped together with all others.
        let pid = i32::try_from(command.spawn()?.id()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or(io::ErrorKind::InvalidData)?;
        Ok(Program { pid, ended: false, launcher: Some(launcher), early: Vec::new(), refused: false })
    }

    pub(super) fn number(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }
}

/// Why the launcher has not become the program. None: it has, or it was ended before. It keeps its end of this socket
/// open only until then, so this does not block.
pub(super) fn refusal(mut launcher: UnixStream) -> Option<Report> {
    let mut said = String::new();
    // An unreadable line counts as none.
    let _ = launcher.read_to_string(&mut said);
    let (code, message) = said.trim_end().split_once(' ')?;
    Some(Report::CannotStart { code: code.parse().ok()?, message: message.into() })
}
