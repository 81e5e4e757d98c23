//! A stop: at once, or later, or sooner than the one under way.

use std::time::{Duration, Instant};

use worker::deadline_after;

use crate::child::ended;
use crate::error::Error;
use crate::master::Master;
use crate::master::gone::Gone;
use crate::master::live::Live;
use crate::master::pause::Over;
use crate::master::requests::StopRequest;
use crate::master::restarts::Restart;
use crate::master::spread;
use crate::master::state::{Input, State};
use crate::master::stop::{Draining, TOGETHER, Why};
use crate::server::BuildError;
use crate::server::deadline::Deadline;

impl Master {
    /// Whether a stop begins at once, or after the delay that the request or the settings ask for. A second request
    /// skips the delay.
    pub(in crate::master) fn now_or_later(
        &self,
        state: &State,
        stop: StopRequest,
        delay: Option<Duration>,
        now: Instant,
    ) -> Input {
        let of_settings = || match state {
            // No client is being served whose load balancer could notice.
            State::Starting(_) | State::Rebuilding(_) | State::Emptying(_) | State::Waiting(_) | State::Draining(_) => {
                Duration::ZERO
            }
            State::Serving(_) | State::Replacing(_) | State::Preparing(_) | State::Proving(_) | State::Retiring(_) => {
                match self.readiness.scheduled_since() {
                    None => self.settings.delay,
                    // Signals that arrive together are one request.
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

    pub(in crate::master) fn stop(&mut self, state: State, stop: StopRequest, now: Instant) -> State {
        let StopRequest { by, grace, spread, reply } = stop;
        let scheduled = self.readiness.deadline().map(|deadline| deadline.remaining(now));
        let limits = [Some(grace.unwrap_or(self.settings.grace)), by.limit(), scheduled];
        let grace = limits.into_iter().flatten().min().unwrap_or_default();
        let (serving, restart) = state.dissolve();
        let mut draining = self.begin_stop(serving, restart, Why::Requested(by), grace, spread, now);
        if let Some(reply) = reply {
            draining.keep_informed(reply, &self.drains, now);
        }
        State::Draining(draining)
    }

    fn begin_stop(
        &mut self,
        serving: Vec<Live>,
        restart: Option<Restart>,
        why: Why,
        grace: Duration,
        spread: Option<Duration>,
        now: Instant,
    ) -> Draining {
        let spread = spread::within(grace, spread, &self.settings);
        self.queue.cancel(restart);
        let asked = why.to_string();
        let deadline = Deadline::after(now, grace);
        for live in serving {
            self.drains.push(live, asked.clone(), deadline.at(), now);
        }
        let mut draining = Draining::begin(why, deadline, spread, &self.drains, self.watchdog.clone(), now);
        let open = self.drains.stop_by(deadline, spread);
        if let Why::Requested(by) = &draining.why {
            self.drains.log_stop(by, open, grace, spread);
        }
        // Requests that the pause held are answered as the last ones of their clients.
        self.end_pause(&Over::Stopped(asked), now);
        // Only now: a generation that stops notifies the clients in the accept queue.
        self.builder.close(draining.deadline);
        for reply in self.readiness.take_waiting() {
            draining.keep_informed(reply, &self.drains, now);
        }
        draining
    }

    pub(in crate::master) fn stop_sooner(&mut self, mut draining: Draining, stop: StopRequest, now: Instant) -> State {
        draining.sooner(stop, self.settings.grace, &mut self.drains, now);
        self.builder.close(draining.deadline);
        State::Draining(draining)
    }

    /// A delayed stop is requested during a stop: the server is gone by the time that the delayed stop would be over.
    pub(in crate::master) fn stop_by_then(
        &mut self,
        draining: Draining,
        stop: StopRequest,
        delay: Duration,
        now: Instant,
    ) -> State {
        let grace = stop.grace.unwrap_or(self.settings.grace).saturating_add(delay);
        self.stop_sooner(draining, StopRequest { grace: Some(grace), ..stop }, now)
    }

    pub(in crate::master) fn schedule(
        &mut self,
        state: State,
        stop: StopRequest,
        delay: Duration,
        now: Instant,
    ) -> State {
        let grace = stop.grace.unwrap_or(self.settings.grace);
        // If the system ends the process soon, there must be time for both delay and grace period.
        let limit = stop.by.limit().unwrap_or(Duration::MAX);
        let delay = delay.min(limit / 2);
        let deadline = Deadline::after(deadline_after(now, delay), grace.min(limit - delay));
        self.readiness.schedule(stop, delay, deadline, &self.identity.log, now);
        state
    }

    pub(in crate::master) fn stopped_one(&self, mut draining: Draining, gone: Gone) -> State {
        draining.add(gone.ended);
        State::Draining(draining)
    }

    /// A program that was being started has ended by the stop, or because it was not ready before.
    pub(in crate::master) fn stopped_build(&self, mut draining: Draining, reason: &BuildError) -> State {
        draining.add(ended(reason));
        State::Draining(draining)
    }

    pub(in crate::master) fn count_down(&self, mut draining: Draining, now: Instant) -> State {
        draining.count_down(&self.drains, now);
        State::Draining(draining)
    }

    /// No generation will serve any more: stops those that still do.
    pub(in crate::master) fn give_up(
        &mut self,
        serving: Vec<Live>,
        restart: Option<Restart>,
        error: Error,
        now: Instant,
    ) -> State {
        State::Draining(self.begin_stop(serving, restart, Why::Failed(error), self.settings.grace, None, now))
    }
}
