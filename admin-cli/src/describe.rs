//! Parts of answers in words, for several commands.

use mastercontrol::protocol::{Activity, Delay, Drain, Report};
use mastercontrol::text::{self, countdown, describe_forced, summary};

pub(crate) fn describe_delay(delay: &Delay) -> String {
    format!("{}, requested by {}", text::delay(delay), delay.by)
}

pub(crate) fn describe_drain(drain: &Drain) -> String {
    let what = match drain.generation {
        None => "stopping".into(),
        Some(generation) => format!("generation {generation} draining"),
    };
    format!("{what}, requested by {}: {}", drain.by, countdown(drain))
}

pub(crate) fn describe_report(report: &Report) -> String {
    let mut lines = vec![summary(report)];
    lines.extend(report.connections.iter().map(|connection| format!("  forced: {}", describe_forced(connection))));
    let more = report.forced.saturating_sub(report.connections.len());
    if more > 0 {
        lines.push(format!("  and {more} more"));
    }
    lines.join("\n")
}

/// The smaller, the longer it may hold up a drain: an idle connection has been told at once, or closed.
pub(crate) fn holds_up(activity: &Activity) -> u8 {
    match activity {
        Activity::Stuck => 0,
        Activity::Busy => 1,
        Activity::Draining => 2,
        Activity::Idle => 3,
        // Of a newer supervisor.
        Activity::Other(_) => 4,
    }
}
