//! The deputy of a guardian: the process between the supervisor and a guardian, which takes over when the guardian is
//! killed. All descendants of the guardian are then below the deputy, whatever their group, session or environment. So
//! the deputy kills exactly the processes that the program has started, and no others.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Duration;

use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal};
use signal_hook::consts::SIGCHLD;
use signal_hook::flag;

use super::line::Report;
use super::processes::{self, Reaped};
use super::stage::{self, Stage};
use super::{notify, proc};
use crate::server::program_end::ProgramEnd;
use crate::text::Reason;

/// How often to look for remaining processes. A process in the middle of a fork can be missed.
const LOOK: Duration = Duration::from_millis(10);

/// Starts the guardian and waits for its end.
pub(super) fn run(stage: &Stage) -> ExitCode {
    processes::close_from(stage.first_free());
    match prepare().and_then(|()| start(stage)) {
        Ok(guardian) => {
            // The sockets belong to the program now.
            processes::close_up_to(stage.first_free());
            watch(guardian);
            // The guardian removes it, too, but it may have been killed.
            notify::remove_own();
            ExitCode::SUCCESS
        }
        Err(error) => {
            stage::complain(&format!("the guardian of {} cannot start: {}", stage.program.display(), Reason(&error)));
            ExitCode::FAILURE
        }
    }
}

fn prepare() -> io::Result<()> {
    processes::adopt_orphans()?;
    rustix::thread::set_name(c"deputy")?;
    SigSet::empty().thread_set_mask()?;
    processes::outlive_signals()?;
    // Without a handler this signal may be ignored, and then children could not be waited for.
    flag::register(SIGCHLD, Arc::<AtomicBool>::default())?;
    Ok(())
}

/// Starts the guardian with the same stdin, the socket to the supervisor.
fn start(stage: &Stage) -> io::Result<Pid> {
    let mut command = stage.command(OsStr::new(&stage::own()?), stage::GUARD);
    let guardian = command.arg0("supervisor").process_group(0).spawn()?;
    Ok(Pid::from_child(&guardian))
}

/// Returns when the guardian and everything that it guarded have ended.
fn watch(guardian: Pid) {
    loop {
        match processes::wait() {
            // A suspended guardian would carry out no orders.
            Reaped::Suspended(pid, _) if pid == guardian => processes::tell(guardian, Signal::CONT),
            // It has reported that nothing is left.
            Reaped::Ended(pid, ProgramEnd::Exited(0)) if pid == guardian => return,
            Reaped::Ended(pid, _) if pid == guardian => break,
            Reaped::Ended(..) | Reaped::Suspended(..) | Reaped::NoneYet => {}
            Reaped::NoChild => return,
        }
    }
    report(&Report::Ended(ProgramEnd::Unguarded));
    report(&Report::Gone { killed: kill_all() });
}

/// Sends a report in the guardian's place.
fn report(report: &Report) {
    if let Ok(supervisor) = io::stdin().as_fd().try_clone_to_owned() {
        // The supervisor may be gone, too.
        let _ = writeln!(UnixStream::from(supervisor), "{report}");
    }
}

/// Kills all remaining processes and returns their number. Their own children become ours when they end.
fn kill_all() -> usize {
    let mut killed = 0;
    loop {
        for child in proc::children() {
            processes::tell(child, Signal::KILL);
        }
        loop {
            match processes::reap() {
                Reaped::Ended(_, end) => killed += usize::from(end == ProgramEnd::Signaled(Signal::KILL.as_raw())),
                Reaped::Suspended(..) => {}
                Reaped::NoneYet => break,
                Reaped::NoChild => return killed,
            }
        }
        thread::sleep(LOOK);
    }
}
