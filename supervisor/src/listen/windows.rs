//! Sockets that listen, for programs: there are none. A socket can be given to another process there, but only to one
//! that takes part in that. And what the system does not see to when an address is bound.

use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::{Address, ProgramSocket};

/// How long to look whether somebody answers. Whoever listens on this machine does at once; where nobody does, Windows
/// tries it again for two seconds.
const LOOK: Duration = Duration::from_millis(100);

/// Whether somebody answers at an address. Windows would bind it all the same: it gives one server a port on all
/// addresses, and another one the same port on one of these, and that one gets all clients of its address.
pub(super) fn is_served(address: SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let is_any_port = address.port() == 0;
    !is_any_port && TcpStream::connect_timeout(&(ip, address.port()).into(), LOOK).is_ok()
}

/// A socket that is bound and listens.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) address: Address,
    pub(crate) name: Option<String>,
    pub(crate) socket: Infallible,
    pub(crate) file: Option<Infallible>,
}

impl Bound {
    /// # Errors
    /// Always.
    pub(crate) fn new(_listen: &ProgramSocket) -> io::Result<Bound> {
        Err(io::Error::new(ErrorKind::Unsupported, "on Windows a program has to bind its address itself"))
    }
}

#[cfg(test)]
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
