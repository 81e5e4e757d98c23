//! Long random sequences of events.

use std::time::Duration;

use proptest::prelude::*;

use super::drive::{Drive, Step};
use crate::event::Trigger;
use crate::protocol::Request;

fn request() -> impl Strategy<Value = Request> {
    let grace = || prop::option::of(0..3000_u64);
    prop_oneof![
        1 => (grace(), grace(), any::<bool>())
            .prop_map(|(grace_ms, spread_ms, wait)| Request::Stop { grace_ms, spread_ms, delay_ms: None, wait }),
        1 => (grace(), 1..20_000_u64, any::<bool>()).prop_map(|(grace_ms, delay_ms, wait)| Request::Stop {
            grace_ms,
            spread_ms: None,
            delay_ms: Some(delay_ms),
            wait
        }),
        8 => (grace(), grace(), any::<bool>())
            .prop_map(|(grace_ms, spread_ms, wait)| Request::Restart { grace_ms, spread_ms, wait }),
        3 => (0..5000_u64).prop_map(|grace_ms| Request::Grace { grace_ms }),
        1 => Just(Request::Signal { signal: 1 }),
        2 => Just(Request::Drain {}),
        3 => Just(Request::Resume {}),
        1 => Just(Request::Connections {}),
        1 => Just(Request::Ping {}),
        1 => (1..9_u64, grace()).prop_map(|(id, grace_ms)| Request::Close { id, grace_ms }),
        3 => Just(Request::Status {}),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let signal = |name| Trigger::Signal { name, sender: None };
    prop_oneof![
        24 => request().prop_map(Step::Ask),
        1 => prop::sample::select(vec![signal("SIGTERM"), signal("SIGHUP"), Trigger::Console]).prop_map(Step::Stop),
        2 => Just(Step::Restart(signal("SIGHUP"))),
        2 => (prop::option::of(1..5000_u64), prop::option::of(1..3_u64))
            .prop_map(|(max_ms, holder)| Step::Pause { max_ms, holder }),
        1 => (1..3_u64).prop_map(Step::HolderGone),
        6 => Just(Step::Connect),
        6 => Just(Step::Disconnect),
        5 => Just(Step::Built),
        5 => Just(Step::NotBuilt),
        20 => Just(Step::Deliver),
        2 => Just(Step::Crash),
        2 => Just(Step::NextCrashes),
        1 => Just(Step::Hang),
        2 => Just(Step::Unhealthy),
        8 => (0..3000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (0..60_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// Steps that happen at most once.
fn last_steps() -> impl Strategy<Value = Vec<Step>> {
    prop_oneof![
        3 => Just(Vec::new()),
        1 => prop::collection::vec(step(), 0..20).prop_map(|then| [vec![Step::PortFails], then].concat()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_stays_in_order_and_each_request_is_answered_once(
        steps in prop::collection::vec(step(), 1..200),
        last_steps in last_steps(),
        checked: bool,
        overlaps: bool,
        overlap in prop::sample::select(vec![0, 1, 1000]),
        started in prop::bool::weighted(0.8),
    ) {
        let mut drive = Drive::starting(checked.then_some(Duration::from_secs(1)), overlaps);
        drive.overlap = Duration::from_millis(overlap);
        if started {
            drive.take(Step::Built);
        }
        for step in steps.into_iter().chain(last_steps) {
            drive.take(step);
        }
        drive.finish();
    }
}
