#![allow(clippy::unwrap_used)]
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::AtomicU64;

use super::*;

const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
const LAST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: Close\r\n\r\nbody";

/// A server that calls `serve` for each connection, one after the other.
fn server(mut serve: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap())));
    address
}

/// Reads a request. False: there are no more.
fn request(stream: &mut TcpStream) -> bool {
    let mut received = Vec::new();
    let mut byte = [0];
    while !received.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return false;
        }
        received.extend(byte);
    }
    true
}

fn one(address: SocketAddr, mode: Mode) -> Load {
    Load::new(address, "/", "body", mode).connections(1)
}

/// The report of some requests, each of which the server answers with this before it closes the connection.
fn answered_with(answer: &'static str) -> Report {
    let address = server(move |mut stream| {
        request(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
    });
    one(address, Mode::OnePerConnection).run(5)
}

#[test]
fn a_refused_connection_is_not_hidden_by_an_address_that_this_machine_does_not_have() {
    use ErrorKind::{AddrNotAvailable, ConnectionRefused, NotFound};
    for (before, next, told) in [
        (NotFound, ConnectionRefused, ConnectionRefused),
        (ConnectionRefused, AddrNotAvailable, ConnectionRefused),
        (AddrNotAvailable, ConnectionRefused, ConnectionRefused),
        (NotFound, AddrNotAvailable, AddrNotAvailable),
    ] {
        assert_eq!(client::more_telling(before.into(), next.into()).kind(), told);
    }
}

#[test]
fn whole_answers_count_as_answered_on_connections_of_their_own() {
    for answer in [
        ANSWER,
        LAST,
        "HTTP/1.1 200 OK\r\n\r\nbody",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nbod\r\n1\r\ny\r\n0\r\nTrailer: 1\r\n\r\n",
    ] {
        let report = answered_with(answer);
        assert!(report.answered >= 5 && report.lost() == 0, "{report}");
        assert_eq!(report.connections, report.answered, "{report}");
    }
}

#[test]
fn an_answer_that_comes_byte_by_byte_is_whole() {
    let address = server(|mut stream| {
        stream.set_nodelay(true).unwrap();
        request(&mut stream);
        for byte in ANSWER.bytes() {
            let _ = stream.write_all(&[byte]);
        }
    });
    let report = one(address, Mode::OnePerConnection).run(5);
    assert!(report.answered >= 5 && report.lost() == 0, "{report}");
}

#[test]
fn an_answer_that_is_larger_than_the_buffer_is_whole() {
    let body = "x".repeat(100_000);
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let address = server(move |mut stream| {
        while request(&mut stream) {
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let report = Load::new(address, "/", body, Mode::KeptAlive).connections(1).run(5);
    assert!(report.answered >= 5 && report.lost() == 0 && report.connections == 1, "{report}");
}

#[test]
fn another_status_another_body_and_what_is_no_http_count_as_wrong() {
    for answer in [
        "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodY",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbod",
        "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more",
        "HTTP/1.1 200 OK\r\nContent-Length: four\r\n\r\nbody",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        "SHUTDOWN\r\n\r\n",
    ] {
        let report = answered_with(answer);
        assert!(report.wrong >= 5 && report.lost() == report.wrong && report.answered == 0, "{answer:?}: {report}");
    }
}

#[test]
fn no_answer_counts_as_empty_and_a_part_of_one_as_cut() {
    let report = answered_with("");
    assert!(report.empty >= 5 && report.lost() == report.empty && report.answered == 0, "{report}");
    for part in [1, 20, ANSWER.len() - 1] {
        let report = answered_with(&ANSWER[..part]);
        assert!(report.cut >= 5 && report.lost() == report.cut && report.answered == 0, "{part}: {report}");
    }
    let report = answered_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n");
    assert!(report.cut >= 5 && report.lost() == report.cut && report.answered == 0, "{report}");
}

/// Under Wine a reset after an answer looks like the end of file.
#[cfg(unix)]
#[test]
fn a_reset_counts_as_reset_even_behind_a_whole_answer() {
    let address = server(|mut stream| {
        // Closing with part of the request unread resets the connection.
        let _ = stream.read(&mut [0]);
        let _ = stream.write_all(ANSWER.as_bytes());
    });
    let report = one(address, Mode::OnePerConnection).run(5);
    assert!(report.reset >= 5 && report.lost() == report.reset && report.answered == 0, "{report}");
}

#[test]
fn nobody_there_counts_as_refused() {
    // A port that the system never assigns.
    let report = one("127.0.0.1:1".parse().unwrap(), Mode::KeptAlive).run(3);
    assert!(report.refused >= 3 && report.lost() == report.refused && report.connections == 0, "{report}");
}

#[test]
fn an_answer_that_never_comes_counts_as_timed_out() {
    let mut held = Vec::new();
    let address = server(move |stream| held.push(stream));
    let report = one(address, Mode::OnePerConnection).patience(Duration::from_millis(50)).run(2);
    assert!(report.timed_out >= 2 && report.lost() == report.timed_out, "{report}");
}

#[test]
fn an_answer_that_keeps_coming_counts_as_timed_out() {
    let address = server(|mut stream| {
        thread::spawn(move || {
            request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(b"data\n").is_ok() {
                thread::sleep(Duration::from_millis(5));
            }
        });
    });
    let mut load = one(address, Mode::OnePerConnection);
    load.0.expected = Expected::Any;
    let patience = Duration::from_millis(100);
    let report = load.patience(patience).run(2);
    assert!(report.timed_out >= 2 && report.lost() == report.timed_out, "{report}");
    assert!(report.slowest >= patience, "{report}");
}

#[test]
fn a_kept_connection_has_the_whole_time_again_for_each_answer() {
    let patience = Duration::from_secs(3);
    let address = server(move |mut stream| {
        stream.set_nodelay(true).unwrap();
        while request(&mut stream) {
            for (part, wait) in [(&ANSWER[..10], patience * 6 / 10), (&ANSWER[10..], Duration::from_millis(50))] {
                thread::sleep(wait);
                let _ = stream.write_all(part.as_bytes());
            }
        }
    });
    let report = one(address, Mode::KeptAlive).patience(patience).run(2);
    assert!(report.lost() == 0 && report.connections == 1, "{report}");
}

#[test]
fn a_kept_connection_is_used_until_the_server_says_that_it_ends() {
    let address = server(|mut stream| {
        for answer in [ANSWER, ANSWER, LAST] {
            if request(&mut stream) {
                let _ = stream.write_all(answer.as_bytes());
            }
        }
        // Here the client closes.
        let _ = stream.read(&mut [0]);
    });
    let report = one(address, Mode::KeptAlive).run(30);
    assert!(report.lost() == 0 && report.found_closed == 0, "{report}");
    assert_eq!(report.notified, report.answered / 3, "{report}");
    assert_eq!(report.connections, report.answered.div_ceil(3), "{report}");
}

#[test]
fn a_connection_that_is_closed_before_the_next_request_is_found_closed_and_nothing_is_lost() {
    let address = server(|mut stream| {
        request(&mut stream);
        // Usually in one packet with the answer, and then the client finds it before it sends anything.
        let _ = stream.write_all(ANSWER.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        while request(&mut stream) {}
    });
    let mut runs = (0..1000).map(|_| one(address, Mode::KeptAlive).run(50));
    let report = runs.find(|report| report.found_closed > 0).expect("it is never found");
    // A request sent at that very moment is lost, and is not hidden.
    assert!(report.answered > 0, "{report}");
    assert_eq!(report.lost(), report.empty, "{report}");
}

#[test]
fn a_request_on_a_kept_connection_that_gets_no_answer_is_lost_and_not_repeated() {
    let seen = Arc::new(AtomicU64::new(0));
    let address = server({
        let seen = seen.clone();
        move |mut stream| {
            if request(&mut stream) {
                seen.fetch_add(1, Ordering::SeqCst);
                let _ = stream.write_all(ANSWER.as_bytes());
            }
            if request(&mut stream) {
                seen.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let report = one(address, Mode::KeptAlive).run(20);
    assert!(report.empty >= 10 && report.lost() == report.empty, "{report}");
    assert_eq!(report.answered + report.lost(), seen.load(Ordering::SeqCst), "{report}");
}

#[test]
fn the_report_is_one_line_with_every_fate() {
    let mut report = Report::default();
    (report.answered, report.took) = (7, Duration::from_secs(1));
    report.count(Fate::Failed(ErrorKind::OutOfMemory), Duration::ZERO, Duration::ZERO);
    let text = report.to_string();
    assert!(text.starts_with("7 answered (7/s), 1 lost: 0 wrong, ") && text.contains(", 1 out of memory;"), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[test]
fn an_answer_with_the_expected_status_is_right_whatever_its_body() {
    let url: Url = format!(
        "http://{}/",
        server(|mut stream| {
            request(&mut stream);
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nbody");
        })
    )
    .parse()
    .unwrap();
    let load = |expected| Load::from_url(&url, expected, Mode::OnePerConnection).unwrap().connections(1);
    assert_eq!(load(Expected::Any).once(), (Fate::Answered, Some(404)));
    assert_eq!(load(Expected::Status(404)).run(3).lost(), 0);
    let report = load(Expected::Status(200)).run(3);
    assert!(report.wrong >= 3 && report.lost() == report.wrong, "{report}");
}

/// What becomes of the second request of each connection, which the server ends with `end`.
#[cfg(unix)]
fn second_requests(end: impl Fn(TcpStream) + Send + 'static) -> Report {
    let address = server(move |mut stream| {
        if request(&mut stream) {
            let _ = stream.write_all(ANSWER.as_bytes());
            end(stream);
        }
    });
    one(address, Mode::KeptAlive).resend().run(20)
}

#[cfg(unix)]
#[test]
fn a_request_on_a_kept_connection_that_was_closed_unread_is_sent_again_and_not_lost() {
    // The request has arrived, and stays unread.
    let report = second_requests(|stream| drop(stream.peek(&mut [0])));
    assert!(report.sent_again >= 5 && report.lost() == 0, "{report}");
    assert!(report.answered >= 20 && report.connections > report.sent_again, "{report}");
}

#[cfg(unix)]
#[test]
fn a_request_that_the_server_has_read_and_dropped_is_lost_though_its_connection_was_a_kept_one() {
    let report = second_requests(|mut stream| assert!(request(&mut stream)));
    assert!(report.empty >= 10 && report.lost() == report.empty && report.sent_again == 0, "{report}");
}

#[cfg(unix)]
#[test]
fn the_first_request_of_a_connection_is_sent_again_if_it_was_late_and_is_lost_otherwise() {
    let closes_first = |hesitation| {
        let mut connections = 0;
        let address = server(move |mut stream| {
            connections += 1;
            if connections > 1 && request(&mut stream) {
                let _ = stream.write_all(ANSWER.as_bytes());
            }
        });
        one(address, Mode::OnePerConnection).hesitation(hesitation).run(1)
    };
    let late = closes_first(client::IDLE_AFTER);
    assert!(late.sent_again == 1 && late.lost() == 0, "{late}");
    // A busy machine may be late here, too.
    let early = closes_first(client::IDLE_AFTER / 100);
    assert_eq!(early.lost() + early.sent_again, 1, "{early}");
}

#[cfg(unix)]
#[test]
fn a_late_request_that_is_closed_unread_each_time_is_lost() {
    let address = server(drop);
    let report = one(address, Mode::OnePerConnection).hesitation(client::IDLE_AFTER).run(1);
    assert!(report.sent_again >= 1 && report.answered == 0, "{report}");
    assert!(report.lost() >= 1 && report.connections == report.lost() + report.sent_again, "{report}");
}

#[test]
fn a_url_has_a_host_a_port_and_a_path() {
    for (text, authority, host, port, path) in [
        ("http://localhost", "localhost", "localhost", 80, "/"),
        ("HTTP://a.example:8000/x?y=z#here", "a.example:8000", "a.example", 8000, "/x?y=z"),
        ("http://[::1]:8000?q", "[::1]:8000", "::1", 8000, "/?q"),
        ("http://[::1]", "[::1]", "::1", 80, "/"),
    ] {
        let url: Url = text.parse().unwrap();
        assert_eq!((url.authority(), url.host(), url.port(), url.path()), (authority, host, port, path), "{text}");
        assert_eq!(url.to_string().parse(), Ok(url));
    }
    for (text, says) in [
        ("localhost:8000/", "such as http://localhost:8000/"),
        ("https://localhost/", "TLS is not supported"),
        ("ftp://localhost/", "ftp is not supported"),
        ("http://localhost:0/", "has no valid port"),
        ("http://localhost:port/", "has no valid port"),
        ("http://[::1]8000/", "has no valid port"),
        ("http://user@localhost/", "a user in a URL"),
        ("http:///", "has no host"),
        ("http://localhost/a b", "percent-encode"),
    ] {
        let refused = text.parse::<Url>().unwrap_err();
        assert!(refused.contains(says), "{text}: {refused}");
    }
}
