//! Master control: the one thread that owns all state. It waits for an [`Event`] and does what the table says.

mod changes;
mod drains;
mod pause;
mod readiness;
mod reply;
mod requests;
mod restarts;
mod spread;
mod state;
mod status;
mod stop;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use serde_json::json;
use worker::deadline_after;

use crate::announcement::Announcement;
use crate::child::{EndedEarly, last_output};
use crate::error::Error;
use crate::event::{Event, Trigger};
use crate::host::Manager;
use crate::log::Level;
use crate::protocol::{Answer, ErrorCode, Progress, Refusal, Report, Undone};
use crate::restart::{self, Decision, History, RestartPolicy};
use crate::server::{BuildError, Builder, Built, Deadline, Failure, ProgramEnd, SignalName};
use crate::settings::Settings;
use crate::text::{LastWords, Seconds, milliseconds};
use crate::watchdog::Watchdog;

use drains::{Drains, Gone, Live};
use pause::{Over, PauseRequest, Pausing};
use readiness::Readiness;
use reply::Reply;
use requests::{Ask, Command, StopRequest};
use restarts::{Queue, Restart};
use state::{
    Cause, Check, Emptying, Input, Preparing, Proving, Rebuilding, Replacing, Retiring, Serving, Starting, State,
    Waiting,
};
pub(crate) use status::Identity;
use status::{Record, Snapshot};
pub(crate) use stop::End;
use stop::{Countdown, Draining, TOGETHER, Why};

/// How long a generation that is checked may take to answer, at most and at least.
const CHECK_LIMIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// Runs on the thread `master-control`.
#[derive(Debug)]
pub(crate) struct Master {
    identity: Identity,
    builder: Box<dyn Builder>,
    /// None where nothing shall end the process.
    watchdog: Option<Watchdog>,
    manager: Manager,
    /// What is said when the first generation is ready.
    announcement: Option<Announcement>,
    /// Those of the generation that serves.
    settings: Settings,
    record: Record,
    drains: Drains,
    /// Restarts that were requested while another one was under way.
    queue: Queue,
    history: History,
    readiness: Readiness,
    pausing: Pausing,
}

impl Master {
    /// Master control over generations that `builder` makes.
    pub(crate) fn new(
        identity: Identity,
        builder: Box<dyn Builder>,
        settings: Settings,
        watchdog: Option<Watchdog>,
        manager: Manager,
        announcement: Option<Announcement>,
    ) -> Master {
        Master {
            record: Record::new(identity.started),
            drains: Drains::new(builder.after_deadline(), identity.log.clone()),
            queue: Queue::new(identity.log.clone()),
            identity,
            builder,
            watchdog,
            manager,
            announcement,
            settings,
            history: History::default(),
            readiness: Readiness::Ready,
            pausing: Pausing::default(),
        }
    }

    /// Starts the server, and handles events until it has stopped.
    pub(crate) fn run(mut self, events: &Receiver<Event>) -> End {
        let mut state = self.start(Instant::now());
        loop {
            let event = match self.next_tick(&state) {
                None => events.recv().map_err(RecvTimeoutError::from),
                Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let event = match event {
                Ok(event) => event,
                // The builder holds a sender, so it is never disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if let Some(watchdog) = &self.watchdog {
                        watchdog.event_queued();
                    }
                    Event::Tick
                }
            };
            let next = self.handle(state, event, Instant::now());
            if let Some(watchdog) = &self.watchdog {
                watchdog.event_done();
            }
            match next {
                ControlFlow::Continue(next) => state = next,
                ControlFlow::Break(end) => return end,
            }
        }
    }

    fn start(&mut self, now: Instant) -> State {
        let state = State::Starting(Starting { since: self.build(now) });
        self.tell_manager(&state, now);
        state
    }

    fn handle(&mut self, state: State, event: Event, now: Instant) -> ControlFlow<End, State> {
        self.manager.beat(now);
        let state = self.on_event(state, event, now);
        self.tell_rotation(&state);
        self.record.note(&state, now);
        self.tell_manager(&state, now);
        match state {
            State::Draining(draining) if self.drains.is_empty() && !self.awaits_build() => {
                let end = draining.end(now);
                if let Ok(report) = &end.result {
                    drains::log_report(&self.identity.log, None, &report.wire());
                }
                ControlFlow::Break(end)
            }
            state => ControlFlow::Continue(state),
        }
    }

    /// Those that serve hear whether they are in rotation. In a stop each lets its clients go by itself.
    fn tell_rotation(&self, state: &State) {
        if let State::Draining(_) = state {
            return;
        }
        let is_ready = self.readiness.is_ready();
        self.builder.set_in_rotation(is_ready);
        for live in state.current().into_iter().chain(state.next()) {
            live.generation.set_in_rotation(is_ready);
        }
    }

    /// Whether something is being built that has to be waited for.
    fn awaits_build(&self) -> bool {
        self.builder.awaits_builds() && self.record.building > 0
    }

    /// What an event means. One of a build or a generation that is not meant any more means nothing.
    fn on_event(&mut self, mut state: State, event: Event, now: Instant) -> State {
        let is_current = |build| state.current().is_some_and(|current| current.build == build);
        let input = match event {
            Event::Stop { by, grace } => {
                self.now_or_later(&state, StopRequest { by, grace, spread: None, reply: None }, None, now)
            }
            Event::Restart { by, grace } => Input::Restart(Restart::new(by, grace, None)),
            Event::Request { request, by, reply } => match requests::decode(request, by, reply) {
                Some(Command::Stop(stop, delay)) => match self.cannot_spread(stop.spread, stop.grace) {
                    None => self.now_or_later(&state, stop, delay, now),
                    Some(refusal) => {
                        if let Some(reply) = stop.reply {
                            reply.answer(Answer::Error(refusal));
                        }
                        return state;
                    }
                },
                Some(Command::Restart(restart)) => match self.cannot_spread(restart.spread, restart.grace) {
                    None => Input::Restart(restart),
                    Some(refusal) => {
                        restart.refuse(refusal);
                        return state;
                    }
                },
                Some(Command::Ask { what, by, reply }) => {
                    self.answer(&mut state, what, &by, reply, now);
                    return state;
                }
                None => return state,
            },
            Event::Pause { by, max, holder, reply } => {
                self.pause(&state, PauseRequest { by, max, holder, reply }, now);
                return state;
            }
            Event::Quiet { pause } => {
                self.pausing.is_quiet(pause, now);
                return state;
            }
            Event::HolderGone { holder } => {
                if self.pausing.is_held_by(holder) {
                    self.end_pause(&Over::Released, now);
                }
                return state;
            }
            Event::Prepared { build, prepared } if build == self.record.builds => match prepared {
                Ok(()) => Input::Prepared,
                Err(error) => Input::NotBuilt(error),
            },
            Event::Prepared { .. } => return state,
            Event::Built { build, built } => {
                self.record.building -= 1;
                match built {
                    // One that comes too late is dropped; but the supervisor does not end before it is gone.
                    Ok(built) if build == self.record.builds || matches!(state, State::Draining(_)) => {
                        Input::Built(build, built)
                    }
                    Err(error) if build == self.record.builds => Input::NotBuilt(error),
                    Ok(_) | Err(_) => return state,
                }
            }
            Event::Exited { build, reason, clean, wrote } if is_current(build) => {
                Input::Failed(Failure { reason, clean, wrote })
            }
            Event::Exited { build, reason, clean, wrote } if state.next().is_some_and(|next| next.build == build) => {
                Input::NextFailed(Failure { reason, clean, wrote })
            }
            Event::Exited { reason, wrote, .. } => {
                let message = format!("a generation failed that was draining already: {reason}");
                self.identity.log.line(Level::Warning, "old_failed", message, [("last_output", json!(wrote))]);
                return state;
            }
            Event::Unhealthy { build, reason, .. } if is_current(build) => Input::Unhealthy(reason),
            Event::Unhealthy { build, reason, wrote } if state.next().is_some_and(|next| next.build == build) => {
                Input::NextFailed(Failure { reason, clean: false, wrote })
            }
            Event::Unhealthy { .. } => return state,
            Event::Checked { build, accepting } if is_current(build) => Input::Checked(accepting),
            Event::Checked { .. } => return state,
            // The current generation is none of these: it reports that it has failed before it is finished.
            Event::Finished { build } => match self.drains.finished(build, now) {
                Some(gone) => Input::Gone(gone),
                None => return state,
            },
            Event::Signal { signal } => {
                if let Some(current) = state.current() {
                    current.generation.signal(signal);
                }
                return state;
            }
            Event::PortFailed { reason } => Input::PortFailed(reason),
            Event::Tick => return self.on_tick(state, now),
        };
        self.step(state, input, now)
    }

    fn cannot_spread(&self, spread: Option<Duration>, grace: Option<Duration>) -> Option<Refusal> {
        spread::refusal(spread, grace, &self.settings, &self.identity)
    }

    /// Whether a stop begins at once, or when the delay has passed that it or the settings ask for. A second request skips
    /// the wait.
    fn now_or_later(&self, state: &State, stop: StopRequest, delay: Option<Duration>, now: Instant) -> Input {
        let of_settings = || match state {
            // No client is served whose load balancer could notice.
            State::Starting(_) | State::Rebuilding(_) | State::Emptying(_) | State::Waiting(_) | State::Draining(_) => {
                Duration::ZERO
            }
            State::Serving(_) | State::Replacing(_) | State::Preparing(_) | State::Proving(_) | State::Retiring(_) => {
                match self.readiness.scheduled_since() {
                    None => self.settings.delay,
                    // Signals that come together are one request.
                    Some(since) if stop.is_plain() && now.saturating_duration_since(since) < TOGETHER => {
                        self.settings.delay
                    }
                    Some(_) => Duration::ZERO,
                }
            }
        };
        match delay.unwrap_or_else(of_settings) {
            Duration::ZERO => Input::Stop(stop),
            delay => Input::StopLater(stop, delay),
        }
    }

    fn on_tick(&mut self, mut state: State, now: Instant) -> State {
        while let Some(gone) = self.drains.give_up_overdue(now) {
            state = self.step(state, Input::Gone(gone), now);
        }
        if self.pausing.due().is_some_and(|due| due <= now) {
            self.end_pause(&Over::Expired, now);
        }
        if let Some(stop) = self.readiness.begins(now) {
            state = self.step(state, Input::Stop(stop), now);
        }
        let limit = self.builder.limit();
        match state.due(limit) {
            Some(at) if at <= now && state.is_building() => {
                let reason = format!("the server was not ready within {}", Seconds(limit));
                self.step(state, Input::NotBuilt(reason.into()), now)
            }
            Some(at) if at <= now => self.step(state, Input::Due, now),
            Some(_) | None => state,
        }
    }

    /// When there is something to do, although nothing happens.
    fn next_tick(&self, state: &State) -> Option<Instant> {
        let own = state.due(self.builder.limit());
        [own, self.drains.due(), self.readiness.due(), self.pausing.due(), self.manager.next_beat()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The table: what happens, in which state, and what is done then. A cell with [`nothing`] is empty.
    #[rustfmt::skip]
    fn step(&mut self, state: State, input: Input, now: Instant) -> State {
        use {Input::*, State::*};
        match (state, input) {
            (Draining(s),   Stop(stop)) => self.stop_sooner(s, stop, now),
            (s @ (Starting(_) | Serving(_) | Replacing(_) | Preparing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Retiring(_) | Waiting(_)),
                            Stop(stop)) => self.stop(s, stop, now),

            (Draining(s),   StopLater(stop, delay)) => self.stop_by_then(s, stop, delay, now),
            (s @ (Starting(_) | Serving(_) | Replacing(_) | Preparing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Retiring(_) | Waiting(_)),
                            StopLater(stop, delay)) => self.schedule(s, stop, delay, now),

            (Serving(s),    Restart(restart)) => self.restart(s.current, restart, now),
            (Waiting(s),    Restart(restart)) => self.try_now(s.until, restart, now),
            (Draining(s),   Restart(restart)) => self.refuse(s, restart),
            (s @ (Starting(_) | Replacing(_) | Preparing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Retiring(_)),
                            Restart(restart)) => self.enqueue(s, restart),

            (Preparing(s),  Prepared) => self.empty(s, now),
            (s @ (Starting(_) | Serving(_) | Replacing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Retiring(_) | Waiting(_) | Draining(_)),
                            Prepared) => nothing(s),

            (Starting(_),   Built(build, built)) => self.serve_first(build, built, now),
            (Replacing(s),  Built(build, built)) => self.replace(s, build, built, now),
            (Rebuilding(s), Built(build, built)) => self.serve_again(s, build, built, now),
            (Draining(s),   Built(build, built)) => self.discard(s, build, built, now),
            // It took too long, and is dropped.
            (s @ (Serving(_) | Preparing(_) | Proving(_) | Emptying(_) | Retiring(_) | Waiting(_)),
                            Built(..)) => nothing(s),

            (Starting(_),   NotBuilt(reason)) => self.not_started(reason, now),
            (Replacing(s),  NotBuilt(reason)) => self.not_replaced(s.current, s.restart, &reason, now),
            (Preparing(s),  NotBuilt(reason)) => self.not_replaced(s.current, s.restart, &reason, now),
            (Rebuilding(s), NotBuilt(reason)) => self.not_rebuilt(s, &reason, now),
            (s @ (Serving(_) | Proving(_) | Emptying(_) | Retiring(_) | Waiting(_) | Draining(_)),
                            NotBuilt(_)) => nothing(s),

            (Serving(s),    Failed(failure)) => self.crashed(s.current, None, failure, now),
            (Replacing(s),  Failed(failure)) => self.crashed_meanwhile(s, failure, now),
            (Preparing(s),  Failed(failure)) => self.crashed_before(s, failure, now),
            (Proving(s),    Failed(failure)) => self.crashed_beside(s, failure, now),
            (Retiring(s),   Failed(failure)) => self.crashed(s.current, Some(s.restart), failure, now),
            (s @ (Starting(_) | Emptying(_) | Rebuilding(_) | Waiting(_) | Draining(_)),
                            Failed(_)) => nothing(s),

            (Proving(s),    NextFailed(failure)) => self.withdraw(s, failure, now),
            (s @ (Starting(_) | Serving(_) | Replacing(_) | Preparing(_) | Emptying(_) | Rebuilding(_) | Retiring(_) | Waiting(_) | Draining(_)),
                            NextFailed(_)) => nothing(s),

            (s @ Draining(_), PortFailed(_)) => nothing(s),
            (s @ (Starting(_) | Serving(_) | Replacing(_) | Preparing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Retiring(_) | Waiting(_)),
                            PortFailed(reason)) => self.port_failed(s, reason, now),

            (Emptying(s),   Gone(gone)) if gone.generation == s.generation => self.emptied(s, gone, now),
            (Retiring(s),   Gone(gone)) if gone.generation == s.replaced => self.retired(s, gone, now),
            (Draining(s),   Gone(gone)) => self.stopped_one(s, gone),
            (s @ (Starting(_) | Serving(_) | Replacing(_) | Preparing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Retiring(_) | Waiting(_)),
                            Gone(gone)) => self.log_gone(s, gone),

            (Serving(s),    Unhealthy(reason)) => self.unhealthy(s, &reason, now),
            (Retiring(s),   Unhealthy(reason)) => self.unhealthy_alone(s, &reason),
            // Another one is on its way, or serves already.
            (s @ (Starting(_) | Replacing(_) | Preparing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Waiting(_) | Draining(_)),
                            Unhealthy(_)) => nothing(s),

            (Serving(s),    Checked(accepting)) => self.checked(s, accepting, now),
            (s @ (Starting(_) | Replacing(_) | Preparing(_) | Proving(_) | Emptying(_) | Rebuilding(_) | Retiring(_) | Waiting(_) | Draining(_)),
                            Checked(_)) => nothing(s),

            (Serving(s),    Due) => self.check(s),
            (Proving(s),    Due) => self.proved(s, now),
            (Emptying(s),   Due) => self.count_down_emptying(s, now),
            (Retiring(s),   Due) => self.count_down_retiring(s, now),
            (Waiting(_),    Due) => self.try_again(now),
            (Draining(s),   Due) => self.count_down(s, now),
            // These wait for a build, and one that takes too long has failed.
            (s @ (Starting(_) | Replacing(_) | Preparing(_) | Rebuilding(_)),
                            Due) => nothing(s),
        }
    }

    // A stop.

    fn stop(&mut self, state: State, stop: StopRequest, now: Instant) -> State {
        let StopRequest { by, grace, spread, reply } = stop;
        let scheduled = self.readiness.deadline().map(|deadline| deadline.remaining(now));
        let limits = [Some(grace.unwrap_or(self.settings.grace)), by.limit(), scheduled];
        let grace = limits.into_iter().flatten().min().unwrap_or_default();
        let (serving, restart) = state.dissolve();
        let mut draining = self.begin_stop(serving, restart, Why::Requested(by), (grace, spread), now);
        if let Some(reply) = reply {
            draining.attend(reply, &self.drains, now);
        }
        State::Draining(draining)
    }

    fn begin_stop(
        &mut self,
        serving: Vec<Live>,
        restart: Option<Restart>,
        why: Why,
        (grace, spread): (Duration, Option<Duration>),
        now: Instant,
    ) -> Draining {
        let spread = spread::within(grace, spread, &self.settings);
        self.queue.cancel(restart);
        let asked = why.to_string();
        for live in serving {
            self.drains.push(live, why.to_string(), deadline_after(now, grace), now);
        }
        let mut draining = Draining::begin(why, grace, spread, &mut self.drains, self.watchdog.clone(), now);
        // What has waited is answered as the last of its clients.
        self.end_pause(&Over::Stopped(asked), now);
        // Only now: a generation that stops notifies those that wait in the accept queue.
        self.builder.close(draining.deadline);
        for reply in self.readiness.take_waiting() {
            draining.attend(reply, &self.drains, now);
        }
        draining
    }

    fn stop_sooner(&mut self, mut draining: Draining, stop: StopRequest, now: Instant) -> State {
        draining.sooner(stop, self.settings.grace, &mut self.drains, now);
        State::Draining(draining)
    }

    /// The server is gone by the time that this stop would be over.
    fn stop_by_then(&mut self, draining: Draining, stop: StopRequest, delay: Duration, now: Instant) -> State {
        let grace = stop.grace.unwrap_or(self.settings.grace).saturating_add(delay);
        self.stop_sooner(draining, StopRequest { grace: Some(grace), ..stop }, now)
    }

    fn schedule(&mut self, state: State, stop: StopRequest, delay: Duration, now: Instant) -> State {
        let grace = stop.grace.unwrap_or(self.settings.grace);
        // Where the system ends the process soon, there has to be time for both.
        let limit = stop.by.limit().unwrap_or(Duration::MAX);
        let delay = delay.min(limit / 2);
        let deadline = Deadline::after(deadline_after(now, delay), grace.min(limit - delay));
        self.readiness.schedule(stop, delay, deadline, &self.identity.log, now);
        state
    }

    fn stopped_one(&self, mut draining: Draining, gone: Gone) -> State {
        draining.add(gone.ended);
        State::Draining(draining)
    }

    fn count_down(&self, mut draining: Draining, now: Instant) -> State {
        draining.count_down(&self.drains, now);
        State::Draining(draining)
    }

    // A restart.

    /// The next generation is built beside the current one, or when that is gone.
    fn restart(&mut self, current: Live, restart: Restart, now: Instant) -> State {
        let restart = self.queue.begin(restart);
        if self.builder.overlaps() {
            return State::Replacing(Replacing { current, restart, since: self.build(now) });
        }
        self.record.builds += 1;
        self.builder.prepare(self.record.builds);
        State::Preparing(Preparing { current, restart, since: now })
    }

    /// The next generation could be built. From here on there is no way back.
    fn empty(&mut self, preparing: Preparing, now: Instant) -> State {
        let Preparing { current, mut restart, since: _ } = preparing;
        let message = format!(
            "an outage begins: generation {} has to end before the next one starts, because without --listen or \
             --relay the two cannot share an address",
            current.number
        );
        self.identity.log.line(Level::Info, "outage", message, [("generation", current.number.into())]);
        restart.report(Progress::Outage { generation: current.number });
        let (generation, grace) = (current.number, restart.grace.unwrap_or(self.settings.grace));
        let spread = spread::within(grace, restart.spread, &self.settings);
        self.drains.retire(current, &restart.by, grace, spread, now);
        self.report_drain(generation, &restart, now);
        restart.down_since = Some(now);
        State::Emptying(Emptying { generation, restart, countdown: Countdown::new(now) })
    }

    /// The restart policy would start the next generation at this time.
    fn try_now(&mut self, until: Instant, restart: Restart, now: Instant) -> State {
        let restart = self.queue.begin(restart);
        State::Rebuilding(Rebuilding { cause: Cause::Request { restart, until }, since: self.build(now) })
    }

    fn try_again(&mut self, now: Instant) -> State {
        State::Rebuilding(Rebuilding { cause: Cause::Policy, since: self.build(now) })
    }

    /// Begins to build the next generation. Returns since when.
    fn build(&mut self, now: Instant) -> Instant {
        self.record.builds += 1;
        self.build_prepared();
        now
    }

    fn build_prepared(&mut self) {
        self.record.building += 1;
        self.builder.build(self.record.builds);
    }

    fn enqueue(&mut self, state: State, restart: Restart) -> State {
        self.queue.push(restart);
        state
    }

    fn refuse(&mut self, draining: Draining, restart: Restart) -> State {
        self.queue.cancel(Some(restart));
        State::Draining(draining)
    }

    // The next generation is built.

    fn serve_first(&mut self, build: u64, built: Built, now: Instant) -> State {
        let (current, settings) = self.arrive(build, built, now);
        let current = self.serve(current, settings);
        if let Some(announcement) = self.announcement.take() {
            announcement.make();
        }
        self.next(current, now)
    }

    fn replace(&mut self, replacing: Replacing, build: u64, built: Built, now: Instant) -> State {
        let Replacing { current, restart, since: _ } = replacing;
        let overlap = built.overlap;
        let (next, settings) = self.arrive(build, built, now);
        if overlap.is_zero() {
            return self.hand_over(current, next, settings, restart, now);
        }
        let (number, old) = (next.number, current.number);
        next.generation.serve_on_trial();
        let message = format!("generation {number} serves beside generation {old} for {}", Seconds(overlap));
        let fields = [("generation", number.into()), ("overlap_ms", milliseconds(overlap).into())];
        self.identity.log.line(Level::Info, "overlapping", message, fields);
        State::Proving(Proving { current, next, settings, restart, until: deadline_after(now, overlap) })
    }

    /// It has served beside the current one for as long as it had to. That proves nothing if its check has had no answer.
    fn proved(&mut self, proving: Proving, now: Instant) -> State {
        if let Some(failure) = proving.next.generation.unproved() {
            return self.withdraw(proving, failure, now);
        }
        let Proving { current, next, settings, restart, until: _ } = proving;
        self.hand_over(current, next, settings, restart, now)
    }

    /// The next generation takes the place of the current one.
    fn hand_over(&mut self, old: Live, next: Live, settings: Settings, restart: Restart, now: Instant) -> State {
        let (replaced, grace) = (old.number, restart.grace.unwrap_or(self.settings.grace));
        let spread = spread::within(grace, restart.spread, &self.settings);
        let current = self.serve(next, settings);
        self.drains.retire(old, &restart.by, grace, spread, now);
        restart.report(Progress::Serving { generation: current.number });
        self.report_drain(replaced, &restart, now);
        State::Retiring(Retiring { current, replaced, restart, countdown: Countdown::new(now) })
    }

    fn serve_again(&mut self, rebuilding: Rebuilding, build: u64, built: Built, now: Instant) -> State {
        let (current, settings) = self.arrive(build, built, now);
        let current = self.serve(current, settings);
        match rebuilding.cause {
            Cause::Policy => self.next(current, now),
            Cause::Request { restart, until: _ } | Cause::Crash { restart, ran: _ } => {
                self.restarted(current, restart, None, now)
            }
            Cause::Emptied { restart, replaced, report } => {
                self.restarted(current, restart, Some((replaced, report)), now)
            }
        }
    }

    /// A generation is ready. It has a number from now on, and settings that are in force when it serves.
    fn arrive(&mut self, build: u64, built: Built, now: Instant) -> (Live, Settings) {
        let Built { generation, settings, overlap: _, program } = built;
        let is_known = self.record.generations > 0 && !settings.parts.is_empty();
        let changes = is_known.then(|| changes::between(&self.settings.parts, &settings.parts));
        self.record.generations += 1;
        let live = Live { build, number: self.record.generations, generation, since: now, changes, program };
        if let Some(evidence) = live.generation.evidence() {
            let message = format!("generation {} is ready: {evidence}{}", live.number, live.changed());
            let fields =
                [("generation", live.number.into()), ("evidence", evidence.into()), ("changes", json!(live.changes))];
            self.identity.log.line(Level::Info, "ready", message, fields);
        }
        (live, settings)
    }

    /// From now on this generation serves, with its settings.
    fn serve(&mut self, live: Live, settings: Settings) -> Live {
        live.generation.serve();
        self.settings = settings;
        if live.program.is_some() {
            self.identity.program.clone_from(&live.program);
        }
        // Of one that has shown that it is ready, that is known; and of the first one the announcement says more.
        if live.generation.evidence().is_none() && live.number > 1 {
            let message = format!("generation {} is serving{}", live.number, live.changed());
            let fields = [("generation", live.number.into()), ("changes", json!(live.changes))];
            self.identity.log.line(Level::Info, "serving", message, fields);
        }
        live
    }

    /// It came too late, and its end has to be awaited.
    fn discard(&mut self, draining: Draining, build: u64, built: Built, now: Instant) -> State {
        let Built { generation, program, .. } = built;
        let number = self.record.generations + 1;
        let live = Live { build, number, generation, since: now, changes: None, program };
        self.drains.discard(live, draining.why.to_string(), draining.deadline, now);
        State::Draining(draining)
    }

    fn restarted(&mut self, current: Live, restart: Restart, replaced: Option<(u64, Report)>, now: Instant) -> State {
        self.record.restarts += 1;
        if let Some(outage) = restart.outage(&current, now) {
            let message = format!("the outage is over: it lasted at most {}", Seconds(outage));
            self.identity.log.line(Level::Info, "outage_over", message, [("down_ms", milliseconds(outage).into())]);
        }
        restart.done(&current, replaced, now);
        self.next(current, now)
    }

    /// The next restart, if one waits.
    fn next(&mut self, current: Live, now: Instant) -> State {
        match self.queue.pop() {
            Some(restart) => self.restart(current, restart, now),
            None => self.serving(current, now),
        }
    }

    fn serving(&self, current: Live, now: Instant) -> State {
        let check = self.settings.check_every.map_or(Check::Never, |every| Check::At(deadline_after(now, every)));
        State::Serving(Serving { current, check })
    }

    // An old generation drains.

    /// Now the next one can be built.
    fn emptied(&mut self, emptying: Emptying, gone: Gone, now: Instant) -> State {
        let (replaced, report) = gone.log(&self.identity.log);
        let cause = Cause::Emptied { restart: emptying.restart, replaced, report };
        self.build_prepared();
        State::Rebuilding(Rebuilding { cause, since: now })
    }

    fn retired(&mut self, retiring: Retiring, gone: Gone, now: Instant) -> State {
        let replaced = gone.log(&self.identity.log);
        self.restarted(retiring.current, retiring.restart, Some(replaced), now)
    }

    fn log_gone(&self, state: State, gone: Gone) -> State {
        gone.log(&self.identity.log);
        state
    }

    fn count_down_emptying(&self, mut emptying: Emptying, now: Instant) -> State {
        self.count_down_old(emptying.generation, &emptying.restart, &mut emptying.countdown, now);
        State::Emptying(emptying)
    }

    fn count_down_retiring(&self, mut retiring: Retiring, now: Instant) -> State {
        self.count_down_old(retiring.replaced, &retiring.restart, &mut retiring.countdown, now);
        State::Retiring(retiring)
    }

    fn count_down_old(&self, generation: u64, restart: &Restart, countdown: &mut Countdown, now: Instant) {
        let is_logged = countdown.step(now);
        if let Some(old) = self.drains.of(generation) {
            let drain = old.drain(now);
            if is_logged {
                self.drains.log_countdown(&drain);
            }
            restart.report(Progress::Draining(drain));
        }
    }

    fn report_drain(&self, generation: u64, restart: &Restart, now: Instant) {
        if let Some(old) = self.drains.of(generation) {
            restart.report(Progress::Draining(old.drain(now)));
        }
    }

    // Something fails.

    /// There is no first generation, so no client has ever been served.
    fn not_started(&mut self, source: BuildError, now: Instant) -> State {
        self.give_up(Vec::new(), None, Error::Build { source }, now)
    }

    /// There is no next generation. The current one serves on.
    fn not_replaced(&mut self, current: Live, restart: Restart, reason: &BuildError, now: Instant) -> State {
        let message = format!("restart failed, generation {} keeps serving: {reason}", current.number);
        let wrote = last_output(reason);
        self.identity.log.line(Level::Error, "restart_failed", &message, [("last_output", json!(wrote))]);
        restart.failed(format!("{message}{}", LastWords(wrote)));
        self.next(current, now)
    }

    /// The next generation has not proved itself. The current one serves on.
    fn withdraw(&mut self, proving: Proving, failure: Failure, now: Instant) -> State {
        let Proving { current, next, restart, settings: _, until: _ } = proving;
        let Failure { reason, clean: _, wrote } = failure;
        let message = format!(
            "restart failed, generation {} keeps serving: generation {} was withdrawn: {reason}",
            current.number, next.number
        );
        let fields = [("withdrawn", next.number.into()), ("last_output", json!(wrote))];
        self.identity.log.line(Level::Error, "restart_failed", &message, fields);
        let deadline = Deadline::after(now, self.settings.grace);
        current.generation.serve_again();
        // It may not have ended.
        next.generation.retire_by(deadline, Duration::ZERO);
        self.drains.push(next, "its failure".into(), deadline.at(), now);
        restart.failed(format!("{message}{}", LastWords(&wrote)));
        self.next(current, now)
    }

    /// There is no next generation, and no current one either.
    fn not_rebuilt(&mut self, rebuilding: Rebuilding, reason: &BuildError, now: Instant) -> State {
        let message = format!("the server could not be started: {reason}");
        // One that has ended well has done its work.
        let early = reason.downcast_ref::<EndedEarly>();
        let program = early.map(|early| early.end);
        let clean = early.filter(|early| early.clean).map(|early| early.end);
        let failure = match clean {
            Some(end) => Failure { reason: end.to_string(), clean: true, wrote: Vec::new() },
            None => {
                let wrote = last_output(reason).to_vec();
                self.identity.log.line(Level::Error, "restart_failed", &message, [("last_output", json!(wrote))]);
                Failure { reason: format!("it could not be started: {reason}"), clean: false, wrote }
            }
        };
        let crash = |ran| restart::Ended { failed: !failure.clean, ran, crashed: true };
        let ended = match rebuilding.cause {
            // A try by hand changes nothing of what the policy is about to do.
            Cause::Request { until, .. } => Err(until),
            Cause::Policy => Ok(crash(Duration::ZERO)),
            Cause::Crash { ran, .. } => Ok(crash(ran)),
            Cause::Emptied { .. } => Ok(restart::Ended { crashed: false, ..crash(Duration::ZERO) }),
        };
        let state = match ended {
            Ok(ended) => self.recover(self.record.generations + 1, failure, ended, program, now),
            Err(until) => self.wait(until, now),
        };
        if let Some(restart) = rebuilding.cause.into_restart() {
            let (nothing_runs, wrote) = (nothing_runs(&state, now), LastWords(last_output(reason)));
            restart.failed(format!("restart failed, {nothing_runs}: {reason}{wrote}"));
        }
        state
    }

    fn crashed(&mut self, current: Live, restart: Option<Restart>, failure: Failure, now: Instant) -> State {
        let (generation, ran) = (current.number, now.saturating_duration_since(current.since));
        self.note_crash(current, &failure, now);
        let reason = format!("{}{}", failure.reason, LastWords(&failure.wrote));
        let ended = restart::Ended { failed: !failure.clean, ran, crashed: true };
        let state = self.recover(generation, failure, ended, None, now);
        if let Some(restart) = restart {
            let nothing_runs = nothing_runs(&state, now);
            restart.failed(format!("restart failed, generation {generation} crashed, {nothing_runs}: {reason}"));
        }
        state
    }

    /// The next one is on its way already.
    fn crashed_meanwhile(&mut self, replacing: Replacing, failure: Failure, now: Instant) -> State {
        let Replacing { current, restart, since } = replacing;
        let ran = now.saturating_duration_since(current.since);
        self.note_crash(current, &failure, now);
        State::Rebuilding(Rebuilding { cause: Cause::Crash { restart, ran }, since })
    }

    /// Nothing has to be stopped for the next one any more.
    fn crashed_before(&mut self, preparing: Preparing, failure: Failure, now: Instant) -> State {
        let Preparing { current, restart, since: _ } = preparing;
        let ran = now.saturating_duration_since(current.since);
        self.note_crash(current, &failure, now);
        State::Rebuilding(Rebuilding { cause: Cause::Crash { restart, ran }, since: self.build(now) })
    }

    /// The next one serves already, and has to do so alone.
    fn crashed_beside(&mut self, proving: Proving, failure: Failure, now: Instant) -> State {
        let Proving { current, next, settings, restart, until: _ } = proving;
        self.note_crash(current, &failure, now);
        let current = self.serve(next, settings);
        self.restarted(current, restart, None, now)
    }

    fn note_crash(&mut self, current: Live, failure: &Failure, now: Instant) {
        self.record.crashes += 1;
        self.record.ended(current.number, failure, now);
        self.drains.crash(current, failure, self.settings.grace, now);
    }

    /// No generation serves: the restart policy says what now. `program` is how that ended, if no generation knows.
    fn recover(
        &mut self,
        generation: u64,
        failure: Failure,
        ended: restart::Ended,
        program: Option<ProgramEnd>,
        now: Instant,
    ) -> State {
        let decision = self.history.decide(&self.settings.restart, ended, now, restart::chance());
        let clean = failure.clean;
        let error = match decision {
            Decision::Wait(wait) => {
                self.record.ended(generation, &failure, now);
                return self.wait(now + wait, now);
            }
            Decision::GiveUp(times) => {
                let RestartPolicy { max_restarts, period, .. } = self.settings.restart;
                Error::CrashedTooOften { times, max_restarts, period, reason: failure.reason }
            }
            Decision::End => Error::Ended { reason: failure.reason, program },
        };
        self.identity.log.line(if clean { Level::Info } else { Level::Error }, "gave_up", &error, []);
        self.give_up(Vec::new(), None, error, now)
    }

    /// No restart would help.
    fn port_failed(&mut self, state: State, reason: String, now: Instant) -> State {
        let error = Error::Ended { reason, program: None };
        self.identity.log.line(Level::Error, "gave_up", &error, []);
        let (serving, restart) = state.dissolve();
        self.give_up(serving, restart, error, now)
    }

    /// The next generation is built at that time, unless somebody asks for it now.
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

    /// No generation serves any more, and none will.
    fn give_up(&mut self, serving: Vec<Live>, restart: Option<Restart>, error: Error, now: Instant) -> State {
        State::Draining(self.begin_stop(serving, restart, Why::Failed(error), (self.settings.grace, None), now))
    }

    // A pause.

    fn pause(&mut self, state: &State, request: PauseRequest, now: Instant) {
        match state {
            State::Draining(_) => {
                let message = "the server is being stopped, and cannot be paused".into();
                Reply::new(request.reply, true).refuse(ErrorCode::Stopping, message);
            }
            State::Starting(_)
            | State::Serving(_)
            | State::Replacing(_)
            | State::Preparing(_)
            | State::Proving(_)
            | State::Emptying(_)
            | State::Rebuilding(_)
            | State::Retiring(_)
            | State::Waiting(_) => self.pausing.begin(request, self.builder.as_ref(), &self.identity.log, now),
        }
    }

    /// Returns whether there was one.
    fn end_pause(&mut self, over: &Over, now: Instant) -> bool {
        self.pausing.end(over, self.builder.as_ref(), &self.identity.log, now)
    }

    // A check.

    fn check(&self, serving: Serving) -> State {
        let every = self.settings.check_every.unwrap_or(CHECK_LIMIT.0);
        serving.current.generation.check(every.clamp(CHECK_LIMIT.1, CHECK_LIMIT.0));
        State::Serving(Serving { check: Check::UnderWay, ..serving })
    }

    fn checked(&self, serving: Serving, accepting: bool, now: Instant) -> State {
        let mut current = serving.current;
        if !accepting {
            // It reports that it has failed, and the rest follows.
            current.generation.give_up("it does not accept connections");
        }
        self.serving(current, now)
    }

    /// It is replaced by a new one, which starts beside it if it can.
    fn unhealthy(&mut self, serving: Serving, reason: &str, now: Instant) -> State {
        self.log_unhealthy(&serving.current, reason);
        let mut current = serving.current;
        if self.builder.overlaps() {
            return self.restart(current, Restart::new(Trigger::Check, None, None), now);
        }
        // It reports that it has failed, and the rest follows.
        current.generation.give_up(reason);
        self.serving(current, now)
    }

    /// There is none beside which the next one could start and that works.
    fn unhealthy_alone(&mut self, mut retiring: Retiring, reason: &str) -> State {
        self.log_unhealthy(&retiring.current, reason);
        retiring.current.generation.give_up(reason);
        State::Retiring(retiring)
    }

    fn log_unhealthy(&self, current: &Live, reason: &str) {
        let message = format!("generation {} does not work: {reason}", current.number);
        let fields = [("generation", current.number.into()), ("reason", reason.into())];
        self.identity.log.line(Level::Error, "unhealthy", message, fields);
    }

    // What is answered at once, in each state.

    fn answer(&mut self, state: &mut State, what: Ask, by: &Trigger, reply: Reply, now: Instant) {
        match what {
            Ask::Ping => reply.answer(self.look(state, now).pong()),
            Ask::Status => self.answer_status(state, reply, now),
            Ask::Connections => self.look(state, now).list_connections(reply),
            Ask::Close { id, grace } => {
                let grace = grace.unwrap_or(self.settings.grace);
                match self.identity.no_clients() {
                    None => drains::close(self.look(state, now).clients(), id, grace, by, reply, &self.identity.log),
                    Some(refusal) => reply.answer(Answer::Error(refusal)),
                }
            }
            Ask::Grace(grace) => reply.answer(self.move_deadline(state, by, grace, now)),
            Ask::Signal(signal) => self.send_signal(state, signal, by, reply),
            Ask::NotReady => {
                self.readiness.revoke(by, &self.identity.log);
                reply.answer(Answer::Readiness { ready: false, undone: Vec::new() });
            }
            Ask::Ready => match state {
                State::Draining(_) => {
                    reply.refuse(ErrorCode::Stopping, "the stop has begun already, and cannot be cancelled".into());
                }
                state => {
                    let is_resumed = self.end_pause(&Over::Resumed(by.to_string()), now);
                    let restored = self.readiness.restore(by, &self.identity.log);
                    let undone = is_resumed.then_some(Undone::Pause).into_iter().chain(restored).collect();
                    reply.answer(Answer::Readiness { ready: self.look(state, now).is_ready(), undone });
                }
            },
        }
    }

    /// A generation that would be ready is asked whether it has something to serve.
    fn answer_status(&self, state: &State, reply: Reply, now: Instant) {
        let mut status = Box::new(self.look(state, now).status());
        match state.current() {
            Some(current) if status.ready => current.generation.available(Box::new(move |available| {
                if let Err(error) = available {
                    (status.ready, status.unavailable) = (false, Some(error.to_string()));
                }
                reply.answer(Answer::Status(status));
            })),
            Some(_) | None => reply.answer(Answer::Status(status)),
        }
    }

    fn send_signal(&self, state: &State, signal: i32, by: &Trigger, reply: Reply) {
        if !self.identity.has_program() {
            let message = "there is no program to signal: this server is a part of the supervisor".into();
            return reply.refuse(ErrorCode::Failed, message);
        }
        let Some(current) = state.current() else {
            return reply.refuse(ErrorCode::Failed, "no program is serving at the moment".into());
        };
        current.generation.signal(signal);
        let message = format!("{by}: sent {} to the program", SignalName(signal));
        let fields = [("by", by.to_string().into()), ("signal", signal.into())];
        self.identity.log.line(Level::Info, "signaled", message, fields);
        reply.answer(Answer::Signaled { signal });
    }

    /// Clients get this long from now, in the drain under way: that of a stop, or else those of old generations.
    fn move_deadline(&mut self, state: &mut State, by: &Trigger, grace: Duration, now: Instant) -> Answer {
        if let State::Draining(draining) = state {
            draining.move_deadline(by, grace, &mut self.drains, now);
            return Answer::Moved { drains: vec![draining.drain(&self.drains, now)] };
        }
        if self.drains.is_empty() {
            let message = "no drain is in progress, so there is no deadline to move".into();
            return Answer::Error(Refusal { code: ErrorCode::NotDraining, message });
        }
        self.drains.move_deadline(by, grace, now);
        if let Some((replaced, restart)) = state.awaits_old() {
            self.report_drain(replaced, restart, now);
        }
        Answer::Moved { drains: self.drains.each(now) }
    }

    fn look<'a>(&'a self, state: &'a State, now: Instant) -> Snapshot<'a> {
        let Master { identity, record, drains, readiness, pausing, .. } = self;
        Snapshot { identity, record, state, drains, readiness, pausing, builder: self.builder.as_ref(), now }
    }

    /// Tells the service manager what has changed, if there is one.
    fn tell_manager(&mut self, state: &State, now: Instant) {
        if self.manager.listens() {
            let view = self.look(state, now).view();
            self.manager.tell(view, now);
        }
    }
}

/// That nothing serves in this state, and what becomes of that, as a part of a message.
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

/// Nothing is to be done: an empty cell of the table.
fn nothing(state: State) -> State {
    state
}
