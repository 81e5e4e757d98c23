//! Addresses, and the mode of a socket file, as written in settings.

use std::net::{SocketAddr, ToSocketAddrs};
#[cfg(unix)]
use std::path::Path;

#[cfg(unix)]
use crate::instance::MAX_SOCKET_PATH;
use crate::listen::{Address, ProgramSocket};

/// How long the name of a socket may be, by sd_listen_fds(3).
#[cfg(unix)]
const MAX_SOCKET_NAME: usize = 255;

/// An address whose socket a program gets, with or without a name for it.
#[cfg(unix)]
pub(super) fn parse_passed(text: &str) -> Result<ProgramSocket, String> {
    // A path may have a `=`, too.
    let (name, address) = match text.split_once('=') {
        Some((name, address)) if !is_for_a_unix_socket(text) => (Some(name), address),
        Some(_) | None => (None, text),
    };
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    match name {
        Some(name) if name.is_empty() || name.len() > MAX_SOCKET_NAME || !name.chars().all(allowed) => {
            Err("a socket's name has letters, digits, dots, hyphens and underscores: web=8000".into())
        }
        _ => Ok(ProgramSocket { name: name.map(str::to_owned), ..parse_any_address(address)?.into() }),
    }
}

#[cfg(windows)]
pub(super) fn parse_passed(_text: &str) -> Result<ProgramSocket, String> {
    Err("on Windows no program gets sockets from another one: let it bind its address itself".into())
}

/// As written for chmod.
#[cfg(unix)]
pub(super) fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o777 && text.len() >= 3);
    mode.ok_or_else(|| "say a mode as chmod has it: 660, 600".into())
}

#[cfg(windows)]
pub(super) fn parse_mode(_text: &str) -> Result<u32, String> {
    Err("on Windows no program gets sockets from another one".into())
}

#[cfg(windows)]
pub(super) fn parse_any_address(text: &str) -> Result<Address, String> {
    parse_address(text).map(Address::Tcp)
}

/// Any address that a socket for a program can have.
#[cfg(unix)]
pub(super) fn parse_any_address(text: &str) -> Result<Address, String> {
    if !is_for_a_unix_socket(text) {
        let words =
            "say a port (8000), an address and a port (0.0.0.0:8000) or the path of a Unix socket (/run/app.sock)";
        return parse_tcp(text, words).map(Address::Tcp);
    }
    if !text.starts_with('/') || text.ends_with('/') {
        return Err("say the absolute path of a Unix socket, and nothing before it: /run/app.sock".into());
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!("the path has {} bytes, and a socket's path at most {MAX_SOCKET_PATH}", text.len()));
    }
    // Without `//` and `/./`: the same path is the same address.
    Ok(Address::Unix(Path::new(text).components().collect()))
}

/// Whether this means a Unix socket, even as nginx and gunicorn write it.
fn is_for_a_unix_socket(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("unix:")
}

fn refuse_large_port(text: &str) -> Result<(), String> {
    let port = text.rsplit(':').next().unwrap_or(text);
    let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    match port.parse::<u16>() {
        Err(_) if is_number => Err(format!("there is no port {port}; the highest one is {}", u16::MAX)),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// A port, a host and a port, or an address and a port.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if is_for_a_unix_socket(text) {
        return Err("only exec has Unix sockets; say a port (8000) or an address and a port (0.0.0.0:8000)".into());
    }
    parse_tcp(text, "say a port (8000) or an address and a port (0.0.0.0:8000)")
}

/// The same. `usage` says what can be written here.
fn parse_tcp(text: &str, usage: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Ok(([127, 0, 0, 1], port).into());
    }
    refuse_large_port(text)?;
    let unknown = |_| match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
            format!("the address of {host} is not known; say it in numbers (127.0.0.1:{port})")
        }
        Some(_) | None => usage.into(),
    };
    text.to_socket_addrs().map_err(unknown)?.next().ok_or_else(|| format!("{text} has no address"))
}
