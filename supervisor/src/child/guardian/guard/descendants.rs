//! All processes below a guardian: how they are asked to end, and killed.

use std::collections::HashSet;

use rustix::process::{Pid, Signal};

use super::program::Program;
#[cfg(target_os = "linux")]
use crate::child::guardian::proc;
use crate::child::guardian::processes;
use crate::server::program_end::ProgramEnd;

/// The processes of the program that were signaled.
#[derive(Debug, Default)]
pub(super) struct Descendants {
    /// Processes that were killed and have not been reaped yet.
    killed: HashSet<Pid>,
    /// How many had to be killed.
    pub(super) kills: usize,
    /// Processes that the program left behind, and groups, that have received the current signal.
    told: HashSet<Pid>,
}

impl Descendants {
    /// Records that this process has ended.
    pub(super) fn reaped(&mut self, pid: Pid, end: ProgramEnd) {
        if self.killed.remove(&pid) && end == ProgramEnd::Signaled(Signal::KILL.as_raw()) {
            self.kills += 1;
        }
    }

    /// Records that this group has received the signal already.
    pub(super) fn note_told(&mut self, group: Pid) {
        self.told.insert(group);
    }

    /// Has all of them get the next signal.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
    }

    /// Sends the signal to each remaining child that has not received it, and to its group if that is the program's or
    /// the child's own. Returns whether there were any.
    #[cfg(target_os = "linux")]
    pub(super) fn tell_leftovers(&mut self, program: &Program, signal: Signal) -> bool {
        let mut some = false;
        for child in proc::children() {
            let group = proc::process(child).ok().and_then(|process| Pid::from_raw(process.group));
            if self.told.contains(&child) || group.is_some_and(|group| self.told.contains(&group)) {
                continue;
            }
            some = true;
            match group {
                // The group exists as long as the child has not been reaped, so this number belongs to no other group.
                Some(group) if group == program.pid || group == child => {
                    self.told.insert(group);
                    processes::ask_group(group, signal);
                }
                Some(_) | None => {
                    self.told.insert(child);
                    processes::ask(child, signal);
                }
            }
        }
        some
    }

    /// Kills all children. Their own children become ours when they end, and are killed next.
    #[cfg(target_os = "linux")]
    pub(super) fn kill(&mut self, program: &Program) {
        let mut children = proc::children();
        if children.is_empty() && !program.ended {
            // Without /proc only the program is known.
            children.push(program.pid);
        }
        for child in children {
            if self.killed.insert(child) {
                processes::tell(child, Signal::KILL);
            }
        }
    }

    /// A guardian that adopts no orphans knows only the program's group.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn tell_leftovers(&mut self, program: &Program, signal: Signal) -> bool {
        let is_new = self.told.insert(program.pid);
        if is_new {
            processes::ask_group(program.pid, signal);
        }
        is_new
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn kill(&mut self, program: &Program) {
        self.killed.insert(program.pid);
        processes::tell_group(program.pid, Signal::KILL);
    }

    /// On Linux, all remaining processes are children.
    #[cfg(target_os = "linux")]
    pub(super) fn is_group_gone(&self, _program: &Program) -> bool {
        true
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn is_group_gone(&self, program: &Program) -> bool {
        rustix::process::test_kill_process_group(program.pid).is_err()
    }
}
