//! The values of settings: their words, and what is understood as one.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{IntErrorKind, ParseIntError};
#[cfg(unix)]
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::child::Ready;
#[cfg(unix)]
use crate::instance::MAX_SOCKET_PATH;
use crate::listen::{Address, ProgramSocket};
use crate::restart::RestartMode;
use crate::settings::{AdminSocket, Console, OnHup};
use crate::text::parse_seconds;

/// How long the name of a socket may be, by sd_listen_fds(3).
#[cfg(unix)]
const MAX_SOCKET_NAME: usize = 255;

/// The form of the log.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum Form {
    Text,
    Json,
}

// The words for these are written out: with `derive`, `--help` would show each of them in a paragraph of its own.

impl ValueEnum for RestartMode {
    fn value_variants<'a>() -> &'a [RestartMode] {
        &[RestartMode::Always, RestartMode::OnFailure, RestartMode::Never]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            RestartMode::Always => "always",
            RestartMode::OnFailure => "on-failure",
            RestartMode::Never => "never",
        }))
    }
}

impl ValueEnum for OnHup {
    fn value_variants<'a>() -> &'a [OnHup] {
        &[OnHup::Restart, OnHup::Stop]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            OnHup::Restart => "restart",
            OnHup::Stop => "stop",
        }))
    }
}

impl ValueEnum for Console {
    fn value_variants<'a>() -> &'a [Console] {
        &[Console::Terminal, Console::Stdin]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Console::Terminal => "terminal",
            Console::Stdin => "stdin",
        }))
    }
}

impl ValueEnum for AdminSocket {
    fn value_variants<'a>() -> &'a [AdminSocket] {
        &[AdminSocket::Try, AdminSocket::Require, AdminSocket::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            AdminSocket::Try => "try",
            AdminSocket::Require => "require",
            AdminSocket::Off => "off",
        }))
    }
}

/// The word for a value, as the settings have it.
pub(super) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// 10,000, or fewer if the system gives fewer descriptors: some are kept for files, admin clients and refusals.
#[cfg(unix)]
pub(super) fn default_max_connections() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    const MOST: usize = 10_000;
    const KEPT: usize = 100;
    // FreeBSD's limits are signed, and a limit that is larger than any number of descriptors is none.
    let limit = getrlimit(Resource::RLIMIT_NOFILE).ok().and_then(|(soft, _)| usize::try_from(soft).ok());
    limit.map_or(MOST, |limit| (limit - KEPT.min(limit / 2)).clamp(1, MOST))
}

/// Windows has no such limit on handles.
#[cfg(windows)]
pub(super) fn default_max_connections() -> usize {
    10_000
}

/// An address whose socket a program gets, with or without a name for that.
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

/// As chmod has it.
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
fn parse_any_address(text: &str) -> Result<Address, String> {
    parse_address(text).map(Address::Tcp)
}

/// Any address that a socket for a program can have.
#[cfg(unix)]
fn parse_any_address(text: &str) -> Result<Address, String> {
    if !is_for_a_unix_socket(text) {
        let words =
            "say a port (8000), an address and a port (0.0.0.0:8000) or the path of a Unix socket (/run/app.sock)";
        return parse_address(text).map(Address::Tcp).map_err(|_| words.into());
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

/// As nginx and gunicorn write it, it is meant for one, too.
fn is_for_a_unix_socket(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("unix:")
}

/// A port, a host and a port, or an address and a port.
pub(super) fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if is_for_a_unix_socket(text) {
        return Err("only exec has Unix sockets; say a port (8000) or an address and a port (0.0.0.0:8000)".into());
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Ok(([127, 0, 0, 1], port).into());
    }
    let addresses = text.to_socket_addrs().map_err(|_| "say a port (8000) or an address and a port (0.0.0.0:8000)")?;
    addresses.into_iter().next().ok_or_else(|| format!("{text} has no address"))
}

/// A file that is meant for other systems, too, may say what is done here anyway.
#[cfg(windows)]
pub(super) fn parse_on_hup(text: &str) -> Result<OnHup, String> {
    match text {
        "stop" => Ok(OnHup::Stop),
        _ => Err("Windows has no signals: say admin-cli restart instead".into()),
    }
}

#[cfg(windows)]
pub(super) fn parse_signal(_text: &str) -> Result<i32, String> {
    Err("Windows has no signals: a program is asked to end by Ctrl-Break".into())
}

/// A signal's name, with or without SIG, or its number.
#[cfg(unix)]
pub(super) fn parse_signal(text: &str) -> Result<i32, String> {
    use nix::sys::signal::Signal;
    let name = text.to_uppercase();
    let named = name.parse::<Signal>().or_else(|_| format!("SIG{name}").parse());
    let numbered = || text.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    let signal = named.ok().or_else(numbered).ok_or("say a signal: TERM, INT, QUIT, HUP, USR1 …")?;
    Ok(signal as i32)
}

/// When a program is ready.
pub(super) fn parse_ready(text: &str) -> Result<Ready, String> {
    if let Some(address) = text.strip_prefix("connect=") {
        return parse_any_address(address).map(Ready::Connect);
    }
    match text {
        #[cfg(unix)]
        "notify" => Ok(Ready::Notify),
        #[cfg(windows)]
        "notify" => Err("Windows has no sockets for that: say connect=8000 or a time (2s)".into()),
        _ => parse_seconds(text).map(Ready::After).map_err(|_| {
            let notify = if cfg!(unix) { "notify, " } else { "" };
            format!("say {notify}connect=8000 or a time (2s)")
        }),
    }
}

/// A duration that is not zero.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        Duration::ZERO => Err("say more than 0".into()),
        interval => Ok(interval),
    }
}

/// A whole number, with messages for people.
pub(super) fn parse_number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "that is too much",
        _ => "say a whole number (0, 5, 100)",
    })
}
