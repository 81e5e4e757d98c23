//! The deadline: moved, forced, stuck.

use std::io::{self, Read};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::{Commands, Echo};
use mastercontrol_worker::{Activity, Connection, Handler, Server};

use crate::support::{
    Gated, Greet, HUGE, LIMIT, Log, Running, Serve, ServeAndTell, answering, crowd, eventually, send_much,
};

#[test]
fn a_client_that_was_told_and_stays_is_forced_at_the_deadline_and_named() {
    let server = Running::start(Echo);
    let mut stays = server.idle_clients(1).remove(0);
    server.stop(Duration::from_millis(100));
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed), (1, 0, 0));
    assert_eq!(report.forced.iter().map(|forced| forced.peer).collect::<Vec<_>>(), [stays.address()]);
    assert_eq!(report.forced[0].activity, Activity::Draining);
    assert_eq!(report.stuck.len(), 0);
    assert!(report.took >= Duration::from_millis(100), "it was forced before the deadline");
    stays.expect_last("SHUTDOWN\n");
}

#[test]
fn a_client_in_the_middle_of_a_message_is_forced_at_the_deadline_and_named() {
    let server = Running::start(Commands::new());
    let mut stays = server.client();
    stays.send("SO");
    server.wait_for_message(2);
    server.stop(Duration::from_millis(100));
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed), (0, 0, 0));
    assert_eq!(report.forced.iter().map(|forced| forced.peer).collect::<Vec<_>>(), [stays.address()]);
    assert_eq!((report.forced[0].activity, report.forced[0].received), (Activity::Busy, 2));
    assert_eq!(report.stuck.len(), 0);
}

#[test]
fn a_handler_that_hangs_is_reported_as_stuck_and_left_behind() {
    let (open, handler) = Gated::new(Some(b"SHUTDOWN\n"));
    let server = Running::start(handler);
    let mut hangs = server.client();
    hangs.send("a");
    server.wait_for_message(1);
    let mut other = server.idle_clients(1).remove(0);
    server.stop(Duration::from_millis(100));
    other.expect_last("SHUTDOWN\n");
    drop(other);
    let report = server.join();
    let peers =
        |connections: &[mastercontrol_worker::ConnectionInfo]| connections.iter().map(|c| c.peer).collect::<Vec<_>>();
    assert!(peers(&report.forced).contains(&hangs.address()));
    assert_eq!(peers(&report.stuck), [hangs.address()]);
    drop(open);
}

#[test]
fn the_deadline_can_be_brought_forward_during_the_drain() {
    let server = Running::start(Echo);
    let mut stays = server.idle_clients(1).remove(0);
    server.stop(HUGE);
    stays.expect_last("SHUTDOWN\n");
    server.stop(Duration::from_millis(10));
    let report = server.join();
    assert_eq!((report.notified, report.forced.len()), (1, 1));
}

#[test]
fn the_deadline_can_be_put_off_during_the_drain() {
    let server = Running::start(Echo);
    let mut stays = server.idle_clients(1).remove(0);
    // Long enough that even a machine under load postpones it in time.
    server.stop(Duration::from_secs(5));
    let first = server.deadline().unwrap();
    stays.expect_last("SHUTDOWN\n");
    server.stop(HUGE);
    assert!(server.deadline().unwrap() > first + Duration::from_secs(60));
    // The first deadline passes, and the client is still there.
    while Instant::now() < first + Duration::from_millis(100) {
        std::thread::sleep(first + Duration::from_millis(100) - Instant::now());
    }
    server.wait_for(1, Activity::Draining);
    drop(stays);
    let report = server.join();
    assert_eq!((report.disconnected, report.forced.len()), (1, 0));
}

#[test]
fn a_stop_without_grace_during_the_drain_closes_by_force_at_once() {
    let server = Running::start(Echo);
    let mut stays = server.idle_clients(3);
    server.stop(HUGE);
    stays.iter_mut().for_each(|client| client.expect_last("SHUTDOWN\n"));
    server.stop(Duration::ZERO);
    let report = server.join();
    assert_eq!((report.notified, report.forced.len(), report.stuck.len()), (3, 3, 0));
}

#[test]
fn a_stop_without_grace_closes_idle_connections_without_a_notice_and_forces_none() {
    let (many, _guard) = crowd(50);
    let server = Running::start(answering(b'1', b'x'));
    let mut clients: Vec<_> = (0..many).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send("?");
        client.expect("1");
    }
    eventually("all are idle", || server.connections().iter().all(|one| one.activity == Activity::Idle));
    server.stop(Duration::ZERO);
    clients.iter_mut().for_each(|client| client.expect_last(""));
    let report = server.join();
    assert_eq!((report.closed, report.forced.len()), (many, 0));
}

#[test]
fn a_stop_without_grace_still_tells_idle_clients() {
    let server = Running::start(Echo);
    let mut clients = server.idle_clients(3);
    // A new one is looked at once more when it waits already.
    for client in &mut clients {
        client.send("?");
        client.expect("?");
    }
    server.wait_for(3, Activity::Idle);
    server.stop(Duration::ZERO);
    clients.iter_mut().for_each(|client| client.expect_last("SHUTDOWN\n"));
    let report = server.join();
    assert_eq!(report.notified, 3);
    assert_eq!(report.forced.len() + report.disconnected, 3);
}

#[test]
fn a_grace_period_longer_than_a_clock_can_count_is_as_good_as_for_ever() {
    let server = Running::start(Echo);
    let mut client = server.idle_clients(1).remove(0);
    server.stop(Duration::MAX);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    assert_eq!(server.join().disconnected, 1);
}

#[test]
fn a_handler_that_reads_without_an_end_is_ended_by_force() {
    let (began, begun) = mpsc::channel();
    let server = Running::start(Greet(move |client: &mut Connection| {
        began.send(()).unwrap();
        io::copy(client, &mut io::sink()).map(drop)
    }));
    let client = server.client();
    begun.recv().unwrap();
    server.stop(Duration::from_millis(10));
    let report = server.join();
    assert_eq!((report.forced.len(), report.stuck.len()), (1, 0));
    drop(client);
}

#[test]
fn a_connection_that_ends_at_the_deadline_is_counted_once() {
    for _ in 0..20 {
        let server = Running::start(Echo);
        let clients = server.idle_clients(20);
        server.stop(Duration::from_millis(5));
        let deadline = server.deadline().unwrap();
        while Instant::now() < deadline {
            std::thread::yield_now();
        }
        drop(clients);
        let report = server.join();
        assert_eq!(report.disconnected + report.closed + report.forced.len(), 20, "{report:?}");
    }
}

/// Messages of this many bytes are read and not answered. The returned value can be upgraded as long as anything of the
/// server, or any of its threads, exists.
fn silent(length: usize) -> (Weak<()>, impl Fn(&mut Connection) -> io::Result<()>) {
    let token = Arc::new(());
    let left = Arc::downgrade(&token);
    let serve = move |client: &mut Connection| {
        let _token = &token;
        while client.next_message() {
            client.read_exact(&mut vec![0; length])?;
        }
        Ok(())
    };
    (left, serve)
}

#[test]
fn of_many_clients_that_stay_each_is_closed_once_and_no_thread_is_left_when_they_have_gone() {
    let (many, _guard) = crowd(100);
    for has_notice in [true, false] {
        let log = Log::default();
        let (left, serve) = silent(1);
        let handler: Arc<dyn Handler> = if has_notice { Arc::new(ServeAndTell(serve)) } else { Arc::new(Serve(serve)) };
        let server = Running::of(log.observe(Server::new(handler)));
        let mut clients: Vec<_> = (0..many).map(|_| server.client()).collect();
        clients.iter_mut().for_each(|client| client.send("!"));
        eventually("all have been heard", || {
            let connections = server.connections();
            connections.len() == many && connections.iter().all(|connection| connection.received == 1)
        });
        server.wait_for(many, Activity::Idle);
        server.stop(Duration::from_millis(50));
        let report = server.join();
        let (closed, forced) = if has_notice { (0, many) } else { (many, 0) };
        assert_eq!(
            (report.disconnected, report.closed, report.forced.len(), report.stuck.len()),
            (0, closed, forced, 0)
        );
        // They learn of the end before they have closed.
        clients.iter_mut().for_each(|client| client.expect_last(if has_notice { "SHUTDOWN\n" } else { "" }));
        drop(clients);
        eventually("all threads have ended", || left.strong_count() == 0);
        let lines = log.lines();
        assert_eq!(log.count("ended "), many, "{lines:?}");
        assert!(lines.last().is_some_and(|last| last.starts_with("finished")), "{lines:?}");
    }
}

#[test]
fn a_client_that_is_closed_in_the_middle_of_a_message_keeps_no_thread_when_it_has_gone() {
    let (left, serve) = silent(10);
    let server = Running::start(Serve(serve));
    let mut client = server.client();
    client.send("half");
    server.wait_for_message(4);
    server.stop(Duration::ZERO);
    let report = server.join();
    assert_eq!((report.forced.len(), report.stuck.len()), (1, 0));
    drop(client);
    eventually("its thread has ended", || left.strong_count() == 0);
}

#[test]
fn a_client_that_never_reads_is_closed_by_force_and_keeps_no_thread_when_it_has_gone() {
    let (began, begun) = mpsc::channel();
    let server = Running::start(Greet(move |client: &mut Connection| {
        began.send(()).unwrap();
        send_much(client, 0)
    }));
    let client = server.client();
    begun.recv().unwrap();
    server.stop(Duration::ZERO);
    let report = server.join();
    assert_eq!((report.forced.len(), report.stuck.len()), (1, 0));
    drop(client);
    // The channel ends with its thread.
    assert!(begun.recv_timeout(LIMIT).is_err_and(|error| error == RecvTimeoutError::Disconnected));
}
