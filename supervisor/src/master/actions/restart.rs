//! Restarts, from the request to the end, and all other builds.

use std::time::Instant;

use crate::log::Level;
use crate::master::Master;
use crate::master::live::Live;
use crate::master::restarts::Restart;
use crate::master::spread;
use crate::master::state::{Cause, Emptying, Preparing, Rebuilding, Replacing, State};
use crate::master::stop::{Countdown, Draining};
use crate::protocol::{Progress, Report};
use crate::text::{Seconds, milliseconds};

impl Master {
    /// Begins a restart: the next generation is built beside the current one, or after that one is gone.
    pub(in crate::master) fn restart(&mut self, current: Live, restart: Restart, now: Instant) -> State {
        let restart = self.queue.begin(restart);
        if self.builder.overlaps() {
            return State::Replacing(Replacing { current, restart, since: self.build(now) });
        }
        self.record.builds += 1;
        self.builder.prepare(self.record.builds);
        State::Preparing(Preparing { current, restart, since: now })
    }

    /// The next generation can be built, so the current one is stopped. From here on there is no way back.
    pub(in crate::master) fn empty(&mut self, preparing: Preparing, now: Instant) -> State {
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

    /// Builds the next generation at once, instead of at `until`, the time set by the restart policy.
    pub(in crate::master) fn try_now(&mut self, until: Instant, restart: Restart, now: Instant) -> State {
        let restart = self.queue.begin(restart);
        State::Rebuilding(Rebuilding { cause: Cause::Request { restart, until }, since: self.build(now) })
    }

    pub(in crate::master) fn try_again(&mut self, now: Instant) -> State {
        State::Rebuilding(Rebuilding { cause: Cause::Policy, since: self.build(now) })
    }

    /// Begins to build the next generation. Returns the start time.
    pub(in crate::master) fn build(&mut self, now: Instant) -> Instant {
        self.record.builds += 1;
        self.builder.build(self.record.builds);
        now
    }

    pub(in crate::master) fn enqueue(&mut self, state: State, restart: Restart) -> State {
        self.queue.push(restart);
        state
    }

    pub(in crate::master) fn refuse(&mut self, draining: Draining, restart: Restart) -> State {
        self.queue.cancel(Some(restart));
        State::Draining(draining)
    }

    /// Begins the next restart, if one is queued.
    pub(in crate::master) fn next(&mut self, current: Live, now: Instant) -> State {
        match self.queue.pop() {
            Some(restart) => self.restart(current, restart, now),
            None => self.serving(current, now),
        }
    }

    pub(in crate::master) fn restarted(
        &mut self,
        current: Live,
        restart: Restart,
        replaced: Option<(u64, Report)>,
        now: Instant,
    ) -> State {
        self.record.restarts += 1;
        if let Some(outage) = restart.outage(&current, now) {
            let message = format!("the outage is over: it lasted at most {}", Seconds(outage));
            self.identity.log.line(Level::Info, "outage_over", message, [("down_ms", milliseconds(outage).into())]);
        }
        restart.done(&current, replaced, now);
        self.next(current, now)
    }
}
