//! What is sent while a request is in progress.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::connection::MAX_NAMED;
use super::connection::{Connection, Drain, ProgramConnection};
use super::status::Delay;

/// Sent while a request is in progress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Progress {
    /// Sent when a drain begins, once a second while it lasts, and when its deadline moves.
    ///
    /// `{"event":"draining","by":"SIGTERM","open":2,"remaining_ms":4999,"connections":[…]}`
    Draining(Drain),
    /// Some of the connections, up to [`MAX_NAMED`] of them.
    ///
    /// `{"event":"connections","connections":[…]}`
    Connections {
        /// Oldest first.
        connections: Vec<Connection>,
    },
    /// Some of the connections of a program that accepts them itself, up to [`MAX_NAMED`] of them.
    ///
    /// `{"event":"program_connections","connections":[…]}`
    ProgramConnections {
        /// Those with the longest queues first.
        connections: Vec<ProgramConnection>,
    },
    /// The client of this connection is asked to disconnect.
    ///
    /// `{"event":"closing","connection":{…}}`
    Closing {
        /// As it is now.
        connection: Connection,
    },
    /// The stop is scheduled.
    ///
    /// `{"event":"delayed","by":"admin client (user 1000, pid 77)","remaining_ms":5000}`
    Delayed(Delay),
    /// No new client and no request reaches the server from now on.
    ///
    /// `{"event":"paused","under_way":2,"is_quiet":false,"remaining_ms":30000}`
    Paused {
        /// How many requests were under way.
        under_way: usize,
        /// None is any more.
        is_quiet: bool,
        /// The time until the pause is over, in milliseconds. Omitted: it has no limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remaining_ms: Option<u64>,
    },
    /// Sent when a restart is accepted, and again when it begins.
    ///
    /// `{"event":"restarting","ahead":1}`
    Restarting {
        /// How many restarts run before this one. 0: it has begun.
        ahead: usize,
    },
    /// Nothing serves until the next generation does, because the two cannot run side by side.
    ///
    /// `{"event":"outage","generation":1}`
    Outage {
        /// The generation that ends.
        generation: u64,
    },
    /// The new generation serves.
    ///
    /// `{"event":"serving","generation":2}`
    Serving {
        /// Its number.
        generation: u64,
    },
    /// Where reading the journal begins. Sent before the first entry, and again if entries were dropped because the
    /// client reads too slowly.
    ///
    /// `{"event":"journal","began":"2026-01-31T12:00:00.000Z","next":18,"missed":0}`
    Journal {
        /// When this journal began, with the supervisor. After a new start of the supervisor there is a new journal,
        /// which counts from 1 and has another time here.
        began: String,
        /// The number of the next entry.
        next: u64,
        /// How many entries before that one the client should have received, and are no longer kept.
        missed: u64,
    },
}
