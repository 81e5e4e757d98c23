//! Distinguishes a process from an earlier one with the same number: by the inode of its pidfd.

/// The variable that identifies the process to which sockets are passed, see sd_listen_fds(3).
pub(crate) const VARIABLE: &str = "LISTEN_PIDFDID";

/// The inode of this process's pidfd, which stays the same when the process executes another program. None: the system
/// has no such numbers (Linux has them since 6.9).
#[cfg(target_os = "linux")]
pub(crate) fn own_id() -> Option<u64> {
    use rustix::fs::{fstat, fstatfs};
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    /// The file system of pidfds. Before it existed, all pidfds had the same inode.
    const PIDFS: i128 = 0x5049_4446;

    let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let is_number = i128::from(fstatfs(&pidfd).ok()?.f_type) == PIDFS;
    is_number.then(|| fstat(&pidfd).ok().map(|pidfd| pidfd.st_ino)).flatten()
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) fn own_id() -> Option<u64> {
    None
}
