//! The command lines of the hidden stages: `@deputy`, `@guard` and `@launch`, then how many sockets there are from
//! descriptor 3 on and their names, then the directory in which the program starts, then the program and its arguments.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Which stage it is.
#[cfg(target_os = "linux")]
pub(super) const DEPUTY: &str = "@deputy";
pub(super) const GUARD: &str = "@guard";
pub(super) const LAUNCH: &str = "@launch";

/// The variable by which the processes of a generation can be found that have not changed their environment. Each
/// generation has another value.
pub(super) const MARK: &str = "MASTERCONTROL_GENERATION";

/// The variable that has those of the program, as JSON. The stages themselves do not get these: a `LD_PRELOAD` is meant
/// for the program alone. (A command line can be read by every user.)
pub(super) const ENVIRONMENT: &str = "MASTERCONTROL_ENVIRONMENT";

/// The variable that has the program's soft limit of descriptors, if that is another one than the supervisor's.
pub(super) const DESCRIPTORS: &str = "MASTERCONTROL_DESCRIPTORS";

/// The first descriptor that is passed on.
pub(super) const FIRST: i32 = 3;

/// What a stage is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    /// How many sockets are passed on.
    pub(super) sockets: usize,
    /// Their names, with colons between them.
    pub(super) names: OsString,
    /// Where the program starts. Empty: where the supervisor did.
    pub(super) directory: OsString,
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
}

impl Stage {
    /// What follows the stage's own name on the command line. None: nothing that makes sense.
    pub(super) fn parse(mut line: impl Iterator<Item = OsString>) -> Option<Stage> {
        let sockets = line.next()?.to_str()?.parse().ok().filter(|&sockets| sockets < 1000)?;
        let (names, directory, program) = (line.next()?, line.next()?, line.next()?);
        Some(Stage { sockets, names, directory, program, args: line.collect() })
    }

    /// This program itself, as that stage.
    pub(super) fn command(&self, own: &OsStr, stage: &str) -> Command {
        let mut command = Command::new(own);
        command.arg(stage).arg(self.sockets.to_string()).arg(&self.names).arg(&self.directory);
        command.arg(&self.program).args(&self.args);
        command
    }

    /// The first descriptor that is none of the sockets.
    pub(super) fn first_free(&self) -> i32 {
        // There are less than 1000.
        FIRST + i32::try_from(self.sockets).unwrap_or(0)
    }
}

/// How this program starts itself: by a name that leads to the very same file, even if that has been replaced by a
/// newer one meanwhile, with which it could not talk.
pub(super) fn own() -> io::Result<OsString> {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() { Ok(own.into()) } else { std::env::current_exe().map(PathBuf::into_os_string) }
}

/// How much a pipe takes in one piece when it has any room.
const PIPE_BUF: usize = 4096;

/// Says something that no other process says. It is lost if stderr has no room for it, since the supervisor waits for
/// the end of this process.
pub(super) fn complain(message: &str) {
    let mut stderr = io::stderr();
    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if poll(&mut room, PollTimeout::ZERO) == Ok(0) {
        return;
    }
    let line = format!("supervisor: {message}\n");
    // If stderr is closed, there is no reader.
    let _ = stderr.write_all(&line.as_bytes()[..line.len().min(PIPE_BUF)]);
}

/// What stands between a supervisor and a program.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Above {
    Deputy,
    Guardian,
}

/// What the process with this command line is to a program. None: something else.
#[cfg(target_os = "linux")]
pub(crate) fn above(line: &[String]) -> Option<Above> {
    match line.get(1)?.as_str() {
        DEPUTY => Some(Above::Deputy),
        GUARD => Some(Above::Guardian),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_stage_is_read_back_from_its_command_line() {
        for (names, args) in [("a:b", &["-x", "--", ""][..]), ("", &[])] {
            let args = args.iter().map(OsString::from).collect();
            let stage = Stage { sockets: 2, names: names.into(), directory: "/d".into(), program: "p".into(), args };
            let command = stage.command(OsStr::new("own"), GUARD);
            let mut line = command.get_args().map(OsStr::to_owned);
            assert_eq!(line.next().unwrap(), GUARD);
            assert_eq!(Stage::parse(line), Some(stage));
        }
    }

    #[test]
    fn what_makes_no_sense_is_no_stage() {
        for line in [&[][..], &["1"], &["1", "a"], &["1", "a", "d"]] {
            assert_eq!(Stage::parse(line.iter().map(OsString::from)), None, "{line:?}");
        }
        for sockets in ["x", "-1", "100000"] {
            assert_eq!(Stage::parse([sockets, "a", "d", "p"].iter().map(OsString::from)), None, "{sockets}");
        }
    }
}
