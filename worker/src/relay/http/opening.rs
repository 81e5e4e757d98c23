//! The first bytes of a connection.

/// What a client of HTTP/2 sends first.
const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a TLS handshake: its type, and the part of its version that never changes.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// How connections of other protocols begin.
const OTHERS: [(&[u8], &str); 2] = [(HTTP_2_PREFACE, "HTTP/2"), (TLS_HANDSHAKE, "TLS")];

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// It depends on the bytes that follow.
    Undecided,
    /// HTTP/1, or an unknown protocol.
    Http,
    /// Another protocol, of this name, which cannot be observed.
    Other(&'static str),
}

impl Opening {
    /// The protocol of a connection that begins with these bytes.
    pub(crate) fn of(first: &[u8]) -> Opening {
        if let Some((_, name)) = OTHERS.iter().find(|(opening, _)| first.starts_with(opening)) {
            return Opening::Other(name);
        }
        let may_become_other = OTHERS.iter().any(|(opening, _)| opening.starts_with(first));
        if may_become_other { Opening::Undecided } else { Opening::Http }
    }
}
