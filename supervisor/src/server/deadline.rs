//! The end of a grace period.

use std::time::{Duration, Instant};

use worker::deadline_after;

/// The least time that a program gets between a late request to end and its end by force.
pub(crate) const MOMENT: Duration = Duration::from_millis(500);

/// A deadline that is overdue by more than this was missed because this process stood still: suspended by a signal,
/// with its container, or with the whole system.
pub(crate) const STOOD_STILL: Duration = Duration::from_secs(1);

/// The moment left to a program whose deadline was missed because this process stood still. Most likely the program
/// stood still, too, and still has to do what it was asked to do. The moment is given once.
#[derive(Debug, Default)]
pub(crate) struct LastMoment {
    is_given: bool,
}

impl LastMoment {
    /// The later deadline. None: the given one counts.
    pub(crate) fn instead_of(&mut self, deadline: Instant, now: Instant) -> Option<Instant> {
        if self.is_given || now.saturating_duration_since(deadline) <= STOOD_STILL {
            return None;
        }
        self.is_given = true;
        Some(now + MOMENT)
    }
}

/// The end of a grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: Instant,
    /// Zero: there is no grace period, and everything ends at once.
    grace: Duration,
}

impl Deadline {
    /// The end of a grace period that begins at this time.
    pub(crate) fn after(begin: Instant, grace: Duration) -> Deadline {
        Deadline { at: deadline_after(begin, grace), grace }
    }

    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// The end of a grace period that is this much longer. Without a grace period, there is still none.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn later(self, by: Duration) -> Deadline {
        if self.grace.is_zero() {
            self
        } else {
            Deadline { at: deadline_after(self.at, by), grace: self.grace.saturating_add(by) }
        }
    }

    /// The earlier of the two.
    pub(crate) fn min(self, other: Deadline) -> Deadline {
        if other.at < self.at { other } else { self }
    }

    /// How long it is from now. If this process was held up and is late, a moment remains: those that hear of the
    /// deadline only now are not at fault.
    pub(crate) fn remaining(self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now).max(self.grace.min(MOMENT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_of_a_deadline_too_late_has_a_moment_unless_there_was_no_grace_period() {
        let begin = Instant::now();
        let (second, late) = (Duration::from_secs(1), begin + Duration::from_secs(100));
        let long = Deadline::after(begin, 5 * second);
        assert_eq!([long.remaining(begin + second), long.remaining(late)], [4 * second, MOMENT]);
        let short = Deadline::after(begin, MOMENT / 10);
        assert_eq!([short.remaining(begin), short.remaining(late)], [MOMENT / 10; 2]);
        let none = Deadline::after(begin, Duration::ZERO);
        assert_eq!([none.remaining(begin), none.later(second).remaining(begin)], [Duration::ZERO; 2]);
    }

    #[test]
    fn a_deadline_that_was_missed_in_a_standstill_is_put_off_once() {
        let (now, millisecond) = (Instant::now(), Duration::from_millis(1));
        let mut last = LastMoment::default();
        assert_eq!([now + STOOD_STILL, now, now - STOOD_STILL].map(|at| last.instead_of(at, now)), [None; 3]);
        assert_eq!(last.instead_of(now - STOOD_STILL - millisecond, now), Some(now + MOMENT));
        assert_eq!(last.instead_of(now - STOOD_STILL - millisecond, now), None);
    }
}
