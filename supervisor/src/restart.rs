//! The restart policy: whether, and when, a server that ended by itself is started again. It depends only on the
//! history and `now`.

use std::collections::VecDeque;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, Instant};

/// The wait before the first retry. It doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// A server that was ready for this long is stable: its crash counts as a first one.
const STABLE: Duration = Duration::from_secs(60);

/// The largest part of itself by which a wait is extended at random, so that servers that crash together do not come
/// back together.
const JITTER: f64 = 0.25;

/// When a server that ended by itself is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// After which kinds of end.
    pub mode: RestartMode,
    /// How many crashes within the period lead to a restart. At the next one the supervisor gives up, unless the mode
    /// is [`RestartMode::Always`]. Crashes before a run of a minute no longer count.
    pub max_restarts: u32,
    /// See `max_restarts`.
    pub period: Duration,
}

/// Restarts after a failure, up to ten times in two minutes: at the eleventh it gives up.
impl Default for RestartPolicy {
    fn default() -> RestartPolicy {
        RestartPolicy { mode: RestartMode::OnFailure, max_restarts: 10, period: Duration::from_secs(120) }
    }
}

/// After which kinds of end a server is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartMode {
    /// After each one, however many there were: the supervisor never gives up.
    Always,
    /// After a failure.
    OnFailure,
    /// After none: the supervisor ends, too.
    Never,
}

/// The ends that count.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// Those within the period before the last one, oldest first.
    recent: VecDeque<Instant>,
    /// How many there were since the last stable run.
    in_a_row: u32,
}

/// What to do after an end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Try again after this time.
    Wait(Duration),
    /// It ended too often: this many times within the period.
    GiveUp(usize),
    /// The policy does not start it again.
    End,
}

/// How a server ended by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Whether that was a failure.
    pub(crate) failed: bool,
    /// How long it was ready. Zero if it never was.
    pub(crate) ran: Duration,
    /// Whether it counts as a crash. A failed restart does not: trying a new version uses up no tries.
    pub(crate) crashed: bool,
}

impl History {
    /// Decides what to do now that a server has ended, and records that. `chance` is a random number from 0 to 1.
    pub(crate) fn decide(&mut self, policy: &RestartPolicy, ended: Ended, now: Instant, chance: f64) -> Decision {
        match policy.mode {
            RestartMode::Always => {}
            RestartMode::OnFailure if ended.failed => {}
            RestartMode::OnFailure | RestartMode::Never => return Decision::End,
        }
        if !ended.crashed {
            return Decision::Wait(wait(self.in_a_row.max(1), chance));
        }
        if ended.ran >= STABLE {
            *self = History::default();
        }
        while self.recent.front().is_some_and(|&at| now.saturating_duration_since(at) >= policy.period) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        self.in_a_row = self.in_a_row.saturating_add(1);
        let ends = self.recent.len();
        let is_too_often = ends > usize::try_from(policy.max_restarts).unwrap_or(usize::MAX);
        if is_too_often && policy.mode != RestartMode::Always {
            Decision::GiveUp(ends)
        } else {
            Decision::Wait(wait(self.in_a_row, chance))
        }
    }
}

/// A random number from 0 to 1, good enough to spread restarts.
pub(crate) fn chance() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

/// The wait before the next try after this many ends in a row.
fn wait(in_a_row: u32, chance: f64) -> Duration {
    let doublings = in_a_row.saturating_sub(1).min(16);
    let wait = FIRST_WAIT * 2_u32.pow(doublings);
    wait.mul_f64(1.0 + JITTER * chance.clamp(0.0, 1.0)).min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    const CRASH: Ended = Ended { failed: true, ran: Duration::ZERO, crashed: true };

    fn policy(max_restarts: u32, period: u64) -> RestartPolicy {
        RestartPolicy { mode: RestartMode::OnFailure, max_restarts, period: Duration::from_secs(period) }
    }

    #[test]
    fn the_sixth_crash_within_the_period_is_too_many() {
        let now = Instant::now();
        let mut history = History::default();
        for crash in 0..5 {
            let decision = history.decide(&policy(5, 60), CRASH, now + Duration::from_secs(crash * 11), 0.5);
            assert!(matches!(decision, Decision::Wait(_)), "crash {crash}: {decision:?}");
        }
        let sixth = history.clone().decide(&policy(5, 60), CRASH, now + Duration::from_secs(59), 0.5);
        assert_eq!(sixth, Decision::GiveUp(6));
        // A second later the first one no longer counts.
        let sixth = history.decide(&policy(5, 60), CRASH, now + Duration::from_secs(60), 0.5);
        assert!(matches!(sixth, Decision::Wait(_)));
    }

    #[test]
    fn only_a_policy_that_wants_it_starts_again_what_ended_well() {
        for (mode, failed, again) in [
            (RestartMode::Always, false, true),
            (RestartMode::Always, true, true),
            (RestartMode::OnFailure, false, false),
            (RestartMode::OnFailure, true, true),
            (RestartMode::Never, false, false),
            (RestartMode::Never, true, false),
        ] {
            let policy = RestartPolicy { mode, ..RestartPolicy::default() };
            let decision = History::default().decide(&policy, Ended { failed, ..CRASH }, Instant::now(), 0.0);
            assert_eq!(decision != Decision::End, again, "{mode:?}, failed: {failed}");
        }
    }

    #[test]
    fn after_a_stable_run_all_begins_anew() {
        let now = Instant::now();
        let mut history = History { recent: [now; 9].into(), in_a_row: 9 };
        let stable = Ended { ran: Duration::from_secs(60), ..CRASH };
        assert_eq!(history.decide(&policy(1, 600), stable, now, 0.0), Decision::Wait(FIRST_WAIT));
        assert_eq!(history.decide(&policy(1, 600), CRASH, now, 0.0), Decision::GiveUp(2));
    }

    #[test]
    fn always_means_always() {
        let now = Instant::now();
        let policy = RestartPolicy { mode: RestartMode::Always, ..policy(0, 60) };
        let mut history = History::default();
        for failed in [true, false].repeat(50) {
            assert!(matches!(history.decide(&policy, Ended { failed, ..CRASH }, now, 0.0), Decision::Wait(_)));
        }
    }

    #[test]
    fn a_restart_that_failed_uses_up_no_tries() {
        let now = Instant::now();
        let mut history = History::default();
        for _ in 0..100 {
            let failed_restart = Ended { crashed: false, ..CRASH };
            assert_eq!(history.decide(&policy(1, 60), failed_restart, now, 0.0), Decision::Wait(FIRST_WAIT));
        }
        assert!(matches!(history.decide(&policy(1, 60), CRASH, now, 0.0), Decision::Wait(_)));
    }

    proptest! {
        #[test]
        fn waits_grow_up_to_the_longest(chances in prop::collection::vec(0.0..1.0, 2..40)) {
            let waits: Vec<_> = (1..).zip(&chances).map(|(in_a_row, &chance)| wait(in_a_row, chance)).collect();
            prop_assert!(waits.iter().all(|&wait| (FIRST_WAIT..=LONGEST_WAIT).contains(&wait)));
            for pair in waits.windows(2) {
                prop_assert!(pair[0] < pair[1] || pair[1] == LONGEST_WAIT, "{waits:?}");
            }
        }

        #[test]
        fn within_any_period_there_are_never_more_tries_than_allowed(
            max_restarts in 0..8_u32,
            period in 1..100_u64,
            gaps in prop::collection::vec((0..60_000_u64, 0..60_000_u64), 1..60),
        ) {
            let policy = policy(max_restarts, period);
            let mut now = Instant::now();
            let mut history = History::default();
            let mut tries = Vec::new();
            for (gap, ran) in gaps {
                now += Duration::from_millis(gap);
                // None of them is stable.
                let ended = Ended { ran: Duration::from_millis(ran), ..CRASH };
                match history.decide(&policy, ended, now, 0.0) {
                    Decision::Wait(_) => tries.push(now),
                    Decision::GiveUp(ends) => {
                        prop_assert_eq!(ends, max_restarts as usize + 1);
                        break;
                    }
                    Decision::End => prop_assert!(false, "a crash ended it all"),
                }
            }
            for (first, &at) in tries.iter().enumerate() {
                let within = tries[first..].iter().take_while(|&&other| other - at < policy.period).count();
                prop_assert!(within <= max_restarts as usize);
            }
        }
    }
}
