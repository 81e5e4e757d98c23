//! The admin protocol. This file is its specification.
//!
//! A client connects to the admin socket (on Windows: the named pipe) and sends one request: one JSON object on one
//! line, in UTF-8, at most 64 KiB long. The supervisor sends any number of event lines, then one result line, and closes
//! the connection: one request per connection. An event line with a `seq` is an [`Entry`] of the journal, sent only in
//! answer to `events`; every other event line is [`Progress`].
//!
//! ```text
//! -> {"v":1,"request":"stop","grace_ms":5000}
//! <- {"event":"draining","by":"admin client (user 1000, pid 77)","open":2,"remaining_ms":4999,"connections":[…]}
//! <- {"result":"stopped","report":{"by":"…","notified":2,"disconnected":2,"closed":0,"forced":0,"stuck":0,"took_ms":740,"connections":[]}}
//! ```
//!
//! `v` is the protocol's version, 1. A request with another version, an unknown request, an unknown field and a
//! duplicate field are answered with an error that names the supervisor's version. `ping` is answered for any `v`, so a
//! client that does not understand the supervisor can still ask for its version.
//!
//! Requests, fields, events and words such as those of [`State`] may be added without a new `v`. Clients ignore fields
//! and events that they do not know, and show unknown words as they are.

mod members;

use std::fmt;
use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use members::Members;

/// The version of the protocol that this file specifies.
pub const VERSION: u64 = 1;

/// The version of the supervisor, which is not the protocol's.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The longest line, in bytes, its line feed included.
pub const MAX_LINE: usize = 64 * 1024;

/// How many connections an event or a report names. The counts beside them are complete.
pub const MAX_NAMED: usize = 20;

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Asks whether the supervisor is running. Answered with [`Answer::Pong`].
    ///
    /// `{"v":1,"request":"ping"}`
    Ping {},
    /// Answered with [`Answer::Status`].
    ///
    /// `{"v":1,"request":"status"}`
    Status {},
    /// Lists the open connections. Answered with as many [`Progress::Connections`] events as it takes, or
    /// [`Progress::ProgramConnections`] for a program that accepts them itself, and then [`Answer::Connections`].
    ///
    /// `{"v":1,"request":"connections"}`
    Connections {},
    /// Ends one connection: its client is notified, and the connection is closed by force if it is still open when the
    /// grace period is over. Answered with [`Progress::Closing`] and then [`Answer::Closed`].
    ///
    /// `{"v":1,"request":"close","id":17,"grace_ms":5000}`
    Close {
        /// The connection's number.
        id: u64,
        /// How long the client gets to disconnect, in milliseconds. Omitted: the supervisor's own grace period.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
    },
    /// Moves the deadline of the drain under way, of a stop or of an old generation, to this long from now: later or
    /// earlier. Clients that wait for that drain get an event. Answered with [`Answer::Moved`].
    ///
    /// `{"v":1,"request":"grace","grace_ms":30000}`
    Grace {
        /// How long clients get to disconnect from now on, in milliseconds.
        grace_ms: u64,
    },
    /// Reports not ready for new clients. Clients that connect are still served. Answered with [`Answer::Readiness`].
    ///
    /// `{"v":1,"request":"drain"}`
    Drain {},
    /// Undoes a drain request, a pause and a scheduled stop, whichever is in force. Answered with [`Answer::Readiness`], or
    /// with [`ErrorCode::Stopping`] when a stop has begun.
    ///
    /// `{"v":1,"request":"resume"}`
    Resume {},
    /// Pauses: no new client and no request reaches the server, and those that come wait. Requests that are under way are
    /// answered. A restart prepares the next generation meanwhile, and a stop ends the pause. Answered with
    /// [`Progress::Paused`] and then, when nothing is under way any more, with [`Answer::Paused`].
    ///
    /// `{"v":1,"request":"pause","max_ms":30000}`
    Pause {
        /// After this time it is over, in milliseconds. Omitted: it lasts until [`Request::Resume`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_ms: Option<u64>,
        /// With true, this connection holds the pause: when nothing is under way any more, [`Progress::Paused`] says so, and
        /// the pause is over when the client sends anything or disconnects. Then it is answered with
        /// [`Answer::Resumed`].
        #[serde(default)]
        hold: bool,
    },
    /// Sends a signal to the program of `exec`. Answered with [`Answer::Signaled`].
    ///
    /// `{"v":1,"request":"signal","signal":1}`
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// Stops the server. Answered with [`Progress::Draining`] events and then [`Answer::Stopped`]. During a stop it
    /// joins that stop, and can shorten it but not extend it.
    ///
    /// With a delay, the stop begins later. Until then the supervisor reports not ready, as after [`Request::Drain`]. It is
    /// answered with [`Progress::Delayed`] first. Of several, the earliest counts.
    ///
    /// `{"v":1,"request":"stop","grace_ms":5000,"wait":true}`
    Stop {
        /// How long clients get to disconnect, in milliseconds; 0 closes all connections at once. Omitted: the
        /// supervisor's own grace period.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
        /// Over which time clients are notified and connections closed, in milliseconds, oldest first: at most the grace
        /// period. Omitted: as the supervisor's own settings say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spread_ms: Option<u64>,
        /// How long the stop is postponed, in milliseconds; 0 begins at once. Omitted: as long as the supervisor's own
        /// settings say, or not at all if a stop is postponed already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        delay_ms: Option<u64>,
        /// With false, the answer is [`Answer::Stopping`], or with a delay [`Answer::Delayed`], at once.
        #[serde(default = "yes")]
        wait: bool,
    },
    /// Replaces the server by a new generation, which takes over the listening socket. Answered with
    /// [`Progress::Restarting`] and [`Progress::Draining`] events and then, when the old generation is gone,
    /// [`Answer::Restarted`]. Restarts that are requested at the same time run one after the other.
    ///
    /// `{"v":1,"request":"restart","grace_ms":5000,"wait":true}`
    Restart {
        /// How long clients of the old generation get to disconnect, in milliseconds. Omitted: the supervisor's own
        /// grace period.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
        /// Over which time clients of the old generation are notified and connections closed, in milliseconds, oldest
        /// first: at most the grace period. Omitted: as the supervisor's own settings say.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spread_ms: Option<u64>,
        /// With false, the answer is [`Answer::Restarting`], at once.
        #[serde(default = "yes")]
        wait: bool,
    },
    /// Reads past events and, with `follow`, new ones. Answered with [`Progress::Journal`], each [`Entry`] after
    /// `since`, and then with [`Answer::Events`].
    ///
    /// `{"v":1,"request":"events","since":17,"follow":true}`
    Events {
        /// The number of the last entry that the client knows. Omitted: it knows none, and gets the last thousand.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
        /// With true, entries are sent until the supervisor ends, and then the result. A client that does not read them
        /// is disconnected.
        #[serde(default)]
        follow: bool,
    },
}

fn yes() -> bool {
    true
}

fn is_zero<T: Default + PartialEq>(number: &T) -> bool {
    *number == T::default()
}

/// A line from the supervisor: any number of events, and then one result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// An entry of the journal.
    Entry(Entry),
    /// Something has happened, and the result is still to come.
    Progress(Progress),
    /// The last line.
    Answer(Answer),
}

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
    /// Where reading the journal begins. Sent before the first entry, and again if entries were dropped because the client
    /// reads too slowly.
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
        /// What is different about it. Omitted: unknown.
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
    /// One of a newer version, as it calls it.
    #[serde(untagged)]
    Other(String),
}

/// A difference between a generation and the one before. With neither value it has changed and is not shown, as with the
/// value of a variable.
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
    /// One of a newer version.
    #[serde(untagged)]
    Other(String),
}

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
    /// One of a newer version, as it calls it.
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
    /// program, or none serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<String>,
    /// The supervisor's process id.
    pub pid: u32,
    /// The address that the server listens on, or listened on before the drain: the first one with a port. Omitted: there
    /// is none, or the program binds its own.
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
    /// How many restarts were requested.
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
    /// All addresses that are known.
    pub fn all_addresses(&self) -> Vec<String> {
        match (&self.addresses[..], self.address) {
            ([], Some(address)) => vec![address.to_string()],
            (addresses, _) => addresses.to_vec(),
        }
    }

    /// Whether one of the addresses has this port, be it that of the health endpoint.
    pub fn has_port(&self, port: u16) -> bool {
        let addresses = self.all_addresses().into_iter().filter_map(|address| address.parse().ok());
        addresses.chain(self.health).any(|address: SocketAddr| address.port() == port)
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
    /// How many clients and requests wait for a program.
    pub held: usize,
    /// How long the one that waited longest had to, since the last restart began, in milliseconds.
    pub longest_wait_ms: u64,
    /// Connections to the program that could not be made, or that failed in the middle of an answer.
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
    /// By the relay with 502: the program did not answer.
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
    /// The time until it begins, in milliseconds.
    pub remaining_ms: u64,
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
    /// The time until the deadline, in milliseconds.
    pub remaining_ms: u64,
    /// The connections that are still open, oldest first, up to [`MAX_NAMED`] of them.
    pub connections: Vec<Connection>,
    /// The same of a program that accepts its connections itself, as they were when it was last looked at. Omitted: none
    /// was seen.
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
    /// One of a newer version, as it calls it.
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
    /// Waiting for a program, since none serves (with `--relay`).
    Held,
    /// One of a newer version, as it calls it.
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
    /// One of a newer version, as it calls it.
    #[serde(untagged)]
    Other(String),
}

/// Why a line could not be read.
#[derive(Debug)]
pub enum LineError {
    /// The other side closed the connection before a line was complete.
    Closed,
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// The socket failed.
    Io(io::Error),
}

/// Reads one line, without its end. A last line without a line feed counts.
///
/// # Errors
/// When there is no line, or none that is short enough.
pub fn read_line(input: &mut impl BufRead) -> Result<Vec<u8>, LineError> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(LineError::Io)?;
    match line.last() {
        None => Err(LineError::Closed),
        Some(b'\n') => {
            line.pop();
            Ok(line)
        }
        Some(_) if line.len() >= MAX_LINE => Err(LineError::TooLong),
        Some(_) => Ok(line),
    }
}

/// Writes a value as one line.
///
/// # Errors
/// What the socket says.
pub fn write_line(output: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// Writes a request with the protocol's version.
///
/// # Errors
/// What the socket says.
pub fn write_request(output: &mut impl Write, request: &Request) -> io::Result<()> {
    #[derive(Serialize)]
    struct Envelope<'a> {
        v: u64,
        #[serde(flatten)]
        request: &'a Request,
    }
    write_line(output, &Envelope { v: VERSION, request })
}

/// The longest message about a request that is not understood, in bytes: it quotes what the client has sent, and its
/// answer is a line, too.
const MAX_COMPLAINT: usize = 1000;

/// Understands a request.
///
/// # Errors
/// What is wrong with it, for the client's answer.
pub fn parse_request(line: &[u8]) -> Result<Request, Refusal> {
    understand_request(line).map_err(|Refusal { code, mut message }| {
        if message.len() > MAX_COMPLAINT {
            message.truncate(message.floor_char_boundary(MAX_COMPLAINT));
            message.push('…');
        }
        Refusal { code, message }
    })
}

fn understand_request(line: &[u8]) -> Result<Request, Refusal> {
    let bad = |message: String| Refusal { code: ErrorCode::BadRequest, message };
    let members: Members =
        parse(line).map_err(|error| bad(format!("this is not a JSON object on one line: {error}")))?;
    let members = members.each_once().map_err(|name| bad(format!("\"{name}\" is there twice; keep one")))?;
    let mut object = Map::from_iter(members);
    match object.remove("v") {
        Some(version) if version == VERSION => {}
        Some(_) if object.get("request").is_some_and(|request| request == "ping") => return Ok(Request::Ping {}),
        None => return Err(bad(format!("\"v\" is missing: say \"v\":{VERSION}"))),
        Some(version) => {
            let message =
                format!("supervisor {RELEASE} speaks version {VERSION} of the protocol, not version {version}");
            return Err(Refusal { code: ErrorCode::UnsupportedVersion, message });
        }
    }
    Request::deserialize(Value::Object(object))
        .map_err(|error| bad(format!("supervisor {RELEASE} does not understand this request: {error}")))
}

/// Understands a line from the supervisor. None: an event that this version does not know.
///
/// # Errors
/// When it is no line of this protocol.
pub fn parse_response(line: &[u8]) -> serde_json::Result<Option<Response>> {
    let object: Map<String, Value> = parse(line)?;
    if object.contains_key("event") && object.contains_key("seq") {
        return Ok(Entry::deserialize(Value::Object(object)).ok().map(Response::Entry));
    }
    if object.contains_key("event") {
        return Ok(Progress::deserialize(Value::Object(object)).ok().map(Response::Progress));
    }
    Answer::deserialize(Value::Object(object)).map(|answer| Some(Response::Answer(answer)))
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::corpus;
    use proptest::prelude::*;
    use serde_json::json;

    fn error_of(line: &str) -> (ErrorCode, String) {
        match parse_request(line.as_bytes()) {
            Err(Refusal { code, message }) => (code, message),
            other => panic!("{line} was understood: {other:?}"),
        }
    }

    #[test]
    fn a_request_is_one_object_with_a_version() {
        assert_eq!(parse_request(br#"{"v":1,"request":"ping"}"#).unwrap(), Request::Ping {});
        assert_eq!(
            parse_request(br#"{"v":1,"request":"stop","grace_ms":5000}"#).unwrap(),
            Request::Stop { grace_ms: Some(5000), spread_ms: None, delay_ms: None, wait: true }
        );
    }

    #[test]
    fn what_is_not_of_this_protocol_is_named_in_the_answer() {
        for (line, code, part) in [
            ("", ErrorCode::BadRequest, "not a JSON object"),
            ("[1]", ErrorCode::BadRequest, "not a JSON object"),
            (r#"{"request":"ping"}"#, ErrorCode::BadRequest, r#""v":1"#),
            (r#"{"v":2,"request":"status"}"#, ErrorCode::UnsupportedVersion, "version 2"),
            (r#"{"v":1,"request":"dance"}"#, ErrorCode::BadRequest, "dance"),
            (r#"{"v":1}"#, ErrorCode::BadRequest, "request"),
            (r#"{"v":1,"request":"stop","grace":5}"#, ErrorCode::BadRequest, "grace"),
            (r#"{"v":1,"request":"ping","grace_ms":5}"#, ErrorCode::BadRequest, "grace_ms"),
            (r#"{"v":1,"request":"stop","grace_ms":-1}"#, ErrorCode::BadRequest, "-1"),
            (r#"{"v":1,"request":"events","since":-1}"#, ErrorCode::BadRequest, "-1"),
            (r#"{"v":1,"request":"events","since":"the beginning"}"#, ErrorCode::BadRequest, "the beginning"),
            (
                r#"{"v":1,"request":"stop","grace_ms":5000,"grace_ms":0}"#,
                ErrorCode::BadRequest,
                r#""grace_ms" is there twice"#,
            ),
            (r#"{"v":1,"request":"status","request":"stop"}"#, ErrorCode::BadRequest, r#""request" is there twice"#),
            (r#"{"v":2,"request":"stop","v":1}"#, ErrorCode::BadRequest, r#""v" is there twice"#),
        ] {
            let (got, message) = error_of(line);
            assert_eq!(got, code, "{line}");
            assert!(message.contains(part), "{line}: {message}");
        }
    }

    #[test]
    fn a_line_is_read_up_to_the_limit_and_not_beyond() {
        let whole = [vec![b'x'; MAX_LINE - 1], vec![b'\n']].concat();
        assert_eq!(read_line(&mut &whole[..]).unwrap().len(), MAX_LINE - 1);
        assert!(matches!(read_line(&mut &vec![b'x'; MAX_LINE + 1][..]), Err(LineError::TooLong)));
        assert!(matches!(read_line(&mut &b""[..]), Err(LineError::Closed)));
    }

    #[test]
    fn an_older_supervisor_has_one_address_and_a_newer_one_all_of_them() {
        let status = |addresses: &str| {
            let line = format!(
                r#"{{"result":"status","name":"x","kind":"exec","state":"serving","pid":1,{addresses}"uptime_ms":1,
                "connections":{{"now":0,"total":0,"refused":0}},"version":"0"}}"#
            );
            match parse_response(line.as_bytes()).unwrap().unwrap() {
                Response::Answer(Answer::Status(status)) => status,
                other => panic!("{other:?}"),
            }
        };
        let older = status(r#""address":"127.0.0.1:8000","#);
        assert_eq!(older.all_addresses(), ["127.0.0.1:8000"]);
        assert!(older.has_port(8000) && !older.has_port(80));
        let newer = status(r#""address":"127.0.0.1:8000","addresses":["/run/8002","127.0.0.1:8000","[::1]:8001"],"#);
        assert_eq!(newer.all_addresses(), ["/run/8002", "127.0.0.1:8000", "[::1]:8001"]);
        assert!(newer.has_port(8000) && newer.has_port(8001) && !newer.has_port(8002));
        assert_eq!(status("").all_addresses(), Vec::<String>::new());
    }

    #[test]
    fn a_ping_is_understood_in_every_version() {
        for line in [r#"{"v":2,"request":"ping"}"#, r#"{"v":"two","request":"ping","mood":"fine"}"#] {
            assert_eq!(parse_request(line.as_bytes()).unwrap(), Request::Ping {}, "{line}");
        }
    }

    #[test]
    fn an_event_of_a_newer_version_is_passed_over() {
        assert_eq!(parse_response(br#"{"event":"eclipse","of":"the moon"}"#).unwrap(), None);
    }

    #[test]
    fn an_event_with_a_number_is_an_entry_whatever_its_name() {
        let line = br#"{"seq":7,"time":"now","level":"info","event":"serving","message":"it serves","generation":2}"#;
        let response = parse_response(line).unwrap().unwrap();
        let Response::Entry(entry) = &response else { panic!("{response:?}") };
        assert_eq!((entry.seq, entry.level, entry.event.as_str()), (7, Level::Info, "serving"));
        assert_eq!(entry.fields, Map::from_iter([("generation".to_owned(), 2.into())]));
        assert_eq!(serde_json::to_vec(&response).unwrap(), line);
    }

    /// A line that is understood is written as it was meant, and each other line has an answer that fits into one.
    fn is_understood_or_refused(line: &[u8]) -> Result<(), TestCaseError> {
        let mut written = Vec::new();
        match parse_request(line) {
            Ok(request) => {
                write_request(&mut written, &request).unwrap();
                prop_assert_eq!(parse_request(&read_line(&mut &written[..]).unwrap()).unwrap(), request);
            }
            Err(refusal) => {
                prop_assert!(!refusal.message.is_empty());
                write_line(&mut written, &Answer::Error(refusal)).unwrap();
                let answer = read_line(&mut &written[..]).unwrap();
                prop_assert!(matches!(parse_response(&answer), Ok(Some(Response::Answer(Answer::Error(_))))));
            }
        }
        let _ = parse_response(line);
        Ok(())
    }

    #[test]
    fn each_request_that_is_kept_is_understood_or_refused() {
        for (name, line) in corpus::kept("request") {
            is_understood_or_refused(&line).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn a_name_that_is_as_long_as_a_line_is_refused_in_a_shorter_one() {
        let long = "\u{1}".repeat(MAX_LINE / 8);
        is_understood_or_refused(json!({"v": 1, "request": long}).to_string().as_bytes()).unwrap();
        is_understood_or_refused(json!({"v": long, "request": "stop"}).to_string().as_bytes()).unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(line: Vec<u8>) {
            is_understood_or_refused(&line)?;
        }

        #[test]
        fn what_is_nearly_a_request_is_understood_or_refused(line in corpus::nearly("request")) {
            is_understood_or_refused(&line)?;
        }

        #[test]
        fn a_word_of_a_newer_version_is_kept_as_it_is(word: String) {
            let text = Value::from(word);
            prop_assert_eq!(&json!(State::deserialize(&text).unwrap()), &text);
            prop_assert_eq!(&json!(Activity::deserialize(&text).unwrap()), &text);
            prop_assert_eq!(&json!(ErrorCode::deserialize(&text).unwrap()), &text);
        }

        #[test]
        fn what_is_written_is_read_again(grace_ms: Option<u64>, delay_ms: Option<u64>, wait: bool) {
            let restart = Request::Restart { grace_ms, spread_ms: delay_ms, wait };
            let stop = Request::Stop { grace_ms, spread_ms: delay_ms, delay_ms, wait };
            let grace = Request::Grace { grace_ms: delay_ms.unwrap_or_default() };
            let events = Request::Events { since: grace_ms, follow: wait };
            let others = [Request::Ping {}, Request::Status {}, Request::Connections {}];
            for request in others.into_iter().chain([stop, restart, grace, events]) {
                let mut line = Vec::new();
                write_request(&mut line, &request).unwrap();
                prop_assert_eq!(parse_request(&read_line(&mut &line[..]).unwrap()).unwrap(), request);
            }
        }
    }
}
