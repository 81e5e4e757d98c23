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
    match (own(), runtime()) {
        (None, Some(runtime)) => return Ok(runtime.join("mastercontrol")),
        (None, None) if !user.is_root() => {
            let directory = temporary().join(format!("mastercontrol-{user}"));
            // The environment of another user, or one of long ago, may name a directory that is of no use here.
            if can_be_private(&directory) {
                return Ok(directory);
            }
        }
        _ => {}
    }
    locks()
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
    use std::os::unix::fs::DirBuilderExt;
    if let Some(owner) = foreign_owner(directory) {
        let why = format!(
            "root would make it in a directory of user {owner}, and that user could not use it; make it with \
             `mkdir -m 700`, or unset {OWN}"
        );
        return Err(io::Error::new(ErrorKind::PermissionDenied, why));
    }
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => check_private(directory),
        made => made,
    }
}

/// The other user in whose directory root would make this one. `sudo -E` leaves that user's variable in the environment.
#[cfg(unix)]
fn foreign_owner(directory: &Path) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    if !nix::unistd::geteuid().is_root() || own().as_deref() != Some(directory) || directory.exists() {
        return None;
    }
    let owner = fs::metadata(of(directory)).ok()?.uid();
    (owner != 0).then_some(owner)
}

/// Whether the directory is private, or can be made.
#[cfg(unix)]
fn can_be_private(directory: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    match fs::symlink_metadata(directory) {
        Ok(_) => check_private(directory).is_ok(),
        Err(_) => accessat(CWD, of(directory), Access::WRITE_OK | Access::EXEC_OK, AtFlags::EACCESS).is_ok(),
    }
}

/// Checks that a directory is for this user alone.
#[cfg(unix)]
fn check_private(directory: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
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
