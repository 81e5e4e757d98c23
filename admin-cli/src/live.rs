//! One line on the terminal that is overwritten.

use std::cell::Cell;
use std::io::{self, IsTerminal, Write};

use mastercontrol::protocol::{Drain, Progress};
use mastercontrol::text::{self, Count, ToGo, describe, describe_restart, describe_seen};
use ratatui::crossterm::terminal;

use crate::describe::{bar, shorten};

/// How many connections the live line names.
const NAMED: usize = 2;

/// How wide its bars are.
const BAR: usize = 10;

/// Shows progress in one line that is overwritten, if stderr is a terminal. Dropping it clears the line.
#[derive(Debug)]
pub(crate) struct LiveLine {
    terminal: bool,
    /// Whether there is a line to clear.
    is_said: Cell<bool>,
    /// The most clients and the most time, in milliseconds, that a drain was seen to have: its bars are full at these.
    most: Cell<(usize, u64)>,
}

impl LiveLine {
    pub(crate) fn new() -> LiveLine {
        LiveLine { terminal: is_on_terminal(), is_said: Cell::default(), most: Cell::default() }
    }

    /// Whether it is on a terminal.
    pub(crate) fn is_shown(&self) -> bool {
        self.terminal
    }

    pub(crate) fn show(&self, progress: &Progress) {
        let line = match progress {
            Progress::Draining(drain) => {
                let connections = drain.connections.iter().map(describe);
                let connections = connections.chain(drain.program_connections.iter().map(describe_seen));
                let named: Vec<_> = connections.take(NAMED).collect();
                let more = if drain.open > named.len() { "; …" } else { "" };
                let named = if named.is_empty() { String::new() } else { format!(": {}", named.join("; ")) };
                format!("{}{named}{more}", self.bars(drain))
            }
            Progress::Closing { connection } => format!("closing {}", describe(connection)),
            Progress::Delayed(delay) => text::delay(delay),
            Progress::Connections { .. } | Progress::ProgramConnections { .. } => return,
            Progress::Restarting { ahead } => describe_restart(*ahead),
            Progress::Outage { generation } => {
                format!("outage: generation {generation} ends before the next one starts")
            }
            Progress::Serving { generation } => format!("generation {generation} is ready"),
            Progress::Paused { under_way, .. } => format!("paused; waiting for {}", Count(*under_way, "request")),
            Progress::Journal { .. } => return,
        };
        self.say(&line);
    }

    /// The number of clients and the remaining time, each with a bar.
    fn bars(&self, drain: &Drain) -> String {
        let most = self.most.get();
        let (clients, time) = (most.0.max(drain.open), most.1.max(drain.remaining_ms.unwrap_or(0)));
        self.most.set((clients, time));
        let to_go = ToGo(drain.remaining_ms);
        let to_go = match drain.remaining_ms {
            Some(ms) => format!("{to_go} {}", bar(ms as f64 / time.max(1) as f64, BAR)),
            None => to_go.to_string(),
        };
        match drain.open {
            // A program's clients may be unknown.
            0 => to_go,
            open => {
                let whom =
                    drain.generation.map(|generation| format!(" to generation {generation}")).unwrap_or_default();
                let bar = bar(open as f64 / clients as f64, BAR);
                format!("{} still connected{whom} {bar}, {to_go}", Count(open, "client"))
            }
        }
    }

    pub(crate) fn say(&self, line: &str) {
        if self.terminal {
            // Only a single line can be overwritten.
            let columns =
                terminal::size().ok().map(|(columns, _)| columns).filter(|&columns| columns > 0).unwrap_or(80);
            let line = shorten(line, usize::from(columns));
            // Cut off at the edge instead of wrapped, in case the terminal has become narrower.
            let shown = format!("\r\x1b[K\x1b[?7l{line}\x1b[?7h");
            let _ = io::stderr().write_all(shown.as_bytes());
            self.is_said.set(true);
        }
    }

    /// Clears the line, so that others can write there.
    pub(crate) fn clear(&self) {
        if self.is_said.take() {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// Whether stderr is a terminal on which a line can be overwritten.
fn is_on_terminal() -> bool {
    // On Windows this asks the console to understand the escape sequences.
    #[cfg(windows)]
    if !ratatui::crossterm::ansi_support::supports_ansi() {
        return false;
    }
    io::stderr().is_terminal()
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        self.clear();
    }
}
