//! The fields that say where a request comes from.

use std::io::Write;
use std::net::IpAddr;

use httparse::Header;

use super::fields::{Rewriting, options};

/// What becomes of the fields that say where a request comes from: `X-Forwarded-For` and `X-Forwarded-Proto`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarded {
    /// The client's address is added to those that the request has, and `http` only if the request names no protocol:
    /// the proxy in front of this relay is trusted.
    Append,
    /// The request's own fields are removed, including `Forwarded`, and the client's address takes their place.
    Replace,
    /// They are left as they are.
    Off,
}

const FOR: &[u8] = b"x-forwarded-for";
const PROTO: &[u8] = b"x-forwarded-proto";
const STANDARD: &[u8] = b"forwarded";

/// Writes the head of a request with these fields changed.
pub(super) fn rewrite(source: &[u8], fields: &[Header<'_>], peer: IpAddr, forwarded: Forwarded, head: &mut Vec<u8>) {
    let is_trusted = match forwarded {
        Forwarded::Append => true,
        Forwarded::Replace => false,
        Forwarded::Off => return head.extend_from_slice(source),
    };
    let mut rewriting = Rewriting::new(source, head);
    let mut has_protocol = false;
    for field in fields {
        let name = field.name.as_bytes();
        if name.eq_ignore_ascii_case(b"connection") {
            // A client that names our fields there asks the program to ignore them.
            if options(field.value).any(is_ours) {
                rewriting.keep_options(field, |option| !is_ours(option));
            }
        } else if !is_trusted && is_ours(name) || name.eq_ignore_ascii_case(FOR) {
            rewriting.leave_out(field);
        } else if name.eq_ignore_ascii_case(PROTO) {
            has_protocol |= !field.value.is_empty();
        }
    }
    rewriting.finish(|head| {
        head.extend_from_slice(b"X-Forwarded-For: ");
        // One line for all of them: many programs read the first or the last one only.
        let known = fields.iter().filter(|field| is_trusted && field.name.as_bytes().eq_ignore_ascii_case(FOR));
        for value in known.map(|field| field.value).filter(|value| !value.is_empty()) {
            head.extend_from_slice(value);
            head.extend_from_slice(b", ");
        }
        let written = write!(head, "{}", peer.to_canonical());
        debug_assert!(written.is_ok(), "a vector takes all that is written");
        head.extend_from_slice(if has_protocol { b"\r\n" } else { b"\r\nX-Forwarded-Proto: http\r\n" });
    });
}

/// Whether a program could take a field of this name for one that says where a request comes from.
fn is_ours(name: &[u8]) -> bool {
    [FOR, PROTO, STANDARD].iter().any(|ours| reads_as(name, ours))
}

/// Whether a program could take this field name for the other one, which is in lower case. Many programs see fields as
/// variables (`HTTP_X_FORWARDED_FOR`), where case and the separators between words are lost.
pub(super) fn reads_as(name: &[u8], other: &[u8]) -> bool {
    name.len() == other.len() && name.iter().map(|&byte| as_read(byte)).eq(other.iter().copied())
}

/// A byte of a name as such programs see it.
pub(super) fn as_read(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}
