//! The reports of a service to the service control manager of Windows: a state and, while a change of state is under
//! way, how long that may take. The part that calls the system is in `windows_service.rs`.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::view::{MARGIN, Phase, View};
use crate::exit::Exit;

/// The longest time that a report to the service manager can contain.
pub(crate) const LONGEST: Duration = Duration::from_millis(u32::MAX as u64);

/// A report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) state: State,
    /// It changes with each report while the same operation is under way. 0: nothing is under way.
    pub(crate) checkpoint: u32,
    /// How long to wait for the next report before the service is considered hung.
    pub(crate) wait_hint: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Starting,
    /// The only state in which the service manager makes requests.
    Running,
    Stopping,
    /// The last state. 0: it stopped as requested; otherwise the exit code of the program.
    Stopped {
        code: i32,
    },
}

impl State {
    /// The final state for the program's exit code. Closing clients by force counts as success, too.
    fn ended(code: i32) -> State {
        State::Stopped { code: if code == Exit::Forced as i32 { Exit::Done as i32 } else { code } }
    }
}

/// Makes the reports of one service, in order.
#[derive(Clone)]
pub(crate) struct Reports(Arc<Mutex<Inside>>);

struct Inside {
    say: Say,
    /// The last reported state, and its latest end.
    told: Option<(State, Option<Instant>)>,
    checkpoint: u32,
    /// The service manager has asked for the stop.
    is_obeying: bool,
}

/// Sends a report.
pub(crate) type Say = Box<dyn FnMut(Report) -> io::Result<()> + Send>;

#[cfg_attr(all(unix, not(test)), allow(dead_code))]
impl Reports {
    pub(crate) fn new(say: Say) -> Reports {
        Reports(Arc::new(Mutex::new(Inside { say, told: None, checkpoint: 0, is_obeying: false })))
    }

    /// Reports what has changed.
    pub(super) fn tell(&self, view: &View, now: Instant) -> io::Result<()> {
        let state = match view.phase {
            Phase::Starting => State::Starting,
            // It keeps serving during a restart.
            Phase::Ready | Phase::Restarting { .. } => State::Running,
            Phase::Stopping => State::Stopping,
        };
        self.lock().report(state, view.deadline, now)
    }

    /// Reports that the process has started, and has done nothing yet.
    pub(crate) fn begin(&self) -> io::Result<()> {
        self.lock().report(State::Starting, None, Instant::now())
    }

    /// Reports at once that a stop requested by the service manager is under way; the manager then makes no other
    /// requests.
    pub(crate) fn obey(&self) -> io::Result<()> {
        let mut inside = self.lock();
        inside.is_obeying = true;
        inside.report(State::Stopping, None, Instant::now())
    }

    /// Reports that the program has ended with this exit code. After a stop that the service manager asked for, any code
    /// is a success: after a failure it would start the service again.
    pub(crate) fn end(&self, code: i32) -> io::Result<()> {
        let mut inside = self.lock();
        let code = if inside.is_obeying { Exit::Done as i32 } else { code };
        inside.report(State::ended(code), None, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // Nothing that could panic runs under this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    fn report(&mut self, state: State, deadline: Option<Instant>, now: Instant) -> io::Result<()> {
        let pending = match state {
            State::Starting | State::Stopping => true,
            State::Running | State::Stopped { .. } => false,
        };
        let next = (state, deadline.filter(|_| pending));
        // Master control made this report just before it learned of the stop.
        let is_outdated = state == State::Running && self.told.is_some_and(|(told, _)| told == State::Stopping);
        if self.told == Some(next) || is_outdated {
            return Ok(());
        }
        let left = next.1.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(now));
        let (checkpoint, wait_hint) =
            if pending { (self.checkpoint + 1, left.saturating_add(MARGIN).min(LONGEST)) } else { (0, Duration::ZERO) };
        (self.say)(Report { state, checkpoint, wait_hint })?;
        (self.told, self.checkpoint) = (Some(next), checkpoint);
        Ok(())
    }
}

impl fmt::Debug for Reports {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Reports").field(&self.lock().told).finish()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc::{self, Receiver};

    use super::*;
    use crate::host::Manager;
    use crate::journal::Journal;
    use crate::log::Log;

    fn service() -> (Reports, Receiver<Report>) {
        let (say, said) = mpsc::channel();
        (Reports::new(Box::new(move |report| say.send(report).map_err(io::Error::other))), said)
    }

    fn view(phase: Phase, deadline: Option<Instant>) -> View {
        View { phase, status: String::new(), deadline }
    }

    /// State, checkpoint, and the wait in seconds.
    fn heard(said: &Receiver<Report>) -> Vec<(State, u32, u64)> {
        said.try_iter().map(|report| (report.state, report.checkpoint, report.wait_hint.as_secs())).collect()
    }

    #[test]
    fn a_service_is_starting_until_it_is_ready_and_runs_while_it_restarts() {
        let (reports, said) = service();
        let mut manager = Manager::of_service(reports.clone(), Journal::new(Log::silent()));
        assert!(manager.listens());
        let now = Instant::now();
        let at = |seconds| Some(now + Duration::from_secs(seconds));
        reports.begin().unwrap();
        for (view, expected) in [
            (view(Phase::Starting, at(30)), &[(State::Starting, 1, 5), (State::Starting, 2, 35)][..]),
            (view(Phase::Starting, at(30)), &[]),
            (view(Phase::Ready, None), &[(State::Running, 0, 0)]),
            (view(Phase::Restarting { build: 2 }, at(10)), &[]),
            (view(Phase::Ready, None), &[]),
            (view(Phase::Stopping, at(20)), &[(State::Stopping, 1, 25)]),
            (view(Phase::Stopping, at(20)), &[]),
            // The clients get more time than can be reported, and then less.
            (view(Phase::Stopping, at(u64::from(u32::MAX))), &[(State::Stopping, 2, LONGEST.as_secs())]),
            (view(Phase::Stopping, at(2)), &[(State::Stopping, 3, 7)]),
        ] {
            manager.tell(view, now);
            assert_eq!(heard(&said), expected);
        }
        reports.end(0).unwrap();
        assert_eq!(heard(&said), [(State::Stopped { code: 0 }, 0, 0)]);
    }

    #[test]
    fn a_stop_that_was_ordered_is_under_way_at_once_and_stays_so() {
        let (reports, said) = service();
        let now = Instant::now();
        let deadline = Some(now + Duration::from_secs(5));
        reports.tell(&view(Phase::Ready, None), now).unwrap();
        reports.obey().unwrap();
        // Master control does not know about the stop yet.
        reports.tell(&view(Phase::Restarting { build: 2 }, None), now).unwrap();
        reports.tell(&view(Phase::Stopping, deadline), now).unwrap();
        let expected = [(State::Running, 0, 0), (State::Stopping, 1, 5), (State::Stopping, 2, 10)];
        assert_eq!(heard(&said), expected);
        reports.end(Exit::Overrun as i32).unwrap();
        assert_eq!(heard(&said), [(State::Stopped { code: 0 }, 0, 0)]);
    }

    #[test]
    fn a_service_that_fails_says_with_which_exit_code_and_one_that_was_stopped_has_not_failed() {
        for (code, told) in [(0, 0), (Exit::Forced as i32, 0), (1, 1), (9, 9), (-1, -1)] {
            let (reports, said) = service();
            reports.end(code).unwrap();
            assert_eq!(heard(&said), [(State::Stopped { code: told }, 0, 0)]);
        }
    }
}
