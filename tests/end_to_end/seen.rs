//! The connections of programs that accept them themselves, seen from outside: listed, and named by a drain that they
//! hold up.

use std::collections::BTreeSet;
use std::net::TcpListener;

use serde_json::Value;

use crate::exec::{assert_nothing_runs, file};
use crate::gunicorn;
use crate::support::{Client, HUGE, Home, Instance, eventually, free_port};

/// Serves the passed socket, or the port in the second argument, and connects to the port in the first one. It accepts
/// three connections and keeps them; when it is asked to end, it closes its socket, and ends when all its clients have
/// disconnected.
const KEEPS_THREE: &str = r#"
import os, signal, socket, sys, threading
database = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
if len(sys.argv) > 2:
    listener = socket.create_server(("127.0.0.1", int(sys.argv[2])))
else:
    listener = socket.socket(fileno=3)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
clients = []
def serve():
    for _ in range(3):
        client, _ = listener.accept()
        client.sendall(b"hello\n")
        clients.append(client)
threading.Thread(target=serve, daemon=True).start()
signal.sigwait({signal.SIGTERM})
listener.close()
for client in clients:
    while client.recv(1000):
        pass
"#;

/// Clients that the program has accepted.
fn three(instance: &Instance) -> Vec<Client> {
    let connect = |_| {
        let mut client = None;
        eventually("it listens", || {
            client = Client::try_connect(instance.address).ok();
            client.is_some()
        });
        client.unwrap()
    };
    let mut clients: Vec<Client> = (0..3).map(connect).collect();
    clients.iter_mut().for_each(|client| client.expect("hello\n"));
    clients
}

fn addresses(clients: &[Client]) -> BTreeSet<String> {
    clients.iter().map(|client| client.0.local_addr().unwrap().to_string()).collect()
}

fn peers(connections: &Value) -> BTreeSet<String> {
    let connections = connections.as_array().unwrap_or_else(|| panic!("no connections: {connections}"));
    connections.iter().map(|connection| connection["peer"].as_str().unwrap().to_owned()).collect()
}

fn listed(instance: &Instance) -> Value {
    instance.admin(&["connections", "--json"]).expect(0).json()["program_connections"].clone()
}

/// The same program, and a peer that it is connected to.
fn start(home: &Home, passes: bool) -> (Instance, TcpListener) {
    let database = TcpListener::bind("127.0.0.1:0").unwrap();
    let (script, port) = (file(home, "server.py", KEEPS_THREE), free_port().to_string());
    let database_port = database.local_addr().unwrap().port().to_string();
    let line = ["python3", &script, &database_port];
    if passes {
        return (home.exec(&["--listen", &port, "--grace", HUGE, "--ready", "300ms"], &line), database);
    }
    let mut instance = home.exec(&["--grace", HUGE], &[&line[..], &[&port]].concat());
    instance.address = ([127, 0, 0, 1], port.parse().unwrap()).into();
    (instance, database)
}

#[test]
fn connections_lists_the_clients_of_a_program_with_their_queues_and_who_waits() {
    let home = Home::new();
    let (instance, _database) = start(&home, true);
    let mut clients = three(&instance);
    clients[1].send("not read");
    let waiting = instance.client();
    eventually("all are seen", || listed(&instance).as_array().is_some_and(|listed| listed.len() == 4));
    let listed = listed(&instance);
    let status = instance.status();
    for connection in listed.as_array().unwrap() {
        let is = |client: &Client| connection["peer"] == client.0.local_addr().unwrap().to_string();
        assert_eq!(connection["address"], instance.address.to_string(), "{connection}");
        if is(&waiting) {
            assert_eq!((&connection["state"], &connection["pid"]), (&"waiting".into(), &Value::Null), "{connection}");
            continue;
        }
        assert!(clients.iter().any(is), "{connection}");
        assert_eq!((&connection["state"], &connection["generation"]), (&"established".into(), &1.into()));
        assert_eq!(connection["pid"], status["program_pid"], "{connection}");
        let unread = if is(&clients[1]) { "not read".len() } else { 0 };
        assert_eq!(connection["receive_queue"], unread, "{connection}");
    }
    // The longest queue first.
    assert_eq!(listed[0]["peer"], clients[1].0.local_addr().unwrap().to_string());
    let shown = instance.admin(&["connections"]).expect(0);
    shown.says("PEER ").says("RECV-Q").says("established").says("waiting to be accepted");
    drop((clients, waiting));
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}

#[test]
fn a_restart_names_the_clients_that_hold_it_up_and_those_of_both_generations_are_listed() {
    let home = Home::new();
    let (instance, _database) = start(&home, true);
    let old = three(&instance);
    let restart = instance.admin_begins(&["restart", "--json"]);
    eventually("the drain is seen to be held up", || instance.status()["drain"]["open"] == 3);
    assert_eq!(peers(&instance.status()["drain"]["program_connections"]), addresses(&old));
    let new = three(&instance);
    let both = listed(&instance);
    let of = |generation: u64| {
        let all = both.as_array().unwrap().iter();
        peers(&all.filter(|connection| connection["generation"] == generation).cloned().collect())
    };
    assert_eq!((of(1), of(2)), (addresses(&old), addresses(&new)));
    drop(old);
    let restarted = restart.end().expect(0).json();
    assert_eq!(restarted["report"]["program"], "it exited with code 0", "{restarted}");
    drop(new);
    instance.admin(&["stop"]).expect(0);
}

/// It binds its port itself, and has already closed it when it is looked at.
#[test]
fn the_report_of_a_stop_names_the_clients_that_held_it_up_until_the_program_was_killed() {
    let home = Home::new();
    let (instance, _database) = start(&home, false);
    let clients = three(&instance);
    let stop = instance.admin_begins(&["stop", "--json"]);
    eventually("the stop is seen to be held up", || instance.status()["drain"]["open"] == 3);
    instance.admin(&["grace", "0"]).expect(0);
    let report = &stop.end().expect(5).json()["report"];
    assert_eq!(peers(&report["held_up_by"]), addresses(&clients), "{report}");
    instance.err.wait_for("the stop was held up by 127.0.0.1:");
    instance.wait();
}

#[test]
fn the_slow_clients_of_gunicorn_are_named_by_connections_and_by_its_drain() {
    let Some(program) = gunicorn::gunicorn() else { return };
    let home = Home::new();
    gunicorn::application(&home, "hello");
    let instance = gunicorn::start_with(&home, &program, &["--threads", "4"]);
    let mut clients: Vec<Client> = (0..3).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(|client| client.send("GET / HTTP/1.1\r\n"));
    let accepted = || {
        let listed = listed(&instance);
        listed.as_array().is_some_and(|all| all.iter().filter(|connection| connection["pid"].is_u64()).count() == 3)
    };
    eventually("all are accepted", accepted);
    assert_eq!(peers(&listed(&instance)), addresses(&clients));
    let stop = instance.admin_begins(&["stop"]);
    eventually("the stop is seen to be held up", || instance.status()["drain"]["open"] == 3);
    instance.admin(&["grace", "0"]).expect(0);
    let stop = stop.end().expect(5);
    for client in addresses(&clients) {
        stop.says("  held up by connection of process ").says(&format!(" from {client}, established"));
    }
    instance.wait();
}
