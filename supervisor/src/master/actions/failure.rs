//! Failures, of a build or of a generation.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::child::{EndedEarly, last_output, was_started};
use crate::error::Error;
use crate::listen;
use crate::log::Level;
use crate::master::Master;
use crate::master::live::Live;
use crate::master::restarts::Restart;
use crate::master::state::{Cause, Preparing, Proving, Rebuilding, Replacing, State, Waiting};
use crate::restart::{self, Decision, RestartPolicy};
use crate::server::deadline::Deadline;
use crate::server::{BuildError, Failure};
use crate::text::{LastWords, Seconds, milliseconds};

impl Master {
    /// The first generation could not be built, so no client has ever been served.
    pub(in crate::master) fn not_started(&mut self, source: BuildError, now: Instant) -> State {
        let program = self.identity.program.clone().filter(|_| was_started(&source));
        self.give_up(Vec::new(), None, Error::Build { program, source }, now)
    }

    /// The next generation could not be built. The current one keeps serving.
    pub(in crate::master) fn not_replaced(
        &mut self,
        current: Live,
        restart: Restart,
        reason: &BuildError,
        now: Instant,
    ) -> State {
        let message =
            format!("restart failed, generation {} keeps serving: {}", current.number, of_new_program(reason));
        let wrote = last_output(reason);
        self.identity.log.line(Level::Error, "restart_failed", &message, [("last_output", json!(wrote))]);
        restart.failed(format!("{message}{}", LastWords(wrote)));
        self.next(current, now)
    }

    /// The next generation did not prove itself. The current one keeps serving.
    pub(in crate::master) fn withdraw(&mut self, proving: Proving, failure: Failure, now: Instant) -> State {
        let Proving { current, next, restart, settings: _, until: _ } = proving;
        let Failure { reason, clean: _, program: _, wrote } = failure;
        let message = format!(
            "restart failed, generation {} keeps serving: generation {} was withdrawn: {reason}",
            current.number, next.number
        );
        let fields = [("withdrawn", next.number.into()), ("last_output", json!(wrote))];
        self.identity.log.line(Level::Error, "restart_failed", &message, fields);
        let deadline = Deadline::after(now, self.settings.grace);
        current.generation.serve_again();
        // It may still be running.
        next.generation.retire_by(deadline, Duration::ZERO);
        self.drains.push(next, "its failure".into(), deadline.at(), now);
        restart.failed(format!("{message}{}", LastWords(&wrote)));
        self.next(current, now)
    }

    /// The next generation could not be built, and there is no current one.
    pub(in crate::master) fn not_rebuilt(
        &mut self,
        rebuilding: Rebuilding,
        reason: &BuildError,
        now: Instant,
    ) -> State {
        let message = format!("the server could not be started: {reason}");
        // A program that ended cleanly has done its work.
        let early = reason.downcast_ref::<EndedEarly>();
        let program = early.map(|early| early.end);
        let failure = match early.filter(|early| early.clean) {
            Some(early) => Failure { reason: early.end.to_string(), clean: true, program, wrote: Vec::new() },
            None => {
                let wrote = last_output(reason).to_vec();
                self.identity.log.line(Level::Error, "restart_failed", &message, [("last_output", json!(wrote))]);
                Failure { reason: format!("it could not be started: {reason}"), clean: false, program, wrote }
            }
        };
        let crash = |ran| restart::Ended { failed: !failure.clean, ran, crashed: true };
        let ended = match rebuilding.cause {
            // A manual try does not change what the policy is about to do.
            Cause::Request { until, .. } => Err(until),
            Cause::Policy => Ok(crash(Duration::ZERO)),
            Cause::Crash { ran, .. } => Ok(crash(ran)),
            Cause::Emptied { .. } => Ok(restart::Ended { crashed: false, ..crash(Duration::ZERO) }),
        };
        let state = match ended {
            Ok(ended) => {
                self.record.ended(self.record.generations + 1, &failure, now);
                self.recover(failure, ended, now)
            }
            Err(until) => self.wait(until, now),
        };
        if let Some(restart) = rebuilding.cause.into_restart() {
            let (nothing_runs, wrote) = (nothing_runs(&state, now), LastWords(last_output(reason)));
            restart.failed(format!("restart failed, {nothing_runs}: {}{wrote}", of_new_program(reason)));
        }
        state
    }

    pub(in crate::master) fn crashed(
        &mut self,
        current: Live,
        restart: Option<Restart>,
        failure: Failure,
        now: Instant,
    ) -> State {
        let (generation, ran) = (current.number, now.saturating_duration_since(current.since));
        self.note_crash(current, &failure, now);
        let reason = format!("{}{}", failure.reason, LastWords(&failure.wrote));
        let ended = restart::Ended { failed: !failure.clean, ran, crashed: true };
        let state = self.recover(failure, ended, now);
        if let Some(restart) = restart {
            let nothing_runs = nothing_runs(&state, now);
            restart.failed(format!("restart failed, generation {generation} crashed, {nothing_runs}: {reason}"));
        }
        state
    }

    /// The current generation crashed while the next one was being built.
    pub(in crate::master) fn crashed_meanwhile(
        &mut self,
        replacing: Replacing,
        failure: Failure,
        now: Instant,
    ) -> State {
        let Replacing { current, restart, since } = replacing;
        let ran = now.saturating_duration_since(current.since);
        self.note_crash(current, &failure, now);
        State::Rebuilding(Rebuilding { cause: Cause::Crash { restart, ran }, since })
    }

    /// The current generation crashed, so nothing has to be stopped for the next one any more.
    pub(in crate::master) fn crashed_before(&mut self, preparing: Preparing, failure: Failure, now: Instant) -> State {
        let Preparing { current, restart, since: _ } = preparing;
        let ran = now.saturating_duration_since(current.since);
        self.note_crash(current, &failure, now);
        State::Rebuilding(Rebuilding { cause: Cause::Crash { restart, ran }, since: self.build(now) })
    }

    /// The current generation crashed. The next one serves already, and has to do so alone.
    pub(in crate::master) fn crashed_beside(&mut self, proving: Proving, failure: Failure, now: Instant) -> State {
        let Proving { current, next, settings, restart, until: _ } = proving;
        self.note_crash(current, &failure, now);
        let current = self.serve(next, settings);
        self.restarted(current, restart, None, now)
    }

    fn note_crash(&mut self, current: Live, failure: &Failure, now: Instant) {
        self.record.crashes += 1;
        self.record.ended(current.number, failure, now);
        self.drains.crash(current, failure, self.settings.grace, now);
        self.hint_at_passed_sockets(failure);
    }

    /// The most likely reason why a program finds its address taken: the supervisor holds it.
    fn hint_at_passed_sockets(&self, failure: &Failure) {
        let finds_it_taken =
            failure.wrote.iter().any(|line| line.to_ascii_lowercase().contains("address already in use"));
        if finds_it_taken && !self.identity.has_clients && !self.identity.addresses.is_empty() {
            let held = listen::in_words(&self.identity.addresses);
            let message = format!(
                "the supervisor holds {held} for the program: does it take passed sockets? If it binds a port itself, \
                 add --relay http or --relay tcp, and let it bind the port in PORT; or leave out --listen"
            );
            self.identity.log.line(Level::Warning, "not_accepted", message, []);
        }
    }

    /// No generation serves: the restart policy decides.
    fn recover(&mut self, failure: Failure, ended: restart::Ended, now: Instant) -> State {
        let decision = self.history.decide(&self.settings.restart, ended, now, restart::chance());
        let Failure { reason, clean, program, wrote: _ } = failure;
        let error = match decision {
            Decision::Wait(wait) => return self.wait(now + wait, now),
            Decision::GiveUp(times) => {
                let RestartPolicy { max_restarts, period, .. } = self.settings.restart;
                Error::CrashedTooOften { times, max_restarts, period, reason }
            }
            Decision::End => Error::Ended { reason, clean, program },
        };
        self.identity.log.line(if clean { Level::Info } else { Level::Error }, "gave_up", &error, []);
        self.give_up(Vec::new(), None, error, now)
    }

    /// The port has failed, and no restart would help.
    pub(in crate::master) fn port_failed(&mut self, state: State, reason: String, now: Instant) -> State {
        let error = Error::Ended { reason, clean: false, program: None };
        self.identity.log.line(Level::Error, "gave_up", &error, []);
        let (serving, restart) = state.dissolve();
        self.give_up(serving, restart, error, now)
    }

    /// Waits until that time to build the next generation, or until a restart is requested.
    fn wait(&mut self, until: Instant, now: Instant) -> State {
        match self.queue.pop() {
            Some(restart) => self.try_now(until, restart, now),
            None if until <= now => self.try_again(now),
            None => {
                let wait = until.saturating_duration_since(now);
                let message = format!("starting generation {} in {}", self.record.generations + 1, Seconds(wait));
                self.identity.log.line(Level::Info, "waiting", message, [("wait_ms", milliseconds(wait).into())]);
                State::Waiting(Waiting { until })
            }
        }
    }
}

/// Why there is no new program, with that as the subject: otherwise the reason would seem to be about the old one.
fn of_new_program(reason: &BuildError) -> String {
    if was_started(reason) { format!("the new program failed to start: {reason}") } else { reason.to_string() }
}

/// Says that nothing serves in this state, and what happens next, as a part of a message.
fn nothing_runs(state: &State, now: Instant) -> String {
    let next = match state {
        State::Waiting(Waiting { until }) => format!("next try in {}", Seconds(until.saturating_duration_since(now))),
        State::Draining(_) => "giving up".into(),
        State::Starting(_)
        | State::Serving(_)
        | State::Replacing(_)
        | State::Preparing(_)
        | State::Proving(_)
        | State::Emptying(_)
        | State::Rebuilding(_)
        | State::Retiring(_) => "trying again now".into(),
    };
    format!("nothing is running ({next})")
}
