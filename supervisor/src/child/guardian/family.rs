//! The processes below the supervisor: the guardians that it starts, and orphans that it adopts.

use std::collections::HashSet;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal};

use super::processes;

/// Knows which of our children are guardians. All others were adopted.
#[derive(Debug, Clone, Default)]
pub(crate) struct Family(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    guardians: HashSet<u32>,
}

impl Family {
    /// From now on, this process adopts the children of a guardian that was killed.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn adopt(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(())
    }

    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // While this lock is held, the new child is not mistaken for an orphan.
        let mut known = self.lock();
        let child = command.spawn()?;
        known.guardians.insert(child.id());
        Ok(child)
    }

    /// Waits for the end of a guardian.
    pub(super) fn wait(&self, mut guardian: Child) {
        // Whatever the result, the guardian is gone.
        let _ = guardian.wait();
        self.lock().guardians.remove(&guardian.id());
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use super::*;
    use std::fs;
    use std::io::Read;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use signal_hook::consts::SIGCHLD;
    use signal_hook::low_level;

    use crate::child::guardian::{proc, stage::MARK};
    use crate::triggers::signals::hear_signals;

    /// How often to look for processes that a killed guardian has left behind. Nothing announces that we have adopted a
    /// child of another process.
    const LOOK: Duration = Duration::from_millis(10);

    /// How many times to look again at processes without an environment, some of which never have one.
    const MORE_LOOKS: u32 = 10;

    impl Family {
        /// Keeps orphans from staying zombies and guardians from staying suspended, on a thread named `orphans`. From
        /// now on, no other code in this process may start a child.
        ///
        /// # Errors
        /// When the system gives no thread or no descriptors.
        pub(crate) fn reap_orphans(&self) -> io::Result<()> {
            let (mut ended, wake) = UnixStream::pair()?;
            low_level::pipe::register(SIGCHLD, wake)?;
            let family = self.clone();
            thread::Builder::new().name("orphans".into()).spawn(move || {
                hear_signals();
                loop {
                    family.reap();
                    let mut said = [0; 64];
                    match ended.read(&mut said) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Ok(1..) => {}
                        Ok(0) | Err(_) => return,
                    }
                }
            })?;
            Ok(())
        }

        fn reap(&self) {
            let known = self.lock();
            for child in proc::children() {
                if known.guardians.contains(&number(child)) {
                    // A suspended guardian would carry out no orders and notice no exits.
                    processes::tell(child, Signal::CONT);
                } else {
                    proc::reap_one(child);
                }
            }
        }

        /// Kills the processes left behind when a guardian and its deputy were both killed, and waits until none of
        /// them remains. Returns how many had to be killed, not counting the program, which dies with its guardian.
        ///
        /// This process may have children that do not belong to its program, such as inherited ones and their
        /// descendants. So it kills only processes whose group or environment shows that they belong to the program.
        pub(in super::super) fn kill_leftovers(&self, mark: &str, program: Option<u32>) -> usize {
            let (mut killed, mut kills, mut more_looks) = (HashSet::new(), 0, MORE_LOOKS);
            loop {
                let (leftovers, is_unclear) = self.leftovers(mark, program);
                for &leftover in leftovers.difference(&killed) {
                    let counts = program != Some(number(leftover)) && !proc::has_ended(leftover);
                    kills += usize::from(counts);
                    processes::tell(leftover, Signal::KILL);
                }
                // The children of a process that ends are adopted a moment later, and found in the next round. Of the
                // processes that may not be known yet, the program is the last.
                if leftovers.is_empty() && killed.is_empty() && !program.is_some_and(is_there) {
                    if !is_unclear || more_looks == 0 {
                        return kills;
                    }
                    more_looks -= 1;
                }
                killed.extend(leftovers);
                killed.retain(|&leftover| !proc::reap_one(leftover));
                thread::sleep(LOOK);
            }
        }

        /// Our children that belong to this generation, and whether others may belong to it: a process that is about to
        /// run a program has no environment for a moment. Their children become ours when they end.
        fn leftovers(&self, mark: &str, program: Option<u32>) -> (HashSet<Pid>, bool) {
            let known = self.lock();
            let mut is_unclear = false;
            let mut is_of_it = |&child: &Pid| {
                is_in_group(child, program) || {
                    let environment = fs::read(format!("/proc/{}/environ", number(child))).unwrap_or_default();
                    is_unclear |= environment.is_empty() && !proc::has_ended(child);
                    is_marked(&environment, mark)
                }
            };
            let children = proc::children().into_iter();
            let others = children.filter(|child| !known.guardians.contains(&number(*child)));
            let leftovers = others.filter(|child| is_of_it(child)).collect();
            (leftovers, is_unclear)
        }
    }

    fn is_there(program: u32) -> bool {
        let process = Pid::from_raw(program.cast_signed()).map(proc::process);
        process.is_some_and(|process| process.is_ok_and(|process| process.group == program.cast_signed()))
    }

    fn number(pid: Pid) -> u32 {
        pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Some programs overwrite their environment, but most stay in their group.
    fn is_in_group(child: Pid, program: Option<u32>) -> bool {
        let group = proc::process(child).map(|process| process.group.unsigned_abs()).ok();
        program.is_some_and(|program| number(child) == program || group == Some(program))
    }

    fn is_marked(environment: &[u8], mark: &str) -> bool {
        let mark = format!("{MARK}={mark}");
        environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes())
    }
}

#[cfg(not(target_os = "linux"))]
impl Family {
    /// On other systems only process 1 adopts orphans, and supervisors of programs do not run as process 1.
    ///
    /// # Errors
    /// None.
    pub(crate) fn reap_orphans(&self) -> io::Result<()> {
        Ok(())
    }

    /// Only the program's group is known.
    pub(super) fn kill_leftovers(&self, _mark: &str, program: Option<u32>) -> usize {
        if let Some(group) = program.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            processes::tell_group(group, Signal::KILL);
        }
        // Their number is unknown.
        0
    }
}
