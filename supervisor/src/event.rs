//! All that can happen: what master control waits for.

use std::fmt;
use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::protocol::{Request, Response};

/// Everything that master control hears of. Triggers only enqueue one of these.
#[derive(Debug)]
pub(crate) enum Event {
    /// Somebody wants the server to stop.
    Stop {
        by: Trigger,
        /// How long clients get to leave. None: the supervisor's own grace period.
        grace: Option<Duration>,
    },
    /// A client of the admin socket asks for something.
    Request { request: Request, by: Trigger, reply: Sender<Response> },
    /// The server thread is done.
    ServerFinished,
    /// The time has come that the state waited for.
    Tick,
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
