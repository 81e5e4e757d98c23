//! How a program shows that it is ready, and that it still works, as written in settings.

use super::addresses::parse_any_address;
use crate::child::{CheckKind, Probe, Ready};
use crate::text::{listed, parse_seconds};

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

/// The valid values of these two.
#[cfg(unix)]
const PROBES: &[&str] = &["notify", "connect=8000", "http=http://127.0.0.1:8000/health", "exec=COMMAND"];
#[cfg(windows)]
const PROBES: &[&str] = &["connect=8000", "http=http://127.0.0.1:8000/health"];

/// A probe that a program answers. None: it is none of these. Without an address, the private port is meant.
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
