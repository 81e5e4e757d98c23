//! Clients and programs that end, or stall, at any byte of a message, with a replacement at any of them.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use mastercontrol_worker::relay::Upstream;

use crate::support::{Client, Front, Program, eventually, never, soon};

const REQUEST: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// What programs answer to it, each with the length of everything up to the end of the final answer's head.
fn answers() -> Vec<(&'static str, usize)> {
    [
        "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nhello, world",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n7\r\n, world\r\n0\r\nA: b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 204 No Content\r\nA: b\r\n\r\n",
        "HTTP/1.0 200 OK\r\nA: b\r\n\r\nuntil the end",
    ]
    .map(|answer| {
        let last = answer.rfind("HTTP/1.").unwrap();
        (answer, last + answer[last..].find("\r\n\r\n").unwrap() + 4)
    })
    .to_vec()
}

/// Everything that a client receives until its connection ends, and whether that is a regular end.
fn all_of(client: &mut Client) -> (String, bool) {
    let mut received = Vec::new();
    let ended = client.0.read_to_end(&mut received);
    if let Err(error) = &ended {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
    (String::from_utf8(received).unwrap(), ended.is_ok())
}

fn accept(connections: &Receiver<Client>) -> Client {
    let mut server = connections.recv().unwrap();
    server.expect(REQUEST);
    server
}

/// No client is left, and others are served.
fn assert_unharmed(front: &Front, upstream: &Upstream) {
    eventually("all are over", || upstream.counts().now == 0);
    assert_eq!((front.said("Panicked"), front.relay.counts().held), (0, 0));
}

#[test]
fn a_program_that_ends_at_any_byte_of_an_answer_never_makes_a_whole_one_of_a_part() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    for (answer, head) in answers() {
        let ends_with_connection = answer.starts_with("HTTP/1.0");
        for (cut, is_reset) in (0..=answer.len()).flat_map(|cut| [(cut, false), (cut, true)]) {
            let mut client = front.client();
            client.send(REQUEST);
            let mut server = accept(&connections);
            server.send(&answer[..cut]);
            if is_reset {
                server.reset()
            } else {
                drop(server)
            }
            // The client ends the connection, if it is kept. It may already have been reset.
            let _ = client.0.shutdown(Shutdown::Write);
            let (received, is_regular) = all_of(&mut client);
            let case = format!("{cut} bytes of {answer:?}, reset: {is_reset}: {received:?}, regular: {is_regular}");
            if cut < head {
                let interim = answer[..cut].rfind("\r\n\r\n").map_or(0, |end| end + 4);
                assert!(received.starts_with(&answer[..interim]), "{case}");
                assert!(received[interim..].starts_with("HTTP/1.1 502 ") && is_regular, "{case}");
            } else {
                assert_eq!(received, answer[..cut], "{case}");
                assert!(!(ends_with_connection && is_reset && is_regular), "{case}");
            }
        }
    }
    assert_unharmed(&front, &upstream);
}

#[test]
fn a_client_that_ends_at_any_byte_of_a_request_costs_nothing() {
    let program = Program::http("a");
    let front = Front::http();
    let upstream = front.serve(&program);
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /next HTTP/1.1\r\nHost: a\r\n\r\n";
    for cut in 0..=request.len() {
        let [mut closes, mut resets, mut half_closes] = [(); 3].map(|()| front.client());
        for client in [&mut closes, &mut resets, &mut half_closes] {
            client.send(&request[..cut]);
        }
        drop(closes);
        resets.reset();
        half_closes.finish();
        let (received, is_regular) = all_of(&mut half_closes);
        let whole =
            [request.find("GET").unwrap(), request.len()].map(|end| usize::from(cut >= end)).iter().sum::<usize>();
        assert_eq!((received.matches(" 200 OK").count(), is_regular), (whole, true), "{cut} bytes: {received:?}");
    }
    assert_unharmed(&front, &upstream);
}

#[test]
fn a_replacement_at_any_byte_of_a_request_costs_nothing() {
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let head = request.find("\r\n\r\n").unwrap() + 4;
    let (even, odd) = (Program::http("even"), Program::http("odd"));
    let front = Front::http();
    let mut upstream = front.serve(&even);
    for cut in 0..=request.len() {
        let mut client = front.client();
        client.send(&request[..cut]);
        eventually("it is there", || upstream.connections().first().is_some_and(|one| one.received == cut as u64));
        let next = front.serve(if cut % 2 == 0 { &odd } else { &even });
        upstream.retire_by(never());
        client.send(&request[cut..]);
        // A request that has reached the old program is answered by that program.
        let name = if (cut >= head) == (cut % 2 == 0) { "even" } else { "odd" };
        client.expect_answer(&format!("{name} /x hello"));
        client.get("/next");
        client.expect_answer(&format!("{} /next ", if cut % 2 == 0 { "odd" } else { "even" }));
        let report = std::mem::replace(&mut upstream, next).wait();
        assert_eq!((report.closed, report.disconnected, report.forced.len()), (0, 0, 0), "{cut} bytes");
    }
    assert_unharmed(&front, &upstream);
}

#[test]
fn a_replacement_at_any_byte_of_an_answer_costs_nothing() {
    let front = Front::http();
    let (mut program, mut connections) = Program::by_hand();
    let mut upstream = front.serve(&program);
    for (answer, _) in answers() {
        let is_kept = answer.starts_with("HTTP/1.1");
        for cut in 0..=answer.len() {
            let mut client = front.client();
            client.send(REQUEST);
            let mut server = accept(&connections);
            server.send(&answer[..cut]);
            if cut % 3 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            let (new, of_new) = Program::by_hand();
            let next = front.serve(&new);
            upstream.retire_by(never());
            server.send(&answer[cut..]);
            client.expect(answer);
            if is_kept {
                client.send(REQUEST);
                let mut server = accept(&of_new);
                server.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
                client.expect("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            } else {
                drop(server);
                client.expect_last("");
            }
            let report = std::mem::replace(&mut upstream, next).wait();
            assert_eq!(report.forced.len(), 0, "{cut} bytes of {answer:?}");
            drop(std::mem::replace(&mut program, new).close());
            connections = of_new;
        }
    }
    assert_unharmed(&front, &upstream);
}

#[test]
fn a_client_that_sends_ahead_and_never_reads_is_stopped_and_forced_at_the_deadline() {
    let (old, new) = (Program::http("a"), Program::http("b"));
    let front = Front::http();
    let upstream = front.serve(&old);
    let client = front.client();
    client.0.set_write_timeout(Some(Duration::from_millis(100))).unwrap();
    let requests = REQUEST.repeat(1000);
    let sent: usize = (0..10_000).map_while(|_| (&client.0).write(requests.as_bytes()).ok()).sum();
    assert!(sent < 100_000_000, "{sent} bytes");
    front.serve(&new);
    upstream.retire_by(soon());
    let report = upstream.wait();
    // If it was between two messages at that moment, it has moved.
    assert!(report.forced.len() <= 1, "{report:?}");
    assert_eq!(front.said("Panicked"), 0);
}

#[test]
fn a_request_is_not_sent_again_when_an_interim_answer_has_come() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let _upstream = front.serve(&program);
    let mut client = front.client();
    client.send(REQUEST);
    let mut server = accept(&connections);
    server.send("HTTP/1.1 204 No Content\r\n\r\n");
    client.expect("HTTP/1.1 204 No Content\r\n\r\n");
    client.send(REQUEST);
    server.expect(REQUEST);
    server.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    client.expect("HTTP/1.1 103 Early Hints\r\n\r\n");
    drop(server);
    client.expect_refusal(502);
    assert_eq!(front.relay.counts().retries, 0);
}
