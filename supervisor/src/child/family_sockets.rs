//! The sockets on which the processes of a program listen.

use std::collections::HashSet;

/// Finds them, as far as the system tells: Linux does.
#[derive(Debug, Clone)]
pub(super) struct FamilySockets {
    /// The process above all that the program has started.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    root: u32,
    /// The sockets that the program got from us, by their numbers in proc(5).
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    passed: HashSet<u64>,
}

impl FamilySockets {
    pub(super) fn new(root: u32, passed: HashSet<u64>) -> FamilySockets {
        FamilySockets { root, passed }
    }
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
enum Listener {
    Tcp(std::net::SocketAddr),
    /// A path, or with a `@` an abstract name.
    Unix(String),
}

impl std::fmt::Display for Listener {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Listener::Tcp(address) => write!(formatter, "{address}"),
            Listener::Unix(path) if path.is_empty() => write!(formatter, "a Unix socket without a name"),
            Listener::Unix(path) => write!(formatter, "{path}"),
        }
    }
}

#[cfg(not(target_os = "linux"))]
impl FamilySockets {
    /// Where the program listens on a socket of its own, for people.
    pub(super) fn own(&self) -> Option<String> {
        None
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;
    use std::fs;
    use std::io;
    use std::path::Path;

    use procfs::net::TcpState;
    use procfs::process::Process;

    use super::{FamilySockets, Listener};
    use crate::child::guardian::descendants;

    /// The flag of a Unix socket that listens, in proc_net_unix(5): `SO_ACCEPTCON`.
    const LISTENS: u32 = 1 << 16;

    impl FamilySockets {
        /// Where the program listens on a socket of its own, for people.
        pub(in crate::child) fn own(&self) -> Option<String> {
            let is_own = |inode: &u64, _: &Listener| !self.passed.contains(inode);
            self.find(is_own).map(|listener| listener.to_string())
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

    /// The sockets that a process has open.
    fn sockets_of(pid: u32) -> io::Result<HashSet<u64>> {
        let entries = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten();
        let socket = |path: &Path| {
            let target = fs::read_link(path).ok()?;
            target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
        };
        Ok(entries.filter_map(|entry| socket(&entry.path())).collect())
    }

    /// The sockets that listen, as this process sees them.
    fn listeners(pid: u32) -> Vec<(u64, Listener)> {
        let Some(process) = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok()) else { return Vec::new() };
        // Without IPv6 there is no second table.
        let tcp = [process.tcp(), process.tcp6()].into_iter().flat_map(Result::unwrap_or_default);
        let tcp = tcp.filter(|entry| entry.state == TcpState::Listen);
        let tcp = tcp.map(|entry| (entry.inode, Listener::Tcp(entry.local_address)));
        // `procfs` leaves out whether a Unix socket listens.
        let unix = fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
        let unix = String::from_utf8_lossy(&unix);
        tcp.chain(unix.lines().filter_map(listening_unix_socket)).collect()
    }

    /// A line of proc_net_unix(5): `Num RefCount Protocol Flags Type St Inode Path`.
    fn listening_unix_socket(line: &str) -> Option<(u64, Listener)> {
        let mut fields = line.splitn(7, ' ').skip(3);
        let flags = u32::from_str_radix(fields.next()?, 16).ok()?;
        // The number has leading spaces, and an unnamed socket no path.
        let rest = fields.nth(2)?.trim_start();
        let (inode, path) = rest.split_once(' ').unwrap_or((rest, ""));
        let listener = (inode.parse().ok()?, Listener::Unix(path.to_owned()));
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
                let listener = listener.map(|(inode, path): (u64, &str)| (inode, Listener::Unix(path.to_owned())));
                assert_eq!(listening_unix_socket(line), listener, "{line}");
            }
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
