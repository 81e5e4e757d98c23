//! Master control: the one thread that owns all state. It waits for an [`Event`] and does what the table says.

mod actions;
mod changes;
mod closing;
mod drains;
mod gone;
mod live;
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

use crate::announcement::Announcement;
use crate::event::Event;
use crate::host::Manager;
use crate::log::Level;
use crate::protocol::{Answer, Refusal};
use crate::restart::History;
use crate::server::{Builder, Failure};
use crate::settings::Settings;
use crate::text::Seconds;
use crate::watchdog::Watchdog;

use drains::Drains;
use pause::{Over, PauseRequest, Pausing};
use readiness::Readiness;
use requests::{Command, StopRequest};
use restarts::{Queue, Restart};
use state::{Input, Starting, State};
pub(crate) use status::Identity;
use status::{Record, Snapshot};
pub(crate) use stop::End;

/// Runs on the thread `master-control`.
#[derive(Debug)]
pub(crate) struct Master {
    identity: Identity,
    builder: Box<dyn Builder>,
    /// None: nothing may end the process.
    watchdog: Option<Watchdog>,
    manager: Manager,
    /// Made when the first generation is ready.
    announcement: Option<Announcement>,
    /// The settings of the generation that serves.
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
        let mut has_ticked = false;
        loop {
            let left = self.next_tick(&state).map(|at| at.saturating_duration_since(Instant::now()));
            let event = match left {
                None => events.recv().map_err(RecvTimeoutError::from),
                // A due tick goes before queued events: otherwise a steady stream of events would delay it forever.
                // Then it is the turn of an event.
                Some(Duration::ZERO) if !has_ticked => Err(RecvTimeoutError::Timeout),
                Some(left) => events.recv_timeout(left),
            };
            has_ticked = event.is_err();
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
                ControlFlow::Break(end) => {
                    self.builder.end();
                    return end;
                }
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
            State::Draining(draining) if self.drains.is_empty() && !self.builder.awaits_builds() => {
                let end = draining.end(now);
                if let Ok(report) = &end.result {
                    gone::log_report(&self.identity.log, None, &report.wire());
                }
                ControlFlow::Break(end)
            }
            state => ControlFlow::Continue(state),
        }
    }

    /// Tells the serving generations whether they are in rotation. In a stop, each lets its clients go on its own.
    fn tell_rotation(&self, state: &State) {
        if let State::Draining(_) = state {
            return;
        }
        let is_ready = self.readiness.is_ready();
        self.builder.set_in_rotation(!self.readiness.lets_clients_go(&self.settings));
        for live in state.serving() {
            live.generation.set_in_rotation(is_ready);
        }
    }

    /// Interprets an event. One of a build or a generation that is no longer current begins nothing: a failure is logged,
    /// and the end of an old generation ends its drain.
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
                self.builder.note_built(build);
                match built {
                    // One that is late is dropped, except in a stop: the supervisor must not end before it is gone.
                    Ok(built) if build == self.record.builds || matches!(state, State::Draining(_)) => {
                        Input::Built(build, built)
                    }
                    Err(error) if build == self.record.builds => Input::NotBuilt(error),
                    Ok(_) | Err(_) => return state,
                }
            }
            Event::Exited { build, failure } if is_current(build) => Input::Failed(failure),
            Event::Exited { build, failure } if state.next().is_some_and(|next| next.build == build) => {
                Input::NextFailed(failure)
            }
            Event::Exited { failure: Failure { reason, wrote, .. }, .. } => {
                let message = format!("a generation failed that was draining already: {reason}");
                self.identity.log.line(Level::Warning, "old_failed", message, [("last_output", json!(wrote))]);
                return state;
            }
            Event::Unhealthy { build, reason, .. } if is_current(build) => Input::Unhealthy(reason),
            Event::Unhealthy { build, reason, wrote } if state.next().is_some_and(|next| next.build == build) => {
                Input::NextFailed(Failure::because(reason, wrote))
            }
            Event::Unhealthy { .. } => return state,
            Event::Checked { build, accepting } if is_current(build) => Input::Checked(accepting),
            Event::Checked { .. } => return state,
            // Never the current generation: it reports its failure before it is finished.
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

    /// When to act even if no event arrives.
    fn next_tick(&self, state: &State) -> Option<Instant> {
        let own = state.due(self.builder.limit());
        [own, self.drains.due(), self.readiness.due(), self.pausing.due(), self.manager.next_beat()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The table: what is done for each input in each state. A cell with [`nothing`] is empty.
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
            // The build took too long, and its result is dropped.
            (s @ (Serving(_) | Preparing(_) | Proving(_) | Emptying(_) | Retiring(_) | Waiting(_)),
                            Built(..)) => nothing(s),

            (Starting(_),   NotBuilt(reason)) => self.not_started(reason, now),
            (Replacing(s),  NotBuilt(reason)) => self.not_replaced(s.current, s.restart, &reason, now),
            (Preparing(s),  NotBuilt(reason)) => self.not_replaced(s.current, s.restart, &reason, now),
            (Rebuilding(s), NotBuilt(reason)) => self.not_rebuilt(s, &reason, now),
            (Draining(s),   NotBuilt(reason)) => self.stopped_build(s, &reason),
            (s @ (Serving(_) | Proving(_) | Emptying(_) | Retiring(_) | Waiting(_)),
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
            (Retiring(s),   Unhealthy(reason)) => self.unhealthy_already(s, &reason, now),
            // A replacement is on its way, or serves already.
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
            // These states wait for a build, and `on_tick` fails a build that takes too long.
            (s @ (Starting(_) | Replacing(_) | Preparing(_) | Rebuilding(_)),
                            Due) => nothing(s),
        }
    }

    fn look<'a>(&'a self, state: &'a State, now: Instant) -> Snapshot<'a> {
        let Master { identity, record, drains, readiness, pausing, .. } = self;
        Snapshot { identity, record, state, drains, readiness, pausing, builder: self.builder.as_ref(), now }
    }

    /// Tells the service manager, if there is one, what has changed.
    fn tell_manager(&mut self, state: &State, now: Instant) {
        if self.manager.listens() {
            let view = self.look(state, now).view();
            self.manager.tell(view, now);
        }
    }
}

/// Does nothing: an empty cell of the table.
fn nothing(state: State) -> State {
    state
}
