//! A running program as the supervisor knows it: from the reports of its guardian.

use std::fmt;
use std::io;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(target_os = "linux")]
use worker::DrainReport;

use super::check::{Beat, CheckKind};
use super::observed::{AtItsEnd, Listener, Observed, Said, Step};
use super::output::Output;
use super::program::{CannotStart, Program};
#[cfg(target_os = "linux")]
use super::queue::Watch;
use super::rotation::Rotation;
use crate::event::EventSender;
use crate::journal::Journal;
use crate::log::Level;
use crate::server::deadline::{Deadline, MOMENT};
use crate::server::program_end::ProgramEnd;
use crate::server::{BuildError, Ended};
use crate::text::{Seconds, milliseconds};

/// How long a program gets between the request to end and KILL if it has to end without a requested stop: because it
/// does not become ready, or no longer works.
pub(super) const UNWANTED: Duration = Duration::from_secs(5);

/// Controls a program through its guardian. No method waits.
pub(super) trait Control: fmt::Debug + Send + Sync {
    /// Asks the program to end, and kills what is left of it after this time; with zero it kills at once, without
    /// asking. A further call only moves the deadline.
    fn stop(&self, within: Duration);
    /// Passes a signal on, of which there may be a flood. Returns whether the program gets it.
    fn signal(&self, signal: i32) -> bool;
    /// Sends a signal that must not get lost in a flood.
    fn tell(&self, signal: i32);
}

/// The state of a program. A thread named `child` keeps it up to date until nothing of the program is left.
#[derive(Debug)]
pub(super) struct Running {
    build: u64,
    control: Box<dyn Control>,
    log: Journal,
    /// Its stderr.
    output: Output,
    rotation: Rotation,
    observed: Mutex<Observed>,
    /// Signaled when nothing of it is left.
    gone: Condvar,
}

impl Running {
    /// `guard` reports what happens to the program, and returns when nothing of it is left.
    pub(super) fn start(
        build: u64,
        program: &Program,
        control: Box<dyn Control>,
        log: Journal,
        output: Output,
        steps: Sender<Step>,
        guard: impl FnOnce(&Running) + Send + 'static,
    ) -> io::Result<Arc<Running>> {
        let observed = Observed::new(program, steps);
        let (rotation, observed) = (Rotation::new(program.rotation), Mutex::new(observed));
        let running = Arc::new(Running { build, control, log, output, rotation, observed, gone: Condvar::new() });
        let writer = running.clone();
        thread::Builder::new().name("child".into()).spawn(move || {
            guard(&writer);
            writer.is_gone();
        })?;
        Ok(running)
    }

    pub(super) fn has_started(&self, pid: u32) {
        let mut observed = self.observed();
        observed.program = Some(pid);
        observed.tell_builder(Step::Started);
    }

    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn cannot_start(&self, why: CannotStart) {
        self.observed().tell_builder(Step::CannotStart(why));
    }

    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn says_ready(&self) {
        self.observed().tell_builder(Step::Ready);
    }

    /// The beats for its check, until it ends or has to end. If the check is a probe, it has to pass once before the
    /// program has proved itself.
    pub(super) fn check(&self, how: &CheckKind) -> Receiver<Beat> {
        let (checked, beats) = mpsc::channel();
        let mut observed = self.observed();
        observed.unproved = match how {
            // It has said that it is ready, and the next message may be due only after that time.
            #[cfg(unix)]
            CheckKind::Notify => None,
            CheckKind::Probe(_) => Some(how.to_string()),
        };
        if observed.end.is_none() && observed.asked.is_none() && !observed.said.stopping {
            observed.checked = Some(checked);
        }
        beats
    }

    /// Records that it has passed its check.
    pub(super) fn works(&self) {
        self.observed().unproved = None;
    }

    /// Passes its message that it works, or does not, to its check.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn says_beat(&self, beat: Beat) {
        if let Some(checked) = &self.observed().checked {
            // The thread of the check may have ended.
            let _ = checked.send(beat);
        }
    }

    /// Records its status message.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn says_status(&self, status: String) {
        self.observed().said.status = Some(status).filter(|status| !status.is_empty());
    }

    /// Records its message that it is about to end. From then on it need not work any more.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn says_stopping(&self) {
        let mut observed = self.observed();
        observed.said.stopping = true;
        observed.checked = None;
    }

    /// Records that the program itself has ended. Processes that it started may be left.
    pub(super) fn has_ended(&self, end: ProgramEnd) {
        let wrote = self.last_words(end);
        self.observed().ended(self.build, end, wrote);
        self.lose_connections();
    }

    /// Tells its connections that it has ended, which calls back into this struct.
    fn lose_connections(&self) {
        let connections = self.observed().connections.take();
        connections.into_iter().for_each(|AtItsEnd(lose)| lose());
    }

    /// Records that its connections have ended, with this result.
    #[cfg(target_os = "linux")]
    pub(super) fn has_drained(&self, report: DrainReport) {
        let mut observed = self.observed();
        observed.drained = Some(report);
        observed.finish(self.build);
    }

    /// The last lines that it wrote to stderr, if they are of interest. Do not hold the lock here: this may take a
    /// moment.
    fn last_words(&self, end: ProgramEnd) -> Vec<String> {
        if end == ProgramEnd::Exited(0) { Vec::new() } else { self.last_lines() }
    }

    /// The last lines that it wrote to stderr, once it has ended.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.output.last_lines()
    }

    /// The last lines that it has written to stderr so far.
    pub(super) fn lines_so_far(&self) -> Vec<String> {
        self.output.lines_so_far()
    }

    /// Waits until nothing of it is left, for at most this time. Returns whether nothing is.
    pub(super) fn wait_until_gone(&self, limit: Duration) -> bool {
        let observed = self.gone.wait_timeout_while(self.observed(), limit, |observed| !observed.gone);
        observed.unwrap_or_else(PoisonError::into_inner).0.gone
    }

    /// Waits until nothing of it is left or it is being killed, for at most this time. Returns whether that is so.
    pub(super) fn wait_until_over(&self, limit: Duration) -> bool {
        self.wait_until_gone(limit) || self.observed().asked.is_some_and(|kill| kill <= Instant::now())
    }

    /// Records how many of its processes had to be killed.
    pub(super) fn all_exited(&self, killed: usize) {
        self.observed().killed = killed;
    }

    /// Records that its guardian and the deputy have ended without reporting that nothing is left, and how many other
    /// processes had to be killed then.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn guardian_lost(&self, killed: usize) {
        let wrote = self.last_words(ProgramEnd::Unguarded);
        {
            let mut observed = self.observed();
            observed.killed = killed;
            if observed.end.is_none() {
                observed.killed += usize::from(observed.program.is_some());
                observed.ended(self.build, ProgramEnd::Unguarded, wrote);
            }
        }
        self.lose_connections();
    }

    /// How it ended, if it has, and how many of its processes had to be killed.
    pub(super) fn became(&self) -> (Option<ProgramEnd>, usize) {
        let observed = self.observed();
        (observed.end, observed.killed)
    }

    /// How it ended.
    pub(super) fn ended(&self) -> Ended {
        let mut observed = self.observed();
        let drain = observed.drained.take().unwrap_or_default();
        Ended { drain, program: observed.end, killed: observed.killed, held_up_by: Vec::new() }
    }

    pub(super) fn build(&self) -> u64 {
        self.build
    }

    /// Its process id, if it has started.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn program(&self) -> Option<u32> {
        self.observed().program
    }

    /// Its process id, while it runs.
    pub(super) fn pid(&self) -> Option<u32> {
        let observed = self.observed();
        observed.program.filter(|_| observed.end.is_none())
    }

    /// What it says about itself, in human-readable form.
    pub(super) fn says(&self) -> Option<String> {
        let observed = self.observed();
        let Said { status, stopping } = &observed.said;
        match (stopping, status) {
            (true, Some(status)) => Some(format!("stopping: {status}")),
            (true, None) => Some("stopping".into()),
            (false, status) => status.clone(),
        }
    }

    /// The check that it has not passed yet, in human-readable form.
    pub(super) fn unproved(&self) -> Option<String> {
        self.observed().unproved.clone()
    }

    /// Whether something of it is left.
    pub(super) fn is_left(&self) -> bool {
        !self.observed().gone
    }

    /// Has the queues of its sockets watched until it ends or has to end.
    #[cfg(target_os = "linux")]
    pub(super) fn watch(&self, queues: Option<Watch>) {
        self.observed().queues = queues;
    }

    /// Ends the watch and closes what it uses: the sockets themselves.
    #[cfg(target_os = "linux")]
    pub(super) fn unwatch(&self) {
        let queues = self.observed().queues.take();
        queues.into_iter().for_each(Watch::end);
    }

    fn is_gone(&self) {
        self.output.settle();
        // They have to be closed before master control learns that the program is gone.
        #[cfg(target_os = "linux")]
        self.unwatch();
        self.lose_connections();
        let mut observed = self.observed();
        observed.gone = true;
        observed.tell_builder(Step::Gone);
        observed.finish(self.build);
        self.gone.notify_all();
    }

    /// From now on its end is a failure, which is reported as soon as master control may receive reports. So is an end
    /// that has already happened, if it `may_have_ended`. If it has to end anyway, its end is not a failure.
    ///
    /// # Errors
    /// When it has ended already.
    pub(super) fn is_ready(&self, may_have_ended: bool) -> Result<(), BuildError> {
        self.observed().is_ready(self.build, may_have_ended)
    }

    /// The same for a program whose connections are relayed; `lose` is called at its end.
    ///
    /// # Errors
    /// When it has ended already.
    #[cfg(target_os = "linux")]
    pub(super) fn is_ready_with(&self, lose: impl FnOnce() + Send + 'static) -> Result<(), BuildError> {
        {
            let mut observed = self.observed();
            // Its end is complete only when its connections have ended.
            observed.drained = None;
            observed.is_ready(self.build, false)?;
            observed.connections = Some(AtItsEnd(Box::new(lose)));
            if observed.end.is_none() {
                return Ok(());
            }
        }
        // It had to end anyway, and has ended.
        self.lose_connections();
        Ok(())
    }

    /// Reports to master control, which now knows about it, all events from now on and those that it has missed.
    pub(super) fn start_reporting(&self, events: &EventSender) {
        let mut observed = self.observed();
        if let Listener::Later(missed) = &mut observed.listener {
            let missed = std::mem::take(missed);
            observed.listener = Listener::MasterControl(events.clone());
            for event in missed {
                observed.tell(event);
            }
        }
    }

    /// Ends it without a requested stop: it gets a while to react, unless its time ends sooner anyway. That is not a
    /// failure.
    pub(super) fn end(&self) {
        let kill = Deadline::after(Instant::now(), UNWANTED);
        if !self.observed().is_killed_by(kill) {
            self.stop_by(kill);
        }
    }

    /// The same, for this reason.
    pub(super) fn end_because(&self, why: &str) {
        self.log_request(why);
        self.end();
    }

    /// Makes it fail for this reason. A program that was already asked to end has had its time, and is killed after a
    /// moment: its guardian may have given it that much after a standstill. One that is being killed already is unaffected.
    pub(super) fn give_up(&self, why: &str) {
        {
            let mut observed = self.observed();
            if observed.asked.is_some() {
                drop(observed);
                return self.control.stop(MOMENT);
            }
            if observed.given_up.is_some() {
                return;
            }
            observed.given_up = Some(why.to_owned());
            observed.checked = None;
        }
        self.log_request(why);
        self.control.stop(UNWANTED);
    }

    /// Logs that it is about to be asked to end, if it still runs.
    fn log_request(&self, why: &str) {
        let program = {
            let observed = self.observed();
            observed.program.filter(|_| observed.end.is_none() && observed.asked.is_none())
        };
        if let Some(pid) = program {
            let message = format!(
                "asking the program (pid {pid}) to end, and killing what is left of it in {}: {why}",
                Seconds(UNWANTED)
            );
            let fields = [("program", pid.into()), ("reason", why.into()), ("kill_ms", milliseconds(UNWANTED).into())];
            self.log.line(Level::Warning, "ending_program", message, fields);
        }
    }

    /// Whether the program itself has ended.
    #[cfg(target_os = "linux")]
    pub(super) fn is_over(&self) -> bool {
        self.observed().end.is_some()
    }

    /// Sends a signal to it. Returns whether it gets the signal.
    pub(super) fn signal(&self, signal: i32) -> bool {
        self.control.signal(signal)
    }

    /// Takes it out of rotation, or puts it back.
    pub(super) fn set_in_rotation(&self, in_rotation: bool) {
        self.rotation.set(in_rotation, |signal| self.control.tell(signal));
    }

    /// Asks it to end, and kills it at this time. That is not a failure.
    pub(super) fn stop_by(&self, kill: Deadline) {
        let within = kill.remaining(Instant::now());
        self.observed().ask(within);
        self.control.stop(within);
    }

    /// Whether it is not ready yet. A command never is.
    pub(super) fn has_builder(&self) -> bool {
        self.observed().has_builder()
    }

    /// Asks it to end and releases its builder, if it is not ready yet: all programs have to end.
    pub(super) fn stop_building(&self, kill: Deadline) {
        let within = kill.remaining(Instant::now());
        {
            let mut observed = self.observed();
            if !observed.has_builder() {
                return;
            }
            observed.tell_builder(Step::Stopping);
            if observed.is_killed_by(kill) {
                return;
            }
            observed.ask(within);
        }
        self.control.stop(within);
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        // Each change is a few assignments that cannot panic.
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_program_that_overran_its_deadline_in_a_standstill_is_not_killed_without_a_moment() {
        let control = unguarded::Control::default();
        let (running, _steps, _lives) = unguarded::running(control.clone());
        running.stop_by(Deadline::after(Instant::now(), MOMENT / 10));
        running.give_up("it has overrun its deadline");
        assert_eq!(control.0.lock().unwrap()[1..], [MOMENT]);
    }
}

/// Programs that nothing guards, for tests.
#[cfg(all(test, target_os = "linux"))]
#[allow(clippy::unwrap_used)]
pub(super) mod unguarded {
    use super::super::ready::Ready;
    use super::super::rotation::RotationSignals;
    use super::super::stop_signals::StopSignals;
    use super::*;
    use crate::log::Log;
    use crate::writer::{Sink, Writer};

    /// Remembers the times of all requests to stop.
    #[derive(Debug, Default, Clone)]
    pub(in crate::child) struct Control(pub(in crate::child) Arc<Mutex<Vec<Duration>>>);

    impl super::Control for Control {
        fn stop(&self, within: Duration) {
            self.0.lock().unwrap().push(within);
        }

        fn signal(&self, _signal: i32) -> bool {
            true
        }

        fn tell(&self, _signal: i32) {}
    }

    pub(in crate::child) fn program() -> Program {
        Program {
            program: "server".into(),
            args: Vec::new(),
            directory: None,
            environment: Vec::new(),
            stop: StopSignals::one(15),
            rotation: RotationSignals::default(),
            success: Vec::new(),
            ready: Ready::Auto,
            ready_within: Duration::ZERO,
            overlap: Duration::ZERO,
            check: None,
        }
    }

    /// A program that is gone when the sender is dropped.
    pub(in crate::child) fn running(control: Control) -> (Arc<Running>, Receiver<Step>, Sender<()>) {
        let (output, _) = Output::new(Arc::new(Writer::new(Sink::stderr(), || {}))).unwrap();
        let (steps, received) = mpsc::channel();
        let (lives, ends) = mpsc::channel();
        let log = Journal::new(Log::silent());
        let guard = move |_: &Running| {
            let _ = ends.recv();
        };
        let running = Running::start(1, &program(), Box::new(control), log, output, steps, guard).unwrap();
        (running, received, lives)
    }
}
