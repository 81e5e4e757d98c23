//! Connections that are kept through a replacement, a crash, a stop.

use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::Outcome;
use mastercontrol_worker::relay::{Forwarded, Protocol};

use crate::support::{CONNECT_TIMEOUT, Client, Front, HUGE, Program, asks, crowd, eventually, never, options, soon};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// Has a client send a request, which the program receives, and the client gets an answer. Returns the program's end of
/// the connection.
fn is_answered(client: &mut Client, connections: &Receiver<Client>) -> Client {
    let mut server = asks(client, connections);
    server.send(ANSWER);
    client.expect(ANSWER);
    server
}

#[test]
fn an_idle_connection_moves_to_the_new_generation() {
    let (many, _guard) = crowd(20);
    let (old, new) = (Program::http("old"), Program::http("new"));
    let front = Front::http();
    let upstream = front.serve(&old);
    let mut clients: Vec<_> = (0..many).map(|_| front.client()).collect();
    for client in &mut clients[..many / 2] {
        client.get("/");
        client.expect_answer("old / ");
    }
    eventually("all are there", || upstream.counts().now == many);
    let next = front.serve(&new);
    upstream.retire_by(never());
    let report = upstream.wait();
    assert_eq!((report.disconnected, report.closed, report.forced.len()), (0, 0, 0));
    assert_eq!((next.counts().now, next.counts().total), (many, 0));
    for client in &mut clients {
        client.get("/");
        client.expect_answer("new / ");
    }
    assert_eq!(old.errors(), [""; 0]);
}

#[test]
fn a_connection_that_has_moved_is_closed_through_the_generation_that_it_has_left() {
    let (old, new) = (Program::http("old"), Program::http("new"));
    let front = Front::http();
    let upstream = front.serve(&old);
    let mut client = front.client();
    client.get("/");
    client.expect_answer("old / ");
    let id = upstream.connections()[0].id;
    let next = front.serve(&new);
    upstream.retire_by(never());
    eventually("it has moved", || next.counts().now == 1);
    assert_eq!(upstream.close(id, HUGE).expect("it is found").connection.id, id);
    client.expect_end();
    assert!(upstream.close(id, HUGE).is_none());
}

#[test]
fn a_busy_connection_moves_when_its_message_is_answered() {
    let (old, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&old);
    let mut client = front.client();
    let mut server = asks(&mut client, &connections);
    let new = Program::http("new");
    let next = front.serve(&new);
    upstream.retire_by(never());
    client.get("/next");
    server.expect_silence();
    server.send(ANSWER);
    client.expect(ANSWER);
    client.expect_answer("new /next ");
    server.expect_last("");
    assert_eq!(upstream.wait().disconnected, 0);
    assert_eq!(next.counts().now, 1);
}

#[test]
fn half_a_head_moves_as_well() {
    let (old, new) = (Program::http("old"), Program::http("new"));
    let front = Front::http();
    let upstream = front.serve(&old);
    let mut client = front.client();
    client.send("GET /moved HTTP/1.1\r\nHo");
    eventually("it is there", || upstream.connections().first().is_some_and(|client| client.received > 0));
    front.serve(&new);
    upstream.retire_by(never());
    upstream.wait();
    client.send("st: a\r\n\r\n");
    client.expect_answer("new /moved ");
}

#[test]
fn an_upgraded_connection_stays_until_the_deadline() {
    let (old, connections) = Program::by_hand();
    let new = Program::http("new");
    let front = Front::http();
    let upstream = front.serve(&old);
    let mut client = front.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    let mut server = connections.recv().unwrap();
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";
    server.send(answer);
    client.expect(answer);
    front.serve(&new);
    upstream.retire_by(never());
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.expect("GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    server.expect(REQUEST);
    upstream.move_deadline(soon());
    assert_eq!(upstream.wait().forced.len(), 1);
    client.expect_reset();
}

#[test]
fn a_program_that_closes_between_messages_is_connected_again() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut client = front.client();
    for _ in 0..3 {
        let server = is_answered(&mut client, &connections);
        // The thread that accepted it may still have it.
        server.0.shutdown(Shutdown::Both).unwrap();
        client.expect_silence();
    }
    assert_eq!(upstream.counts().now, 1);
    assert_eq!(front.relay.counts().retries, 0);
}

/// Has a program close a kept-alive connection when it has received this request.
fn close_at(request: &str) -> (Program, Front, Client, Receiver<Client>) {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    front.serve(&program);
    let mut client = front.client();
    let mut server = is_answered(&mut client, &connections);
    client.send(request);
    server.expect(request);
    drop(server);
    (program, front, client, connections)
}

#[test]
fn a_request_is_sent_once_more_if_a_kept_connection_is_closed_instead_of_an_answer() {
    let (_program, front, mut client, connections) = close_at("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = connections.recv().unwrap();
    server.expect("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    server.send(ANSWER);
    client.expect(ANSWER);
    assert_eq!((front.relay.counts().retries, front.relay.counts().bad_gateway), (1, 0));
}

#[test]
fn a_request_is_sent_no_more_than_twice() {
    let (_program, front, mut client, connections) = close_at("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut server = connections.recv().unwrap();
    server.expect("GET /again HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(server);
    client.expect_refusal(502);
    assert_eq!((front.relay.counts().retries, front.relay.counts().bad_gateway), (1, 1));
}

#[test]
fn a_request_that_may_change_something_is_sent_once() {
    for request in [
        "POST / HTTP/1.1\r\nHost: a\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi",
        "PATCH / HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        let (_program, front, mut client, connections) = close_at(request);
        client.expect_refusal(502);
        assert_eq!(front.relay.counts().retries, 0);
        assert!(connections.try_recv().is_err());
    }
}

/// A program crashes, and the next one begins to serve only after further requests. Returns whether the relay heard of
/// the crash before it gave those up, which a busy machine may prevent.
fn crashes_and_is_heard_of_in_time() -> bool {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut idle = front.client();
    let kept = is_answered(&mut idle, &connections);
    let mut busy = front.client();
    busy.get("/crash");
    let mut server = connections.recv().unwrap();
    // Until the relay knows of the connection, it would take the crash for a failed attempt.
    server.expect("GET /crash ");
    // The program is gone, and requests that are made now are not lost.
    let _port = program.close();
    let mut meanwhile = front.client();
    let began = Instant::now();
    meanwhile.get("/meanwhile");
    server.reset();
    drop(kept);
    busy.expect_refusal(502);
    upstream.lost();
    if began.elapsed() > CONNECT_TIMEOUT {
        return false;
    }
    upstream.retire_by(never());
    idle.get("/idle");
    eventually("two requests are held", || front.relay.counts().held == 2);
    drop(busy);
    upstream.wait();
    let program = Program::http("next");
    let next = front.serve(&program);
    idle.expect_answer("next /idle ");
    meanwhile.expect_answer("next /meanwhile ");
    assert_eq!((front.relay.counts().bad_gateway, next.counts().now), (1, 2));
    true
}

#[test]
fn a_crash_costs_the_request_under_way_and_no_other_one() {
    eventually("it is heard of in time", crashes_and_is_heard_of_in_time);
}

#[test]
fn idle_connections_stay_while_nothing_serves() {
    let old = Program::http("old");
    let front = Front::http();
    let upstream = front.serve(&old);
    let mut client = front.client();
    client.get("/");
    client.expect_answer("old / ");
    upstream.lost();
    assert_eq!(upstream.wait().closed, 0);
    client.expect_silence();
    let new = Program::http("new");
    front.serve(&new);
    client.get("/");
    client.expect_answer("new / ");
}

#[test]
fn a_stop_closes_idle_connections_and_ends_busy_ones_with_their_answer() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut idle = front.client();
    let _kept = is_answered(&mut idle, &connections);
    let mut busy = front.client();
    let mut server = asks(&mut busy, &connections);
    upstream.stop_by(never());
    idle.expect_last("");
    server.send("HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
    let (head, body) = busy.answer();
    assert!(head.contains("Connection: close\r\n") && !head.contains("keep-alive"), "{head}");
    assert_eq!(body, "ok");
    busy.expect_last("");
    let report = upstream.wait();
    assert_eq!((report.notified, report.closed, report.forced.len()), (1, 2, 0));
}

#[test]
fn a_client_that_has_connected_just_before_a_stop_is_answered() {
    let program = Program::http("a");
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut client = front.client();
    upstream.stop_by(never());
    client.get("/");
    let (head, body) = client.answer();
    assert!(head.contains("Connection: close\r\n"), "{head}");
    assert_eq!(body, "a / ");
    client.expect_last("");
    // A client that sends nothing does not hold up the stop.
    upstream.wait();
}

#[test]
fn a_silent_client_does_not_hold_up_a_stop() {
    let program = Program::http("a");
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut client = front.client();
    upstream.stop_by(never());
    client.expect_last("");
    upstream.wait();
}

#[test]
fn a_stop_answers_held_requests_with_503() {
    let front = Front::http();
    let mut held = front.client();
    held.get("/");
    eventually("it is held", || front.relay.counts().held == 1);
    let program = Program::http("a");
    let upstream = front.relay.upstream(program.address);
    upstream.stop_by(never());
    held.expect_refusal(503);
    upstream.wait();
}

#[test]
fn one_connection_is_closed_behind_its_answer() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    let id = upstream.connections()[0].id;
    let closing = thread::spawn({
        let upstream = upstream.clone();
        move || upstream.close(id, HUGE)
    });
    server.expect(REQUEST);
    // Nothing shows that it has been asked to leave.
    thread::sleep(Duration::from_millis(500));
    server.send(ANSWER);
    let (head, _) = client.answer();
    assert!(head.contains("Connection: close\r\n"), "{head}");
    client.expect_last("");
    assert_eq!(closing.join().unwrap().unwrap().outcome, Outcome::Closed);
}

#[test]
fn connections_survive_many_replacements_under_load() {
    let front = Front::start(options(Protocol::Http(Forwarded::Append)));
    let mut program = Program::http("x");
    let mut upstream = front.serve(&program);
    let over = Arc::new(AtomicBool::new(false));
    let address = front.relay.address();
    let clients: Vec<_> = (0..8)
        .map(|kind| {
            let over = over.clone();
            thread::spawn(move || {
                let connect = || Client(TcpStream::connect(address).unwrap());
                let mut client = connect();
                let mut number = 0;
                while !over.load(Ordering::SeqCst) {
                    if kind % 4 == 0 {
                        client = connect();
                    }
                    client.get(&format!("/{kind}/{number}"));
                    client.expect_answer(&format!("x /{kind}/{number} "));
                    number += 1;
                }
                number
            })
        })
        .collect();
    for _ in 0..50 {
        let new = Program::http("x");
        let next = front.serve(&new);
        upstream.retire_by(never());
        let report = std::mem::replace(&mut upstream, next).wait();
        assert_eq!(report.forced.len(), 0);
        drop(std::mem::replace(&mut program, new).close());
    }
    over.store(true, Ordering::SeqCst);
    let answered: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    let counts = front.relay.counts();
    assert_eq!((counts.succeeded, counts.bad_gateway, counts.unavailable), (answered, 0, 0));
}
