//! Which version of a file a client has already, or insists on.

use std::fmt;
use std::fs::Metadata;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::{HttpDate, parse_http_date};

use super::request::Head;

/// One version of a file, told apart from others by its length and the time of its last change.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    pub(super) length: u64,
    /// None if it is not known, or before 1970.
    modified: Option<Duration>,
}

/// What the conditions of a request come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Send,
    NotModified,
    PreconditionFailed,
}

impl Version {
    pub(super) fn of(metadata: &Metadata) -> Version {
        let modified = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        Version { length: metadata.len(), modified }
    }

    /// For the field `ETag`.
    pub(super) fn etag(&self) -> impl fmt::Display {
        let (length, modified) = (self.length, self.modified.unwrap_or_default().as_nanos());
        fmt::from_fn(move |formatter| write!(formatter, "\"{modified:x}-{length:x}\""))
    }

    /// For the field `Last-Modified`, which counts in seconds. None for what it cannot express.
    pub(super) fn last_modified(&self) -> Option<HttpDate> {
        self.seconds().and_then(http_date)
    }

    fn seconds(&self) -> Option<SystemTime> {
        self.modified.map(|modified| UNIX_EPOCH + Duration::from_secs(modified.as_secs()))
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

    /// Whether a range may be sent: the client may want the whole file if it has changed.
    pub(super) fn allows_range(&self, if_range: Option<&[u8]>) -> bool {
        match if_range {
            None => true,
            Some(etag) if etag.ends_with(b"\"") => strongly(etag, self.etag().to_string().as_bytes()),
            Some(date) => date_of(date).is_some_and(|date| Some(date) == self.seconds()),
        }
    }

    /// None if there is no such date to compare with.
    fn is_newer_than(&self, date: Option<&[u8]>) -> Option<bool> {
        Some(self.seconds()? > date_of(date?)?)
    }

    /// Whether one of the listed tags is this version's. None if there is no list.
    fn is_listed<'list>(
        &self,
        lists: impl Iterator<Item = &'list [u8]>,
        same: impl Fn(&[u8], &[u8]) -> bool,
    ) -> Option<bool> {
        let mut lists = lists.peekable();
        lists.peek()?;
        let own = self.etag().to_string();
        // Our own tags contain no comma, so a list may be taken apart at any.
        let mut tags = lists.flat_map(|list| list.split(|&byte| byte == b',')).map(<[u8]>::trim_ascii);
        Some(tags.any(|tag| tag == b"*" || same(tag, own.as_bytes())))
    }
}

/// Formats a time, if it is in the years 1970 to 9999.
pub(super) fn http_date(time: SystemTime) -> Option<HttpDate> {
    const YEAR_10000: Duration = Duration::from_secs(253_402_300_800);
    time.duration_since(UNIX_EPOCH).is_ok_and(|since| since < YEAR_10000).then(|| HttpDate::from(time))
}

fn date_of(field: &[u8]) -> Option<SystemTime> {
    parse_http_date(str::from_utf8(field).ok()?).ok()
}

fn strongly(tag: &[u8], own: &[u8]) -> bool {
    tag == own
}

fn weakly(tag: &[u8], own: &[u8]) -> bool {
    tag.strip_prefix(b"W/").unwrap_or(tag) == own
}
