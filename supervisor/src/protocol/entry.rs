//! The journal, as a client reads it.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An entry of the journal: something that has happened. With `--log json` the log on stderr has the same lines.
///
/// `{"seq":17,"time":"2026-01-31T12:00:00.000Z","level":"info","event":"stopping","message":"SIGTERM:
/// …","by":"SIGTERM",…}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Counted from 1 since the supervisor was started.
    pub seq: u64,
    /// When it happened, in UTC by RFC 3339.
    pub time: String,
    /// Its severity.
    pub level: Level,
    /// Its name, for programs.
    pub event: String,
    /// A sentence for people.
    pub message: String,
    /// Further members, depending on the event.
    #[serde(flatten)]
    pub fields: Map<String, Value>,
}

/// The severity of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// About one connection or request; only with `--verbose`.
    Detail,
    /// Normal operation.
    Info,
    /// Something is wrong, and the supervisor keeps running.
    Warning,
    /// Something failed.
    Error,
}
