//! Words for people: the same in the log and in `admin-cli`.
//!
//! Functions put a part of an answer or an event into a sentence, and types show a number, a time or an error in the
//! same way everywhere:
//!
//! ```
//! use std::time::Duration;
//! use mastercontrol::text::{Count, Seconds};
//!
//! assert_eq!(Count(2, "client").to_string(), "2 clients");
//! assert_eq!(Seconds(Duration::from_millis(740)).to_string(), "740 ms");
//! ```

mod time;

use std::fmt;
use std::io;
use std::time::Duration;

use chrono::{DateTime, Local};
use serde_json::Value;

use crate::protocol::{
    Activity, Change, Connection, Delay, Drain, Entry, Level, Outcome, Pause, ProgramConnection, Report, State, Status,
    Undone,
};

pub(crate) use time::limit_ms;
pub use time::{Age, Seconds, ToGo, milliseconds, parse_seconds};

/// How a time is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clock {
    /// In UTC by RFC 3339: for files, and for other programs.
    Utc,
    /// The local date and time, for people.
    Local,
    /// The local time, for people who watch as it happens.
    LocalTime,
}

impl Clock {
    /// The time of an entry.
    fn show(self, time: &str) -> String {
        let format = match self {
            Clock::Utc => return time.to_owned(),
            Clock::Local => "%F %T",
            Clock::LocalTime => "%T",
        };
        match DateTime::parse_from_rfc3339(time) {
            Ok(time) => time.with_timezone(&Local).format(format).to_string(),
            // It came from elsewhere.
            Err(_) => time.to_owned(),
        }
    }
}

/// An entry of the journal for readers who do not see what the program writes: with its last output.
pub fn entry(entry: &Entry, clock: Clock) -> String {
    let wrote = entry.fields.get("last_output").and_then(Value::as_array).into_iter().flatten();
    let wrote: String = wrote.filter_map(Value::as_str).map(|line| format!("\n  | {line}")).collect();
    line(entry, clock) + &wrote
}

/// An entry of the journal in one line.
pub fn line(entry: &Entry, clock: Clock) -> String {
    let weight = match entry.level {
        Level::Detail | Level::Info => "",
        Level::Warning => "warning: ",
        Level::Error => "error: ",
    };
    format!("{} {weight}{}", clock.show(&entry.time), entry.message)
}

/// How many clients are still connected, and for how long they may be. Only the latter if there are none, as with a
/// program whose clients are unknown.
pub fn countdown(drain: &Drain) -> String {
    let whom = drain.generation.map(|generation| format!(" to generation {generation}")).unwrap_or_default();
    let open = match drain.open {
        0 => String::new(),
        open => format!("{} still connected{whom}, ", Count(open, "client")),
    };
    format!("{open}{}", ToGo(drain.remaining_ms))
}

/// A scheduled stop.
pub fn delay(delay: &Delay) -> String {
    format!("not ready for new clients, {}", scheduled(delay.remaining_ms.map(whole_seconds)))
}

/// When a scheduled stop begins. Without a time, a second request begins it.
pub(crate) fn scheduled(remaining: Option<Seconds>) -> String {
    match remaining {
        Some(remaining) => format!("stopping in {remaining}"),
        None => "stopping when a stop is requested again".into(),
    }
}

/// Rounded up, for a time that is counted down.
fn whole_seconds(ms: u64) -> Seconds {
    Seconds(Duration::from_secs(ms.div_ceil(1000)))
}

/// A pause.
pub fn pause(pause: &Pause) -> String {
    let most = pause.remaining_ms.map(|ms| format!(", {}", ToGo(Some(ms)))).unwrap_or_default();
    format!("paused for {} s{most}", pause.paused_ms / 1000)
}

/// Where a server is found: its addresses, or the program that binds its own.
pub fn place(status: &Status) -> String {
    match (&status.all_addresses()[..], &status.program) {
        ([], Some(program)) => program.clone(),
        ([], None) => "-".into(),
        (addresses, _) => listed(addresses, "and"),
    }
}

/// The status of a supervisor, in one line.
pub fn status_line(status: &Status) -> String {
    let Status { name, state, generation, connections, uptime_ms, .. } = status;
    let not_ready = match &status.delay {
        Some(stop) => format!(", {}", delay(stop)),
        None if status.unavailable.is_some() => format!(", {}", readiness(status)),
        None if serves(status) && !status.ready => ", not ready for new clients".into(),
        None => String::new(),
    };
    let not_ready = match &status.pause {
        Some(paused) => format!("{not_ready}, {}", pause(paused)),
        None => not_ready,
    };
    let how = match (&status.drain, &status.last_end) {
        (Some(drain), _) => format!(", {}", countdown(drain)),
        (None, Some(end)) if *state == State::Waiting => {
            let next_try = Age(Duration::from_millis(status.next_try_ms.unwrap_or(0)));
            format!(", next try in {next_try}, last end: {}", end.reason)
        }
        (None, _) => String::new(),
    };
    let open = connections.map(|connections| format!(", {}", Count(connections.now, "connection"))).unwrap_or_default();
    let up = Age(Duration::from_millis(*uptime_ms));
    format!("{name} on {}: {state}{not_ready}, generation {generation}{open}, up {up}{how}", place(status))
}

/// Whether new clients may be sent there and, if not, why, and for how long.
pub fn readiness(status: &Status) -> String {
    if status.ready {
        return "ready".into();
    }
    let why = match (&status.delay, &status.state) {
        (Some(stop), _) => scheduled(stop.remaining_ms.map(whole_seconds)),
        (None, _) if serves(status) => status.unavailable.clone().unwrap_or_else(|| "by request".into()),
        (None, state @ State::Draining) => {
            let remaining = status.drain.as_ref().map_or(Some(0), |drain| drain.remaining_ms);
            format!("{state}, {}", ToGo(remaining))
        }
        (None, state @ State::Waiting) => match status.next_try_ms {
            Some(next_try_ms @ 1..) => format!("{state}, next try in {} s", next_try_ms.div_ceil(1000)),
            Some(0) | None => format!("{state}, trying now"),
        },
        (None, state @ (State::Starting | State::Serving | State::Restarting | State::Other(_))) => {
            status.unavailable.clone().unwrap_or_else(|| state.to_string())
        }
    };
    format!("not ready: {why}")
}

/// Whether a server is running, be it ready for new clients or not.
fn serves(status: &Status) -> bool {
    match status.state {
        State::Serving => true,
        // Between two programs that cannot run side by side, none runs.
        State::Restarting => status.program.is_none() || status.program_pid.is_some(),
        State::Starting | State::Waiting | State::Draining | State::Other(_) => false,
    }
}

/// How a generation differs from the one before.
pub fn change(change: &Change) -> String {
    let Change { name, from, to } = change;
    match (from, to) {
        (Some(from), Some(to)) => format!("{name} {from} -> {to}"),
        (None, Some(to)) => format!("{name} {to} (new)"),
        (Some(from), None) => format!("{name} {from} (removed)"),
        (None, None) => format!("{name} (not shown)"),
    }
}

/// A requested restart.
pub fn describe_restart(ahead: usize) -> String {
    match ahead {
        0 => "restarting".into(),
        ahead => format!("waiting for {}", Count(ahead, "other restart")),
    }
}

/// What `resume` undid.
pub fn undone(undone: &Undone) -> String {
    match undone {
        Undone::Drain => "the drain is cancelled".into(),
        Undone::Stop => "the stop is cancelled".into(),
        Undone::Pause => "the pause is over".into(),
        Undone::Other(word) => format!("the {word} is cancelled"),
    }
}

/// A connection that was closed by force, and why that was necessary.
pub fn describe_forced(connection: &Connection) -> String {
    match connection.activity {
        Activity::Draining => {
            format!("connection {} from {} was notified but did not disconnect", connection.id, connection.peer)
        }
        _ => describe(connection),
    }
}

/// A connection, and what it is doing.
pub fn describe(connection: &Connection) -> String {
    format!("connection {} from {}, {}", connection.id, connection.peer, connection.activity)
}

/// A connection of a program, and what is known about it.
pub fn describe_seen(connection: &ProgramConnection) -> String {
    let ProgramConnection { peer, state, pid, receive_queue, send_queue, .. } = connection;
    let process = pid.map(|pid| format!(" of process {pid}")).unwrap_or_default();
    let mut text = format!("connection{process} from {peer}, {state}");
    if *receive_queue > 0 {
        text += &format!(", {} unread", Count(usize::try_from(*receive_queue).unwrap_or(usize::MAX), "byte"));
    }
    if *send_queue > 0 {
        text += &format!(", {} unsent", Count(usize::try_from(*send_queue).unwrap_or(usize::MAX), "byte"));
    }
    text
}

/// How a connection that was closed on request ended.
pub fn describe_closed(id: u64, outcome: &Outcome) -> String {
    let how = match outcome {
        Outcome::Disconnected => "disconnected",
        Outcome::Closed => "closed",
        Outcome::Forced => "forced",
        Outcome::Stuck => "forced, but its handler hangs",
        Outcome::Other(word) => return format!("connection {id}: {word}"),
    };
    format!("connection {id} {how}")
}

/// The signals that kill a program or report a crash of it. Any other one asked it to end.
const FATAL: [&str; 7] = ["SIGABRT", "SIGBUS", "SIGFPE", "SIGILL", "SIGKILL", "SIGSEGV", "SIGSYS"];

/// A stop in one line.
pub fn summary(report: &Report) -> String {
    let took = match report.took_ms {
        0 => "under 1 ms".into(),
        took => Seconds(Duration::from_millis(took)).to_string(),
    };
    let Report { notified, disconnected, closed, forced, .. } = report;
    let clients = match (*notified, *disconnected, *closed, *forced) {
        (0, 0, 0, 0) => String::new(),
        _ => format!(": {notified} notified, {disconnected} disconnected, {closed} closed, {forced} forced"),
    };
    if let Some(program) = &report.program {
        let program = ["it was ", "it "].into_iter().find_map(|prefix| program.strip_prefix(prefix)).unwrap_or(program);
        let end = match program.strip_prefix("killed by ") {
            Some(signal) if !FATAL.contains(&signal) => format!("exited on {signal}"),
            Some(_) | None => program.to_owned(),
        };
        return match report.killed {
            0 => format!("stopped in {took}{clients} ({end})"),
            killed => format!("stopped in {took}{clients} ({end}, {} had to be killed)", Count(killed, "process")),
        };
    }
    let stuck = match report.stuck {
        0 => String::new(),
        stuck => format!(", {} could not be ended", Count(stuck, "handler")),
    };
    format!("stopped in {took}{clients}{stuck}")
}

/// A number of things, in the singular or plural.
#[derive(Debug, Clone, Copy)]
pub struct Count(pub usize, pub &'static str);

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Count(number, thing) = self;
        let ending = match number {
            1 => "",
            _ if thing.ends_with('s') || thing.ends_with("sh") => "es",
            _ => "s",
        };
        write!(formatter, "{number} {thing}{ending}")
    }
}

/// A list in words: `a, b and c`, with `and` or `or` between the last two.
pub fn listed<S: AsRef<str>>(words: &[S], between: &str) -> String {
    let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
    match &words[..] {
        [most @ .., last] if !most.is_empty() => format!("{} {between} {last}", most.join(", ")),
        _ => words.concat(),
    }
}

/// The last lines of a program, below the reason why it ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastWords<'a>(pub(crate) &'a [String]);

impl fmt::Display for LastWords<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            lines => {
                formatter.write_str("\nThe last output of the program:")?;
                lines.iter().try_for_each(|line| write!(formatter, "\n  | {line}"))
            }
        }
    }
}

/// What the system said, without its number.
#[derive(Debug, Clone, Copy)]
pub struct Reason<'a>(pub &'a io::Error);

impl fmt::Display for Reason<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        formatter.write_str(text.split_once(" (os error ").map_or(text.as_str(), |(reason, _)| reason))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A status with these fields.
    fn status_with(fields: Value) -> Status {
        let mut status = serde_json::json!({
            "name": "x", "kind": "echo", "state": "serving", "pid": 1, "uptime_ms": 1, "version": "1",
            "connections": { "now": 0, "total": 0, "refused": 0 },
        });
        status.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        serde_json::from_value(status).unwrap()
    }

    fn readiness_with(fields: Value) -> String {
        readiness(&status_with(fields))
    }

    #[test]
    fn who_is_not_ready_says_why_and_for_how_long() {
        let drain = serde_json::json!({ "by": "SIGTERM", "open": 3, "remaining_ms": 11_001, "connections": [] });
        let delay = serde_json::json!({ "by": "SIGTERM", "remaining_ms": 4000 });
        for (fields, text) in [
            (serde_json::json!({ "ready": true }), "ready"),
            // The drain is that of an old generation.
            (serde_json::json!({ "ready": true, "state": "restarting", "drain": drain }), "ready"),
            (serde_json::json!({ "state": "starting" }), "not ready: starting"),
            (serde_json::json!({ "state": "draining", "drain": drain }), "not ready: draining, 12 s to go"),
            (serde_json::json!({ "state": "waiting", "next_try_ms": 1 }), "not ready: waiting, next try in 1 s"),
            (serde_json::json!({ "state": "waiting", "next_try_ms": 0 }), "not ready: waiting, trying now"),
            (serde_json::json!({ "state": "restarting", "drain": drain }), "not ready: by request"),
            (serde_json::json!({ "state": "restarting", "program": "x", "program_pid": 2 }), "not ready: by request"),
            // Between two programs none runs.
            (serde_json::json!({ "state": "restarting", "program": "x" }), "not ready: restarting"),
            (serde_json::json!({ "delay": delay }), "not ready: stopping in 4 s"),
            (serde_json::json!({}), "not ready: by request"),
            (serde_json::json!({ "unavailable": "no directory" }), "not ready: no directory"),
        ] {
            assert_eq!(readiness_with(fields.clone()), text, "{fields}");
        }
    }

    #[test]
    fn in_one_line_a_server_that_is_restarted_may_be_not_ready_by_request() {
        let line = |fields| status_line(&status_with(fields));
        let not_ready = ", not ready for new clients, generation 0";
        for state in ["serving", "restarting"] {
            let shown = line(serde_json::json!({ "state": state }));
            assert!(shown.contains(&format!(": {state}{not_ready}")), "{shown}");
        }
        let shown = line(serde_json::json!({ "state": "restarting", "ready": true }));
        assert!(shown.contains(": restarting, generation 0"), "{shown}");
    }

    #[test]
    fn the_last_output_stands_below_its_event_and_times_are_local_for_people() {
        let fields = serde_json::json!({
            "seq": 1, "time": "2026-01-31T12:00:00.000Z", "level": "error", "event": "crashed",
            "message": "it crashed", "last_output": ["one", "two"],
        });
        let crash: Entry = serde_json::from_value(fields).unwrap();
        assert_eq!(entry(&crash, Clock::Utc), "2026-01-31T12:00:00.000Z error: it crashed\n  | one\n  | two");
        let shown = line(&crash, Clock::LocalTime);
        let time = DateTime::parse_from_rfc3339(&crash.time).unwrap().with_timezone(&Local).format("%H:%M:%S");
        assert_eq!(shown, format!("{time} error: it crashed"));
        assert!(line(&crash, Clock::Local).ends_with(&shown));
        // The time of a newer supervisor is shown as it is.
        assert_eq!(line(&Entry { time: "soon".into(), ..crash }, Clock::Local), "soon error: it crashed");
    }

    #[test]
    fn a_list_has_a_word_before_its_last() {
        for (words, text) in [(&["a"][..], "a"), (&["a", "b"], "a or b"), (&["a", "b", "c"], "a, b or c"), (&[], "")] {
            assert_eq!(listed(words, "or"), text);
        }
    }

    #[test]
    fn what_the_system_said_comes_without_its_number() {
        let error = io::Error::from_raw_os_error(2);
        assert!(error.to_string().contains("os error"));
        assert!(!Reason(&error).to_string().contains("os error"));
    }

    #[test]
    fn a_number_of_things_is_one_or_several() {
        let texts =
            [(1, "client"), (0, "client"), (2, "process"), (3, "crash")].map(|(n, thing)| Count(n, thing).to_string());
        assert_eq!(texts, ["1 client", "0 clients", "2 processes", "3 crashes"]);
    }

    #[test]
    fn a_program_that_was_asked_to_end_and_did_so_was_not_killed() {
        for (program, killed, text) in [
            ("it was killed by SIGTERM", 0, "exited on SIGTERM"),
            ("it was killed by SIGTERM", 1, "exited on SIGTERM, 1 process had to be killed"),
            ("it was killed by SIGRTMIN+3", 0, "exited on SIGRTMIN+3"),
            ("it was killed by SIGKILL", 2, "killed by SIGKILL, 2 processes had to be killed"),
            // By something else, or by its own fault.
            ("it was killed by SIGKILL", 0, "killed by SIGKILL"),
            ("it was killed by SIGSEGV", 0, "killed by SIGSEGV"),
            ("it exited with code 0", 0, "exited with code 0"),
        ] {
            let report = serde_json::json!({
                "by": "x", "notified": 0, "disconnected": 0, "closed": 0, "forced": 0, "stuck": 0, "took_ms": 2,
                "connections": [], "program": program, "killed": killed,
            });
            let mut report = serde_json::from_value(report).unwrap();
            assert_eq!(summary(&report), format!("stopped in 2 ms ({text})"));
            // The clients of a program behind a relay are known.
            report.closed = 3;
            let clients = "0 notified, 0 disconnected, 3 closed, 0 forced";
            assert_eq!(summary(&report), format!("stopped in 2 ms: {clients} ({text})"));
        }
    }
}
