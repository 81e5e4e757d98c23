//! The directories of locks and admin sockets.

#[cfg(unix)]
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

#[cfg(windows)]
use crate::text::Reason;

/// The variable for a directory of both locks and sockets, which replaces all others.
#[cfg(unix)]
const OWN: &str = "MASTERCONTROL_DIR";

/// The directory of this user's locks, where its instances are looked for.
#[cfg(unix)]
pub(super) fn locks() -> Result<PathBuf, String> {
    let user = nix::unistd::geteuid();
    Ok(match own() {
        Some(directory) => directory,
        None if user.is_root() => "/run/mastercontrol".into(),
        // Not below TMPDIR, which may differ between a login shell and cron.
        None => format!("/tmp/mastercontrol-{user}").into(),
    })
}

/// The directory in which the admin sockets of this process's instances are created.
#[cfg(unix)]
pub(super) fn sockets() -> Result<PathBuf, String> {
    let user = nix::unistd::geteuid();
    Ok(match (own(), runtime()) {
        (Some(directory), _) => directory,
        (None, Some(runtime)) => runtime.join("mastercontrol"),
        (None, None) if user.is_root() => "/run/mastercontrol".into(),
        (None, None) => temporary().join(format!("mastercontrol-{user}")),
    })
}

/// The directory that a path is in: the current one for a name alone.
pub(super) fn of(path: &Path) -> &Path {
    path.parent().filter(|directory| !directory.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// The directory for temporary files. A `TMPDIR` that is empty or not an absolute path counts as unset: files below it
/// would not be found from another directory.
#[cfg(unix)]
pub(crate) fn temporary() -> PathBuf {
    Some(env::temp_dir()).filter(|directory| directory.is_absolute()).unwrap_or_else(|| "/tmp".into())
}

#[cfg(unix)]
fn own() -> Option<PathBuf> {
    env::var_os(OWN).filter(|directory| !directory.is_empty()).map(PathBuf::from)
}

/// The directory that the system has made for this user's sockets. Another user's directory, which `sudo -E` leaves in
/// the environment, does not count; nor, by the XDG base directory specification, does a path that is not absolute.
#[cfg(unix)]
fn runtime() -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let directory = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|directory| directory.is_absolute())?;
    let metadata = fs::metadata(&directory).ok()?;
    (metadata.is_dir() && metadata.uid() == nix::unistd::geteuid().as_raw()).then_some(directory)
}

#[cfg(windows)]
pub(super) fn locks() -> Result<PathBuf, String> {
    match env::var_os("LOCALAPPDATA") {
        Some(directory) => Ok(PathBuf::from(directory).join("mastercontrol")),
        None => Err("LOCALAPPDATA is not set, so there is no directory for the lock".into()),
    }
}

/// The log file of the service with this name. Its directory is created if it does not exist.
#[cfg(windows)]
pub(crate) fn log_file(service: &str) -> Result<PathBuf, String> {
    let directory = locks()?;
    make_private(&directory).map_err(|error| format!("cannot make {}: {}", directory.display(), Reason(&error)))?;
    Ok(directory.join(format!("{service}.log")))
}

/// Makes the directory for this user alone, or checks that it is private.
#[cfg(unix)]
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
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
pub(super) fn make_private(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)
}
