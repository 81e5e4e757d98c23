//! Parts of answers in words, for several commands.

use mastercontrol::protocol::{Activity, Delay, Drain, Report};
use mastercontrol::text::{self, countdown, describe_forced, describe_seen, summary};

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
    lines.extend(report.held_up_by.iter().map(|connection| format!("  held up by {}", describe_seen(connection))));
    lines.join("\n")
}

/// The smaller the number, the longer it may hold up a drain: an idle connection has been notified or closed at once.
pub(crate) fn holds_up(activity: &Activity) -> u8 {
    match activity {
        Activity::Stuck => 0,
        Activity::Busy => 1,
        Activity::Draining => 2,
        Activity::Held => 3,
        Activity::Idle => 4,
        // From a newer supervisor.
        Activity::Other(_) => 5,
    }
}

/// A bar of this width, filled to this part.
pub(crate) fn bar(part: f64, width: usize) -> String {
    let full = ((part.clamp(0.0, 1.0) * width as f64).ceil() as usize).min(width);
    "█".repeat(full) + &"░".repeat(width - full)
}

/// As many whole words of a line as fit into this many columns. Shows that some are missing.
pub(crate) fn shorten(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    let room: String = line.chars().take(columns.saturating_sub(1)).collect();
    // A word that would be cut in the middle is left out, unless nothing would remain.
    let is_cut = line[room.len()..].chars().next().is_some_and(|next| next.is_alphanumeric());
    let whole = match room.trim_end().rfind(' ') {
        Some(end) if is_cut && !room[..end].trim().is_empty() => &room[..end],
        Some(_) | None => &room,
    };
    let whole = whole.trim_end().trim_end_matches([',', ':', ';']);
    if columns == 0 { String::new() } else { format!("{whole}…") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_too_long_ends_behind_a_word() {
        for (columns, expected) in [
            (80, "two clients, one left"),
            (21, "two clients, one left"),
            (20, "two clients, one…"),
            (16, "two clients…"),
            (17, "two clients, one…"),
            (11, "two…"),
            (12, "two clients…"),
            (3, "tw…"),
            (1, "…"),
            (0, ""),
        ] {
            let short = shorten("two clients, one left", columns);
            assert_eq!(short, expected, "{columns}");
            assert!(short.chars().count() <= columns);
        }
        assert_eq!(shorten("äöü äöü", 5), "äöü…");
    }

    #[test]
    fn a_bar_is_full_at_one_and_empty_at_zero() {
        assert_eq!(
            [0.0, 0.01, 0.5, 1.0, 2.0, f64::NAN].map(|part| bar(part, 4)),
            ["░░░░", "█░░░", "██░░", "████", "████", "░░░░"]
        );
    }
}
