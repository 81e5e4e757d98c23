//! Data goes to stdout, messages to stderr.

use std::io::{self, IsTerminal, Write};

use mastercontrol::protocol::Progress;
use mastercontrol::text::{self, countdown, describe, describe_restart};

use crate::failure::Failure;

/// How many connections the live line names.
const NAMED: usize = 2;

/// Writes a line of data. A reader that has gone away, as `head` does, is no failure; a full disk is one.
pub(crate) fn data(line: &str) -> Result<(), Failure> {
    match try_data(line) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::writing(&error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes a line of data, of which there are more if this one finds a reader.
pub(crate) fn try_data(line: &str) -> io::Result<()> {
    writeln!(io::stdout().lock(), "{line}")
}

/// Writes a line for people.
pub(crate) fn message(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Asks whoever sits at the terminal. None: nobody does.
pub(crate) fn ask(question: &str) -> Option<String> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    let _ = write!(io::stderr().lock(), "{question} ");
    let mut answer = String::new();
    let _ = io::stdin().read_line(&mut answer);
    Some(answer.trim().to_owned())
}

/// Lines whose columns are as wide as what is in them.
pub(crate) fn table<const N: usize>(rows: Vec<[String; N]>) -> Vec<String> {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

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
            Progress::Serving { generation } => format!("generation {generation} serves"),
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
