//! From a request target to a path below the folder.

use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::answer::Status;

/// What is written as `%XX` in a path: all but the characters that mean nothing anywhere in a URI.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'request> {
    /// Relative to the folder, without `.`, `..` and empty parts. Empty for the folder itself.
    pub(super) path: Vec<u8>,
    /// Whether the request names a folder: its path ends with a slash.
    pub(super) folder: bool,
    /// What follows the `?`.
    query: Option<&'request str>,
}

impl<'request> Target<'request> {
    /// Parses a request target in its usual form (`/path?query`) or with scheme and host before that.
    ///
    /// # Errors
    /// The status to answer with.
    pub(super) fn parse(target: &'request str) -> Result<Target<'request>, Status> {
        let target = without_origin(target).ok_or(Status::BadRequest)?;
        let target = target.split('#').next().unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (target, None),
        };
        let decoded: std::borrow::Cow<'_, [u8]> = percent_decode(path.as_bytes()).into();
        if decoded.contains(&0) {
            return Err(Status::BadRequest);
        }
        let (path, folder) = normalize(&decoded).ok_or(Status::NotFound)?;
        Ok(Target { path, folder, query })
    }

    /// The same folder's URL as it should have been asked for. It begins with exactly one slash: with two, the rest
    /// would name another host.
    pub(super) fn folder_url(&self) -> String {
        let mut url = String::from("/");
        for part in self.path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            url.extend(escape(part));
            url.push('/');
        }
        if let Some(query) = self.query {
            url.push('?');
            url.push_str(query);
        }
        url
    }
}

/// One part of a path, percent-encoded.
pub(super) fn escape(part: &[u8]) -> impl Iterator<Item = &str> {
    percent_encode(part, ESCAPED)
}

/// Bytes as a path. None if no file can have such a name here.
#[cfg(unix)]
pub(super) fn as_path(bytes: &[u8]) -> Option<&Path> {
    use std::os::unix::ffi::OsStrExt;
    Some(Path::new(std::ffi::OsStr::from_bytes(bytes)))
}

/// Bytes as a path. None if no file can have such a name here.
#[cfg(not(unix))]
pub(super) fn as_path(bytes: &[u8]) -> Option<&Path> {
    str::from_utf8(bytes).ok().map(Path::new)
}

/// Leaves out `http://host` if the target begins so. What remains begins with a slash, or there is no path.
fn without_origin(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    Some(rest.find('/').map_or("/", |start| &rest[start..]))
}

/// Takes out `.`, `..` and empty parts, and says whether the path names a folder. None: it leads outside, or no file
/// can have such a name.
fn normalize(decoded: &[u8]) -> Option<(Vec<u8>, bool)> {
    let mut path = Vec::with_capacity(decoded.len() + super::files::INDEX_ROOM);
    let mut folder = false;
    for part in decoded.split(|&byte| byte == b'/') {
        folder = part.is_empty();
        match part {
            b"" | b"." => {}
            b".." if path.is_empty() => return None,
            b".." => path.truncate(path.iter().rposition(|&byte| byte == b'/').unwrap_or(0)),
            name if has_meaning(name) => return None,
            name => {
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
            }
        }
    }
    Some((path, folder))
}

/// Whether a part of a path means more to this system than the name of a file: another separator, a drive, a stream.
fn has_meaning(name: &[u8]) -> bool {
    cfg!(windows) && name.iter().any(|byte| matches!(byte, b'\\' | b':'))
}
