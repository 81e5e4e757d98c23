//! The relay of a supervisor, as the builder of programs uses it.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use worker::relay::{self, Held, Relay, Upstream};
use worker::{ConnectionInfo, Counts, Failure};

use crate::event::{Event, EventSender};
use crate::journal::Journal;
use crate::protocol;
use crate::server::handlers::log_event;
use crate::server::quiet::await_quiet;
use crate::server::{Clients, Closer, Watcher, close_on_a_thread};
use crate::settings::{Forwarded, RelayOptions, RelayProtocol};
use crate::text::milliseconds;

/// The port in front of programs.
#[derive(Debug)]
pub(crate) struct Relaying {
    relay: Relay,
    held: Held,
    protocol: RelayProtocol,
    /// The journal for the events of connections.
    log: Arc<RwLock<Journal>>,
}

impl Relaying {
    /// Accepts clients from now on, and holds them. On a shared listener, other processes accept, too, or will.
    ///
    /// # Errors
    /// What the system does not give.
    pub(crate) fn start(
        listener: TcpListener,
        shared: bool,
        options: &RelayOptions,
        log: Journal,
        events: EventSender,
    ) -> io::Result<Relaying> {
        let RelayOptions { protocol, wait, max_connections } = *options;
        let (of_worker, answer_within) = match protocol {
            RelayProtocol::Tcp => (relay::Protocol::Tcp, None),
            RelayProtocol::Http { forwarded, answer_within } => {
                let forwarded = match forwarded {
                    Forwarded::Append => relay::Forwarded::Append,
                    Forwarded::Replace => relay::Forwarded::Replace,
                    Forwarded::Off => relay::Forwarded::Off,
                };
                (relay::Protocol::Http(forwarded), answer_within)
            }
        };
        let ids = worker::Ids::default();
        let options = relay::Options { protocol: of_worker, max_connections, wait, answer_within, ids };
        let log = Arc::new(RwLock::new(log));
        let of_now = log.clone();
        let observer = move |event: &worker::Event<'_>| match event {
            worker::Event::Failed { failure: failure @ Failure::Accept(_) } => {
                // Without master control nothing can be done about it.
                let _ = events.send(Event::PortFailed { reason: failure.to_string() });
            }
            event => log_event(&of_now.read().unwrap_or_else(PoisonError::into_inner), event),
        };
        let relay = match shared {
            true => Relay::start_shared(listener, options, observer)?,
            false => Relay::start(listener, options, observer)?,
        };
        let held = relay.held();
        Ok(Relaying { relay, held, protocol, log })
    }

    /// Logs the events of connections to this journal from now on: each generation has its own log level.
    pub(super) fn log_to(&self, log: Journal) {
        *self.log.write().unwrap_or_else(PoisonError::into_inner) = log;
    }

    /// A program that listens on this address.
    pub(super) fn upstream(&self, address: SocketAddr) -> Upstream {
        self.relay.upstream(address)
    }

    /// Notes that a start or a restart begins.
    pub(super) fn begin(&self) {
        self.relay.reset_longest_wait();
    }

    pub(super) fn set_in_rotation(&self, in_rotation: bool) {
        self.relay.set_in_rotation(in_rotation);
    }

    /// Holds clients and requests from now on. See [`Builder::pause`](crate::server::Builder::pause).
    pub(super) fn pause(&self, pause: u64, events: &EventSender) -> Result<usize, String> {
        await_quiet(self.relay.pause(), pause, events).inspect_err(|_| self.relay.resume())
    }

    pub(super) fn resume(&self) {
        self.relay.resume();
    }

    /// Relays nothing any more except for connections that drain.
    pub(super) fn close(&self) {
        self.relay.close();
    }

    /// The clients that are not connected to a program.
    pub(super) fn held(&self) -> &dyn Clients {
        &self.held
    }

    /// The counts for other processes.
    pub(super) fn status(&self) -> protocol::Relay {
        let relay::RelayCounts {
            held,
            succeeded,
            redirected,
            client_errors,
            server_errors,
            rejected,
            bad_gateway,
            unavailable,
            gateway_timeout,
            given_up,
            upstream_failures,
            retries,
        } = self.relay.counts();
        let requests = protocol::Requests {
            succeeded,
            redirected,
            client_errors,
            server_errors,
            rejected,
            bad_gateway,
            unavailable,
            gateway_timeout,
            retries,
        };
        let (protocol, requests) = match self.protocol {
            RelayProtocol::Tcp => ("tcp", None),
            RelayProtocol::Http { .. } => ("http", Some(requests)),
        };
        protocol::Relay {
            protocol: protocol.into(),
            upstream: None,
            held,
            longest_wait_ms: milliseconds(self.relay.longest_wait()),
            upstream_failures,
            given_up,
            requests,
        }
    }
}

impl Clients for Held {
    fn counts(&self) -> Counts {
        Counts { now: Held::connections(self).len(), ..Counts::default() }
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        Held::connections(self)
    }

    fn watcher(&self) -> Watcher {
        let held = self.clone();
        Box::new(move || held.connections())
    }

    fn close(&self, id: u64, grace: Duration, done: Closer) -> io::Result<Option<ConnectionInfo>> {
        let held = self.clone();
        close_on_a_thread(Held::connections(self), id, move || held.close(id, grace), done)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::log::Log;
    use std::net::{Shutdown, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc;

    #[test]
    fn master_control_hears_once_that_another_process_has_shut_down_the_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::from(OwnedFd::from(listener.try_clone().unwrap()));
        let options = RelayOptions { protocol: RelayProtocol::Tcp, wait: Duration::ZERO, max_connections: 1 };
        let (events, heard) = mpsc::channel();
        let log = Journal::new(Log::silent());
        let relaying = Relaying::start(listener, true, &options, log, EventSender::new(events, None)).unwrap();
        socket.shutdown(Shutdown::Both).unwrap();
        let event = heard.recv_timeout(Duration::from_secs(45)).unwrap();
        assert!(matches!(event, Event::PortFailed { reason } if reason.starts_with("the listening socket failed: ")));
        drop(relaying);
        assert!(heard.recv().is_err(), "nothing more");
    }
}
