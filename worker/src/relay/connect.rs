//! A connection to the program.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, socket_with, sockopt};

use super::hub::Hub;

/// How many other source addresses are tried when one has no free port left.
const SOURCES: u32 = 16;

/// A connection that has been asked for.
pub(super) enum Asked {
    Made(OwnedFd),
    /// It is reported when there is room to send, or when it has failed.
    UnderWay(OwnedFd),
}

/// Begins to connect.
///
/// # Errors
/// What the system says at once: that the program does not listen, or that no descriptor is left.
pub(super) fn begin(to: SocketAddr, hub: &Hub) -> Result<Asked, Errno> {
    let socket = open(to, hub)?;
    match connect(&socket, &to) {
        Err(Errno::ADDRNOTAVAIL) if is_loopback_v4(to) => from_another_source(to, hub),
        asked => judge(socket, to, asked),
    }
}

/// On the same machine the other side has answered before the call returns, although it returns "in progress". Asking
/// again costs less than waiting for the event.
fn judge(socket: OwnedFd, to: SocketAddr, asked: Result<(), Errno>) -> Result<Asked, Errno> {
    match asked {
        Ok(()) => made(socket, to),
        Err(Errno::INPROGRESS) => match connect(&socket, &to) {
            Ok(()) | Err(Errno::ISCONN) => made(socket, to),
            Err(Errno::ALREADY | Errno::INPROGRESS) => Ok(Asked::UnderWay(socket)),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// If nothing listens on a port, the system may choose that very port for our side, and a socket that is connected to
/// itself would echo what it is sent.
fn made(socket: OwnedFd, to: SocketAddr) -> Result<Asked, Errno> {
    let own = getsockname(&socket)?;
    if SocketAddr::try_from(own).is_ok_and(|own| own == to) { Err(Errno::CONNREFUSED) } else { Ok(Asked::Made(socket)) }
}

fn open(to: SocketAddr, hub: &Hub) -> Result<OwnedFd, Errno> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    if hub.is_in_reserve(&socket) {
        return Err(Errno::MFILE);
    }
    sockopt::set_tcp_nodelay(&socket, true)?;
    Ok(socket)
}

fn is_loopback_v4(address: SocketAddr) -> bool {
    matches!(address.ip(), IpAddr::V4(address) if address.is_loopback())
}

/// All ports of our address are taken, most of them by connections that have just ended. All of 127.0.0.0/8 is this
/// machine, and each of its addresses has its own ports.
fn from_another_source(to: SocketAddr, hub: &Hub) -> Result<Asked, Errno> {
    static LAST: AtomicU32 = AtomicU32::new(0);
    for _ in 0..SOURCES {
        let number = LAST.fetch_add(1, Ordering::Relaxed) % 250;
        // From 127.0.0.2 on.
        let source = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + number);
        let socket = open(to, hub)?;
        match bind(&socket, &SocketAddrV4::new(source, 0)).and_then(|()| connect(&socket, &to)) {
            Err(Errno::ADDRNOTAVAIL | Errno::ADDRINUSE) => {}
            asked => return judge(socket, to, asked),
        }
    }
    Err(Errno::ADDRNOTAVAIL)
}

/// Whether a retry may succeed a moment later, because the system is out of descriptors, ports or memory.
pub(super) fn is_exhaustion(error: Errno) -> bool {
    matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL)
}
