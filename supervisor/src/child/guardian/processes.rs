//! Operations on processes that std does not have.

use std::fs;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

use crate::server::program_end::ProgramEnd;
use crate::triggers::signals::passed_on;

/// The signal with this number. None: no such signal can be sent.
#[cfg(target_os = "linux")]
pub(super) fn signal(number: i32) -> Option<Signal> {
    use rustix_libc_wrappers::process::SignalExt;
    Signal::from_raw(number)
}

/// The same on systems that have only named signals.
#[cfg(not(target_os = "linux"))]
pub(super) fn signal(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

/// Sends a signal to a child that has not been reaped, so its number cannot belong to another process.
pub(super) fn tell(child: Pid, signal: Signal) {
    // If this fails, the child has ended or has gained privileges, and nothing else can be done.
    let _ = kill_process(child, signal);
}

/// The same for a whole group that contains such a child.
pub(super) fn tell_group(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

/// Asks a process to end. SIGCONT follows because a suspended process could not end.
pub(super) fn ask(process: Pid, signal: Signal) {
    tell(process, signal);
    tell(process, Signal::CONT);
}

/// The same for a whole group.
pub(super) fn ask_group(group: Pid, signal: Signal) {
    tell_group(group, signal);
    tell_group(group, Signal::CONT);
}

/// The result of looking for ended children.
#[derive(Debug)]
pub(super) enum Reaped {
    Ended(Pid, ProgramEnd),
    /// A signal has suspended it; SIGCONT resumes it.
    Suspended(Pid, i32),
    /// There are children, but none has ended.
    NoneYet,
    /// There are no children.
    NoChild,
}

/// Reaps any child that has ended, or learns that one was suspended. Does not wait.
pub(super) fn reap() -> Reaped {
    wait_for_any(WaitOptions::NOHANG | WaitOptions::UNTRACED)
}

/// The same, but waits.
#[cfg(target_os = "linux")]
pub(super) fn wait() -> Reaped {
    wait_for_any(WaitOptions::UNTRACED)
}

fn wait_for_any(options: WaitOptions) -> Reaped {
    loop {
        match rustix::process::wait(options) {
            Ok(Some((pid, status))) => {
                if let Some(end) = end_of(status) {
                    return Reaped::Ended(pid, end);
                }
                if let Some(signal) = status.stopping_signal() {
                    return Reaped::Suspended(pid, signal);
                }
            }
            Ok(None) => return Reaped::NoneYet,
            Err(Errno::INTR) => {}
            Err(_) => return Reaped::NoChild,
        }
    }
}

fn end_of(status: WaitStatus) -> Option<ProgramEnd> {
    let exited = status.exit_status().map(ProgramEnd::Exited);
    exited.or_else(|| status.terminating_signal().map(ProgramEnd::Signaled))
}

/// Closes all inherited descriptors from this one on, which were left open by accident. Call it before this process
/// opens anything itself.
pub(super) fn close_from(first: i32) {
    let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let Ok(entries) = fs::read_dir(directory) else { return };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd >= first)
        .collect();
    for fd in open {
        // One of them is that of the directory, which is closed already.
        let _ = nix::unistd::close(fd);
    }
}

/// Closes the sockets that were passed on: from 3 up to, but not including, this descriptor.
pub(super) fn close_up_to(first_free: i32) {
    for fd in super::stage::FIRST..first_free {
        let _ = nix::unistd::close(fd);
    }
}

/// Survives signals that are sent to every process with the supervisor's name: they are meant for the supervisor.
/// Unlike ignored signals, handlers are not inherited by the program.
pub(super) fn outlive_signals() -> io::Result<()> {
    let unused = Arc::default();
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().chain(passed_on()) {
        flag::register(signal, Arc::clone(&unused))?;
    }
    Ok(())
}

/// Makes orphaned descendants of the program our children, whatever their group or session.
#[cfg(target_os = "linux")]
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}
