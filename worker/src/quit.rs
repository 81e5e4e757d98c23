//! The quit flag, and what wakes a blocked `accept`.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// How long the wake-up may take to connect. On loopback a connection is made at once, or not at all because the
/// accept queue is full; in that case `accept` has something to return and needs no wake-up.
const WAKE_LIMIT: Duration = Duration::from_millis(100);

/// A flag that is set once and never cleared.
#[derive(Debug)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn new() -> Flag {
        Flag(AtomicBool::new(false))
    }

    /// Sets the flag. Returns whether this call was the one that set it.
    pub(crate) fn set(&self) -> bool {
        !self.0.swap(true, Ordering::SeqCst)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Tells the accepting thread to quit.
#[derive(Debug)]
pub(crate) struct Quit {
    pub(crate) flag: Flag,
    door: SocketAddr,
    wake: Mutex<Wake>,
}

#[derive(Debug)]
enum Wake {
    /// Holds a spare descriptor, so that the wake-up can connect even when the process has no other left.
    Ready { _spare: Option<TcpListener> },
    /// The wake-up came from this address, if it could connect.
    Done(Option<SocketAddr>),
}

impl Quit {
    pub(crate) fn new(listener: &TcpListener) -> io::Result<Quit> {
        Ok(Quit {
            flag: Flag::new(),
            door: through_loopback(listener.local_addr()?),
            wake: Mutex::new(Wake::Ready { _spare: listener.try_clone().ok() }),
        })
    }

    /// Sets the flag, *then* wakes `accept` by a connection to the listener's own port. Later calls do nothing.
    pub(crate) fn set(&self) {
        let mut wake = self.lock();
        if self.flag.set() {
            *wake = Wake::Done(None); // Frees the spare descriptor for the connection below.
            let connection = TcpStream::connect_timeout(&self.door, WAKE_LIMIT);
            *wake = Wake::Done(connection.and_then(|stream| stream.local_addr()).ok());
        }
    }

    /// Whether a connection from `peer` is the wake-up and not a client. Waits for a wake-up that is under way.
    pub(crate) fn is_wake_up(&self, peer: SocketAddr) -> bool {
        matches!(*self.lock(), Wake::Done(Some(address)) if address == peer)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wake> {
        // Each state is one assignment: a panic elsewhere cannot leave it half written.
        self.wake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The address under which this machine reaches a listener: to connect to `0.0.0.0` fails on Windows.
fn through_loopback(listener: SocketAddr) -> SocketAddr {
    let ip = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listener.port())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_accept_is_woken_once_and_knows_the_wake_up_from_a_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let quit = Quit::new(&listener).unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept().unwrap().1);
            quit.set();
            quit.set();
            assert!(quit.is_wake_up(accepting.join().unwrap()));
        });
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap(), "the second set() connected again");
        assert!(!quit.is_wake_up(peer));
    }

    #[test]
    fn the_wake_up_goes_to_loopback_when_the_listener_has_every_address() {
        for (bound, door) in [("0.0.0.0:80", "127.0.0.1:80"), ("[::]:80", "[::1]:80"), ("192.0.2.1:80", "192.0.2.1:80")]
        {
            assert_eq!(through_loopback(bound.parse().unwrap()), door.parse().unwrap());
        }
    }
}
