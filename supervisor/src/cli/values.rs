//! The values of settings: their words, and what is understood as one.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{IntErrorKind, ParseIntError};
#[cfg(unix)]
use std::ops::RangeInclusive;
#[cfg(unix)]
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::child::{CheckKind, Probe, Ready, StopTo};
#[cfg(unix)]
use crate::descriptors;
#[cfg(unix)]
use crate::instance::MAX_SOCKET_PATH;
use crate::listen::{Address, ProgramSocket};
use crate::restart::RestartMode;
use crate::settings::{AdminSocket, Console, Forwarded, OnHup};
use crate::text::{listed, parse_seconds};

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

/// What a relay knows of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RelayKind {
    Http,
    Tcp,
}

/// Other systems do not tell which process listens where, and have no epoll.
pub(super) fn parse_relay(text: &str) -> Result<RelayKind, String> {
    match text {
        _ if cfg!(not(target_os = "linux")) => {
            Err("only Linux has a relay: use a proxy such as HAProxy or Caddy".into())
        }
        "http" => Ok(RelayKind::Http),
        "tcp" => Ok(RelayKind::Tcp),
        _ => Err("say http or tcp".into()),
    }
}

impl ValueEnum for Forwarded {
    fn value_variants<'a>() -> &'a [Forwarded] {
        &[Forwarded::Append, Forwarded::Replace, Forwarded::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Forwarded::Append => "append",
            Forwarded::Replace => "replace",
            Forwarded::Off => "off",
        }))
    }
}

/// The word for a value, as the settings have it.
pub(super) fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// How many connections there are at most, unless told otherwise.
const MOST: usize = 10_000;

/// 10,000, or fewer if the system gives fewer descriptors: some are kept for files, admin clients and refusals.
#[cfg(unix)]
fn most_with(descriptors_each: usize) -> usize {
    const KEPT: usize = 100;
    descriptors::most().map_or(MOST, |most| ((most - KEPT.min(most / 2)) / descriptors_each).clamp(1, MOST))
}

/// Windows has no such limit on handles.
#[cfg(windows)]
fn most_with(_descriptors_each: usize) -> usize {
    MOST
}

pub(super) fn default_max_connections() -> usize {
    most_with(1)
}

/// Each has a connection to the program, too.
pub(super) fn default_max_relayed() -> usize {
    most_with(2)
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
        refuse_large_port(text)?;
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
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Ok(([127, 0, 0, 1], port).into());
    }
    refuse_large_port(text)?;
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

/// The signals that ask a program to end, as they are said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Signals {
    pub(super) first: i32,
    /// How long before the deadline each of these is sent.
    pub(super) later: Vec<(i32, Duration)>,
    /// How long all of them have. None: the first one has no time of its own.
    pub(super) whole: Option<Duration>,
}

/// There are none.
///
/// # Errors
/// Always.
#[cfg(windows)]
pub fn parse_signal(_text: &str) -> Result<i32, String> {
    Err("Windows has no signals".into())
}

#[cfg(windows)]
pub(super) fn parse_stop_signals(_text: &str) -> Result<Signals, String> {
    Err("Windows has no signals: a program is asked to end by Ctrl-Break".into())
}

/// Several have a time each; only the first one needs none.
#[cfg(unix)]
pub(super) fn parse_stop_signals(text: &str) -> Result<Signals, String> {
    let step = |step: &str| match step.split_once(':') {
        Some((signal, time)) => Ok((parse_signal(signal)?, Some(parse_interval(time)?))),
        None => Ok::<_, String>((parse_signal(step)?, None)),
    };
    let steps = text.split(',').map(step).collect::<Result<Vec<_>, _>>()?;
    let mut before = Duration::ZERO;
    let mut later = Vec::new();
    for &(signal, time) in steps.iter().skip(1).rev() {
        before = before.saturating_add(time.ok_or("say how long each further signal has: QUIT:20s,TERM:5s")?);
        later.push((signal, before));
    }
    later.reverse();
    let (first, time) = steps[0];
    Ok(Signals { first, later, whole: time.map(|time| time.saturating_add(before)) })
}

pub(super) fn parse_stop_to(text: &str) -> Result<StopTo, String> {
    match text {
        _ if cfg!(windows) => Err("Windows has no signals".into()),
        "leader" => Ok(StopTo::Leader),
        "group" => Ok(StopTo::Group),
        _ => Err("say leader or group".into()),
    }
}

/// A signal's name, with or without SIG, or its number.
///
/// # Errors
/// A message for people when it is none.
#[cfg(unix)]
pub fn parse_signal(text: &str) -> Result<i32, String> {
    use nix::sys::signal::Signal;
    let name = text.to_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let number = name.parse::<i32>().ok();
    let named = || format!("SIG{name}").parse().ok();
    let ordinary =
        number.map_or_else(named, |number| Signal::try_from(number).ok()).map(|signal: Signal| signal as i32);
    let signal =
        ordinary.or_else(|| number.filter(|number| realtime().contains(number))).or_else(|| realtime_named(name));
    signal.ok_or_else(|| "say a signal: TERM, INT, QUIT, HUP, USR1, RTMIN+3 …".into())
}

/// RTMIN, RTMIN+3, RTMAX-2: counted from either end of the real-time signals.
#[cfg(unix)]
fn realtime_named(name: &str) -> Option<i32> {
    let all = realtime();
    let (end, distance) = name.split_at_checked("RTMIN".len())?;
    let signal = match (end, distance.is_empty()) {
        ("RTMIN", true) => *all.start(),
        ("RTMAX", true) => *all.end(),
        ("RTMIN", false) => all.start().checked_add(distance.strip_prefix('+')?.parse::<u8>().ok()?.into())?,
        ("RTMAX", false) => all.end().checked_sub(distance.strip_prefix('-')?.parse::<u8>().ok()?.into())?,
        _ => return None,
    };
    Some(signal).filter(|signal| all.contains(signal))
}

/// The real-time signals, which have no names of their own.
#[cfg(target_os = "linux")]
fn realtime() -> RangeInclusive<i32> {
    nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX()
}

/// None can be sent from here.
#[cfg(all(unix, not(target_os = "linux")))]
fn realtime() -> RangeInclusive<i32> {
    #[expect(clippy::reversed_empty_ranges, reason = "there are none")]
    let none = 1..=0;
    none
}

/// When a program is ready.
pub(super) fn parse_ready(text: &str) -> Result<Ready, String> {
    if let Some(probe) = parse_probe(text) {
        return probe.map(Ready::Probe);
    }
    match text {
        #[cfg(unix)]
        "notify" => Ok(Ready::Notify),
        _ => parse_seconds(text).map(Ready::After).map_err(|_| format!("say {}, or a time (2s)", listed(PROBES, "or"))),
    }
}

/// How a program is checked.
pub(super) fn parse_check(text: &str) -> Result<CheckKind, String> {
    if let Some(probe) = parse_probe(text) {
        return probe.map(CheckKind::Probe);
    }
    match text {
        #[cfg(unix)]
        "notify" => Ok(CheckKind::Notify),
        _ => Err(format!("say {}", listed(PROBES, "or"))),
    }
}

/// What there is to say for these two.
#[cfg(unix)]
const PROBES: &[&str] = &["notify", "connect=8000", "http=http://127.0.0.1:8000/health", "exec=COMMAND"];
#[cfg(windows)]
const PROBES: &[&str] = &["connect=8000", "http=http://127.0.0.1:8000/health"];

/// Something that a program answers. None: it is none of these. Without an address it is the private port.
fn parse_probe(text: &str) -> Option<Result<Probe, String>> {
    let Some((kind, what)) = text.split_once('=') else {
        return (text == "connect").then_some(Ok(Probe::PrivatePort));
    };
    match kind {
        "connect" if what == "{port}" || what.ends_with(":{port}") => Some(Ok(Probe::PrivatePort)),
        "connect" => Some(parse_any_address(what).map(Probe::Connect)),
        "http" if what.starts_with('/') => Some(format!("http://127.0.0.1:{{port}}{what}").parse().map(Probe::Http)),
        "http" => Some(what.parse().map(Probe::Http)),
        #[cfg(unix)]
        "exec" if !what.trim().is_empty() => Some(Ok(Probe::Exec(what.into()))),
        _ => None,
    }
}

/// How often something may fail.
pub(super) fn parse_failures(text: &str) -> Result<u32, String> {
    match parse_number(text)? {
        0 => Err("say 1 or more".into()),
        failures => Ok(failures),
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

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for (text, number) in [("TERM", 15), ("sigterm", 15), ("15", 15), ("INT", 2)] {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for text in ["", "SIG", "TERMS", "0", "-1", "99"] {
            assert!(parse_signal(text).is_err(), "{text} was taken");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_real_time_signal_is_counted_from_either_end() {
        let (first, last) = (nix::libc::SIGRTMIN(), nix::libc::SIGRTMAX());
        for (text, number) in
            [("RTMIN", first), ("SIGRTMIN+3", first + 3), ("rtmax-2", last - 2), ("RTMAX", last), ("40", 40)]
        {
            assert_eq!(parse_signal(text), Ok(number), "{text}");
        }
        for text in ["RTMIN-1", "RTMAX+1", "RTMIN+99", "RTMIN+", "RTMIN3", "32", "RT", "RTMINé"] {
            assert!(parse_signal(text).is_err(), "{text} was taken");
        }
    }

    #[test]
    fn signals_of_a_stop_are_counted_back_from_the_deadline() {
        let seconds = Duration::from_secs;
        let several = parse_stop_signals("QUIT:20s,TERM:5s,INT:1").unwrap();
        assert_eq!(
            several,
            Signals { first: 3, later: vec![(15, seconds(6)), (2, seconds(1))], whole: Some(seconds(26)) }
        );
        assert_eq!(parse_stop_signals("TERM").unwrap(), Signals { first: 15, later: Vec::new(), whole: None });
        assert_eq!(parse_stop_signals("QUIT,TERM:5s").unwrap().whole, None);
        for text in ["", "QUIT:20s,TERM", "QUIT:0,TERM:5s", "QUIT:", ",TERM:5s", "QUIT:20s,"] {
            assert!(parse_stop_signals(text).is_err(), "{text} was taken");
        }
    }
}
