//! The launcher, which becomes the program. A guardian starts it. It does the work that has to be done in the program's
//! own process, and that other programs do between `fork` and `exec`, where only unsafe code can run.

use std::env;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use nix::sys::signal::SigSet;
use signal_hook::consts::FORBIDDEN;
use signal_hook::flag;

use super::stage::{self, Stage};
use crate::child::preflight;
use crate::child::program::{CannotStart, NOT_RUN};
use crate::descriptors;
use crate::host::pidfd;
use crate::text::Reason;

/// Becomes the program, or says on stdin why it cannot. Stdin is closed when it has become the program.
pub(super) fn run(stage: &Stage) -> ExitCode {
    let (code, message) = match io::stdin().as_fd().try_clone_to_owned() {
        Ok(guardian) => {
            let (code, message) = refusal(stage);
            // Without a guardian nothing reads this.
            let _ = writeln!(File::from(guardian), "{code} {}", message.replace('\n', " "));
            return ExitCode::from(code);
        }
        Err(error) => (NOT_RUN, Reason(&error).to_string()),
    };
    stage::complain(&format!("{}: {message}", stage.program.display()));
    ExitCode::from(code)
}

/// Tries to become the program, and returns why that failed.
fn refusal(stage: &Stage) -> (u8, String) {
    let program = stage.program.display();
    if let Some(soft) = env::var(stage::DESCRIPTORS).ok().and_then(|soft| soft.parse().ok()) {
        descriptors::begin_with(soft);
    }
    if let Err(error) = prepare() {
        return (NOT_RUN, format!("{program}: cannot be started: {}", Reason(&error)));
    }
    let mut command = Command::new(&stage.program);
    command.args(&stage.args).stdin(Stdio::null());
    let variables = env::var(stage::ENVIRONMENT).unwrap_or_default();
    let variables: Vec<(String, String)> = serde_json::from_str(&variables).unwrap_or_default();
    command
        .env_remove(stage::ENVIRONMENT)
        .env_remove(stage::DESCRIPTORS)
        .envs(variables.iter().map(|(name, value)| (name, value)));
    if !stage.directory.is_empty() {
        if let Err(error) = env::set_current_dir(&stage.directory) {
            let directory = Path::new(&stage.directory).display();
            return (NOT_RUN, format!("{program}: cannot start in {directory}: {}", Reason(&error)));
        }
        // As a shell does: this path may contain a symbolic link, which the system does not know about.
        command.env("PWD", &stage.directory);
    }
    if stage.sockets > 0 {
        command
            .env("LISTEN_PID", std::process::id().to_string())
            .env("LISTEN_FDS", stage.sockets.to_string())
            .env("LISTEN_FDNAMES", &stage.names);
        if let Some(id) = pidfd::own_id() {
            command.env(pidfd::VARIABLE, id.to_string());
        }
    }
    let error = command.exec();
    match preflight::find(&stage.program, Path::new(""), &variables) {
        Ok(_) if error.kind() == ErrorKind::NotFound => {
            (NOT_RUN, format!("{program}: its dynamic linker is not found"))
        }
        Ok(_) => (NOT_RUN, format!("{program}: cannot be run: {}", Reason(&error))),
        Err(CannotStart { code, message }) => (code, message),
    }
}

/// Registers handlers so that the program inherits no ignored signals. Ignored signals stay ignored after `exec`, and
/// one of them may be the signal that asks the program to end: a shell ignores SIGINT and SIGQUIT for background jobs,
/// `nohup` ignores SIGHUP. Signals with a handler are reset to the default by `exec`.
fn ignore_none() {
    let unused = Arc::default();
    for signal in (1..=64).filter(|signal| !FORBIDDEN.contains(signal)) {
        // Not every number belongs to a signal.
        let _ = flag::register(signal, Arc::clone(&unused));
    }
}

/// Sets the state in which the program starts, whatever the supervisor has inherited or blocks for itself.
fn prepare() -> io::Result<()> {
    SigSet::empty().thread_set_mask()?;
    ignore_none();
    #[cfg(target_os = "linux")]
    die_with_guardian()?;
    Ok(())
}

/// Has the system kill this process when the guardian ends for any reason. This carries over to the program, unless its
/// file gives it privileges (set-user-id): the system clears the setting then.
#[cfg(target_os = "linux")]
fn die_with_guardian() -> io::Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use rustix::process::{Signal, set_parent_process_death_signal};
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The guardian has the other end of this socket and sends nothing, so an event can only mean that it had ended
    // before the call above. In that case no process waits for this one any more.
    let stdin = io::stdin();
    let mut guardian = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match poll(&mut guardian, PollTimeout::ZERO)? {
        0 => Ok(()),
        _ => Err(ErrorKind::BrokenPipe.into()),
    }
}
