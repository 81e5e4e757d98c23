//! How a program is asked to end.

use std::fmt;
use std::time::Duration;

use crate::text::milliseconds;

/// The signals that ask a program to end, one after the other, and their recipient. At the deadline, all remaining
/// processes get KILL in any case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StopSignals {
    /// The first signal of a stop.
    pub first: i32,
    /// The signals that follow if it has no effect, and how long before the deadline each is sent.
    pub later: Vec<(i32, Duration)>,
    /// The recipient.
    pub to: StopTo,
}

/// The recipient of the signal that asks a program to end. Processes that outlive the program get the signal when it
/// has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopTo {
    /// Only the program's process, which takes care of the others.
    Leader,
    /// Its process group.
    Group,
}

impl StopSignals {
    /// One signal for the whole group.
    pub fn one(signal: i32) -> StopSignals {
        StopSignals { first: signal, later: Vec::new(), to: StopTo::Group }
    }

    /// None: the text is malformed.
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
        later.iter().try_for_each(|(signal, before)| write!(formatter, ",{signal}/{}", milliseconds(*before)))
    }
}
