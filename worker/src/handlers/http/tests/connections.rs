//! Connections: limits, drains, refusals.

use super::*;
use crate::report::Activity;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

#[test]
fn a_client_that_closes_its_side_is_still_answered() {
    let site = Directory::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    client.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.reply().text(), "x");
    assert!(client.is_closed());
}

#[test]
fn a_client_that_sends_a_byte_now_and_then_does_not_hold_a_thread() {
    let limit = Duration::from_secs(1);
    let site = Directory::new().file("a", "x").serve_with(|mut http| {
        http.limits.request = limit;
        http
    });
    for start in ["", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n"] {
        let mut client = site.connect();
        client.0.set_read_timeout(Some(limit / 10)).unwrap();
        client.send(start);
        let began = Instant::now();
        // Each read that times out is the pause before the next byte.
        while client.0.peek(&mut [0]).is_err() {
            assert!(began.elapsed() < PATIENCE, "the thread is held");
            let _ = client.0.write_all(b"x");
        }
        client.0.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(client.reply().status(), 408);
        assert!(client.is_closed());
    }
    // The limit is for each request, not for all of them together.
    let mut client = site.connect();
    let began = Instant::now();
    while began.elapsed() < limit * 2 {
        client.send("GET /a HT");
        client.send("TP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.reply().text(), "x");
    }
}

#[test]
fn a_client_that_sends_an_empty_line_after_its_request_is_idle() {
    let site = Directory::new().file("a", "x").serve_with(|mut http| {
        http.limits.request = PATIENCE * 2;
        http
    });
    let stopper = site.server.as_ref().unwrap().stopper();
    let is_idle = |sent: usize| {
        let all = stopper.connections();
        all.iter().any(|it| it.received == sent as u64 && it.activity == Activity::Idle)
    };
    for pieces in [&["\r\n"][..], &["\n\r\n\n"], &["\r", "\n"]] {
        let (mut client, mut sent) = (site.connect(), 0);
        let mut send = |client: &mut Client, bytes: &str| {
            client.send(bytes);
            sent += bytes.len();
            sent
        };
        for request in
            ["POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody", "\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n"]
        {
            send(&mut client, request);
            assert_eq!(client.reply().status(), if request.contains("POST") { 405 } else { 200 });
            let sent = pieces.iter().map(|piece| send(&mut client, piece)).last().unwrap();
            let began = Instant::now();
            while !is_idle(sent) {
                assert!(began.elapsed() < PATIENCE, "a request is awaited");
                thread::yield_now();
            }
        }
    }
}

#[test]
fn an_idle_client_is_closed_without_an_answer() {
    let site = Directory::new().file("a", "x").serve_with(|mut http| {
        http.limits.idle = Duration::from_secs(1);
        http
    });
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "x");
    assert!(client.is_closed());
}

#[test]
fn patience_limits_the_wait_for_a_request_and_for_its_end() {
    let http = Http::pages(|_| None).patience(Duration::from_secs(1));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let site = Site { directory: Directory::new(), server: Some(Server::new(http).start(listener).unwrap()) };
    assert!(site.connect().is_closed());
    let mut client = site.connect();
    client.send("GET /he");
    assert_eq!(client.reply().status(), 408);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_reads_nothing_is_disconnected() {
    let (ended, end) = mpsc::channel();
    let directory = Directory::new().file("large", vec![0; 50_000_000]);
    let mut http = Http::new(directory.public()).unwrap();
    http.limits.write = Duration::from_millis(100);
    let server = Server::new(http).observer(move |event| {
        if let crate::event::Event::Ended { .. } = event {
            let _ = ended.send(());
        }
    });
    let site = Site { directory, server: Some(server.start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()) };
    let mut client = site.connect();
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    end.recv_timeout(PATIENCE).expect("the thread is held");
}

#[test]
fn a_client_that_disconnects_during_its_answer_is_counted_as_such() {
    let (ended, end) = mpsc::channel();
    let directory = Directory::new().file("large", vec![0; 50_000_000]);
    let server = Server::new(Http::new(directory.public()).unwrap()).observer(move |event| {
        if let crate::event::Event::Ended { outcome, .. } = event {
            let _ = ended.send(*outcome);
        }
    });
    let site = Site { directory, server: Some(server.start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()) };
    let mut client = site.connect();
    client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
    client.reply_to_head();
    drop(client);
    assert_eq!(end.recv_timeout(PATIENCE).unwrap(), crate::report::Outcome::Disconnected);
}

#[test]
fn a_request_under_way_is_answered_during_a_stop() {
    let mut site = Directory::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().field("Connection"), None);
    client.send("GET /a HTTP/1.1\r\nHo");
    let server = site.server.take().unwrap();
    wait_until(|| server.stopper().connections().iter().any(|connection| connection.activity == Activity::Busy));
    server.stopper().stop(PATIENCE);
    client.send("st: a\r\n\r\n");
    let reply = client.reply();
    assert_eq!((reply.text(), reply.field("Connection")), ("x", Some("close")));
    assert!(client.is_closed());
    drop(client);
    assert!(server.join().unwrap().forced.is_empty());
}

#[test]
fn an_idle_connection_does_not_hold_up_a_stop() {
    let mut site = Directory::new().file("a", "x").serve();
    let mut client = site.connect();
    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.reply().text(), "x");
    let server = site.server.take().unwrap();
    server.stopper().stop(PATIENCE);
    let report = server.join().unwrap();
    assert!(report.forced.is_empty() && report.took < PATIENCE / 2, "{report:?}");
    assert!(client.is_closed());
}

#[test]
fn a_stop_answers_the_next_request_of_an_active_client_as_its_last_one() {
    let request = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
    // On a busy machine the request may come too late.
    let in_time = |_| {
        let mut site = Directory::new().file("a", "x").serve();
        let mut client = site.connect();
        client.send(request);
        assert_eq!(client.reply().field("Connection"), None);
        let server = site.server.take().unwrap();
        let stopped = Instant::now();
        server.stopper().stop(PATIENCE);
        // The port is closed before idle connections are.
        wait_until(|| TcpStream::connect(server.stopper().address()).is_err());
        client.send(request);
        (stopped.elapsed() < crate::generation::NEXT_MESSAGE_WAIT).then_some((site, server, client))
    };
    let (_site, server, mut client) = (0..20).find_map(in_time).unwrap();
    let reply = client.reply();
    assert_eq!((reply.text(), reply.field("Connection")), ("x", Some("close")));
    drop(client);
    assert!(server.join().unwrap().forced.is_empty());
}

#[test]
fn a_stop_answers_the_next_request_of_a_client_whose_answer_it_has_outlasted() {
    // On a busy machine the request may come too late.
    let in_time = |_| {
        // Too large to be sent before the client reads it.
        let mut site = Directory::new().file("large", "x".repeat(16 << 20)).file("a", "x").serve();
        let mut client = site.connect();
        client.send("GET /large HTTP/1.1\r\nHost: a\r\n\r\n");
        let head = client.reply_to_head();
        let server = site.server.take().unwrap();
        server.stopper().stop(PATIENCE);
        thread::sleep(crate::generation::NEXT_MESSAGE_WAIT * 2);
        // The answer is sent to its end some time after this.
        let began = Instant::now();
        client.rest_of(head);
        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        (began.elapsed() < crate::generation::NEXT_MESSAGE_WAIT).then_some((site, server, client))
    };
    let (_site, server, mut client) = (0..20).find_map(in_time).unwrap();
    let reply = client.reply();
    assert_eq!((reply.text(), reply.field("Connection")), ("x", Some("close")));
    drop(client);
    assert!(server.join().unwrap().forced.is_empty());
}

/// Stops a server under load. Returns whether its clients were in time with the requests that it still waited for, for
/// which a busy machine may be too slow. It answers those that were.
fn stop_under_load() -> bool {
    let mut site = Directory::new().file("a", "x").serve();
    let answered = AtomicUsize::new(0);
    let began = Instant::now();
    let mut clients: Vec<_> = (0..8).map(|_| site.connect()).collect();
    let server = site.server.take().unwrap();
    let are_in_time = thread::scope(|scope| {
        let load = |client| scope.spawn(|| ends_in_time(client, began, &answered));
        let clients: Vec<_> = clients.iter_mut().map(load).collect();
        wait_until(|| answered.load(Ordering::Relaxed) > 100);
        server.stopper().stop(PATIENCE);
        clients.into_iter().all(|client| client.join().unwrap())
    });
    let report = server.join().unwrap();
    assert!(report.forced.is_empty(), "{report:?}");
    are_in_time
}

/// Sends requests until an answer says that it is the last one. Returns false if a late one was not answered.
fn ends_in_time(client: &mut Client, mut last: Instant, answered: &AtomicUsize) -> bool {
    loop {
        let began = Instant::now();
        let sent = client.0.write_all(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        let is_late = last.elapsed() >= crate::generation::NEXT_MESSAGE_WAIT;
        if is_late && (sent.is_err() || !matches!(client.0.peek(&mut [0]), Ok(1))) {
            return false;
        }
        sent.unwrap();
        let reply = client.reply();
        answered.fetch_add(1, Ordering::Relaxed);
        if reply.field("Connection") == Some("close") {
            return true;
        }
        last = began;
    }
}

#[test]
fn a_stop_under_load_cuts_no_request_of_a_client_that_was_not_told_to_close() {
    wait_until(stop_under_load);
}

fn wait_until(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < PATIENCE, "waited in vain");
        thread::yield_now();
    }
}

#[test]
fn a_client_over_the_limit_is_refused_in_http() {
    let directory = Directory::new();
    let server = Server::new(Http::new(directory.public()).unwrap()).max_connections(0);
    let server = server.start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let site = Site { directory, server: Some(server) };
    let mut client = site.connect();
    let reply = client.reply();
    assert_eq!((reply.status(), reply.field("Connection")), (503, Some("close")));
    assert!(reply.field("Retry-After").is_some());
    assert!(client.is_closed(), "the length of the body is wrong");
}

#[test]
fn of_requests_that_were_sent_together_the_last_one_announces_the_end() {
    let directory = Directory::new().file("a.txt", "a");
    let http = Http::new(directory.public()).unwrap();
    let one = b"GET /a.txt HTTP/1.1\r\nHost: a\r\n\r\n";
    let with_empty_line = [&one[..], b"\r\n"].concat();
    for (received, closes) in [([&one[..], one].concat(), false), (one.to_vec(), true), (with_empty_line, true)] {
        let (length, answer) = http.answer_to(&received, true).unwrap();
        assert_eq!(length, one.len());
        assert_eq!(matches!(answer.after, After::Abandon), closes);
        assert_eq!(String::from_utf8_lossy(answer.bytes()).contains("Connection: close"), closes);
    }
}
