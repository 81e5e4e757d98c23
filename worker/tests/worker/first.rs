//! Clients that have connected just before a stop, and whose first message is on its way.
//!
//! A server waits for it for [`FIRST_MESSAGE_WAIT`]. On a busy machine a test may be too late, and then tries again.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{Activity, FIRST_MESSAGE_WAIT};

use crate::queue::held_up;
use crate::replace::{pair, replace};
use crate::support::{Client, Fate, HUGE, Running, answering, eventually};

/// A moment before a client was accepted.
struct Before(Instant);

impl Before {
    fn now() -> Before {
        Before(Instant::now())
    }

    fn is_in_time(&self) -> bool {
        self.0.elapsed() < FIRST_MESSAGE_WAIT
    }

    /// Sends a first message. Returns whether it was in time; if so, it was answered with this and nothing else.
    fn answered(&self, mut client: Client, answer: &str) -> bool {
        let sent = client.0.write_all(b"?");
        let in_time = self.is_in_time();
        if in_time {
            assert!(sent.is_ok(), "it was closed before: {sent:?}");
            assert_eq!(client.fate(), Fate::Ended(answer.into()));
        }
        in_time
    }
}

/// A client that has been answered. A stop gets to it after the clients that connected before it.
fn answered(server: &Running) -> Client {
    let mut client = server.client();
    client.send("?");
    client.expect("1");
    client
}

/// Waits until the stop has reached the one of two idle connections whose message is not awaited. (On a busy machine it
/// may have reached both by now.)
fn wait_until_one_is_told(server: &Running) {
    eventually("the stop has come to one of them", || {
        server.connections().iter().filter(|connection| connection.activity == Activity::Idle).count() < 2
    });
}

#[test]
fn a_client_that_has_just_connected_is_answered_though_its_message_comes_during_the_stop() {
    eventually("a message is in time", || {
        let before = Before::now();
        let server = Running::start(answering(b'1', b'x'));
        let (client, _other) = (server.client(), answered(&server));
        server.wait_for(2, Activity::Idle);
        server.stop(HUGE);
        wait_until_one_is_told(&server);
        let in_time = before.answered(client, "x");
        let report = server.join();
        assert_eq!((report.disconnected + report.closed, report.forced.len()), (2, 0));
        in_time
    });
}

#[test]
fn a_client_that_waits_in_the_accept_queue_is_answered_though_its_message_comes_later() {
    eventually("a message is in time", || {
        let (server, open) = held_up(answering(b'1', b'x'), 5);
        let before = Before::now();
        let clients: Vec<_> = (0..5).map(|_| server.client()).collect();
        thread::scope(|scope| {
            scope.spawn(|| server.stop(HUGE));
            eventually("the stop has begun", || server.deadline().is_some());
            drop(open);
        });
        eventually("they are accepted", || server.counts().total >= 10);
        let in_time = clients.into_iter().all(|client| before.answered(client, "x"));
        assert_eq!(server.join().forced.len(), 0);
        in_time
    });
}

#[test]
fn a_client_that_has_just_connected_is_answered_by_the_successor_though_its_server_is_stopped() {
    let (old, new) = pair(answering(b'1', b'x'), Echo);
    let mut client = old.idle_clients(1).remove(0);
    replace(&old, &new, HUGE);
    old.stop(HUGE);
    assert_eq!(old.join().forced.len(), 0);
    client.send("?");
    client.expect("?");
    new.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    new.join();
}

#[test]
fn a_first_message_is_awaited_while_a_client_that_has_been_silent_for_long_is_closed() {
    eventually("a message is in time", || {
        let server = Running::start(answering(b'1', b'x'));
        let _silent = server.client();
        let is_old = || server.connections().first().is_some_and(|first| first.age >= FIRST_MESSAGE_WAIT);
        eventually("it has been silent for long", is_old);
        let before = Before::now();
        let client = server.client();
        server.wait_for(2, Activity::Idle);
        server.stop(HUGE);
        wait_until_one_is_told(&server);
        let in_time = before.answered(client, "x");
        assert_eq!(server.join().forced.len(), 0);
        in_time
    });
}

#[test]
fn a_client_that_sends_nothing_is_closed_when_its_message_is_awaited_no_longer() {
    let server = Running::start(answering(b'1', b'x'));
    let mut clients = server.idle_clients(3);
    server.stop(HUGE);
    clients.iter_mut().for_each(|client| client.expect_last(""));
    let report = server.join();
    assert_eq!((report.closed, report.forced.len()), (3, 0));
}

#[test]
fn no_first_message_is_awaited_beyond_the_deadline_and_nobody_is_closed_by_force_then() {
    let stops: [fn(&Running); 3] = [
        |server| server.stop(FIRST_MESSAGE_WAIT / 2),
        |server| server.stop(Duration::ZERO),
        |server| {
            server.stop(HUGE);
            server.stop(Duration::ZERO);
        },
    ];
    for stop in stops {
        eventually("nobody has been waited for, and nobody was forced", || {
            let server = Running::start(answering(b'1', b'x'));
            let before = Before::now();
            let mut client = server.idle_clients(1).remove(0);
            stop(&server);
            server.wait_for(0, Activity::Idle);
            let in_time = before.is_in_time();
            client.expect_last("");
            let report = server.join();
            // By force only if its thread is too slow to end before that.
            in_time && (report.closed, report.forced.len()) == (1, 0)
        });
    }
}

#[test]
fn a_client_that_gets_a_notice_gets_it_at_once() {
    eventually("nobody has been waited for", || {
        let server = Running::start(Echo);
        let before = Before::now();
        let mut client = server.idle_clients(1).remove(0);
        server.stop(HUGE);
        client.expect_last("SHUTDOWN\n");
        drop(client);
        server.join();
        before.is_in_time()
    });
}
