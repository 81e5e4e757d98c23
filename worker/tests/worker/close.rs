//! One connection is ended, and the others are left alone.

use std::thread;
use std::time::Duration;

use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{Activity, Connection, Outcome};

use crate::support::{Gated, HUGE, Running, Serve, eventually};

#[test]
fn a_client_that_is_to_be_closed_is_told_and_the_others_stay() {
    let server = Running::start(Echo);
    let mut clients = server.idle_clients(2);
    let mut second = clients.remove(1);
    let stopper = server.stopper();
    let closing = thread::spawn(move || stopper.close(2, HUGE));
    second.expect_last("SHUTDOWN\n");
    drop(second);
    let closed = closing.join().unwrap().unwrap();
    assert_eq!((closed.connection.id, closed.outcome, closed.stuck), (2, Outcome::Disconnected, false));
    clients[0].send("still there");
    clients[0].expect("still there");
    assert!(server.close(2, HUGE).is_none(), "it was closed twice");
    drop(clients);
    eventually("all have left", || server.counts().now == 0);
    server.stop(HUGE);
    // Earlier ends are not in the report of the stop.
    let report = server.join();
    assert_eq!((report.notified, report.disconnected), (0, 0), "{report:?}");
}

#[test]
fn a_client_in_the_middle_of_a_message_gets_its_answer_first() {
    let (open, handler) = Gated::new(Some(b"BYE"));
    let server = Running::start(handler);
    let mut client = server.client();
    client.send("a");
    server.wait_for_message(1);
    let stopper = server.stopper();
    let closing = thread::spawn(move || stopper.close(1, HUGE));
    drop(open);
    client.expect_last(".BYE");
    drop(client);
    assert_eq!(closing.join().unwrap().unwrap().outcome, Outcome::Disconnected);
}

#[test]
fn a_client_that_nothing_is_owed_to_is_closed_at_once() {
    let server = Running::start(Serve(|client: &mut Connection| {
        while client.next_message() {}
        Ok(())
    }));
    let mut client = server.idle_clients(1).remove(0);
    let closed = server.close(1, HUGE).unwrap();
    assert_eq!((closed.outcome, closed.stuck), (Outcome::Closed, false));
    client.expect_last("");
}

#[test]
fn a_client_that_stays_is_closed_by_force_when_its_time_is_up() {
    let server = Running::start(Echo);
    let mut client = server.client();
    client.send("?");
    client.expect("?");
    server.wait_for(1, Activity::Idle);
    let closed = server.close(1, Duration::from_millis(50)).unwrap();
    assert_eq!((closed.outcome, closed.stuck, closed.connection.activity), (Outcome::Forced, false, Activity::Idle));
    assert_eq!((server.counts().forced, server.counts().now), (1, 0));
    drop(client);
    server.stop(HUGE);
    assert_eq!(server.join().forced.len(), 0);
}

#[test]
fn a_handler_that_hangs_is_said_to_be_stuck() {
    let (open, handler) = Gated::new(None);
    let server = Running::start(handler);
    let mut client = server.client();
    client.send("a");
    server.wait_for_message(1);
    let closed = server.close(1, Duration::ZERO).unwrap();
    assert_eq!((closed.outcome, closed.stuck), (Outcome::Forced, true));
    drop(open);
}

#[test]
fn one_that_is_closed_by_force_during_a_drain_is_reported_as_forced() {
    let server = Running::start(Echo);
    let mut clients = server.idle_clients(2);
    server.stop(HUGE);
    clients[0].expect_last("SHUTDOWN\n");
    let closed = server.close(1, Duration::ZERO).unwrap();
    assert_eq!((closed.outcome, closed.connection.activity), (Outcome::Forced, Activity::Draining));
    drop(clients);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed, report.forced.len()), (2, 1, 0, 1));
}
