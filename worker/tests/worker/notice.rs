//! Which clients are notified, and that the notice arrives.

#[cfg(unix)]
use std::io::ErrorKind;
#[cfg(unix)]
use std::io::Read;
use std::io::{BufRead, Write};
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::Duration;

use mastercontrol_worker::handlers::{Commands, Echo};
use mastercontrol_worker::{Activity, Connection, Handler};

use crate::support::{Gated, HUGE, Running, ServeAndTell, answering, eventually, send_much};

const NOTICE: Option<&[u8]> = Some(b"SHUTDOWN\n");

/// Sends much more than fits to a client that says `much`, and echoes everything else.
fn much(client: &mut Connection) -> std::io::Result<()> {
    while client.next_message() {
        let mut line = String::new();
        client.read_line(&mut line)?;
        if line == "much\n" {
            send_much(client, b'x')?;
        } else {
            client.write_all(line.as_bytes())?;
        }
    }
    Ok(())
}

/// Sends as much as the connection takes, to the last byte.
///
/// Not on Windows: there a socket is in an unknown state after a send has timed out, and a socket that has nothing else
/// to send takes a whole notice, however full it is.
#[cfg(unix)]
fn fill(client: &mut Connection) -> std::io::Result<()> {
    // A rest of the client's window that is smaller than a segment is used only when the system probes it, after 200
    // ms.
    client.set_write_timeout(Some(Duration::from_millis(600)))?;
    for size in [65_536, 1] {
        let full = loop {
            if let Err(error) = client.write(&vec![b'x'; size]) {
                break error;
            }
        };
        assert!(matches!(full.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{full}");
    }
    client.set_write_timeout(None)
}

#[test]
fn an_idle_client_gets_the_notice_and_then_the_end() {
    let server = Running::start(Echo);
    let mut client = server.idle_clients(1).remove(0);
    server.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed, report.forced.len()), (1, 1, 0, 0));
}

#[test]
fn a_client_between_its_message_and_the_answer_gets_the_answer_and_then_the_notice() {
    let (open, handler) = Gated::new(NOTICE);
    let server = Running::start(handler);
    let mut client = server.client();
    client.send("a");
    server.wait_for_message(1);
    server.stop(HUGE);
    drop(open);
    client.expect_last(".SHUTDOWN\n");
    drop(client);
    assert_eq!(server.join().notified, 1);
}

#[test]
fn a_message_that_was_received_before_the_stop_is_answered_though_the_handler_asks_for_it_afterwards() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Running::start(ServeAndTell(move |client: &mut Connection| {
        let _ = gate.lock().unwrap().recv();
        Echo.serve(client)
    }));
    let mut client = server.client();
    client.send("whole");
    server.wait_for_message(1);
    server.stop(HUGE);
    drop(open);
    client.expect_last("wholeSHUTDOWN\n");
    drop(client);
    assert_eq!(server.join().notified, 1);
}

#[test]
fn a_client_that_does_not_read_holds_up_neither_the_notice_to_others_nor_the_stop() {
    let server = Running::start(ServeAndTell(much));
    let mut deaf = server.client();
    deaf.send("much\n");
    eventually("the answer has begun", || server.connections().first().is_some_and(|first| first.sent > 0));
    let mut other = server.client();
    other.send("hello\n");
    other.expect("hello\n");
    server.stop(HUGE);
    other.expect_last("SHUTDOWN\n");
    drop(other);
    eventually("the other has left", || server.counts().now == 1);
    server.stop(Duration::ZERO);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected), (1, 1));
    assert_eq!(report.forced.iter().map(|forced| forced.peer).collect::<Vec<_>>(), [deaf.address()]);
    assert_eq!(report.forced[0].activity, Activity::Busy);
    assert_eq!(report.stuck.len(), 0);
}

#[cfg(unix)]
#[test]
fn an_idle_client_that_has_not_read_its_answers_gets_the_notice_behind_them() {
    let server = Running::start(ServeAndTell(|client: &mut Connection| {
        while client.next_message() {
            let mut line = String::new();
            client.read_line(&mut line)?;
            fill(client)?;
        }
        Ok(())
    }));
    let mut full = server.client();
    full.send("fill\n");
    eventually("the answer has begun", || server.connections().first().is_some_and(|first| first.sent > 0));
    server.wait_for(1, Activity::Idle);
    let mut other = server.idle_clients(1).remove(0);
    server.stop(HUGE);
    other.expect_last("SHUTDOWN\n");
    drop(other);
    eventually("the other has left", || server.counts().now == 1);
    assert_eq!(server.counts().notified, 1, "the notice to the full one was written before there was room for it");
    let rest = full.rest();
    assert!(rest.ends_with(b"xSHUTDOWN\n"));
    drop(full);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.forced.len()), (2, 2, 0));
}

#[cfg(unix)]
#[test]
fn an_idle_client_that_never_reads_is_forced_at_the_deadline_like_any_other() {
    let server = Running::start(ServeAndTell(|client: &mut Connection| {
        while client.next_message() {
            client.read_exact(&mut [0])?;
            fill(client)?;
        }
        Ok(())
    }));
    let mut full = server.client();
    full.send("!");
    server.wait_for_message(1);
    server.wait_for(1, Activity::Idle);
    server.stop(Duration::from_millis(50));
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed), (0, 0, 0));
    assert_eq!((report.forced.len(), report.stuck.len()), (1, 0));
    drop(full);
}

#[test]
fn the_notice_survives_what_an_idle_client_still_sends() {
    let server = Running::start(Echo);
    let mut client = server.idle_clients(1).remove(0);
    server.stop(HUGE);
    server.wait_for(1, Activity::Draining);
    // It has not read what it was sent yet: this crosses the notice.
    for _ in 0..64 {
        client.send([b'x'; 65_536]);
    }
    client.expect_last("SHUTDOWN\n");
    client.send("this too is read and thrown away");
    drop(client);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.forced.len()), (1, 1, 0));
}

#[test]
fn the_notice_survives_input_that_a_busy_connection_has_not_read() {
    let (open, handler) = Gated::new(NOTICE);
    let server = Running::start(handler);
    let mut client = server.client();
    let more = thread::spawn({
        let mut client = crate::support::Client(client.0.try_clone().unwrap());
        move || (0..64).for_each(|_| client.send([b'x'; 65_536]))
    });
    server.wait_for_message(1);
    server.stop(HUGE);
    drop(open);
    // Its sender continues until all is sent; only then does the client read.
    more.join().unwrap();
    client.expect_last(".SHUTDOWN\n");
    drop(client);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.forced.len()), (1, 1, 0));
}

#[test]
fn a_half_closed_client_still_gets_its_answer() {
    let server = Running::start(Commands::new());
    let mut client = server.client();
    client.send("HAIKU\n");
    client.half_close();
    assert!(client.rest().ends_with(b"The socket is free.\n"));
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_half_closed_client_gets_its_answer_during_a_drain_too() {
    let (open, handler) = Gated::new(NOTICE);
    let server = Running::start(handler);
    let mut client = server.client();
    client.send("a");
    client.half_close();
    server.wait_for_message(1);
    server.stop(HUGE);
    drop(open);
    client.expect_last(".SHUTDOWN\n");
    // It has closed its side: nothing has to be waited for.
    let report = server.join();
    assert_eq!((report.notified, report.disconnected), (1, 1));
}

#[test]
fn without_a_notice_idle_connections_are_closed_at_once() {
    let server = Running::start(answering(b'1', b'x'));
    let mut clients: Vec<_> = (0..5).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send("?");
        client.expect("1");
    }
    server.wait_for(5, Activity::Idle);
    server.stop(HUGE);
    let stopped = server.join();
    assert_eq!((stopped.notified, stopped.disconnected, stopped.closed, stopped.forced.len()), (0, 0, 5, 0));
    clients.iter_mut().for_each(|client| client.expect_last(""));
}

#[test]
fn without_a_notice_a_message_that_has_arrived_is_still_served() {
    let (open, handler) = Gated::new(None);
    let server = Running::start(handler);
    let mut client = server.client();
    client.send("a");
    server.wait_for_message(1);
    client.send("b");
    server.stop(HUGE);
    drop(open);
    client.expect_last("..");
    let report = server.join();
    assert_eq!((report.closed, report.forced.len()), (1, 0));
}

#[test]
fn a_client_that_leaves_while_it_is_told_does_no_harm() {
    for _ in 0..20 {
        let server = Running::start(Echo);
        let clients = server.idle_clients(10);
        thread::scope(|scope| {
            scope.spawn(|| server.stop(HUGE));
            drop(clients);
        });
        let report = server.join();
        assert_eq!(report.forced.len(), 0);
    }
}
