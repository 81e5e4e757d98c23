//! What the heads of requests and answers have in common: their end, their framing, and their rewriting.

use std::mem::MaybeUninit;
use std::ops::Range;

use httparse::Header;

/// The longest accepted head, in bytes, including the empty lines before it.
pub(crate) const MAX_HEAD: usize = 64 * 1024;

/// The most fields that are accepted.
pub(super) const MAX_FIELDS: usize = 128;

/// Room for the fields of one head, on the stack.
pub(super) type Fields<'bytes> = [MaybeUninit<Header<'bytes>>; MAX_FIELDS];

/// Where a head ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Its empty line has not been received.
    Missing,
    /// After its empty line.
    At(usize),
    /// It has a line that ends with LF alone. Some programs take that for the end of a line, others do not.
    Ambiguous,
    /// It is longer than [`MAX_HEAD`].
    TooFar,
}

impl End {
    /// Looks for the end of the head that begins at `start`.
    ///
    /// The first line that decides the result decides it alone, so it does not matter in which pieces the head arrives.
    pub(super) fn find(received: &[u8], start: usize) -> End {
        let bytes = &received[..received.len().min(MAX_HEAD)];
        let mut line = start;
        while let Some(length) = bytes[line..].iter().position(|&byte| byte == b'\n') {
            let end = line + length;
            if length == 0 || bytes[end - 1] != b'\r' {
                return End::Ambiguous;
            }
            line = end + 1;
            if length == 1 {
                return End::At(line);
            }
        }
        if bytes.len() < MAX_HEAD { End::Missing } else { End::TooFar }
    }
}

/// What the fields of a head determine about its message and its connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Framing {
    pub(super) length: Length,
    pub(super) coding: Coding,
    pub(super) connection: Options,
    /// Whether there is a field `Upgrade`.
    pub(super) has_upgrade: bool,
}

/// The field `Content-Length`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Absent,
    Bytes(u64),
    /// There are several, or it is no number.
    Bad,
}

/// The field `Transfer-Encoding`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coding {
    Absent,
    Chunked,
    /// Other codings, and then chunks: the end of the body would be known, but few programs know those codings.
    Unknown,
    /// There are several, or the last coding does not tell where the body ends.
    Bad,
}

/// The options of the field `Connection` that matter here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) close: bool,
    pub(super) keep_alive: bool,
    pub(super) upgrade: bool,
}

impl Framing {
    pub(super) fn of(fields: &[Header<'_>]) -> Framing {
        let (mut length, mut coding) = (Length::Absent, Coding::Absent);
        let (mut connection, mut has_upgrade) = (Options::default(), false);
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            match field.name.len() {
                7 if is("upgrade") => has_upgrade = true,
                10 if is("connection") => connection.add(field.value),
                14 if is("content-length") => length = length.and(field.value),
                17 if is("transfer-encoding") => coding = coding.and(field.value),
                _ => {}
            }
        }
        Framing { length, coding, connection, has_upgrade }
    }
}

impl Length {
    fn and(self, value: &[u8]) -> Length {
        match self {
            Length::Absent => number(value).map_or(Length::Bad, Length::Bytes),
            Length::Bytes(_) | Length::Bad => Length::Bad,
        }
    }
}

/// A number of only decimal digits, which fits into a signed 64-bit integer, too.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None; // There are no more in the largest one.
    }
    let add = |number: u64, &byte: &u8| byte.is_ascii_digit().then(|| number * 10 + u64::from(byte - b'0'));
    digits.iter().try_fold(0, add).filter(|&number| i64::try_from(number).is_ok())
}

impl Coding {
    fn and(self, value: &[u8]) -> Coding {
        if self != Coding::Absent {
            return Coding::Bad;
        }
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let mut codings = options(value).rev();
        match (codings.next().is_some_and(is_chunked), codings.next()) {
            (true, None) => Coding::Chunked,
            (true, Some(other)) if !other.is_empty() && !is_chunked(other) => Coding::Unknown,
            _ => Coding::Bad,
        }
    }
}

impl Options {
    fn add(&mut self, value: &[u8]) {
        for option in options(value) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
            self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        }
    }
}

/// The parts of a list.
pub(super) fn options(value: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii)
}

/// A head that is copied with changes.
pub(super) struct Rewriting<'bytes, 'head> {
    source: &'bytes [u8],
    copied: usize,
    head: &'head mut Vec<u8>,
}

impl<'bytes, 'head> Rewriting<'bytes, 'head> {
    /// Begins with a whole head, which ends with its empty line.
    pub(super) fn new(source: &'bytes [u8], head: &'head mut Vec<u8>) -> Rewriting<'bytes, 'head> {
        Rewriting { source, copied: 0, head }
    }

    /// Leaves out a field of the source. Fields have to be left out in their order.
    pub(super) fn leave_out(&mut self, field: &Header<'_>) {
        let line = self.line(field);
        self.head.extend_from_slice(&self.source[self.copied..line.start]);
        self.copied = line.end;
    }

    /// Keeps the wanted options of a field, and leaves out the field if none is wanted.
    pub(super) fn keep_options(&mut self, field: &Header<'_>, is_wanted: impl Fn(&[u8]) -> bool) {
        self.leave_out(field);
        let mut wanted = options(field.value).filter(|option| !option.is_empty() && is_wanted(option));
        let Some(first) = wanted.next() else { return };
        self.head.extend_from_slice(field.name.as_bytes());
        self.head.extend_from_slice(b": ");
        self.head.extend_from_slice(first);
        for option in wanted {
            self.head.extend_from_slice(b", ");
            self.head.extend_from_slice(option);
        }
        self.head.extend_from_slice(b"\r\n");
    }

    /// Copies the rest, and has further lines written after it.
    pub(super) fn finish(self, lines: impl FnOnce(&mut Vec<u8>)) {
        self.head.extend_from_slice(&self.source[self.copied..self.source.len() - 2]);
        lines(self.head);
        self.head.extend_from_slice(b"\r\n");
    }

    /// The line of a field: from its name up to and including the end of the line. A line of a parsed head has exactly
    /// one end, because folded lines are refused.
    fn line(&self, field: &Header<'_>) -> Range<usize> {
        let start = field.name.as_ptr().addr() - self.source.as_ptr().addr();
        let length = self.source[start..].iter().position(|&byte| byte == b'\n');
        start..length.map_or(self.source.len(), |length| start + length + 1)
    }
}
