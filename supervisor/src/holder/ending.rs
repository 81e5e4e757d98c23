//! Ends the processes that hold a port: with TERM, and after the grace period with KILL.

use std::time::Duration;

use super::find::Process;

/// Receives the processes that are still awaited, and the longest remaining wait.
pub type Show<'a> = &'a dyn Fn(&[&Process], Duration);

/// A process that was asked to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// The process.
    pub process: Process,
    /// What became of it.
    pub end: End,
}

/// What became of a process that was asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It ended after it was asked to.
    Asked,
    /// It had to be killed.
    Killed,
    /// It released the port and is still running.
    LetGo,
}

#[cfg(target_os = "linux")]
pub use linux::Ending;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::Ending;

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;
    use std::io::{self, ErrorKind};
    use std::os::fd::{AsFd, OwnedFd};
    use std::time::{Duration, Instant};

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::unistd::geteuid;
    use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
    use worker::deadline_after;

    use super::super::find::{Holder, Process, User, who_has};
    use super::{End, Ended, Show};
    use crate::text::Reason;

    /// How long a killed process may take to end.
    const KILLED: Duration = Duration::from_secs(5);

    /// How often the user sees the remaining time.
    const TICK: Duration = Duration::from_secs(1);

    /// Ends all processes that hold these sockets, including those that get them in the meantime, such as new workers
    /// of a server.
    #[derive(Debug)]
    pub struct Ending {
        port: u16,
        sockets: HashSet<u64>,
        known: Vec<Known>,
        /// How many times newly found processes have been asked to end.
        rounds: u32,
        /// If there was more than one round, a process that is found after this time is not asked any more. None: no
        /// process has been asked yet.
        last: Option<Instant>,
    }

    /// A process that holds a socket, or held one.
    #[derive(Debug)]
    struct Known {
        process: Process,
        /// A handle to the process itself: another process may have its number by now.
        handle: OwnedFd,
        asked: Asked,
        ended: bool,
    }

    /// What has been done to a process.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Asked {
        Nothing,
        /// It has got TERM, and has until then to end.
        ToEnd {
            until: Instant,
        },
        /// It has got TERM, and has released the port in its time. It is not awaited any more.
        LetGo,
        /// It has got KILL.
        Killed {
            at: Instant,
        },
    }

    impl Ending {
        /// Opens handles to these processes, which stay valid even if their numbers are reused. Does nothing to them
        /// yet.
        ///
        /// # Errors
        /// A message for people when one of them is not to be ended, or cannot be. Then it is `PermissionDenied` if it
        /// is another user's or cannot be seen.
        pub fn new(port: u16, holders: &[Holder]) -> io::Result<Ending> {
            let mut ending = Ending { port, sockets: HashSet::new(), known: Vec::new(), rounds: 0, last: None };
            for Holder { user, process, socket, .. } in holders {
                let Some(process) = process else {
                    return Err(io::Error::new(ErrorKind::PermissionDenied, hidden(port, *user)));
                };
                if let Some(owner) = user.filter(|owner| owner.is_foreign()) {
                    return Err(ending.refused(process, &format!(", on a socket of {owner}: run this as root")));
                }
                ending.sockets.insert(*socket);
            }
            let processes: Vec<Process> = holders.iter().filter_map(|holder| holder.process.clone()).collect();
            ending.learn(&processes)?;
            Ok(ending)
        }

        /// Asks all of them to end, and kills those that still hold the port after the grace period. Returns when they
        /// have ended, or at the end of the grace period if they have released the port by then. `show` receives each
        /// second which processes this waits for, and for how long.
        ///
        /// # Errors
        /// A message for people; `TimedOut` when one that was killed does not end.
        pub fn run(mut self, grace: Duration, show: Option<Show<'_>>) -> io::Result<Vec<Ended>> {
            loop {
                let mut holding = self.look()?;
                if self.learn(&holding)? {
                    // Only a process that still holds a socket once its handle is open is certain to be the one that
                    // was seen.
                    holding = self.look()?;
                }
                if !self.ask(&holding, grace)? {
                    break;
                }
                if let Some(until) = self.deadline() {
                    self.wait(until, show.filter(|_| !self.is_killing()))?;
                }
                self.give_up()?;
            }
            Ok(self.known.into_iter().filter_map(Known::outcome).collect())
        }

        /// The processes that hold one of the sockets now.
        fn look(&self) -> io::Result<Vec<Process>> {
            Ok(who_has(&self.sockets)?.into_iter().map(|(process, _)| process).collect())
        }

        /// Opens handles to the processes that are not known yet. Returns whether there are any.
        fn learn(&mut self, processes: &[Process]) -> io::Result<bool> {
            self.see_ends(Duration::ZERO)?;
            let mut learnt = false;
            for process in processes {
                if self.knows(process.pid) {
                    continue;
                }
                self.check(process)?;
                // Every process has a valid number.
                let Some(pid) = process.pid.try_into().ok().and_then(Pid::from_raw) else { continue };
                match pidfd_open(pid, PidfdFlags::empty()) {
                    Ok(handle) => {
                        let process = process.clone();
                        self.known.push(Known { process, handle, asked: Asked::Nothing, ended: false });
                        learnt = true;
                    }
                    // It has ended meanwhile.
                    Err(rustix::io::Errno::SRCH) => {}
                    Err(rustix::io::Errno::NOSYS) => {
                        let message = format!("cannot end {process}: that takes Linux 5.3 or newer; `kill` can do it");
                        return Err(io::Error::new(ErrorKind::Unsupported, message));
                    }
                    Err(error) => return Err(failed(process, &error.into())),
                }
            }
            Ok(learnt)
        }

        fn knows(&self, pid: u32) -> bool {
            self.known.iter().any(|known| known.process.pid == pid && !known.ended)
        }

        /// Whether a process may be ended.
        fn check(&self, process: &Process) -> io::Result<()> {
            if process.pid == std::process::id() {
                let why = ": that is this very command, which was started with that socket open";
                Err(io::Error::other(self.held_by(process, why)))
            } else if process.pid == 1 || process.name == "systemd" {
                // Everything else would end with it.
                Err(self.refused(process, ", which manages others: use its own means to release the port"))
            } else if process.user.is_foreign() {
                Err(self.refused(process, ": run this as root"))
            } else if let [_, .., supervisor] = process.keepers()[..] {
                let why = format!(
                    ", the program of a supervisor (pid {supervisor}) that would start it again: stop that one, with \
                     `admin-cli --socket`, its own terminal or `kill {supervisor}`"
                );
                Err(io::Error::other(self.held_by(process, &why)))
            } else {
                Ok(())
            }
        }

        fn refused(&self, process: &Process, why: &str) -> io::Error {
            io::Error::new(ErrorKind::PermissionDenied, self.held_by(process, why))
        }

        fn held_by(&self, process: &Process, why: &str) -> String {
            format!("port {} is held by {process}{why}", self.port)
        }

        /// Asks the processes that hold a socket to end, and kills those whose time is over. Each has the whole grace
        /// period from the moment when it is asked, because finding the holders of a socket can take longer than the
        /// grace period. Only if a server keeps starting processes as fast as they end are its processes killed at
        /// once, after twice the grace period and not before their third round. Returns whether there are any processes
        /// to wait for.
        fn ask(&mut self, holding: &[Process], grace: Duration) -> io::Result<bool> {
            let too_late = self.rounds > 1 && self.last.is_some_and(|last| last <= Instant::now());
            self.last.get_or_insert_with(|| deadline_after(Instant::now(), grace.saturating_mul(2)));
            let (mut asked, mut is_round) = (false, false);
            for known in self.known.iter_mut().filter(|known| !known.ended) {
                if !holding.iter().any(|process| process.pid == known.process.pid) {
                    known.let_go();
                    continue;
                }
                match known.asked {
                    Asked::Nothing if !grace.is_zero() && !too_late => {
                        known.send(Signal::TERM)?;
                        is_round = true;
                        known.asked = Asked::ToEnd { until: deadline_after(Instant::now(), grace) };
                    }
                    Asked::ToEnd { until } if Instant::now() < until => {}
                    Asked::Nothing | Asked::ToEnd { .. } | Asked::LetGo => {
                        known.send(Signal::KILL)?;
                        known.asked = Asked::Killed { at: Instant::now() };
                    }
                    Asked::Killed { .. } => {}
                }
                asked = true;
            }
            self.rounds += u32::from(is_round);
            Ok(asked)
        }

        /// Waits until all processes that have been asked have ended, or if any has been killed, all that have been
        /// killed; or until this time.
        fn wait(&mut self, until: Instant, show: Option<Show<'_>>) -> io::Result<()> {
            // Once all that have been killed have ended, the others have their own deadlines.
            let killing = self.is_killing();
            loop {
                self.see_ends(Duration::ZERO)?;
                let awaited: Vec<&Process> = self.awaited(killing).map(|known| &known.process).collect();
                let left = until.saturating_duration_since(Instant::now());
                if awaited.is_empty() || left.is_zero() {
                    return Ok(());
                }
                if let Some(show) = show {
                    show(&awaited, left);
                }
                // The timeout is truncated to whole milliseconds.
                let left = left + Duration::from_millis(1);
                self.see_ends(if show.is_some() { left.min(TICK) } else { left })?;
            }
        }

        fn living(&self) -> impl Iterator<Item = &Known> {
            self.known.iter().filter(|known| !known.ended)
        }

        fn is_killing(&self) -> bool {
            self.living().any(|known| matches!(known.asked, Asked::Killed { .. }))
        }

        /// The earliest deadline of the processes that are awaited.
        fn deadline(&self) -> Option<Instant> {
            let until = |known: &Known| match known.asked {
                Asked::Nothing | Asked::LetGo => None,
                Asked::ToEnd { until } => Some(until),
                Asked::Killed { at } => Some(at + KILLED),
            };
            self.awaited(self.is_killing()).filter_map(until).min()
        }

        fn awaited(&self, killing: bool) -> impl Iterator<Item = &Known> {
            self.living().filter(move |known| match known.asked {
                Asked::Nothing | Asked::LetGo => false,
                Asked::ToEnd { .. } => !killing,
                Asked::Killed { .. } => true,
            })
        }

        /// Waits until one of them ends, for at most this time.
        fn see_ends(&mut self, limit: Duration) -> io::Result<()> {
            let mut living: Vec<&mut Known> = self.known.iter_mut().filter(|known| !known.ended).collect();
            let handles = living.iter().map(|known| PollFd::new(known.handle.as_fd(), PollFlags::POLLIN));
            let mut handles: Vec<_> = handles.collect();
            match poll(&mut handles, PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX)) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let ended: Vec<bool> = handles.iter().map(|handle| handle.any() == Some(true)).collect();
            for (known, ended) in living.iter_mut().zip(ended) {
                known.ended = ended;
            }
            Ok(())
        }

        /// Fails if one that was killed has not ended in the time that it may take.
        fn give_up(&self) -> io::Result<()> {
            let is_kept = |known: &&Known| matches!(known.asked, Asked::Killed { at } if at.elapsed() >= KILLED);
            match self.living().find(is_kept) {
                Some(Known { process, .. }) => {
                    let message = format!("{process} was killed and does not end: the system keeps it");
                    Err(io::Error::new(ErrorKind::TimedOut, message))
                }
                None => Ok(()),
            }
        }
    }

    impl Known {
        fn send(&self, signal: Signal) -> io::Result<()> {
            let send = |signal| match pidfd_send_signal(&self.handle, signal) {
                // It has ended meanwhile.
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(failed(&self.process, &error.into())),
            };
            send(signal)?;
            // A suspended process could not end.
            send(Signal::CONT)
        }

        /// Notes that it holds no socket now. Until its time is over, it may still end, and the outcome says so.
        fn let_go(&mut self) {
            if let Asked::ToEnd { until } = self.asked
                && until <= Instant::now()
            {
                self.asked = Asked::LetGo;
            }
        }

        fn outcome(self) -> Option<Ended> {
            let end = match (self.ended, self.asked) {
                (_, Asked::Nothing) => return None,
                (false, _) => End::LetGo,
                (true, Asked::ToEnd { .. } | Asked::LetGo) => End::Asked,
                (true, Asked::Killed { .. }) => End::Killed,
            };
            Some(Ended { process: self.process, end })
        }
    }

    fn failed(process: &Process, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("cannot end {process}: {}", Reason(error)))
    }

    fn hidden(port: u16, user: Option<User>) -> String {
        let whose = user.map(|user| format!(" of {user}")).unwrap_or_default();
        let advice = if geteuid().is_root() {
            "it is in another container, or the system's own"
        } else {
            "it is another user's, has privileges, or is in another container; run this as root"
        };
        format!("port {port} is held by a process{whose} that cannot be seen from here: {advice}")
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    mod tests {
        use std::cell::RefCell;
        use std::os::unix::process::ExitStatusExt;
        use std::process::{Child, Command};

        use super::*;

        fn sleeping() -> (Child, Process) {
            let child = Command::new("sleep").arg("600").spawn().unwrap();
            let user = User(geteuid().as_raw());
            let process = Process { pid: child.id(), name: "sleep".into(), command: String::new(), user };
            (child, process)
        }

        fn ending(rounds: u32, last: Option<Instant>) -> Ending {
            Ending { port: 1, sockets: HashSet::new(), known: Vec::new(), rounds, last }
        }

        #[test]
        fn who_is_found_late_is_asked_first_unless_others_were_found_twice_before() {
            for (rounds, ends_by) in [(0, Signal::TERM), (1, Signal::TERM), (2, Signal::KILL)] {
                let (mut child, process) = sleeping();
                let mut ending = ending(rounds, Some(Instant::now()));
                ending.learn(std::slice::from_ref(&process)).unwrap();
                assert!(ending.ask(&[process], Duration::from_secs(600)).unwrap());
                assert_eq!(child.wait().unwrap().signal(), Some(ends_by.as_raw()));
            }
        }

        #[test]
        fn a_process_that_has_let_go_in_its_time_is_not_awaited_while_another_one_is() {
            let ((mut first, draining), (second, holding)) = (sleeping(), sleeping());
            let mut ending = ending(1, None);
            ending.learn(&[draining, holding.clone()]).unwrap();
            let (over, until) = (Instant::now(), Instant::now() + Duration::from_secs(600));
            for (known, until) in ending.known.iter_mut().zip([over, until]) {
                known.asked = Asked::ToEnd { until };
            }
            assert!(ending.ask(std::slice::from_ref(&holding), Duration::from_secs(600)).unwrap());
            let deadline = ending.deadline();
            let (second, shown) = (RefCell::new(second), RefCell::new(Vec::new()));
            let show = |awaited: &[&Process], _| {
                shown.borrow_mut().push(awaited.iter().copied().cloned().collect::<Vec<_>>());
                second.borrow_mut().kill().unwrap();
            };
            ending.wait(deadline.unwrap(), Some(&show)).unwrap();
            for child in [&mut first, &mut second.into_inner()] {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            assert_eq!(deadline, Some(until));
            let shown = shown.into_inner();
            assert!(!shown.is_empty() && shown.iter().all(|awaited| *awaited == [holding.clone()]), "{shown:?}");
        }

        #[test]
        fn the_wait_for_killed_processes_is_over_when_they_have_ended_though_another_one_has_time_left() {
            let ((mut first, killed), (mut second, asked)) = (sleeping(), sleeping());
            let mut ending = ending(1, None);
            ending.learn(&[killed.clone(), asked]).unwrap();
            ending.known[1].asked = Asked::ToEnd { until: Instant::now() + Duration::from_secs(600) };
            assert!(ending.ask(&[killed], Duration::ZERO).unwrap());
            let until = ending.deadline().unwrap();
            ending.wait(until, None).unwrap();
            let is_in_time = Instant::now() < until;
            for child in [&mut first, &mut second] {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            assert!(is_in_time && ending.known[0].ended);
        }

        #[test]
        fn each_killed_process_has_the_whole_time_to_end_however_long_ago_another_one_was_killed() {
            let mut ending = ending(0, None);
            for _ in 0..2 {
                let (mut child, process) = sleeping();
                ending.learn(std::slice::from_ref(&process)).unwrap();
                assert!(ending.ask(&[process], Duration::ZERO).unwrap());
                ending.give_up().unwrap();
                let until = ending.deadline().unwrap();
                assert!(until > Instant::now());
                ending.wait(until, None).unwrap();
                ending.give_up().unwrap();
                child.wait().unwrap();
                let Some(Known { asked: Asked::Killed { at }, .. }) = ending.known.last_mut() else {
                    panic!("{ending:?}")
                };
                *at -= KILLED;
            }
            assert!(ending.known.into_iter().all(|known| known.outcome().unwrap().end == End::Killed));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod elsewhere {
    use std::convert::Infallible;
    use std::io;
    use std::time::Duration;

    use super::super::find::Holder;
    use super::{Ended, Show};

    /// Where the system does not show which process holds a port, no process is ended.
    #[derive(Debug)]
    pub struct Ending(Infallible);

    impl Ending {
        /// Returns an error that says how to do it by hand.
        ///
        /// # Errors
        /// Always.
        pub fn new(port: u16, _holders: &[Holder]) -> io::Result<Ending> {
            let (names, ends) = if cfg!(windows) {
                ("netstat -ano".to_owned(), "taskkill /F /PID")
            } else {
                (format!("lsof -nP -iTCP:{port} -sTCP:LISTEN"), "kill")
            };
            let message = format!(
                "port {port} is held by a program that is no supervisor of yours, and this system does not tell \
                 here which one: `{names}` names it, and `{ends}` ends it"
            );
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        }

        /// Cannot be called.
        ///
        /// # Errors
        /// None.
        pub fn run(self, _grace: Duration, _show: Option<Show<'_>>) -> io::Result<Vec<Ended>> {
            match self.0 {}
        }
    }
}
