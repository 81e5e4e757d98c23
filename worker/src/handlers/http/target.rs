//! From a request target to a path below the served directory.

use std::borrow::Cow;
use std::path::Path;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode, percent_encode};

use super::authority::{self, has_valid_escapes};
use super::status::Status;

/// What is written as `%XX` in a path: everything but the characters that have no special meaning anywhere in a URI.
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a request asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'request> {
    /// Decoded, without `.`, `..` and empty parts: `/directory/file`, `/directory/`, `/`. Empty for the served
    /// directory itself if it was named without a slash.
    path: Cow<'request, [u8]>,
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
        let (path, rest) = target.split_at(target.find(['?', '#']).unwrap_or(target.len()));
        let is_normal = is_normal(path.as_bytes());
        if is_normal && rest.is_empty() {
            return Ok(Target { path: path.as_bytes().into(), query: None });
        }
        let query = rest.strip_prefix('?').map(|query| query.split('#').next().unwrap_or_default());
        if !has_valid_escapes(target.as_bytes()) {
            return Err(Status::BadRequest);
        }
        if is_normal {
            return Ok(Target { path: path.as_bytes().into(), query });
        }
        let decoded: Cow<'_, [u8]> = percent_decode(path.as_bytes()).into();
        if decoded.contains(&0) {
            return Err(Status::BadRequest);
        }
        let path = normalize(&decoded).ok_or(Status::NotFound)?;
        Ok(Target { path: path.into(), query })
    }

    /// Whether the request names a directory: its path ends with a slash.
    pub(super) fn is_directory(&self) -> bool {
        self.path.ends_with(b"/")
    }

    /// The whole path, with its slashes. Targets with the same path ask for the same thing.
    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// The path without its leading and trailing slash. Empty for the served directory itself.
    pub(super) fn relative(&self) -> &[u8] {
        let path = self.path.strip_prefix(b"/").unwrap_or_default();
        path.strip_suffix(b"/").unwrap_or(path)
    }

    /// The path of a file in this directory, without a leading slash.
    pub(super) fn below(&self, name: &str) -> Vec<u8> {
        let directory = self.path.strip_prefix(b"/").unwrap_or_default();
        [directory, name.as_bytes()].concat()
    }

    /// The directory's URL as it should have been requested. It begins with exactly one slash: with two, the rest would
    /// name another host.
    pub(super) fn directory_url(&self) -> String {
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
    std::str::from_utf8(bytes).ok().map(Path::new)
}

/// Strips `http://host` if the target begins with it. The rest begins with a slash, or has no path.
fn without_origin(target: &str) -> Option<&str> {
    if target.starts_with('/') {
        return Some(target);
    }
    let (scheme, rest) = target.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return None;
    }
    let (authority, rest) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    authority::is_valid(authority.as_bytes()).then_some(rest)
}

/// Whether [`normalize`] would change nothing. A name that begins with a dot counts as changed.
fn is_normal(path: &[u8]) -> bool {
    path.first() == Some(&b'/')
        && !path.iter().any(|&byte| byte == b'%' || byte == b'\\' || byte == b':')
        && !path.windows(2).any(|pair| pair == b"//" || pair == b"/.")
}

/// Removes `.`, `..` and empty parts. None: it leads outside, or no file can have such a name.
fn normalize(decoded: &[u8]) -> Option<Vec<u8>> {
    let mut path = Vec::with_capacity(decoded.len() + 1);
    let mut is_directory = false;
    for part in decoded.split(|&byte| byte == b'/') {
        is_directory = part.is_empty();
        match part {
            b"" | b"." => {}
            b".." => path.truncate(path.iter().rposition(|&byte| byte == b'/')?),
            name if has_meaning(name) => return None,
            name => {
                path.push(b'/');
                path.extend_from_slice(name);
            }
        }
    }
    if is_directory {
        path.push(b'/');
    }
    Some(path)
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
        Ok((String::from_utf8_lossy(target.relative()).into_owned(), target.is_directory()))
    }

    #[test]
    fn a_path_is_decoded_and_its_empty_parts_and_dots_are_taken_out() {
        for (target, wanted, is_directory) in [
            ("/", "", true),
            ("/a/b.html", "a/b.html", false),
            ("/a/", "a", true),
            ("//a///b", "a/b", false),
            ("/./a/./b/../c", "a/c", false),
            ("/a/..", "", false),
            ("/a/../", "", true),
            ("/%61%2Fb%20c", "a/b c", false),
            ("/100%25", "100%", false),
            ("/.hidden/..a", ".hidden/..a", false),
            ("/a?b=/../..", "a", false),
            ("/a#b?c", "a", false),
            ("http://host:80/a/b", "a/b", false),
            ("HTTPS://host", "", true),
            ("http://host/a?b=/c", "a", false),
            ("http://[::1]:80/a", "a", false),
            ("/...", "...", false),
        ] {
            assert_eq!(path(target), Ok((wanted.to_owned(), is_directory)), "{target}");
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
        for target in ["*", "a", "", "host:80", "ftp://host/a", "/a%00b", "\\a", "?a", "#a"] {
            assert_eq!(path(target), Err(Status::BadRequest), "{target}");
        }
    }

    #[test]
    fn an_escape_that_is_none_is_a_bad_request() {
        for target in ["/%", "/100%", "/%z", "/%zz", "/%2", "/%2/a", "/a?b=%", "/a?%zz", "http://host/%zz", "/%%20"] {
            assert_eq!(path(target), Err(Status::BadRequest), "{target}");
        }
    }

    #[test]
    fn a_target_with_an_invalid_host_is_a_bad_request() {
        for host in ["", ":80", "user@host", "user:password@host", "a,b", "host:b", "[::1", "%zz"] {
            for rest in ["", "/a", "?a"] {
                let target = format!("http://{host}{rest}");
                assert_eq!(path(&target), Err(Status::BadRequest), "{target}");
            }
        }
    }

    #[test]
    fn the_url_of_a_directory_stays_on_this_host_and_keeps_the_query() {
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
            assert_eq!(Target::parse(target).unwrap().directory_url(), url, "{target}");
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
                let parts: Vec<_> = target.relative().split(|&byte| byte == b'/').collect();
                prop_assert!(!parts.iter().any(|part| matches!(*part, b"." | b"..")));
                prop_assert!(target.relative().is_empty() || !parts.contains(&b"".as_slice()));
                if !target.path().is_empty() {
                    prop_assert_eq!(normalize(target.path()), Some(target.path().to_vec()));
                }
                prop_assert!(target.directory_url().starts_with('/') && !target.directory_url().starts_with("//"));
            }
        }
    }
}
