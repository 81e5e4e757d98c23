//! Where a body ends.

use super::forwarded::as_read;

/// The most bytes of extensions that a chunk may have.
const MAX_EXTENSION: u16 = 1024;

/// The most bytes of trailers that a body may have.
const MAX_TRAILERS: u16 = 16 * 1024;

/// The most digits of a chunk's length.
const MAX_DIGITS: u8 = 16;

/// Fields that no request may have after its body: a program that takes trailers for header fields would see a
/// different request from the one that was passed on.
const NEVER_IN_TRAILERS: [&[u8]; 6] =
    [b"content-length", b"transfer-encoding", b"host", b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"];

/// One byte more than the longest of these has.
const NAME: usize = 18;

/// What follows a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Body {
    /// Nothing: the next message.
    None,
    /// This many bytes, at least one.
    Length(u64),
    /// Chunks, and then trailers.
    Chunked,
    /// Everything until the program closes.
    UntilClose,
}

/// The bytes are not a valid body. Where it ends is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BadBody;

/// Finds the end of one body in the bytes that pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BodyReader {
    state: State,
    /// Whether it is the body of a request.
    is_request: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Done,
    /// This many bytes are missing.
    Length(u64),
    UntilClose,
    Chunked(Place),
}

/// Where in a chunked body the next byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In the length of a chunk, after this many digits.
    Size { size: u64, digits: u8 },
    /// In the extensions of a chunk, after this many bytes of them.
    Extension { size: u64, used: u16 },
    /// Before the LF after the length.
    SizeEnd { size: u64 },
    /// In a chunk, with this many bytes missing.
    Data { missing: u64 },
    /// Before the CR after a chunk.
    DataCr,
    /// Before the LF after a chunk.
    DataLf,
    /// After the last chunk, at the start of a line. The trailers have this many bytes so far.
    Line { used: u16 },
    /// In the name of a trailer.
    Name { used: u16, name: [u8; NAME], length: u8 },
    /// In its value.
    Value { used: u16 },
    /// Before the LF after the value.
    ValueLf { used: u16 },
    /// Before the last LF of the body.
    LastLf,
}

impl BodyReader {
    /// At the start of the body of a request.
    pub(crate) fn of_request(body: Body) -> BodyReader {
        BodyReader { state: State::before(body), is_request: true }
    }

    /// At the start of the body of an answer.
    pub(crate) fn of_answer(body: Body) -> BodyReader {
        BodyReader { state: State::before(body), is_request: false }
    }

    /// How many of these bytes, the next ones received, belong to the body. If not all of them do, the body is done.
    ///
    /// # Errors
    /// When this is not a body. Then none of these bytes may be passed on in a request, since they could complete it
    /// for a program that is less strict.
    pub(crate) fn advance(&mut self, bytes: &[u8]) -> Result<usize, BadBody> {
        match &mut self.state {
            State::Done => Ok(0),
            State::UntilClose => Ok(bytes.len()),
            State::Length(missing) => {
                let taken = take(missing, bytes);
                if *missing == 0 {
                    self.state = State::Done;
                }
                Ok(taken)
            }
            State::Chunked(place) => {
                let mut taken = 0;
                while let Some(&byte) = bytes.get(taken) {
                    if let Place::Data { missing } = place {
                        taken += take(missing, &bytes[taken..]);
                        if *missing == 0 {
                            *place = Place::DataCr;
                        }
                        continue;
                    }
                    taken += 1;
                    match place.after(byte, self.is_request).ok_or(BadBody)? {
                        Some(next) => *place = next,
                        None => {
                            self.state = State::Done;
                            break;
                        }
                    }
                }
                Ok(taken)
            }
        }
    }

    /// Whether it ends when the program closes.
    pub(crate) fn is_until_close(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Whether the body has come to its end.
    pub(crate) fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

/// As many of these bytes as are missing, but no more.
fn take(missing: &mut u64, bytes: &[u8]) -> usize {
    let taken = usize::try_from(*missing).map_or(bytes.len(), |missing| missing.min(bytes.len()));
    *missing -= taken as u64;
    taken
}

impl State {
    fn before(body: Body) -> State {
        match body {
            Body::None | Body::Length(0) => State::Done,
            Body::Length(length) => State::Length(length),
            Body::Chunked => State::Chunked(Place::Size { size: 0, digits: 0 }),
            Body::UntilClose => State::UntilClose,
        }
    }
}

impl Place {
    /// The place after this byte, outside a chunk's data. `Some(None)`: the body ends with it. None: the byte is not
    /// allowed here.
    #[expect(clippy::option_option, reason = "the outer one is the error, which has no content")]
    fn after(self, byte: u8, is_request: bool) -> Option<Option<Place>> {
        let next = match self {
            Place::Size { size, digits } => match (byte, char::from(byte).to_digit(16)) {
                (_, Some(_)) if digits == MAX_DIGITS => return None,
                (_, Some(digit)) => {
                    let size = size << 4 | u64::from(digit);
                    // It has to fit into a signed number, too: a program must not see a negative one.
                    i64::try_from(size).ok()?;
                    Place::Size { size, digits: digits + 1 }
                }
                (b';', None) if digits > 0 => Place::Extension { size, used: 0 },
                (b'\r', None) if digits > 0 => Place::SizeEnd { size },
                _ => return None,
            },
            Place::Extension { size, .. } if byte == b'\r' => Place::SizeEnd { size },
            Place::Extension { size, used } if is_text(byte) && used < MAX_EXTENSION => {
                Place::Extension { size, used: used + 1 }
            }
            Place::SizeEnd { size } if byte == b'\n' => match size {
                0 => Place::Line { used: 0 },
                missing => Place::Data { missing },
            },
            Place::DataCr if byte == b'\r' => Place::DataLf,
            Place::DataLf if byte == b'\n' => Place::Size { size: 0, digits: 0 },
            Place::Line { .. } if byte == b'\r' => Place::LastLf,
            Place::Line { used } if is_token(byte) && used < MAX_TRAILERS => {
                let mut name = [0; NAME];
                name[0] = as_read(byte);
                Place::Name { used: used + 1, name, length: 1 }
            }
            Place::Name { used, name, length } if byte == b':' && used < MAX_TRAILERS => {
                if is_request && NEVER_IN_TRAILERS.contains(&&name[..usize::from(length)]) {
                    return None;
                }
                Place::Value { used: used + 1 }
            }
            Place::Name { used, mut name, length } if is_token(byte) && used < MAX_TRAILERS => {
                // A longer name fills the whole array, and so is none of those.
                let mut longer = length;
                if let Some(next) = name.get_mut(usize::from(length)) {
                    *next = as_read(byte);
                    longer += 1;
                }
                Place::Name { used: used + 1, name, length: longer }
            }
            Place::Value { used } if byte == b'\r' => Place::ValueLf { used },
            Place::Value { used } if is_text(byte) && used < MAX_TRAILERS => Place::Value { used: used + 1 },
            Place::ValueLf { used } if byte == b'\n' => Place::Line { used },
            Place::LastLf if byte == b'\n' => return Some(None),
            _ => return None,
        };
        Some(Some(next))
    }
}

/// Whether a value of a field, or an extension, may have this byte.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || byte >= b' ' && byte != 0x7f
}

/// Whether the name of a field may have this byte.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
