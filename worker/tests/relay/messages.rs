//! Messages are told apart: each goes to the generation that serves.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use mastercontrol_worker::Activity;
use mastercontrol_worker::relay::{Forwarded, Protocol};

use crate::support::{Client, Front, Program, eventually, options};

fn before(program: &Program) -> (Front, mastercontrol_worker::relay::Upstream) {
    let front = Front::http();
    let upstream = front.serve(program);
    (front, upstream)
}

#[test]
fn requests_of_one_client_take_one_connection_to_the_program() {
    let program = Program::http("a");
    let (front, upstream) = before(&program);
    let mut client = front.client();
    for number in 0..100 {
        client.get(&format!("/{number}"));
        client.expect_answer(&format!("a /{number} "));
    }
    assert_eq!(program.connections(), 1);
    let counts = front.relay.counts();
    assert_eq!((counts.succeeded, counts.retries, counts.upstream_failures), (100, 0, 0));
    eventually("it is idle", || upstream.connections().first().is_some_and(|one| one.activity == Activity::Idle));
    drop(client);
    eventually("it is over", || upstream.counts().now == 0);
    // A program that reads sees an end, and no error.
    assert_eq!(program.errors(), [""; 0]);
}

#[test]
fn requests_that_are_sent_ahead_are_answered_one_after_the_other() {
    let program = Program::http("a");
    let (front, _upstream) = before(&program);
    let mut client = front.client();
    let requests: String = (0..200).map(|number| format!("GET /{number} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(&requests);
    for number in 0..200 {
        client.expect_answer(&format!("a /{number} "));
    }
    assert_eq!(program.connections(), 1);
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = before(&program);
    let mut client = front.client();
    let request = "POST /form HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let sender = thread::spawn({
        let mut stream = client.0.try_clone().unwrap();
        move || bytewise(&mut stream, request)
    });
    let mut server = connections.recv().unwrap();
    server.expect(request);
    sender.join().unwrap();
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\n";
    bytewise(&mut server.0, answer);
    client.expect(answer);
    client.get("/next");
    server.expect("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
}

fn bytewise(stream: &mut TcpStream, text: &str) {
    for byte in text.bytes() {
        stream.write_all(&[byte]).unwrap();
        thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn bodies_of_all_kinds_pass_unchanged() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = before(&program);
    let mut client = front.client();
    let body = "x".repeat(3_000_000);
    let request = format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let mut sender = Client(client.0.try_clone().unwrap());
    let sending = thread::spawn({
        let request = request.clone();
        move || sender.send(&request)
    });
    let mut server = connections.recv().unwrap();
    server.expect(&request);
    sending.join().unwrap();
    let mut answer = String::from("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..100 {
        answer.push_str(&format!("{:x}\r\n{}\r\n", 30_000, "y".repeat(30_000)));
    }
    answer.push_str("0\r\n\r\n");
    let mut sender = Client(server.0.try_clone().unwrap());
    let sending = thread::spawn({
        let answer = answer.clone();
        move || sender.send(&answer)
    });
    client.expect(&answer);
    sending.join().unwrap();
    for (request, answer) in [
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"),
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
    ] {
        client.send(request);
        server.expect(request);
        server.send(answer);
        client.expect(answer);
    }
    assert_eq!(program.connections(), 1);
}

#[test]
fn a_client_that_waits_for_continue_gets_it_from_the_program() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = before(&program);
    let mut client = front.client();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    client.send(head);
    let mut server = connections.recv().unwrap();
    server.expect(head);
    server.send("HTTP/1.1 100 Continue\r\n\r\n");
    client.expect("HTTP/1.1 100 Continue\r\n\r\n");
    client.send("hello");
    server.expect("hello");
    server.send("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    client.expect("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
    client.get("/");
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

#[test]
fn an_answer_before_the_end_of_its_request_ends_the_connection() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = before(&program);
    let mut client = front.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nhello");
    let mut server = connections.recv().unwrap();
    server.expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\nhello");
    server.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n");
    client.expect_last("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nno\n");
    // Bytes that the client still sends do not destroy the answer.
    client.send("more");
    server.expect_end();
    drop(client);
    eventually("it is over", || upstream.counts().now == 0);
}

#[test]
fn an_answer_may_end_with_the_connection() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = before(&program);
    for version in ["1.0", "1.1"] {
        let mut client = front.client();
        client.get("/");
        let mut server = connections.recv().unwrap();
        server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = format!("HTTP/{version} 200 OK\r\n\r\nall of it");
        server.send(&answer);
        client.expect(&answer);
        drop(server);
        client.expect_last("");
    }
    // An answer that is cut off must not look complete.
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.send("HTTP/1.1 200 OK\r\n\r\na part");
    client.expect("HTTP/1.1 200 OK\r\n\r\na part");
    server.reset();
    client.expect_reset();
}

#[test]
fn the_programs_own_end_of_a_connection_is_passed_on() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = before(&program);
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
    server.send(answer);
    client.expect_last(answer);
    eventually("it is over", || upstream.counts().now == 0);
    server.expect_last("");
}

#[test]
fn after_an_upgrade_the_connection_is_the_programs() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = before(&program);
    let mut client = front.client();
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(request);
    let mut server = connections.recv().unwrap();
    server.expect(request);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    server.send(&format!("{answer}first words"));
    client.expect(&format!("{answer}first words"));
    for _ in 0..3 {
        client.send("\0ping \r\n\r\n");
        server.expect("\0ping \r\n\r\n");
        server.send("pong");
        client.expect("pong");
    }
    assert_eq!(upstream.connections()[0].activity, Activity::Busy);
    client.finish();
    server.expect_last("");
    server.send("last words");
    drop(server);
    client.expect_last("last words");
}

#[test]
fn after_a_refused_upgrade_messages_are_told_apart_as_before() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = before(&program);
    let mut client = front.client();
    let request = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    client.send(request);
    let mut server = connections.recv().unwrap();
    server.expect(request);
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    client.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    eventually("it is idle", || upstream.connections().first().is_some_and(|one| one.activity == Activity::Idle));
}

#[test]
fn other_protocols_pass_from_their_first_bytes_on() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = before(&program);
    for opening in ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "\u{16}\u{3}\u{1}hello"] {
        let mut client = front.client();
        let (first, rest) = opening.split_at(1);
        client.send(first);
        thread::sleep(Duration::from_millis(20));
        client.send(rest);
        let mut server = connections.recv().unwrap();
        server.expect(opening);
        server.send("\0\0\0");
        client.expect("\0\0\0");
        client.finish();
        server.expect_last("");
    }
    assert_eq!(front.said("Opaque"), 1, "it is reported once a generation");
}

#[test]
fn an_answer_whose_end_is_in_doubt_is_passed_on_until_the_program_closes() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = before(&program);
    for answer in [
        "what is this?",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nno chunk at all",
    ] {
        let mut client = front.client();
        client.get("/");
        let mut server = connections.recv().unwrap();
        server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        server.send(answer);
        client.expect(answer);
        client.get("/never");
        server.send("and more");
        client.expect("and more");
        drop(server);
        client.expect_last("");
    }
}

#[test]
fn bytes_that_belong_to_no_answer_do_not_reach_the_client() {
    let (program, connections) = Program::by_hand();
    let (front, _upstream) = before(&program);
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    server.send(&format!("{answer}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong"));
    client.expect(answer);
    client.get("/next");
    let mut server = connections.recv().unwrap();
    server.expect("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
    server.send(answer);
    client.expect(answer);
    // The same if they arrive later.
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong");
    server.expect_end();
    client.get("/last");
    let mut server = connections.recv().unwrap();
    server.expect("GET /last HTTP/1.1\r\nHost: a\r\n\r\n");
    server.send(answer);
    client.expect(answer);
}

#[test]
fn the_program_learns_from_where_a_request_comes() {
    let (program, connections) = Program::by_hand();
    let front = Front::start(options(Protocol::Http(Forwarded::Replace)));
    let _upstream = front.serve(&program);
    let mut client = front.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n");
    let mut server = connections.recv().unwrap();
    server.expect("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n\r\n");
}

#[test]
fn a_client_may_close_its_side_behind_its_request() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = before(&program);
    let mut client = front.client();
    client.get("/");
    client.finish();
    let mut server = connections.recv().unwrap();
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    server.expect_silence();
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    client.expect_last("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
    server.expect_last("");
    eventually("it is over", || upstream.counts().now == 0);
}

#[test]
fn a_client_that_is_gone_ends_its_request() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = before(&program);
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    server.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.reset();
    server.expect_reset();
    let mut client = front.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    let mut server = connections.recv().unwrap();
    server.expect("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf");
    drop(client);
    // Half a request is no request.
    server.expect_last("");
    drop(server);
    eventually("both are over", || upstream.counts().now == 0);
}

#[test]
fn a_side_that_does_not_read_stops_the_other_one() {
    let program = Program::start(|stream| {
        stream.read_exact(&mut [0; 27])?;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n")?;
        (0..1000).try_for_each(|_| stream.write_all(&[7; 100_000]))
    });
    let (front, upstream) = before(&program);
    let mut slow = front.client();
    slow.get("/");
    // Others are served meanwhile.
    let is_on_the_way = || upstream.connections().first().is_some_and(|one| one.sent > 100_000);
    eventually("a part is on the way", is_on_the_way);
    let mut quick = front.client();
    quick.get("/");
    for client in [&mut quick, &mut slow] {
        client.expect("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let mut body = vec![0; 100_000_000];
        client.0.read_exact(&mut body).unwrap();
        assert!(body.iter().all(|&byte| byte == 7));
    }
}
