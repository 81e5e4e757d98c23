//! Where the admin socket and the lock of an instance are.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
#[cfg(unix)]
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use interprocess::local_socket::{GenericFilePath, Name, ToFsName};

use super::directory;
use super::lock::{InstanceLock, InstanceLockError};
use super::name::InstanceName;
use crate::text::Reason;

/// The longest path of a Unix socket, in bytes: `sun_path` in unix(7), minus the final NUL.
#[cfg(unix)]
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// Where an instance's admin socket and lock are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePaths {
    /// The path of the admin socket or named pipe.
    pub socket: PathBuf,
    /// The path where clients look for it, if that is different: a link beside the lock.
    link: Option<PathBuf>,
    lock: PathBuf,
    /// None: the socket's path was given.
    name: Option<InstanceName>,
}

impl InstancePaths {
    /// The paths of the instance with this name.
    ///
    /// # Errors
    /// A message for people when the system names no directory for it.
    pub fn of(name: &InstanceName) -> Result<InstancePaths, String> {
        let locks = directory::locks()?;
        #[cfg(unix)]
        let (socket, link) = {
            let file = format!("{name}.sock");
            let sockets = directory::sockets()?;
            (sockets.join(&file), (sockets != locks).then(|| locks.join(file)))
        };
        #[cfg(windows)]
        let (socket, link) = (format!(r"\\.\pipe\mastercontrol-{name}").into(), None);
        Ok(InstancePaths { socket, link, lock: locks.join(format!("{name}.lock")), name: Some(name.clone()) })
    }

    /// The paths of an instance whose admin socket has this path. Its lock is beside it, with `.lock` after its name;
    /// on Windows, where a pipe is in no directory, the lock is in the usual directory.
    ///
    /// # Errors
    /// A message for people when the path has no file name or its directory cannot be found.
    pub fn at(socket: &Path) -> Result<InstancePaths, String> {
        let Some(name) = socket.file_name() else {
            return Err(format!("{} is not a socket path", socket.display()));
        };
        if cfg!(windows) && socket.to_fs_name::<GenericFilePath>().is_err() {
            return Err(format!(r"{} is not a pipe path: say \\.\pipe\web", socket.display()));
        }
        let directory = if cfg!(windows) { directory::locks()? } else { directory::of(socket).to_owned() };
        // On Windows it is in one directory with the locks of named instances; no instance name begins with this
        // character.
        let mut lock = OsString::from(if cfg!(windows) { "@" } else { "" });
        lock.push(name);
        lock.push(".lock");
        Ok(InstancePaths { socket: socket.to_owned(), link: None, lock: directory.join(lock), name: None })
    }

    /// The current paths: the directory that the system had made for sockets may be gone.
    #[cfg(target_os = "linux")]
    pub(crate) fn now(&self) -> Result<InstancePaths, String> {
        self.name.as_ref().map_or_else(|| Ok(self.clone()), InstancePaths::of)
    }

    /// Makes the directory of the lock if it does not exist, and locks the lock file for this process.
    pub(crate) fn take_lock(&self) -> Result<InstanceLock, InstanceLockError> {
        InstanceLock::in_private(self.lock.clone())
    }

    /// The path where clients look for the socket.
    fn entrance(&self) -> &Path {
        self.link.as_ref().unwrap_or(&self.socket)
    }

    /// The directories that contain files of this instance.
    #[cfg(unix)]
    pub(crate) fn directories(&self) -> [&Path; 2] {
        [&self.lock, &self.socket].map(|path| directory::of(path))
    }

    /// Removes the socket and the lock that a dead instance has left behind. Returns whether it did: not if the
    /// instance lives.
    ///
    /// # Errors
    /// When they cannot be removed, or something else than a socket is in the socket's place.
    pub fn clean(&self) -> io::Result<bool> {
        let _lock = match self.take_lock() {
            Ok(lock) => lock,
            Err(InstanceLockError::Taken) => return Ok(false),
            Err(InstanceLockError::Unusable { source, .. }) => return Err(source),
        };
        self.remove_leftovers()?;
        Ok(true)
    }

    /// Removes the socket that a dead instance has left behind, wherever it is. Only for the holder of the lock.
    #[cfg(unix)]
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        if let Ok(target) = fs::read_link(self.entrance()) {
            // The link may lead to a file of another program by now.
            let _ = remove_leftover_socket(&target);
            fs::remove_file(self.entrance())?;
        }
        remove_leftover_socket(self.entrance())?;
        remove_leftover_socket(&self.socket)
    }

    /// A pipe disappears with its process.
    #[cfg(windows)]
    pub(crate) fn remove_leftovers(&self) -> io::Result<()> {
        Ok(())
    }

    /// Makes the directories for this user alone, or checks that they are private.
    #[cfg(unix)]
    pub(crate) fn make_directories(&self) -> io::Result<()> {
        self.directories().into_iter().try_for_each(directory::make_private)
    }

    /// Makes the link to the socket, if one is needed. It is removed when the returned value is dropped.
    #[cfg(unix)]
    pub(crate) fn lead_to_socket(&self) -> io::Result<Option<Link>> {
        self.link.clone().map(|link| Link::make(link, self.socket.clone())).transpose()
    }

    /// The path for clients, which is checked not to be too long for a socket.
    pub(crate) fn client_path(&self) -> io::Result<&Path> {
        fit(self.entrance())
    }

    /// The socket's path as the socket library needs it.
    pub(crate) fn socket_name(&self) -> io::Result<Name<'_>> {
        fit(&self.socket)?.to_fs_name::<GenericFilePath>()
    }
}

/// Checks that a path is not too long for a socket.
fn fit(path: &Path) -> io::Result<&Path> {
    #[cfg(unix)]
    {
        let length = path.as_os_str().len();
        if length > MAX_SOCKET_PATH {
            return Err(io::Error::new(
                ErrorKind::InvalidInput,
                format!("the path has {length} bytes, and a socket's path at most {MAX_SOCKET_PATH}"),
            ));
        }
    }
    Ok(path)
}

/// Removes a socket that no process has open any more, if there is one.
///
/// # Errors
/// When it is no socket ([`ErrorKind::AlreadyExists`]), or a process has it ([`ErrorKind::AddrInUse`]).
#[cfg(unix)]
pub(crate) fn remove_leftover_socket(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::new(ErrorKind::AlreadyExists, "there is a file that is no socket"));
        }
        Ok(_) => {}
    }
    // A socket of another type cannot connect to a listening one, so that server notices nothing, and a full queue does
    // not block. The error still tells the cases apart.
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Err(error),
        Ok(()) | Err(_) => Err(io::Error::new(ErrorKind::AddrInUse, "another program has the socket there")),
    }
}

/// A link to the admin socket, beside the lock.
#[cfg(unix)]
#[derive(Debug)]
pub(crate) struct Link {
    path: PathBuf,
    target: PathBuf,
}

#[cfg(unix)]
impl Link {
    fn make(path: PathBuf, target: PathBuf) -> io::Result<Link> {
        let mut new = path.clone().into_os_string();
        new.push(".new");
        let _ = fs::remove_file(&new);
        std::os::unix::fs::symlink(&target, &new)?;
        fs::rename(&new, &path)?;
        Ok(Link { path, target })
    }

    pub(crate) fn is_in_place(&self) -> bool {
        fs::read_link(&self.path).is_ok_and(|target| target == self.target)
    }
}

#[cfg(unix)]
impl Drop for Link {
    fn drop(&mut self) {
        if self.is_in_place() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// The names of all instances of this user, running or not: each has left a socket. Sorted.
///
/// # Errors
/// When the directory cannot be read. That it does not exist is no error.
pub fn list() -> io::Result<Vec<InstanceName>> {
    let directory = directory::locks().map_err(io::Error::other)?;
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            let message = format!("cannot list {}: {}", directory.display(), Reason(&error));
            return Err(io::Error::new(error.kind(), message));
        }
    };
    let mut names: Vec<InstanceName> = entries
        .filter_map(|entry| {
            let file = entry.ok()?.file_name();
            let file = file.to_str()?;
            // A named pipe is in none of our directories, but its lock is.
            file.strip_suffix(if cfg!(windows) { ".lock" } else { ".sock" })?.parse().ok()
        })
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_socket_path_that_is_too_long_says_how_long_it_may_be() {
        let paths = InstancePaths::at(Path::new(&format!("/{}.sock", "x".repeat(120)))).unwrap();
        assert!(paths.socket_name().unwrap_err().to_string().contains("at most 107"));
    }
}
