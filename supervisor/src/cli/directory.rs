//! The directory at the start, by the path that the user means.

use std::env;
use std::path::{Path, PathBuf};

/// The working directory: `$PWD` if that leads there, else the path that the system reports. In `$PWD` a shell has the
/// path by which its user went there. If a symbolic link in that path is switched, it leads to another directory.
pub(super) fn of_the_start() -> PathBuf {
    let named = env::var_os("PWD").map(PathBuf::from).filter(|named| is_working_directory(named));
    // A directory that has been removed has no path. Then only the system knows which one is meant.
    named.or_else(|| env::current_dir().ok()).unwrap_or_default()
}

/// A path from this directory, without any `.` in it.
pub(super) fn join(directory: &Path, path: &Path) -> PathBuf {
    directory.join(path).components().collect()
}

#[cfg(unix)]
fn is_working_directory(path: &Path) -> bool {
    use std::fs::metadata;
    use std::os::unix::fs::MetadataExt;
    let same = |one: &Path, other: &Path| {
        let (one, other) = (metadata(one).ok()?, metadata(other).ok()?);
        Some((one.dev(), one.ino()) == (other.dev(), other.ino()))
    };
    path.is_absolute() && same(path, Path::new(".")).unwrap_or(false)
}

/// Only a shell from another system would set it, in a form of its own.
#[cfg(windows)]
fn is_working_directory(_path: &Path) -> bool {
    false
}
