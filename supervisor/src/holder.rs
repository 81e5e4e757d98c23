//! Who holds a port.

use std::net::SocketAddr;

/// The program that listens on a port that `address` needs, such as `nginx (pid 412)`. None where the system does not
/// tell: on other systems than Linux, or when the program belongs to somebody else.
#[cfg(target_os = "linux")]
pub(crate) fn holder_of(address: SocketAddr) -> Option<String> {
    use procfs::net::TcpState;
    use procfs::process::{FDTarget, all_processes};

    let in_the_way = |local: SocketAddr| {
        let ips = [local.ip(), address.ip()];
        local.port() == address.port() && (ips[0] == ips[1] || ips.iter().any(|ip| ip.is_unspecified()))
    };
    let entries = procfs::net::tcp().ok()?.into_iter().chain(procfs::net::tcp6().unwrap_or_default());
    let sockets: Vec<u64> = entries
        .filter(|entry| entry.state == TcpState::Listen && in_the_way(entry.local_address))
        .map(|entry| entry.inode)
        .collect();
    let holds = |process: &procfs::process::Process| {
        let descriptors = process.fd().ok()?;
        let mut targets = descriptors.filter_map(|descriptor| Some(descriptor.ok()?.target));
        targets.any(|target| matches!(target, FDTarget::Socket(inode) if sockets.contains(&inode))).then_some(())
    };
    let holder = all_processes().ok()?.filter_map(Result::ok).find(|process| holds(process).is_some())?;
    Some(format!("{} (pid {})", holder.stat().ok()?.comm, holder.pid()))
}

/// Only Linux tells.
#[cfg(not(target_os = "linux"))]
pub(crate) fn holder_of(_address: SocketAddr) -> Option<String> {
    None
}
