//! What a supervisor is doing.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::connection::Drain;

/// What a supervisor is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The server has not been ready yet.
    Starting,
    /// Clients are served.
    Serving,
    /// The server is being replaced by a new generation. Clients are served.
    Restarting,
    /// The server has crashed. It is started again soon; clients wait until then.
    Waiting,
    /// The server is being stopped.
    Draining,
    /// A word of a newer version.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for State {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            State::Starting => "starting",
            State::Serving => "serving",
            State::Restarting => "restarting",
            State::Waiting => "waiting",
            State::Draining => "draining",
            State::Other(word) => word,
        })
    }
}

/// The status of a supervisor and its server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The instance's name.
    pub name: String,
    /// The kind of server: `echo`, `command`, `http`, `exec`, or the name that a library user chose.
    pub kind: String,
    /// Its state.
    pub state: State,
    /// How long it has been in that state, in milliseconds.
    #[serde(default)]
    pub state_ms: u64,
    /// Whether new clients may be sent here.
    #[serde(default)]
    pub ready: bool,
    /// Why nothing can be served at the moment, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
    /// The `STATUS` that the program reported with `sd_notify(3)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
    /// What proved that the program is ready, for people: `it listens on 127.0.0.1:8000`. Omitted: the server is not a
    /// program, none serves, or it ended before it was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// The supervisor's process id.
    pub pid: u32,
    /// The address that the server listens on, or listened on before the drain: the first one with a port. Omitted:
    /// there is none, or the program binds its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<SocketAddr>,
    /// All addresses that the server listens on: `127.0.0.1:8000`, or the path of a Unix socket. Omitted: the program
    /// binds its own, or the supervisor is an older one, which reports only `address`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// The program of `exec` with its arguments, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The process id of the program that serves. None: the server is not a program, or none runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_pid: Option<u32>,
    /// The address of the health endpoint, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<SocketAddr>,
    /// Since the start, in milliseconds.
    pub uptime_ms: u64,
    /// The number of the generation that serves, or served last.
    #[serde(default)]
    pub generation: u64,
    /// How many restarts were requested and have succeeded.
    #[serde(default)]
    pub restarts: usize,
    /// How many times the server has crashed.
    #[serde(default)]
    pub crashes: usize,
    /// How many connections there are and were, in all generations. Omitted: only the program knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<Counts>,
    /// What stands between the clients and the program. Omitted: there is no relay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub relay: Option<Relay>,
    /// The drain in progress: of the whole server during a stop, otherwise of an old generation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// The last crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_end: Option<LastEnd>,
    /// The scheduled stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
    /// The pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<Pause>,
    /// When it is started again, in milliseconds from now, after a crash.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_ms: Option<u64>,
    /// The supervisor's version.
    pub version: String,
}

impl Status {
    /// All known addresses.
    pub fn all_addresses(&self) -> Vec<String> {
        match (&self.addresses[..], self.address) {
            ([], Some(address)) => vec![address.to_string()],
            (addresses, _) => addresses.to_vec(),
        }
    }

    /// Whether one of the server's addresses has this port.
    pub fn has_port(&self, port: u16) -> bool {
        let mut addresses = self.all_addresses().into_iter().filter_map(|address| address.parse().ok());
        addresses.any(|address: SocketAddr| address.port() == port)
    }

    /// Whether the health endpoint has this port.
    pub fn has_health_port(&self, port: u16) -> bool {
        self.health.is_some_and(|address| address.port() == port)
    }
}

/// A crash of the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastEnd {
    /// The generation that ended, or could not be started.
    pub generation: u64,
    /// Why, for people.
    pub reason: String,
    /// The last lines that a program wrote to stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_output: Vec<String>,
    /// How long ago, in milliseconds.
    pub ago_ms: u64,
}

/// How many connections there are and were.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Open at the moment.
    pub now: usize,
    /// Accepted since the start.
    pub total: u64,
    /// Refused because there were too many.
    pub refused: u64,
    /// Notified, in drains, that the server goes away.
    #[serde(default)]
    pub notified: usize,
    /// Closed by force.
    #[serde(default)]
    pub forced: usize,
}

/// A relay, which passes the connections of clients on to a program.
///
/// `{"protocol":"http","upstream":"127.0.0.1:21873","held":0,"longest_wait_ms":212,…}`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// What it knows of the bytes: `http` or `tcp`.
    pub protocol: String,
    /// Where the program listens that serves. Omitted: none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upstream: Option<SocketAddr>,
    /// How many clients and requests wait for a program, or for the end of a pause.
    pub held: usize,
    /// How long the one that waited longest had to, since the last restart began, in milliseconds.
    pub longest_wait_ms: u64,
    /// Connections to the program that could not be made, that ended without an answer or in the middle of one, or that
    /// brought none in time.
    pub upstream_failures: u64,
    /// Clients without a request that were held, and that no program served in time.
    pub given_up: u64,
    /// What became of the requests. Omitted: the relay does not know requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<Requests>,
}

/// How many requests were answered, and how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Requests {
    /// By the program with a status of 200 to 299, or with 101.
    pub succeeded: u64,
    /// By the program with a status of 300 to 399.
    pub redirected: u64,
    /// By the program with a status of 400 to 499.
    pub client_errors: u64,
    /// By the program with a status of 500 to 599.
    pub server_errors: u64,
    /// By the relay, because of what they are: 400, 408, 431, 501, 505.
    pub rejected: u64,
    /// By the relay with 502: the program could not be reached, or did not answer.
    pub bad_gateway: u64,
    /// By the relay with 503: no program served in time, or there were too many clients.
    pub unavailable: u64,
    /// By the relay with 504: the program did not answer in time.
    pub gateway_timeout: u64,
    /// Sent to the program once more, because it had closed a connection that it had kept alive.
    pub retries: u64,
}

/// A scheduled stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delay {
    /// What asked for it.
    pub by: String,
    /// The time until it begins, in milliseconds. Omitted: it begins with the next request to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
}

/// A pause: clients and requests wait.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// What asked for it.
    pub by: String,
    /// How long it has lasted, in milliseconds.
    pub paused_ms: u64,
    /// The time until it is over, in milliseconds. Omitted: it has no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
}
