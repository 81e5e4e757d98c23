//! What became of the requests of a load.

use std::collections::BTreeMap;
use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use crate::answer::Fate;
use crate::client::is_reset;

/// What became of the requests of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whole answers that were the right ones.
    pub answered: u64,
    /// Answers other than the expected one, or not HTTP at all.
    pub wrong: u64,
    /// Nothing listened.
    pub refused: u64,
    /// The connection was reset, even if part of an answer had arrived before.
    pub reset: u64,
    /// The connection was closed without a byte of an answer.
    pub empty: u64,
    /// The connection was closed after a part of an answer.
    pub cut: u64,
    /// There was no whole answer in time.
    pub timed_out: u64,
    /// Other errors, by their kind.
    pub other: BTreeMap<String, u64>,
    /// Connections that were made.
    pub connections: u64,
    /// Answers with which the server announced the end of a connection that the client wanted to keep.
    pub notified: u64,
    /// Kept connections that were found closed before a request was sent: nothing was lost.
    pub found_closed: u64,
    /// Requests that were sent again because the server had closed an idle connection without reading them. Each is also
    /// counted by its fate after that.
    pub sent_again: u64,
    /// How often the system had no port for a connection, so that it was tried again. No request had begun, so none is
    /// lost; but the load was lighter than requested.
    pub no_port: u64,
    /// The longest time from the start of a request, including its connection, to the end of its answer.
    pub slowest: Duration,
    /// When the first and the last loss were noticed, relative to the start of the load.
    pub losses: Option<(Duration, Duration)>,
    /// How long the load took.
    pub took: Duration,
    times: Times,
}

impl Report {
    /// All requests.
    pub fn requests(&self) -> u64 {
        self.answered + self.lost()
    }

    /// All requests that got no right answer.
    pub fn lost(&self) -> u64 {
        self.fates().into_iter().map(|(_, count)| count).sum()
    }

    /// The number of lost requests for each fate.
    pub fn fates(&self) -> Vec<(&str, u64)> {
        let Report { wrong, refused, reset, empty, cut, timed_out, .. } = *self;
        let named = [
            ("wrong", wrong),
            ("refused", refused),
            ("reset", reset),
            ("empty", empty),
            ("cut", cut),
            ("timed out", timed_out),
        ];
        named.into_iter().chain(self.other.iter().map(|(kind, count)| (kind.as_str(), *count))).collect()
    }

    /// Answered requests per second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The time within which this percentage of the requests was answered or lost, to within a sixteenth of it.
    pub fn percentile(&self, percent: u64) -> Duration {
        self.times.percentile(percent).min(self.slowest)
    }

    pub(crate) fn count(&mut self, fate: Fate, took: Duration, at: Duration) {
        self.slowest = self.slowest.max(took);
        self.times.add(took);
        if fate != Fate::Answered {
            self.losses = Some((self.losses.map_or(at, |(first, _)| first), at));
        }
        match fate {
            Fate::Answered => self.answered += 1,
            Fate::Wrong => self.wrong += 1,
            Fate::Empty => self.empty += 1,
            Fate::Cut => self.cut += 1,
            Fate::Failed(kind) => match kind {
                ErrorKind::ConnectionRefused => self.refused += 1,
                kind if is_reset(kind) => self.reset += 1,
                // The system decides which of the two a timed-out read reports.
                ErrorKind::TimedOut | ErrorKind::WouldBlock => self.timed_out += 1,
                kind => *self.other.entry(kind.to_string()).or_default() += 1,
            },
        }
    }

    /// Adds the report of a load that ran at the same time.
    pub fn add(&mut self, report: Report) {
        self.answered += report.answered;
        self.wrong += report.wrong;
        self.refused += report.refused;
        self.reset += report.reset;
        self.empty += report.empty;
        self.cut += report.cut;
        self.timed_out += report.timed_out;
        for (kind, count) in report.other {
            *self.other.entry(kind).or_default() += count;
        }
        self.connections += report.connections;
        self.notified += report.notified;
        self.found_closed += report.found_closed;
        self.sent_again += report.sent_again;
        self.no_port += report.no_port;
        self.slowest = self.slowest.max(report.slowest);
        self.losses = match (self.losses, report.losses) {
            (Some((first, last)), Some((other_first, other_last))) => {
                Some((first.min(other_first), last.max(other_last)))
            }
            (mine, other) => mine.or(other),
        };
        self.took = self.took.max(report.took);
        self.times.merge(&report.times);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} answered ({:.0}/s), {} lost: ", self.answered, self.rate(), self.lost())?;
        for (number, (name, count)) in self.fates().into_iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(formatter, "{comma}{count} {name}")?;
        }
        write!(
            formatter,
            "; {} connections, {} notified, {} found closed, {} sent again, {} times no port, slowest {:.1?}",
            self.connections, self.notified, self.found_closed, self.sent_again, self.no_port, self.slowest
        )
    }
}

/// How long requests took: one count for each sixteenth of each power of two of microseconds, whatever the number of
/// requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Times(Vec<u64>);

/// How many bits of a time after its leading one are kept.
const BITS: u32 = 4;

impl Times {
    fn add(&mut self, time: Duration) {
        let place = place(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        if self.0.len() <= place {
            self.0.resize(place + 1, 0);
        }
        self.0[place] += 1;
    }

    fn merge(&mut self, other: &Times) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (count, more) in self.0.iter_mut().zip(&other.0) {
            *count += more;
        }
    }

    /// The upper end of the bucket that contains this percentile.
    fn percentile(&self, percent: u64) -> Duration {
        let wanted = (self.0.iter().sum::<u64>() * percent).div_ceil(100);
        let mut seen = 0;
        let place = self.0.iter().position(|count| {
            seen += count;
            seen >= wanted
        });
        Duration::from_micros(place.map_or(0, end))
    }
}

fn place(micros: u64) -> usize {
    // Drops the bits that are not distinguished.
    let shift = (u64::BITS - micros.leading_zeros()).saturating_sub(BITS + 1);
    ((u64::from(shift) << BITS) + (micros >> shift)) as usize
}

/// The largest time in a bucket.
fn end(place: usize) -> u64 {
    let place = place as u64;
    let shift = (place >> BITS).saturating_sub(1);
    let first = place - (shift << BITS);
    (first.saturating_add(1).checked_shl(shift as u32).unwrap_or(u64::MAX)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_right_to_within_a_sixteenth() {
        for micros in (0..5000).chain([u64::from(u32::MAX), 1 << 40]) {
            let end = end(place(micros));
            assert!(end >= micros && end - micros <= micros / 16, "{micros}: {end}");
        }
        let mut times = Times::default();
        (1..=1000).for_each(|micros| times.add(Duration::from_micros(micros)));
        assert!((990..=990 + 62).contains(&times.percentile(99).as_micros()), "{times:?}");
        assert!((500..=500 + 32).contains(&times.percentile(50).as_micros()), "{times:?}");
        assert_eq!(Times::default().percentile(99), Duration::ZERO);
    }

    #[test]
    fn a_report_of_several_loads_has_the_first_and_the_last_loss_of_all() {
        let seconds = Duration::from_secs;
        let mut report = Report::default();
        report.count(Fate::Empty, seconds(1), seconds(5));
        let mut other = Report::default();
        other.count(Fate::Cut, seconds(2), seconds(3));
        other.count(Fate::Answered, seconds(1), seconds(9));
        report.add(other);
        assert_eq!((report.losses, report.lost()), (Some((seconds(3), seconds(5))), 2));
        assert_eq!((report.slowest, report.requests()), (seconds(2), 3));
    }
}
