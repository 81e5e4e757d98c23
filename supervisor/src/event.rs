//! All that can happen: what master control waits for.

use std::fmt;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::protocol::{Request, Response};
use crate::server::Built;
use crate::thread::BuildError;
use crate::tron::Tron;

/// Everything that master control hears of. Triggers only enqueue one of these. Those of a server carry the number of the
/// build that it came from.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody wants the server to stop.
    Stop {
        by: Trigger,
        /// How long clients get to leave. None: the supervisor's own grace period.
        grace: Option<Duration>,
    },
    /// Somebody wants a new generation of the server.
    Restart {
        by: Trigger,
        /// How long the clients of the old one get to leave. None: the supervisor's own grace period.
        grace: Option<Duration>,
    },
    /// A client of the admin socket asks for something.
    Request { request: Request, by: Trigger, reply: Sender<Response> },
    /// A server has been built, or why it has not.
    Built { build: u64, built: Result<Built, BuildError> },
    /// A server takes connections from now on.
    Accepting { build: u64 },
    /// A server takes no connections any more, though nobody asked for that. It lets its clients go. `well` says that it
    /// calls that no failure itself.
    Failed { build: u64, reason: String, well: bool },
    /// A signal that asks nothing of the supervisor has come, and is for the program.
    #[cfg_attr(windows, allow(dead_code))]
    Signal { signal: i32 },
    /// A server is done.
    Finished { build: u64 },
    /// Whether a server was found to take connections.
    Checked { build: u64, accepting: bool },
    /// The time has come that the state waited for.
    Tick,
}

/// What everybody has who tells master control something.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    events: Sender<Event>,
    /// Sees to it that master control deals with what it is told.
    tron: Option<Tron>,
}

/// Master control has ended.
#[derive(Debug)]
pub(crate) struct Gone;

impl Post {
    pub(crate) fn new(events: Sender<Event>, tron: Option<Tron>) -> Post {
        Post { events, tron }
    }

    pub(crate) fn send(&self, event: Event) -> Result<(), Gone> {
        self.events.send(event).map_err(|_| Gone)?;
        if let Some(tron) = &self.tron {
            tron.event_comes();
        }
        Ok(())
    }
}

/// What can ask for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// Enter on the console.
    Console,
    /// A signal, or on Windows a console event, by its name.
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
}

impl fmt::Display for Trigger {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trigger::Console => write!(formatter, "Enter"),
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
        }
    }
}
