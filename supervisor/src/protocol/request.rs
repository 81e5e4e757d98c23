//! What a client asks for.

use serde::{Deserialize, Serialize};

#[cfg(doc)]
use super::answer::{Answer, ErrorCode};
#[cfg(doc)]
use super::entry::Entry;
#[cfg(doc)]
use super::progress::Progress;

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
    /// Undoes a drain request, a pause and a scheduled stop, whichever is in force. Answered with
    /// [`Answer::Readiness`], or with [`ErrorCode::Stopping`] when a stop has begun, or is scheduled because the service
    /// manager of Windows has asked for it.
    ///
    /// `{"v":1,"request":"resume"}`
    Resume {},
    /// Pauses: no new client and no request reaches the server, and those that come wait. Requests that are under way
    /// are answered. A restart prepares the next generation meanwhile, and a stop ends the pause. Answered with
    /// [`Progress::Paused`] and then, when nothing is under way any more, with [`Answer::Paused`].
    ///
    /// `{"v":1,"request":"pause","max_ms":30000}`
    Pause {
        /// After this time it is over, in milliseconds. Omitted: it lasts until [`Request::Resume`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_ms: Option<u64>,
        /// With true, this connection holds the pause: when nothing is under way any more, [`Progress::Paused`] says
        /// so, and the pause is over when the client sends anything or disconnects. Then it is answered with
        /// [`Answer::Resumed`].
        #[serde(default)]
        hold: bool,
    },
    /// Sends a signal to the program of `exec`. Answered with [`Answer::Signaled`], or with [`ErrorCode::BadRequest`]
    /// if the supervisor's system has no such signal.
    ///
    /// `{"v":1,"request":"signal","signal":1}`
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// Stops the server. Answered with [`Progress::Draining`] events and then [`Answer::Stopped`]. During a stop it
    /// joins that stop, and can shorten it but not extend it.
    ///
    /// With a delay, the stop begins later. Until then the supervisor reports not ready, as after [`Request::Drain`].
    /// It is answered with [`Progress::Delayed`] first. Of several, the earliest counts.
    ///
    /// `{"v":1,"request":"stop","grace_ms":5000,"wait":true}`
    Stop {
        /// How long clients get to disconnect, in milliseconds; 0 closes all connections at once. Omitted: the
        /// supervisor's own grace period.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grace_ms: Option<u64>,
        /// Over which time clients are notified and connections closed, in milliseconds, oldest first: at most the
        /// grace period. Omitted: as the supervisor's own settings say.
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
