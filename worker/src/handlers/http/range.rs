//! Which part of a file a request asks for.

use super::request::number;

/// What a `Range` field comes to, for a file of a known length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Range {
    /// The whole file: the field is not understood, and then it does not count.
    Whole,
    /// From `first` to `last`, both included.
    Part { first: u64, last: u64 },
    /// A part that the file does not have.
    Unsatisfiable,
}

impl Range {
    /// One range of bytes is understood: `bytes=0-9`, `bytes=10-`, `bytes=-10`.
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
