//! A threaded TCP server that stops without surprising its clients.
//!
//! # Guarantees
//!
//! 1. A stop takes as long as the clients need, and never longer than the grace period. It ends when the last client
//!    disconnects; at the deadline the remaining connections are closed by force.
//! 2. Every client is notified between messages before its connection closes, including those that wait in the accept
//!    queue when the stop begins.
//! 3. Waiting costs nothing: on Unix no thread wakes up while nothing happens.
//!
//! # How to use it
//!
//! Implement [`Handler`], give it to a [`Server`], and keep the [`Handle`]:
//!
//! ```
//! use std::{io, io::{Read, Write}, net::TcpListener, time::Duration};
//! use mastercontrol_worker::{Connection, Handler, Server};
//!
//! struct Shout;
//!
//! impl Handler for Shout {
//!     fn serve(&self, client: &mut Connection) -> io::Result<()> {
//!         let mut message = [0; 1024];
//!         while client.next_message() {
//!             let length = client.read(&mut message)?;
//!             client.write_all(message[..length].to_ascii_uppercase().as_slice())?;
//!         }
//!         Ok(())
//!     }
//!
//!     fn notice(&self) -> Option<&[u8]> {
//!         Some(b"SHUTDOWN\n")
//!     }
//! }
//!
//! let handle = Server::new(Shout).start(TcpListener::bind("127.0.0.1:0")?)?;
//! handle.stopper().stop(Duration::from_secs(5));
//! let report = handle.join()?;
//! assert_eq!(report.forced.len(), 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # A tour
//!
//! - [`Handler`] is your protocol. [`Connection`] is one client as the handler sees it: a buffered stream that knows
//!   where messages begin. If a client has state of its own between messages, implement [`Sessions`] instead.
//! - [`Server`] has the limits. [`Server::start`] serves on a listener of its own and returns a [`Handle`]; its
//!   [`Stopper`] stops the server from any thread, a handler's own included.
//! - [`Port`] is a listener that outlives a server, so that another server can take its place without refusing a
//!   client.
//! - [`DrainReport`] says what became of each connection at a stop: disconnected, closed or forced.
//! - [`handlers`] has three protocols to use or to copy: echo, a line protocol, and files over HTTP (feature `http`).
//!
//! # How it works
//!
//! There are three owners, by lifetime. The [`Port`] owns the listener and accepts. A generation ([`Server`], then
//! [`Handle`]) owns the handler and the limits; replacing one with another is one assignment in the port. A connection
//! belongs to one place at a time: the thread that serves a message, or its slot in the registry while it waits for its
//! client (`slot`). The engine takes a waiting connection from there when its client has sent something, and the drain
//! when it has to end. Only one of them can take it, so a notice never falls into an answer, and exactly one thread
//! notifies a client.
//!
//! A connection is *idle* while it waits for the first byte of its next message, and *busy* otherwise. An idle
//! connection has no buffer, and on Linux with the feature `epoll` no thread. Half a message holds a thread.
//!
//! A stop sets a flag, empties the accept queue and closes the listener (unless it is [shared](Port::start_shared)),
//! and then takes all idle connections and notifies their clients. A busy connection finds the flag at its next
//! boundary. After the notice the connection is half-closed, and further input is read and discarded until the client
//! closes (`farewell`): closing a socket with unread input would reset it, and a reset can destroy the notice before
//! the client has read it.
//!
//! A protocol without a notice (HTTP) owes an idle client nothing, so its connection is closed, unless a message is
//! most likely on its way: the first one of a connection that was accepted just before is awaited for
//! [`FIRST_MESSAGE_WAIT`], the next one of a client that was active within the last second for [`NEXT_MESSAGE_WAIT`].

mod accept;
#[cfg_attr(windows, allow(clippy::missing_const_for_thread_local, reason = "it is const; the macro hides that there"))]
mod connection;
mod course;
mod deadline;
mod drain;
mod engine;
mod event;
mod farewell;
mod generation;
mod handler;
pub mod handlers;
mod handover;
mod idle;
mod pausing;
mod port;
mod registry;
#[cfg(all(feature = "relay", target_os = "linux"))]
pub mod relay;
mod report;
mod server;
mod slot;
mod socket;
mod spread;

pub use connection::Connection;
pub use deadline::deadline_after;
pub use event::{Event, Failure, ServerError, panic_message};
pub use generation::{FIRST_MESSAGE_WAIT, Ids, NEXT_MESSAGE_WAIT};
pub use handler::{Handler, Session, Sessions};
pub use pausing::Paused;
pub use port::Port;
pub use report::{Activity, Closed, ConnectionInfo, Counts, DrainReport, Outcome};
pub use server::{Handle, MAX_CONNECTIONS, Server, Stopper};

/// Checks that the code in the package's README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
