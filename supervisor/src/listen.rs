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

/// A socket for a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSocket {
    /// Where it listens.
    pub address: Address,
    /// What the program calls it by, in `LISTEN_FDNAMES`: printable ASCII without a colon. None: its port or its path.
    pub name: Option<String>,
    /// The mode of the file of a Unix socket: those who may write to it may connect.
    #[cfg(unix)]
    pub mode: u32,
}

/// The mode of a Unix socket, unless told otherwise: everybody may connect, as to a port. Those who may not are kept out
/// by its directory.
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

/// As `--listen` has it.
impl fmt::Display for ProgramSocket {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(formatter, "{name}=")?;
        }
        write!(formatter, "{}", self.address)
    }
}

/// Several addresses for people.
pub(crate) fn in_words(addresses: &[impl fmt::Display]) -> String {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    listed(&addresses, "and")
}

/// What a program calls its sockets by, in `LISTEN_FDNAMES`: their own names, or else their ports and paths. Where two
/// have one port, it is the whole address.
pub(crate) fn names(bound: &[Bound]) -> Vec<String> {
    let short = |bound: &Bound| match (&bound.name, &bound.address) {
        (Some(name), _) => name.clone(),
        (None, Address::Tcp(address)) => address.port().to_string(),
        #[cfg(unix)]
        (None, Address::Unix(path)) => path.to_string_lossy().into_owned(),
    };
    let all: Vec<_> = bound.iter().map(short).collect();
    let is_shared = |name: &str| all.iter().filter(|other| *other == name).count() > 1;
    let name = |(bound, short): (&Bound, &String)| {
        let name = if bound.name.is_none() && is_shared(short) { bound.address.to_string() } else { short.clone() };
        // What no name may have is replaced.
        name.replace(|letter| !matches!(letter, ' '..='~') || letter == ':', "_")
    };
    bound.iter().zip(&all).map(name).collect()
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
