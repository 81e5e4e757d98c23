//! When a program counts as ready: it says so, it answers, or a time has passed.

use std::time::Duration;

use super::probe::Probe;

/// What shows that a program is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// One of its processes listens on a socket that is not from us (Linux), it sends `READY=1` on a socket that it has
    /// for its check, or it has run for a second, whichever comes first.
    Auto,
    /// It has run for this long.
    After(Duration),
    /// It sends `READY=1` to the socket in `NOTIFY_SOCKET`.
    #[cfg(unix)]
    Notify,
    /// It listens on this port (Linux).
    Port(u16),
    /// It answers this probe.
    Probe(Probe),
}

/// How long a program has to run to count as ready without any other evidence.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

/// How long to wait before the first check for readiness, and the longest wait between two checks. Nothing announces
/// readiness.
pub(super) const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// The same where each check starts a process.
#[cfg(unix)]
const COMMANDS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

impl Ready {
    /// The same for a program with this private port.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(super) fn at_port(&self, port: u16) -> Ready {
        match self {
            Ready::Auto => Ready::Port(port),
            Ready::Probe(probe) => Ready::Probe(probe.at_port(port)),
            Ready::After(_) | Ready::Port(_) => self.clone(),
            #[cfg(unix)]
            Ready::Notify => self.clone(),
        }
    }

    /// How long it has to run to count as ready without any other evidence. None: running is never enough.
    pub(super) fn enough(&self) -> Option<Duration> {
        match self {
            Ready::Auto => Some(LONG_ENOUGH),
            Ready::After(time) => Some(*time),
            Ready::Port(_) | Ready::Probe(_) => None,
            #[cfg(unix)]
            Ready::Notify => None,
        }
    }

    /// Whether `READY=1` shows it. If the user has said that something else shows it, the program has the socket only
    /// for its check.
    pub(super) fn is_announced(&self) -> bool {
        match self {
            Ready::Auto => true,
            Ready::After(_) | Ready::Port(_) | Ready::Probe(_) => false,
            #[cfg(unix)]
            Ready::Notify => true,
        }
    }

    /// How long to wait before the first check, and the longest wait between two. None: there is nothing to check.
    pub(super) fn looks(&self) -> Option<(Duration, Duration)> {
        match self {
            #[cfg(unix)]
            Ready::Probe(Probe::Exec(_)) => Some(COMMANDS),
            Ready::Auto | Ready::Port(_) | Ready::Probe(_) => Some(LOOKS),
            Ready::After(_) => None,
            #[cfg(unix)]
            Ready::Notify => None,
        }
    }
}
