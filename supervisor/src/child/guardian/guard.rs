//! The guardian: a small process between the supervisor and the program of one generation. All processes that the
//! program starts stay below it, so it knows when none is left; and it outlives the supervisor long enough to clean up.
//!
//! It talks to the supervisor through its stdin, a socket; see [`super::line`].

mod descendants;
mod program;
mod supervisor;

use std::collections::VecDeque;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::SigSet;
use rustix::process::{Pid, Signal};
use signal_hook::consts::SIGCHLD;
use signal_hook::low_level;

use super::line::{Order, Report};
use super::notify;
use super::processes::{self, Reaped};
use super::stage::{self, Stage};
use crate::child::stop_signals::{StopSignals, StopTo};
use crate::server::deadline::{LastMoment, MOMENT};
use crate::server::program_end::ProgramEnd;
use crate::text::Reason;

use descendants::Descendants;
use program::Program;
use supervisor::Supervisor;

/// How long the processes that a program leaves behind get to end when it ends by itself. The next generation may be
/// waiting for that, and no grace period was asked for.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// How often to look for processes to kill, in addition to each time one is gone: a process in the middle of a fork can
/// be missed.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// Starts the program and guards it to its end.
pub(super) fn run(stage: &Stage) -> ExitCode {
    processes::close_from(stage.first_free());
    let end = Guardian::start(stage).and_then(Guardian::guard);
    // The supervisor removes it, too, but may be gone.
    notify::remove_own();
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            stage::complain(&format!("the guardian of {} failed: {}", stage.program.display(), Reason(&error)));
            ExitCode::FAILURE
        }
    }
}

#[derive(Debug)]
struct Guardian {
    supervisor: Supervisor,
    /// Becomes readable when a child has ended.
    ended: UnixStream,
    program: Program,
    /// How the program is asked to end. None: no stop was requested.
    asked: Option<Asked>,
    /// When all remaining processes are killed.
    deadline: Option<Instant>,
    last_moment: LastMoment,
    /// The latest time at which the processes left behind are killed, if no stop was requested.
    leftovers: Option<Instant>,
    killing: bool,
    descendants: Descendants,
}

/// A stop.
#[derive(Debug)]
struct Asked {
    to: StopTo,
    /// The current signal.
    signal: Signal,
    /// The signals that follow, and how long before the deadline each is due.
    later: VecDeque<(Signal, Duration)>,
    /// How much time the stop gives.
    within: Duration,
}

impl Guardian {
    fn start(stage: &Stage) -> io::Result<Guardian> {
        let supervisor = Supervisor::on_stdin()?;
        #[cfg(target_os = "linux")]
        processes::adopt_orphans()?;
        #[cfg(target_os = "linux")]
        rustix::thread::set_name(c"guardian")?;
        SigSet::empty().thread_set_mask()?;
        processes::outlive_signals()?;
        let (ended, wake) = UnixStream::pair()?;
        ended.set_nonblocking(true)?;
        low_level::pipe::register(SIGCHLD, wake)?;
        let program = Program::start(stage)?;
        // Only the program keeps these sockets now: the port has to be free when it has ended.
        processes::close_up_to(stage.first_free());
        Ok(Guardian {
            supervisor,
            ended,
            program,
            asked: None,
            deadline: None,
            last_moment: LastMoment::default(),
            leftovers: None,
            killing: false,
            descendants: Descendants::default(),
        })
    }

    /// Returns when nothing is left to guard.
    fn guard(mut self) -> io::Result<()> {
        loop {
            if self.reap() {
                self.supervisor.tell(&Report::Gone { killed: self.descendants.kills });
                return Ok(());
            }
            self.killing |= self.is_time_to_kill();
            if self.killing {
                self.descendants.kill(&self.program);
            } else if self.advance() {
                self.ask();
            }
            self.wait()?;
            for order in self.supervisor.requests() {
                self.obey(order);
            }
            if self.supervisor.gone {
                self.killing = true;
            }
        }
    }

    /// Whether the deadline has been reached.
    fn is_time_to_kill(&mut self) -> bool {
        let now = Instant::now();
        let Some(deadline) = self.deadline else { return false };
        let deadline = self.last_moment.instead_of(deadline, now).unwrap_or(deadline);
        self.deadline = Some(deadline);
        deadline <= now
    }

    /// Waits until something happens or the deadline is reached.
    fn wait(&mut self) -> io::Result<()> {
        // Except on Linux, nothing announces the end of descendants that are not children.
        let looks = self.killing || (cfg!(not(target_os = "linux")) && self.program.ended);
        let timeout = match self.deadline {
            _ if looks => PollTimeout::try_from(KILL_AGAIN).unwrap_or(PollTimeout::MAX),
            None => PollTimeout::NONE,
            Some(deadline) => timeout_until(self.next_signal().unwrap_or(deadline)),
        };
        let mut happened = vec![PollFd::new(self.ended.as_fd(), PollFlags::POLLIN)];
        if let Some(launcher) = &self.program.launcher {
            happened.push(PollFd::new(launcher.as_fd(), PollFlags::POLLIN));
        }
        // Its end of file would be reported again and again.
        if !self.supervisor.gone {
            happened.push(PollFd::new(self.supervisor.socket.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut happened, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let at = happened.len() - 1;
        let ordered = !self.supervisor.gone && happened[at].any().unwrap_or(false);
        let launched = self.program.launcher.is_some() && happened[1].any().unwrap_or(false);
        drop(happened);
        // Emptied before the children are examined: one that ends later writes again.
        let mut said = [0; 64];
        while matches!((&self.ended).read(&mut said), Ok(1..)) {}
        if launched {
            self.hear_launcher();
        }
        if ordered {
            self.supervisor.listen();
        }
        Ok(())
    }

    /// Learns, once, whether the launcher has become the program.
    fn hear_launcher(&mut self) {
        if let Some(launcher) = self.program.launcher.take() {
            let refusal = program::refusal(launcher);
            self.program.refused = refusal.is_some();
            self.supervisor.tell(&refusal.unwrap_or(Report::Started(self.program.number())));
            if let Some(asked) = &self.asked
                && !self.killing
            {
                // The program gets the request late.
                let least = Instant::now() + asked.within.min(MOMENT);
                self.deadline = self.deadline.map(|deadline| deadline.max(least));
                self.ask();
            }
            for signal in std::mem::take(&mut self.program.early) {
                self.pass_on(signal);
            }
        }
    }

    /// Reaps all children that have ended. Returns whether nothing is left.
    fn reap(&mut self) -> bool {
        let mut reaped = false;
        let gone = loop {
            match processes::reap() {
                Reaped::Ended(pid, end) => {
                    reaped = true;
                    self.reaped(pid, end);
                }
                Reaped::Suspended(pid, signal) if pid == self.program.pid && !self.program.ended => {
                    let pid = self.program.number();
                    self.supervisor.tell(&Report::Suspended { pid, signal });
                }
                Reaped::Suspended(..) => {}
                Reaped::NoneYet => break false,
                Reaped::NoChild => break self.descendants.is_group_gone(&self.program),
            }
        };
        // The children of an ended process are ours now. Those in another group may not have received the stop signal.
        if reaped && !gone && self.program.ended && !self.killing {
            self.ask_leftovers();
        }
        gone
    }

    fn reaped(&mut self, pid: Pid, end: ProgramEnd) {
        self.descendants.reaped(pid, end);
        if pid != self.program.pid || self.program.ended {
            return;
        }
        self.program.ended = true;
        self.hear_launcher();
        if !self.program.refused {
            self.supervisor.tell(&Report::Ended(end));
        }
        if self.asked.as_ref().is_some_and(|asked| asked.to == StopTo::Group) {
            self.descendants.note_told(self.program.pid);
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Stop { signals, within } => self.stop(&signals, within),
            Order::Signal(signal) => {
                if let Some(signal) = processes::signal(signal) {
                    self.pass_on(signal);
                }
            }
        }
    }

    fn pass_on(&mut self, signal: Signal) {
        if self.program.launcher.is_some() {
            self.program.early.push(signal);
        } else if !self.program.ended {
            processes::tell(self.program.pid, signal);
        }
    }

    fn stop(&mut self, signals: &StopSignals, within: Duration) {
        // An order that follows immediately does not cancel this.
        self.killing |= within.is_zero();
        // A time that the clock cannot represent means never.
        let by = |now: Instant| now.checked_add(within);
        if self.asked.is_some() {
            self.deadline = by(Instant::now());
            return;
        }
        let signal = |signal| processes::signal(signal).unwrap_or(Signal::TERM);
        let later = signals.later.iter().map(|&(later, before)| (signal(later), before)).collect();
        self.asked = Some(Asked { to: signals.to, signal: signal(signals.first), later, within });
        if self.program.ended {
            // The processes that it left behind already have a deadline.
            self.deadline = self.deadline.into_iter().chain(by(Instant::now())).min();
            return;
        }
        self.deadline = by(Instant::now());
        if !within.is_zero() {
            // If the time is short, some signals are due already.
            self.advance();
            self.ask();
            // The time starts when the program has been asked.
            self.deadline = by(Instant::now());
        }
    }

    /// When the next signal is due.
    fn next_signal(&self) -> Option<Instant> {
        let &(_, before) = self.asked.as_ref()?.later.front()?;
        // A time so early that the clock cannot represent it has passed.
        let deadline = self.deadline?;
        Some(deadline.checked_sub(before).unwrap_or_else(Instant::now))
    }

    /// Makes the latest signal that is due the current one. Returns whether it has changed.
    fn advance(&mut self) -> bool {
        let mut advanced = false;
        while self.next_signal().is_some_and(|at| at <= Instant::now()) {
            let Some(asked) = &mut self.asked else { break };
            let Some((signal, _)) = asked.later.pop_front() else { break };
            asked.signal = signal;
            advanced = true;
        }
        advanced
    }

    /// Asks the program, as soon as it runs, to end; or the processes that it has left behind.
    fn ask(&mut self) {
        let Program { pid, ended, ref launcher, .. } = self.program;
        match &self.asked {
            Some(_) if ended => {
                self.descendants.forget_told();
                self.ask_leftovers();
            }
            Some(Asked { to: StopTo::Group, signal, .. }) if launcher.is_none() => processes::ask_group(pid, *signal),
            Some(Asked { to: StopTo::Leader, signal, .. }) if launcher.is_none() => processes::ask(pid, *signal),
            Some(_) | None => {}
        }
    }

    /// Asks the processes that the program has left behind to end. If no stop was requested, each gets its time from
    /// then on, but all of them together get at most twice that.
    fn ask_leftovers(&mut self) {
        let asked = self.descendants.tell_leftovers(&self.program, self.signal());
        if self.asked.is_none() && (asked || self.deadline.is_none()) {
            let now = Instant::now();
            let last = *self.leftovers.get_or_insert(now + 2 * LEFTOVERS);
            self.deadline = Some(last.min(now + LEFTOVERS));
        }
    }

    /// The signal for the remaining processes.
    fn signal(&self) -> Signal {
        self.asked.as_ref().map_or(Signal::TERM, |asked| asked.signal)
    }
}

/// A timeout that lasts at least until then: rounded up.
fn timeout_until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
