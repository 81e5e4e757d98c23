//! Load for an HTTP server that counts the fate of every request. `admin-cli restart --verify` and `stop --verify` use
//! it, and so do the tests and the benchmarks of this project.
//!
//! Each connection has a thread, with one request in progress at a time. A request that got no whole answer is lost,
//! and is counted by how it was lost. No request is repeated, except where the server has closed an idle
//! connection without reading it: see [`Load::resend`].

mod answer;
mod client;
mod report;
#[cfg(test)]
mod tests;
mod url;

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use answer::Fate;
use client::{Client, Count, Plan, Shared};
pub use report::Report;
pub use url::Url;

/// How long an answer may take before its request counts as lost, by default.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a connection waits after a lost request, or when the system has no port for it: a client that hammers at a
/// server that is down takes processor time from the processes that would restore it.
const PAUSE: Duration = Duration::from_millis(2);

/// What happens to a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each request has a connection of its own and asks the server to close it; the answer is read up to the end of
    /// file.
    OnePerConnection,
    /// A connection is used until the server ends it, by `Connection: close` or by closing it while it is idle. The
    /// latter is checked before each request: a client that finds its connection closed has sent nothing, and so has
    /// lost nothing.
    KeptAlive,
}

/// Which answers are the right ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expected {
    /// Those with status 200 and this body.
    Body(Vec<u8>),
    /// Those with this status, whatever their body.
    Status(u16),
    /// All.
    Any,
}

/// A load that has not begun yet.
#[derive(Debug, Clone)]
pub struct Load(Plan);

impl Load {
    /// Requests `path`, which must be answered with this body.
    pub fn new(address: SocketAddr, path: &str, body: impl Into<Vec<u8>>, mode: Mode) -> Load {
        Load::of(vec![address], &address.to_string(), path, Expected::Body(body.into()), mode)
    }

    /// Requests a URL, at the addresses that its host has now.
    pub fn from_url(url: &Url, expected: Expected, mode: Mode) -> io::Result<Load> {
        let addresses = (url.host(), url.port()).to_socket_addrs()?.collect();
        Ok(Load::of(addresses, url.authority(), url.path(), expected, mode))
    }

    fn of(addresses: Vec<SocketAddr>, authority: &str, path: &str, expected: Expected, mode: Mode) -> Load {
        let close = if mode == Mode::OnePerConnection { "Connection: close\r\n" } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {authority}\r\n{close}\r\n").into_bytes();
        Load(Plan {
            addresses,
            mode,
            request,
            expected,
            connections: 16,
            patience: PATIENCE,
            hesitation: Duration::ZERO,
            pace: Duration::ZERO,
            resend: false,
        })
    }

    /// The number of simultaneous connections, 16 by default.
    pub fn connections(mut self, connections: usize) -> Load {
        self.0.connections = connections;
        self
    }

    /// How long an answer may take before its request counts as lost, half a minute by default.
    pub fn patience(mut self, patience: Duration) -> Load {
        self.0.patience = patience;
        self
    }

    /// How long a new connection waits before its first request, not at all by default.
    pub fn hesitation(mut self, hesitation: Duration) -> Load {
        self.0.hesitation = hesitation;
        self
    }

    /// The shortest time from the start of one request of a connection to the start of the next, none by default. With
    /// a pace that the server can follow, the number of lost requests shows how long it was away.
    pub fn pace(mut self, pace: Duration) -> Load {
        self.0.pace = pace;
        self
    }

    /// Sends a request again, on a new connection, if the server closed a kept connection without reading it: a server
    /// may close an idle connection at any time, and every HTTP client does this with a request that may be repeated.
    /// The evidence is a reset without a byte of an answer. An end without a reset is no such evidence: a server that
    /// drops a request after reading it closes the connection in the same way.
    ///
    /// Without this, too, the first request of a connection is sent again if this machine took a second to send it.
    pub fn resend(mut self) -> Load {
        self.0.resend = true;
        self
    }

    /// Begins. Panics if there are no threads for it.
    pub fn begin(self) -> Running {
        self.try_begin().unwrap_or_else(|error| panic!("no thread for a load: {error}"))
    }

    /// Begins.
    pub fn try_begin(self) -> io::Result<Running> {
        let shared = Arc::new(Shared::new(self.0));
        let connections = shared.plan.connections;
        let threads = (0..connections)
            .map(|number| {
                // With a pace, the connections do not all begin at the same moment.
                let after = shared.plan.pace.mul_f64(number as f64 / connections as f64);
                let (answered, lost) = (Arc::<Count>::default(), Arc::<Count>::default());
                let client = Client::new(shared.clone());
                let thread = thread::Builder::new().name(format!("load-{number}")).spawn({
                    let (answered, lost) = (answered.clone(), lost.clone());
                    move || client.run(after, &answered, &lost)
                });
                Ok(Worker { answered, lost, thread: thread? })
            })
            .collect::<io::Result<_>>()
            .inspect_err(|_| shared.done.store(true, Ordering::Relaxed))?;
        Ok(Running { shared, threads })
    }

    /// Sends one request. Returns its fate and the status of its answer.
    pub fn once(self) -> (Fate, Option<u16>) {
        Client::new(Arc::new(Shared::new(self.0))).once()
    }

    /// Begins, and ends after this time.
    pub fn run_for(self, time: Duration) -> Report {
        let running = self.begin();
        thread::sleep(time);
        running.end()
    }

    /// Begins, and ends when at least this many requests have been answered or lost.
    pub fn run(self, requests: u64) -> Report {
        let running = self.begin();
        while running.answered() + running.lost() < requests {
            thread::sleep(PAUSE);
        }
        running.end()
    }
}

#[derive(Debug)]
struct Worker {
    answered: Arc<Count>,
    lost: Arc<Count>,
    thread: JoinHandle<Report>,
}

/// A load in progress. It ends with [`Running::end`], or when it is dropped.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<Worker>,
}

impl Running {
    /// How many requests have been answered so far.
    pub fn answered(&self) -> u64 {
        self.threads.iter().map(|worker| worker.answered.get()).sum()
    }

    /// How many requests have been lost so far.
    pub fn lost(&self) -> u64 {
        self.threads.iter().map(|worker| worker.lost.get()).sum()
    }

    /// When it began: the times of losses in its report are relative to it.
    pub fn began(&self) -> Instant {
        self.shared.began
    }

    /// Ends: begins no further requests, and waits for those in progress.
    pub fn end(mut self) -> Report {
        self.shared.done.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        for worker in self.threads.drain(..) {
            report.add(worker.thread.join().unwrap_or_else(|_| panic!("a connection of the load has panicked")));
        }
        report.took = self.shared.began.elapsed();
        report
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
    }
}
