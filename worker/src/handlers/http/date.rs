//! The time of an answer, and times as HTTP writes them.

use std::str;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use httpdate::{HttpDate, parse_http_date};

/// The time at which a request is answered, since 1970: the clock is read once per request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now(pub(super) Duration);

impl Now {
    pub(super) fn read() -> Now {
        Now(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    pub(super) fn second(self) -> u64 {
        self.0.as_secs()
    }

    /// For the field `Date`.
    pub(super) fn date(self) -> Option<HttpDate> {
        http_date(self.second())
    }
}

/// Formats a time in seconds since 1970, if it is before the year 10000: HTTP cannot express others.
pub(super) fn http_date(second: u64) -> Option<HttpDate> {
    const YEAR_10000: u64 = 253_402_300_800;
    (second < YEAR_10000).then(|| HttpDate::from(UNIX_EPOCH + Duration::from_secs(second)))
}

/// The time that a field names, in seconds since 1970. None if it is not a date.
pub(super) fn second_of(field: &[u8]) -> Option<u64> {
    let time = parse_http_date(str::from_utf8(field).ok()?).ok()?;
    Some(time.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_time_that_http_cannot_express_is_left_out() {
        assert!(http_date(253_402_300_800).is_none());
        assert_eq!(http_date(253_402_300_799).unwrap().to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
        assert_eq!(http_date(0).unwrap().to_string(), "Thu, 01 Jan 1970 00:00:00 GMT");
    }

    proptest! {
        #[test]
        fn no_date_is_too_strange(
            text in "(Sun|Mon|Sunday|Sun,|Foo), ?[0-9]{1,2}[ -](Nov|Feb|Foo)[ -]([0-9]{2}|[0-9]{4}) [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
        ) {
            let _ = second_of(text.as_bytes());
        }
    }
}
