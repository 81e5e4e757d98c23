//! The TCP sockets of this machine, as selected in the kernel by sock_diag(7). Where that is not allowed or not
//! available, the tables of proc_net_tcp(5) are read, which takes milliseconds even if they are empty.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;

use netlink_packet_core::{NLM_F_DUMP, NLM_F_MULTIPART, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
pub(crate) use netlink_packet_sock_diag::inet::StateFlags;
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SockDiagMessage};
use procfs::FromBufReadSI;
pub(crate) use procfs::net::TcpState;
use procfs::net::{TcpNetEntries, TcpNetEntry};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with};

/// A TCP socket: one that listens, or an end of a connection.
#[derive(Debug, Clone)]
pub(crate) struct TcpSocket {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) state: TcpState,
    /// How many bytes from the peer the process has not read yet.
    pub(crate) receive_queue: u32,
    /// How many bytes the peer has not acknowledged yet.
    pub(crate) send_queue: u32,
    /// The user whose process created it.
    pub(crate) user: u32,
    /// Its number in proc(5). A connection has none (0) before it is accepted and after it is closed.
    pub(crate) inode: u64,
}

/// The sockets in these states that a process sees. A process in another network namespace sees others.
///
/// # Errors
/// When neither the kernel answers nor its tables can be read.
pub(crate) fn seen_by(pid: u32, states: StateFlags) -> io::Result<Vec<TcpSocket>> {
    let is_in_our_network = || Some(network_of(pid)? == network_of(std::process::id())?);
    if is_in_our_network() == Some(true)
        && let Ok(sockets) = in_states(0, &states)
    {
        return Ok(sockets);
    }
    read_tables(pid, &states)
}

/// The sockets in these states that have this local port.
///
/// # Errors
/// When neither the kernel answers nor its tables can be read.
pub(crate) fn at_port(port: u16, states: StateFlags) -> io::Result<Vec<TcpSocket>> {
    in_states(port, &states).or_else(|_| {
        let mut sockets = read_tables(std::process::id(), &states)?;
        sockets.retain(|socket| socket.local.port() == port);
        Ok(sockets)
    })
}

/// The end at `local` of the connection between these two addresses. None: it is over.
///
/// # Errors
/// When neither the kernel answers nor its tables can be read.
pub(crate) fn connection(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<TcpSocket>> {
    // A link-local address belongs to an interface.
    let scope = if let SocketAddr::V6(local) = local { local.scope_id() } else { 0 };
    let (local, remote) = (canonical(local), canonical(remote));
    let is_it = |socket: &TcpSocket| (canonical(socket.local), canonical(socket.remote)) == (local, remote);
    let id = SocketId {
        source_port: local.port(),
        destination_port: remote.port(),
        source_address: local.ip(),
        destination_address: remote.ip(),
        interface_id: scope,
        // Matches any.
        cookie: [0xff; 8],
    };
    // If the connection is over, the kernel answers with the listener instead.
    if let Ok(found) = ask(StateFlags::all(), id, 0) {
        return Ok(found.into_iter().find(is_it));
    }
    Ok(read_tables(std::process::id(), &StateFlags::all())?.into_iter().find(is_it))
}

/// An address without a scope; one of IPv4 as such, whichever family its socket has.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The network that a process sees. None: it has ended, or may not be inspected.
pub(crate) fn network_of(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// The sockets in these states that have this local port, or any if it is 0.
fn in_states(port: u16, states: &StateFlags) -> io::Result<Vec<TcpSocket>> {
    let mut sockets = Vec::new();
    for any in [SocketId::new_v4(), SocketId::new_v6()] {
        sockets.extend(ask(states.clone(), SocketId { source_port: port, ..any }, NLM_F_DUMP)?);
    }
    Ok(sockets)
}

/// One request of sock_diag(7), and its answer.
fn ask(states: StateFlags, socket_id: SocketId, flags: u16) -> io::Result<Vec<TcpSocket>> {
    let family = if socket_id.source_address.is_ipv4() { AF_INET } else { AF_INET6 };
    let extensions = ExtensionFlags::empty();
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
    let mut message = NetlinkMessage::from(SockDiagMessage::InetRequest(request));
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let kernel =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    send(&kernel, &bytes, SendFlags::empty())?;

    let mut sockets = Vec::new();
    // The kernel sends no messages longer than this.
    let mut buffer = vec![0; 32 * 1024];
    loop {
        let (length, _) = recv(&kernel, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest).map_err(io::Error::other)?;
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => {
                    sockets.extend(TcpSocket::answered(&response));
                }
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(sockets),
                NetlinkPayload::Done(done) => return Err(io::Error::from_raw_os_error(done.code.abs())),
                NetlinkPayload::Error(error) => return Err(error.to_io()),
                other => return Err(io::Error::other(format!("sock_diag(7) answers with {}", other.message_type()))),
            }
            if message.header.flags & NLM_F_MULTIPART == 0 {
                return Ok(sockets);
            }
            let end = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(end..).unwrap_or_default();
        }
    }
}

/// The sockets in these states that a process sees, by proc_net_tcp(5).
fn read_tables(pid: u32, states: &StateFlags) -> io::Result<Vec<TcpSocket>> {
    let mut sockets = Vec::new();
    for table in ["tcp", "tcp6"] {
        let mut lines = match File::open(format!("/proc/{pid}/net/{table}")) {
            Ok(table) => BufReader::new(table).lines(),
            // Without IPv6 there is no second table.
            Err(error) if error.kind() == io::ErrorKind::NotFound && table == "tcp6" => continue,
            Err(error) => return Err(error),
        };
        // The table may have tens of thousands of lines, few of which are parsed.
        let mut wanted = lines.next().transpose()?.unwrap_or_default();
        for line in lines {
            let line = line?;
            let state = line.split_ascii_whitespace().nth(3).and_then(|state| u8::from_str_radix(state, 16).ok());
            if state.is_some_and(|state| states.bits() & (1 << state) != 0) {
                wanted.extend(["\n", &line]);
            }
        }
        let entries = TcpNetEntries::from_buf_read(wanted.as_bytes(), procfs::current_system_info());
        sockets.extend(entries.map_err(io::Error::other)?.0.into_iter().map(TcpSocket::from));
    }
    Ok(sockets)
}

impl TcpSocket {
    fn answered(response: &InetResponse) -> Option<TcpSocket> {
        let header = &response.header;
        let SocketId { source_address, source_port, destination_address, destination_port, .. } = header.socket_id;
        Some(TcpSocket {
            local: (source_address, source_port).into(),
            remote: (destination_address, destination_port).into(),
            state: TcpState::from_u8(header.state)?,
            receive_queue: header.recv_queue,
            send_queue: header.send_queue,
            user: header.uid,
            inode: header.inode.into(),
        })
    }
}

impl From<TcpNetEntry> for TcpSocket {
    fn from(entry: TcpNetEntry) -> TcpSocket {
        TcpSocket {
            local: entry.local_address,
            remote: entry.remote_address,
            state: entry.state,
            receive_queue: entry.rx_queue,
            send_queue: entry.tx_queue,
            user: entry.uid,
            inode: entry.inode,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsFd;
    use std::thread;
    use std::time::{Duration, Instant};

    /// A listener, and the number of its socket.
    fn listener(address: &str) -> Option<(TcpListener, u64)> {
        let listener = TcpListener::bind(address).ok()?;
        let inode = inode(&listener);
        Some((listener, inode))
    }

    fn inode(socket: &impl AsFd) -> u64 {
        nix::sys::stat::fstat(socket).unwrap().st_ino
    }

    #[test]
    fn the_kernel_and_its_tables_tell_the_same_of_a_socket() {
        let (ours, inode) = listener("127.0.0.1:0").unwrap();
        let address = ours.local_addr().unwrap();
        for sockets in [
            in_states(0, &StateFlags::LISTEN).unwrap(),
            in_states(address.port(), &StateFlags::LISTEN).unwrap(),
            read_tables(std::process::id(), &StateFlags::LISTEN).unwrap(),
        ] {
            assert!(sockets.iter().all(|socket| socket.state == TcpState::Listen));
            let found: Vec<_> = sockets.iter().filter(|socket| socket.inode == inode).collect();
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].local, address);
            assert_eq!(found[0].user, nix::unistd::geteuid().as_raw());
        }
        assert!(in_states(address.port(), &StateFlags::ESTABLISHED).unwrap().is_empty());
    }

    #[test]
    fn a_process_in_a_network_of_its_own_does_not_see_our_sockets() {
        use std::process::{Command, Stdio};

        let (_ours, inode) = listener("127.0.0.1:0").unwrap();
        let sees_ours = |pid| seen_by(pid, StateFlags::LISTEN).unwrap().iter().any(|socket| socket.inode == inode);
        assert!(sees_ours(std::process::id()));
        let mut apart = Command::new("unshare");
        let Ok(mut apart) = apart.args(["--user", "--net", "cat"]).stdin(Stdio::piped()).stderr(Stdio::null()).spawn()
        else {
            return;
        };
        let is_apart = || network_of(apart.id()) != network_of(std::process::id());
        // Not every user may create a network namespace; without that permission, the program ends.
        let end = Instant::now() + Duration::from_secs(30);
        while !is_apart() {
            assert!(Instant::now() < end, "it stays in our network");
            thread::sleep(Duration::from_millis(10));
        }
        if network_of(apart.id()).is_some() {
            assert!(!sees_ours(apart.id()));
        }
        drop(apart.stdin.take());
        apart.wait().unwrap();
    }

    #[test]
    fn a_connection_has_a_number_from_its_accept_to_its_close() {
        for address in ["127.0.0.1:0", "[::]:0"] {
            // A machine without IPv6 has only the first one.
            let Some((ours, _)) = listener(address) else { continue };
            let there = SocketAddr::from((Ipv4Addr::LOCALHOST, ours.local_addr().unwrap().port()));
            let client = TcpStream::connect(there).unwrap();
            let here = client.local_addr().unwrap();
            let number = || connection(there, here).unwrap().map(|socket| (socket.state, socket.inode));
            assert_eq!(number(), Some((TcpState::Established, 0)));
            let waiting = at_port(there.port(), StateFlags::ESTABLISHED).unwrap();
            assert_eq!(waiting.iter().map(|socket| socket.inode).collect::<Vec<_>>(), [0]);
            let (accepted, _) = ours.accept().unwrap();
            assert_eq!(number(), Some((TcpState::Established, inode(&accepted))));
            // Reset, so that nothing of it remains.
            rustix::net::sockopt::set_socket_linger(&accepted, Some(Duration::ZERO)).unwrap();
            drop(accepted);
            // The listener is still there. A process that another test starts has the connection for a moment, too.
            let end = Instant::now() + Duration::from_secs(30);
            while number().is_some() {
                assert!(Instant::now() < end, "the connection is still there");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}
