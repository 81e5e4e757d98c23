//! The ports on which programs behind a relay listen.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use rustix::io::Errno;
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};

use super::guardian::notify::random;

/// The first port that the system uses for outgoing connections, unless it says otherwise.
const EPHEMERAL: u16 = 32768;

/// The first private port if there is room: more of the ports below it are well known.
const FIRST: u16 = 20000;

/// How many ports the range has to have.
const ROOM: u16 = 1000;

/// How many ports to try.
const TRIES: usize = 100;

/// A port that is free on all addresses at this moment.
///
/// # Errors
/// When none is found.
pub(super) fn choose() -> io::Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ports = candidates(&range);
    let length = u64::from(ports.end - ports.start);
    for _ in 0..TRIES {
        let port = ports.start + u16::try_from(random() % length).unwrap_or(0);
        if is_free(port)? {
            return Ok(port);
        }
    }
    let message = format!("no free port was found between {} and {}", ports.start, ports.end);
    Err(io::Error::new(io::ErrorKind::AddrInUse, message))
}

/// The ports below those that the system uses for outgoing connections (`32768\t60999`), or above them if there is no
/// room below: even connections to a program could take its port.
fn candidates(ephemeral: &str) -> Range<u16> {
    let mut ends = ephemeral.split_whitespace().map_while(|end| end.parse().ok());
    let (low, high) = (ends.next().unwrap_or(EPHEMERAL), ends.next().unwrap_or(u16::MAX));
    match () {
        () if low >= FIRST + ROOM => FIRST..low,
        () if low >= 1024 + ROOM => 1024..low,
        () if high < u16::MAX - ROOM => high + 1..u16::MAX,
        () => FIRST..u16::MAX,
    }
}

/// Whether a program could bind it in any address family, even if the program does not ask to share the port with
/// connections that have just ended.
fn is_free(port: u16) -> io::Result<bool> {
    let tried = match try_to_bind(AddressFamily::INET6, (Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
            try_to_bind(AddressFamily::INET, (Ipv4Addr::UNSPECIFIED, port).into())
        }
        tried => tried,
    };
    match tried {
        Ok(()) => Ok(true),
        Err(Errno::ADDRINUSE | Errno::ACCESS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn try_to_bind(family: AddressFamily, address: SocketAddr) -> Result<(), Errno> {
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if family == AddressFamily::INET6 {
        set_ipv6_v6only(&socket, false)?;
    }
    bind(&socket, &address)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn private_ports_are_none_that_the_system_takes_for_connections() {
        for (ephemeral, ports) in [
            ("32768\t60999\n", 20000..32768),
            ("21000 65535", 20000..21000),
            ("15000 60999", 1024..15000),
            ("1024\t60999", 61000..65535),
            ("1024 65535", 20000..65535),
            ("", 20000..32768),
        ] {
            assert_eq!(candidates(ephemeral), ports, "{ephemeral}");
        }
    }

    #[test]
    fn a_port_is_free_if_no_family_has_it() {
        for address in ["127.0.0.1", "0.0.0.0", "::1", "::"] {
            // A port that the system assigns to no other process in the meantime.
            let port = choose().unwrap();
            // There may be no IPv6.
            let Ok(listener) = TcpListener::bind((address, port)) else { continue };
            assert!(!is_free(port).unwrap(), "{address}");
            drop(listener);
            assert!(is_free(port).unwrap(), "{address}");
        }
    }

    #[test]
    fn a_chosen_port_can_be_bound() {
        TcpListener::bind((Ipv4Addr::LOCALHOST, choose().unwrap())).unwrap();
    }
}
