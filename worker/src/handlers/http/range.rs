//! Which part of a file a request asks for.

use super::request::number;

/// The meaning of a `Range` field for a file of a known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// The whole file: the field is not understood, and therefore ignored.
    Whole,
    /// From `first` to `last`, both included.
    Part { first: u64, last: u64 },
    /// A part that the file does not have.
    Unsatisfiable,
}

impl Range {
    /// Understands a single range of bytes: `bytes=0-9`, `bytes=10-`, `bytes=-10`.
    pub(super) fn parse(field: &[u8], length: u64) -> Range {
        Range::understood(field, length).unwrap_or(Range::Whole)
    }

    fn understood(field: &[u8], length: u64) -> Option<Range> {
        let (unit, range) = split_once(field, b'=')?;
        let (first, last) = split_once(range.trim_ascii(), b'-')?;
        if !unit.trim_ascii().eq_ignore_ascii_case(b"bytes") {
            return None;
        }
        if first.is_empty() {
            return Some(match saturating_number(last)? {
                0 => Range::Unsatisfiable,
                _ if length == 0 => Range::Whole,
                count => Range::Part { first: length.saturating_sub(count), last: length - 1 },
            });
        }
        let first = saturating_number(first)?;
        let last = if last.is_empty() { u64::MAX } else { saturating_number(last)? };
        if last < first {
            return None;
        }
        if first >= length {
            return Some(Range::Unsatisfiable);
        }
        Some(Range::Part { first, last: last.min(length - 1) })
    }
}

/// A number that is too large means the end of any file.
fn saturating_number(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(number(text).unwrap_or(u64::MAX))
}

fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(first: u64, last: u64) -> Range {
        Range::Part { first, last }
    }

    #[test]
    fn one_range_is_understood_in_its_three_forms() {
        for (field, range) in [
            ("bytes=0-0", part(0, 0)),
            ("bytes=2-4", part(2, 4)),
            ("bytes=2-", part(2, 9)),
            ("bytes=-3", part(7, 9)),
            ("BYTES = 2-4 ", part(2, 4)),
            ("bytes=0-99", part(0, 9)),
            ("bytes=-99", part(0, 9)),
            ("bytes=0-99999999999999999999999", part(0, 9)),
            ("bytes=-99999999999999999999999", part(0, 9)),
        ] {
            assert_eq!(Range::parse(field.as_bytes(), 10), range, "{field}");
        }
    }

    #[test]
    fn a_part_that_the_file_does_not_have_is_unsatisfiable() {
        for field in ["bytes=10-", "bytes=10-20", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(Range::parse(field.as_bytes(), 10), Range::Unsatisfiable, "{field}");
        }
        assert_eq!(Range::parse(b"bytes=0-", 0), Range::Unsatisfiable);
    }

    #[test]
    fn a_field_that_is_not_understood_is_ignored() {
        for field in
            ["", "bytes", "bytes=", "bytes=-", "bytes=4-2", "bytes=a-b", "bytes=+1-2", "lines=1-2", "bytes=0-1,3-4"]
        {
            assert_eq!(Range::parse(field.as_bytes(), 10), Range::Whole, "{field}");
        }
        assert_eq!(Range::parse(b"bytes=-5", 0), Range::Whole);
    }
}
