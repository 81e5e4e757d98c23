//! What can be done with processes, and std cannot do.

use std::fs;
use std::io;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, kill_process_group};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use signal_hook::flag;

use crate::server::program_end::ProgramEnd;
use crate::triggers::signals::passed_on;

/// The signal of this number. None: there is none that can be sent.
#[cfg(target_os = "linux")]
pub(super) fn signal(number: i32) -> Option<Signal> {
    use rustix_libc_wrappers::process::SignalExt;
    Signal::from_raw(number)
}

/// The same, where none is beyond those that have names.
#[cfg(not(target_os = "linux"))]
pub(super) fn signal(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

/// Sends a signal to a child that has not been waited for, so that its number is still its own.
pub(super) fn tell(child: Pid, signal: Signal) {
    // It has ended, or it has got a privilege, and there is nothing else to be done.
    let _ = kill_process(child, signal);
}

/// The same to a whole group, in which such a child is.
pub(super) fn tell_group(group: Pid, signal: Signal) {
    let _ = kill_process_group(group, signal);
}

/// Asks a process to end. One that is suspended could not.
pub(super) fn ask(process: Pid, signal: Signal) {
    tell(process, signal);
    tell(process, Signal::CONT);
}

/// The same for a whole group.
pub(super) fn ask_group(group: Pid, signal: Signal) {
    tell_group(group, signal);
    tell_group(group, Signal::CONT);
}

/// What a look for ended children finds.
#[derive(Debug)]
pub(super) enum Reaped {
    Ended(Pid, ProgramEnd),
    /// A signal has suspended it. SIGCONT continues it.
    Suspended(Pid, i32),
    /// There are children, and none of them has ended.
    NoneYet,
    /// There is no child.
    NoChild,
}

/// Takes the end of any child, or hears that it was suspended.
pub(super) fn reap() -> Reaped {
    wait_for_any(WaitOptions::NOHANG | WaitOptions::UNTRACED)
}

/// The same, and waits for it.
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

/// Closes what was left open for this process without a purpose, from this descriptor on. It has to come before this
/// process opens anything itself.
pub(super) fn close_from(first: i32) {
    let directory = if cfg!(target_os = "linux") { "/proc/self/fd" } else { "/dev/fd" };
    let Ok(entries) = fs::read_dir(directory) else { return };
    let open: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|&fd| fd >= first)
        .collect();
    for fd in open {
        // One of them was the directory's.
        let _ = nix::unistd::close(fd);
    }
}

/// Closes the sockets that were passed on, from 3 up to, and not including, this one.
pub(super) fn close_up_to(first_free: i32) {
    for fd in super::stage::FIRST..first_free {
        let _ = nix::unistd::close(fd);
    }
}

/// A signal that is sent to every process with the name of the supervisor is meant for the supervisor. As handlers, and
/// not as ignored signals, these are not inherited by the program.
pub(super) fn outlive_signals() -> io::Result<()> {
    let unused = Arc::default();
    for signal in [SIGHUP, SIGINT, SIGQUIT, SIGTERM].into_iter().chain(passed_on()) {
        flag::register(signal, Arc::clone(&unused))?;
    }
    Ok(())
}

/// The orphans of the program's family become our children, whatever group or session they are in.
#[cfg(target_os = "linux")]
pub(super) fn adopt_orphans() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}
