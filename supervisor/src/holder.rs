//! Who holds an address.

use crate::listen::Address;

/// The program that listens where `address` needs to, such as `nginx (pid 412)`. None where the system does not tell:
/// on other systems than Linux, or when the program belongs to somebody else.
#[cfg(target_os = "linux")]
pub(crate) fn holder_of(address: &Address) -> Option<String> {
    use procfs::process::{FDTarget, all_processes};

    let sockets = in_the_way(address)?;
    let holds = |process: &procfs::process::Process| {
        let descriptors = process.fd().ok()?;
        let mut targets = descriptors.filter_map(|descriptor| Some(descriptor.ok()?.target));
        targets.any(|target| matches!(target, FDTarget::Socket(inode) if sockets.contains(&inode))).then_some(())
    };
    let holder = all_processes().ok()?.filter_map(Result::ok).find(|process| holds(process).is_some())?;
    Some(format!("{} (pid {})", holder.stat().ok()?.comm, holder.pid()))
}

/// The sockets that listen there, by their inodes.
#[cfg(target_os = "linux")]
fn in_the_way(address: &Address) -> Option<Vec<u64>> {
    use procfs::net::{TcpState, UnixState};

    match address {
        Address::Tcp(address) => {
            let in_the_way = |local: std::net::SocketAddr| {
                let ips = [local.ip(), address.ip()];
                local.port() == address.port() && (ips[0] == ips[1] || ips.iter().any(|ip| ip.is_unspecified()))
            };
            let entries = procfs::net::tcp().ok()?.into_iter().chain(procfs::net::tcp6().unwrap_or_default());
            let in_the_way = entries.filter(|entry| entry.state == TcpState::Listen && in_the_way(entry.local_address));
            Some(in_the_way.map(|entry| entry.inode).collect())
        }
        Address::Unix(path) => {
            // Connections have the path of their server, too, but are connected.
            let entries = procfs::net::unix().ok()?.into_iter();
            let in_the_way =
                entries.filter(|entry| entry.state == UnixState::UNCONNECTED && entry.path.as_ref() == Some(path));
            Some(in_the_way.map(|entry| entry.inode).collect())
        }
    }
}

/// Only Linux tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn holder_of(_address: &Address) -> Option<String> {
    None
}
