//! The listening sockets of this machine, and the sockets that a process has open, as Linux shows them.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::listen::Address;
use crate::tcp_sockets::{self, StateFlags, TcpSocket};

/// The flag of a listening Unix socket in proc_net_unix(5): `SO_ACCEPTCON`.
const LISTENS: u32 = 1 << 16;

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Listener {
    Tcp(SocketAddr),
    /// A path, or an abstract name after a `@`.
    Unix(String),
}

impl Listener {
    /// Whether it accepts connections to this address.
    pub(super) fn is_at(&self, address: &Address) -> bool {
        match (self, address) {
            (Listener::Tcp(own), Address::Tcp(_)) => Address::Tcp(*own).accepts(address),
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

/// The sockets that a process has open.
///
/// # Errors
/// Most likely, it has ended or may not be inspected.
pub(super) fn sockets_of(pid: u32) -> io::Result<HashSet<u64>> {
    sockets_in(&Path::new("/proc").join(pid.to_string()).join("fd"), |link| fs::read_link(link))
}

/// The sockets in this directory of links. Root without `CAP_SYS_PTRACE`, as in most containers, may list the links of
/// another user's process, but not read them.
fn sockets_in(directory: &Path, read_link: impl Fn(&Path) -> io::Result<PathBuf>) -> io::Result<HashSet<u64>> {
    let mut sockets = HashSet::new();
    for link in fs::read_dir(directory)?.flatten() {
        match read_link(&link.path()) {
            Ok(target) => sockets.extend(inode_in(&target)),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Err(error),
            // It has been closed in the meantime.
            Err(_) => {}
        }
    }
    Ok(sockets)
}

/// The inode in the target of a link to a socket: `socket:[45]`.
fn inode_in(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Whether any process listens on this port, on any address.
pub(super) fn is_listened_on(port: u16) -> bool {
    let has_port = |(_, listener): &(u64, Listener)| matches!(listener, Listener::Tcp(at) if at.port() == port);
    listeners(std::process::id()).iter().any(has_port)
}

/// The clients whose connections to this address wait to be accepted.
pub(super) fn waiting_at(address: SocketAddr) -> HashSet<SocketAddr> {
    // They have no inode before they are accepted. In these states they are connected; in the second one the client has
    // closed its side.
    let connected = tcp_sockets::at_port(address.port(), StateFlags::ESTABLISHED | StateFlags::CLOSE_WAIT);
    let waiting = connected.unwrap_or_default().into_iter().filter(|socket| socket.inode == 0);
    waiting.map(|socket| socket.remote).collect()
}

/// The listening sockets that the process with this number sees.
pub(super) fn listeners(pid: u32) -> Vec<(u64, Listener)> {
    let tcp = tcp_sockets::seen_by(pid, StateFlags::LISTEN).unwrap_or_default().into_iter();
    let tcp = tcp.map(|TcpSocket { inode, local, .. }| (inode, Listener::Tcp(local)));
    // `procfs` leaves out whether a Unix socket listens.
    let unix = fs::read(format!("/proc/{pid}/net/unix")).unwrap_or_default();
    let unix = String::from_utf8_lossy(&unix);
    let unix = unix.lines().filter_map(listening_unix_socket);
    // A path may be relative to the directory of the process.
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
    // The inode has leading spaces, and an unnamed socket has no path.
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
    fn a_process_whose_links_may_be_listed_and_not_read_is_not_taken_for_one_without_sockets() {
        let own = Path::new("/proc/self/fd");
        let unreadable = |error: io::ErrorKind| sockets_in(own, |_| Err(error.into())).map_err(|error| error.kind());
        assert_eq!(unreadable(io::ErrorKind::PermissionDenied), Err(io::ErrorKind::PermissionDenied));
        assert_eq!(unreadable(io::ErrorKind::NotFound), Ok(HashSet::new()));
    }

    #[test]
    fn a_listener_takes_connections_to_its_path() {
        let own = Listener::Unix("/run/a.sock".into());
        assert!(own.is_at(&Address::Unix("/run/a.sock".into())) && !own.is_at(&Address::Unix("/run/b.sock".into())));
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
