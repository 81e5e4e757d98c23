//! The target of a request, and the host that it is meant for.

/// Whether the method may have this target. An absolute target has to name the same host as the field `Host`, because
/// programs and the proxies in front of them choose one or the other.
pub(super) fn is_valid(is_options: bool, is_connect: bool, target: &str, host: Option<&[u8]>) -> bool {
    if is_connect {
        return target.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && is_authority(host.as_bytes()) && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
    }
    if target.starts_with('/') {
        return true;
    }
    if target == "*" {
        return is_options;
    }
    let Some((scheme, rest)) = target.split_once("://") else { return false };
    let default_port = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => ":80",
        _ if scheme.eq_ignore_ascii_case("https") => ":443",
        _ => return false,
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default().as_bytes();
    let is_named = |host: &[u8]| {
        let [authority, host] =
            [authority, host].map(|name| name.strip_suffix(default_port.as_bytes()).unwrap_or(name));
        authority.eq_ignore_ascii_case(host)
    };
    is_authority(authority) && host.is_none_or(is_named)
}

/// Whether these are the characters of a host with or without a port. Some characters that names may have are excluded,
/// such as the comma: no host has them, but two joined fields do.
pub(super) fn is_authority(text: &[u8]) -> bool {
    let is_allowed = |byte: &u8| {
        byte.is_ascii_alphanumeric()
            || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'%' | b':' | b'[' | b']')
            || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b';' | b'=')
    };
    !text.is_empty() && text.iter().all(is_allowed)
}
