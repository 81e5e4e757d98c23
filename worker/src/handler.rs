//! Handlers, which serve the connections of a server, and their sessions.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::Connection;

/// Serves the connections of a server.
pub trait Handler: Send + Sync + 'static {
    /// Serves the available messages: until [`Connection::next_message`] returns false, or until the handler itself
    /// wants to close the connection.
    ///
    /// While a client is quiet its connection has no thread. So this is called again for its next message, on any
    /// thread, and local variables do not survive between calls: see [`Sessions`] for a handler that keeps state
    /// between messages.
    ///
    /// The connection is closed if this returns although there may be another message.
    ///
    /// # Errors
    /// Anything that ends this connection. A panic ends this connection, too, and no other.
    fn serve(&self, client: &mut Connection) -> io::Result<()>;

    /// The session that serves one connection from its first message to its end in place of [`Handler::serve`]. None,
    /// the default, is for a handler that keeps no state between messages: only its connections can move to the server
    /// that replaces theirs. Called with the first message, on the thread that serves it.
    fn session(&self, _peer: SocketAddr) -> Option<Box<dyn Session>> {
        None
    }

    /// The bytes that a client is sent when the server goes away. It then has until the end of the grace period to
    /// disconnect. With None, for a protocol without a farewell, idle connections are simply closed. (A connection that
    /// was accepted just before, and has sent nothing yet, gets [a moment](crate::FIRST_MESSAGE_WAIT) for its first
    /// message.) Called once, by [`Server::new`](crate::Server::new).
    fn notice(&self) -> Option<&[u8]> {
        None
    }

    /// The bytes that a client is sent when there are already too many connections. Called once, by
    /// [`Server::new`](crate::Server::new).
    fn refusal(&self) -> &[u8] {
        b""
    }

    /// Whether a client is served at all. False closes its connection without a word.
    ///
    /// While it runs no other client is accepted, and a panic in it ends the server.
    fn admits(&self, _peer: SocketAddr) -> bool {
        true
    }

    /// Whether the handler speaks before the client does: if so, it serves each new connection once without a message.
    /// Called once, by [`Server::new`](crate::Server::new).
    fn speaks_first(&self) -> bool {
        false
    }

    /// A connection that is idle for this long is closed, unless [`Connection::set_idle_timeout`] says otherwise. None,
    /// the default, lets it wait for ever. Called once, by [`Server::new`](crate::Server::new), so it is the same for
    /// all connections.
    fn idle_timeout(&self) -> Option<Duration> {
        None
    }

    /// Whether a client may be closed in the middle of a message when [its place is
    /// needed](crate::Server::max_connections): one that has not sent all of the message, does not read the answer, or
    /// keeps its connection after the last one. False, the default, is for messages that must not be cut off. Without
    /// effect if there is a notice. Called once, by [`Server::new`](crate::Server::new).
    fn closes_slow(&self) -> bool {
        false
    }

    /// Whether the handler has something to serve at the moment. Clients are served in any case, but no new ones should
    /// be sent here while it has not. Called by [`Stopper::available`](crate::Stopper::available), on the calling
    /// thread.
    ///
    /// # Errors
    /// Why there is not, for people.
    fn available(&self) -> io::Result<()> {
        Ok(())
    }
}

/// State that a connection keeps from one message to the next.
pub trait Session: Send {
    /// Serves the available messages, as [`Handler::serve`] does.
    ///
    /// # Errors
    /// Anything that ends this connection. A panic ends this connection, too, and no other.
    fn serve(&mut self, client: &mut Connection) -> io::Result<()>;
}

/// A handler whose connections each have a [`Session`].
///
/// ```
/// use std::io::{self, BufRead, Write};
/// use mastercontrol_worker::{Connection, Session, Sessions};
///
/// /// Numbers the lines of each client.
/// #[derive(Default)]
/// struct Numbered(u64);
///
/// impl Session for Numbered {
///     fn serve(&mut self, client: &mut Connection) -> io::Result<()> {
///         while client.next_message() {
///             let mut line = String::new();
///             client.read_line(&mut line)?;
///             self.0 += 1;
///             write!(client, "{}: {line}", self.0)?;
///         }
///         Ok(())
///     }
/// }
///
/// let handler = Sessions::new(|_peer| Numbered::default()).notice("SHUTDOWN\n");
/// ```
pub struct Sessions {
    begin: Box<dyn Fn(SocketAddr) -> Box<dyn Session> + Send + Sync>,
    notice: Option<Vec<u8>>,
    refusal: Vec<u8>,
    speaks_first: bool,
    idle_timeout: Option<Duration>,
}

impl Sessions {
    /// A handler that calls `begin` with the address of each client when its first message has arrived.
    pub fn new<S: Session + 'static>(begin: impl Fn(SocketAddr) -> S + Send + Sync + 'static) -> Sessions {
        Sessions {
            begin: Box::new(move |peer| Box::new(begin(peer))),
            notice: None,
            refusal: Vec::new(),
            speaks_first: false,
            idle_timeout: None,
        }
    }

    /// See [`Handler::notice`].
    #[must_use]
    pub fn notice(mut self, notice: impl Into<Vec<u8>>) -> Sessions {
        self.notice = Some(notice.into());
        self
    }

    /// See [`Handler::refusal`].
    #[must_use]
    pub fn refusal(mut self, refusal: impl Into<Vec<u8>>) -> Sessions {
        self.refusal = refusal.into();
        self
    }

    /// See [`Handler::speaks_first`].
    #[must_use]
    pub fn speaks_first(mut self) -> Sessions {
        self.speaks_first = true;
        self
    }

    /// See [`Handler::idle_timeout`].
    #[must_use]
    pub fn idle_timeout(mut self, limit: Duration) -> Sessions {
        self.idle_timeout = Some(limit);
        self
    }
}

impl Handler for Sessions {
    /// Serves the available messages with a new session.
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        (self.begin)(client.peer()).serve(client)
    }

    fn session(&self, peer: SocketAddr) -> Option<Box<dyn Session>> {
        Some((self.begin)(peer))
    }

    fn notice(&self) -> Option<&[u8]> {
        self.notice.as_deref()
    }

    fn refusal(&self) -> &[u8] {
        &self.refusal
    }

    fn speaks_first(&self) -> bool {
        self.speaks_first
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.idle_timeout
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Sessions").field("notice", &self.notice).finish_non_exhaustive()
    }
}

/// One handler for several servers, such as those that replace one another.
impl<H: Handler + ?Sized> Handler for Arc<H> {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        (**self).serve(client)
    }

    fn session(&self, peer: SocketAddr) -> Option<Box<dyn Session>> {
        (**self).session(peer)
    }

    fn notice(&self) -> Option<&[u8]> {
        (**self).notice()
    }

    fn refusal(&self) -> &[u8] {
        (**self).refusal()
    }

    fn admits(&self, peer: SocketAddr) -> bool {
        (**self).admits(peer)
    }

    fn speaks_first(&self) -> bool {
        (**self).speaks_first()
    }

    fn idle_timeout(&self) -> Option<Duration> {
        (**self).idle_timeout()
    }

    fn closes_slow(&self) -> bool {
        (**self).closes_slow()
    }

    fn available(&self) -> io::Result<()> {
        (**self).available()
    }
}
