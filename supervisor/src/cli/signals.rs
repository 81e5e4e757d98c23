//! Signals, as written in settings, and which processes get them.

use std::time::Duration;

#[cfg(unix)]
use super::values::parse_interval;
use crate::child::StopTo;
#[cfg(unix)]
use crate::server::program_end::REAL_TIME;
#[cfg(windows)]
use crate::settings::OnHup;
#[cfg(unix)]
use crate::text::limit_ms;

/// A file that is also meant for other systems may set what is done here anyway.
#[cfg(windows)]
pub(super) fn parse_on_hup(text: &str) -> Result<OnHup, String> {
    match text {
        "stop" => Ok(OnHup::Stop),
        _ => Err("Windows has no signals: say admin-cli restart instead".into()),
    }
}

/// The signals that ask a program to end, as given.
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

/// If there are several, each has a time; only the first one needs none.
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
        if limit_ms(before).is_none() {
            return Err("only the first signal can have a time without end: QUIT:infinity,TERM:5s".into());
        }
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

/// A signal by its name, with or without SIG, or by its number.
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
        ordinary.or_else(|| number.filter(|number| REAL_TIME.contains(number))).or_else(|| realtime_named(name));
    signal.ok_or_else(|| "say a signal: TERM, INT, QUIT, HUP, USR1, RTMIN+3 …".into())
}

/// RTMIN, RTMIN+3, RTMAX-2: counted from either end of the real-time signals.
#[cfg(unix)]
fn realtime_named(name: &str) -> Option<i32> {
    let all = REAL_TIME;
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
        for (text, number) in [("RTMIN", 34), ("SIGRTMIN+3", 37), ("rtmax-2", 62), ("RTMAX", 64), ("40", 40)] {
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
        for text in ["", "QUIT:20s,TERM:infinity", "QUIT:20s,TERM", "QUIT:0,TERM:5s", "QUIT:", ",TERM:5s", "QUIT:20s,"]
        {
            assert!(parse_stop_signals(text).is_err(), "{text} was taken");
        }
    }
}
