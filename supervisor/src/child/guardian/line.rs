//! The messages between the supervisor and a guardian: one line each.

use std::fmt;
use std::time::Duration;

use crate::child::stop_signals::StopSignals;
use crate::server::program_end::ProgramEnd;
use crate::text::milliseconds;

/// A request from the supervisor to a guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Order {
    /// `stop SIGNALS MILLISECONDS`: sends the signals, the first one now, and at the end of this time KILL to all
    /// remaining processes. With 0 milliseconds it sends only KILL. A further stop only moves the deadline.
    Stop { signals: StopSignals, within: Duration },
    /// `signal NUMBER`: to the program itself.
    Signal(i32),
}

/// A message from a guardian.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Report {
    /// `started PID`: the program runs.
    Started(u32),
    /// `cannot-start CODE MESSAGE`: the program does not run. The code is the one that a shell uses for this.
    CannotStart { code: u8, message: String },
    /// `suspended PID SIGNAL`: the program was stopped by a signal, until SIGCONT.
    Suspended { pid: u32, signal: i32 },
    /// `ended exit CODE` or `ended signal NUMBER`: the program itself has ended. Processes that it started may be left.
    /// (`ended unguarded` stands for a guardian that was killed.)
    Ended(ProgramEnd),
    /// `gone KILLED`: nothing is left, and this many processes had to be killed. The guardian ends.
    Gone { killed: usize },
}

impl fmt::Display for Order {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Order::Stop { signals, within } => write!(formatter, "stop {signals} {}", milliseconds(*within)),
            Order::Signal(signal) => write!(formatter, "signal {signal}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Report::Started(pid) => write!(formatter, "started {pid}"),
            Report::CannotStart { code, message } => {
                write!(formatter, "cannot-start {code} {}", message.replace('\n', " "))
            }
            Report::Suspended { pid, signal } => write!(formatter, "suspended {pid} {signal}"),
            Report::Ended(ProgramEnd::Exited(code)) => write!(formatter, "ended exit {code}"),
            Report::Ended(ProgramEnd::Signaled(signal)) => write!(formatter, "ended signal {signal}"),
            Report::Ended(ProgramEnd::Unguarded) => write!(formatter, "ended unguarded"),
            Report::Gone { killed } => write!(formatter, "gone {killed}"),
        }
    }
}

impl Order {
    /// None: it is not an order.
    pub(super) fn parse(line: &str) -> Option<Order> {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["stop", signals, within] => {
                let within = Duration::from_millis(within.parse().ok()?);
                Some(Order::Stop { signals: StopSignals::parse(signals)?, within })
            }
            ["signal", signal] => Some(Order::Signal(signal.parse().ok()?)),
            _ => None,
        }
    }
}

impl Report {
    /// None: it is not a report.
    pub(super) fn parse(line: &str) -> Option<Report> {
        let (what, rest) = line.split_once(' ')?;
        match what {
            "started" => Some(Report::Started(rest.parse().ok()?)),
            "cannot-start" => {
                let (code, message) = rest.split_once(' ')?;
                Some(Report::CannotStart { code: code.parse().ok()?, message: message.into() })
            }
            "suspended" => {
                let (pid, signal) = rest.split_once(' ')?;
                Some(Report::Suspended { pid: pid.parse().ok()?, signal: signal.parse().ok()? })
            }
            "ended" => match rest.split(' ').collect::<Vec<_>>()[..] {
                ["exit", code] => Some(Report::Ended(ProgramEnd::Exited(code.parse().ok()?))),
                ["signal", signal] => Some(Report::Ended(ProgramEnd::Signaled(signal.parse().ok()?))),
                ["unguarded"] => Some(Report::Ended(ProgramEnd::Unguarded)),
                _ => None,
            },
            "gone" => Some(Report::Gone { killed: rest.parse().ok()? }),
            _ => None,
        }
    }
}

/// Assembles lines from pieces.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.0.extend_from_slice(piece);
    }

    /// Takes the complete lines.
    pub(super) fn take(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = self.0.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            lines.push(String::from_utf8_lossy(&line[..end]).into_owned());
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use crate::child::stop_signals::StopTo;

    proptest! {
        #[test]
        fn each_order_is_understood(
            signal in any::<i32>(),
            later in vec((any::<i32>(), any::<u64>()), 0..4),
            within in any::<u64>(),
            leader in any::<bool>(),
        ) {
            let within = Duration::from_millis(within);
            let later = later.into_iter().map(|(signal, before)| (signal, Duration::from_millis(before))).collect();
            let to = if leader { StopTo::Leader } else { StopTo::Group };
            let signals = StopSignals { first: signal, later, to };
            for order in [Order::Stop { signals, within }, Order::Signal(signal)] {
                prop_assert_eq!(Order::parse(&order.to_string()), Some(order));
            }
        }

        #[test]
        fn each_report_is_understood(number in any::<i32>(), pid in any::<u32>(), code in any::<u8>(), message in "[^\n]*") {
            for report in [
                Report::Started(pid),
                Report::CannotStart { code, message: message.clone() },
                Report::Suspended { pid, signal: number },
                Report::Ended(ProgramEnd::Exited(number)),
                Report::Ended(ProgramEnd::Signaled(number)),
                Report::Ended(ProgramEnd::Unguarded),
                Report::Gone { killed: usize::from(code) },
            ] {
                prop_assert_eq!(Report::parse(&report.to_string()), Some(report));
            }
        }

        #[test]
        fn anything_else_is_neither(line in ".*") {
            let _ = (Order::parse(&line), Report::parse(&line));
        }
    }

    #[test]
    fn lines_come_in_pieces() {
        let mut lines = Lines::default();
        lines.push(b"gone");
        assert_eq!(lines.take(), Vec::<String>::new());
        lines.push(b" 1\nstarted 5\nend");
        assert_eq!(lines.take(), ["gone 1", "started 5"]);
        lines.push(b"ed\n");
        assert_eq!(lines.take(), ["ended"]);
    }
}
