//! How a program is asked to end.

use std::fmt;
use std::time::Duration;

/// The signals that ask a program to end, one after the other, and where they go. At the deadline KILL goes to all that
/// is left in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSignals {
    /// The one that begins a stop.
    pub first: i32,
    /// Those that follow if that does not help, and how long before the deadline each is sent.
    pub later: Vec<(i32, Duration)>,
    /// Who gets them.
    pub to: StopTo,
}

/// Who gets the signal that asks a program to end. What outlives the program gets it then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTo {
    /// The program's process alone, which looks after the others.
    Leader,
    /// Its process group.
    Group,
}

impl StopSignals {
    /// One signal for the whole group.
    pub fn one(signal: i32) -> StopSignals {
        StopSignals { first: signal, later: Vec::new(), to: StopTo::Group }
    }

    /// None: it is something else.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn parse(text: &str) -> Option<StopSignals> {
        let (to, signals) = match text.strip_prefix("leader:") {
            Some(signals) => (StopTo::Leader, signals),
            None => (StopTo::Group, text),
        };
        let mut signals = signals.split(',');
        let first = signals.next()?.parse().ok()?;
        let later = signals.map(|signal| {
            let (signal, before) = signal.split_once('/')?;
            Some((signal.parse().ok()?, Duration::from_millis(before.parse().ok()?)))
        });
        Some(StopSignals { first, later: later.collect::<Option<_>>()?, to })
    }
}

/// As a guardian reads it: `15`, or `leader:3,15/5000` with milliseconds.
impl fmt::Display for StopSignals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let StopSignals { first, later, to } = self;
        let to = match to {
            StopTo::Leader => "leader:",
            StopTo::Group => "",
        };
        write!(formatter, "{to}{first}")?;
        later.iter().try_for_each(|(signal, before)| write!(formatter, ",{signal}/{}", before.as_millis()))
    }
}
