//! Events of a server, for logs, and the error of one that ended without having been stopped.

use std::any::Any;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{self, AssertUnwindSafe};

use crate::report::{ConnectionInfo, DrainReport, Outcome};

/// An event of a server, for logs. [`Server::observer`](crate::Server::observer) sets its receiver.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A client has connected.
    Connected {
        /// The number of the connection.
        id: u64,
        /// The client's address.
        peer: SocketAddr,
    },
    /// A connection has ended.
    Ended {
        /// The connection as it was at its end.
        connection: &'a ConnectionInfo,
        /// How it ended.
        outcome: Outcome,
        /// Why, if the handler ended it with an error.
        error: Option<&'a io::Error>,
    },
    /// A client was refused because there are too many connections.
    Refused {
        /// The client's address.
        peer: SocketAddr,
    },
    /// A handler has panicked, which ended its connection.
    Panicked {
        /// The number of the connection.
        id: u64,
        /// The client's address.
        peer: SocketAddr,
        /// The panic's message.
        message: &'a str,
    },
    /// No connection can be accepted at the moment: the system is out of descriptors, memory or threads. The port waits
    /// and tries again. Reported once a minute while that lasts.
    Exhausted {
        /// What the system said.
        error: &'a io::Error,
    },
    /// A client of a relay for HTTP/1 speaks another protocol: its bytes are passed on as they are. Reported once per
    /// generation of the program.
    Opaque {
        /// The number of the connection.
        id: u64,
        /// The client's address.
        peer: SocketAddr,
        /// The protocol's name.
        protocol: &'static str,
    },
    /// The server can no longer accept connections, though it was not asked to stop. Its clients drain; those of a
    /// relay are still served until it stops.
    Failed {
        /// Why.
        failure: &'a Failure,
    },
    /// The server is done; [`Handle::join`](crate::Handle::join) returns at once.
    Finished,
}

/// Called with each [`Event`].
pub(crate) type Observer = dyn Fn(&Event<'_>) + Send + Sync;

/// A server ended without having been stopped.
#[derive(Debug)]
#[non_exhaustive]
pub struct ServerError {
    /// Why it ended.
    pub failure: Failure,
    /// What became of its connections.
    pub drain: DrainReport,
}

/// Why a server cannot accept any more.
#[derive(Debug)]
#[non_exhaustive]
pub enum Failure {
    /// The listener failed for good, and with it the port: another server cannot accept there either.
    Accept(io::Error),
    /// The handler panicked while it decided whether to admit a client, with this message.
    Panicked(String),
    /// The server was given up, for this reason.
    Hung(String),
}

impl Failure {
    /// A copy, for another server on the same port.
    pub(crate) fn duplicate(&self) -> Failure {
        match self {
            Failure::Accept(error) => Failure::Accept(io::Error::new(error.kind(), error.to_string())),
            Failure::Panicked(message) => Failure::Panicked(message.clone()),
            Failure::Hung(why) => Failure::Hung(why.clone()),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Accept(error) => write!(formatter, "the listening socket failed: {error}"),
            Failure::Panicked(message) => write!(formatter, "the handler panicked when a client came: {message}"),
            Failure::Hung(why) => write!(formatter, "the server hangs: {why}"),
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.failure.fmt(formatter)
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.failure {
            Failure::Accept(error) => Some(error),
            Failure::Panicked(_) | Failure::Hung(_) => None,
        }
    }
}

/// Drops what may be the last reference to a handler, or a session. A panic in its drop has no other effect.
pub(crate) fn let_go<T>(it: T) {
    let _ = panic::catch_unwind(AssertUnwindSafe(|| drop(it)));
}

/// A panic's message, from the payload that [`std::panic::catch_unwind`] or joining a thread returns.
pub fn panic_message(panic: &(dyn Any + Send)) -> &str {
    match panic.downcast_ref::<&str>() {
        Some(message) => message,
        None => panic.downcast_ref::<String>().map_or("(no message)", String::as_str),
    }
}
