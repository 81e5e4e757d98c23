//! Handlers that panic, and what is reported about connections.

use std::io::{Read, Write};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::{Commands, Echo};
use mastercontrol_worker::{Activity, Connection, Event, Server, Session, Sessions};

use crate::support::{Greet, HUGE, Log, Running, Serve, ServeAndTell, eventually};

#[test]
fn a_handler_that_panics_costs_its_own_connection_and_no_other() {
    let log = Log::default();
    let handler = Commands::new().command("PANIC", |text| panic!("asked for: {text}"));
    let server = Running::of(log.observe(Server::new(handler)));
    let mut other = server.client();
    other.send("HAIKU\n");
    other.expect("The last client leaves.\n");
    let mut panics = server.client();
    panics.send("PANIC now\n");
    panics.expect_last("");
    other.send("NONSENSE\n");
    other.expect("Nobody waits any more.\nThe socket is free.\nUnknown command: NONSENSE\n");
    let mut new = server.client();
    new.send("QUIT\n");
    new.expect_last("Goodbye\n");
    drop((other, new));
    server.stop(HUGE);
    server.join();
    assert_eq!(log.count("panicked 2: asked for: now"), 1);
    assert_eq!(log.count("panicked"), 1);
}

#[test]
fn a_handler_that_panics_during_the_drain_does_not_hold_it_up() {
    let (open, gate) = mpsc::channel::<()>();
    let gate = Mutex::new(gate);
    let server = Running::start(ServeAndTell(move |client: &mut Connection| {
        client.next_message();
        let _ = gate.lock().unwrap().recv();
        panic!("on purpose");
    }));
    let mut client = server.client();
    client.send("a");
    server.wait_for_message(1);
    server.stop(HUGE);
    drop(open);
    let report = server.join();
    assert_eq!((report.closed, report.forced.len()), (1, 0));
}

#[test]
fn every_connection_is_said_to_have_ended_before_the_server_is_said_to_be_finished() {
    let said: Arc<Mutex<Vec<&str>>> = Arc::default();
    let heard = said.clone();
    let server = Running::of(Server::new(Echo).observer(move |event| {
        let what = match event {
            Event::Connected { .. } => "connected",
            Event::Ended { .. } => {
                // A slow observer would hear of the end too late if the drain did not wait for it.
                thread::sleep(Duration::from_millis(20));
                "ended"
            }
            Event::Finished => "finished",
            _ => "something else",
        };
        heard.lock().unwrap().push(what);
    }));
    let clients = server.idle_clients(20);
    server.stop(HUGE);
    drop(clients);
    server.join();
    let said = said.lock().unwrap().clone();
    assert_eq!(said, [["connected"; 20], ["ended"; 20]].concat().into_iter().chain(["finished"]).collect::<Vec<_>>());
}

#[test]
fn an_observer_that_panics_harms_nothing_else() {
    let server = Running::of(Server::new(Echo).max_connections(1).observer(|event| panic!("{event:?}")));
    let mut client = server.idle_clients(1).remove(0);
    server.client().expect_last("Too many connections, try again later\n");
    client.send("hello");
    client.expect("hello");
    drop(client);
    eventually("it has left", || server.counts().now == 0);
    server.stop(HUGE);
    server.join();
}

#[test]
fn threads_are_named_after_what_they_do() {
    let log = Log::default();
    let handler = Greet(|client: &mut Connection| {
        let name = thread::current().name().unwrap_or("?").to_owned();
        if !client.next_message() {
            writeln!(client, "{} {}", name.trim_end_matches(|digit: char| digit.is_ascii_digit()), client.id())?;
        }
        Ok(())
    });
    let server = Running::of(log.observe(Server::new(handler)));
    let (mut first, mut second) = (server.client(), server.client());
    first.expect("engine- 1\n");
    second.expect("engine- 2\n");
    drop((first, second));
    server.stop(HUGE);
    server.join();
    assert_eq!(log.count("finished in thread generation"), 1);
}

#[test]
fn connections_say_who_they_are_and_what_they_did() {
    let server = Running::start(Echo);
    let mut client = server.client();
    client.send("hello");
    client.expect("hello");
    server.wait_for(1, Activity::Idle);
    let connections = server.connections();
    assert_eq!((connections[0].id, connections[0].peer), (1, client.address()));
    assert_eq!((connections[0].received, connections[0].sent), (5, 5));
    assert_eq!((server.counts().now, server.counts().total, server.deadline()), (1, 1, None));
    drop(client);
    eventually("it has left", || server.counts().now == 0);
    // Connections that ended before the stop are not in the report of the drain.
    assert_eq!(server.counts().disconnected, 0);
    server.stop(HUGE);
    assert_eq!(server.join().disconnected, 0);
}

#[test]
fn a_connection_that_is_idle_for_too_long_is_closed() {
    let log = Log::default();
    let handler = ServeAndTell(|client: &mut Connection| {
        client.set_idle_timeout(Some(Duration::from_millis(50)));
        while client.next_message() {
            client.read_exact(&mut [0])?;
        }
        Ok(())
    });
    let server = Running::of(log.observe(Server::new(handler)));
    let mut client = server.client();
    client.send("!");
    client.expect_last("");
    eventually("it is said to be closed", || log.lines().contains(&"ended 1 Closed".to_owned()));
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_client_that_sends_nothing_at_all_is_closed_after_the_idle_timeout_of_the_handler() {
    let log = Log::default();
    let handler = Sessions::new(|_| Never).notice("SHUTDOWN\n").idle_timeout(Duration::from_millis(50));
    let server = Running::of(log.observe(Server::new(handler)));
    server.client().expect_last("");
    eventually("it is said to be closed", || log.lines().contains(&"ended 1 Closed".to_owned()));
    server.stop(HUGE);
    server.join();
}

struct Never;

impl Session for Never {
    fn serve(&mut self, _client: &mut Connection) -> std::io::Result<()> {
        panic!("it has no message")
    }
}

#[test]
fn a_message_that_is_not_complete_by_its_deadline_is_an_error_of_its_connection() {
    let log = Log::default();
    let handler = ServeAndTell(|client: &mut Connection| {
        while client.next_message() {
            client.set_read_deadline(Some(Instant::now() + Duration::from_millis(50)));
            client.read_exact(&mut [0; 2])?;
            client.write_all(b"two\n")?;
        }
        Ok(())
    });
    let server = Running::of(log.observe(Server::new(handler)));
    let mut client = server.client();
    client.send("a");
    client.expect_last("");
    eventually("it is said to be closed", || log.count("ended 1 Closed: ") == 1);
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_message_has_no_longer_than_its_deadline_also_if_it_is_not_the_first_one() {
    let handler = Serve(|client: &mut Connection| {
        while client.next_message() {
            client.set_read_deadline(Some(Instant::now() + Duration::from_secs(1)));
            client.read_exact(&mut [0; 2])?;
            client.write_all(b"two\n")?;
        }
        Ok(())
    });
    let server = Running::start(handler);
    let mut client = server.client();
    client.send("a");
    server.wait_for_message(1);
    client.send("b");
    client.expect("two\n");
    let began = Instant::now();
    client.send("a");
    client.expect_last("");
    assert!(began.elapsed() < Duration::from_secs(15), "it took {:?}", began.elapsed());
    server.stop(HUGE);
    server.join();
}
