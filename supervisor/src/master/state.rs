//! The states of master control, each with its data, and the inputs that can arrive in them.

use std::time::{Duration, Instant};

use worker::deadline_after;

use crate::protocol::Report;
use crate::server::{BuildError, Built, Failure};
use crate::settings::Settings;

use super::gone::Gone;
use super::live::Live;
use super::requests::StopRequest;
use super::restarts::Restart;
use super::stop::{Countdown, Draining};

/// What the server is doing.
#[derive(Debug)]
pub(super) enum State {
    /// The first generation is being built.
    Starting(Starting),
    /// The current generation serves, and nothing else is under way.
    Serving(Serving),
    /// The next generation is being built beside the current one.
    Replacing(Replacing),
    /// The current generation serves. It is stopped for the next one, if that can be built.
    Preparing(Preparing),
    /// The next generation is ready, and serves beside the current one until it has proved itself.
    Proving(Proving),
    /// The current generation drains, because the next one can be built only when it is gone.
    Emptying(Emptying),
    /// No generation serves, and the next one is being built.
    Rebuilding(Rebuilding),
    /// The current generation serves. The restart is complete when the one that it replaced is gone.
    Retiring(Retiring),
    /// No generation serves. The restart policy starts the next one later.
    Waiting(Waiting),
    /// All generations drain, and then the supervisor ends.
    Draining(Draining),
}

#[derive(Debug)]
pub(super) struct Starting {
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Serving {
    pub(super) current: Live,
    pub(super) check: Check,
}

#[derive(Debug)]
pub(super) struct Replacing {
    pub(super) current: Live,
    pub(super) restart: Restart,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Preparing {
    pub(super) current: Live,
    pub(super) restart: Restart,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Proving {
    pub(super) current: Live,
    pub(super) next: Live,
    /// The settings of the next generation.
    pub(super) settings: Settings,
    pub(super) restart: Restart,
    pub(super) until: Instant,
}

#[derive(Debug)]
pub(super) struct Emptying {
    pub(super) generation: u64,
    pub(super) restart: Restart,
    pub(super) countdown: Countdown,
}

#[derive(Debug)]
pub(super) struct Rebuilding {
    pub(super) cause: Cause,
    pub(super) since: Instant,
}

#[derive(Debug)]
pub(super) struct Retiring {
    pub(super) current: Live,
    pub(super) replaced: u64,
    pub(super) restart: Restart,
    pub(super) countdown: Countdown,
}

#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) until: Instant,
}

/// Whether the server is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    Never,
    At(Instant),
    UnderWay,
}

/// Why a generation is built while none serves.
#[derive(Debug)]
pub(super) enum Cause {
    /// The last one ended by itself, and the restart policy says that it is time.
    Policy,
    /// A restart was requested before the time that the policy had set.
    Request { restart: Restart, until: Instant },
    /// The current generation failed while its successor was being built. It had run for this long.
    Crash { restart: Restart, ran: Duration },
    /// The current generation had to be gone first.
    Emptied { restart: Restart, replaced: u64, report: Report },
}

/// The inputs of the table: events, as far as they depend on the state.
#[derive(Debug)]
pub(super) enum Input {
    Stop(StopRequest),
    /// The stop begins after this delay.
    StopLater(StopRequest, Duration),
    Restart(Restart),
    /// The next generation can be built. (If it cannot, that counts as a failed build.)
    Prepared,
    /// The build under way is done. (In a stop: any build.)
    Built(u64, Built),
    /// The build under way has failed, or takes too long.
    NotBuilt(BuildError),
    /// The current generation has ended by itself, and drains.
    Failed(Failure),
    /// The next generation has failed before it proved itself.
    NextFailed(Failure),
    /// No generation can serve any more, for this reason.
    PortFailed(String),
    /// An old generation has ended its drain.
    Gone(Gone),
    /// The current generation does not work, for this reason. It has not ended.
    Unhealthy(String),
    /// Whether the current generation was found to serve.
    Checked(bool),
    /// The time that the state waits for has come.
    Due,
}

impl State {
    /// When to act even if no event arrives. A build may take this long.
    pub(super) fn due(&self, build_limit: Duration) -> Option<Instant> {
        match self {
            State::Serving(Serving { check: Check::At(at), .. }) => Some(*at),
            State::Serving(Serving { check: Check::Never | Check::UnderWay, .. }) => None,
            State::Starting(Starting { since })
            | State::Replacing(Replacing { since, .. })
            | State::Preparing(Preparing { since, .. })
            | State::Rebuilding(Rebuilding { since, .. }) => Some(deadline_after(*since, build_limit)),
            State::Emptying(Emptying { countdown, .. }) | State::Retiring(Retiring { countdown, .. }) => {
                Some(countdown.next)
            }
            State::Waiting(Waiting { until }) | State::Proving(Proving { until, .. }) => Some(*until),
            State::Draining(draining) => Some(draining.countdown.next),
        }
    }

    /// Whether a build is under way.
    pub(super) fn is_building(&self) -> bool {
        match self {
            State::Starting(_) | State::Replacing(_) | State::Preparing(_) | State::Rebuilding(_) => true,
            State::Serving(_)
            | State::Proving(_)
            | State::Emptying(_)
            | State::Retiring(_)
            | State::Waiting(_)
            | State::Draining(_) => false,
        }
    }

    /// The generation that serves.
    pub(super) fn current(&self) -> Option<&Live> {
        match self {
            State::Serving(Serving { current, .. })
            | State::Replacing(Replacing { current, .. })
            | State::Preparing(Preparing { current, .. })
            | State::Proving(Proving { current, .. })
            | State::Retiring(Retiring { current, .. }) => Some(current),
            State::Starting(_) | State::Emptying(_) | State::Rebuilding(_) | State::Waiting(_) | State::Draining(_) => {
                None
            }
        }
    }

    /// The generation that serves beside the current one, and has to prove itself.
    pub(super) fn next(&self) -> Option<&Live> {
        match self {
            State::Proving(Proving { next, .. }) => Some(next),
            State::Starting(_)
            | State::Serving(_)
            | State::Replacing(_)
            | State::Preparing(_)
            | State::Emptying(_)
            | State::Rebuilding(_)
            | State::Retiring(_)
            | State::Waiting(_)
            | State::Draining(_) => None,
        }
    }

    /// All generations that serve.
    pub(super) fn serving(&self) -> impl Iterator<Item = &Live> {
        self.current().into_iter().chain(self.next())
    }

    /// The supervisor ends: returns the generations that serve, and the unfinished restart.
    pub(super) fn dissolve(self) -> (Vec<Live>, Option<Restart>) {
        match self {
            State::Starting(_) | State::Waiting(_) | State::Draining(_) => (Vec::new(), None),
            State::Serving(Serving { current, .. }) => (vec![current], None),
            State::Replacing(Replacing { current, restart, .. })
            | State::Preparing(Preparing { current, restart, .. })
            | State::Retiring(Retiring { current, restart, .. }) => (vec![current], Some(restart)),
            State::Proving(Proving { current, next, restart, .. }) => (vec![current, next], Some(restart)),
            State::Emptying(Emptying { restart, .. }) => (Vec::new(), Some(restart)),
            State::Rebuilding(Rebuilding { cause, .. }) => (Vec::new(), cause.into_restart()),
        }
    }

    /// The old generation whose end completes a restart, and that restart.
    pub(super) fn awaits_old(&self) -> Option<(u64, &Restart)> {
        match self {
            State::Emptying(Emptying { generation: replaced, restart, .. })
            | State::Retiring(Retiring { replaced, restart, .. }) => Some((*replaced, restart)),
            State::Starting(_)
            | State::Serving(_)
            | State::Replacing(_)
            | State::Preparing(_)
            | State::Proving(_)
            | State::Rebuilding(_)
            | State::Waiting(_)
            | State::Draining(_) => None,
        }
    }
}

impl Cause {
    /// The restart that is under way.
    pub(super) fn restart(&self) -> Option<&Restart> {
        match self {
            Cause::Policy => None,
            Cause::Request { restart, .. } | Cause::Crash { restart, .. } | Cause::Emptied { restart, .. } => {
                Some(restart)
            }
        }
    }

    pub(super) fn into_restart(self) -> Option<Restart> {
        match self {
            Cause::Policy => None,
            Cause::Request { restart, .. } | Cause::Crash { restart, .. } | Cause::Emptied { restart, .. } => {
                Some(restart)
            }
        }
    }
}
