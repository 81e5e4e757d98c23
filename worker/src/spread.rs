//! When each connection of a drain is let go, if not all at once: evenly over a period, oldest first. So clients
//! reconnect at a rate that others can bear.
//!
//! A turn comes when it is queried. If turns were missed because the process or a thread was held up, they do not come
//! all at once: they get new turns after the last one. This keeps the rate and delays the end, to the deadline at most;
//! where the deadline is too near, the remaining time is divided anew.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::deadline::deadline_after;

/// How late a turn may come. So the turns that come together are those of this period, or two.
const LATE: Duration = Duration::from_millis(150);

/// The turns of the connections of one generation. Without a spread, the turn of each has come.
#[derive(Debug, Default)]
pub(crate) struct Turns(Mutex<Option<Spread>>);

/// Turns at equal distances.
#[derive(Debug, Clone, PartialEq)]
struct Spread {
    /// Sorted by connection number, oldest first. The turn of any other connection has come.
    turns: Vec<(u64, Turn)>,
    /// How many turns there are, including missed ones.
    slots: usize,
    /// In seconds.
    distance: f64,
    /// One distance after the last turn.
    until: Instant,
    /// No turn is later than this, even if others were missed. None: no deadline has been set.
    deadline: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Turn {
    /// At the time of this slot.
    Awaited(usize),
    Came(Instant),
}

impl Turns {
    /// Lets these connections go over this time from now. If they already have turns, the remaining turns are spread
    /// over that time at most.
    pub(crate) fn begin(&self, ids: impl FnOnce() -> Vec<u64>, over: Duration, now: Instant) {
        let until = deadline_after(now, over);
        match &mut *self.lock() {
            Some(spread) => spread.shorten(until, now),
            None if over.is_zero() => {}
            spread => *spread = Some(Spread::new(ids(), until, until - now)),
        }
    }

    /// The same over a period that ends at the deadline.
    #[cfg_attr(not(all(feature = "relay", target_os = "linux")), allow(dead_code))]
    pub(crate) fn begin_before(&self, deadline: Instant, ids: Vec<u64>, over: Duration, now: Instant) {
        let over = over.min(deadline.saturating_duration_since(now));
        match &mut *self.lock() {
            Some(spread) => spread.begin_later(over, now),
            None if over.is_zero() => {}
            spread => *spread = Some(Spread::new(ids, deadline, over)),
        }
    }

    /// All turns come by then.
    pub(crate) fn end_by(&self, deadline: Instant, now: Instant) {
        if let Some(spread) = &mut *self.lock() {
            spread.deadline = Some(deadline);
            spread.shorten(deadline, now);
        }
    }

    /// The turns end then.
    #[cfg_attr(not(all(feature = "relay", target_os = "linux")), allow(dead_code))]
    pub(crate) fn end_at(&self, deadline: Instant, now: Instant) {
        if let Some(spread) = &mut *self.lock() {
            spread.until = spread.until.max(deadline);
        }
        self.end_by(deadline, now);
    }

    /// When the turn of this connection comes, or came. None: there is no spread, or it has no turn of its own.
    pub(crate) fn when(&self, id: u64, now: Instant) -> Option<Instant> {
        self.lock().as_mut()?.when(id, now)
    }

    /// When the turn of this connection comes. None: it has come, or there is no spread.
    pub(crate) fn of(&self, id: u64, now: Instant) -> Option<Instant> {
        self.when(id, now).filter(|turn| *turn > now)
    }

    /// When all have had their turn. None: there is no spread.
    pub(crate) fn end(&self) -> Option<Instant> {
        Some(self.lock().as_ref()?.until)
    }

    #[cfg_attr(not(all(feature = "relay", target_os = "linux")), allow(dead_code))]
    pub(crate) fn clear(&self) {
        self.lock().take();
    }

    fn lock(&self) -> MutexGuard<'_, Option<Spread>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner) // What panics there has changed nothing.
    }
}

impl Spread {
    fn new(mut ids: Vec<u64>, until: Instant, over: Duration) -> Spread {
        ids.sort_unstable();
        let slots = ids.len();
        let turns = ids.into_iter().enumerate().map(|(slot, id)| (id, Turn::Awaited(slot))).collect();
        let distance = over.as_secs_f64() / slots.max(1) as f64;
        Spread { turns, slots, distance, until, deadline: None }
    }

    fn when(&mut self, id: u64, now: Instant) -> Option<Instant> {
        let place = self.turns.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        let slot = match self.turns[place].1 {
            Turn::Came(at) => return Some(at),
            Turn::Awaited(slot) => slot,
        };
        let mut at = self.time(slot)?;
        if now.saturating_duration_since(at) > LATE.max(self.distance()) {
            let slot = self.last_slot(now);
            self.turns[place].1 = Turn::Awaited(slot);
            at = self.time(slot)?;
        }
        if at > now {
            return Some(at);
        }
        self.turns[place].1 = Turn::Came(now);
        Some(now)
    }

    fn time(&self, slot: usize) -> Option<Instant> {
        self.until.checked_sub(Duration::from_secs_f64(self.distance * (self.slots - slot) as f64))
    }

    fn distance(&self) -> Duration {
        Duration::from_secs_f64(self.distance)
    }

    /// One more slot, after all others.
    fn last_slot(&mut self, now: Instant) -> usize {
        self.until = self.until.max(now) + self.distance();
        self.slots += 1;
        if let Some(deadline) = self.deadline {
            self.shorten(deadline, now);
        }
        self.slots - 1
    }

    /// Shortens the remaining time, and the distances with it.
    fn shorten(&mut self, until: Instant, now: Instant) {
        let rest = self.until.saturating_duration_since(now);
        if until < self.until && !rest.is_zero() {
            self.distance *= until.saturating_duration_since(now).as_secs_f64() / rest.as_secs_f64();
            self.until = until.max(now);
        }
    }

    /// The remaining turns begin later, and end as before.
    #[cfg_attr(not(all(feature = "relay", target_os = "linux")), allow(dead_code))]
    fn begin_later(&mut self, over: Duration, now: Instant) {
        let rest = self.until.saturating_duration_since(now);
        if over < rest {
            self.distance *= over.as_secs_f64() / rest.as_secs_f64();
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
        // A connection that was accepted later.
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
    fn connections_can_stay_until_the_deadline_however_far_away_that_is() {
        let (all, cuts, now) = (Turns::default(), Turns::default(), Instant::now());
        let end = deadline_after(now, Duration::MAX);
        for _ in 0..2 {
            all.begin(|| vec![1, 2], Duration::MAX, now);
            cuts.begin_before(end, vec![1, 2], Duration::MAX, now);
        }
        assert_eq!((all.of(1, now), all.of(2, now).is_some()), (None, true));
        assert_eq!((cuts.of(1, now), cuts.of(2, now).is_some()), (None, true));
        let deadline = now + 10 * SECOND;
        all.end_by(deadline, now);
        cuts.end_at(deadline, now);
        for turns in [all, cuts] {
            let second = turns.of(2, now).map_or(Duration::ZERO, |turn| turn - now);
            assert!((4999..=5001).contains(&second.as_millis()), "{second:?}");
        }
    }

    #[test]
    fn turns_can_end_at_a_deadline_instead() {
        let (all, now) = (Turns::default(), Instant::now());
        let deadline = now + 10 * SECOND;
        all.begin_before(deadline, vec![1, 2], 4 * SECOND, now);
        assert_eq!((all.of(1, now), all.of(2, now)), (Some(now + 6 * SECOND), Some(now + 8 * SECOND)));
        assert_eq!((all.of(3, now), all.when(3, now)), (None, None));
        all.end_at(now + 20 * SECOND, now);
        assert_eq!((all.of(1, now), all.of(2, now)), (Some(now + 16 * SECOND), Some(now + 18 * SECOND)));
        all.end_at(now + 10 * SECOND, now);
        assert_eq!((all.of(1, now), all.of(2, now)), (Some(now + 8 * SECOND), Some(now + 9 * SECOND)));
        all.begin_before(deadline, Vec::new(), Duration::ZERO, now);
        assert_eq!((all.of(1, now), all.of(2, now)), (Some(deadline), Some(deadline)));
    }

    /// The times at which 1000 connections leave over ten seconds, in order, from the beginning, if a query that is due
    /// during a hold-up is delayed to its end.
    fn with_hold_ups(all: &Turns, began: Instant, hold_ups: &[(u64, u64)]) -> Vec<Duration> {
        let mut waiting: Vec<_> = (0..1000).collect();
        let (mut times, mut time) = (Vec::new(), 0);
        while !waiting.is_empty() {
            let held_up = hold_ups.iter().find(|(from, until)| (*from..*until).contains(&time));
            let now = Duration::from_millis(held_up.map_or(time, |(_, until)| *until));
            waiting.retain(|&id| {
                let stays = all.of(id, began + now).is_some();
                if !stays {
                    times.push(now);
                }
                stays
            });
            time = u64::try_from(now.as_millis()).unwrap_or(u64::MAX) + 10;
        }
        times
    }

    /// The most connections that leave within any one second.
    fn most_in_a_second(times: &[Duration]) -> usize {
        let until = |end: Duration| times.partition_point(|time| *time < end);
        times.iter().map(|from| until(*from + SECOND) - until(*from)).max().unwrap_or(0)
    }

    #[test]
    fn turns_that_were_missed_come_at_the_same_rate_and_end_later() {
        for hold_ups in [
            &[][..],
            &[(2000, 2800)],
            &[(0, 3000)],
            &[(500, 1000), (1100, 1600), (1700, 2200)],
            // Beyond its end, and once more then.
            &[(9000, 11_000), (11_500, 12_000)],
        ] {
            let (all, began) = (Turns::default(), Instant::now());
            all.begin(|| (0..1000).collect(), 10 * SECOND, began);
            all.end_by(began + 15 * SECOND, began);
            let times = with_hold_ups(&all, began, hold_ups);
            let (most, last) = (most_in_a_second(&times), times[999]);
            assert!(most <= 117, "{most} within a second, {hold_ups:?}");
            let late: u64 = hold_ups.iter().map(|(from, until)| until - from).sum();
            assert!(last <= Duration::from_millis(10_000 + late + 50), "the last one at {last:?}, {hold_ups:?}");
        }
    }

    #[test]
    fn turns_that_were_missed_come_by_the_deadline_and_share_the_time_until_then() {
        let (all, began) = (Turns::default(), Instant::now());
        all.begin(|| (0..1000).collect(), 10 * SECOND, began);
        all.end_by(began + 10 * SECOND, began);
        let times = with_hold_ups(&all, began, &[(2000, 4000)]);
        let (most, last) = (most_in_a_second(&times), times[999]);
        // 800 in six seconds.
        assert!(most <= 800 * 7 / 36, "{most} within a second");
        assert!(last <= 10 * SECOND, "the last one at {last:?}");
        // The same holds if they end there in any case.
        let (all, before) = (Turns::default(), began - 5 * SECOND);
        all.begin_before(began + 10 * SECOND, (0..1000).collect(), 10 * SECOND, before);
        all.end_at(began + 10 * SECOND, before);
        assert_eq!(with_hold_ups(&all, began, &[(2000, 4000)]), times);
    }

    #[test]
    fn a_turn_that_has_come_stays_so_and_one_of_few_is_not_put_off() {
        let (all, began) = (Turns::default(), Instant::now());
        all.begin(|| vec![1, 2, 3], 600 * SECOND, began);
        assert_eq!((all.of(1, began), all.when(1, began + 9 * SECOND)), (None, Some(began)));
        // Three minutes apart, so it matters little that it is some seconds late.
        let late = began + 205 * SECOND;
        assert_eq!((all.of(2, late), all.of(3, late)), (None, Some(began + 400 * SECOND)));
    }
}
