//! One line on the terminal that is written over.

use std::io::{self, IsTerminal, Write};

use mastercontrol::protocol::Progress;
use mastercontrol::text::{self, countdown, describe, describe_restart};

/// How many connections the live line names.
const NAMED: usize = 2;

/// Shows how things go in one line that is written over, if stderr is a terminal. The line is gone when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct LiveLine {
    terminal: bool,
}

impl LiveLine {
    pub(crate) fn new() -> LiveLine {
        LiveLine { terminal: io::stderr().is_terminal() }
    }

    /// Whether anybody sees it.
    pub(crate) fn is_shown(&self) -> bool {
        self.terminal
    }

    pub(crate) fn show(&self, progress: &Progress) {
        let line = match progress {
            Progress::Draining(drain) => {
                let named: Vec<_> = drain.connections.iter().take(NAMED).map(describe).collect();
                let more = if drain.open > named.len() { "; …" } else { "" };
                let named = if named.is_empty() { String::new() } else { format!(": {}", named.join("; ")) };
                format!("{}{named}{more}", countdown(drain))
            }
            Progress::Closing { connection } => format!("closing {}", describe(connection)),
            Progress::Delayed(delay) => text::delay(delay),
            Progress::Connections { .. } => return,
            Progress::Restarting { ahead } => describe_restart(*ahead),
            Progress::Outage { generation } => {
                format!("outage: generation {generation} ends before the next one starts")
            }
            Progress::Serving { generation } => format!("generation {generation} is ready"),
            Progress::Journal { .. } => return,
        };
        self.say(&line);
    }

    pub(crate) fn say(&self, line: &str) {
        if self.terminal {
            // Cut off at the edge instead of wrapped: only one line can be written over.
            let _ = write!(io::stderr().lock(), "\r\x1b[K\x1b[?7l{line}\x1b[?7h");
        }
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
