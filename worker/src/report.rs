//! What is reported about connections.

use std::net::SocketAddr;
use std::time::Duration;

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client disconnected.
    Disconnected,
    /// The server closed it: it owed its client nothing, or the place of a slow client was needed.
    Closed,
    /// The server closed it at the deadline of a drain, although it was still in use.
    Forced,
}

/// What a connection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// It waits for the first byte of its next message.
    Idle,
    /// It works on a message.
    Busy,
    /// Its client has been notified that the server is going away.
    Draining,
    /// Behind a relay: it waits for a generation that serves.
    Held,
}

/// A connection as seen from outside.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// Its number, see [`Ids`](crate::Ids).
    pub id: u64,
    /// The client's address.
    pub peer: SocketAddr,
    /// Since the connection was accepted.
    pub age: Duration,
    /// What it is doing.
    pub activity: Activity,
    /// Bytes received from the client.
    pub received: u64,
    /// Bytes sent to the client.
    pub sent: u64,
}

/// How many connections a server has and had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Open at the moment.
    pub now: usize,
    /// Accepted since the start, including the open ones. A connection that moves is counted where it was accepted.
    pub total: u64,
    /// Refused because there were too many.
    pub refused: u64,
    /// Notified that the server is going away, in a drain or individually.
    pub notified: usize,
    /// Disconnected by their clients during a drain.
    pub disconnected: usize,
    /// Closed during a drain with nothing owed to them.
    pub closed: usize,
    /// Closed by force, at the deadline of a drain or of their own.
    pub forced: usize,
}

/// What became of the connections when a server stopped.
///
/// Each connection that was open when the stop began, or was accepted from the queue after it, is counted once as
/// disconnected, closed or forced. One that moved to the server's successor is none of these.
#[derive(Debug, Clone, Default)]
pub struct DrainReport {
    /// Clients that were notified.
    pub notified: usize,
    /// Clients that disconnected.
    pub disconnected: usize,
    /// Connections that were closed with nothing owed to their clients.
    pub closed: usize,
    /// Connections that were closed by force, as they were at that moment.
    pub forced: Vec<ConnectionInfo>,
    /// The forced connections whose handler could not be ended either.
    pub stuck: Vec<ConnectionInfo>,
    /// From the request until the last connection was gone.
    pub took: Duration,
}

/// How a connection that was closed by [`Stopper::close`](crate::Stopper::close) ended.
#[derive(Debug, Clone)]
pub struct Closed {
    /// As it was when it was asked to leave.
    pub connection: ConnectionInfo,
    /// How it ended.
    pub outcome: Outcome,
    /// Whether its handler still runs, because it could not be ended.
    pub stuck: bool,
}
