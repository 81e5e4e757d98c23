//! Bytes in both directions.

use std::collections::HashSet;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::relay::Protocol;
use proptest::prelude::*;

use crate::support::{CONNECT_TIMEOUT, Front, Program, crowd, eventually, options};

#[test]
fn bytes_arrive_as_they_were_sent_in_both_directions_at_once() {
    let program = Program::echo();
    let (front, _upstream) = Front::before(&program);
    let config = ProptestConfig { cases: 8, failure_persistence: None, ..ProptestConfig::default() };
    let chunks = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300_000), 0..6);
    proptest!(config, |(chunks in chunks)| {
        let mut client = front.client();
        let mut sender = client.0.try_clone().unwrap();
        let sent = chunks.concat();
        let received = thread::scope(|scope| {
            scope.spawn(move || {
                chunks.iter().for_each(|chunk| sender.write_all(chunk).unwrap());
                sender.shutdown(Shutdown::Write).unwrap();
            });
            let mut received = Vec::new();
            client.0.read_to_end(&mut received).unwrap();
            received
        });
        prop_assert!(received == sent, "{} bytes came back of {}", received.len(), sent.len());
    });
    assert_eq!(program.errors(), [""; 0]);
}

#[test]
fn a_program_may_speak_first() {
    let program = Program::named("welcome");
    let (front, _upstream) = Front::before(&program);
    front.client().expect("welcome");
}

#[test]
fn half_a_connection_can_be_closed_by_either_side() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = Front::before(&program);
    for client_first in [true, false] {
        let (mut client, mut server) = (front.client(), connections.recv().unwrap());
        let (first, second) = if client_first { (&mut client, &mut server) } else { (&mut server, &mut client) };
        first.send("all that I have to say");
        first.finish();
        second.expect_last("all that I have to say");
        second.send("and the answer");
        first.expect("and the answer");
        assert_eq!(upstream.counts().now, 1);
        second.finish();
        first.expect_last("");
        eventually("the connection is over", || upstream.counts().now == 0);
    }
}

#[test]
fn a_reset_is_passed_on_in_both_directions() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = Front::before(&program);
    let (mut client, mut server) = (front.client(), connections.recv().unwrap());
    // Until the relay knows of the connection, it takes a reset for a failed attempt, and makes another one.
    client.send("hello");
    server.expect("hello");
    server.reset();
    client.expect_reset();
    let (client, mut server) = (front.client(), connections.recv().unwrap());
    client.reset();
    server.expect_reset();
    eventually("both connections are over", || upstream.counts().now == 0);
}

#[test]
fn what_a_program_has_sent_before_a_reset_is_delivered() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = Front::before(&program);
    let (mut client, mut server) = (front.client(), connections.recv().unwrap());
    server.send("the answer");
    // It has not read this, so its end is a reset.
    client.send("a question too many");
    eventually("it has arrived", || server.0.peek(&mut [0; 64]).unwrap() == 19);
    drop(server);
    client.expect("the answer");
    client.expect_reset();
}

#[test]
fn a_side_that_does_not_read_stops_the_other_one() {
    let written = Arc::new(AtomicUsize::new(0));
    let counter = written.clone();
    let program = Program::start(move |stream| {
        loop {
            counter.fetch_add(stream.write(&[7; 65536])?, Ordering::SeqCst);
        }
    });
    let (front, _upstream) = Front::before(&program);
    let mut client = front.client();
    let stuck = || {
        let before = written.load(Ordering::SeqCst);
        thread::sleep(Duration::from_millis(200));
        before > 0 && written.load(Ordering::SeqCst) == before
    };
    eventually("the program cannot send more", stuck);
    // The system's buffers for both sockets, and a piece in the relay.
    let kept = written.load(Ordering::SeqCst);
    assert!(kept < 64 * 1024 * 1024, "{kept} bytes are on the way");
    let mut received = vec![0; kept + 1];
    client.0.read_exact(&mut received).unwrap();
    assert!(received.iter().all(|&byte| byte == 7));
}

#[test]
fn many_clients_are_served_at_once() {
    let (many, _guard) = crowd(300);
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    let mut clients: Vec<_> = (0..many).map(|_| front.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&format!("message {number}"));
    }
    for (number, client) in clients.iter_mut().enumerate() {
        client.expect(&format!("message {number}"));
    }
    assert_eq!((upstream.counts().now, upstream.counts().total), (many, many as u64));
    let connections = upstream.connections();
    assert_eq!(connections.len(), many);
    assert!(connections.is_sorted_by_key(|connection| connection.id));
    assert_eq!(connections[0].received, "message 0".len() as u64);
    assert_eq!(connections[0].sent, connections[0].received);
    drop(clients);
    eventually("all have ended", || upstream.counts().now == 0);
    assert_eq!((front.said("Connected"), front.said("Ended")), (many, many));
}

#[test]
fn the_one_connection_too_many_is_refused() {
    let program = Program::echo();
    let mut options = options(Protocol::Tcp);
    options.max_connections = 2;
    let front = Front::start(options);
    let upstream = front.serve(&program);
    let mut clients = [front.client(), front.client()];
    eventually("both are there", || upstream.counts().now == 2);
    front.client().expect_last("");
    assert_eq!((upstream.counts().refused, front.said("Refused")), (1, 1));
    for client in &mut clients {
        client.send("hello");
        client.expect("hello");
    }
    drop(clients);
    eventually("there is room", || upstream.counts().now == 0);
    let mut client = front.client();
    client.send("hello");
    client.expect("hello");
}

#[test]
fn a_connection_that_has_ended_keeps_no_port_towards_the_program() {
    let program = Program::start(|stream| {
        let mut request = [0];
        stream.read_exact(&mut request)?;
        stream.write_all(&request)
    });
    // Another program may have had this port before.
    let kept = time_waits_towards(program.address.port());
    let (front, upstream) = Front::before(&program);
    for _ in 0..100 {
        let mut client = front.client();
        client.send("a");
        client.expect_last("a");
    }
    assert_eq!(program.connections(), 100);
    eventually("all have ended", || upstream.counts().now == 0);
    // The program has closed first, so the system keeps its side of these connections.
    assert!(time_waits_towards(program.address.port()) <= kept);
}

/// How many connections to this port of this machine have ended and still keep the port of the connecting side.
fn time_waits_towards(port: u16) -> usize {
    towards(port, "06").len()
}

/// The ports with connections to this port of this machine in a state, as proc_net_tcp(5) numbers it.
fn towards(port: u16, state: &str) -> HashSet<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let own = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields[2].ends_with(&remote) && fields[3] == state).then(|| fields[1].into())
    };
    table.lines().skip(1).filter_map(own).collect()
}

/// Has the relay ask a program whose queue is full. Returns whether that was over in time, which a busy machine may
/// prevent.
fn is_asked_again_and_again() -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let _in_the_queue = TcpStream::connect(address).unwrap();
    let front = Front::tcp();
    let upstream = front.relay.upstream(address);
    upstream.serve();
    let mut client = front.client();
    let began = Instant::now();
    client.send("hello");
    // The system retries from the same port.
    let mut asked_from = HashSet::new();
    while asked_from.len() < 5 {
        if began.elapsed() > CONNECT_TIMEOUT {
            return false;
        }
        asked_from.extend(towards(address.port(), "02"));
        thread::sleep(Duration::from_millis(1));
    }
    let _program = Program::on(listener, |stream| io::copy(&mut &*stream, &mut &*stream).map(drop));
    let mut answer = [0; 5];
    let is_answered = client.0.read_exact(&mut answer).is_ok();
    if !is_answered && began.elapsed() > CONNECT_TIMEOUT {
        return false;
    }
    assert_eq!((is_answered, &answer, front.relay.counts().upstream_failures), (true, b"hello", 0));
    true
}

#[test]
fn a_program_whose_queue_is_full_is_asked_again_long_before_the_system_would() {
    eventually("a program is asked in time", is_asked_again_and_again);
}

#[test]
fn a_client_is_connected_when_its_program_listens_again_a_moment_later() {
    let program = Program::echo();
    let (front, _upstream) = Front::before(&program);
    let address = program.address;
    let _port = program.close();
    let mut client = front.client();
    client.send("hello");
    thread::sleep(Duration::from_millis(50));
    let _program =
        Program::on(TcpListener::bind(address).unwrap(), |stream| io::copy(&mut &*stream, &mut &*stream).map(drop));
    client.expect("hello");
}

#[test]
fn a_client_whose_program_does_not_listen_is_let_go_and_counted() {
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    let _port = program.close();
    front.client().expect_end();
    eventually("it is over", || upstream.counts().now == 0);
    assert_eq!(front.relay.counts().upstream_failures, 1);
}
