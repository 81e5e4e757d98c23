//! Where a server listens: its addresses, and the sockets that are bound to them.

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::path::PathBuf;

use crate::text::listed;

#[cfg(unix)]
pub(crate) use unix::Bound;
#[cfg(windows)]
pub(crate) use windows::Bound;

/// What a server listens on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An address of this machine, and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Address {
    /// None: it has no port.
    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Address::Tcp(address) => Some(*address),
            #[cfg(unix)]
            Address::Unix(_) => None,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => write!(formatter, "{address}"),
            #[cfg(unix)]
            Address::Unix(path) => write!(formatter, "{}", path.display()),
        }
    }
}

/// Several addresses for people.
pub(crate) fn in_words(addresses: &[Address]) -> String {
    let addresses: Vec<_> = addresses.iter().map(Address::to_string).collect();
    listed(&addresses, "and")
}

/// Binds an address, with room for many clients that come at the same time: std gives them 128 places, and where there
/// is none, a client tries again a second later.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    #[cfg(windows)]
    let is_served = windows::is_served(address);
    let listener = TcpListener::bind(address)?;
    #[cfg(windows)]
    if is_served {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    #[cfg(unix)]
    unix::make_room(&listener)?;
    Ok(listener)
}
