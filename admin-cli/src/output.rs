//! Data goes to stdout, messages to stderr.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use supervisor::protocol::Drain;
use supervisor::text::{Count, Seconds, describe};

/// How many connections the live line names.
const NAMED: usize = 2;

/// Writes a line of data. A reader that has gone away, as `head` does, is no failure.
pub(crate) fn data(line: &str) {
    let _ = writeln!(io::stdout().lock(), "{line}");
}

/// Writes a line for people.
pub(crate) fn message(line: &str) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Shows how a drain goes in one line that is written over, if stderr is a terminal. The line is gone when this is
/// dropped.
#[derive(Debug)]
pub(crate) struct LiveLine {
    terminal: bool,
}

impl LiveLine {
    pub(crate) fn new() -> LiveLine {
        LiveLine { terminal: io::stderr().is_terminal() }
    }

    pub(crate) fn show(&self, drain: &Drain) {
        if !self.terminal || drain.left == 0 {
            return;
        }
        let to_go = Seconds(Duration::from_millis(drain.remaining_ms));
        let mut line = format!("{} left, {to_go} to go", Count(drain.left, "client"));
        let named: Vec<_> = drain.connections.iter().take(NAMED).map(describe).collect();
        if !named.is_empty() {
            line = format!("{line}: {}", named.join("; "));
        }
        if drain.left > named.len() {
            line.push_str("; …");
        }
        let _ = write!(io::stderr().lock(), "\r\x1b[K{line}");
    }
}

impl Drop for LiveLine {
    fn drop(&mut self) {
        if self.terminal {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
