//! The files of a process in proc(5).

use std::fmt::Display;
use std::fs;
use std::io;

/// Reads such a file: `stat`, for example. Names, arguments and paths need not be UTF-8; what is not is replaced.
///
/// # Errors
/// When the process has ended, or what else the system says.
pub(crate) fn read(pid: impl Display, name: &str) -> io::Result<String> {
    let bytes = fs::read(format!("/proc/{pid}/{name}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
