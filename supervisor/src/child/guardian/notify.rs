//! The socket on which a program says that it is ready.

use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// The variable that leads a program to the socket, see `sd_notify(3)`.
pub(super) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The longest temporary directory in which a socket can be: the rest of its path has 54 bytes, and there is room for
/// 103.
const LONGEST_DIRECTORY: usize = 49;

/// The first part of the name of a socket's directory. The rest is a random number, of which this many hexadecimal
/// digits are written.
const DIRECTORY: &str = "mastercontrol-ready-";
const DIGITS: usize = 16;

/// The longest message, in bytes. Systemd ignores longer ones as a whole, too: one that is cut off could say what it does
/// not mean.
const LONGEST_MESSAGE: usize = 4096;

/// Where a program says that it is ready. Removed when it is dropped.
///
/// The program may have become another user, and its helpers, such as `systemd-notify`, may be gone before anybody
/// could look who they were. So everybody may write there who knows the name, and only its program is told. It is a
/// file, since not all that programs use for this knows the abstract names that Linux has.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
    /// The directory, locked as long as this process lives: whatever ends it, the next one sees that nobody needs that
    /// any more.
    _lock: File,
}

impl NotifySocket {
    pub(super) fn new() -> io::Result<NotifySocket> {
        let temporary = std::env::temp_dir();
        let temporary = if temporary.as_os_str().len() > LONGEST_DIRECTORY { PathBuf::from("/tmp") } else { temporary };
        remove_stale(&temporary);
        NotifySocket::below(&temporary)
    }

    fn below(temporary: &Path) -> io::Result<NotifySocket> {
        loop {
            let directory = temporary.join(format!("{DIRECTORY}{:0DIGITS$x}", random()));
            // Others may pass, and not look.
            DirBuilder::new().mode(0o711).create(&directory)?;
            match NotifySocket::inside(&directory) {
                // It was removed as stale before it could be locked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                made => return made.inspect_err(|_| drop(fs::remove_dir_all(&directory))),
            }
        }
    }

    fn inside(directory: &Path) -> io::Result<NotifySocket> {
        let lock = File::open(directory)?;
        // Where directories cannot be locked, none is ever taken for stale.
        let _ = lock.lock();
        fs::set_permissions(directory, Permissions::from_mode(0o711))?;
        let path = directory.join(format!("{:0DIGITS$x}", random()));
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        socket.set_nonblocking(true)?;
        Ok(NotifySocket { socket, path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes what has been said. Returns whether the program is ready.
    pub(super) fn listen(&self) -> bool {
        let mut ready = false;
        let mut said = [0; LONGEST_MESSAGE + 1];
        while let Ok(length) = self.socket.recv(&mut said) {
            ready |= length <= LONGEST_MESSAGE && says_ready(&said[..length]);
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

/// Removes the socket of the program that this process guards, if there is one.
pub(super) fn remove_own() {
    if let Some(socket) = std::env::var_os(NOTIFY_SOCKET) {
        remove(Path::new(&socket));
    }
}

/// Removes a socket that is not needed any more, and its directory.
fn remove(socket: &Path) {
    // Whoever is there first does it.
    let _ = fs::remove_file(socket);
    if let Some(directory) = socket.parent().filter(|directory| is_named_as_ours(directory)) {
        let _ = fs::remove_dir(directory);
    }
}

/// Removes what supervisors of this user have left behind that were killed together with their guardians.
fn remove_stale(temporary: &Path) {
    let entries = fs::read_dir(temporary).into_iter().flatten().flatten();
    for directory in entries.map(|entry| entry.path()).filter(|path| is_named_as_ours(path) && is_ours(path)) {
        let Ok(lock) = File::open(&directory) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let files = fs::read_dir(&directory).into_iter().flatten().flatten();
        for file in files.filter(|file| file.file_type().is_ok_and(|kind| kind.is_socket())) {
            let _ = fs::remove_file(file.path());
        }
        // Unless something else is in it.
        let _ = fs::remove_dir(&directory);
    }
}

fn is_named_as_ours(directory: &Path) -> bool {
    let number = directory.file_name().and_then(|name| name.to_str()?.strip_prefix(DIRECTORY));
    number.is_some_and(|number| number.len() == DIGITS && number.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn is_ours(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|directory| directory.is_dir() && directory.uid() == geteuid().as_raw())
}

fn says_ready(message: &[u8]) -> bool {
    message.split(|&byte| byte == b'\n').any(|line| line == b"READY=1")
}

pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::corpus;
    use proptest::prelude::*;

    /// Of what comes through the socket counts what has been sent, and nothing that has been made of it.
    fn is_heard_as_it_was_said(notify: &NotifySocket, message: &[u8]) -> Result<(), TestCaseError> {
        UnixDatagram::unbound().unwrap().send_to(message, notify.path()).unwrap();
        let lines = String::from_utf8_lossy(message);
        let is_ready = message.len() <= LONGEST_MESSAGE && lines.split('\n').any(|line| line == "READY=1");
        prop_assert_eq!(notify.listen(), is_ready);
        Ok(())
    }

    #[test]
    fn each_message_that_is_kept_is_heard_as_it_was_said() {
        let notify = NotifySocket::new().unwrap();
        for (name, message) in corpus::kept("notify") {
            is_heard_as_it_was_said(&notify, &message).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn what_is_nearly_a_message_is_heard_as_it_was_said() {
        let notify = NotifySocket::new().unwrap();
        proptest!(|(message in corpus::nearly("notify"))| is_heard_as_it_was_said(&notify, &message)?);
    }

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
    fn a_notify_socket_hears_and_leaves_nothing_behind() {
        let notify = NotifySocket::new().unwrap();
        let directory = notify.path().parent().unwrap().to_owned();
        let program = UnixDatagram::unbound().unwrap();
        assert!(!notify.listen());
        program.send_to(b"STATUS=starting", notify.path()).unwrap();
        program.send_to(b"READY=1", notify.path()).unwrap();
        assert!(notify.listen());
        assert!(!notify.listen());
        drop(notify);
        assert!(!directory.exists());
    }

    #[test]
    fn only_what_nobody_has_any_more_is_removed() {
        let temporary = std::env::temp_dir().join(format!("ready-test-{}", std::process::id()));
        fs::create_dir(&temporary).unwrap();
        let directory = |name: &str| {
            let directory = temporary.join(name);
            fs::create_dir(&directory).unwrap();
            drop(UnixDatagram::bind(directory.join("socket")).unwrap());
            directory
        };
        let used = NotifySocket::below(&temporary).unwrap();
        let stale = directory("mastercontrol-ready-0123456789abcdef");
        let (of_instances, of_others) =
            (directory("mastercontrol-1000"), directory("mastercontrol-ready-x123456789abcdef"));
        let with_more = directory("mastercontrol-ready-1123456789abcdef");
        fs::write(with_more.join("file"), "").unwrap();
        remove_stale(&temporary);
        assert!(!stale.exists());
        assert!(of_instances.join("socket").exists() && of_others.join("socket").exists());
        assert!(with_more.join("file").exists());
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", used.path()).unwrap();
        assert!(used.listen());
        fs::remove_dir_all(temporary).unwrap();
    }

    #[test]
    fn those_that_come_and_go_at_the_same_time_do_not_disturb_each_other() {
        let temporary = std::env::temp_dir().join(format!("ready-test-many-{}", std::process::id()));
        fs::create_dir(&temporary).unwrap();
        let come_and_go = || {
            for _ in 0..200 {
                remove_stale(&temporary);
                let notify = NotifySocket::below(&temporary).unwrap();
                UnixDatagram::unbound().unwrap().send_to(b"READY=1", notify.path()).unwrap();
                assert!(notify.listen());
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(come_and_go))));
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
        fs::remove_dir(temporary).unwrap();
    }
}
