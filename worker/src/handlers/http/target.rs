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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    fn path(target: &str) -> Result<(String, bool), Status> {
        let target = Target::parse(target)?;
        Ok((String::from_utf8_lossy(&target.path).into_owned(), target.folder))
    }

    #[test]
    fn a_path_is_decoded_and_its_empty_parts_and_dots_are_taken_out() {
        for (target, wanted, folder) in [
            ("/", "", true),
            ("/a/b.html", "a/b.html", false),
            ("/a/", "a", true),
            ("//a///b", "a/b", false),
            ("/./a/./b/../c", "a/c", false),
            ("/a/..", "", false),
            ("/a/../", "", true),
            ("/%61%2Fb%20c", "a/b c", false),
            ("/100%", "100%", false),
            ("/a?b=/../..", "a", false),
            ("/a#b?c", "a", false),
            ("http://host:80/a/b", "a/b", false),
            ("HTTPS://host", "", true),
            ("/...", "...", false),
        ] {
            assert_eq!(path(target), Ok((wanted.to_owned(), folder)), "{target}");
        }
    }

    #[test]
    fn a_path_that_leads_outside_does_not_exist() {
        for target in ["/..", "/../a", "/a/../../b", "/%2e%2e/a", "/%2E./a", "/..%2fa", "http://host/../a"] {
            assert_eq!(path(target), Err(Status::NotFound), "{target}");
        }
    }

    #[test]
    fn a_target_without_a_path_or_with_nul_is_a_bad_request() {
        for target in ["*", "a", "", "host:80", "ftp://host/a", "/a%00b", "\\a"] {
            assert_eq!(path(target), Err(Status::BadRequest), "{target}");
        }
    }

    #[test]
    fn a_folder_s_url_stays_on_this_host_and_keeps_the_query() {
        for (target, url) in [
            ("//evil.example", "/evil.example/"),
            ("/\\evil.example", "/%5Cevil.example/"),
            ("/%2F/evil.example", "/evil.example/"),
            ("/a%20b?c=d&e", "/a%20b/?c=d&e"),
            ("/a%0d%0ab", "/a%0D%0Ab/"),
            ("/a/..", "/"),
        ] {
            if cfg!(windows) && target.contains('\\') {
                continue;
            }
            assert_eq!(Target::parse(target).unwrap().folder_url(), url, "{target}");
        }
    }

    #[test]
    #[cfg(windows)]
    fn a_part_that_means_more_to_windows_than_a_name_does_not_exist() {
        for target in ["/C:/Windows", "/a\\..\\..\\b", "/a:stream"] {
            assert_eq!(path(target), Err(Status::NotFound), "{target}");
        }
    }

    proptest! {
        #[test]
        fn no_path_escapes(target in "/(\\.|/|%2e|%2F|\\\\|a|\\PC){0,40}") {
            if let Ok(target) = Target::parse(&target) {
                let parts: Vec<_> = target.path.split(|&byte| byte == b'/').collect();
                prop_assert!(!parts.iter().any(|part| matches!(*part, b"." | b"..")));
                prop_assert!(target.path.is_empty() || !parts.contains(&b"".as_slice()));
                prop_assert!(target.folder_url().starts_with('/') && !target.folder_url().starts_with("//"));
            }
        }
    }
}
