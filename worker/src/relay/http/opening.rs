//! The first bytes of a connection.

/// What a client of HTTP/2 sends first.
const HTTP_2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The first bytes of a TLS handshake: its type, and the part of its version that never changes.
const TLS_HANDSHAKE: &[u8] = &[0x16, 0x03];

/// Whether a connection that begins with these bytes speaks another protocol than HTTP/1, so that nothing in it can be
/// observed. None: it depends on the bytes that follow.
pub(crate) fn is_opaque_from_the_start(first: &[u8]) -> Option<bool> {
    let openings = [HTTP_2_PREFACE, TLS_HANDSHAKE];
    if openings.iter().any(|opening| first.starts_with(opening)) {
        return Some(true);
    }
    (!openings.iter().any(|opening| opening.starts_with(first))).then_some(false)
}
