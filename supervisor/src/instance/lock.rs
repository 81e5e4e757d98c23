//! The lock that reserves a name, or the path of a socket, for one instance.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::{self, make_private};

/// Why something cannot be claimed.
#[derive(Debug)]
pub(crate) enum InstanceLockError {
    /// It is taken by a living instance.
    Taken,
    /// The directory, or something in it, cannot be used.
    Unusable { path: PathBuf, source: io::Error },
}

/// The name of an instance, or the path of a socket, held as long as this lives.
#[derive(Debug)]
pub(crate) struct InstanceLock {
    /// None: it is about to be removed.
    lock: Option<File>,
    path: PathBuf,
}

impl InstanceLock {
    /// Locks a file in a directory that only this user may enter, and makes the directory if it does not exist.
    pub(crate) fn in_private(path: PathBuf) -> Result<InstanceLock, InstanceLockError> {
        let directory = directory::of(&path);
        make_private(directory).map_err(|source| InstanceLockError::Unusable { path: directory.to_owned(), source })?;
        InstanceLock::of_file(path)
    }

    /// Locks a file for this process. The file is created if it does not exist, and removed at the end.
    pub(crate) fn of_file(path: PathBuf) -> Result<InstanceLock, InstanceLockError> {
        loop {
            let unusable = |source| InstanceLockError::Unusable { path: path.clone(), source };
            let lock = open_lock(&path).map_err(unusable)?;
            match lock.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Err(InstanceLockError::Taken),
                Err(TryLockError::Error(error)) => return Err(unusable(error)),
            }
            // Between opening and locking, the last holder may have removed the file: then this lock protects nothing.
            if is_same_file(&lock, &path) {
                // The file stays empty: removing a file waits until its data has been written to disk, and that would
                // delay a stop.
                return Ok(InstanceLock { lock: Some(lock), path });
            }
        }
    }

    /// Whether the lock is still where others look for it.
    #[cfg(target_os = "linux")]
    pub(crate) fn holds(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| is_same_file(lock, &self.path))
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // Removed while the lock is held, so that only our own lock can be removed.
        #[cfg(unix)]
        let is_own = self.lock.as_ref().is_some_and(|lock| is_same_file(lock, &self.path));
        // Windows removes no open file, be it ours or that of the next holder.
        #[cfg(windows)]
        let is_own = self.lock.take().is_some();
        if is_own {
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
        // A link would never be the locked file itself.
        options.mode(0o600).custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
    }
    #[cfg(windows)]
    {
        use std::os::windows::fs::OpenOptionsExt;
        // Others may read and write, but neither remove nor rename it: `FILE_SHARE_READ | FILE_SHARE_WRITE`.
        options.share_mode(1 | 2);
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::env;
    #[cfg(unix)]
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn directory(test: &str) -> PathBuf {
        let directory = env::temp_dir().join(format!("mastercontrol-test-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        directory
    }

    #[test]
    fn a_place_is_claimed_once_and_free_again_afterwards() {
        let directory = directory("claim");
        let path = directory.join("x.lock");
        let lock = InstanceLock::in_private(path.clone()).unwrap();
        assert!(matches!(InstanceLock::in_private(path.clone()), Err(InstanceLockError::Taken)));
        drop(lock);
        assert!(!path.exists(), "the lock file was left behind");
        drop(InstanceLock::in_private(path.clone()).unwrap());
        fs::remove_dir_all(&directory).unwrap();
    }

    #[cfg(windows)]
    #[test]
    fn a_lock_is_not_removed_when_the_next_one_has_opened_it() {
        let directory = directory("next");
        fs::create_dir(&directory).unwrap();
        let path = directory.join("x.lock");
        let lock = InstanceLock::of_file(path.clone()).unwrap();
        let next = open_lock(&path).unwrap();
        drop(lock);
        next.try_lock().unwrap();
        let third = InstanceLock::of_file(path.clone());
        assert!(matches!(third, Err(InstanceLockError::Taken)), "{third:?}");
        drop(next);
        assert!(path.exists(), "it was removed");
        drop(InstanceLock::of_file(path).unwrap());
        fs::remove_dir(&directory).unwrap();
    }

    #[cfg(unix)]
    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let directory = directory("open");
        fs::create_dir(&directory).unwrap();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let path = directory.join("x.lock");
        match InstanceLock::in_private(path.clone()) {
            Err(InstanceLockError::Unusable { source, .. }) => assert!(source.to_string().contains("mode 755")),
            other => panic!("{other:?}"),
        }
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_lock_has_no_content_that_would_have_to_be_written_to_a_disk() {
        let directory = directory("empty");
        let path = directory.join("x.lock");
        let lock = InstanceLock::in_private(path.clone()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        drop(lock);
        fs::remove_dir_all(&directory).unwrap();
    }
}
