//! What a supervisor is told before it starts.

use std::time::Duration;

use crate::log::Log;
use crate::restart::RestartPolicy;

/// How long clients get to leave, unless told otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Whether a supervisor listens on an admin socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminSocket {
    /// It does not.
    Off,
    /// It does if it can. If its directory cannot be used, that is logged and the server is started without it.
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

/// Where Enter is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// On stdin if that is a terminal. Anything else is left to those it belongs to.
    Terminal,
    /// On stdin, whatever that is: each line is an Enter.
    Stdin,
}

/// One of the things that a generation is made of. A restart says which of them have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is: `grace`.
    pub name: String,
    /// For people: `30`.
    pub value: String,
    /// It is not shown, only that it has changed.
    pub secret: bool,
}

/// What a restart can change: each generation has settings of its own.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long clients get to leave, unless a trigger says otherwise.
    pub grace: Duration,
    /// How long a stop waits before it begins, unless it says otherwise: not ready, and still accepting, so that load
    /// balancers notice.
    pub delay: Duration,
    /// Over which time clients are notified and connections closed in a drain, oldest first, unless a trigger says
    /// otherwise: at most the grace period. Zero: all at once.
    pub spread: Duration,
    /// How many connections are served at once, see [`worker::Server::max_connections`].
    pub max_connections: usize,
    /// When the server is started again after it has ended by itself.
    pub restart: RestartPolicy,
    /// How often the supervisor looks whether the server accepts connections. One that does not is restarted. None:
    /// never.
    pub check_every: Option<Duration>,
    /// Where the server's events are logged.
    pub log: Log,
    /// What the generation is made of, for people: none, unless a factory says so.
    pub parts: Vec<Part>,
}

/// What stands between the clients of a program and the program, which listens on a port of its own: for Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayOptions {
    /// What is known of the bytes.
    pub protocol: RelayProtocol,
    /// How long clients are held while no generation serves.
    pub wait: Duration,
    /// How many clients are connected at once, those included that are held.
    pub max_connections: usize,
}

/// What is known of the bytes that are relayed.
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

/// What a relay does with the header fields by which a program learns of the client.
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
