//! The host that a request is meant for, and its port: the field `Host`, or a part of an absolute target.

use std::net::Ipv6Addr;
use std::str;

/// Whether this is a host with or without a port, and nothing else.
///
/// RFC 3986 allows commas in the name of a host. They are refused here, because no such host exists, and a proxy may
/// have joined two fields with one.
pub(super) fn is_valid(authority: &[u8]) -> bool {
    if let Some(literal) = authority.strip_prefix(b"[") {
        let end = literal.iter().position(|&byte| byte == b']');
        return end.is_some_and(|end| is_ipv6(&literal[..end]) && is_port(&literal[end + 1..]));
    }
    let end = authority.iter().position(|&byte| byte == b':').unwrap_or(authority.len());
    is_name(&authority[..end]) && is_port(&authority[end..])
}

fn is_ipv6(text: &[u8]) -> bool {
    str::from_utf8(text).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok())
}

/// A registered name or an IPv4 address. Few names have escapes.
fn is_name(host: &[u8]) -> bool {
    let in_names = |byte: &u8| IN_NAMES[usize::from(*byte)];
    let may_be_escaped = |byte: &u8| in_names(byte) || *byte == b'%';
    !host.is_empty() && (host.iter().all(in_names) || host.iter().all(may_be_escaped) && has_valid_escapes(host))
}

/// The characters that a name may have. Each request is checked against this table.
const IN_NAMES: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        table[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~')
            || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=');
        byte += 1;
    }
    table
};

/// Nothing, or a colon and a port. The port may be missing after its colon.
fn is_port(text: &[u8]) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0_u16, |number, &byte| number.checked_mul(10)?.checked_add(digit(byte)?))
    };
    text.is_empty() || text.strip_prefix(b":").is_some_and(|digits| number(digits).is_some())
}

/// Whether two hexadecimal digits follow each percent sign.
pub(super) fn has_valid_escapes(text: &[u8]) -> bool {
    let mut behind = text.split(|&byte| byte == b'%').skip(1);
    behind.all(|part| part.len() >= 2 && part[..2].iter().all(u8::is_ascii_hexdigit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for valid in [
            "a",
            "localhost:8080",
            "www.example.com",
            "under_score.example.",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:65535",
            "[2001:db8::10.0.0.1]",
            "xn--bcher-kva.example",
            "a%20b",
            "a!b",
            "a:",
            "[::1]:",
        ] {
            assert!(is_valid(valid.as_bytes()), "{valid}");
        }
    }

    #[test]
    fn anything_else_is_not_a_host() {
        for invalid in [
            "",
            ":80",
            "user@host",
            "user:password@host",
            "host/path",
            "/",
            "a,b",
            "a, b",
            "a b",
            "a\tb",
            "a?b",
            "a#b",
            "a\\b",
            "a\"b",
            "<a>",
            "http://a",
            "a:b",
            "a:80a",
            "a:+80",
            "a:-1",
            "a:65536",
            "a:99999999999999999999",
            "a:80:80",
            "::1",
            "[::1",
            "[]",
            "[a]",
            "[::1]a",
            "[::1]80",
            "[127.0.0.1]",
            "[::1]:b",
            "a%",
            "a%2",
            "a%zz",
            "\u{e9}",
            "a\0",
        ] {
            assert!(!is_valid(invalid.as_bytes()), "{invalid}");
        }
    }
}
