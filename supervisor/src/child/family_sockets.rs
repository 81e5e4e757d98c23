//! The sockets on which the processes of a program listen.

use std::collections::HashMap;
#[cfg(target_os = "linux")]
use std::collections::HashSet;
#[cfg(not(target_os = "linux"))]
use std::net::{SocketAddr, TcpStream};

#[cfg(not(target_os = "linux"))]
use crate::listen::Address;

/// Finds these sockets, on systems that show them: Linux does.
#[derive(Debug, Clone)]
pub(super) struct FamilySockets {
    /// The process above all that the program has started.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    root: u32,
    /// The sockets that the program got from us: their inodes, and their ports if they are for TCP.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    passed: HashMap<u64, Option<u16>>,
    /// Whether another generation may have the same sockets.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    are_shared: bool,
}

impl FamilySockets {
    pub(super) fn new(root: u32, passed: HashMap<u64, Option<u16>>) -> FamilySockets {
        let are_shared = !passed.is_empty();
        FamilySockets { root, passed, are_shared }
    }

    /// The same when no other generation shares the sockets: only this one can have accepted a connection.
    pub(super) fn unshared(&self) -> FamilySockets {
        FamilySockets { are_shared: false, ..self.clone() }
    }

    /// The process above all that the program has started.
    #[cfg(target_os = "linux")]
    pub(super) fn root(&self) -> u32 {
        self.root
    }

    /// The ports of the sockets that the program got from us.
    #[cfg(target_os = "linux")]
    pub(super) fn passed_ports(&self) -> HashSet<u16> {
        self.passed.values().copied().flatten().collect()
    }
}

/// The process that has accepted a connection to a socket that several generations of a program may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) enum AcceptedBy {
    TheProgram,
    /// Another generation.
    Another,
    /// None yet: the connection waits in the queue.
    NoneYet,
    /// None before the client sends something (`TCP_DEFER_ACCEPT`).
    NoneBeforeData,
    /// Perhaps this process of the program, which may not be inspected, and perhaps another generation.
    Hidden(u32),
    /// The connection is closed again, so this can no longer be determined.
    Unknown,
}

#[cfg(not(target_os = "linux"))]
impl FamilySockets {
    /// Where the program listens on a socket of its own, in human-readable form.
    pub(super) fn own(&self) -> Option<String> {
        None
    }

    /// Whether a socket that the program got from us listens there. This system does not show that.
    pub(super) fn is_passed_at(&self, _address: &Address) -> bool {
        false
    }

    /// Whether a socket that the program got from us listens there, and none of its own. On this system it is not known.
    pub(super) fn are_only_passed_at(&self, _address: &Address) -> bool {
        false
    }

    /// Whether the program listens there. None: that cannot be known.
    pub(super) fn listen_at(&self, _address: &Address) -> Option<bool> {
        None
    }

    /// Where the program listens on this port. None: nowhere, or that cannot be known.
    pub(super) fn at_port(&self, _port: u16) -> Option<SocketAddr> {
        None
    }

    /// Whether another process listens on this port and the program does not. This system does not show that.
    pub(super) fn have_lost(&self, _port: u16) -> bool {
        false
    }

    /// Which process has accepted this connection. Only the program can have, because this system passes no sockets.
    pub(super) fn accepted_by(&self, _client: &TcpStream) -> AcceptedBy {
        AcceptedBy::TheProgram
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::io::ErrorKind;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};

    use super::{AcceptedBy, FamilySockets};
    use crate::child::guardian::proc::descendants;
    use crate::child::listeners::{Listener, is_listened_on, listeners, sockets_of};
    use crate::holder::holder_of;
    use crate::listen::Address;
    use crate::tcp_sockets::{self, TcpState};

    impl FamilySockets {
        /// Where the program listens on a socket of its own, in human-readable form.
        pub(in crate::child) fn own(&self) -> Option<String> {
            let is_own = |inode: &u64, _: &Listener| !self.passed.contains_key(inode);
            self.find(is_own).map(|listener| listener.to_string())
        }

        /// Whether a socket that the program got from us listens there.
        pub(in crate::child) fn is_passed_at(&self, address: &Address) -> bool {
            let all = listeners(std::process::id());
            all.iter().any(|(inode, listener)| self.passed.contains_key(inode) && listener.is_at(address))
        }

        /// Whether a socket that the program got from us listens there, and none of its own.
        pub(in crate::child) fn are_only_passed_at(&self, address: &Address) -> bool {
            let is_own = |inode: &u64, at: &Listener| !self.passed.contains_key(inode) && at.is_at(address);
            self.is_passed_at(address) && self.find(is_own).is_none()
        }

        /// Whether the program listens there, on a socket of its own or of ours. None: unknown, because one of its
        /// processes cannot be inspected, and no other process is seen to listen there.
        pub(in crate::child) fn listen_at(&self, address: &Address) -> Option<bool> {
            if self.find(|_, listener| listener.is_at(address)).is_some() {
                return Some(true);
            }
            let is_hidden = |pid| sockets_of(pid).is_err_and(|error| error.kind() == ErrorKind::PermissionDenied);
            // A socket of ours is no evidence of another process.
            let is_of_another = || !self.is_passed_at(address) && holder_of(address).is_some();
            let is_known = !descendants(self.root).into_iter().any(is_hidden) || is_of_another();
            is_known.then_some(false)
        }

        /// The address to connect to on this port of the loopback interface. None: it does not listen there, or that
        /// cannot be known.
        pub(in crate::child) fn at_port(&self, port: u16) -> Option<SocketAddr> {
            let at_port = |listener: &Listener| match listener {
                Listener::Tcp(at) if at.port() == port => Some(*at),
                Listener::Tcp(_) | Listener::Unix(_) => None,
            };
            if let Some(own) = self.find(|_, listener| at_port(listener).is_some()) {
                return at_port(&own).map(connectable);
            }
            // If one of its processes cannot be inspected, and no other process is seen to listen there, the listener
            // is taken for that process's.
            let at = listeners(std::process::id()).iter().find_map(|(_, listener)| at_port(listener))?;
            self.listen_at(&Address::Tcp(at)).is_none().then(|| connectable(at))
        }

        /// Whether another process listens on this port, and the program does not.
        pub(in crate::child) fn have_lost(&self, port: u16) -> bool {
            // Checked before the program, which may begin to listen in the meantime.
            let is_held = is_listened_on(port);
            let loopback = Address::Tcp((Ipv4Addr::LOCALHOST, port).into());
            is_held && self.at_port(port).is_none() && self.listen_at(&loopback) == Some(false)
        }

        /// Which process has accepted this connection. A program that got no sockets from us shares none.
        pub(in crate::child) fn accepted_by(&self, client: &TcpStream) -> AcceptedBy {
            if !self.are_shared {
                return AcceptedBy::TheProgram;
            }
            let (Ok(here), Ok(there)) = (client.local_addr(), client.peer_addr()) else { return AcceptedBy::Unknown };
            let Ok(end) = tcp_sockets::connection(there, here) else { return AcceptedBy::Unknown };
            // Before it is accepted, and after it is closed, it has no inode.
            match end.map(|end| (end.inode, end.state)) {
                Some((0, TcpState::Established | TcpState::CloseWait)) => AcceptedBy::NoneYet,
                Some((0, TcpState::SynRecv)) => AcceptedBy::NoneBeforeData,
                None | Some((0, _)) => AcceptedBy::Unknown,
                Some((accepted, _)) => self.holder_of(accepted),
            }
        }

        /// Which process has this accepted connection.
        fn holder_of(&self, connection: u64) -> AcceptedBy {
            let mut by = AcceptedBy::Another;
            for pid in descendants(self.root) {
                match sockets_of(pid) {
                    Ok(open) if open.contains(&connection) => return AcceptedBy::TheProgram,
                    // Not taken for the holder: the processes of the last generation are most likely hidden, too, and a
                    // version that does not answer must not take over because the last one does.
                    Err(error) if error.kind() == ErrorKind::PermissionDenied => by = AcceptedBy::Hidden(pid),
                    Ok(_) | Err(_) => {}
                }
            }
            by
        }

        /// One of the sockets on which a process of the program listens.
        fn find(&self, is_meant: impl Fn(&u64, &Listener) -> bool) -> Option<Listener> {
            // Each process has its own view of the network: in a network namespace of its own it sees other sockets.
            descendants(self.root).into_iter().find_map(|pid| {
                let open = sockets_of(pid).ok().filter(|open| !open.is_empty())?;
                let found = listeners(pid).into_iter().find(|(inode, at)| open.contains(inode) && is_meant(inode, at));
                found.map(|(_, listener)| listener)
            })
        }
    }

    /// The address at which to connect to a local listener from here.
    fn connectable(at: SocketAddr) -> SocketAddr {
        let ip = match at.ip().to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            // It accepts both address families by default. A machine without IPv6 may not have this loopback address.
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() => {
                Ipv4Addr::LOCALHOST.into()
            }
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        (ip, at.port()).into()
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;
        use std::net::TcpListener;

        #[test]
        fn a_listener_is_connected_to_by_the_loopback_interface() {
            for (at, by) in [
                ("127.0.0.1:80", "127.0.0.1:80"),
                ("0.0.0.0:80", "127.0.0.1:80"),
                ("[::ffff:0.0.0.0]:80", "127.0.0.1:80"),
                ("[::1]:80", "[::1]:80"),
                ("192.0.2.1:80", "192.0.2.1:80"),
            ] {
                assert_eq!(connectable(at.parse().unwrap()), by.parse().unwrap(), "{at}");
            }
            // A listener for all address families.
            let Ok(listener) = TcpListener::bind("[::]:0") else { return };
            TcpStream::connect(connectable(listener.local_addr().unwrap())).unwrap();
        }
    }
}
