//! A port in front of any program: the relay passes the bytes of its clients on to the generation that serves now.
//!
//! It has its own threads, one event loop per core. A client's connection and its connection to the program form a
//! *pair*. One loop owns both, so no lock is taken on the path of a byte. No work in a loop blocks: it reads and sends
//! what can be read and sent at once. Other threads send it commands through a mailbox.

mod accept;
mod answers;
mod asked;
mod bytes;
mod connect;
mod course;
mod event_loop;
mod http;
mod hub;
mod message;
mod options;
mod pair;
mod parting;
mod pending;
mod reach;
mod refusal;
mod requests;
mod side;
mod slab;
mod tally;
mod target;
mod timers;
mod tools;

pub use http::Forwarded;
pub use options::{Options, Protocol, RelayCounts};

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::event::{Event, Observer};
use crate::pausing::Paused;
use crate::report::{Closed, ConnectionInfo, Counts, DrainReport};
use accept::Taken;
use event_loop::EventLoop;
use hub::{Command, Door, Hub};
use target::Target;

/// How many clients may wait in the accept queue: the limit that Linux sets by default. As many are taken from it when
/// the port is closed.
const QUEUE: u16 = 4096;

/// A port whose clients are served by programs that know nothing of it. Dropping it closes everything.
pub struct Relay {
    address: SocketAddr,
    hub: Arc<Hub>,
    threads: Vec<JoinHandle<()>>,
    targets: Mutex<Vec<Weak<Target>>>,
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
        Relay::new(listener, false, options, Box::new(observer))
    }

    /// The same with a listener from which other processes accept, too, or will, see
    /// [`Port::start_shared`](crate::Port::start_shared). When the relay closes, the clients in the queue are left to
    /// them.
    ///
    /// # Errors
    /// When the listener has no address, or the system gives no thread or descriptor.
    pub fn start_shared(
        listener: TcpListener,
        options: Options,
        observer: impl Fn(&Event<'_>) + Send + Sync + 'static,
    ) -> io::Result<Relay> {
        Relay::new(listener, true, options, Box::new(observer))
    }

    fn new(listener: TcpListener, is_shared: bool, options: Options, observer: Box<Observer>) -> io::Result<Relay> {
        let address = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        // Its queue was made for a program that accepts now and then, and clients that find it full retry only a second
        // later.
        rustix::net::listen(&listener, QUEUE.into())?;
        // Accepted sockets inherit these options. Keepalive finds clients that have vanished, in the end.
        rustix::net::sockopt::set_tcp_nodelay(&listener, true)?;
        rustix::net::sockopt::set_socket_keepalive(&listener, true)?;
        let loops = thread::available_parallelism().map_or(1, NonZero::get).max(2);
        let hub = Arc::new(Hub::new(Arc::new(listener), is_shared, options, observer, loops)?);
        let event_loops = (0..loops).map(|number| EventLoop::new(hub.clone(), number));
        let event_loops = event_loops.collect::<io::Result<Vec<_>>>()?;
        let mut relay = Relay { address, hub, threads: Vec::new(), targets: Mutex::default() };
        for event_loop in event_loops {
            let thread = thread::Builder::new().name(format!("relay-{}", relay.threads.len() + 1));
            relay.threads.push(thread.spawn(move || event_loop.run())?);
        }
        Ok(relay)
    }

    /// The address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A generation of the program, which listens on this address. It gets no clients until [`Upstream::serve`].
    pub fn upstream(&self, address: SocketAddr) -> Upstream {
        let target = Arc::new(Target::new(address));
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.retain(|target| target.strong_count() > 0);
        targets.push(Arc::downgrade(&target));
        Upstream { target, hub: self.hub.clone() }
    }

    /// The clients that belong to no generation.
    pub fn held(&self) -> Held {
        Held { hub: self.hub.clone() }
    }

    /// From now on no generation serves: clients are held.
    pub fn hold(&self) {
        self.hub.change(|door| door.serving = None);
    }

    /// Sets whether clients should connect here; initially they should. If not, answers (`http`) end their connections,
    /// so that clients reconnect; nothing else changes.
    pub fn set_in_rotation(&self, in_rotation: bool) {
        self.hub.set_in_rotation(in_rotation);
    }

    /// From now on no new client, and with `http` no request, reaches a program: they are held for as long as the pause
    /// lasts. Requests under way are answered, and opaque bytes are passed on. A generation can be replaced meanwhile;
    /// a [stop](Upstream::stop_by) of the one that serves ends the pause.
    pub fn pause(&self) -> Paused {
        self.hub.pausing.pause();
        let hub = self.hub.clone();
        Paused::new(self.hub.pausing.clone(), move || hub.under_way())
    }

    /// Ends a pause: held clients and requests are served.
    pub fn resume(&self) {
        self.hub.resume();
    }

    /// What became of the requests so far.
    pub fn counts(&self) -> RelayCounts {
        self.hub.counts()
    }

    /// The longest time that a request or a client was held since [`Relay::reset_longest_wait`].
    pub fn longest_wait(&self) -> Duration {
        self.hub.longest_wait()
    }

    /// Resets [`Relay::longest_wait`].
    pub fn reset_longest_wait(&self) {
        self.hub.reset_longest_wait();
    }

    /// Stops accepting: closes the listener, and refuses the held clients and, unless the listener is shared, those in
    /// its queue (`http`: 503, `tcp`: closed). With `http`, a generation that serves still answers the clients in the
    /// queue. In a pause, the clients that it would serve stay held.
    pub fn close(&self) {
        close(&self.hub);
    }
}

/// Closes the port, unless it is already closed.
fn close(hub: &Hub) {
    let Some((listener, serving)) = hub.take_listener() else { return };
    // Once no loop accepts any more, the queue is ours, or belongs to the processes that share it. A client that a loop
    // accepts until then is served by the generation that still serves, or refused if it is one too many.
    hub.wait_until_seen();
    if hub.is_shared {
        return;
    }
    for number in 0..usize::from(QUEUE) {
        match accept::take(&listener) {
            // It has been sent nothing, and could not be sent anything later.
            Taken::Client(accepted) if hub.options.protocol == Protocol::Tcp => drop(accepted),
            Taken::Client(mut accepted) => {
                accepted.target = serving.clone().filter(|target| target.enter(true));
                let mailbox = &hub.mailboxes[number % hub.mailboxes.len()];
                hub.connections.fetch_add(1, Ordering::Relaxed);
                mailbox.load.fetch_add(1, Ordering::Relaxed);
                mailbox.send(Command::Adopt(accepted));
            }
            Taken::Vanished => {}
            Taken::None | Taken::Failed(_) | Taken::ShutDown(_) => break,
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        close(&self.hub);
        self.hub.tell(|| Command::Quit);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // What it was doing is over in either case.
        }
        for target in self.targets.lock().unwrap_or_else(PoisonError::into_inner).iter().filter_map(Weak::upgrade) {
            target.abandon();
        }
    }
}

impl fmt::Debug for Relay {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Relay").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The clients of a [`Relay`] that belong to no generation: held ones and idle ones.
#[derive(Debug, Clone)]
pub struct Held {
    hub: Arc<Hub>,
}

impl Held {
    /// These connections as they are now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        asked::connections(&self.hub, None)
    }

    /// Like [`Upstream::close`].
    pub fn close(&self, id: u64, grace: Duration) -> Option<Closed> {
        asked::close(&self.hub, None, id, grace)
    }
}

/// One generation of the program behind a [`Relay`].
#[derive(Debug, Clone)]
pub struct Upstream {
    target: Arc<Target>,
    hub: Arc<Hub>,
}

impl Upstream {
    /// The address that the program listens on.
    pub fn address(&self) -> SocketAddr {
        self.target.address
    }

    /// From now on it gets the clients, the held ones first. Connections of other generations move here when they are
    /// between two messages. If it had been replaced, that is undone: none of its connections is closed at the
    /// deadline.
    pub fn serve(&self) {
        self.hub.change(|door| {
            self.target.serve();
            door.draining.retain(|target| target.number != self.target.number);
            door.serving = Some(self.target.clone());
        });
    }

    /// Another generation serves. Connections move there when they are between two messages; the others may last until
    /// the deadline.
    pub fn retire_by(&self, deadline: Instant) {
        self.drain(|target| target.retire(deadline));
    }

    /// The port closes, too: idle connections are closed, busy ones end with their message, and at the deadline all are
    /// closed.
    pub fn stop_by(&self, deadline: Instant) {
        self.stop_over(Duration::ZERO, deadline);
    }

    /// The same as [`Upstream::retire_by`], but opaque connections are not all closed at the deadline: they are closed
    /// evenly over a period that ends then, oldest first.
    pub fn retire_over(&self, spread: Duration, deadline: Instant) {
        self.drain_over(spread, deadline, Target::retire);
    }

    /// The same as [`Upstream::stop_by`], but idle connections are closed evenly over `spread`, oldest first. Others
    /// are closed as by [`Upstream::retire_over`].
    pub fn stop_over(&self, spread: Duration, deadline: Instant) {
        close(&self.hub);
        self.drain_over(spread, deadline, Target::stop);
        // Only now: requests that a pause holds are the last ones of their clients. If another generation still serves,
        // it gets them, so it has to be stopped first.
        if self.hub.door().0.serving.is_none() {
            self.hub.resume();
        }
    }

    fn drain_over(&self, spread: Duration, deadline: Instant, begin: impl FnOnce(&Target, Instant)) {
        // Not under the door's lock: this asks the loops.
        let ids = if spread.is_zero() { Vec::new() } else { self.connections().into_iter().map(|it| it.id).collect() };
        self.drain(|target| {
            target.spread(ids, spread, deadline);
            begin(target, deadline);
        });
    }

    /// Moves the deadline of a drain, to an earlier or later time. Returns whether there is one.
    pub fn move_deadline(&self, deadline: Instant) -> bool {
        self.hub.change(|_| self.target.move_deadline(deadline))
    }

    /// The program has ended. Idle connections wait for the next generation, a request under way is answered with 502.
    ///
    /// The remaining connections may last as long as their clients need to read what the program had sent;
    /// [`Upstream::retire_by`] sets a deadline for that.
    pub fn lost(&self) {
        self.drain(Target::lose);
    }

    fn drain(&self, begin: impl FnOnce(&Target)) {
        let number = self.target.number;
        self.hub.change(|door: &mut Door| {
            // First, so that no loop gives it a client that it would not take any more.
            door.serving.take_if(|serving| serving.number == number);
            begin(&self.target);
            door.draining.retain(|target| target.number != number && !target.is_empty());
            door.draining.push(self.target.clone());
        });
    }

    /// How many connections it has and had.
    pub fn counts(&self) -> Counts {
        self.target.counts()
    }

    /// The connections that it has now, oldest first.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        asked::connections(&self.hub, Some(self.target.number))
    }

    /// Ends one connection: between two messages, or by force when the grace period is over. Waits for the end. A
    /// connection that has moved to the generation that serves now is ended there. None: there is no such connection.
    ///
    /// A request that a pause holds stays held. If the pause ends within the grace period, it is answered first.
    pub fn close(&self, id: u64, grace: Duration) -> Option<Closed> {
        asked::close(&self.hub, Some(self.target.number), id, grace).or_else(|| {
            let serving = self.hub.door().0.serving.filter(|serving| serving.number != self.target.number)?;
            asked::close(&self.hub, Some(serving.number), id, grace)
        })
    }

    /// After [`Upstream::retire_by`], [`Upstream::stop_by`] or [`Upstream::lost`]: waits until the last connection has
    /// ended. Every caller that waits gets the report.
    pub fn wait(self) -> DrainReport {
        self.target.wait()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_closed_already_disturbs_no_loop_when_it_is_closed_again() {
        let options = Options {
            protocol: Protocol::Tcp,
            max_connections: 1,
            wait: Duration::ZERO,
            answer_within: None,
            ids: crate::generation::Ids::default(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let relay = Relay::start(listener, options, |_| {}).expect("the system has threads and descriptors");
        let before = relay.hub.epoch();
        relay.close();
        let closed = relay.hub.epoch();
        assert_ne!(closed, before);
        relay.close();
        assert_eq!(relay.hub.epoch(), closed);
    }
}
