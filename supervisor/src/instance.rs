//! Where an instance is found: its name, its directory, its admin socket and the lock that makes the name its own.
//!
//! On Unix the directory is `$XDG_RUNTIME_DIR/mastercontrol`; without that variable `/run/mastercontrol` for root, and
//! for others a directory of their own under the temporary directory. In it, `NAME.sock` is the admin socket and
//! `NAME.lock` is held as long as the instance lives. On Windows the admin socket is the named pipe
//! `\\.\pipe\mastercontrol-NAME`, and the lock is in the user's local application data.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use interprocess::local_socket::{GenericFilePath, Name, ToFsName};

use crate::text::Reason;

/// The longest path of a Unix socket, in bytes: `sun_path` of unix(7), less the final NUL.
#[cfg(unix)]
pub(crate) const MAX_SOCKET_PATH: usize = 107;

/// The name of an instance: 1 to 64 of the characters `A-Z a-z 0-9 . _ -`, the first not a dot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct InstanceName(String);

impl InstanceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// `server`.
impl Default for InstanceName {
    fn default() -> InstanceName {
        InstanceName("server".into())
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl std::str::FromStr for InstanceName {
    type Err = String;

    fn from_str(name: &str) -> Result<InstanceName, String> {
        let allowed = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
        if !(1..=64).contains(&name.len()) || name.starts_with('.') || !name.chars().all(allowed) {
            Err("a name has 1 to 64 letters, digits, dots, underscores and hyphens, and begins with no dot".into())
        } else if cfg!(windows) && is_device(name) {
            Err(format!("on Windows {name} is a device, so no file can have that name; choose another one"))
        } else {
            Ok(InstanceName(name.to_owned()))
        }
    }
}

/// Whether Windows takes a file with this name for a device, as it does whatever follows behind a dot.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    let numbered = stem.strip_prefix("com").or_else(|| stem.strip_prefix("lpt"));
    matches!(stem.as_str(), "con" | "prn" | "aux" | "nul")
        || numbered.is_some_and(|number| number.len() == 1 && number.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Where an instance's admin socket and lock are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstancePaths {
    /// The admin socket's path, or the named pipe's.
    pub socket: PathBuf,
    pub(crate) lock: PathBuf,
}

impl InstancePaths {
    /// The place of the instance with this name.
    ///
    /// # Errors
    /// A message for people when the system names no directory for it.
    pub fn of(name: &InstanceName) -> Result<InstancePaths, String> {
        let directory = directory()?;
        Ok(InstancePaths { socket: socket_path(&directory, name), lock: directory.join(format!("{name}.lock")) })
    }

    /// The place of an instance whose admin socket has this path. Its lock is beside it, with `.lock` behind its name;
    /// on Windows, where a pipe has nothing beside it, in the usual directory.
    ///
    /// # Errors
    /// A message for people when the path has no file name or its directory cannot be found.
    pub fn at(socket: &Path) -> Result<InstancePaths, String> {
        let Some(name) = socket.file_name() else {
            return Err(format!("{} is no path of a socket", socket.display()));
        };
        if cfg!(windows) && socket.to_fs_name::<GenericFilePath>().is_err() {
            return Err(format!(r"{} is no path of a pipe: say \\.\pipe\web", socket.display()));
        }
        let directory = if cfg!(windows) {
            directory()?
        } else {
            socket.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_owned()
        };
        // On Windows it is among the locks of instances with names, and no name begins like this.
        let mut lock = OsString::from(if cfg!(windows) { "@" } else { "" });
        lock.push(name);
        lock.push(".lock");
        Ok(InstancePaths { socket: socket.to_owned(), lock: directory.join(lock) })
    }

    /// Removes what a dead instance has left there: its socket and its lock. Returns whether it did: not if one lives.
    ///
    /// # Errors
    /// When they cannot be removed, or something else than a socket is in the socket's place.
    pub fn clean(&self) -> io::Result<bool> {
        let _claim = match InstanceLock::new(self) {
            Ok(lock) => lock,
            Err(InstanceLockError::Taken) => return Ok(false),
            Err(InstanceLockError::Unusable { source, .. }) => return Err(source),
        };
        self.remove_socket()?;
        Ok(true)
    }

    /// Removes the socket that an instance that is gone has left. For whoever has claimed the place.
    #[cfg(unix)]
    pub(crate) fn remove_socket(&self) -> io::Result<()> {
        use std::os::unix::fs::FileTypeExt;
        match fs::symlink_metadata(&self.socket) {
            Ok(metadata) if metadata.file_type().is_socket() => fs::remove_file(&self.socket),
            Ok(_) => Err(io::Error::new(ErrorKind::AlreadyExists, "something else than a socket is there")),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A pipe is gone with whoever had it.
    #[cfg(windows)]
    pub(crate) fn remove_socket(&self) -> io::Result<()> {
        Ok(())
    }

    /// The socket's path as the socket library wants it.
    pub(crate) fn socket_name(&self) -> io::Result<Name<'_>> {
        self.socket_path()?.to_fs_name::<GenericFilePath>()
    }

    /// The socket's path, which is not too long for one.
    pub(crate) fn socket_path(&self) -> io::Result<&Path> {
        #[cfg(unix)]
        {
            let length = self.socket.as_os_str().len();
            if length > MAX_SOCKET_PATH {
                return Err(io::Error::new(
                    ErrorKind::InvalidInput,
                    format!("the path has {length} bytes, and a socket's path at most {MAX_SOCKET_PATH}"),
                ));
            }
        }
        Ok(&self.socket)
    }
}

/// The names of all instances that this user has, or had: each left a socket. In order.
///
/// # Errors
/// When the directory cannot be read. That it does not exist is no error.
pub fn list() -> io::Result<Vec<InstanceName>> {
    let directory = directory().map_err(io::Error::other)?;
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
            // A named pipe is in no directory of ours, but its lock is.
            file.strip_suffix(if cfg!(windows) { ".lock" } else { ".sock" })?.parse().ok()
        })
        .collect();
    names.sort();
    names.dedup();
    Ok(names)
}

#[cfg(unix)]
fn directory() -> Result<PathBuf, String> {
    // By the XDG base directory specification a path that is not absolute is ignored.
    if let Some(directory) =
        env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|directory| directory.is_absolute())
    {
        return Ok(directory.join("mastercontrol"));
    }
    let user = nix::unistd::geteuid();
    if user.is_root() {
        return Ok("/run/mastercontrol".into());
    }
    Ok(env::temp_dir().join(format!("mastercontrol-{user}")))
}

#[cfg(windows)]
fn directory() -> Result<PathBuf, String> {
    match env::var_os("LOCALAPPDATA") {
        Some(directory) => Ok(PathBuf::from(directory).join("mastercontrol")),
        None => Err("LOCALAPPDATA is not set, so there is no directory for the lock".into()),
    }
}

/// The log file of the service with this name. Its directory is made if there is none.
#[cfg(windows)]
pub(crate) fn log_file(service: &str) -> Result<PathBuf, String> {
    let directory = directory()?;
    make_private_directory(&directory)
        .map_err(|error| format!("cannot make {}: {}", directory.display(), Reason(&error)))?;
    Ok(directory.join(format!("{service}.log")))
}

#[cfg(unix)]
fn socket_path(directory: &Path, name: &InstanceName) -> PathBuf {
    directory.join(format!("{name}.sock"))
}

#[cfg(windows)]
fn socket_path(_directory: &Path, name: &InstanceName) -> PathBuf {
    format!(r"\\.\pipe\mastercontrol-{name}").into()
}

/// Why something cannot be claimed.
#[derive(Debug)]
pub(crate) enum InstanceLockError {
    /// It is taken by an instance that lives.
    Taken,
    /// The directory, or something in it, cannot be used.
    Unusable { path: PathBuf, source: io::Error },
}

/// The name of an instance, or the path of a socket, held as long as this lives.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    lock: File,
    path: PathBuf,
}

impl InstanceLock {
    /// Takes the place: makes its directory if there is none, and locks it for this process.
    pub(crate) fn new(paths: &InstancePaths) -> Result<InstanceLock, InstanceLockError> {
        let directory = paths.lock.parent().unwrap_or(Path::new("."));
        make_private_directory(directory)
            .map_err(|source| InstanceLockError::Unusable { path: directory.to_owned(), source })?;
        InstanceLock::of_file(paths.lock.clone())
    }

    /// Locks a file for this process. It is made if it is not there, and removed at the end.
    pub(crate) fn of_file(path: PathBuf) -> Result<InstanceLock, InstanceLockError> {
        loop {
            let unusable = |source| InstanceLockError::Unusable { path: path.clone(), source };
            let lock = open_lock(&path).map_err(unusable)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(InstanceLockError::Taken),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
            // Between opening and locking, the last holder may have removed the file: then this lock holds nothing.
            if is_same_file(&lock, &path) {
                // It stays empty: whoever removes a file that is just being written to a disk waits for that, and a
                // stop would take as long.
                return Ok(InstanceLock { lock, path });
            }
        }
    }

    /// Whether the lock is still where others look for it.
    #[cfg(target_os = "linux")]
    pub(crate) fn holds(&self) -> bool {
        is_same_file(&self.lock, &self.path)
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // Removed while it is held, so that nobody's lock but our own can be removed.
        if is_same_file(&self.lock, &self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        // A link would never be the file that was locked.
        options.mode(0o600).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
    }
    options.open(path)
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::symlink_metadata(path)) {
        (Ok(file), Ok(path)) => (file.dev(), file.ino()) == (path.dev(), path.ino()),
        _ => false,
    }
}

/// An open file cannot be replaced by another on Windows.
#[cfg(windows)]
fn is_same_file(_file: &File, _path: &Path) -> bool {
    true
}

/// Makes the directory for this user alone, or checks that it is one.
#[cfg(unix)]
fn make_private_directory(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, MetadataExt};
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let metadata = fs::symlink_metadata(directory)?;
    let refuse = |why: String| Err(io::Error::new(ErrorKind::PermissionDenied, why));
    let user = nix::unistd::geteuid();
    if !metadata.is_dir() {
        return refuse("it is not a directory".into());
    }
    if metadata.uid() != user.as_raw() {
        return refuse(format!("it belongs to user {}, not to user {user}", metadata.uid()));
    }
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o777;
        return refuse(format!("others may enter it (mode {mode:o}): it has to have mode 700"));
    }
    Ok(())
}

#[cfg(windows)]
fn make_private_directory(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn directory(test: &str) -> PathBuf {
        let directory = env::temp_dir().join(format!("mastercontrol-test-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn a_place_is_claimed_once_and_free_again_afterwards() {
        let directory = directory("claim");
        let paths = InstancePaths::at(&directory.join("x.sock")).unwrap();
        let lock = InstanceLock::new(&paths).unwrap();
        assert!(matches!(InstanceLock::new(&paths), Err(InstanceLockError::Taken)));
        drop(lock);
        assert!(!paths.lock.exists(), "the lock file was left behind");
        drop(InstanceLock::new(&paths).unwrap());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let directory = directory("open");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let paths = InstancePaths::at(&directory.join("x.sock")).unwrap();
        match InstanceLock::new(&paths) {
            Err(InstanceLockError::Unusable { source, .. }) => assert!(source.to_string().contains("mode 755")),
            other => panic!("{other:?}"),
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_lock_has_no_content_that_would_have_to_be_written_to_a_disk() {
        let directory = directory("empty");
        let paths = InstancePaths::at(&directory.join("x.sock")).unwrap();
        let lock = InstanceLock::new(&paths).unwrap();
        assert_eq!(fs::metadata(&paths.lock).unwrap().len(), 0);
        drop(lock);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_socket_path_that_is_too_long_says_how_long_it_may_be() {
        let paths = InstancePaths::at(Path::new(&format!("/{}.sock", "x".repeat(120)))).unwrap();
        assert!(paths.socket_name().unwrap_err().to_string().contains("at most 107"));
    }

    #[test]
    fn a_name_cannot_leave_its_directory() {
        for name in ["../x", "", ".hidden", "a/b", "a b", &"x".repeat(65)] {
            assert!(name.parse::<InstanceName>().is_err(), "{name} was taken");
        }
        assert_eq!("web-1.test".parse::<InstanceName>().unwrap().as_str(), "web-1.test");
    }

    #[test]
    fn the_name_of_a_device_of_windows_is_none_of_an_instance_there() {
        for name in ["nul", "CON", "aux.web", "prn", "com1", "LPT9.x"] {
            assert_eq!(name.parse::<InstanceName>().is_err(), cfg!(windows), "{name}");
        }
        for name in ["null", "com", "com10", "comx", "web.nul", "console"] {
            name.parse::<InstanceName>().unwrap();
        }
    }
}
