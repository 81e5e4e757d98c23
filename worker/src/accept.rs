//! From the accept queue to a connection: clients are admitted or refused, and a stop empties the queue.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::course;
use crate::engine::{Events, Key, Rearm, Watch, Why};
use crate::event::{Event, Failure, panic_message};
use crate::farewell::Farewell;
use crate::generation::{For, Generation};
use crate::idle;
use crate::port::{GivenUp, Shared};
use crate::registry::{Held, New, Service};
use crate::socket;

/// How long to wait before trying again when the system is out of descriptors, memory or threads, unless a connection
/// ends first. Nothing else reports that there is room again.
const EXHAUSTED_WAIT: Duration = Duration::from_secs(1);

/// How many clients are accepted before others get a turn.
const BATCH: usize = 64;

/// How many clients a stop takes from the accept queue: as many as can have been waiting there, which is the limit that
/// Linux sets by default. Clients that keep connecting meanwhile must not hold up the stop.
const QUEUE: usize = 4096;

/// The engine reports to the port, which finds the connection concerned.
impl Events for Shared {
    fn ready(self: Arc<Self>, key: Key, why: Why) {
        if let Some(entry) = self.registry.get(key) {
            course::ready(&self, &entry, why);
        }
    }

    fn acceptable(self: Arc<Self>, accept: &mut dyn FnMut() -> io::Result<(TcpStream, SocketAddr)>) {
        if let Some(turn) = self.begin_turn() {
            let next = accept_batch(&self, turn, accept);
            self.end_turn(turn, next);
        }
    }
}

/// Accepts the next clients for the generation that serves. Returns when to look again. None: the turn is over.
fn accept_batch(
    port: &Arc<Shared>,
    turn: u64,
    accept: &mut dyn FnMut() -> io::Result<(TcpStream, SocketAddr)>,
) -> Option<Rearm> {
    for _ in 0..BATCH {
        let target = port.target(turn)?;
        match accept() {
            Ok((stream, peer)) => admit(port, &target, stream, peer),
            Err(error) if concerns_one_client(&error) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(Rearm::OnClient),
            // No longer a listening socket: it was shut down by another process.
            Err(error) if error.kind() == ErrorKind::InvalidInput => {
                port.fail(error);
                return None;
            }
            Err(error) => {
                port.report_exhausted(&target, &error);
                return Some(Rearm::After(EXHAUSTED_WAIT));
            }
        }
    }
    Some(Rearm::OnClient)
}

/// Serves or refuses a client that was accepted.
fn admit(port: &Arc<Shared>, generation: &Arc<Generation>, stream: TcpStream, peer: SocketAddr) {
    // On some systems accepted sockets inherit non-blocking mode, but they must block. Small answers are whole
    // messages: they go out at once. A failure means that the client is already gone.
    #[cfg(not(target_os = "linux"))]
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    let Some(handler) = generation.handler() else { return };
    match panic::catch_unwind(AssertUnwindSafe(|| handler.admits(peer))) {
        Ok(true) => {}
        Ok(false) => return,
        Err(panic) => return generation.fail(Failure::Panicked(panic_message(&*panic).to_owned())),
    }
    let is_full = generation.counts().now >= generation.max_connections;
    let refused = is_full && !idle::give_up_idlest(port, generation);
    if refused {
        generation.count_refused();
        generation.say(&Event::Refused { peer });
        if !port.reserve_refusal() {
            let _ = socket::send_at_once(&stream, &generation.refusal, false);
            return;
        }
    }
    let id = if refused { 0 } else { generation.ids.next() };
    let stream = Arc::new(stream);
    let entry = port.registry.enter(&New { id, peer, generation: generation.number, refused }, stream.clone());
    let held = Held {
        socket: stream,
        generation: generation.clone(),
        has_session: false,
        speaks: !refused && generation.speaks_first,
        rest: Vec::new(),
        idle_timeout: generation.idle_timeout,
        write_timeout: None,
        applied_write_timeout: None,
        idle_since: None,
        farewell: refused.then(|| Box::new(Farewell::refusal(&generation.refusal))),
        watch: Watch::default(),
        service: Some(Service::Unasked(handler)),
    };
    if !refused {
        generation.connected();
        generation.say(&Event::Connected { id, peer });
    }
    course::begin(port, &entry, held);
}

/// Closes the listener for a generation that stops, if that generation serves there. Clients in the queue are accepted
/// and notified, unless other processes accept there, too.
pub(crate) fn close(port: &Arc<Shared>, generation: &Arc<Generation>) {
    let Some(GivenUp { listener, accepted }) = port.begin_to_close(Some(generation)) else { return };
    for (stream, peer) in accepted {
        admit(port, generation, stream, peer);
    }
    if !port.is_shared {
        empty_queue(port, generation, &listener);
    }
    drop(listener);
    port.end_close();
}

fn empty_queue(port: &Arc<Shared>, generation: &Arc<Generation>, listener: &TcpListener) {
    if listener.set_nonblocking(true).is_err() {
        return;
    }
    for _ in 0..QUEUE {
        let alone = port.registry.is_empty();
        match listener.accept() {
            Ok((_, peer)) if port.engine.is_own(peer) => {}
            Ok((stream, peer)) => admit(port, generation, stream, peer),
            Err(error) if concerns_one_client(&error) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::InvalidInput) => return,
            // No descriptor is left, and none of ours could be given back.
            Err(_) if alone => return,
            Err(_) => {
                if !make_room(port, generation) {
                    return;
                }
            }
        }
    }
}

/// No descriptor is left for the clients in the queue. The connected clients are notified now: each that disconnects
/// makes room. Returns whether there is time to try again.
fn make_room(port: &Arc<Shared>, generation: &Generation) -> bool {
    idle::release(port, generation);
    let live = generation.lock();
    let remaining = live.stop.map_or(Duration::ZERO, |stop| stop.deadline.saturating_duration_since(Instant::now()));
    if live.counts.now > 0 {
        drop(generation.wait(live, For::Room, remaining.min(Duration::from_millis(100))));
    }
    !remaining.is_zero()
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
