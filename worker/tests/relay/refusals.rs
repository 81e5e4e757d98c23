//! The relay's own answers, and when it ends a connection.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::relay::{Forwarded, Protocol};
use rustix::net::{AddressFamily, SocketType};

use crate::support::{Client, Front, Program, asks, crowd, eventually, never, options};

#[test]
fn what_is_no_request_is_refused_and_reaches_no_program() {
    let program = Program::http("a");
    let front = Front::http();
    let _upstream = front.serve(&program);
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nCookie: {}\r\n\r\n", "x".repeat(70_000));
    for (request, status) in [
        ("hello\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/2.7\r\nHost: a\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (&long, 431),
    ] {
        let mut client = front.client();
        client.send(request);
        client.expect_refusal(status);
    }
    assert_eq!((front.relay.counts().rejected, program.connections()), (8, 0));
}

#[test]
fn a_bad_end_of_a_body_does_not_reach_the_program() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let _upstream = front.serve(&program);
    let mut client = front.client();
    let begin = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
    client.send(begin);
    let mut server = connections.recv().unwrap();
    server.expect(begin);
    client.send("0\n\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
    client.expect_refusal(400);
    server.expect_reset();
}

#[test]
fn a_request_that_the_program_does_not_answer_gets_502() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    for part in ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 100 Continue\r\n\r\n"] {
        let mut client = front.client();
        client.send(request);
        let mut server = connections.recv().unwrap();
        server.expect(request);
        server.send(part);
        if part.ends_with("\r\n\r\n") {
            client.expect(part);
        }
        drop(server);
        client.expect_refusal(502);
    }
    // Nothing follows the head of an answer to HEAD: it would be taken for another answer.
    let mut client = front.client();
    client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n");
    let server = connections.recv().unwrap();
    drop(server);
    let mut answer = String::new();
    client.0.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let counts = front.relay.counts();
    assert_eq!((counts.bad_gateway, counts.upstream_failures, counts.retries), (4, 4, 0));
    drop(client);
    eventually("all are over", || upstream.counts().now == 0);
}

#[test]
fn a_program_that_does_not_listen_gives_502() {
    let program = Program::http("a");
    let front = Front::http();
    let _upstream = front.serve(&program);
    let _port = program.close();
    let mut client = front.client();
    client.get("/");
    client.expect_refusal(502);
}

#[test]
fn a_request_for_a_program_whose_queue_is_full_waits_as_long_as_clients_are_held() {
    let listener = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let listener = TcpListener::from(listener);
    let address = listener.local_addr().unwrap();
    // One that is not accepted fills it.
    let in_the_way = TcpStream::connect(address).unwrap();
    let front = Front::http();
    let upstream = front.relay.upstream(address);
    upstream.serve();
    let mut client = front.client();
    client.get("/");
    // Longer than one that does not listen is asked.
    thread::sleep(Duration::from_secs(6));
    drop((listener.accept().unwrap(), in_the_way));
    // Attempts that the relay has given up can be in the queue, too.
    let accepted = || Client::to(listener.accept().unwrap().0);
    let mut server = accepted();
    while server.0.peek(&mut [0]).unwrap() == 0 {
        server = accepted();
    }
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.expect_answer("ok");
}

#[test]
fn an_answer_that_is_cut_off_is_not_made_complete() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let _upstream = front.serve(&program);
    for part in [
        "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\na part",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na part\r\n",
    ] {
        let mut client = front.client();
        client.get("/");
        let mut server = connections.recv().unwrap();
        server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        server.send(part);
        drop(server);
        client.expect(part);
        client.expect_end();
    }
    eventually("it is counted", || front.relay.counts().upstream_failures == 2);
}

#[test]
fn a_program_that_takes_too_long_to_answer_gives_504() {
    let (program, connections) = Program::by_hand();
    let mut options = options(Protocol::Http(Forwarded::Off));
    options.answer_within = Some(Duration::from_millis(100));
    let front = Front::start(options);
    let _upstream = front.serve(&program);
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    client.expect_refusal(504);
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.expect_reset();
    assert_eq!(front.relay.counts().gateway_timeout, 1);
}

#[test]
fn an_answer_that_has_begun_may_take_its_time_and_so_may_a_request() {
    let limit = Duration::from_secs(2);
    let longer = limit + Duration::from_millis(100);
    let (program, connections) = Program::by_hand();
    let mut options = options(Protocol::Http(Forwarded::Off));
    options.answer_within = Some(limit);
    let front = Front::start(options);
    let _upstream = front.serve(&program);
    let mut client = front.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab");
    let mut server = connections.recv().unwrap();
    thread::sleep(longer);
    client.send("cd");
    server.expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nabcd");
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab");
    thread::sleep(longer);
    server.send("cd");
    client.expect("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd");
}

#[test]
fn a_request_that_no_generation_serves_in_time_gets_503() {
    let mut options = options(Protocol::Http(Forwarded::Off));
    options.wait = Duration::from_millis(50);
    let front = Front::start(options);
    let mut idle = front.client();
    let mut client = front.client();
    client.get("/");
    client.expect_refusal(503);
    assert_eq!((front.relay.counts().unavailable, front.relay.counts().held), (1, 0));
    // A client that has requested nothing waits for nothing.
    idle.expect_silence();
    let program = Program::http("a");
    let _upstream = front.serve(&program);
    idle.get("/");
    idle.expect_answer("a / ");
}

#[test]
fn a_client_that_has_just_been_answered_is_not_reset_when_the_relay_ends() {
    let front = Front::http();
    let mut client = front.client();
    client.get("/");
    eventually("it is held", || front.relay.counts().held == 1);
    drop(front);
    client.expect_refusal(503);
    // On a real network a reset overtakes an answer, which is then lost.
    let error = client.0.take_error().unwrap();
    assert!(error.is_none(), "{error:?}");
}

#[test]
fn a_client_that_has_just_been_answered_is_not_reset_at_the_deadline() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut client = front.client();
    let mut server = asks(&mut client, &connections);
    upstream.stop_by(never());
    // It is still sending when it gets its last answer.
    client.send("GET /ahead HTTP/1.1\r\n");
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.expect_answer("ok");
    client.expect_last("");
    upstream.move_deadline(Instant::now());
    let report = upstream.wait();
    assert_eq!((report.closed, report.forced.len()), (1, 0));
}

#[test]
fn the_one_client_too_many_gets_503() {
    let (program, connections) = Program::by_hand();
    let mut options = options(Protocol::Http(Forwarded::Off));
    options.max_connections = 1;
    let front = Front::start(options);
    let upstream = front.serve(&program);
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    let mut one_too_many = front.client();
    one_too_many.get("/");
    one_too_many.expect_refusal(503);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.expect_answer("ok");
    assert_eq!((upstream.counts().refused, front.said("Refused")), (1, 1));
}

#[test]
fn an_idle_client_makes_room_for_one_that_wants_something() {
    let (many, _guard) = crowd(20);
    let program = Program::http("a");
    let mut options = options(Protocol::Http(Forwarded::Off));
    options.max_connections = many;
    let front = Front::start(options);
    let upstream = front.serve(&program);
    let mut clients: Vec<_> = (0..many).map(|_| front.client()).collect();
    for client in &mut clients {
        client.get("/");
        client.expect_answer("a / ");
    }
    let mut next = front.client();
    next.get("/");
    next.expect_answer("a / ");
    assert_eq!((upstream.counts().now, upstream.counts().refused), (many, 0));
    let is_closed = |client: &mut Client| {
        client.0.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        client.0.read(&mut [0]).is_ok_and(|length| length == 0)
    };
    assert_eq!(clients.iter_mut().filter_map(|client| is_closed(client).then_some(())).count(), 1);
}
