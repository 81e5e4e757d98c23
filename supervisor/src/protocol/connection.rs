//! Connections, and what becomes of them in a drain.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// How many connections an event or a report names. The counts beside them are complete.
pub const MAX_NAMED: usize = 20;

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// A drain in progress: of a stop, or of an old generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The old generation that drains. Omitted: it is a stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// What asked for it.
    pub by: String,
    /// How many connections are still open.
    pub open: usize,
    /// The time until the deadline, in milliseconds. Omitted: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_ms: Option<u64>,
    /// The connections that are still open, oldest first, up to [`MAX_NAMED`] of them.
    pub connections: Vec<Connection>,
    /// The same of a program that accepts its connections itself, as they were when it was last looked at. Omitted:
    /// none was seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub program_connections: Vec<ProgramConnection>,
}

/// What became of the connections when a server, or one generation of it, stopped. Each connection is counted once: as
/// disconnected, closed or forced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What asked for the stop.
    pub by: String,
    /// Clients that were notified.
    pub notified: usize,
    /// Clients that disconnected.
    pub disconnected: usize,
    /// Connections that the server closed because it owed their clients nothing.
    pub closed: usize,
    /// Connections that were closed by force at the deadline.
    pub forced: usize,
    /// Forced connections whose handler could not be ended.
    pub stuck: usize,
    /// Processes of a program that had to be killed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub killed: usize,
    /// How the program ended, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// The time from the request until the last connection was gone, in milliseconds.
    pub took_ms: u64,
    /// The connections that were closed by force, up to [`MAX_NAMED`] of them, those with a stuck handler first.
    pub connections: Vec<Connection>,
    /// The connections of a program that accepts them itself, as they were at the last look before its end, up to
    /// [`MAX_NAMED`] of them. A drain is looked at each second. Omitted: none was seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub held_up_by: Vec<ProgramConnection>,
}

/// One connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Its number, counted from 1 in the order of arrival.
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// The time since it was accepted, in milliseconds.
    pub age_ms: u64,
    /// What it is doing.
    pub activity: Activity,
    /// Bytes received from the client.
    #[serde(default)]
    pub received: u64,
    /// Bytes sent to the client.
    #[serde(default)]
    pub sent: u64,
    /// The generation that has it. Omitted: none has it, or it is in a report about one that is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// A TCP connection of a program that accepts its connections itself, as the system shows it.
///
/// `{"peer":"127.0.0.1:40000","address":"127.0.0.1:8000","state":"established","pid":4243,"receive_queue":0,
/// "send_queue":65536,"generation":1}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramConnection {
    /// The client's address.
    pub peer: SocketAddr,
    /// The address that it is connected to.
    pub address: SocketAddr,
    /// Its state.
    pub state: ConnectionState,
    /// A process of the program that has it open. Omitted: none has accepted it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Bytes that the program has not read yet.
    pub receive_queue: u64,
    /// Bytes that the client's system has not confirmed yet.
    pub send_queue: u64,
    /// The generation that has it. Omitted: none has accepted it yet, or it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
}

/// The state of a program's connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionState {
    /// It waits to be accepted.
    Waiting,
    /// Both sides may send.
    Established,
    /// The client has ended its side, and the program has not closed the connection.
    CloseWait,
    /// The program has ended its side.
    Closing,
    /// A word of a newer version.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for ConnectionState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ConnectionState::Waiting => "waiting to be accepted",
            ConnectionState::Established => "established",
            ConnectionState::CloseWait => "closed by the client",
            ConnectionState::Closing => "closed by the program",
            ConnectionState::Other(word) => word,
        })
    }
}

/// What a connection is doing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// Waiting for the client's next message.
    Idle,
    /// Working on a message.
    Busy,
    /// The client has been notified and has not disconnected yet.
    Draining,
    /// Closed by force, but the handler is still running.
    Stuck,
    /// Waiting for a program, since none serves, or for the end of a pause (with `--relay`).
    Held,
    /// A word of a newer version.
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Activity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Activity::Idle => "idle",
            Activity::Busy => "in the middle of a message",
            Activity::Draining => "draining",
            Activity::Stuck => "its handler hangs",
            Activity::Held => "waiting for a program",
            Activity::Other(word) => word,
        })
    }
}

/// How a connection ended that was to be closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The client disconnected.
    Disconnected,
    /// The server closed it because it owed the client nothing.
    Closed,
    /// Closed by force at the deadline.
    Forced,
    /// Closed by force, but the handler is still running.
    Stuck,
    /// A word of a newer version.
    #[serde(untagged)]
    Other(String),
}
