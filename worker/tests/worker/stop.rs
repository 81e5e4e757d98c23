//! When a stop ends, and from where it can be requested.

use std::hint;
use std::io::{self, BufRead, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::{Commands, Echo};
use mastercontrol_worker::{Connection, Event, Handler, Server, Stopper};

use crate::crowd::descriptors;
use crate::support::{Client, HUGE, Log, Running, ServeAndTell, Watchdog, eventually};

#[test]
fn stop_without_clients_ends_at_once() {
    let server = Running::start(Echo);
    server.stop(HUGE);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed, report.forced.len()), (0, 0, 0, 0));
}

#[test]
fn a_handler_is_dropped_by_the_server_before_its_end_is_reported() {
    struct Dropped(Log);
    impl Handler for Dropped {
        fn serve(&self, _client: &mut Connection) -> io::Result<()> {
            Ok(())
        }
    }
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.say(format!("dropped in thread {}", thread::current().name().unwrap_or("?")));
            panic!("which costs nothing else");
        }
    }
    let log = Log::default();
    let server = Running::of(log.observe(Server::new(Dropped(log.clone()))));
    let others = server.stopper();
    server.stop(HUGE);
    server.join();
    assert_eq!(log.lines(), ["dropped in thread generation", "finished in thread generation"]);
    drop(others);
}

#[test]
fn stop_ends_when_the_last_client_leaves() {
    let server = Running::start(Echo);
    let clients = server.idle_clients(3);
    server.stop(HUGE);
    for (gone, mut client) in clients.into_iter().enumerate() {
        client.expect_last("SHUTDOWN\n");
        // None has disconnected unasked: a client that has been notified and stays is waited for.
        assert_eq!(server.counts().now, 3 - gone);
        drop(client);
        eventually("it has left", || server.counts().now == 2 - gone);
    }
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed, report.forced.len()), (3, 3, 0, 0));
}

#[test]
fn stop_waits_for_a_busy_client_to_finish_its_message() {
    let server = Running::start(Commands::new());
    let mut client = server.client();
    client.send("SO");
    server.wait_for_message(2);
    server.stop(HUGE);
    client.send("NG\n");
    let rest = String::from_utf8(client.rest()).unwrap();
    assert!(rest.starts_with("Row the packet"), "{rest}");
    assert!(rest.ends_with("another one today.\nSHUTDOWN\n"), "{rest}");
    drop(client);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.forced.len()), (1, 1, 0));
}

#[test]
fn stop_does_not_wait_for_a_client_that_never_sent_a_byte_but_leaves_when_told() {
    let server = Running::start(Commands::new());
    let mut client = server.client();
    server.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    assert_eq!(server.join().forced.len(), 0);
}

#[test]
fn a_crowd_of_idle_clients_is_told_and_none_is_forced() {
    let body = || {
        // A thousand, if there are as many descriptors. Both ends of each connection are in this process.
        let many = 1_000.min(descriptors().saturating_sub(100) / 2);
        let server = Running::start(Echo);
        let mut clients = server.idle_clients(many);
        server.stop(Duration::from_secs(60));
        for client in &mut clients {
            client.expect_last("SHUTDOWN\n");
        }
        drop(clients);
        let report = server.join();
        assert_eq!((report.notified, report.disconnected, report.closed, report.forced.len()), (many, many, 0, 0));
        let _ = writeln!(io::stdout(), "{many} clients: {:?}", report.took);
    };
    // Many systems allow fewer descriptors by default, and some allow no more.
    #[cfg(unix)]
    crate::support::in_a_process_of_its_own(
        "stop::a_crowd_of_idle_clients_is_told_and_none_is_forced",
        "ulimit -S -n 2200 || ulimit -S -n $(ulimit -H -n)",
        body,
    );
    #[cfg(not(unix))]
    body();
}

#[test]
fn a_client_that_connects_just_before_a_stop_is_notified() {
    for round in 0..300 {
        let server = Running::start(Echo);
        let mut client = server.client();
        // Meanwhile a thread of the engine accepts it, checks whether it has sent something, and lets it wait.
        let until = Instant::now() + Duration::from_micros(round);
        while Instant::now() < until {
            hint::spin_loop();
        }
        server.stop(HUGE);
        client.expect_last("SHUTDOWN\n");
        drop(client);
        assert_eq!(server.join().notified, 1);
    }
}

#[test]
fn a_handler_can_stop_its_own_server() {
    let stopper: Arc<OnceLock<Stopper>> = Arc::default();
    let own = stopper.clone();
    let server = Running::start(ServeAndTell(move |client: &mut Connection| {
        while client.next_message() {
            client.read_exact(&mut [0])?;
            own.get().unwrap().stop(HUGE);
            client.write_all(b"bye\n")?;
        }
        Ok(())
    }));
    stopper.set(server.stopper()).unwrap();
    let mut client = server.client();
    client.send("!");
    client.expect_last("bye\nSHUTDOWN\n");
    drop(client);
    assert_eq!(server.join().disconnected, 1);
}

#[test]
fn an_observer_can_stop_its_server_from_the_accepting_thread() {
    let stopper: Arc<OnceLock<Stopper>> = Arc::default();
    let own = stopper.clone();
    let server = Server::new(Echo).max_connections(0).observer(move |event| {
        if let Event::Refused { .. } = event {
            own.get().unwrap().stop(HUGE);
        }
    });
    let server = Running::of(server);
    stopper.set(server.stopper()).unwrap();
    let mut client = server.client();
    client.expect_last("Too many connections, try again later\n");
    server.join();
}

#[test]
fn many_threads_can_stop_at_once_and_the_client_is_told_once() {
    let server = Running::start(Echo);
    let mut client = server.idle_clients(1).remove(0);
    let barrier = Barrier::new(16);
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                barrier.wait();
                server.stop(HUGE);
            });
        }
    });
    client.expect_last("SHUTDOWN\n");
    drop(client);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected), (1, 1));
}

#[test]
fn a_server_whose_handle_was_dropped_goes_on_and_can_be_stopped() {
    let _watchdog = Watchdog::start();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stopper = Server::new(Echo).start(listener).unwrap().stopper();
    let mut client = Client::connect(stopper.address());
    client.send("hello");
    client.expect("hello");
    stopper.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    assert!(stopper.deadline().is_some());
}

#[test]
fn a_server_on_every_address_can_be_stopped() {
    for every in ["0.0.0.0:0", "[::]:0"] {
        // Not every machine has IPv6, and some have it without a loopback address.
        let Ok(listener) = TcpListener::bind(every) else { continue };
        let server = Running::on(listener, Server::new(Echo));
        let through = |loopback: &str| Client::try_connect((loopback, server.address().port()));
        let mut client = through("127.0.0.1").or_else(|_| through("::1")).unwrap();
        // When it has been answered, the server waits for the next client, or is about to.
        client.send("hello");
        client.expect("hello");
        server.stop(HUGE);
        client.expect_last("SHUTDOWN\n");
        drop(client);
        server.join();
    }
}

#[test]
fn a_stop_does_not_wait_for_a_message_that_has_not_begun() {
    // The client has sent messages before; between two of them it is as idle as one that never sent any.
    let server = Running::start(ServeAndTell(|client: &mut Connection| {
        while client.next_message() {
            let mut line = String::new();
            client.read_line(&mut line)?;
            client.write_all(line.to_uppercase().as_bytes())?;
        }
        Ok(())
    }));
    let mut client = server.client();
    for _ in 0..3 {
        client.send("ping\n");
        client.expect("PING\n");
    }
    server.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    server.join();
}
