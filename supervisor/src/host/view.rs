//! The part of master control's state that a service manager gets.

use std::time::{Duration, Instant};

use crate::watchdog::OVERRUN;

/// How much longer than until a deadline the service manager is asked to wait: the overrun, and time to tidy up.
pub(crate) const MARGIN: Duration = OVERRUN.saturating_add(Duration::from_secs(4));

/// What the service manager gets to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    /// For people, in a line.
    pub(crate) status: String,
    /// When what is under way is over at the latest. None where that is not awaited.
    pub(crate) deadline: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The server has not been ready yet. There is no word for that: it is so until the manager hears something else.
    Starting,
    Ready,
    /// A requested restart is under way, by this build.
    Restarting {
        build: u64,
    },
    Stopping,
}
