//! Binds addresses of this machine.

use std::io;
#[cfg(windows)]
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpStream};
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::os::fd::AsFd;
#[cfg(windows)]
use std::time::Duration;

/// How long to wait for an answer. A listener on this machine answers at once. Without one, Windows keeps trying for
/// two seconds.
#[cfg(windows)]
const LOOK: Duration = Duration::from_millis(100);

/// Whether a process answers at an address. Windows would bind the address even then: it lets one server have a port on
/// all addresses and another server the same port on one of them, and the second server gets all clients of that
/// address.
#[cfg(windows)]
fn is_served(address: SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let is_any_port = address.port() == 0;
    !is_any_port && TcpStream::connect_timeout(&(ip, address.port()).into(), LOOK).is_ok()
}

/// Makes the accept queue as long as the system allows: each system caps the number with its own limit
/// (net.core.somaxconn on Linux). libc's `SOMAXCONN` is not that limit, so it is not used: musl, macOS and the BSDs
/// define it as 128.
#[cfg(unix)]
pub(super) fn make_room(listener: &impl AsFd) -> io::Result<()> {
    Ok(rustix::net::listen(listener, 4096)?)
}

/// Binds an address, with a queue for many simultaneous clients: std gives it 128 places, and a client that finds no
/// place tries again a second later.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    #[cfg(windows)]
    let is_served = is_served(address);
    let listener = TcpListener::bind(address)?;
    #[cfg(windows)]
    if is_served {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    #[cfg(unix)]
    make_room(&listener)?;
    Ok(listener)
}

#[cfg(all(test, windows))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn an_address_is_served_while_somebody_listens_there_or_on_all_addresses() {
        for ip in [Ipv4Addr::LOCALHOST, Ipv4Addr::UNSPECIFIED] {
            let listener = TcpListener::bind((ip, 0)).unwrap();
            let port = listener.local_addr().unwrap().port();
            assert!(is_served((Ipv4Addr::LOCALHOST, port).into()));
            assert!(is_served((Ipv4Addr::UNSPECIFIED, port).into()));
            drop(listener);
            assert!(!is_served((Ipv4Addr::LOCALHOST, port).into()));
        }
        assert!(!is_served((Ipv4Addr::LOCALHOST, 0).into()));
    }
}
