//! Which version of a file a client already has, or insists on.

use std::fs::Metadata;
use std::time::{Duration, UNIX_EPOCH};

use httpdate::HttpDate;

use super::date::{Now, http_date, second_of};
use super::request::Head;

/// One version of a file, told apart from others by its length, the time of its last change and its identity.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    pub(super) length: u64,
    /// Since 1970. None if it is unknown, or before that. Builds may set it to the same time for all files.
    modified: Option<Duration>,
    /// None if the system does not reveal it.
    pub(super) identity: Option<Identity>,
}

/// Which file it is, and in which state: each change of its content, its place or its permissions changes this.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    /// When its content or metadata was last changed, since 1970. No program can set that time.
    pub(super) changed: Duration,
}

impl Identity {
    #[cfg(unix)]
    pub(super) fn of(metadata: &Metadata) -> Option<Identity> {
        use std::os::unix::fs::MetadataExt;
        let seconds = u64::try_from(metadata.ctime()).ok()?;
        let nanoseconds = u32::try_from(metadata.ctime_nsec()).ok()?;
        Some(Identity {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: Duration::new(seconds, nanoseconds),
        })
    }

    /// Elsewhere std does not identify a file.
    #[cfg(not(unix))]
    pub(super) fn of(_: &Metadata) -> Option<Identity> {
        None
    }
}

/// The outcome of the conditions of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    NotModified,
    PreconditionFailed,
}

impl Version {
    pub(super) fn of(metadata: &Metadata) -> Version {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Version { length: metadata.len(), modified, identity: Identity::of(metadata) }
    }

    /// For the field `ETag`.
    pub(super) fn etag(&self) -> String {
        let (length, modified) = (self.length, self.modified.unwrap_or_default().as_nanos());
        match self.identity {
            Some(Identity { inode, changed, .. }) => {
                let (second, nanosecond) = (changed.as_secs(), changed.subsec_nanos());
                format!("\"{modified:x}-{length:x}-{inode:x}-{second:x}-{nanosecond:x}\"")
            }
            None => format!("\"{modified:x}-{length:x}\""),
        }
    }

    /// For the field `Last-Modified`, which counts in seconds, and is never later than the answer. None for times that
    /// it cannot express.
    pub(super) fn last_modified(&self, now: Now) -> Option<HttpDate> {
        http_date(self.second()?.min(now.second()))
    }

    fn second(&self) -> Option<u64> {
        self.modified.map(|modified| modified.as_secs())
    }

    /// The conditions in the order that RFC 9110 gives them, section 13.2.2.
    pub(super) fn judge(&self, head: &Head<'_, '_>) -> Verdict {
        let expected = match self.is_listed(head.values("if-match"), strongly) {
            None => self.is_newer_than(head.value("if-unmodified-since")) != Some(true),
            Some(listed) => listed,
        };
        let known = match self.is_listed(head.values("if-none-match"), weakly) {
            None => self.is_newer_than(head.value("if-modified-since")) == Some(false),
            Some(listed) => listed,
        };
        match (expected, known) {
            (false, _) => Verdict::PreconditionFailed,
            (true, true) => Verdict::NotModified,
            (true, false) => Verdict::Send,
        }
    }

    /// Whether a part may be sent: the client may want the whole file if it has changed.
    pub(super) fn allows_range(&self, head: &Head<'_, '_>, now: Now) -> bool {
        head.values("if-range").all(|condition| match condition {
            etag if etag.ends_with(b"\"") => strongly(etag, self.etag().as_bytes()),
            date => self.is_of(date, now),
        })
    }

    /// Whether a date names this version and no other, as far as a server can know: within that second the file may
    /// change once more. A client that has the date has compared it with the field `Date` of its copy (RFC 9110,
    /// section 8.8.2.2).
    fn is_of(&self, date: &[u8], now: Now) -> bool {
        second_of(date).is_some_and(|second| Some(second) == self.second() && second < now.second())
    }

    /// None if there is no such date to compare with.
    fn is_newer_than(&self, date: Option<&[u8]>) -> Option<bool> {
        Some(self.second()? > second_of(date?)?)
    }

    /// Whether one of the listed tags is this version's. None if there is no list.
    fn is_listed<'list>(
        &self,
        lists: impl Iterator<Item = &'list [u8]>,
        same: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Option<bool> {
        let mut lists = lists.peekable();
        lists.peek()?;
        let own = self.etag();
        // Our own tags contain no comma, so a list can be split at every comma.
        let mut tags = lists.flat_map(|list| list.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
        Some(tags.any(|tag| tag == b"*" || same(tag, own.as_bytes())))
    }
}

fn strongly(tag: &[u8], own: &[u8]) -> bool {
    tag == own
}

fn weakly(tag: &[u8], own: &[u8]) -> bool {
    tag.strip_prefix(b"W/").unwrap_or(tag) == own
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::mem::MaybeUninit;

    use super::*;
    use crate::handlers::http::request::{Fields, MAX_FIELDS};

    /// Changed on Sunday, 6 November 1994, half a second after 08:49:37.
    const VERSION: Version = Version {
        length: 16,
        modified: Some(Duration::from_millis(784_111_777_500)),
        identity: Some(Identity {
            device: 1,
            inode: 17,
            length: 16,
            modified: (784_111_777, 500_000_000),
            changed: Duration::new(32, 33),
        }),
    };
    const SECOND: u64 = 784_111_777;
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn with<T>(fields: &str, ask: impl FnOnce(&Head<'_, '_>) -> T) -> T {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let mut room: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        ask(&Head::parse(request.as_bytes(), &mut room).unwrap().unwrap())
    }

    fn judge(fields: &str) -> Verdict {
        with(fields, |head| VERSION.judge(head))
    }

    fn at(second: u64) -> Now {
        Now(Duration::from_secs(second))
    }

    #[test]
    fn a_version_is_named_by_time_and_length_and_by_its_identity_if_it_has_one() {
        let time_and_length = format!("{:x}-10", 784_111_777_500_000_000_u64);
        assert_eq!(VERSION.etag(), format!("\"{time_and_length}-11-20-21\""));
        assert_eq!(Version { identity: None, ..VERSION }.etag(), format!("\"{time_and_length}\""));
        assert_eq!(VERSION.last_modified(at(SECOND)).unwrap().to_string(), DATE);
    }

    #[test]
    fn a_client_that_has_this_version_is_not_sent_it_again() {
        let etag = VERSION.etag();
        for fields in [
            format!("If-None-Match: {etag}"),
            format!("If-None-Match: W/{etag}"),
            format!("If-None-Match: \"x\", {etag}"),
            format!("If-None-Match: \"x\"\r\nIf-None-Match: {etag}"),
            "If-None-Match: *".to_owned(),
            format!("If-Modified-Since: {DATE}"),
            format!("If-Modified-Since: {AFTER}"),
        ] {
            assert_eq!(judge(&fields), Verdict::NotModified, "{fields}");
        }
    }

    #[test]
    fn a_client_that_has_another_version_is_sent_this_one() {
        for fields in [
            "If-None-Match: \"x\"".to_owned(),
            format!("If-Modified-Since: {BEFORE}"),
            "If-Modified-Since: yesterday".to_owned(),
            // A tag is more precise than a date.
            format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {AFTER}"),
        ] {
            assert_eq!(judge(&fields), Verdict::Send, "{fields}");
        }
    }

    #[test]
    fn a_client_that_insists_on_another_version_is_refused() {
        let etag = VERSION.etag();
        for fields in [
            "If-Match: \"x\"".to_owned(),
            format!("If-Match: W/{etag}"),
            format!("If-Unmodified-Since: {BEFORE}"),
            format!("If-Match: \"x\"\r\nIf-None-Match: {etag}"),
        ] {
            assert_eq!(judge(&fields), Verdict::PreconditionFailed, "{fields}");
        }
        for fields in [
            format!("If-Match: {etag}"),
            "If-Match: *".to_owned(),
            format!("If-Unmodified-Since: {DATE}"),
            format!("If-Match: {etag}\r\nIf-Unmodified-Since: {BEFORE}"),
        ] {
            assert_eq!(judge(&fields), Verdict::Send, "{fields}");
        }
    }

    #[test]
    fn a_part_of_another_version_is_not_sent() {
        let allows = |fields: &str| with(fields, |head| VERSION.allows_range(head, at(SECOND + 1)));
        let etag = VERSION.etag();
        for condition in [&etag, DATE] {
            assert!(allows(&format!("If-Range: {condition}")), "{condition}");
            // It is unclear which of them the client means.
            assert!(!allows(&format!("If-Range: {condition}\r\nIf-Range: \"x\"")), "{condition}");
        }
        for condition in ["\"x\"", BEFORE, AFTER, "x", "", "*", &format!("W/{etag}"), &format!("\"x\", {etag}")] {
            assert!(!allows(&format!("If-Range: {condition}")), "{condition}");
        }
        assert!(allows("X: y"));
    }

    #[test]
    fn a_date_names_no_version_while_its_second_lasts() {
        let allows = |now| with(&format!("If-Range: {DATE}"), |head| VERSION.allows_range(head, at(now)));
        assert!(allows(SECOND + 1));
        assert!(!allows(SECOND));
        // The file was written by a machine whose clock is ahead.
        assert!(!allows(SECOND - 1));
    }

    #[test]
    fn no_file_was_modified_after_its_answer() {
        assert_eq!(VERSION.last_modified(at(SECOND - 1)).unwrap().to_string(), BEFORE);
        assert_eq!(VERSION.last_modified(at(SECOND + 1)).unwrap().to_string(), DATE);
    }
}
