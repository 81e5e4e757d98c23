//! How a relay serves its clients, and what it reports.

use std::time::Duration;

use super::http::Forwarded;
use crate::generation::Ids;

/// What is known of the bytes that are passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing: the bytes are opaque. A connection stays with the generation that it was made to.
    Tcp,
    /// HTTP/1.0 and 1.1. Between two messages a connection moves to the generation that serves now.
    Http(Forwarded),
}

/// How a [`Relay`](crate::relay::Relay) serves its clients.
#[derive(Debug, Clone)]
pub struct Options {
    /// What is known of the bytes.
    pub protocol: Protocol,
    /// How many clients may be connected at once, including held ones. Further clients are refused, unless an idle one
    /// can be closed instead.
    pub max_connections: usize,
    /// How long a client is held while no generation serves. It begins anew when a pause ends.
    pub wait: Duration,
    /// How long the program may take to begin its answer to an HTTP request. None: as long as it wants.
    pub answer_within: Option<Duration>,
    /// Where the numbers of its connections come from.
    pub ids: Ids,
}

/// What became of the requests, and how many clients wait. Requests are counted with `http` only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RelayCounts {
    /// Clients and requests that are held now, since no generation serves or in a pause.
    pub held: usize,
    /// The program's answers with a status of 200 to 299, or 101.
    pub succeeded: u64,
    /// The program's answers with a status of 300 to 399.
    pub redirected: u64,
    /// The program's answers with a status of 400 to 499.
    pub client_errors: u64,
    /// The program's answers with a status of 500 to 599.
    pub server_errors: u64,
    /// Requests that were refused as invalid or not supported: 400, 431, 501, 505, or 408 for one that never ended.
    pub rejected: u64,
    /// Requests for which the program could not be reached, or that it did not answer: 502.
    pub bad_gateway: u64,
    /// Requests that no generation served in time, or because there were too many clients: 503.
    pub unavailable: u64,
    /// Requests that the program did not answer in time: 504.
    pub gateway_timeout: u64,
    /// Clients without a request that were held and that no generation served in time.
    pub given_up: u64,
    /// Connections to the program that could not be made, that ended without an answer or in the middle of one, or that
    /// brought none in time.
    pub upstream_failures: u64,
    /// Requests that were sent again, because the program closed a connection that it had kept alive.
    pub retries: u64,
}
