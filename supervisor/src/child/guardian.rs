//! Programs on Unix.
//!
//! Between the supervisor and the program there is a guardian, a process of this same executable, one for each
//! generation. It starts a launcher, also of this executable, which becomes the program. So nothing has to run between
//! `fork` and `exec`, where only unsafe code can run, and some process always cleans up: the guardian if the supervisor
//! is killed, and the guardian's deputy if the guardian is killed. (The deputy runs between the supervisor and the
//! guardian, and only on Linux, where it adopts orphans.)

#[cfg(target_os = "linux")]
mod deputy;
mod family;
mod guard;
mod launcher;
mod line;
pub(super) mod notify;
#[cfg(target_os = "linux")]
pub(super) mod proc;
mod processes;
pub(crate) mod stage;
pub(super) mod supervisor_side;

use std::process::ExitCode;

use stage::Stage;

use crate::exit::Exit;

/// If this process was started as a hidden stage, runs it and returns its exit code. A program that supervises programs
/// calls this first of all, before it has a second thread.
pub fn hidden_stage() -> Option<ExitCode> {
    let mut line = std::env::args_os().skip(1);
    let run = match line.next()?.to_str()? {
        #[cfg(target_os = "linux")]
        stage::DEPUTY => deputy::run,
        stage::GUARD => guard::run,
        stage::LAUNCH => launcher::run,
        _ => return None,
    };
    Some(Stage::parse(line).map_or_else(
        || {
            stage::complain("@deputy, @guard and @launch are for the supervisor's own use");
            ExitCode::from(Exit::Usage)
        },
        |stage| run(&stage),
    ))
}
