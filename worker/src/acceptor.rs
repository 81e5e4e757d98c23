//! The accept loop, and what becomes of the accept queue when it ends.

use std::io::{self, ErrorKind, Read};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::drain;
use crate::quit::is_same;
use crate::registry::{Entry, For, Outcome, Queue};
use crate::server::{Event, Shared};
use crate::socket;
use crate::threads::Threads;

/// How long to wait before trying again when the system is out of descriptors, memory or threads, unless a connection
/// ends before. Nothing else would say that there is room again.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// While the system stays exhausted, that is said once in this time.
const EXHAUSTED_QUIET: Duration = Duration::from_secs(60);

/// How many clients are still taken from the accept queue when a stop has begun: as many as can have waited there,
/// which is what Linux allows unless told otherwise. Clients that keep coming meanwhile must not hold up the stop.
const QUEUE: usize = 4096;

/// For how long a connection from the address of a wake-up that was left in the queue is taken for that. Should it
/// never come, a client may have the same address some day.
const NO_CLIENT_LIMIT: Duration = Duration::from_secs(1);

/// How many clients are turned away politely at the same time, each by a thread of its own for up to
/// [`REFUSAL_LIMIT`]. Beyond that the answer may be lost.
const REFUSALS: usize = 32;

/// How long a client that is turned away gets to read why.
const REFUSAL_LIMIT: Duration = Duration::from_secs(1);

/// Runs on the thread `server`.
pub(crate) struct Acceptor {
    shared: Arc<Shared>,
    threads: Arc<Threads<Arc<Entry>>>,
    max_connections: usize,
    refusals: Arc<AtomicUsize>,
    /// When it was last said that the system is exhausted.
    exhausted: Option<Instant>,
    /// A connection from this address is no client, if it is accepted by then.
    no_client: Option<(SocketAddr, Instant)>,
}

impl Acceptor {
    pub(crate) fn new(shared: Arc<Shared>, threads: Arc<Threads<Arc<Entry>>>, max_connections: usize) -> Acceptor {
        Acceptor { shared, threads, max_connections, refusals: Arc::default(), exhausted: None, no_client: None }
    }

    /// Accepts until the server is told to quit, and then what waits in the queue, unless that is another server's.
    /// `no_client` is where a connection came from that woke this one's predecessor.
    ///
    /// # Errors
    /// When the listener has failed for good.
    pub(crate) fn run(mut self, listener: &TcpListener, no_client: Option<SocketAddr>) -> io::Result<()> {
        self.no_client = no_client.map(|address| (address, Instant::now() + NO_CLIENT_LIMIT));
        if self.shared.quit.begin(listener) {
            self.shared.say(&Event::Accepting);
            self.accept_until_quit(listener)?;
        }
        self.threads.keep_all();
        let stop = self.shared.registry.lock().stop;
        if stop.is_some_and(|stop| stop.queue == Queue::Emptied) {
            self.empty_queue(listener);
        }
        Ok(())
    }

    fn accept_until_quit(&mut self, listener: &TcpListener) -> io::Result<()> {
        while !(self.shared.quit.flag.is_set() && self.shared.quit.leave()) {
            let accepted = listener.accept();
            self.shared.probe.round();
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer),
                Err(error) if concerns_one_client(&error) => {}
                // Somebody who has the same listener does not want to wait for clients there; this thread does.
                Err(error) if error.kind() == ErrorKind::WouldBlock && listener.set_nonblocking(false).is_ok() => {}
                // No longer a listening socket: it was shut down to end this loop, or by somebody else.
                Err(error) if error.kind() == ErrorKind::InvalidInput && !self.shared.quit.flag.is_set() => {
                    return Err(error);
                }
                Err(error) if error.kind() == ErrorKind::InvalidInput => {}
                Err(error) => self.wait_for_room(&error),
            }
        }
        Ok(())
    }

    /// Accepts what waited in the queue when the stop began: those clients are told, too. Nobody else accepts from this
    /// listener any more.
    fn empty_queue(&mut self, listener: &TcpListener) {
        if listener.set_nonblocking(true).is_err() {
            return;
        }
        for _ in 0..QUEUE {
            let alone = self.shared.registry.lock().connections.is_empty();
            match listener.accept() {
                Ok((stream, peer)) => {
                    // Where accepted sockets inherit it, they must not stay non-blocking.
                    let _ = stream.set_nonblocking(false);
                    self.admit(stream, peer);
                }
                Err(error) if concerns_one_client(&error) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::InvalidInput) => return,
                // No descriptor is left, and nobody has one to give.
                Err(_) if alone => return,
                Err(_) => {
                    if !self.make_room() {
                        return;
                    }
                }
            }
        }
    }

    /// No descriptor is left for those who wait in the queue. The others are told now: who leaves makes room. Returns
    /// whether there is time to try again.
    fn make_room(&self) -> bool {
        let shared = &self.shared;
        drain::tell_idle(shared);
        let live = shared.registry.lock();
        let left = live.stop.map_or(Duration::ZERO, |stop| stop.deadline.saturating_duration_since(Instant::now()));
        if !live.connections.is_empty() {
            drop(shared.registry.wait(live, For::Room, left.min(EXHAUSTED_WAIT)));
        }
        !left.is_zero()
    }

    /// Serves, refuses, or recognizes as our own wake-up what was accepted.
    fn admit(&mut self, stream: TcpStream, peer: SocketAddr) {
        let shared = &self.shared;
        if shared.quit.flag.is_set() && shared.quit.is_wake_up(peer) {
            return;
        }
        if self.no_client.take_if(|(address, _)| is_same(*address, peer)).is_some_and(|(_, end)| Instant::now() < end) {
            return;
        }
        if !shared.handler.admits(peer) {
            return;
        }
        if shared.registry.lock().connections.len() >= self.max_connections {
            return self.refuse(stream, peer);
        }
        let entry = shared.registry.enter(stream, peer);
        loop {
            match self.threads.hand(entry.clone()) {
                Ok(()) => return,
                Err(error) if self.shared.quit.flag.is_set() => {
                    self.shared.say(&Event::Exhausted { error: &error });
                    return self.tell_without_thread(entry);
                }
                Err(error) => self.wait_for_room(&error),
            }
        }
    }

    /// There is no thread left and the server is quitting: the client hears it from this one.
    fn tell_without_thread(&self, entry: Arc<Entry>) {
        let shared = &self.shared;
        entry.turn.rest(|| shared.leave.is_set());
        if let Some(notice) = shared.notice.as_deref()
            && socket::send_at_once(&entry.stream, notice).is_ok_and(|written| written == notice.len())
        {
            drain::told(&shared.registry, &entry);
        }
        shared.registry.leave(entry, Outcome::Closed);
    }

    fn refuse(&self, stream: TcpStream, peer: SocketAddr) {
        self.shared.registry.count_refused();
        self.shared.say(&Event::Refused { peer });
        if self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS {
            let (shared, refusals) = (self.shared.clone(), self.refusals.clone());
            let thread = thread::Builder::new().name("refusal".into()).spawn(move || {
                refuse(&stream, shared.handler.refusal());
                refusals.fetch_sub(1, Ordering::Relaxed);
            });
            if thread.is_ok() {
                return;
            }
        }
        self.refusals.fetch_sub(1, Ordering::Relaxed);
    }

    fn wait_for_room(&mut self, error: &io::Error) {
        // It goes round, though it gets nowhere: it does not hang.
        self.shared.probe.round();
        if self.exhausted.is_none_or(|said| said.elapsed() >= EXHAUSTED_QUIET) {
            self.exhausted = Some(Instant::now());
            self.shared.say(&Event::Exhausted { error });
        }
        let live = self.shared.registry.lock();
        if !self.shared.quit.flag.is_set() {
            drop(self.shared.registry.wait(live, For::Room, EXHAUSTED_WAIT));
        }
    }
}

/// Whether `accept` failed because of a client that had not been accepted yet, and not because of the listener.
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    )
}

/// Tells a client that there is no room for it, and lets it read that.
fn refuse(mut stream: &TcpStream, answer: &[u8]) {
    let end = Instant::now() + REFUSAL_LIMIT;
    let _ = stream.set_write_timeout(Some(REFUSAL_LIMIT));
    let said = io::Write::write_all(&mut stream, answer).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut rest = [0; 1024];
    while said.is_ok() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() || stream.set_read_timeout(Some(left)).is_err() {
            return;
        }
        if !stream.read(&mut rest).is_ok_and(|length| length > 0) {
            return;
        }
    }
}
