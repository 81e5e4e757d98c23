//! The answer to a request.

use serde::{Deserialize, Serialize};

use super::connection::{Drain, Outcome, Report};
use super::status::{Delay, Status};

/// How many changes an answer or an event names.
pub const MAX_CHANGES: usize = 50;

/// The answer to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Answer {
    /// The same in all versions of the protocol, except for added fields.
    ///
    /// `{"result":"pong","name":"echo","pid":4242,"version":"0.1.0"}`
    Pong {
        /// The instance's name.
        name: String,
        /// The supervisor's process id.
        pid: u32,
        /// The supervisor's version.
        version: String,
    },
    /// The status of a supervisor and its server.
    ///
    /// `{"result":"status","name":"echo","kind":"echo","state":"serving","pid":4242,…}`
    Status(Box<Status>),
    /// All connections have been listed.
    ///
    /// `{"result":"connections","open":2}`
    Connections {
        /// How many there are.
        open: usize,
    },
    /// The connection has ended.
    ///
    /// `{"result":"closed","id":17,"outcome":"disconnected"}`
    Closed {
        /// The connection's number.
        id: u64,
        /// How it ended.
        outcome: Outcome,
    },
    /// The deadline has been moved.
    ///
    /// `{"result":"moved","drains":[…]}`
    Moved {
        /// The drains in progress.
        drains: Vec<Drain>,
    },
    /// Whether new clients may be sent here.
    ///
    /// `{"result":"readiness","ready":true,"undone":["stop"]}`
    Readiness {
        /// They may.
        ready: bool,
        /// What `resume` has undone. Omitted: nothing.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        undone: Vec<Undone>,
    },
    /// It is paused, and nothing is under way any more.
    ///
    /// `{"result":"paused","remaining_ms":29998}`
    Paused {
        /// The time until the pause is over, in milliseconds. Omitted: it has no limit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        remaining_ms: Option<u64>,
    },
    /// The pause that this client has held is over.
    ///
    /// `{"result":"resumed","took_ms":2013}`
    Resumed {
        /// How long it has lasted, in milliseconds.
        took_ms: u64,
        /// Why it was over before its client let it go. Omitted: it was not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        early: Option<String>,
    },
    /// The signal has been sent to the program.
    ///
    /// `{"result":"signaled","signal":1}`
    Signaled {
        /// The signal's number.
        signal: i32,
    },
    /// The stop is scheduled, and the request does not wait for it.
    ///
    /// `{"result":"delayed","by":"admin client (user 1000, pid 77)","remaining_ms":5000}`
    Delayed(Delay),
    /// The stop has begun, and the request does not wait for it.
    ///
    /// `{"result":"stopping","by":"admin client (user 1000, pid 77)","open":2,"remaining_ms":5000,"connections":[…]}`
    Stopping(Drain),
    /// The server has stopped. The port is free, and so is the instance's name.
    ///
    /// `{"result":"stopped","report":{…}}`
    Stopped {
        /// What became of the connections.
        report: Report,
    },
    /// The restart has been accepted, and the request does not wait for it.
    ///
    /// `{"result":"restarting","ahead":0}`
    Restarting {
        /// How many restarts run before this one. 0: it has begun.
        ahead: usize,
    },
    /// The new generation serves, and the old one is gone.
    ///
    /// `{"result":"restarted","generation":2,"replaced":1,"report":{…}}`
    Restarted {
        /// The number of the generation that serves now.
        generation: u64,
        /// The number of the generation that it replaced. Omitted: none was running, because the server had crashed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replaced: Option<u64>,
        /// What became of that one's connections.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<Report>,
        /// What is different about it: up to [`MAX_CHANGES`], and if there are more, one named `and 1450 more` after them.
        /// Omitted: unknown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changes: Option<Vec<Change>>,
        /// What proved that it is ready, if it is a program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        evidence: Option<String>,
        /// How long the outage lasted at most, in milliseconds: from the request to stop until the next program was
        /// known to be ready. Omitted: there was none, or nothing shows that the next program takes connections.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        down_ms: Option<u64>,
    },
    /// There are no more events at present.
    ///
    /// `{"result":"events","last":21}`
    Events {
        /// The number of the last one.
        last: u64,
    },
    /// The request could not be carried out.
    ///
    /// `{"result":"error","code":"bad_request","message":"…"}`
    Error(Refusal),
}

/// What `resume` undoes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    /// A drain request.
    Drain,
    /// A scheduled stop.
    Stop,
    /// A pause.
    Pause,
    /// A word of a newer version.
    #[serde(untagged)]
    Other(String),
}

/// A difference between a generation and the one before. With neither value it has changed and is not shown, as with
/// the value of a variable.
///
/// `{"name":"grace","from":"5","to":"30"}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What differs: `program`, `directory`, the name of a setting.
    pub name: String,
    /// The old value. Omitted: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The new value. Omitted: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// Why a request was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// For programs.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

/// The kind of refusal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request is not one of this protocol, or is longer than 64 KiB.
    BadRequest,
    /// The request has a version that the supervisor does not speak.
    UnsupportedVersion,
    /// The client is neither the supervisor's user nor root.
    NotPermitted,
    /// Too many clients are connected to the admin socket, or follow the events.
    Busy,
    /// The server failed instead of being stopped, or a restart failed.
    Failed,
    /// The server is being stopped. It is not restarted any more, and the stop cannot be cancelled.
    Stopping,
    /// No drain is in progress.
    NotDraining,
    /// There is no such connection.
    NoConnection,
    /// The scheduled stop was cancelled.
    Cancelled,
    /// A word of a newer version.
    #[serde(untagged)]
    Other(String),
}
