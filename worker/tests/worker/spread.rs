//! Connections that are let go one after the other.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{Activity, Connection};

use crate::support::{Client, Fate, HUGE, Running, Serve};

/// Half of it is longer than any test takes.
const LONG: Duration = HUGE.saturating_mul(2);

fn end() -> Instant {
    Instant::now() + LONG * 2
}

/// Sends back what it receives. There is no notice.
fn quiet(client: &mut Connection) -> io::Result<()> {
    let mut message = [0; 64];
    while client.next_message() {
        let length = client.read(&mut message)?;
        client.write_all(&message[..length])?;
    }
    Ok(())
}

/// It is served as if there were no stop, however often.
fn assert_is_served(client: &mut Client) {
    for _ in 0..3 {
        client.0.write_all(b"x").unwrap();
        client.0.read_exact(&mut [0]).unwrap();
    }
}

#[test]
fn clients_are_notified_one_after_the_other_oldest_first() {
    let server = Running::start(Echo);
    let mut clients = server.idle_clients(2);
    let end = end();
    server.stop_over(LONG, end);
    assert_eq!(clients.remove(0).fate(), Fate::Ended("SHUTDOWN\n".into()));
    assert_is_served(&mut clients[0]);
    server.wait_for(1, Activity::Idle);
    // With the same deadline.
    server.stop_over(Duration::ZERO, end);
    assert_eq!(clients.remove(0).fate(), Fate::Ended("SHUTDOWN\n".into()));
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.forced.len()), (2, 2, 0));
}

#[test]
fn a_client_in_the_middle_of_its_message_is_notified_when_its_turn_has_come() {
    let server = Running::start(Echo);
    let mut clients = server.idle_clients(2);
    // Both send without a pause, so none of them is ever idle for long.
    assert_is_served(&mut clients[0]);
    server.retire_over(LONG, end());
    assert_is_served(&mut clients[1]);
    assert_eq!(clients.remove(0).fate(), Fate::Ended("SHUTDOWN\n".into()));
    assert_is_served(&mut clients[0]);
    server.retire_over(Duration::from_millis(50), end());
    assert_eq!(clients.remove(0).fate(), Fate::Ended("SHUTDOWN\n".into()));
    assert_eq!(server.join().notified, 2);
}

#[test]
fn connections_without_a_notice_are_closed_one_after_the_other() {
    let server = Running::start(Serve(quiet));
    let mut clients = server.idle_clients(3);
    clients.iter_mut().for_each(assert_is_served);
    server.stop_over(LONG, end());
    assert_eq!(clients.remove(0).fate(), Fate::Ended(String::new()));
    clients.iter_mut().for_each(assert_is_served);
    // Those that have been answered are no longer busy.
    server.wait_for(2, Activity::Idle);
    server.stop(Duration::ZERO);
    for mut client in clients {
        assert_eq!(client.fate(), Fate::Ended(String::new()));
    }
    let report = server.join();
    assert_eq!((report.closed, report.forced.len()), (3, 0));
}

#[test]
fn all_have_had_their_turn_when_the_time_is_over() {
    let server = Running::start(Echo);
    let clients = server.idle_clients(20);
    server.stop_over(Duration::from_millis(200), Instant::now() + HUGE);
    for mut client in clients {
        assert_eq!(client.fate(), Fate::Ended("SHUTDOWN\n".into()));
    }
    assert_eq!(server.join().notified, 20);
}
