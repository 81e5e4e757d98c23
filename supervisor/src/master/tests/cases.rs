//! Individual guarantees of master control.

use std::sync::mpsc;
use std::time::Duration;

use super::super::state::{Serving, State};
use super::drive::{Drive, Step};
use super::world::lock;
use crate::error::Error;
use crate::event::{ConsoleEvent, Event, ServiceControl, Trigger};
use crate::protocol::{Answer, Progress, Request, Response};
use crate::server::BUILD_LIMIT;
use crate::server::deadline::MOMENT;

fn restart() -> Step {
    Step::Ask(Request::Restart { grace_ms: None, spread_ms: None, wait: true })
}

fn stop(grace_ms: Option<u64>, delay_ms: u64) -> Step {
    Step::Ask(Request::Stop { grace_ms, spread_ms: None, delay_ms: Some(delay_ms), wait: true })
}

fn grace(grace_ms: u64) -> Step {
    Step::Ask(Request::Grace { grace_ms })
}

fn signal(name: &'static str) -> Trigger {
    Trigger::Signal { name, sender: None }
}

fn is_serving(drive: &Drive, generation: u64) -> bool {
    matches!(&drive.state, Some(State::Serving(Serving { current, .. })) if current.number == generation)
}

#[test]
fn restarts_that_are_asked_for_together_are_carried_out_one_after_the_other() {
    let mut drive = Drive::new();
    (0..20).for_each(|_| drive.take(restart()));
    assert_eq!(lock(&drive.world).building.len(), 1, "they overlap");
    drive.settle();
    let expected: Vec<_> = (2..=21).map(|generation| format!("restarted {generation}")).collect();
    assert_eq!(drive.answers(), expected);
    drive.finish();
}

#[test]
fn a_stop_before_the_first_server_is_ready_ends_it() {
    let mut drive = Drive::starting(None, true);
    drive.take(Step::Stop(signal("SIGTERM")));
    assert!(drive.end.take().unwrap().result.is_ok());
}

#[test]
fn a_restart_before_the_first_server_is_ready_waits_for_it() {
    let mut drive = Drive::starting(None, true);
    drive.take(restart());
    drive.settle();
    assert_eq!(drive.answers(), ["restarted 2"]);
    drive.finish();
}

#[test]
fn a_first_server_that_is_never_ready_is_the_end() {
    let mut drive = Drive::starting(None, true);
    drive.take(restart());
    drive.wait(BUILD_LIMIT);
    assert_eq!(drive.answers(), ["Stopping"]);
    let error = drive.end.take().unwrap().result.unwrap_err();
    assert_eq!(error.to_string(), "the server was not ready within 30 s");
}

#[test]
fn a_restart_is_complete_when_the_last_client_of_the_old_generation_has_left() {
    let mut drive = Drive::new();
    drive.settle();
    drive.take(Step::Connect);
    drive.take(restart());
    drive.settle();
    assert_eq!(drive.answers(), ["nothing yet"]);
    drive.take(Step::Disconnect);
    drive.wait(Duration::ZERO);
    drive.settle();
    assert_eq!(drive.answers(), ["restarted 2"]);
    drive.finish();
}

#[test]
fn a_stop_during_a_restart_wins() {
    let mut drive = Drive::new();
    drive.take(restart());
    drive.take(restart());
    drive.take(Step::Stop(signal("SIGTERM")));
    assert_eq!(drive.answers(), ["Stopping", "Stopping"]);
    // A generation that is built anyway is stopped, too, before the supervisor ends.
    drive.settle();
    assert!(drive.end.is_some());
    drive.finish();
}

#[test]
fn a_drain_beside_a_scheduled_stop_is_undone_with_it_and_named() {
    let drain = || Step::Ask(Request::Drain {});
    for steps in [[drain(), stop(None, 5000)], [stop(None, 5000), drain()]] {
        let mut drive = Drive::new();
        drive.take(Step::Connect);
        steps.into_iter().for_each(|step| drive.take(step));
        drive.take(Step::Ask(Request::Resume {}));
        assert_eq!(drive.answers().pop().unwrap(), "Readiness { ready: true, undone: [Stop, Drain] }");
        drive.finish();
    }
}

#[test]
fn a_scheduled_stop_begins_when_it_is_due_unless_it_is_cancelled() {
    let delayed = || stop(None, 5000);
    let mut drive = Drive::new();
    drive.take(Step::Connect);
    drive.take(delayed());
    drive.wait(Duration::from_secs(4));
    assert!(matches!(drive.state, Some(State::Serving(_))));
    drive.take(Step::Ask(Request::Resume {}));
    assert_eq!(drive.answers(), ["Cancelled", "Readiness { ready: true, undone: [Stop] }"]);
    drive.take(delayed());
    // The earliest counts.
    drive.take(stop(None, 100_000));
    drive.wait(Duration::from_secs(5));
    assert!(matches!(drive.state, Some(State::Draining(_))));
    drive.finish();
}

#[cfg(windows)]
#[test]
fn a_scheduled_stop_that_the_service_manager_of_windows_has_asked_for_cannot_be_cancelled() {
    for by_client in [None, Some(stop(None, 3000))] {
        let mut drive = Drive::new();
        drive.take(Step::Connect);
        drive.master.settings.delay = Duration::from_secs(5);
        drive.take(Step::Stop(Trigger::ServiceManager(ServiceControl::Stop)));
        // Also if another one has made it an earlier one.
        drive.take(by_client.clone().unwrap_or(Step::Deliver));
        drive.take(Step::Ask(Request::Resume {}));
        assert_eq!(drive.answers().pop().unwrap(), "Stopping", "{by_client:?}");
        assert!(matches!(drive.state, Some(State::Serving(_))), "{by_client:?}");
        drive.wait(Duration::from_secs(5));
        assert!(matches!(drive.state, Some(State::Draining(_))), "{by_client:?}");
        drive.finish();
    }
}

#[cfg(unix)]
#[test]
fn a_service_manager_waits_for_its_stop_also_if_another_one_has_made_it_an_earlier_one() {
    let mut drive = Drive::new();
    drive.master.settings.delay = Duration::from_secs(5);
    drive.take(Step::Stop(signal("SIGTERM")));
    drive.take(stop(None, 3000));
    assert!(drive.master.readiness.awaited_by_manager().is_some());
    drive.finish();
}

#[test]
fn what_is_due_happens_though_one_event_follows_the_other() {
    let mut drive = Drive::starting(None, true);
    drive.take(stop(None, 1));
    let (events, waiting) = mpsc::channel();
    // As if each handled event were followed by another at once, for much longer than that millisecond.
    (0..200_000).for_each(|_| events.send(Event::HolderGone { holder: 0 }).unwrap());
    assert!(drive.master.run(&waiting).result.is_ok());
    assert!(waiting.try_iter().next().is_some(), "first it has dealt with all of them");
}

#[test]
fn of_several_stops_the_shortest_deadline_counts_also_if_one_is_scheduled() {
    // Clients of a scheduled stop have until it begins, and two seconds more.
    let scheduled = || stop(Some(2000), 3000);
    let others = [
        // A further stop, and after how many seconds it is over.
        (stop(Some(0), 4000), 4),
        (stop(Some(60_000), 1000), 5),
        (stop(Some(60_000), 0), 5),
        (stop(Some(1000), 0), 1),
    ];
    for (other, seconds) in others {
        let mut drive = Drive::new();
        drive.take(Step::Connect);
        drive.take(scheduled());
        drive.take(other);
        for second in 1..=seconds {
            assert!(drive.end.is_none(), "over before second {second} of {seconds}");
            drive.wait(Duration::from_secs(1));
            drive.take(Step::Deliver);
        }
        assert!(drive.end.is_some(), "not over after {seconds} s");
        drive.finish();
    }
}

#[test]
fn a_scheduled_stop_that_begins_too_late_leaves_a_moment() {
    let mut drive = Drive::new();
    drive.take(Step::Connect);
    drive.take(stop(Some(2000), 3000));
    // The process was suspended meanwhile.
    drive.now += Duration::from_secs(60);
    drive.send(Event::Tick);
    let deadline = lock(&drive.world).generation(1).deadline;
    assert_eq!(deadline, Some(drive.now + MOMENT));
    drive.finish();
}

/// For how many seconds clients still have time, in a stop under way.
fn remaining(drive: &Drive) -> u64 {
    match &drive.state {
        Some(State::Draining(draining)) => draining.deadline.at().saturating_duration_since(drive.now).as_secs(),
        other => panic!("{other:?}"),
    }
}

/// A generation with a client and this grace period, in seconds.
fn with_a_client(grace: u64) -> Drive {
    let mut drive = Drive::new();
    drive.settle();
    drive.master.settings.grace = Duration::from_secs(grace);
    drive.take(Step::Connect);
    drive
}

fn ctrl_c() -> Step {
    Step::Stop(Trigger::ConsoleEvent(ConsoleEvent::CtrlC))
}

#[test]
fn when_its_window_is_closed_clients_have_no_longer_than_the_system_leaves() {
    let closed = || Step::Stop(Trigger::ConsoleEvent(ConsoleEvent::Close));
    for (grace, steps, expected) in [
        (2, vec![ctrl_c()], 2),
        (60, vec![ctrl_c()], 60),
        (2, vec![closed()], 2),
        (60, vec![closed()], 4),
        (60, vec![ctrl_c(), closed()], 4),
        (2, vec![ctrl_c(), closed()], 2),
        (60, vec![closed(), ctrl_c()], 4),
    ] {
        let mut drive = with_a_client(grace);
        let shown = format!("{steps:?}");
        steps.into_iter().for_each(|step| drive.take(step));
        assert_eq!(remaining(&drive), expected, "{shown}");
        drive.finish();
    }
}

#[test]
fn requests_that_say_nothing_new_within_half_a_second_are_one_decision() {
    let plain = || {
        [
            ctrl_c(),
            Step::Stop(signal("SIGINT")),
            Step::Stop(signal("SIGTERM")),
            Step::Stop(signal("SIGHUP")),
            Step::Stop(Trigger::Console),
            Step::Stop(Trigger::ServiceManager(ServiceControl::Stop)),
            stop(None, 0),
        ]
    };
    for first in plain() {
        for second in plain() {
            let mut drive = with_a_client(60);
            let shown = format!("{first:?}, {second:?}");
            drive.take(first.clone());
            drive.wait(Duration::from_millis(499));
            drive.take(second);
            assert_eq!(remaining(&drive), 59, "{shown}");
            drive.finish();
        }
    }
}

#[test]
fn a_second_request_at_the_console_after_half_a_second_forces() {
    for second in [ctrl_c(), Step::Stop(Trigger::Console), Step::Stop(signal("SIGTERM"))] {
        let mut drive = with_a_client(60);
        drive.take(ctrl_c());
        // A signal that arrives along with it does not restart that time.
        drive.wait(Duration::from_millis(400));
        drive.take(Step::Stop(signal("SIGHUP")));
        drive.wait(Duration::from_millis(100));
        drive.take(second);
        assert_eq!(remaining(&drive), 0);
        drive.finish();
    }
}

#[test]
fn a_request_that_demands_a_time_counts_at_once() {
    let code = Event::Stop { by: Trigger::Code, grace: Some(Duration::from_secs(7)) };
    for (step, expected) in [(stop(Some(0), 0), 0), (stop(Some(3000), 0), 3), (stop(Some(3000), 2000), 5)] {
        let mut drive = with_a_client(60);
        drive.take(ctrl_c());
        drive.take(step);
        assert_eq!(remaining(&drive), expected);
        drive.finish();
    }
    let mut drive = with_a_client(60);
    drive.take(ctrl_c());
    drive.send(code);
    assert_eq!(remaining(&drive), 7);
    drive.finish();
}

#[test]
fn the_first_request_to_stop_a_server_that_has_given_up_forces_nothing() {
    let mut drive = with_a_client(60);
    drive.master.settings.restart.max_restarts = 0;
    // A client of an old generation is still connected.
    drive.take(restart());
    drive.settle();
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    assert!(matches!(drive.state, Some(State::Draining(_))), "{:?}", drive.state);
    drive.wait(Duration::from_secs(1));
    drive.take(ctrl_c());
    assert_eq!(remaining(&drive), 59);
    drive.wait(Duration::from_secs(1));
    drive.take(ctrl_c());
    assert_eq!(remaining(&drive), 0);
    drive.finish();
}

#[test]
fn a_stop_that_begins_after_its_delay_is_not_forced_by_a_request_of_that_moment() {
    let mut drive = with_a_client(60);
    drive.take(stop(None, 3000));
    drive.wait(Duration::from_secs(3));
    drive.take(ctrl_c());
    assert_eq!(remaining(&drive), 60);
    drive.finish();
}

#[test]
fn the_deadline_of_a_drain_can_be_moved_both_ways() {
    let mut drive = Drive::new();
    drive.take(grace(1000));
    assert_eq!(drive.answers(), ["NotDraining"]);
    drive.take(Step::Connect);
    drive.take(restart());
    drive.settle();
    // The old generation had two seconds.
    drive.take(grace(10_000));
    drive.wait(Duration::from_secs(9));
    drive.settle();
    assert_eq!(drive.answers()[1], "nothing yet");
    drive.take(grace(500));
    drive.wait(Duration::from_secs(1));
    drive.settle();
    assert_eq!(drive.answers()[1], "restarted 2");
    drive.take(Step::Connect);
    drive.take(Step::Stop(signal("SIGTERM")));
    drive.take(grace(10_000));
    drive.wait(Duration::from_secs(9));
    drive.take(Step::Deliver);
    assert!(drive.end.is_none());
    drive.take(grace(0));
    drive.wait(Duration::ZERO);
    drive.take(Step::Deliver);
    assert!(drive.end.is_some());
    drive.finish();
}

#[test]
fn a_server_that_cannot_be_built_leaves_the_old_one_serving() {
    let mut drive = Drive::new();
    drive.settle();
    drive.take(restart());
    drive.take(Step::NotBuilt);
    assert_eq!(drive.answers(), ["Failed"]);
    assert!(lock(&drive.world).is_target(1));
    // The same if one is never ready.
    drive.take(restart());
    drive.wait(BUILD_LIMIT);
    drive.take(Step::Built);
    assert_eq!(drive.answers(), ["Failed", "Failed"]);
    assert!(lock(&drive.world).is_target(1) && lock(&drive.world).generation(3).dropped);
    drive.finish();
}

#[test]
fn a_crash_during_a_restart_is_the_answer_to_it() {
    let mut drive = Drive::new();
    drive.settle();
    drive.take(Step::Connect);
    drive.take(restart());
    drive.settle();
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    assert_eq!(drive.answers(), ["Failed"]);
    assert!(matches!(drive.state, Some(State::Waiting(_))));
    drive.wait(Duration::from_secs(1));
    drive.settle();
    assert!(is_serving(&drive, 3));
    drive.finish();
}

#[test]
fn a_restart_by_hand_while_it_waits_uses_up_no_tries() {
    let mut drive = Drive::new();
    drive.settle();
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    for _ in 0..20 {
        drive.take(restart());
        drive.take(Step::NotBuilt);
        assert!(matches!(drive.state, Some(State::Waiting(_))));
    }
    drive.take(restart());
    drive.settle();
    assert_eq!(drive.answers().last().unwrap(), "restarted 2");
    drive.finish();
}

#[test]
fn a_build_that_fails_after_a_crash_is_tried_again_until_that_is_too_often() {
    let mut drive = Drive::new();
    drive.settle();
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    let mut tries = 0;
    while drive.end.is_none() {
        drive.wait(Duration::from_millis(100));
        let building = !lock(&drive.world).building.is_empty();
        tries += usize::from(building);
        drive.take(Step::NotBuilt);
        drive.take(Step::Deliver);
    }
    assert_eq!(tries, 10);
    let error = drive.end.unwrap().result.unwrap_err();
    assert!(matches!(error, Error::CrashedTooOften { times: 11, .. }), "{error}");
}

#[test]
fn each_stop_waits_as_the_settings_say_and_a_second_request_skips_that() {
    let mut drive = Drive::new();
    drive.master.settings.delay = Duration::from_secs(3);
    drive.settle();
    drive.take(Step::Stop(signal("SIGTERM")));
    // It arrives along with the first one.
    drive.take(Step::Stop(signal("SIGHUP")));
    drive.wait(Duration::from_secs(2));
    assert!(is_serving(&drive, 1) && !drive.master.readiness.is_ready());
    drive.take(Step::Stop(signal("SIGTERM")));
    drive.wait(Duration::ZERO);
    drive.settle();
    assert!(drive.end.is_some());
    drive.finish();
}

#[test]
fn a_stop_begins_when_its_delay_has_passed_and_at_once_where_nothing_serves() {
    let mut drive = Drive::new();
    drive.master.settings.delay = Duration::from_secs(3);
    drive.settle();
    drive.take(Step::Stop(signal("SIGTERM")));
    drive.wait(Duration::from_secs(3));
    drive.settle();
    assert!(drive.end.is_some());
    drive.finish();
    let mut drive = Drive::starting(None, true);
    drive.master.settings.delay = Duration::from_secs(3);
    drive.take(Step::Stop(signal("SIGTERM")));
    assert!(matches!(drive.state, Some(State::Draining(_)) | None), "{:?}", drive.state);
    drive.settle();
    drive.finish();
}

/// The second generation serves beside the first one for ten seconds.
fn beside() -> Drive {
    let mut drive = Drive::new();
    drive.overlap = Duration::from_secs(10);
    drive.take(restart());
    drive.settle();
    drive.wait(Duration::from_secs(9));
    drive.settle();
    assert!(lock(&drive.world).is_target(1) && matches!(drive.state, Some(State::Proving(_))), "{:?}", drive.state);
    assert_eq!(drive.answers(), ["nothing yet"]);
    drive
}

#[test]
fn the_clients_of_both_generations_are_counted_while_they_serve_beside_each_other() {
    let drive = beside();
    for (build, clients) in [(1, 1), (2, 2)] {
        lock(&drive.world).generation(build).clients = clients;
    }
    let status = drive.master.look(drive.state.as_ref().unwrap(), drive.now).status();
    assert_eq!(status.connections.unwrap().now, 3);
    drive.finish();
}

#[test]
fn a_generation_that_has_proved_itself_takes_over() {
    let mut drive = beside();
    drive.wait(Duration::from_secs(1));
    assert!(lock(&drive.world).is_target(2));
    drive.settle();
    assert_eq!(drive.answers(), ["restarted 2"]);
    drive.finish();
}

#[test]
fn a_generation_that_fails_before_it_has_proved_itself_is_withdrawn() {
    let mut drive = beside();
    drive.take(Step::NextCrashes);
    drive.take(Step::Deliver);
    assert_eq!(drive.answers(), ["Failed"]);
    drive.wait(Duration::from_secs(1));
    drive.settle();
    assert!(is_serving(&drive, 1) && lock(&drive.world).generation(2).dropped);
    // And that does not count as a crash.
    drive.take(restart());
    drive.settle();
    drive.wait(Duration::from_secs(10));
    drive.settle();
    assert_eq!(drive.answers(), ["Failed", "restarted 3"]);
    drive.finish();
}

#[test]
fn a_generation_whose_check_has_had_no_good_answer_does_not_take_over() {
    let mut drive = beside();
    lock(&drive.world).generation(2).unproved = true;
    drive.wait(Duration::from_secs(1));
    drive.settle();
    assert_eq!(drive.answers(), ["Failed"]);
    assert!(is_serving(&drive, 1) && lock(&drive.world).generation(2).dropped);
    drive.finish();
}

#[test]
fn a_crash_beside_the_next_generation_has_that_serve_alone() {
    let mut drive = beside();
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    assert!(lock(&drive.world).is_target(2));
    assert_eq!(drive.answers(), ["restarted 2"]);
    drive.finish();
}

#[test]
fn a_stop_ends_both_the_old_generation_and_the_next_one() {
    let mut drive = beside();
    drive.take(Step::Stop(signal("SIGTERM")));
    assert_eq!(drive.answers(), ["Stopping"]);
    drive.wait(Duration::ZERO);
    drive.settle();
    assert!(drive.end.is_some() && [1, 2].map(|build| lock(&drive.world).generation(build).finished) == [true; 2]);
    drive.finish();
}

#[test]
fn a_restart_that_fails_uses_up_no_tries() {
    let mut drive = Drive::serving(None, false);
    drive.settle();
    for generation in 2..30 {
        drive.take(restart());
        drive.take(Step::Built);
        drive.take(Step::Deliver);
        drive.take(Step::NotBuilt);
        assert!(matches!(drive.state, Some(State::Waiting(_))), "{:?}", drive.state);
        drive.wait(Duration::from_secs(1));
        drive.settle();
        assert!(is_serving(&drive, generation), "{:?}", drive.state);
    }
    assert!(drive.answers().iter().all(|answer| answer == "Failed"));
    drive.finish();
}

#[test]
fn a_server_that_cannot_run_beside_the_next_one_is_gone_before_that_is_built() {
    let mut drive = Drive::serving(None, false);
    drive.settle();
    drive.take(Step::Connect);
    drive.take(restart());
    drive.settle();
    assert!(matches!(drive.state, Some(State::Emptying(_))));
    drive.take(Step::Disconnect);
    drive.wait(Duration::ZERO);
    drive.settle();
    assert_eq!(drive.answers(), ["restarted 2"]);
    // If the build is known to be impossible, it keeps serving.
    drive.take(restart());
    drive.take(Step::NotBuilt);
    assert_eq!(drive.answers(), ["restarted 2", "Failed"]);
    assert!(is_serving(&drive, 2));
    // A build that fails although it seemed possible is tried again.
    drive.take(restart());
    drive.take(Step::Built);
    drive.take(Step::Deliver);
    drive.take(Step::NotBuilt);
    assert_eq!(drive.answers(), ["restarted 2", "Failed", "Failed"]);
    drive.wait(Duration::from_secs(1));
    drive.settle();
    assert!(is_serving(&drive, 3));
    drive.finish();
}

#[test]
fn a_server_that_crashes_before_it_is_stopped_for_the_next_one_is_replaced() {
    let mut drive = Drive::serving(None, false);
    drive.settle();
    drive.take(restart());
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    // What the preparation found is of no use any more.
    drive.settle();
    assert_eq!(drive.answers(), ["restarted 2"]);
    drive.finish();
}

#[test]
fn a_new_generation_serves_at_once_though_the_old_one_hangs() {
    let mut drive = Drive::new();
    drive.take(Step::Hang);
    drive.take(restart());
    drive.take(Step::Built);
    assert!(lock(&drive.world).is_target(2));
    // Whatever hangs in the old one is given up when it overruns its deadline, and the restart completes.
    drive.wait(Duration::from_secs(10));
    drive.settle();
    assert_eq!(drive.answers(), ["restarted 2"], "{:?}", drive.state);
    drive.finish();
}

#[test]
fn a_port_that_fails_for_good_ends_the_supervisor_and_no_restart_is_tried() {
    let mut drive = with_a_client(60);
    drive.take(restart());
    drive.take(Step::PortFails);
    drive.take(Step::Deliver);
    assert_eq!(drive.answers(), ["Stopping"]);
    assert!(matches!(drive.state, Some(State::Draining(_))), "{:?}", drive.state);
    // The generation being built is too late.
    drive.settle();
    drive.take(Step::Disconnect);
    drive.wait(Duration::ZERO);
    drive.settle();
    let error = drive.end.unwrap().result.unwrap_err();
    assert_eq!(error.to_string(), "the server ended: the listening socket failed");
}

/// The last response to the client that asked for the last pause.
fn last_of_pause(drive: &Drive) -> Option<Response> {
    drive.heard_of_pause().pop()
}

#[test]
fn a_pause_is_over_when_its_holder_lets_it_go_and_not_when_another_one_does() {
    let mut drive = Drive::new();
    drive.take(Step::Pause { max_ms: None, holder: Some(7) });
    let paused = |is_quiet| move |heard: Option<Response>| matches!(heard, Some(Response::Progress(Progress::Paused { is_quiet: quiet, .. })) if quiet == is_quiet);
    assert!(paused(false)(last_of_pause(&drive)));
    drive.take(Step::Deliver);
    assert!(paused(true)(last_of_pause(&drive)));
    drive.take(Step::HolderGone(8));
    assert!(lock(&drive.world).paused);
    drive.take(Step::HolderGone(7));
    assert!(!lock(&drive.world).paused);
    let over = last_of_pause(&drive);
    assert!(matches!(over, Some(Response::Answer(Answer::Resumed { early: None, .. }))), "{over:?}");
    drive.finish();
}

#[test]
fn a_pause_is_over_after_its_time_and_its_holder_hears_why() {
    let mut drive = Drive::new();
    drive.take(Step::Pause { max_ms: Some(3000), holder: Some(1) });
    drive.take(Step::Deliver);
    drive.wait(Duration::from_millis(2999));
    assert!(lock(&drive.world).paused);
    drive.wait(Duration::from_millis(1));
    assert!(!lock(&drive.world).paused);
    let over = last_of_pause(&drive);
    assert!(matches!(over, Some(Response::Answer(Answer::Resumed { early: Some(_), .. }))), "{over:?}");
    drive.finish();
}

#[test]
fn a_pause_that_is_over_while_something_is_under_way_has_failed() {
    let mut drive = Drive::new();
    drive.take(Step::Pause { max_ms: Some(1000), holder: None });
    drive.wait(Duration::from_secs(1));
    let over = last_of_pause(&drive);
    assert!(matches!(over, Some(Response::Answer(Answer::Error(_)))), "{over:?}");
    // Reports about the last pause do not concern the next one.
    drive.take(Step::Pause { max_ms: None, holder: None });
    drive.take(Step::Deliver);
    assert_eq!(drive.heard_of_pause().len(), 1);
    drive.take(Step::Deliver);
    assert!(matches!(last_of_pause(&drive), Some(Response::Answer(Answer::Paused { remaining_ms: None }))));
    drive.take(Step::Ask(Request::Resume {}));
    assert_eq!(drive.answers(), ["Readiness { ready: true, undone: [Pause] }"]);
    drive.finish();
}

#[test]
fn a_generation_that_fails_its_check_while_the_one_before_it_drains_is_replaced_while_it_serves() {
    let mut drive = with_a_client(600);
    drive.take(restart());
    drive.take(Step::Built);
    assert_eq!(drive.answers(), ["nothing yet"], "the client of generation 1 is still there");
    drive.take(Step::Unhealthy);
    assert_eq!(drive.answers(), ["Failed"]);
    assert!(lock(&drive.world).is_target(2));
    drive.take(Step::Built);
    assert!(lock(&drive.world).is_target(3));
    drive.finish();
}

#[test]
fn a_replacement_for_a_generation_that_fails_its_check_fails_as_a_crash_if_it_does_not_work_either() {
    let mut drive = with_a_client(600);
    drive.take(Step::Unhealthy);
    drive.take(Step::Built);
    assert!(lock(&drive.world).is_target(2));
    // Generation 1 still has its client.
    drive.take(Step::Unhealthy);
    drive.settle();
    assert_eq!(drive.master.record.crashes, 1);
    drive.finish();
}
