//! The media type of a file.

use std::fmt;
use std::str;

/// Derived from the extension of the file's name. Text is sent as UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MediaType(&'static str);

impl MediaType {
    pub(super) fn of(path: &[u8]) -> MediaType {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let extension = name.iter().rposition(|&byte| byte == b'.').map(|dot| &name[dot + 1..]);
        let extension = extension.and_then(|extension| str::from_utf8(extension).ok()).unwrap_or_default();
        MediaType(mime_guess::from_ext(extension).first_raw().unwrap_or("application/octet-stream"))
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.0)?;
        if self.0.starts_with("text/") { formatter.write_str("; charset=utf-8") } else { Ok(()) }
    }
}
