//! The part of master control's state that is reported to a service manager.

use std::time::{Duration, Instant};

use crate::watchdog::OVERRUN;

/// How much longer than a deadline the service manager is asked to wait: the overrun, and time to clean up.
pub(crate) const MARGIN: Duration = OVERRUN.saturating_add(Duration::from_secs(4));

/// What is reported to the service manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) phase: Phase,
    /// One line of human-readable text.
    pub(crate) status: String,
    /// The latest end of the current phase. None if no end is awaited.
    pub(crate) deadline: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The server has not been ready yet. There is no message for this phase: it lasts until the manager is told
    /// something else.
    Starting,
    Ready,
    /// A requested restart is under way, with this build.
    Restarting {
        build: u64,
    },
    Stopping,
}
