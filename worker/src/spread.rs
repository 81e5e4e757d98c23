//! When each connection of a drain is let go, if not all at once: evenly over a time, oldest first. So clients that
//! connect anew come back at a rate that others can bear.

use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

/// The turns of the connections of one generation. Without a spread it is the turn of all of them.
#[derive(Debug, Default)]
pub(crate) struct Turns(RwLock<Option<Spread>>);

/// Turns at equal distances.
#[derive(Debug, Clone, PartialEq)]
struct Spread {
    /// The numbers of the connections, oldest first. It is the turn of any other one.
    ids: Vec<u64>,
    /// In seconds.
    distance: f64,
    /// One distance after the last one.
    until: Instant,
}

impl Turns {
    /// Lets these connections go over this time from now. If they have turns already, the rest of these is spread over
    /// that time at most.
    pub(crate) fn begin(&self, ids: impl FnOnce() -> Vec<u64>, over: Duration, now: Instant) {
        let mut spread = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match &mut *spread {
            Some(spread) => spread.end_by(now + over, now),
            None if over.is_zero() => {}
            None => *spread = Some(Spread::new(ids(), now, over)),
        }
    }

    /// It is the turn of all by then.
    pub(crate) fn end_by(&self, until: Instant, now: Instant) {
        if let Some(spread) = &mut *self.0.write().unwrap_or_else(PoisonError::into_inner) {
            spread.end_by(until, now);
        }
    }

    /// When it is the turn of this connection. None: it has been, or there is no spread.
    pub(crate) fn of(&self, id: u64, now: Instant) -> Option<Instant> {
        let spread = self.0.read().unwrap_or_else(PoisonError::into_inner);
        spread.as_ref()?.turn(id).filter(|turn| *turn > now)
    }

    /// When all have had their turn. None: there is no spread.
    pub(crate) fn end(&self) -> Option<Instant> {
        Some(self.0.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.until)
    }

    /// The turn of this connection if the last one comes at this time. None: there is no spread.
    #[cfg_attr(not(all(feature = "relay", target_os = "linux")), allow(dead_code))]
    pub(crate) fn ending_at(&self, id: u64, end: Instant) -> Option<Instant> {
        let spread = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let spread = spread.as_ref()?;
        end.checked_sub(spread.until.saturating_duration_since(spread.turn(id)?))
    }

    #[cfg_attr(not(all(feature = "relay", target_os = "linux")), allow(dead_code))]
    pub(crate) fn clear(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl Spread {
    fn new(mut ids: Vec<u64>, from: Instant, over: Duration) -> Spread {
        ids.sort_unstable();
        let distance = over.as_secs_f64() / ids.len().max(1) as f64;
        Spread { ids, distance, until: from + over }
    }

    /// None: it has no turn of its own.
    fn turn(&self, id: u64) -> Option<Instant> {
        let place = self.ids.binary_search(&id).ok()?;
        self.until.checked_sub(Duration::from_secs_f64(self.distance * (self.ids.len() - place) as f64))
    }

    /// What is left of the time becomes shorter, and the distances with it.
    fn end_by(&mut self, until: Instant, now: Instant) {
        let rest = self.until.saturating_duration_since(now);
        if until < self.until && !rest.is_zero() {
            self.distance *= until.saturating_duration_since(now).as_secs_f64() / rest.as_secs_f64();
            self.until = until.max(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn turns(turns: &Turns, ids: impl Iterator<Item = u64>, began: Instant) -> Vec<Duration> {
        ids.map(|id| turns.of(id, began).map_or(Duration::ZERO, |turn| turn - began)).collect()
    }

    #[test]
    fn connections_have_their_turns_evenly_over_the_time_oldest_first() {
        let (all, now) = (Turns::default(), Instant::now());
        // In no order, and with gaps.
        all.begin(|| (1..=5000).rev().map(|id| id * 3).collect(), 10 * SECOND, now);
        let times = turns(&all, (1..=5000).map(|id| id * 3), now);
        assert!(times.is_sorted() && times[0].is_zero() && times[4999] < 10 * SECOND);
        for second in 0..10 {
            let within = times.iter().filter(|time| time.as_secs() == second).count();
            assert!((499..=501).contains(&within), "{within} in second {second}");
        }
        // One that has come later.
        assert_eq!(all.of(20_000, now), None);
    }

    #[test]
    fn a_nearer_end_spreads_the_rest_evenly_and_a_farther_one_changes_nothing() {
        let (all, began) = (Turns::default(), Instant::now());
        all.begin(|| (0..100).collect(), 10 * SECOND, began);
        let half = began + 5 * SECOND;
        all.end_by(began + 60 * SECOND, half);
        assert_eq!(all.of(99, began), Some(began + Duration::from_millis(9900)));
        all.end_by(half + SECOND, half);
        let times = turns(&all, 50..100, half);
        assert!(times.windows(2).all(|pair| (19..=21).contains(&(pair[1] - pair[0]).as_millis())), "{times:?}");
        assert!(times[0] < SECOND / 100 && times[49] < SECOND && all.of(49, half).is_none());
        all.begin(Vec::new, Duration::ZERO, half);
        assert!((0..100).all(|id| all.of(id, half).is_none()));
    }

    #[test]
    fn turns_can_end_at_a_deadline_instead() {
        let (all, now) = (Turns::default(), Instant::now());
        assert_eq!(all.ending_at(1, now), None);
        all.begin(|| vec![1, 2], 4 * SECOND, now);
        let deadline = now + 10 * SECOND;
        assert_eq!(all.ending_at(1, deadline), Some(now + 6 * SECOND));
        assert_eq!(all.ending_at(2, deadline), Some(now + 8 * SECOND));
    }
}
