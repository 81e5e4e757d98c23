//! The connections that the processes of a program have accepted, as the kernel reports them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::family_sockets::FamilySockets;
use super::guardian::proc::descendants;
use super::listeners::sockets_of;
use crate::protocol::{ConnectionState, ProgramConnection};
use crate::tcp_sockets::{self, StateFlags, TcpSocket, TcpState, canonical};

/// The states of a TCP socket that is a connection. Sockets in later states, such as TIME_WAIT, belong to no process
/// any more.
const CONNECTED: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT)
    .union(StateFlags::LAST_ACK)
    .union(StateFlags::CLOSING);

/// The processes of a program that share one view of the network. A process in a container has a view of its own.
struct Network {
    /// One of them.
    pid: u32,
    /// By inode, which of them has the socket open.
    open: HashMap<u64, u32>,
}

impl FamilySockets {
    /// The connections that clients have made to the program, those with the longest queues first: connections that its
    /// processes have accepted, and those that wait to be accepted.
    ///
    /// # Errors
    /// When none is seen, and a process may not be looked into.
    pub(super) fn connections(&self) -> io::Result<Vec<ProgramConnection>> {
        let mut networks: HashMap<PathBuf, Network> = HashMap::new();
        let mut hidden = None;
        for pid in descendants(self.root()) {
            match sockets_of(pid) {
                Ok(open) => {
                    // A process that has ended in the meantime has none.
                    let Some(network) = tcp_sockets::network_of(pid) else { continue };
                    let network = networks.entry(network).or_insert_with(|| Network { pid, open: HashMap::new() });
                    network.open.extend(open.into_iter().map(|socket| (socket, pid)));
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => hidden = Some(pid),
                Err(_) => {}
            }
        }
        let passed = self.passed_ports();
        let mut connections: Vec<_> = networks.values().flat_map(|network| network.connections(&passed)).collect();
        if let (true, Some(pid)) = (connections.is_empty(), hidden) {
            let message = format!("not permitted to look into process {pid} of the program");
            return Err(io::Error::new(ErrorKind::PermissionDenied, message));
        }
        let queues = |it: &ProgramConnection| it.receive_queue.saturating_add(it.send_queue);
        connections.sort_by(|one, other| queues(other).cmp(&queues(one)).then(one.peer.cmp(&other.peer)));
        Ok(connections)
    }
}

impl Network {
    /// The connections that clients have made to ports on which the program listens, or to those of the sockets that it
    /// got from us.
    fn connections(&self, passed: &HashSet<u16>) -> Vec<ProgramConnection> {
        let sockets = tcp_sockets::seen_by(self.pid, CONNECTED | StateFlags::LISTEN).unwrap_or_default();
        let listens = |socket: &&TcpSocket| socket.state == TcpState::Listen && self.open.contains_key(&socket.inode);
        let own = sockets.iter().filter(listens).map(|socket| socket.local.port());
        let ports: HashSet<u16> = own.chain(passed.iter().copied()).collect();
        let of_clients = ports_of_clients();
        let connection = |socket: &TcpSocket| {
            let port = socket.local.port();
            let (state, pid) = match (&socket.state, self.open.get(&socket.inode)) {
                (TcpState::Listen, _) => return None,
                // A connection in the queue has no inode yet.
                (TcpState::Established | TcpState::CloseWait, None) if socket.inode == 0 && ports.contains(&port) => {
                    (ConnectionState::Waiting, None)
                }
                (_, None) => return None,
                // A connection that the program has made has a port from the range for clients. One that it has
                // accepted has the port on which it listens, or listened before it was asked to end.
                (_, Some(_)) if !ports.contains(&port) && of_clients.contains(&port) => return None,
                (TcpState::Established, pid) => (ConnectionState::Established, pid),
                (TcpState::CloseWait, pid) => (ConnectionState::CloseWait, pid),
                (_, pid) => (ConnectionState::Closing, pid),
            };
            Some(ProgramConnection {
                peer: canonical(socket.remote),
                address: canonical(socket.local),
                state,
                pid: pid.copied(),
                receive_queue: socket.receive_queue.into(),
                send_queue: socket.send_queue.into(),
                generation: None,
            })
        };
        sockets.iter().filter_map(connection).collect()
    }
}

/// The range of ports that the system assigns to clients.
fn ports_of_clients() -> RangeInclusive<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ports = range.split_whitespace().filter_map(|port| port.parse().ok());
    ports.next().unwrap_or(32768)..=ports.next().unwrap_or(60999)
}
