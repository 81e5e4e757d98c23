//! The guardian: a small process between the supervisor and the program of one generation. Whatever the program starts
//! stays below it, so it knows when nothing is left; and it outlives the supervisor for as long as it takes to clean
//! up.
//!
//! It talks with the supervisor through its stdin, a socket, see [`super::line`].

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

/// How long what a program leaves behind, when it ends by itself, gets to end, too. The next generation may wait for
/// that, and no grace period was asked for.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// How often to look for what has to be killed, beside whenever one is gone: a process in the middle of a fork can be
/// missed.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// Starts the program and guards it to its end.
pub(super) fn run(stage: &Stage) -> ExitCode {
    processes::close_from(stage.first_free());
    let end = Guardian::start(stage).and_then(Guardian::guard);
    // The supervisor removes it, too. But it may be gone.
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
    /// Says that a child has ended.
    ended: UnixStream,
    program: Program,
    /// How the program is asked to end. None: no end was asked for.
    asked: Option<Asked>,
    /// When all that is left is killed.
    deadline: Option<Instant>,
    last_moment: LastMoment,
    /// When what the program left behind is killed at the latest, if its end was not asked for.
    leftovers: Option<Instant>,
    killing: bool,
    descendants: Descendants,
}

/// A stop.
#[derive(Debug)]
struct Asked {
    to: StopTo,
    /// The signal whose turn it is.
    signal: Signal,
    /// Those that follow, and how long before the deadline.
    later: VecDeque<(Signal, Duration)>,
    /// How long it was to have.
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
        // They are the program's alone now: the port has to be free when that has ended.
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

    /// Returns when nothing is left to be guarded.
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

    /// Whether the deadline has come.
    fn is_time_to_kill(&mut self) -> bool {
        let now = Instant::now();
        let Some(deadline) = self.deadline else { return false };
        let deadline = self.last_moment.instead_of(deadline, now).unwrap_or(deadline);
        self.deadline = Some(deadline);
        deadline <= now
    }

    /// Waits until something happens or the deadline has come.
    fn wait(&mut self) -> io::Result<()> {
        // Elsewhere than on Linux nothing tells the end of those who are no children.
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
        // Its end would be there again and again.
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
        // Only before the children are looked at: one that ends after that says so again.
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

    /// Hears, once, whether the launcher has become the program.
    fn hear_launcher(&mut self) {
        if let Some(launcher) = self.program.launcher.take() {
            let refusal = program::refusal(launcher);
            self.program.refused = refusal.is_some();
            self.supervisor.tell(&refusal.unwrap_or(Report::Started(self.program.number())));
            if let Some(asked) = &self.asked
                && !self.killing
            {
                // It hears of that late.
                let least = Instant::now() + asked.within.min(MOMENT);
                self.deadline = self.deadline.map(|deadline| deadline.max(least));
                self.ask();
            }
            for signal in std::mem::take(&mut self.program.early) {
                self.pass_on(signal);
            }
        }
    }

    /// Takes the ends of all that have ended. Returns whether nothing is left.
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
        // The children of one that has ended are ours now. They may not have heard of a stop, if they are in another
        // group.
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
        // An order that comes right behind this one does not take it back.
        self.killing |= within.is_zero();
        // No time that a clock could count: never.
        let by = |now: Instant| now.checked_add(within);
        if self.asked.is_some() {
            self.deadline = by(Instant::now());
            return;
        }
        let signal = |signal| processes::signal(signal).unwrap_or(Signal::TERM);
        let later = signals.later.iter().map(|&(later, before)| (signal(later), before)).collect();
        self.asked = Some(Asked { to: signals.to, signal: signal(signals.first), later, within });
        if self.program.ended {
            // The processes that it left behind have their time already.
            self.deadline = self.deadline.into_iter().chain(by(Instant::now())).min();
            return;
        }
        self.deadline = by(Instant::now());
        if !within.is_zero() {
            // Some of them are over already if the time is short.
            self.advance();
            self.ask();
            // Its time begins when it has been asked.
            self.deadline = by(Instant::now());
        }
    }

    /// When the next signal is due.
    fn next_signal(&self) -> Option<Instant> {
        let &(_, before) = self.asked.as_ref()?.later.front()?;
        // A time that is longer than the clock counts has begun.
        let deadline = self.deadline?;
        Some(deadline.checked_sub(before).unwrap_or_else(Instant::now))
    }

    /// Makes the latest signal that is due the one whose turn it is. Returns whether it is another one now.
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

    /// Asks the program to end, as soon as it is there, or what it has left behind.
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

    /// Asks what the program has left behind to end. If the end was not asked for, each has its time from then on, but
    /// all of them together not more than twice that.
    fn ask_leftovers(&mut self) {
        let asked = self.descendants.tell_leftovers(&self.program, self.signal());
        if self.asked.is_none() && (asked || self.deadline.is_none()) {
            let now = Instant::now();
            let last = *self.leftovers.get_or_insert(now + 2 * LEFTOVERS);
            self.deadline = Some(last.min(now + LEFTOVERS));
        }
    }

    /// The signal for what is left.
    fn signal(&self) -> Signal {
        self.asked.as_ref().map_or(Signal::TERM, |asked| asked.signal)
    }
}

/// At least until then: rounded up.
fn timeout_until(deadline: Instant) -> PollTimeout {
    let left = deadline.saturating_duration_since(Instant::now()) + Duration::from_micros(999);
    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
}
