//! The sockets on which the processes of a program listen.

use std::collections::HashMap;
#[cfg(target_os = "linux")]
use std::collections::HashSet;
use std::fmt;
#[cfg(unix)]
use std::fs;
use std::net::SocketAddr;
#[cfg(not(target_os = "linux"))]
use std::net::TcpStream;
#[cfg(unix)]
use std::os::unix::fs::MetadataExt;
#[cfg(unix)]
use std::path::Path;

use crate::listen::Address;

/// Finds them, as far as the system tells: Linux does.
#[derive(Debug, Clone)]
pub(super) struct FamilySockets {
    /// The process above all that the program has started.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    root: u32,
    /// The sockets that the program got from us: their numbers in proc(5), and their ports, if they are for TCP.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    passed: HashMap<u64, Option<u16>>,
}

impl FamilySockets {
    pub(super) fn new(root: u32, passed: HashMap<u64, Option<u16>>) -> FamilySockets {
        FamilySockets { root, passed }
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

/// Which process has accepted a connection to a socket that several generations of a program may share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) enum AcceptedBy {
    TheProgram,
    /// Another generation.
    Another,
    /// None yet: it waits in the queue.
    NoneYet,
    /// None before the client sends something (`TCP_DEFER_ACCEPT`).
    NoneBeforeData,
    /// It is closed again, and so nothing tells any more.
    Unknown,
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
enum Listener {
    Tcp(SocketAddr),
    /// A path, or with a `@` an abstract name.
    Unix(String),
}

impl Listener {
    /// Whether it takes connections to this address.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    fn is_at(&self, address: &Address) -> bool {
        match (self, address) {
            (Listener::Tcp(own), Address::Tcp(address)) => {
                let ips = [own.ip().to_canonical(), address.ip().to_canonical()];
                own.port() == address.port() && (ips[0] == ips[1] || ips.iter().any(|ip| ip.is_unspecified()))
            }
            #[cfg(unix)]
            (Listener::Unix(own), Address::Unix(path)) => {
                let own = Path::new(own);
                // One file may have several paths.
                let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
                own == path || (own.is_absolute() && file(own).is_some_and(|own| Some(own) == file(path)))
            }
            _ => false,
        }
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Listener::Tcp(address) => write!(formatter, "{address}"),
            Listener::Unix(path) if path.is_empty() => write!(formatter, "a Unix socket without a name"),
            Listener::Unix(path) => write!(formatter, "{path}"),
        }
    }
}

#[cfg(target_os = "linux")]
pub(super) use linux::{is_listened_on, sockets_of, waiting_at};

#[cfg(not(target_os = "linux"))]
impl FamilySockets {
    /// Where the program listens on a socket of its own, for people.
    pub(super) fn own(&self) -> Option<String> {
        None
    }

    /// Whether a socket that the program got from us listens there. On this system it is not known.
    pub(super) fn is_passed_at(&self, _address: &Address) -> bool {
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

    /// Whether another process listens on this port, and the program does not. It is not known to.
    pub(super) fn have_lost(&self, _port: u16) -> bool {
        false
    }

    /// Which process has accepted this connection. Only the program can: on this system a socket is not passed.
    pub(super) fn accepted_by(&self, _client: &TcpStream) -> AcceptedBy {
        AcceptedBy::TheProgram
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;
    use std::fs;
    use std::io;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
    use std::path::Path;

    use netlink_packet_sock_diag::inet::StateFlags;
    use procfs::net::TcpState;

    use super::{AcceptedBy, FamilySockets, Listener};
    use crate::child::guardian::proc::descendants;
    use crate::holder::holder_of;
    use crate::listen::Address;
    use crate::tcp_sockets::{self, TcpSocket};

    /// The flag of a Unix socket that listens, in proc_net_unix(5): `SO_ACCEPTCON`.
    const LISTENS: u32 = 1 << 16;

    impl FamilySockets {
        /// Where the program listens on a socket of its own, for people.
        pub(in crate::child) fn own(&self) -> Option<String> {
            let is_own = |inode: &u64, _: &Listener| !self.passed.contains_key(inode);
            self.find(is_own).map(|listener| listener.to_string())
        }

        /// Whether a socket that the program got from us listens there.
        pub(in crate::child) fn is_passed_at(&self, address: &Address) -> bool {
            let all = listeners(std::process::id());
            all.iter().any(|(inode, listener)| self.passed.contains_key(inode) && listener.is_at(address))
        }

        /// Whether the program listens there, on a socket of its own or of ours. None: that cannot be known, since one of
        /// its processes cannot be looked into, and no other process is seen to listen there.
        pub(in crate::child) fn listen_at(&self, address: &Address) -> Option<bool> {
            if self.find(|_, listener| listener.is_at(address)).is_some() {
                return Some(true);
            }
            let is_hidden = |pid| {
                fs::read_dir(format!("/proc/{pid}/fd"))
                    .is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            };
            let is_known = !descendants(self.root).into_iter().any(is_hidden) || holder_of(address).is_some();
            is_known.then_some(false)
        }

        /// Where it can be connected to on this port of the loopback interface. None: nowhere, or that cannot be known.
        pub(in crate::child) fn at_port(&self, port: u16) -> Option<SocketAddr> {
            let at_port = |listener: &Listener| match listener {
                Listener::Tcp(at) if at.port() == port => Some(*at),
                Listener::Tcp(_) | Listener::Unix(_) => None,
            };
            if let Some(own) = self.find(|_, listener| at_port(listener).is_some()) {
                return at_port(&own).map(connectable);
            }
            // If one of its processes cannot be looked into, and none of another is seen to listen there, it is that one.
            let at = listeners(std::process::id()).iter().find_map(|(_, listener)| at_port(listener))?;
            self.listen_at(&Address::Tcp(at)).is_none().then(|| connectable(at))
        }

        /// Whether another process listens on this port, and the program does not.
        pub(in crate::child) fn have_lost(&self, port: u16) -> bool {
            // Before the program is looked at: it may begin to listen meanwhile.
            let is_held = is_listened_on(port);
            let loopback = Address::Tcp((Ipv4Addr::LOCALHOST, port).into());
            is_held && self.at_port(port).is_none() && self.listen_at(&loopback) == Some(false)
        }

        /// Which process has accepted this connection. A program that got no socket from us shares none.
        pub(in crate::child) fn accepted_by(&self, client: &TcpStream) -> AcceptedBy {
            if self.passed.is_empty() {
                return AcceptedBy::TheProgram;
            }
            let (Ok(here), Ok(there)) = (client.local_addr(), client.peer_addr()) else { return AcceptedBy::Unknown };
            let Ok(end) = tcp_sockets::connection(there, here) else { return AcceptedBy::Unknown };
            // Before it is accepted, and after it is closed, it has no number.
            match end.map(|end| (end.inode, end.state)) {
                Some((0, TcpState::Established | TcpState::CloseWait)) => AcceptedBy::NoneYet,
                Some((0, TcpState::SynRecv)) => AcceptedBy::NoneBeforeData,
                None | Some((0, _)) => AcceptedBy::Unknown,
                Some((accepted, _)) => {
                    let has_it = |pid| sockets_of(pid).is_ok_and(|open| open.contains(&accepted));
                    if descendants(self.root).into_iter().any(has_it) {
                        AcceptedBy::TheProgram
                    } else {
                        AcceptedBy::Another
                    }
                }
            }
        }

        /// One of the sockets on which a process of the program listens.
        fn find(&self, is_meant: impl Fn(&u64, &Listener) -> bool) -> Option<Listener> {
            // Each process has its own view of the network: in a namespace of its own it sees other sockets.
            descendants(self.root).into_iter().find_map(|pid| {
                let open = sockets_of(pid).ok().filter(|open| !open.is_empty())?;
                let found = listeners(pid).into_iter().find(|(inode, at)| open.contains(inode) && is_meant(inode, at));
                found.map(|(_, listener)| listener)
            })
        }
    }

    /// The address by which a listener of this machine can be connected to from here.
    fn connectable(at: SocketAddr) -> SocketAddr {
        let ip = match at.ip().to_canonical() {
            IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
            // It accepts both families by default. Without IPv6 a machine may have no such address.
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) if UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_err() => {
                Ipv4Addr::LOCALHOST.into()
            }
            IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        (ip, at.port()).into()
    }

    /// The sockets that a process has open.
    pub(in crate::child) fn sockets_of(pid: u32) -> io::Result<HashSet<u64>> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
        let socket = |path: &Path| {
            let target = fs::read_link(path).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        };
        Ok(entries.filter_map(|entry| socket(&entry.path())).collect())
    }

    /// Whether any process listens on this port, on any address.
    pub(in crate::child) fn is_listened_on(port: u16) -> bool {
        let has_port = |(_, listener): &(u64, Listener)| matches!(listener, Listener::Tcp(at) if at.port() == port);
        listeners(std::process::id()).iter().any(has_port)
    }

    /// The clients whose connections to this address wait to be accepted.
    pub(in crate::child) fn waiting_at(address: SocketAddr) -> HashSet<SocketAddr> {
        // They have no number before they are accepted. In these states they are connected, in the second one the client
        // has closed its side.
        let connected = tcp_sockets::at_port(address.port(), StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT);
        let waiting = connected.unwrap_or_default().into_iter().filter(|socket| socket.inode == 0);
        waiting.map(|socket| socket.remote).collect()
    }

    /// The sockets that listen, as this process sees them.
    fn listeners(pid: u32) -> Vec<(u64, Listener)> {
        let tcp = tcp_sockets::seen_by(pid, StateFlags::LISTEN).unwrap_or_default().into_iter();
        let tcp = tcp.map(|TcpSocket { inode, local, .. }| (inode, Listener::Tcp(local)));
        // `procfs` leaves out whether a Unix socket listens.
        let unix = fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
        let unix = String::from_utf8_lossy(&unix);
        let unix = unix.lines().filter_map(listening_unix_socket);
        // A path may be meant from the directory of the process.
        let from = |path: String| match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(directory) if !path.is_empty() && !path.starts_with('@') => directory.join(path).display().to_string(),
            Ok(_) | Err(_) => path,
        };
        let unix = unix.map(|(inode, path)| (inode, Listener::Unix(from(path))));
        tcp.chain(unix).collect()
    }

    /// A line of proc_net_unix(5): `Num RefCount Protocol Flags Type St Inode Path`.
    fn listening_unix_socket(line: &str) -> Option<(u64, String)> {
        let mut fields = line.splitn(7, ' ').skip(3);
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        // The number has leading spaces, and an unnamed socket no path.
        let rest = fields.nth(2)?.trim_start();
        let (inode, path) = rest.split_once(' ').unwrap_or((rest, ""));
        let listener = (inode.parse().ok()?, path.to_owned());
        (flags & LISTENS != 0).then_some(listener)
    }

    #[cfg(test)]
    mod tests {
        #![allow(clippy::unwrap_used)]
        use super::*;
        use std::net::TcpListener;
        use std::os::fd::AsFd;
        use std::os::unix::net::{UnixListener, UnixStream};

        #[test]
        fn a_listening_unix_socket_is_told_from_others() {
            for (line, listener) in [
                ("Num       RefCount Protocol Flags    Type St Inode Path", None),
                (
                    "0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a b.sock",
                    Some((12345, "/run/a b.sock")),
                ),
                ("0000000000000000: 00000002 00000000 00010000 0001 01    45 @abstract", Some((45, "@abstract"))),
                ("0000000000000000: 00000002 00000000 00010000 0005 01 45", Some((45, ""))),
                ("0000000000000000: 00000002 00000000 00000000 0002 01 45 /run/datagrams", None),
                ("0000000000000000: 00000003 00000000 00000000 0001 03 45 /run/a.sock", None),
            ] {
                let listener = listener.map(|(inode, path): (u64, &str)| (inode, path.to_owned()));
                assert_eq!(listening_unix_socket(line), listener, "{line}");
            }
        }

        #[test]
        fn a_listener_takes_connections_to_its_address_or_to_any() {
            for (own, address, is_there) in [
                ("127.0.0.1:80", "127.0.0.1:80", true),
                ("0.0.0.0:80", "127.0.0.1:80", true),
                ("[::]:80", "127.0.0.1:80", true),
                ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
                ("127.0.0.1:80", "0.0.0.0:80", true),
                ("127.0.0.1:80", "127.0.0.2:80", false),
                ("127.0.0.1:80", "127.0.0.1:81", false),
            ] {
                let (own, address) = (Listener::Tcp(own.parse().unwrap()), Address::Tcp(address.parse().unwrap()));
                assert_eq!(own.is_at(&address), is_there, "{own} {address}");
            }
            let own = Listener::Unix("/run/a.sock".into());
            assert!(
                own.is_at(&Address::Unix("/run/a.sock".into())) && !own.is_at(&Address::Unix("/run/b.sock".into()))
            );
        }

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
            // Of all families.
            let Ok(listener) = TcpListener::bind("[::]:0") else { return };
            TcpStream::connect(connectable(listener.local_addr().unwrap())).unwrap();
        }

        #[test]
        fn the_listeners_of_a_process_are_found_and_not_its_connections() {
            let own = std::process::id();
            let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
            let path = std::env::temp_dir().join(format!("mastercontrol-listeners-{own}"));
            let unix = UnixListener::bind(&path).unwrap();
            let (one, _other) = UnixStream::pair().unwrap();
            let inode = |socket: &dyn AsFd| nix::sys::stat::fstat(socket.as_fd()).unwrap().st_ino;
            let listeners = listeners(own);
            let at = |inode: u64| listeners.iter().find(|(it, _)| *it == inode).map(|(_, listener)| listener.clone());
            assert_eq!(at(inode(&tcp)), Some(Listener::Tcp(tcp.local_addr().unwrap())));
            assert_eq!(at(inode(&unix)), Some(Listener::Unix(path.to_str().unwrap().into())));
            assert_eq!(at(inode(&one)), None);
            let open = sockets_of(own).unwrap();
            assert!([inode(&tcp), inode(&unix), inode(&one)].iter().all(|inode| open.contains(inode)));
            fs::remove_file(path).unwrap();
        }
    }
}
