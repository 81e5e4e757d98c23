//! The seam between master control and what it supervises.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use worker::{ConnectionInfo, Counts, DrainReport, ServerError};

use crate::log::Log;
use crate::restart::RestartPolicy;

/// What a restart can change: each generation has settings of its own.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long clients get to leave, unless a trigger says otherwise.
    pub grace: Duration,
    /// How many connections are served at once, see [`worker::Server::max_connections`].
    pub max_connections: usize,
    /// When the server is started again after it has ended by itself.
    pub restart: RestartPolicy,
    /// How often the supervisor connects to the server to see whether it takes connections. One that takes none is
    /// restarted. None: never.
    pub check_every: Option<Duration>,
    /// Where the server's events are logged.
    pub log: Log,
}

/// Makes generations of the server.
pub(crate) trait Builder: fmt::Debug + Send {
    /// Begins to build a server. [`Event::Built`](crate::event::Event::Built) with this number is sent when it is ready.
    fn build(&mut self, build: u64);

    /// No server is built any more, and the listening socket is closed with the last one that has it.
    fn close(&mut self);
}

/// A server that is ready, and takes no connections yet.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) server: Box<dyn Server>,
    pub(crate) settings: Settings,
}

/// Lets a server take connections. A connection from this address, which waits in the queue, is no client: it woke the
/// server that took connections before.
pub(crate) type Opener = Box<dyn FnOnce(Option<SocketAddr>) + Send>;

/// One run of the server. It says what happens to it by events. Dropped before its end, it is stopped at once.
pub(crate) trait Server: fmt::Debug + Send {
    /// What lets it take connections.
    fn opener(&self) -> Opener;

    /// Lets its clients go until the deadline, since another one takes its place. `successor` is called when it takes no
    /// connections any more.
    ///
    /// # Errors
    /// When it cannot be told to. It goes on then as if nothing had been.
    fn retire_by(&self, deadline: Instant, successor: Opener) -> io::Result<()>;

    /// Lets its clients go until the deadline, and those who wait in the queue.
    fn stop_by(&self, deadline: Instant);

    /// How many connections there are and were.
    fn counts(&self) -> Counts;

    /// The connections that are open now, oldest first.
    fn connections(&self) -> Vec<ConnectionInfo>;

    /// The same, for somebody else.
    fn watcher(&self) -> Box<dyn Fn() -> Vec<ConnectionInfo> + Send + Sync>;

    /// Begins to look whether it takes connections, which it has this long for.
    /// [`Event::Checked`](crate::event::Event::Checked) says it.
    fn check(&self, limit: Duration);

    /// Gives up what hangs of it, for this reason: it fails, and lets its clients go without that.
    fn give_up(&mut self, why: &str);

    /// What became of its connections, after it said that it is finished.
    fn end(self: Box<Self>) -> Result<DrainReport, ServerError>;
}
