//! The settings that a supervisor is given before it starts.

use std::time::Duration;

use crate::log::Log;
use crate::restart::RestartPolicy;

/// How long clients get to disconnect by default.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Whether a supervisor listens on an admin socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminSocket {
    /// It does not.
    Off,
    /// It does if possible. If its directory cannot be used, that is logged, and the server starts without it.
    Try,
    /// It does, or it does not start.
    Require,
}

/// What SIGHUP does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHup {
    /// It stops the server, as the other signals do.
    Stop,
    /// It restarts the server.
    Restart,
}

/// Where Enter is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// On stdin if that is a terminal. Any other stdin is left alone.
    Terminal,
    /// On stdin, whatever that is: each line is an Enter.
    Stdin,
}

/// A part of what makes up a generation. A restart reports which parts have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is: `grace`.
    pub name: String,
    /// For people: `30`.
    pub value: String,
    /// Its value is not shown, only that it has changed.
    pub secret: bool,
}

/// The settings that a restart can change: each generation has its own.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long clients get to disconnect, unless a trigger says otherwise.
    pub grace: Duration,
    /// How long a stop waits before it begins, unless it says otherwise: not ready, but still accepting, so that load
    /// balancers notice.
    pub delay: Duration,
    /// The time over which a drain notifies clients and closes connections, oldest first, unless a trigger says
    /// otherwise: at most the grace period. Zero: all at once.
    pub spread: Duration,
    /// How many connections are served at once, see [`worker::Server::max_connections`].
    pub max_connections: usize,
    /// When the server is started again after it has ended by itself.
    pub restart: RestartPolicy,
    /// How often the supervisor checks whether the server accepts connections. If it does not, it is restarted. None:
    /// never.
    pub check_every: Option<Duration>,
    /// Where the server's events are logged.
    pub log: Log,
    /// The parts of the generation, for people: none, unless a factory sets them.
    pub parts: Vec<Part>,
}

/// A relay between clients and a program, which listens on a port of its own: for Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayOptions {
    /// What the relay knows about the bytes.
    pub protocol: RelayProtocol,
    /// How long clients are held while no generation serves.
    pub wait: Duration,
    /// How many clients are connected at once, including those that are held.
    pub max_connections: usize,
}

/// What a relay knows about the bytes that it passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayProtocol {
    /// Nothing. A connection belongs to the generation that it was made to.
    Tcp,
    /// HTTP/1.0 and 1.1. Between two messages a connection moves to the generation that serves.
    Http {
        /// What becomes of `X-Forwarded-For` and `X-Forwarded-Proto`.
        forwarded: Forwarded,
        /// How long the program may take to begin its answer to a request. None: as long as it wants.
        answer_within: Option<Duration>,
    },
}

/// What a relay does with the header fields that tell a program about the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Forwarded {
    /// It appends the client's address to what the client sent.
    #[default]
    Append,
    /// It replaces what the client sent.
    Replace,
    /// Nothing.
    Off,
}
