//! The command lines of the hidden stages: `@deputy`, `@guard` or `@launch`, then the number of sockets from descriptor
//! 3 on and their names, then the directory in which the program starts, then the program and its arguments.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::Command;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// The first argument, which names the stage.
#[cfg(target_os = "linux")]
pub(super) const DEPUTY: &str = "@deputy";
pub(super) const GUARD: &str = "@guard";
pub(super) const LAUNCH: &str = "@launch";

/// The variable that identifies the processes of a generation, unless they have changed their environment. Its value
/// differs for each generation.
pub(super) const MARK: &str = "MASTERCONTROL_GENERATION";

/// The variable that holds the program's variables, as JSON. The stages themselves do not get these: a `LD_PRELOAD` is
/// meant for the program alone. (Any user can read a command line.)
pub(super) const ENVIRONMENT: &str = "MASTERCONTROL_ENVIRONMENT";

/// The variable that holds the program's soft limit of descriptors if it differs from the supervisor's.
pub(super) const DESCRIPTORS: &str = "MASTERCONTROL_DESCRIPTORS";

/// The first descriptor that is passed on.
pub(super) const FIRST: i32 = 3;

/// What a stage has to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stage {
    /// How many sockets are passed on.
    pub(super) sockets: usize,
    /// Their names, separated by colons.
    pub(super) names: OsString,
    /// The directory in which the program starts. Empty: that of the supervisor.
    pub(super) directory: OsString,
    pub(super) program: OsString,
    pub(super) args: Vec<OsString>,
}

impl Stage {
    /// Parses the command line after the name of the stage. None: it is malformed.
    pub(super) fn parse(mut line: impl Iterator<Item = OsString>) -> Option<Stage> {
        let sockets = line.next()?.to_str()?.parse().ok().filter(|&sockets| sockets < 1000)?;
        let (names, directory, program) = (line.next()?, line.next()?, line.next()?);
        Some(Stage { sockets, names, directory, program, args: line.collect() })
    }

    /// The command that starts this executable as that stage.
    pub(super) fn command(&self, own: &OsStr, stage: &str) -> Command {
        let mut command = Command::new(own);
        command.arg(stage).arg(self.sockets.to_string()).arg(&self.names).arg(&self.directory);
        command.arg(&self.program).args(&self.args);
        command
    }

    /// The first descriptor after the sockets.
    pub(super) fn first_free(&self) -> i32 {
        // There are fewer than 1000.
        FIRST + i32::try_from(self.sockets).unwrap_or(0)
    }
}

/// The path by which this program starts itself. It leads to the very same file even if that has been replaced by a
/// newer version, which could not talk to this one.
pub(super) fn own() -> io::Result<OsString> {
    let own = PathBuf::from("/proc/self/exe");
    if own.exists() { Ok(own.into()) } else { std::env::current_exe().map(PathBuf::into_os_string) }
}

/// How many bytes a pipe accepts in one piece when it has any room.
const PIPE_BUF: usize = 4096;

/// Writes a message that no other process reports. The message is lost if stderr has no room for it, because the
/// supervisor waits for the end of this process.
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

/// A process between a supervisor and a program.
#[cfg(target_os = "linux")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Above {
    Deputy,
    Guardian,
}

/// The role of the process with this command line. None: it has no such role.
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
