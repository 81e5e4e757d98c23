//! Everything that can happen: the events that master control waits for.

use std::fmt;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::protocol::{Request, Response};
use crate::server::{BuildError, Built, Failure};
use crate::watchdog::Watchdog;

/// Everything that master control receives. Triggers only enqueue one of these. Events of a server carry the number of
/// the build that it came from.
#[derive(Debug)]
pub(crate) enum Event {
    /// A request to stop the server.
    Stop {
        by: Trigger,
        /// How long clients get to disconnect. None: the supervisor's own grace period.
        grace: Option<Duration>,
    },
    /// A request for a new generation of the server.
    Restart {
        by: Trigger,
        /// How long clients of the old one get to disconnect. None: the supervisor's own grace period.
        grace: Option<Duration>,
    },
    /// A client of the admin socket requests something.
    Request { request: Request, by: Trigger, reply: Sender<Response> },
    /// A client of the admin socket requests a pause. `holder`: its connection holds the pause, which ends with it.
    Pause { by: Trigger, max: Option<Duration>, holder: Option<u64>, reply: Sender<Response> },
    /// In the pause with this number, nothing is under way any more.
    Quiet { pause: u64 },
    /// This client has released its pause, or is gone.
    HolderGone { holder: u64 },
    /// Whether a server can be built, as far as that is known beforehand.
    Prepared { build: u64, prepared: Result<(), BuildError> },
    /// A server has been built, or could not be.
    Built { build: u64, built: Result<Built, BuildError> },
    /// A server no longer accepts connections, although nothing asked it to end. It lets its clients go.
    Exited { build: u64, failure: Failure },
    /// No generation can accept connections any more: the listening socket has failed for good.
    PortFailed { reason: String },
    /// A signal has arrived that asks nothing of the supervisor, and is for the program.
    #[cfg_attr(windows, allow(dead_code))]
    Signal { signal: i32 },
    /// A server is done.
    Finished { build: u64 },
    /// A server no longer works, for this reason. It has not ended. `wrote`: its last lines on stderr.
    Unhealthy { build: u64, reason: String, wrote: Vec<String> },
    /// Whether a server was found to accept connections.
    Checked { build: u64, accepting: bool },
    /// The time that the state waited for has come.
    Tick,
}

/// Sends events to master control.
#[derive(Debug, Clone)]
pub(crate) struct EventSender {
    events: Sender<Event>,
    /// Makes sure that master control handles what it is sent.
    watchdog: Option<Watchdog>,
}

/// Master control has ended.
#[derive(Debug)]
pub(crate) struct Closed;

impl EventSender {
    pub(crate) fn new(events: Sender<Event>, watchdog: Option<Watchdog>) -> EventSender {
        EventSender { events, watchdog }
    }

    pub(crate) fn send(&self, event: Event) -> Result<(), Closed> {
        self.events.send(event).map_err(|_| Closed)?;
        if let Some(watchdog) = &self.watchdog {
            watchdog.event_queued();
        }
        Ok(())
    }
}

/// A source of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// Enter on the console.
    Console,
    /// An event that Windows sends to the processes of a console.
    ConsoleEvent(ConsoleEvent),
    /// The host's service manager, on Windows. (On Unix it sends signals.)
    ServiceManager(ServiceControl),
    /// A signal.
    Signal {
        /// The signal's name, such as `SIGTERM`.
        name: &'static str,
        /// The process that sent it, where the system tells.
        sender: Option<u32>,
    },
    /// A client of the admin socket.
    Admin {
        /// The client's user id, where the system tells.
        user: Option<u32>,
        /// The client's process id, where the system tells.
        pid: Option<u32>,
    },
    /// A call in code.
    Code,
    /// The check of the server, which failed.
    Check,
}

impl Trigger {
    /// What a person presses again to force a stop. None: it was not a key.
    pub(crate) fn key(&self) -> Option<&'static str> {
        match self {
            Trigger::Console => Some("Enter"),
            // From a terminal, which is not a process.
            Trigger::Signal { name: "SIGINT", sender: None } | Trigger::ConsoleEvent(ConsoleEvent::CtrlC) => {
                Some("Ctrl-C")
            }
            Trigger::ConsoleEvent(_)
            | Trigger::ServiceManager(_)
            | Trigger::Signal { .. }
            | Trigger::Admin { .. }
            | Trigger::Code
            | Trigger::Check => None,
        }
    }

    /// The longest grace period that it allows. None: any.
    pub(crate) fn limit(&self) -> Option<Duration> {
        match self {
            Trigger::ConsoleEvent(event) => event.limit(),
            Trigger::Console
            | Trigger::ServiceManager(_)
            | Trigger::Signal { .. }
            | Trigger::Admin { .. }
            | Trigger::Code
            | Trigger::Check => None,
        }
    }
}

/// A console event of Windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConsoleEvent {
    /// Ctrl-C.
    CtrlC,
    /// Ctrl-Break.
    CtrlBreak,
    /// The console's window is closed.
    Close,
    /// The user logs off.
    Logoff,
    /// The system shuts down.
    Shutdown,
}

/// Windows ends the process five seconds after it has reported one of these, unless the user has changed that
/// (HungAppTimeout, WaitToKillAppTimeout). The rest is for the end of the process.
const LIMIT: Duration = Duration::from_secs(4);

impl ConsoleEvent {
    fn limit(self) -> Option<Duration> {
        match self {
            ConsoleEvent::CtrlC | ConsoleEvent::CtrlBreak => None,
            ConsoleEvent::Close | ConsoleEvent::Logoff | ConsoleEvent::Shutdown => Some(LIMIT),
        }
    }
}

/// What the service manager of Windows can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceControl {
    /// A request to stop the service.
    Stop,
    /// The system is about to shut down.
    Shutdown,
}

impl ServiceControl {
    /// What a control code of the service manager (`SERVICE_CONTROL_…`) requests. None: nothing.
    #[cfg_attr(all(unix, not(test)), allow(dead_code))]
    pub(crate) fn of(control: u32) -> Option<ServiceControl> {
        match control {
            1 => Some(ServiceControl::Stop),
            // Besides the control of that name, there is an earlier one that leaves time (PRESHUTDOWN).
            5 | 15 => Some(ServiceControl::Shutdown),
            _ => None,
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Console => write!(formatter, "Enter"),
            Trigger::ConsoleEvent(ConsoleEvent::CtrlC) => write!(formatter, "Ctrl-C"),
            Trigger::ConsoleEvent(ConsoleEvent::CtrlBreak) => write!(formatter, "Ctrl-Break"),
            Trigger::ConsoleEvent(ConsoleEvent::Close) => write!(formatter, "closed window"),
            Trigger::ConsoleEvent(ConsoleEvent::Logoff) => write!(formatter, "logoff"),
            Trigger::ConsoleEvent(ConsoleEvent::Shutdown) => write!(formatter, "system shutdown"),
            Trigger::ServiceManager(ServiceControl::Stop) => write!(formatter, "service manager"),
            Trigger::ServiceManager(ServiceControl::Shutdown) => write!(formatter, "service manager (system shutdown)"),
            Trigger::Signal { name, sender: None } => write!(formatter, "{name}"),
            Trigger::Signal { name, sender: Some(pid) } => write!(formatter, "{name} (from pid {pid})"),
            Trigger::Admin { user, pid } => {
                write!(formatter, "admin client")?;
                match (user, pid) {
                    (Some(user), Some(pid)) => write!(formatter, " (user {user}, pid {pid})"),
                    (Some(user), None) => write!(formatter, " (user {user})"),
                    (None, Some(pid)) => write!(formatter, " (pid {pid})"),
                    (None, None) => Ok(()),
                }
            }
            Trigger::Code => write!(formatter, "code"),
            Trigger::Check => write!(formatter, "failed check"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_leaves_less_than_five_seconds_when_the_window_is_closed_and_at_the_end_of_the_session() {
        use ConsoleEvent::{Close, CtrlBreak, CtrlC, Logoff, Shutdown};
        for (event, is_limited) in [(CtrlC, false), (CtrlBreak, false), (Close, true), (Logoff, true), (Shutdown, true)]
        {
            let limit = Trigger::ConsoleEvent(event).limit();
            assert_eq!(limit.is_some_and(|limit| limit < Duration::from_secs(5)), is_limited, "{event:?}");
        }
        // A service has the time that was requested at its installation.
        assert_eq!(Trigger::ServiceManager(ServiceControl::Shutdown).limit(), None);
    }

    #[test]
    fn stop_and_shutdown_of_the_service_manager_are_orders_and_nothing_else_is() {
        // STOP, PAUSE, CONTINUE, INTERROGATE, SHUTDOWN, PARAMCHANGE, SESSIONCHANGE, PRESHUTDOWN, and a user's own.
        let asked = [1, 2, 3, 4, 5, 6, 14, 15, 128].map(ServiceControl::of);
        let (stop, shutdown) = (Some(ServiceControl::Stop), Some(ServiceControl::Shutdown));
        assert_eq!(asked, [stop, None, None, None, shutdown, None, None, shutdown, None]);
    }
}
