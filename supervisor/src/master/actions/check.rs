//! Checks of the current generation.

use std::time::{Duration, Instant};

use crate::event::Trigger;
use crate::log::Level;
use crate::master::Master;
use crate::master::live::Live;
use crate::master::restarts::Restart;
use crate::master::state::{Check, Retiring, Serving, State};

/// How long a generation may take to answer a check, at most and at least.
const CHECK_LIMIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

impl Master {
    pub(in crate::master) fn check(&self, serving: Serving) -> State {
        let every = self.settings.check_every.unwrap_or(CHECK_LIMIT.0);
        serving.current.generation.check(every.clamp(CHECK_LIMIT.1, CHECK_LIMIT.0));
        State::Serving(Serving { check: Check::UnderWay, ..serving })
    }

    pub(in crate::master) fn checked(&self, serving: Serving, accepting: bool, now: Instant) -> State {
        let mut current = serving.current;
        if !accepting {
            // It reports its failure, and the rest follows from that.
            current.generation.give_up("it does not accept connections");
        }
        self.serving(current, now)
    }

    /// The current generation does not work. It is replaced by a new one, which starts beside it if possible.
    pub(in crate::master) fn unhealthy(&mut self, serving: Serving, reason: &str, now: Instant) -> State {
        self.log_unhealthy(&serving.current, reason);
        let mut current = serving.current;
        if self.builder.overlaps() {
            return self.restart(current, Restart::new(Trigger::Check, None, None), now);
        }
        // It reports its failure, and the rest follows from that.
        current.generation.give_up(reason);
        self.serving(current, now)
    }

    /// The current generation does not work, and the one that it has replaced still drains.
    pub(in crate::master) fn unhealthy_already(&mut self, mut retiring: Retiring, reason: &str, now: Instant) -> State {
        self.log_unhealthy(&retiring.current, reason);
        // One that was to mend another one's failure has failed, too: the restart policy decides.
        if retiring.restart.by == Trigger::Check {
            retiring.current.generation.give_up(reason);
            return State::Retiring(retiring);
        }
        let Retiring { current, replaced, restart, countdown: _ } = retiring;
        restart.failed(format!(
            "generation {} has replaced generation {replaced}, and does not work, so it is being replaced as well: {reason}",
            current.number
        ));
        self.restart(current, Restart::new(Trigger::Check, None, None), now)
    }

    fn log_unhealthy(&self, current: &Live, reason: &str) {
        let message = format!("generation {} does not work: {reason}", current.number);
        let fields = [("generation", current.number.into()), ("reason", reason.into())];
        self.identity.log.line(Level::Error, "unhealthy", message, fields);
    }
}
