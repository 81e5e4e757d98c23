//! When a program is ready: it says so, its address answers, or a time has passed.

use std::fs::{self, DirBuilder, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interprocess::ConnectWaitMode;
use interprocess::local_socket::{ConnectOptions, GenericFilePath, ToFsName};

use crate::listen::Address;

/// The variable that leads a program to the socket, see `sd_notify(3)`.
pub(super) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The longest temporary folder in which a socket can be: its path has room for about 100 bytes.
const LONGEST_FOLDER: usize = 60;

/// What shows that a program is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// It runs.
    AtOnce,
    /// It has run for this long.
    After(Duration),
    /// It says `READY=1` on the socket that `NOTIFY_SOCKET` names.
    Notify,
    /// Something takes connections at this address.
    Connect(Address),
}

/// Where a program says that it is ready. Removed when it is dropped.
///
/// The program may have become another user, and its helpers, such as `systemd-notify`, may be gone before anybody could look
/// who they were. So everybody may write there who knows the name, and only its program is told.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
}

impl NotifySocket {
    pub(super) fn new() -> io::Result<NotifySocket> {
        let temporary = std::env::temp_dir();
        let temporary = if temporary.as_os_str().len() > LONGEST_FOLDER { PathBuf::from("/tmp") } else { temporary };
        let folder = temporary.join(format!("mastercontrol-{:016x}", random()));
        // Others may pass, and not look.
        DirBuilder::new().mode(0o711).create(&folder)?;
        let path = folder.join(format!("{:016x}", random()));
        let made = fs::set_permissions(&folder, Permissions::from_mode(0o711))
            .and_then(|()| UnixDatagram::bind(&path))
            .and_then(|socket| fs::set_permissions(&path, Permissions::from_mode(0o666)).map(|()| socket))
            .and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        match made {
            Ok(socket) => Ok(NotifySocket { socket, path }),
            Err(error) => {
                remove(&path);
                Err(error)
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what has been said. Returns whether the program is ready.
    pub(super) fn listen(&self) -> bool {
        let mut ready = false;
        let mut said = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut said) {
            ready |= says_ready(&said[..length]);
        }
        ready
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes a socket that is not needed any more, and its folder.
pub(super) fn remove(socket: &Path) {
    // Whoever is there first does it.
    let _ = fs::remove_file(socket);
    let ours =
        |folder: &&Path| folder.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"mastercontrol-"));
    if let Some(folder) = socket.parent().filter(ours) {
        let _ = fs::remove_dir(folder);
    }
}

fn says_ready(message: &[u8]) -> bool {
    message.split(|&byte| byte == b'\n').any(|line| line == b"READY=1")
}

/// Whether something takes connections there. That is no client: it leaves at once.
pub(super) fn answers(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok(),
        // Does not wait: one whose queue is full takes connections, too.
        Address::Unix(path) => path.as_path().to_fs_name::<GenericFilePath>().is_ok_and(|name| {
            ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred).connect_sync().is_ok()
        }),
    }
}

fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ready_is_a_line_of_its_own() {
        for message in [&b"READY=1"[..], b"READY=1\n", b"STATUS=up\nREADY=1\nMAINPID=5"] {
            assert!(says_ready(message), "{message:?}");
        }
        for message in [&b""[..], b"READY=0", b"STATUS=READY=1", b"READY=1x", b"\xff\n"] {
            assert!(!says_ready(message), "{message:?}");
        }
    }

    #[test]
    fn a_unix_socket_answers_as_soon_as_it_listens_even_if_its_queue_is_full() {
        use nix::sys::socket::{Backlog, listen};
        use std::os::unix::net::{UnixListener, UnixStream};

        let path = std::env::temp_dir().join(format!("mastercontrol-ready-{:016x}", random()));
        let address = Address::Unix(path.clone());
        assert!(!answers(&address));
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let _in_the_queue = UnixStream::connect(&path).unwrap();
        assert!(answers(&address));
        drop(listener);
        assert!(!answers(&address));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_notify_socket_hears_and_leaves_nothing_behind() {
        let notify = NotifySocket::new().unwrap();
        let folder = notify.path().parent().unwrap().to_owned();
        let program = UnixDatagram::unbound().unwrap();
        assert!(!notify.listen());
        program.send_to(b"STATUS=starting", notify.path()).unwrap();
        program.send_to(b"READY=1", notify.path()).unwrap();
        assert!(notify.listen());
        assert!(!notify.listen());
        drop(notify);
        assert!(!folder.exists());
    }
}
