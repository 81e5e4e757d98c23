//! The quit flag, and what wakes a blocked `accept`.

#[cfg(loom)]
use loom::sync::atomic::{AtomicBool, Ordering};
#[cfg(not(loom))]
use std::sync::atomic::{AtomicBool, Ordering};

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// How long the wake-up may take to connect. On loopback a connection is made at once, or not at all because the
/// accept queue is full; in that case `accept` has something to return and needs no wake-up.
const WAKE_LIMIT: Duration = Duration::from_millis(100);

/// A flag that several threads look at.
#[derive(Debug)]
pub(crate) struct Flag(AtomicBool);

impl Flag {
    pub(crate) fn new() -> Flag {
        Flag(AtomicBool::new(false))
    }

    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn clear(&self) {
        self.0.store(false, Ordering::SeqCst);
    }

    pub(crate) fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Tells the accepting thread to quit.
#[derive(Debug)]
pub(crate) struct Quit {
    pub(crate) flag: Flag,
    /// Set by the accepting thread when it has seen the flag, and before it takes the lock: whoever is about to wake it
    /// holds that, and need not be in doubt any longer.
    noticed: Flag,
    /// Set by the accepting thread when it accepts no more.
    gone: Flag,
    doors: Vec<SocketAddr>,
    wake: Mutex<Wake>,
    /// Signalled when `gone` is set.
    left: Condvar,
}

#[derive(Debug)]
enum Wake {
    /// Nobody accepts yet, or any more.
    Pointless,
    /// Holds a spare descriptor, so that the wake-up can connect even when the process has no other left.
    Ready { spare: Option<TcpListener> },
    /// Wake-ups came from these addresses, and none of them has been accepted here: it waits in the queue, or somebody
    /// else has accepted it. Where nobody else accepts, there is one at most.
    Knocked { by: Vec<SocketAddr> },
}

/// What to do when nothing can connect to the listener: its address or the loopback interface is gone, or a firewall is
/// in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unreachable {
    /// Shut it down. That loses what waits in its queue, and nobody can have come there any more.
    Shut,
    /// Leave it, since others are going to accept from it. The accepting thread goes on as if nothing had been.
    Fail,
    /// Leave it, since others accept from it, too. The accepting thread quits when the next client comes.
    Wait,
}

impl Quit {
    pub(crate) fn new(listener: &TcpListener) -> io::Result<Quit> {
        Ok(Quit {
            flag: Flag::new(),
            noticed: Flag::new(),
            gone: Flag::new(),
            doors: doors(listener.local_addr()?),
            wake: Mutex::new(Wake::Pointless),
            left: Condvar::new(),
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

    /// The accepting thread has seen the flag. Returns whether it shall accept no more, which is final: not so if it
    /// could not have been woken, and the flag is clear again.
    pub(crate) fn leave(&self) -> bool {
        self.noticed.set();
        let mut wake = self.lock();
        if !self.flag.is_set() {
            self.noticed.clear();
            return false;
        }
        if let Wake::Ready { .. } = *wake {
            *wake = Wake::Pointless;
        }
        self.gone.set();
        self.left.notify_all();
        true
    }

    /// Sets the flag, *then* wakes `accept` by a connection to the listener's own port. Later calls only try again what
    /// has failed.
    ///
    /// # Errors
    /// When nothing connects, and the listener is to be left.
    pub(crate) fn set(&self, unreachable: Unreachable) -> io::Result<()> {
        let mut wake = self.lock();
        self.flag.set();
        let Wake::Ready { spare } = &mut *wake else { return Ok(()) };
        let knocked = match self.knock(WAKE_LIMIT) {
            Err(error) if is_out_of_descriptors(&error) && spare.take().is_some() => self.knock(WAKE_LIMIT),
            knocked => knocked,
        };
        match (knocked, unreachable) {
            (Ok(stream), _) => {
                if let Ok(by) = stream.local_addr() {
                    *wake = Wake::Knocked { by: vec![by] };
                }
            }
            (Err(_), _) if self.noticed.is_set() => {}
            (Err(_), Unreachable::Shut) => {
                if let Some(listener) = spare.take() {
                    shut(listener);
                }
            }
            (Err(error), Unreachable::Fail) => {
                self.flag.clear();
                return Err(error);
            }
            (Err(_), Unreachable::Wait) => {}
        }
        Ok(())
    }

    /// Wakes `accept` once more, since somebody else who accepts from the same listener may have accepted the wake-up.
    /// Returns false if nothing can connect there.
    pub(crate) fn set_again(&self) -> bool {
        if let Wake::Knocked { by } = &mut *self.lock() {
            if self.gone.is_set() {
                return true;
            }
            let knocked = self.knock(WAKE_LIMIT).and_then(|stream| stream.local_addr());
            let reached = knocked.is_ok();
            by.extend(knocked);
            return reached;
        }
        self.set(Unreachable::Wait).is_ok() && !matches!(*self.lock(), Wake::Ready { .. })
    }

    /// Connects to the listener.
    pub(crate) fn knock(&self, limit: Duration) -> io::Result<TcpStream> {
        let mut failed = io::ErrorKind::AddrNotAvailable.into();
        for door in self.doors.iter().filter(|door| is_here(**door)) {
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
            Wake::Knocked { by } => match by.iter().position(|by| is_same(*by, peer)) {
                Some(at) => {
                    by.swap_remove(at);
                    true
                }
                None => false,
            },
            Wake::Pointless | Wake::Ready { .. } => false,
        }
    }

    /// Waits for so long, or until the accepting thread accepts no more. Returns whether that is so.
    pub(crate) fn is_gone_within(&self, limit: Duration) -> bool {
        // It is set before the lock is taken and signalled under it, so that it is either seen here or wakes this
        // thread.
        let waited = self.left.wait_timeout_while(self.lock(), limit, |_| !self.gone.is_set());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        self.gone.is_set()
    }

    /// Where a wake-up came from that still waits in the queue. Waits for one that is under way.
    pub(crate) fn left_in_queue(&self) -> Option<SocketAddr> {
        match &*self.lock() {
            // Of several, others have most likely accepted those that came first.
            Wake::Knocked { by } => by.last().copied(),
            Wake::Pointless | Wake::Ready { .. } => None,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Wake> {
        // Each state is one assignment: a panic elsewhere cannot leave it half written.
        self.wake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether this machine has that address. One that it had when it was bound may be another machine's by now.
fn is_here(mut door: SocketAddr) -> bool {
    door.set_port(0);
    let nowhere = |error: io::Error| error.kind() == io::ErrorKind::AddrNotAvailable;
    door.ip().is_loopback() || !TcpListener::bind(door).is_err_and(nowhere)
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

/// Whether a connection may have failed because nothing is accepted and the queue is full. Systems let it wait then, or
/// refuse it.
pub(crate) fn may_be_full_queue(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, ConnectionReset, TimedOut};
    matches!(error.kind(), TimedOut | ConnectionRefused | ConnectionReset)
}

/// The addresses under which this machine may reach a listener: to connect to `0.0.0.0` fails on Windows, and where
/// IPv6 is switched off, as in many containers, there is no `::1`, though `[::]` takes IPv4 clients.
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
            quit.set(Unreachable::Shut).unwrap();
            quit.set(Unreachable::Shut).unwrap();
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
        before.set(Unreachable::Shut).unwrap();
        assert!(!before.begin(&listener));
        let after = Quit::new(&listener).unwrap();
        assert!(after.begin(&listener));
        after.flag.set();
        assert!(after.leave());
        after.set(Unreachable::Shut).unwrap();
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
        assert_eq!(quit.set(Unreachable::Fail).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        // It goes on, even if it has seen the flag meanwhile.
        assert!(!quit.flag.is_set() && !quit.leave());
        drop(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        listener.accept().unwrap();
        std::thread::scope(|scope| {
            let accepting = scope.spawn(|| listener.accept().unwrap_err().kind());
            quit.set(Unreachable::Shut).unwrap();
            assert_eq!(accepting.join().unwrap(), io::ErrorKind::InvalidInput);
        });
    }

    #[test]
    fn an_address_of_another_machine_is_no_door() {
        assert!(is_here("127.0.0.1:80".parse().unwrap()) && is_here("[::1]:80".parse().unwrap()));
        // Reserved for documentation by RFC 5737, so that nobody has it.
        assert!(!is_here("192.0.2.1:80".parse().unwrap()));
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
