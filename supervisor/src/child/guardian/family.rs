//! The processes below the supervisor: the guardians that it starts, and what comes to it when its own parents end.

use std::collections::HashSet;
use std::io;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Pid, Signal};

use super::processes;

/// Knows which of our children are guardians. All others have come to us.
#[derive(Debug, Clone, Default)]
pub(crate) struct Family(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    guardians: HashSet<u32>,
}

impl Family {
    /// What is left of a guardian that was killed comes to this process from now on.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn adopt(&self) -> io::Result<()> {
        #[cfg(target_os = "linux")]
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
        Ok(())
    }

    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        // While this is held, the new one is not taken for an orphan.
        let mut known = self.lock();
        let child = command.spawn()?;
        known.guardians.insert(child.id());
        Ok(child)
    }

    /// Waits for a guardian that ends.
    pub(super) fn wait(&self, mut guardian: Child) {
        // Whatever it says: it is gone.
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

    /// How often to look what is left of a guardian that was killed. Nothing announces that the child of another
    /// process is ours now.
    const LOOK: Duration = Duration::from_millis(10);

    /// How often to look again at processes without an environment, of which some have none for good.
    const MORE_LOOKS: u32 = 10;

    impl Family {
        /// Sees to it that no orphan stays a zombie and no guardian suspended, on a thread named `orphans`. From now
        /// on, no other code in this process may start a child.
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
                    // A suspended guardian would carry out no order, and hear of no end.
                    processes::tell(child, Signal::CONT);
                } else {
                    proc::reap_one(child);
                }
            }
        }

        /// Kills what a guardian and its deputy have left that were both killed, and returns when nothing of it is
        /// left: how many had to be killed, beside the program, which dies with its guardian.
        ///
        /// This process may have children that are none of its program's, such as those that it has inherited, and what
        /// these leave behind. So only what shows by its group or its environment that it is the program's is killed.
        pub(in super::super) fn kill_leftovers(&self, mark: &str, program: Option<u32>) -> usize {
            let (mut killed, mut kills, mut more_looks) = (HashSet::new(), 0, MORE_LOOKS);
            loop {
                let (leftovers, is_unclear) = self.leftovers(mark, program);
                for &leftover in leftovers.difference(&killed) {
                    let counts = program != Some(number(leftover)) && !proc::has_ended(leftover);
                    kills += usize::from(counts);
                    processes::tell(leftover, Signal::KILL);
                }
                // The children of a process that ends come here a moment later, and are found in the next round. The
                // program is the last of those that cannot be known by now.
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

        /// Those of our children that are of this generation, and whether others may be: a process that is about to run
        /// a program has no environment for a moment. The children of those become ours when they end.
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

    /// Some programs write over their environment; but most stay in their group.
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
    /// Elsewhere only process 1 gets orphans, and supervisors of programs do not run as that.
    ///
    /// # Errors
    /// None.
    pub(crate) fn reap_orphans(&self) -> io::Result<()> {
        Ok(())
    }

    /// The program's group is what is known of it.
    pub(super) fn kill_leftovers(&self, _mark: &str, program: Option<u32>) -> usize {
        if let Some(group) = program.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
            processes::tell_group(group, Signal::KILL);
        }
        // Their number is unknown.
        0
    }
}
