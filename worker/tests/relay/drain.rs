//! One generation replaces another; a stop; the end of one connection.

use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::relay::{Forwarded, Protocol, Relay};
use mastercontrol_worker::{Activity, Event, NEXT_MESSAGE_WAIT, Outcome};

use crate::support::{Client, Front, HUGE, LIMIT, Program, crowd, eventually, never, options, soon};

#[test]
fn new_clients_get_the_new_generation_and_old_ones_keep_theirs() {
    let (old, new) = (Program::named("old"), Program::named("new"));
    let (front, upstream) = Front::before(&old);
    let mut before = front.client();
    before.expect("old");
    let next = front.serve(&new);
    front.client().expect("new");
    upstream.retire_by(never());
    before.send("still there");
    before.expect("still there");
    let waiting = thread::spawn({
        let upstream = upstream.clone();
        move || upstream.wait()
    });
    drop(before);
    let report = waiting.join().unwrap();
    assert_eq!((report.disconnected, report.closed, report.forced.len()), (1, 0, 0));
    assert!(report.took < LIMIT);
    // Every caller that waits gets the report.
    assert_eq!(upstream.wait().disconnected, 1);
    assert_eq!(next.counts().total, 1);
}

#[test]
fn a_generation_without_clients_is_gone_at_once() {
    let (old, new) = (Program::echo(), Program::echo());
    let (front, upstream) = Front::before(&old);
    front.serve(&new);
    upstream.retire_by(never());
    assert_eq!(upstream.wait().disconnected, 0);
}

#[test]
fn at_the_deadline_connections_are_closed_by_force() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = Front::before(&program);
    let (mut client, mut server) = (front.client(), connections.recv().unwrap());
    client.send("hello");
    server.expect("hello");
    upstream.retire_by(soon());
    let report = upstream.wait();
    assert_eq!(report.forced.len(), 1);
    assert_eq!((report.forced[0].received, report.forced[0].activity), (5, Activity::Busy));
    client.expect_reset();
    server.expect_reset();
}

/// Sleeps until a deadline is clearly over.
fn sleep_past(deadline: Instant) {
    thread::sleep(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(100));
}

#[test]
fn a_deadline_can_be_moved_nearer_and_farther() {
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    let mut client = front.client();
    client.send("hello");
    client.expect("hello");
    assert!(!upstream.move_deadline(never()));
    let deadline = Instant::now() + Duration::from_secs(3);
    upstream.retire_by(deadline);
    assert!(upstream.move_deadline(never()));
    sleep_past(deadline);
    client.send("hello");
    client.expect("hello");
    assert!(upstream.move_deadline(soon()));
    client.expect_end();
    assert_eq!(upstream.wait().forced.len(), 1);
}

#[test]
fn a_stop_waits_for_clients_and_accepts_no_new_ones() {
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    let mut client = front.client();
    client.send("hello");
    client.expect("hello");
    upstream.stop_by(never());
    let refused = TcpStream::connect(front.relay.address()).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    client.send("again");
    client.expect("again");
    client.finish();
    client.expect_last("");
    assert_eq!(upstream.wait().disconnected, 1);
}

#[test]
fn a_generation_can_serve_again_after_it_was_replaced() {
    let (old, new) = (Program::named("old"), Program::named("new"));
    let (front, upstream) = Front::before(&old);
    let mut before = front.client();
    before.expect("old");
    let next = front.serve(&new);
    let deadline = Instant::now() + Duration::from_secs(3);
    upstream.retire_by(deadline);
    upstream.serve();
    upstream.serve();
    next.retire_by(never());
    assert_eq!(next.wait().forced.len(), 0);
    sleep_past(deadline);
    before.send("still there");
    before.expect("still there");
    front.client().expect("old");
}

#[test]
fn one_connection_is_closed_and_the_others_are_left_alone() {
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    // One after the other: of two clients that connect at the same time, either can be the first one.
    let clients = [(); 2].map(|()| {
        let mut client = front.client();
        client.send("hello");
        client.expect("hello");
        client
    });
    let id = upstream.connections()[0].id;
    assert!(upstream.close(id + 100, HUGE).is_none());
    let closed = upstream.close(id, Duration::from_millis(20)).unwrap();
    assert_eq!((closed.connection.id, closed.outcome), (id, Outcome::Forced));
    assert!(upstream.close(id, HUGE).is_none());
    assert_eq!(upstream.counts().now, 1);
    let [mut first, mut second] = clients;
    first.expect_end();
    second.send("hello");
    second.expect("hello");
}

#[test]
fn a_relay_that_is_dropped_ends_all_that_wait_for_it() {
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    let mut client = front.client();
    client.send("hello");
    client.expect("hello");
    let waiting = thread::spawn({
        let upstream = upstream.clone();
        move || upstream.wait()
    });
    drop(front);
    client.expect_end();
    waiting.join().unwrap();
    assert!(upstream.connections().is_empty());
    assert!(upstream.close(1, HUGE).is_none());
}

#[test]
fn no_client_is_lost_while_generations_replace_each_other() {
    let mut program = Program::echo();
    let front = Front::tcp();
    let mut upstream = front.serve(&program);
    let address = front.relay.address();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                for number in 0..500 {
                    let mut stream = TcpStream::connect(address).unwrap();
                    let text = format!("message {number}");
                    stream.write_all(text.as_bytes()).unwrap();
                    stream.shutdown(std::net::Shutdown::Write).unwrap();
                    assert_eq!(io::read_to_string(stream).unwrap(), text);
                }
            })
        })
        .collect();
    while !clients.iter().all(thread::JoinHandle::is_finished) {
        let new = Program::echo();
        let next = front.serve(&new);
        upstream.retire_by(never());
        assert_eq!(std::mem::replace(&mut upstream, next).wait().forced.len(), 0);
        drop(std::mem::replace(&mut program, new));
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn idle_connections_are_closed_one_after_the_other_oldest_first() {
    let program = Program::http("program");
    let front = Front::http();
    let upstream = front.serve(&program);
    // One after the other, because the threads of a relay accept at the same time.
    let [mut first, mut second] = [(); 2].map(|()| {
        let mut client = front.client();
        client.get("/");
        client.expect_answer("program / ");
        client
    });
    upstream.stop_over(2 * HUGE, never() + 2 * HUGE);
    first.expect_end();
    second.get("/again");
    let (head, _) = second.answer();
    assert!(!head.contains("Connection: close"), "{head}");
    upstream.stop_over(Duration::ZERO, never());
    second.expect_end();
    assert_eq!(upstream.wait().closed, 2);
}

#[test]
fn bytes_of_which_nothing_is_known_are_cut_off_one_after_the_other_until_the_deadline() {
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    let [mut first, mut second] = [(); 2].map(|()| {
        let mut client = front.client();
        client.send("hello");
        client.expect("hello");
        client
    });
    // The first turn is the whole time before the deadline.
    let spread = 2 * HUGE;
    upstream.retire_over(spread, Instant::now() + spread + Duration::from_millis(50));
    first.expect_end();
    second.send("again");
    second.expect("again");
    upstream.move_deadline(soon());
    second.expect_end();
    assert_eq!(upstream.wait().forced.len(), 2);
}

#[test]
fn the_next_message_of_an_active_client_is_answered_as_the_last_one_in_a_stop() {
    // On a busy machine the next request may come too late.
    eventually("it comes in time", || {
        let program = Program::http("program");
        let front = Front::http();
        let upstream = front.serve(&program);
        let mut client = front.client();
        client.get("/");
        client.expect_answer("program / ");
        let began = Instant::now();
        upstream.stop_by(never());
        // The next request is on its way.
        client.get("/next");
        if !client.0.peek(&mut [0]).is_ok_and(|length| length == 1) {
            assert!(began.elapsed() >= NEXT_MESSAGE_WAIT, "it was closed too early");
            return false;
        }
        let (head, body) = client.answer();
        assert!(head.contains("Connection: close") && body == "program /next ", "{head}");
        client.expect_end();
        assert_eq!(upstream.wait().notified, 1);
        true
    });
}

#[test]
fn the_next_message_of_a_client_whose_answer_a_stop_has_outlasted_is_answered_as_the_last_one() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut client = front.client();
    client.get("/");
    let mut theirs = connections.recv().unwrap();
    theirs.expect("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    theirs.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
    client.expect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\na");
    upstream.stop_by(never());
    thread::sleep(NEXT_MESSAGE_WAIT * 2);
    // On a busy machine the next request may come too late, and says nothing then.
    let answered = Instant::now();
    theirs.send("b");
    client.expect("b");
    client.get("/next");
    if answered.elapsed() < NEXT_MESSAGE_WAIT / 2 {
        theirs.expect("GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
        theirs.send("HTTP/1.1 204 No Content\r\n\r\n");
        let (head, _) = client.answer();
        assert!(head.starts_with("HTTP/1.1 204") && head.contains("Connection: close"), "{head}");
    }
    upstream.stop_by(soon());
}

#[test]
fn a_stop_leaves_the_queue_of_a_shared_listener_to_the_others() {
    let (many, _guard) = crowd(20);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connect = || Client::to(TcpStream::connect(address).unwrap());
    let (gate, connected) = (Arc::new(RwLock::new(())), Arc::new(AtomicUsize::new(0)));
    let observer = {
        let (gate, connected) = (gate.clone(), connected.clone());
        move |event: &Event<'_>| {
            if let Event::Connected { .. } = event {
                connected.fetch_add(1, Ordering::SeqCst);
                drop(gate.read().unwrap());
            }
        }
    };
    let one = Relay::start_shared(listener.try_clone().unwrap(), options(Protocol::Tcp), observer).unwrap();
    let program = Program::named("one");
    let upstream = one.upstream(program.address);
    upstream.serve();
    // Every thread that accepts has a client and is held up there, so the others stay in the queue.
    let held_up = gate.write().unwrap();
    let threads = thread::available_parallelism().map_or(1, NonZero::get).max(2);
    let mut accepted: Vec<_> = (0..threads)
        .map(|number| {
            let client = connect();
            eventually("it is accepted", || connected.load(Ordering::SeqCst) == number + 1);
            client
        })
        .collect();
    let mut queued: Vec<_> = (0..many).map(|_| connect()).collect();
    let stopping = thread::spawn({
        let upstream = upstream.clone();
        move || upstream.stop_by(never())
    });
    thread::sleep(Duration::from_millis(50));
    drop(held_up);
    stopping.join().unwrap();
    accepted.iter_mut().for_each(|client| client.expect("one"));
    let program = Program::named("other");
    let other = Front::sharing(&listener, Protocol::Tcp);
    let _upstream = other.serve(&program);
    for client in queued.iter_mut().chain([&mut connect()]) {
        client.expect("o");
    }
    let taken = connected.load(Ordering::SeqCst) - threads;
    assert_eq!(other.said("Connected"), many + 1 - taken);
}

#[test]
fn of_two_relays_that_share_a_listener_either_stops_and_no_client_is_lost() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let program = Program::named("hello");
    let start = || {
        let front = Front::sharing(&listener, Protocol::Tcp);
        let upstream = front.serve(&program);
        (front, upstream)
    };
    let over = Arc::new(AtomicBool::new(false));
    let mut stays = start();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let over = over.clone();
            thread::spawn(move || {
                while !over.load(Ordering::SeqCst) {
                    Client::to(TcpStream::connect(address).unwrap()).expect("hello");
                }
            })
        })
        .collect();
    for _ in 0..50 {
        let (front, upstream) = std::mem::replace(&mut stays, start());
        upstream.stop_by(never());
        assert_eq!(upstream.wait().forced.len(), 0);
        drop(front);
    }
    over.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|client| client.join().unwrap());
}

#[test]
fn a_port_whose_listener_another_process_shuts_down_says_so_once_and_closes_no_client() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let front = Front::sharing(&listener, Protocol::Http(Forwarded::Off));
    let program = Program::http("a");
    let upstream = front.serve(&program);
    let mut clients: Vec<_> = (0..4).map(|_| front.client()).collect();
    for client in &mut clients {
        client.get("/");
        client.expect_answer("a / ");
    }
    rustix::net::shutdown(&listener, rustix::net::Shutdown::Both).unwrap();
    eventually("it is said", || front.said("Failed") > 0);
    for client in &mut clients {
        client.get("/again");
        client.expect_answer("a /again ");
    }
    assert_eq!(program.connections(), clients.len(), "those to the program are kept, too");
    upstream.stop_by(never());
    clients.iter_mut().for_each(|client| client.expect_last(""));
    assert_eq!(upstream.wait().closed, clients.len());
    assert_eq!((front.said("Failed"), front.said("Exhausted")), (1, 0));
}
