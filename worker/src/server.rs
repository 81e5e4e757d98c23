//! [`Server`], and the [`Handle`] and [`Stopper`] of a running one.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, Receiver, RecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::deadline::deadline_after;
use crate::drain;
use crate::event::{Event, Failure, ServerError, panic_message};
use crate::generation::{Generation, Ids, Plan};
use crate::handler::Handler;
use crate::handover;
use crate::port::{Port, Shared};
use crate::report::{Closed, ConnectionInfo, Counts, DrainReport};

/// How many connections a server serves at once by default.
pub const MAX_CONNECTIONS: usize = 10_000;

/// A server that has not been started yet.
#[must_use = "it serves only when it is started"]
pub struct Server {
    plan: Plan,
}

impl Server {
    /// A server whose connections are served by `handler`.
    pub fn new(handler: impl Handler) -> Server {
        Server {
            plan: Plan {
                notice: handler.notice().map(Into::into),
                refusal: handler.refusal().into(),
                speaks_first: handler.speaks_first(),
                idle_timeout: handler.idle_timeout(),
                closes_slow: handler.closes_slow(),
                handler: Arc::new(handler),
                observer: Arc::new(|_| {}),
                max_connections: MAX_CONNECTIONS,
                grace_on_failure: Duration::ZERO,
                ids: Ids::default(),
            },
        }
    }

    /// How many connections are served at once, 10,000 by default. Further clients get [`Handler::refusal`].
    ///
    /// If the handler has no notice, an idle client is owed nothing: the one that has been idle longest is closed
    /// instead, if there is one. If the handler [closes slow clients](Handler::closes_slow), they count as idle since
    /// they connected.
    pub fn max_connections(mut self, limit: usize) -> Server {
        self.plan.max_connections = limit;
        self
    }

    /// How long clients get to disconnect when the server fails, see [`Event::Failed`]. By default they are closed at
    /// once.
    pub fn grace_on_failure(mut self, grace: Duration) -> Server {
        self.plan.grace_on_failure = grace;
        self
    }

    /// Sets where the numbers of its connections come from. By default it counts its own from 1.
    pub fn ids(mut self, ids: Ids) -> Server {
        self.plan.ids = ids;
        self
    }

    /// Sets a function that receives every event. It is called on the server's threads and must not block.
    pub fn observer(mut self, observer: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Server {
        self.plan.observer = Arc::new(observer);
        self
    }

    /// Serves the clients of a listener that is already bound, on a [`Port`] of its own.
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread.
    pub fn start(self, listener: TcpListener) -> io::Result<Handle> {
        self.start_on(Port::start(listener)?)
    }

    /// Serves the clients of a port. The port is closed when this server has ended.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start_on(self, port: Port) -> io::Result<Handle> {
        let shared = port.shared().clone();
        let handle = self.run(shared, Some(port))?;
        handle.stopper.serve();
        Ok(handle)
    }

    /// Starts a server that gets no clients until [`Stopper::serve`] is called: another one serves the port until then.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn build(self, port: &Port) -> io::Result<Handle> {
        self.run(port.shared().clone(), None)
    }

    fn run(self, port: Arc<Shared>, own: Option<Port>) -> io::Result<Handle> {
        let generation = Arc::new(Generation::new(self.plan));
        let stopper = Stopper { port: port.clone(), generation: generation.clone() };
        let (report, reported) = mpsc::channel();
        let run = move || {
            let drained = drain::run(&port, &generation);
            // Its own port is closed before the report is sent.
            drop((own, port, generation));
            drained
        };
        thread::Builder::new().name("generation".into()).spawn(move || {
            let drained = panic::catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
                let failure = Failure::Panicked(panic_message(&*panic).to_owned());
                Err(ServerError { failure, drain: DrainReport::default() })
            });
            let _ = report.send(drained); // The handle may have been dropped.
        })?;
        Ok(Handle { stopper, reported: Mutex::new(reported) })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("max_connections", &self.plan.max_connections).finish_non_exhaustive()
    }
}

/// A running server. Dropping the handle leaves it running.
#[derive(Debug)]
#[must_use = "without it nothing says what became of the clients"]
pub struct Handle {
    stopper: Stopper,
    /// A handle is `Sync`; a receiver alone is not.
    reported: Mutex<Receiver<Result<DrainReport, ServerError>>>,
}

impl Handle {
    /// A [`Stopper`], which stops or inspects this server from any thread.
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// Waits for the server to end and returns what became of its connections. By then the handler has been dropped, on
    /// a thread of the server, unless a connection is [stuck](DrainReport::stuck) in it.
    ///
    /// A handler must not call this for its own server: it would wait for itself until the end of the grace period.
    ///
    /// # Errors
    /// When the server ended by itself instead of being stopped.
    pub fn join(self) -> Result<DrainReport, ServerError> {
        let reported = self.reported.into_inner().unwrap_or_else(PoisonError::into_inner);
        reported.recv().unwrap_or_else(|RecvError| unreachable!("its thread ends with the report"))
    }
}

/// Stops and inspects a server from any thread, including a handler's own.
#[derive(Debug, Clone)]
pub struct Stopper {
    port: Arc<Shared>,
    generation: Arc<Generation>,
}

impl Stopper {
    /// From now on this server gets the clients of its port, including those in the accept queue. Connections of a
    /// server that has [retired](Stopper::retire_by) or failed move here if they carry nothing over.
    ///
    /// The server that served before gets no more clients and should retire: call its [`Stopper::retire_by`] next.
    pub fn serve(&self) {
        self.port.serve_by(&self.generation);
        handover::move_all_waiting(&self.port);
    }

    /// Begins to stop the server: its clients have from now until the end of the grace period to disconnect. Returns at
    /// once; [`Handle::join`] waits for the end.
    ///
    /// If the server serves its port, the port is closed: clients in the accept queue are accepted and notified, unless
    /// the listener is [shared](Port::start_shared).
    ///
    /// If the server is already stopping, its deadline moves: earlier, later, or with [`Duration::ZERO`] to now, which
    /// closes the remaining connections by force.
    ///
    /// A [pause](Port::pause) ends, unless another server serves the port.
    pub fn stop(&self, grace: Duration) {
        self.stop_by(deadline_after(Instant::now(), grace));
    }

    /// The same as [`Stopper::stop`], with the end of the grace period as a point in time.
    pub fn stop_by(&self, deadline: Instant) {
        self.generation.stop(deadline);
        if !self.port.has_successor(&self.generation) {
            self.port.resume();
        }
    }

    /// The same as [`Stopper::stop_by`], but clients are notified, or their connections closed, evenly over `spread`,
    /// oldest first. So they come back one after the other where they reconnect. `spread` should be shorter than the
    /// grace period: at the deadline all are closed.
    pub fn stop_over(&self, spread: Duration, deadline: Instant) {
        self.spread(spread);
        self.stop_by(deadline);
    }

    /// Moves the deadline of a stop in progress, of either kind: earlier, later, or to now. Returns whether one is in
    /// progress.
    pub fn move_deadline(&self, deadline: Instant) -> bool {
        self.generation.move_deadline(deadline)
    }

    /// Begins to stop the server because another one serves its port now, or is about to: the accept queue is left to
    /// the other one. Returns at once.
    ///
    /// Clients are notified as in any stop. Without a notice, a connection moves to the other server when it is idle,
    /// unnoticed by its client; one that has a [session](crate::Session) gets the answer to its next message, or is
    /// closed at the end of the grace period.
    ///
    /// A later [`Stopper::stop`] lets these go as any stop does, and moves the deadline.
    pub fn retire_by(&self, deadline: Instant) {
        self.generation.retire(deadline);
    }

    /// The same as [`Stopper::retire_by`], but spread as by [`Stopper::stop_over`].
    pub fn retire_over(&self, spread: Duration, deadline: Instant) {
        self.spread(spread);
        self.retire_by(deadline);
    }

    fn spread(&self, over: Duration) {
        let ids = || self.port.registry.of(&self.generation).iter().map(|entry| entry.id).collect();
        self.generation.turns.begin(ids, over, Instant::now());
    }

    /// Gives up a server that hangs, for this reason; it then fails as after a panic. Its clients are notified without
    /// the thread that hangs, and another server can serve the port.
    pub fn give_up(&self, why: impl Into<String>) {
        self.generation.fail(Failure::Hung(why.into()));
    }

    /// Whether the port still accepts: asks a thread to look, and waits up to `limit` until one has. Makes no
    /// connection.
    pub fn is_accepting(&self, limit: Duration) -> bool {
        self.port.is_accepting(limit)
    }

    /// Whether the handler has something to serve at the moment, see [`Handler::available`].
    ///
    /// # Errors
    /// Why it does not.
    pub fn available(&self) -> io::Result<()> {
        self.generation.handler().map_or(Ok(()), |handler| handler.available())
    }

    /// Ends one connection: its client is notified as in a stop, and closed by force if it is still connected at the
    /// end of the grace period. Waits for the end. None: there is no such connection.
    ///
    /// A connection that has moved to the server that replaced this one is ended there, if both share their [`Ids`].
    ///
    /// The connection's own handler must not call this: it would wait for itself.
    pub fn close(&self, id: u64, grace: Duration) -> Option<Closed> {
        drain::close(&self.port, &self.generation, id, grace)
    }

    /// The address that the server's port listens on.
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// When the remaining connections will be closed by force. None while the server is not stopping.
    pub fn deadline(&self) -> Option<Instant> {
        self.generation.lock().stop.map(|stop| stop.deadline)
    }

    /// How many connections there are and were.
    pub fn counts(&self) -> Counts {
        self.generation.counts()
    }

    /// The connections that are open now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.port.registry.of(&self.generation).iter().map(|entry| entry.info()).collect()
    }
}

#[cfg(test)]
mod tests;
