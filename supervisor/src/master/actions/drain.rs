//! An old generation drains.

use std::time::Instant;

use crate::master::Master;
use crate::master::gone::Gone;
use crate::master::restarts::Restart;
use crate::master::state::{Cause, Emptying, Rebuilding, Retiring, State};
use crate::master::stop::Countdown;
use crate::protocol::Progress;

impl Master {
    /// The old generation is gone, so the next one can be built.
    pub(in crate::master) fn emptied(&mut self, emptying: Emptying, gone: Gone, now: Instant) -> State {
        let (replaced, report) = gone.log(&self.identity.log);
        let cause = Cause::Emptied { restart: emptying.restart, replaced, report };
        self.builder.build(self.record.builds);
        State::Rebuilding(Rebuilding { cause, since: now })
    }

    pub(in crate::master) fn retired(&mut self, retiring: Retiring, gone: Gone, now: Instant) -> State {
        let replaced = gone.log(&self.identity.log);
        self.restarted(retiring.current, retiring.restart, Some(replaced), now)
    }

    pub(in crate::master) fn log_gone(&self, state: State, gone: Gone) -> State {
        gone.log(&self.identity.log);
        state
    }

    pub(in crate::master) fn count_down_emptying(&self, mut emptying: Emptying, now: Instant) -> State {
        self.count_down_old(emptying.generation, &emptying.restart, &mut emptying.countdown, now);
        State::Emptying(emptying)
    }

    pub(in crate::master) fn count_down_retiring(&self, mut retiring: Retiring, now: Instant) -> State {
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

    pub(in crate::master) fn report_drain(&self, generation: u64, restart: &Restart, now: Instant) {
        if let Some(old) = self.drains.of(generation) {
            restart.report(Progress::Draining(old.drain(now)));
        }
    }
}
