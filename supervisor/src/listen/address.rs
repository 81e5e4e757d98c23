//! Where a server listens.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
#[cfg(unix)]
use std::path::PathBuf;

use crate::text::listed;

/// The address on which a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An IP address of this machine, and a port.
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

    /// Whether a listener at this address takes connections to that one.
    pub(crate) fn accepts(&self, address: &Address) -> bool {
        match (self, address) {
            (Address::Tcp(own), Address::Tcp(address)) => {
                own.port() == address.port() && (covers(own.ip(), address.ip()) || address.ip().is_unspecified())
            }
            #[cfg(unix)]
            (Address::Unix(own), Address::Unix(path)) => own == path,
            #[cfg(unix)]
            (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
        }
    }

    /// Whether listeners at both addresses get in each other's way. Any port (0) is always another one.
    pub(crate) fn excludes(&self, other: SocketAddr) -> bool {
        self.tcp().is_some_and(|own| {
            let covered = covers(own.ip(), other.ip()) || covers(other.ip(), own.ip());
            own.port() != 0 && own.port() == other.port() && covered
        })
    }
}

/// Whether a listener on this IP address is on that one, too.
fn covers(own: IpAddr, other: IpAddr) -> bool {
    let (own, other) = (own.to_canonical(), other.to_canonical());
    // A listener on [::] has both families by default.
    own == other || own.is_unspecified() && (own.is_ipv6() || other.is_ipv4())
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

/// A socket for a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSocket {
    /// Where it listens.
    pub address: Address,
    /// The name by which the program finds it in `LISTEN_FDNAMES`: printable ASCII without a colon. None: its port or
    /// its path.
    pub name: Option<String>,
    /// The mode of the file of a Unix socket: users with write permission may connect.
    #[cfg(unix)]
    pub mode: u32,
}

/// The default mode of a Unix socket: every user may connect, as to a port. To exclude users, restrict its directory.
#[cfg(unix)]
pub const DEFAULT_MODE: u32 = 0o666;

impl From<Address> for ProgramSocket {
    fn from(address: Address) -> ProgramSocket {
        ProgramSocket {
            address,
            name: None,
            #[cfg(unix)]
            mode: DEFAULT_MODE,
        }
    }
}

/// As written for `--listen`.
impl fmt::Display for ProgramSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(formatter, "{name}=")?;
        }
        write!(formatter, "{}", self.address)
    }
}

/// Several addresses, in human-readable form.
pub(crate) fn in_words(addresses: &[impl fmt::Display]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    listed(&addresses, "and")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_listener_on_all_addresses_accepts_the_clients_of_each_one() {
        for (own, address, accepted) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "[::1]:80", true),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "0.0.0.0:80", true),
        ] {
            let [listener, client] = [own, address].map(|address| Address::Tcp(address.parse().unwrap()));
            assert_eq!(listener.accepts(&client), accepted, "{own} {address}");
        }
    }

    #[test]
    fn listeners_exclude_each_other_on_the_same_port_of_the_same_address_or_of_all() {
        for (one, other, excluded) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "0.0.0.0:80", true),
        ] {
            let [one, other] = [one, other].map(|address| address.parse::<SocketAddr>().unwrap());
            assert_eq!(Address::Tcp(one).excludes(other), excluded, "{one} {other}");
            assert_eq!(Address::Tcp(other).excludes(one), excluded, "{other} {one}");
        }
    }
}
