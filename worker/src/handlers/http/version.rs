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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::mem::MaybeUninit;

    use super::*;
    use crate::handlers::http::request::{Fields, MAX_FIELDS};
    use proptest::prelude::*;

    /// Changed on Sunday, 6 November 1994, half a second after 08:49:37.
    const VERSION: Version = Version { length: 16, modified: Some(Duration::from_millis(784_111_777_500)) };
    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";
    const AFTER: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn judge(fields: &str) -> Verdict {
        let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n");
        let mut room: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        VERSION.judge(&Head::parse(request.as_bytes(), &mut room).unwrap().unwrap())
    }

    #[test]
    fn a_version_is_named_by_time_and_length() {
        assert_eq!(VERSION.etag().to_string(), format!("\"{:x}-10\"", 784_111_777_500_000_000_u64));
        assert_eq!(VERSION.last_modified().unwrap().to_string(), DATE);
    }

    #[test]
    fn who_has_this_version_is_not_sent_it_again() {
        let etag = VERSION.etag().to_string();
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
    fn who_has_another_version_is_sent_this_one() {
        for fields in [
            "If-None-Match: \"x\"".to_owned(),
            format!("If-Modified-Since: {BEFORE}"),
            "If-Modified-Since: yesterday".to_owned(),
            // A tag says more than a date.
            format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {AFTER}"),
        ] {
            assert_eq!(judge(&fields), Verdict::Send, "{fields}");
        }
    }

    #[test]
    fn who_insists_on_another_version_is_refused() {
        let etag = VERSION.etag().to_string();
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
    fn a_range_of_another_version_is_not_sent() {
        let etag = VERSION.etag().to_string();
        for (field, allowed) in
            [(etag.as_str(), true), (DATE, true), ("\"x\"", false), (BEFORE, false), (AFTER, false), ("x", false)]
        {
            assert_eq!(VERSION.allows_range(Some(field.as_bytes())), allowed, "{field}");
        }
        assert!(!VERSION.allows_range(Some(format!("W/{etag}").as_bytes())));
        assert!(VERSION.allows_range(None));
    }

    #[test]
    fn a_time_that_http_cannot_express_is_left_out() {
        let year_10000 = UNIX_EPOCH + Duration::from_secs(253_402_300_800);
        assert!(http_date(year_10000).is_none());
        assert!(http_date(year_10000 - Duration::from_secs(1)).is_some());
        assert!(http_date(UNIX_EPOCH - Duration::from_secs(1)).is_none());
    }

    proptest! {
        #[test]
        fn no_date_is_too_strange(
            text in "(Sun|Mon|Sunday|Sun,|Foo), ?[0-9]{1,2}[ -](Nov|Feb|Foo)[ -]([0-9]{2}|[0-9]{4}) [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
        ) {
            let _ = VERSION.allows_range(Some(text.as_bytes()));
        }
    }
}
