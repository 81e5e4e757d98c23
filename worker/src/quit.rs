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

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Tells the accepting thread to quit.
#[derive(Debug)]
pub(crate) struct Quit {
    pub(crate) flag: Flag,
    /// Set by the accepting thread when it accepts no more.
    gone: Flag,
    doors: Vec<SocketAddr>,
    wake: Mutex<Wake>,
}

#[derive(Debug)]
enum Wake {
    /// Nobody accepts yet, or any more.
    Pointless,
    /// Holds a spare descriptor, so that the wake-up can connect even when the process has no other left.
    Ready { spare: Option<TcpListener> },
    /// The wake-up came from this address, and has been accepted or waits in the queue.
    Knocked { by: SocketAddr, accepted: bool },
}

/// What to do when nothing can connect to the listener: its address or the loopback interface is gone, or a firewall is in
/// the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// Shut it down. That loses what waits in its queue, and nobody can have come there any more.
    Shut,
    /// Leave it, since others accept from it, too. The accepting thread goes on until the next client comes.
    Leave,
}

impl Quit {
    pub(crate) fn new(listener: &TcpListener) -> io::Result<Quit> {
        Ok(Quit {
            flag: Flag::new(),
            gone: Flag::new(),
            doors: doors(listener.local_addr()?),
            wake: Mutex::new(Wake::Pointless),
        })
    }

    /// The calling thread is about to accept: from now on it has to be woken. Returns false if it has been told to quit
    /// already.
    pub(crate) fn begin(&self, listener: &TcpListener) -> bool {
        let mut wake = self.lock();
        if self.flag.is_set() {
            return false;
        }
        *wake = Wake::Ready { spare: listener.try_clone().ok() };
        true
    }

    /// The calling thread accepts no more.
    pub(crate) fn end(&self) {
        // Before the lock: whoever is about to wake this thread holds it, and need not be in doubt any longer.
        self.gone.set();
        let mut wake = self.lock();
        if let Wake::Ready { .. } = *wake {
            *wake = Wake::Pointless;
        }
    }

    /// Sets the flag, *then* wakes `accept` by a connection to the listener's own port. Later calls only try again what
    /// has failed.
    pub(crate) fn set(&self, unreachable: Unreachable) {
        let mut wake = self.lock();
        self.flag.set();
        let Wake::Ready { spare } = &mut *wake else { return };
        let knocked = match self.knock(WAKE_LIMIT) {
            Err(error) if is_out_of_descriptors(&error) && spare.take().is_some() => self.knock(WAKE_LIMIT),
            knocked => knocked,
        };
        match (knocked, unreachable) {
            (Ok(stream), _) => {
                if let Ok(by) = stream.local_addr() {
                    *wake = Wake::Knocked { by, accepted: false };
                }
            }
            (Err(_), Unreachable::Shut) if !self.gone.is_set() => {
                if let Some(listener) = spare.take() {
                    shut(listener);
                }
            }
            (Err(_), Unreachable::Shut | Unreachable::Leave) => {}
        }
    }

    /// Connects to the listener.
    pub(crate) fn knock(&self, limit: Duration) -> io::Result<TcpStream> {
        let mut failed = io::ErrorKind::AddrNotAvailable.into();
        for door in &self.doors {
            match TcpStream::connect_timeout(door, limit) {
                Ok(stream) => return Ok(stream),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    /// Whether a connection that was accepted from `peer` is the wake-up and not a client. Waits for a wake-up that is
    /// under way.
    pub(crate) fn is_wake_up(&self, peer: SocketAddr) -> bool {
        match &mut *self.lock() {
            Wake::Knocked { by, accepted } if is_same(*by, peer) => {
                *accepted = true;
                true
            }
            Wake::Pointless | Wake::Ready { .. } | Wake::Knocked { .. } => false,
        }
    }

    /// Where a wake-up came from that still waits in the queue. Waits for one that is under way.
    pub(crate) fn left_in_queue(&self) -> Option<SocketAddr> {
        match *self.lock() {
            Wake::Knocked { by, accepted: false } => Some(by),
            Wake::Pointless | Wake::Ready { .. } | Wake::Knocked { accepted: true, .. } => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wake> {
        // Each state is one assignment: a panic elsewhere cannot leave it half written.
        self.wake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether these are the same. A listener on every IPv6 address sees an IPv4 client under a mapped address.
pub(crate) fn is_same(one: SocketAddr, other: SocketAddr) -> bool {
    (one.ip().to_canonical(), one.port()) == (other.ip().to_canonical(), other.port())
}

/// Ends a blocked `accept` on this socket, on Linux: std has no name for it, but a socket is a socket.
#[cfg(unix)]
fn shut(listener: TcpListener) {
    let socket = TcpStream::from(std::os::fd::OwnedFd::from(listener));
    let _ = socket.shutdown(std::net::Shutdown::Both);
}

/// Windows ends nothing that way.
#[cfg(windows)]
fn shut(_listener: TcpListener) {}

/// `io::ErrorKind` has no name for this. The numbers are the same on all Unix systems.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ERROR_TOO_MANY_OPEN_FILES: i32 = 4;
    match error.raw_os_error() {
        Some(ENFILE | EMFILE) => cfg!(unix),
        Some(ERROR_TOO_MANY_OPEN_FILES) => cfg!(windows),
        _ => false,
    }
}

/// The addresses under which this machine may reach a listener: to connect to `0.0.0.0` fails on Windows, and where IPv6
/// is switched off, as in many containers, there is no `::1`, though `[::]` takes IPv4 clients.
fn doors(listener: SocketAddr) -> Vec<SocketAddr> {
    let through = |ip: IpAddr| SocketAddr::new(ip, listener.port());
    match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => vec![through(Ipv4Addr::LOCALHOST.into())],
        IpAddr::V6(ip) if ip.is_unspecified() => {
            vec![through(Ipv6Addr::LOCALHOST.into()), through(Ipv4Addr::LOCALHOST.into())]
        }
        // As it is: a link-local address is nothing without its scope.
        _ => vec![listener],
    }
}

#[cfg(all(test, not(loom)))]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_accept_is_woken_once_and_knows_the_wake_up_from_a_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let quit = Quit::new(&listener).unwrap();
        assert!(quit.begin(&listener));
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept().unwrap().1);
            quit.set(Unreachable::Shut);
            quit.set(Unreachable::Shut);
            let peer = accepting.join().unwrap();
            assert_eq!(quit.left_in_queue(), Some(peer));
            assert!(quit.is_wake_up(peer));
            assert_eq!(quit.left_in_queue(), None);
        });
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_, peer) = listener.accept().unwrap();
        assert_eq!(peer, client.local_addr().unwrap(), "the second set() connected again");
        assert!(!quit.is_wake_up(peer));
    }

    #[test]
    fn nobody_is_woken_who_does_not_accept() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let before = Quit::new(&listener).unwrap();
        before.set(Unreachable::Shut);
        assert!(!before.begin(&listener));
        let after = Quit::new(&listener).unwrap();
        assert!(after.begin(&listener));
        after.end();
        after.set(Unreachable::Shut);
        listener.set_nonblocking(true).unwrap();
        assert_eq!(listener.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_blocked_accept_is_ended_where_nothing_connects_unless_others_accept_there() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut quit = Quit::new(&listener).unwrap();
        // Nobody listens there, so the connection is refused.
        quit.doors = vec!["127.0.0.1:1".parse().unwrap()];
        assert!(quit.begin(&listener));
        quit.set(Unreachable::Leave);
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept().unwrap_err().kind());
            quit.set(Unreachable::Shut);
            assert_eq!(accepting.join().unwrap(), io::ErrorKind::InvalidInput);
        });
    }

    #[test]
    fn the_wake_up_goes_to_loopback_when_the_listener_has_every_address() {
        let doors_of =
            |bound: &str| doors(bound.parse().unwrap()).iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(" ");
        assert_eq!(doors_of("0.0.0.0:80"), "127.0.0.1:80");
        assert_eq!(doors_of("[::]:80"), "[::1]:80 127.0.0.1:80");
        assert_eq!(doors_of("192.0.2.1:80"), "192.0.2.1:80");
        assert_eq!(doors_of("[fe80::1%3]:80"), "[fe80::1%3]:80");
    }
}
