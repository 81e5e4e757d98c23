//! Values of settings that are words, numbers or times.

use std::num::{IntErrorKind, ParseIntError};
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::PossibleValue;

#[cfg(unix)]
use crate::descriptors;
use crate::restart::RestartMode;
use crate::settings::{AdminSocket, Console, Forwarded, OnHup};
use crate::text::parse_seconds;

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

/// What a relay knows about the bytes.
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

/// How many connections there are at most by default.
const MOST: usize = 10_000;

/// How many descriptors there are for connections: some are reserved for files, admin clients and refusals.
#[cfg(unix)]
fn descriptors_for_connections() -> usize {
    const KEPT: usize = 100;
    descriptors::most().map_or(usize::MAX, |most| most - KEPT.min(most / 2)).max(1)
}

/// Windows has no such limit on handles.
#[cfg(windows)]
fn descriptors_for_connections() -> usize {
    usize::MAX
}

pub(super) fn default_max_connections() -> usize {
    descriptors_for_connections().min(MOST)
}

/// Each client has a connection to the program, too.
pub(super) fn default_max_relayed() -> usize {
    (descriptors_for_connections() / 2).clamp(1, MOST)
}

/// With as many connections as descriptors, no command could be carried out.
pub(super) fn parse_connections(text: &str) -> Result<usize, String> {
    let (asked, most) = (parse_number::<usize>(text)?, descriptors_for_connections());
    if asked == 0 {
        return Err("say 1 or more; every client would be refused".into());
    }
    if asked <= most {
        return Ok(asked);
    }
    Err(format!(
        "the limit of file descriptors allows {most}; say {most} or fewer, or raise the hard limit (ulimit -Hn, \
         LimitNOFILE= in a unit)"
    ))
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

/// A whole number.
///
/// # Errors
/// When the text is none, or it is too great, for people.
pub fn parse_number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "that is too much",
        _ => "say a whole number (0, 5, 100)",
    })
}
