//! Listening sockets for programs. A socket with a path has a lock beside it.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{FchmodatFlags, Mode, fchmodat, mode_t};

use super::address::{Address, ProgramSocket};
use super::tcp::{bind_tcp, make_room};
use crate::instance::{InstanceLock, InstanceLockError, remove_leftover_socket};
use crate::text::Reason;

/// The identity of a file, unique as long as the file exists: its device and its inode.
pub(crate) type FileIdentity = (u64, u64);

/// A bound, listening socket.
#[derive(Debug)]
pub(crate) struct Bound {
    /// Its address, with the actual port.
    pub(crate) address: Address,
    /// The name under which the program finds it, if one was given.
    pub(crate) name: Option<String>,
    pub(crate) socket: OwnedFd,
    /// None: it has no path.
    pub(crate) file: Option<SocketFile>,
}

impl Bound {
    /// A TCP socket of an in-process server.
    pub(crate) fn of_tcp(listener: &TcpListener) -> io::Result<Bound> {
        let address = Address::Tcp(listener.local_addr()?);
        Ok(Bound { address, name: None, socket: listener.try_clone()?.into(), file: None })
    }

    /// Another handle to the same socket.
    pub(crate) fn try_clone(&self) -> io::Result<Bound> {
        let Bound { address, name, socket, file: _ } = self;
        Ok(Bound { address: address.clone(), name: name.clone(), socket: socket.try_clone()?, file: None })
    }

    /// Takes over this socket, which an earlier supervisor has bound, with the current settings.
    ///
    /// # Errors
    /// What the system says. [`ErrorKind::AddrInUse`]: another supervisor has it.
    pub(crate) fn again(&self, listen: &ProgramSocket) -> io::Result<Bound> {
        let mut bound = self.try_clone()?;
        bound.name.clone_from(&listen.name);
        // In-process servers have left it in non-blocking mode, and a program expects blocking mode.
        rustix::io::ioctl_fionbio(&bound.socket, false)?;
        if let Address::Unix(path) = &listen.address {
            let claim = claim(path)?;
            fchmodat(AT_FDCWD, path, mode_of(listen), FchmodatFlags::NoFollowSymlink)?;
            let (identity, is_kept) = (file_identity(path), Arc::new(true.into()));
            bound.file = Some(SocketFile { path: path.clone(), identity, is_kept, _claim: claim });
        }
        Ok(bound)
    }

    /// The listener, if it is a TCP socket.
    pub(crate) fn into_tcp(self) -> Option<TcpListener> {
        self.address.tcp().map(|_| self.socket.into())
    }

    /// # Errors
    /// What the system says. [`ErrorKind::AddrInUse`]: a server listens there.
    pub(crate) fn new(listen: &ProgramSocket) -> io::Result<Bound> {
        let name = listen.name.clone();
        match &listen.address {
            Address::Tcp(address) => {
                let listener = bind_tcp(*address)?;
                let address = Address::Tcp(listener.local_addr()?);
                Ok(Bound { address, name, socket: listener.into(), file: None })
            }
            Address::Unix(path) => {
                let (listener, file) = bind_unix(path, mode_of(listen))?;
                Ok(Bound { address: listen.address.clone(), name, socket: listener.into(), file: Some(file) })
            }
        }
    }
}

/// The file of a listening Unix socket. It is removed on drop, and only then may another supervisor create one there.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: Option<FileIdentity>,
    /// The socket is kept for the next supervisor, whose clients find it through this file.
    is_kept: Arc<AtomicBool>,
    _claim: InstanceLock,
}

impl SocketFile {
    /// To be set once its socket is kept for the next supervisor. The file then stays in place on drop.
    pub(crate) fn kept_flag(&self) -> Arc<AtomicBool> {
        self.is_kept.clone()
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that another process has put there in the meantime is not ours.
        if !self.is_kept.load(Ordering::SeqCst) && self.identity.is_some() && file_identity(&self.path) == self.identity
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}

pub(crate) fn file_identity(path: &Path) -> Option<FileIdentity> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

fn mode_of(listen: &ProgramSocket) -> Mode {
    // The type of a mode differs between systems.
    Mode::from_bits_truncate(listen.mode as mode_t)
}

fn bind_unix(path: &Path, mode: Mode) -> io::Result<(UnixListener, SocketFile)> {
    let claim = claim(path)?;
    remove_leftover_socket(path)?;
    let listener = UnixListener::bind(path)?;
    // From here on the file is removed if something fails.
    let identity = file_identity(path);
    let file = SocketFile { path: path.to_owned(), identity, is_kept: Arc::default(), _claim: claim };
    make_room(&listener)?;
    // Never through a link: another process may have put one there.
    fchmodat(AT_FDCWD, path, mode, FchmodatFlags::NoFollowSymlink)?;
    Ok((listener, file))
}

/// Decides which of two supervisors gets the path: to look whether a process listens there and then to remove the
/// leftover socket would be two steps. (Other servers have locks with other names.)
fn claim(path: &Path) -> io::Result<InstanceLock> {
    let mut lock = path.as_os_str().to_owned();
    lock.push(".mastercontrol.lock");
    InstanceLock::of_file(lock.into()).map_err(|error| match error {
        InstanceLockError::Taken => ErrorKind::AddrInUse.into(),
        InstanceLockError::Unusable { path, source }
            if source.kind() == ErrorKind::PermissionDenied && fs::symlink_metadata(&path).is_ok() =>
        {
            let path = path.display();
            let message = format!(
                "no permission to lock {path}, which belongs to another user; if none of that user's supervisors listens \
                 there, remove that file"
            );
            io::Error::new(source.kind(), message)
        }
        InstanceLockError::Unusable { path, source } => {
            io::Error::new(source.kind(), format!("{}: {}", path.display(), Reason(&source)))
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    /// A directory for one test, which has to be empty at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(test: &str) -> Directory {
            let directory = std::env::temp_dir().join(format!("mastercontrol-listen-{}-{test}", std::process::id()));
            let _ = fs::remove_dir_all(&directory);
            fs::create_dir(&directory).unwrap();
            Directory(directory)
        }

        fn path(&self) -> PathBuf {
            self.0.join("app.sock")
        }

        fn bind(&self) -> io::Result<Bound> {
            Bound::new(&Address::Unix(self.path()).into())
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let empty = fs::remove_dir(&self.0).is_ok();
            assert!(empty || std::thread::panicking(), "something is left in {}", self.0.display());
        }
    }

    #[test]
    fn a_path_is_bound_once_and_gone_afterwards() {
        let directory = Directory::new("once");
        let bound = directory.bind().unwrap();
        UnixStream::connect(directory.path()).unwrap();
        assert_eq!(directory.bind().unwrap_err().kind(), ErrorKind::AddrInUse);
        UnixStream::connect(directory.path()).unwrap();
        drop(bound);
        drop(directory.bind().unwrap());
    }

    #[test]
    fn every_user_may_connect_unless_the_mode_says_otherwise() {
        let directory = Directory::new("mode");
        let mode = || fs::metadata(directory.path()).unwrap().permissions().mode() & 0o7777;
        let bound = directory.bind().unwrap();
        assert_eq!(mode(), 0o666);
        drop(bound);
        let _bound = Bound::new(&ProgramSocket { mode: 0o660, ..Address::Unix(directory.path()).into() }).unwrap();
        assert_eq!(mode(), 0o660);
    }

    #[test]
    fn a_leftover_is_replaced() {
        let directory = Directory::new("leftover");
        drop(UnixListener::bind(directory.path()).unwrap());
        assert!(directory.path().exists());
        let _bound = directory.bind().unwrap();
        UnixStream::connect(directory.path()).unwrap();
    }

    #[test]
    fn who_listens_there_without_our_lock_is_left_alone_and_notices_nothing() {
        let directory = Directory::new("foreign");
        let foreign = UnixListener::bind(directory.path()).unwrap();
        foreign.set_nonblocking(true).unwrap();
        assert_eq!(directory.bind().unwrap_err().kind(), ErrorKind::AddrInUse);
        assert_eq!(foreign.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
        UnixStream::connect(directory.path()).unwrap();
        fs::remove_file(directory.path()).unwrap();
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let directory = Directory::new("other");
        let elsewhere = directory.0.join("elsewhere.sock");
        drop(UnixListener::bind(&elsewhere).unwrap());
        for make in [
            |path: &Path, _: &Path| fs::write(path, "precious").unwrap(),
            |path: &Path, elsewhere: &Path| std::os::unix::fs::symlink(elsewhere, path).unwrap(),
        ] {
            make(&directory.path(), &elsewhere);
            assert_eq!(directory.bind().unwrap_err().kind(), ErrorKind::AlreadyExists);
            fs::remove_file(directory.path()).unwrap();
        }
        fs::remove_file(elsewhere).unwrap();
    }

    #[test]
    fn what_somebody_else_has_put_in_its_place_is_left_there() {
        let directory = Directory::new("replaced");
        let bound = directory.bind().unwrap();
        // Exists at the same time as ours, so that it cannot have the same inode.
        let other = directory.0.join("other.sock");
        let _other = UnixListener::bind(&other).unwrap();
        fs::rename(other, directory.path()).unwrap();
        drop(bound);
        UnixStream::connect(directory.path()).unwrap();
        fs::remove_file(directory.path()).unwrap();
    }

    #[test]
    fn of_several_that_find_a_leftover_at_the_same_time_one_gets_the_path() {
        let directory = Directory::new("several");
        for _ in 0..20 {
            drop(UnixListener::bind(directory.path()).unwrap());
            let all: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| directory.bind())).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(all.iter().filter(|bound| bound.is_ok()).count(), 1, "{all:?}");
            UnixStream::connect(directory.path()).unwrap();
        }
    }

    #[test]
    fn a_name_has_nothing_that_no_name_may_have() {
        let directory = Directory::new("name");
        let path = directory.0.join("a:b é\n.sock");
        let unix = Bound::new(&Address::Unix(path).into()).unwrap();
        let tcp = Bound::new(&Address::Tcp(([127, 0, 0, 1], 0).into()).into()).unwrap();
        let port = tcp.address.tcp().unwrap().port().to_string();
        let names = super::super::names::names(&[unix, tcp]);
        assert!(names[0].ends_with("/a_b __.sock"), "{names:?}");
        assert_eq!(names[1], port);
    }

    #[test]
    fn each_socket_has_a_name_of_its_own() {
        let bind = |listen: ProgramSocket| Bound::new(&listen).unwrap();
        let first = bind(Address::Tcp(([127, 0, 0, 1], 0).into()).into());
        let port = first.address.tcp().unwrap().port();
        let second = bind(Address::Tcp(([127, 0, 0, 2], port).into()).into());
        let named = ProgramSocket { name: Some("web".into()), ..Address::Tcp(([127, 0, 0, 3], port).into()).into() };
        let names = super::super::names::names(&[first, second, bind(named)]);
        assert_eq!(names, [format!("127.0.0.1_{port}"), format!("127.0.0.2_{port}"), "web".into()]);
    }
}
