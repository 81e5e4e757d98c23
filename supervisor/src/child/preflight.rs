//! What can be known of a program before it is started.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use super::program::{CannotStart, NOT_RUN, Program};
use crate::text::Reason;

impl Program {
    /// Whether the directory is there in which it would start.
    ///
    /// # Errors
    /// If not, why.
    pub fn check_directory(&self) -> Result<(), CannotStart> {
        let Some(directory) = &self.directory else { return Ok(()) };
        let shown = directory.display();
        let message = match fs::metadata(directory) {
            Ok(metadata) if !metadata.is_dir() => format!("{shown} is not a directory"),
            Ok(_) if may_enter(directory) => return Ok(()),
            Ok(_) => format!("no permission to enter {shown}"),
            Err(error) if error.kind() == ErrorKind::NotFound => format!("there is no directory {shown}"),
            Err(error) => format!("cannot start in {shown}: {}", Reason(&error)),
        };
        Err(CannotStart { code: NOT_RUN, message })
    }
}

#[cfg(unix)]
fn may_enter(directory: &Path) -> bool {
    use rustix::fs::{Access, AtFlags, CWD, accessat};
    accessat(CWD, directory, Access::EXEC_OK, AtFlags::EACCESS).is_ok()
}

/// There is no such permission of its own.
#[cfg(windows)]
fn may_enter(_directory: &Path) -> bool {
    true
}
