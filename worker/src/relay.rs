//! The parts of a relay in front of any program, which passes the bytes of its clients on to the generation that serves
//! now.

#[allow(dead_code, unused_imports, reason = "the loop that passes the bytes on is not written yet")]
mod http;

pub use http::Forwarded;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use crate::event::Event;
use crate::generation::Ids;
use crate::report::{Closed, ConnectionInfo, Counts, DrainReport};

/// What is known of the bytes that are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing: they are bytes. A connection stays with the generation that it was made to.
    Tcp,
    /// HTTP/1.0 and 1.1. Between two messages a connection moves to the generation that serves now.
    Http(Forwarded),
}

/// How a [`Relay`] serves its clients.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is known of the bytes.
    pub protocol: Protocol,
    /// How many clients are connected at once, those included that are held. Further ones are refused.
    pub max_connections: usize,
    /// How long a client is held while no generation serves.
    pub wait: Duration,
    /// How long the program may take to begin its answer to an HTTP request. None: as long as it wants.
    pub answer_within: Option<Duration>,
    /// Where the numbers of its connections come from.
    pub ids: Ids,
}

/// What became of the requests, and how many clients wait. Requests are counted with `http` only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Clients and requests that are held now, since no generation serves.
    pub held: usize,
    /// The program's answers with a status of 200 to 299, or 101.
    pub succeeded: u64,
    /// The program's answers with a status of 300 to 399.
    pub redirected: u64,
    /// The program's answers with a status of 400 to 499.
    pub client_errors: u64,
    /// The program's answers with a status of 500 to 599.
    pub server_errors: u64,
    /// Requests that were refused because of what they are: 400, 431, 501, 505, or 408 for one that never ended.
    pub rejected: u64,
    /// Requests that the program was given and did not answer: 502.
    pub bad_gateway: u64,
    /// Requests that no generation served in time, or because there were too many clients: 503.
    pub unavailable: u64,
    /// Requests that the program did not answer in time: 504.
    pub gateway_timeout: u64,
    /// Clients without a request that were held and that no generation served in time.
    pub given_up: u64,
    /// Connections to the program that could not be made, or that failed in the middle of an answer.
    pub upstream_failures: u64,
    /// Requests that were sent once more, because the program closed a connection that it had kept alive.
    pub retries: u64,
}

/// A port whose clients are served by programs that know nothing of it. Dropping it closes everything.
pub struct Relay {
    address: SocketAddr,
}

impl Relay {
    /// Accepts clients. They are held until a generation [serves](Upstream::serve).
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread or descriptor.
    pub fn start(
        listener: TcpListener,
        options: Options,
        observer: impl Fn(&Event<'_>) + Send + Sync + 'static,
    ) -> io::Result<Relay> {
        drop((options, observer));
        Ok(Relay { address: listener.local_addr()? })
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A generation of the program, which listens on this address. It gets no client before [`Upstream::serve`].
    pub fn upstream(&self, address: SocketAddr) -> Upstream {
        Upstream { address }
    }

    /// No generation serves: clients are held from now on.
    pub fn hold(&self) {}

    /// What became of the requests so far.
    pub fn counts(&self) -> RelayCounts {
        RelayCounts::default()
    }

    /// How long the request, or the client, that waited longest was held since [`Relay::reset_longest_wait`].
    pub fn longest_wait(&self) -> Duration {
        Duration::ZERO
    }

    /// Forgets what waited so far.
    pub fn reset_longest_wait(&self) {}

    /// Accepts nothing any more: closes the listener, and answers what waits in its queue and what is held (`http`: 503,
    /// `tcp`: closed).
    pub fn close(&self) {}
}

impl fmt::Debug for Relay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Relay").field("address", &self.address).finish_non_exhaustive()
    }
}

/// One generation of the program behind a [`Relay`].
#[derive(Debug, Clone)]
pub struct Upstream {
    address: SocketAddr,
}

impl Upstream {
    /// The address that the program listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on it gets the clients, at first those that are held. Connections of others that are between two
    /// messages move here.
    pub fn serve(&self) {}

    /// Another one serves. Connections move there when they are between two messages; the others may last until the
    /// deadline.
    pub fn retire_by(&self, deadline: Instant) {
        let _ = deadline;
    }

    /// The port closes, too: idle connections are closed, busy ones end with their message, at the deadline all of them.
    pub fn stop_by(&self, deadline: Instant) {
        let _ = deadline;
    }

    /// Moves the deadline of a drain, nearer or farther. Returns whether there is one.
    pub fn move_deadline(&self, deadline: Instant) -> bool {
        let _ = deadline;
        false
    }

    /// The program has ended. Idle connections wait for the next generation, a request under way is answered with 502.
    pub fn lost(&self) {}

    /// How many connections it has and had.
    pub fn counts(&self) -> Counts {
        Counts::default()
    }

    /// The connections that it has now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        Vec::new()
    }

    /// Ends one connection: between two messages, or by force when the grace period is over. Waits for that. None: there
    /// is no such connection.
    pub fn close(&self, id: u64, grace: Duration) -> Option<Closed> {
        let _ = (id, grace);
        None
    }

    /// After [`Upstream::retire_by`] or [`Upstream::stop_by`]: waits until the last connection has ended.
    pub fn wait(self) -> DrainReport {
        DrainReport::default()
    }
}
