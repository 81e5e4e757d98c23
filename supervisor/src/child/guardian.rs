//! Programs on Unix.
//!
//! Between the supervisor and the program stands a guardian, a process of this same executable, one for each
//! generation. It starts a launcher, of this same executable, too, which becomes the program. So nothing has to run
//! between `fork` and `exec`, where only unsafe code can be, and there is always a process that cleans up: the guardian
//! when the supervisor is killed, and its deputy when the guardian is. (That stands between the two, and only on Linux,
//! where orphans come to it.)

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

/// If this process was started as one of these, it is one, and then ends with this code. A program that
/// supervises programs calls this first of all, before it has a second thread.
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
