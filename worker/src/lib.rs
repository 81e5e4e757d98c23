//! A threaded TCP server that can be told to quit.
//!
//! # Guarantees
//!
//! 1. A stop takes as long as the clients need, never longer than the grace period: it ends the moment the last
//!    client has left, and at the deadline the rest is closed by force.
//! 2. Every connected client is told, at a message boundary, before its connection closes. That includes the
//!    clients that wait in the accept queue when the stop begins.
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
//! # How it works
//!
//! One thread accepts, and each connection has a thread of its own. A connection is *idle* exactly while it waits
//! for the first byte of its next message ([`Connection::next_message`]), else it is *busy*. A stop sets a flag and
//! then wakes `accept` by a connection of its own to the port. The accepting thread empties the accept queue (unless
//! [others accept](Server::shared_listener) from the same listener), closes the listener, and then writes the notice to
//! every idle connection itself, each under that connection's lock (the `turn` module), so that it cannot fall into an
//! answer. A busy connection finds the flag at its next boundary and writes the notice itself. After the notice the
//! connection is half-closed, and what the client still sends is read and thrown away until the client closes: to close
//! a socket with unread input would reset it, and a reset can destroy the notice before the client has read it.
//!
//! A protocol without a notice (HTTP) owes an idle client nothing, so its connection is closed, unless it was accepted
//! just before: then its first message is most likely on its way, and is awaited for [`FIRST_MESSAGE_WAIT`].
//!
//! A reader that waits for its client is never interrupted while the client may still leave by itself. On Windows it
//! cannot even be interrupted at the deadline: nothing wakes a blocked `read` there. So there a connection that is
//! closed while its thread is in a read ends without that thread, which ends when its client closes, too, or at its
//! next look (the `blocked` module).

mod acceptor;
mod blocked;
mod connection;
mod drain;
mod gate;
pub mod handlers;
mod probe;
mod quit;
mod registry;
mod server;
mod socket;
mod threads;
mod turn;

pub use connection::Connection;
pub use drain::{Closed, DrainReport, FIRST_MESSAGE_WAIT};
pub use registry::{Activity, ConnectionInfo, Counts, Ids, Outcome};
pub use server::{
    Event, Failure, Handle, Handler, MAX_CONNECTIONS, Server, ServerError, Stopper, deadline_after, panic_message,
};
