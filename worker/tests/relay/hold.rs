//! Clients wait while no generation serves.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use mastercontrol_worker::relay::{Forwarded, Protocol};
use mastercontrol_worker::{Activity, Outcome};

use crate::support::{Client, Front, HUGE, LIMIT, Program, crowd, eventually, never, options, soon};

#[test]
fn clients_that_come_before_the_program_are_served_by_it() {
    let (many, _guard) = crowd(20);
    let front = Front::tcp();
    let mut clients: Vec<_> = (0..many).map(|_| front.client()).collect();
    clients.iter_mut().for_each(|client| client.send("hello"));
    eventually("all are held", || front.relay.counts().held == many);
    let program = Program::echo();
    let upstream = front.serve(&program);
    clients.iter_mut().for_each(|client| client.expect("hello"));
    assert_eq!((front.relay.counts().held, upstream.counts().total), (0, many as u64));
    assert!(front.relay.longest_wait() > Duration::ZERO);
    front.relay.reset_longest_wait();
    assert_eq!(front.relay.longest_wait(), Duration::ZERO);
}

#[test]
fn a_client_is_not_held_for_longer_than_it_may_wait() {
    let mut options = options(Protocol::Tcp);
    options.wait = Duration::from_millis(50);
    let front = Front::start(options);
    front.client().expect_last("");
    eventually("it is counted", || front.relay.counts().given_up == 1);
    assert!(front.relay.longest_wait() >= Duration::from_millis(50));
}

#[test]
fn a_client_and_an_answer_may_be_waited_for_without_end() {
    let mut options = options(Protocol::Http(Forwarded::Append));
    (options.wait, options.answer_within) = (Duration::MAX, Some(Duration::MAX));
    let front = Front::start(options);
    let mut client = front.client();
    client.get("/");
    eventually("it is held", || front.relay.counts().held == 1);
    let program = Program::http("a");
    let _upstream = front.serve(&program);
    client.expect_answer("a / ");
}

#[test]
fn a_client_that_is_reset_is_held_no_longer() {
    let front = Front::tcp();
    let client = front.client();
    eventually("it is held", || front.relay.counts().held == 1);
    client.reset();
    eventually("it is gone", || front.relay.counts().held == 0);
}

#[test]
fn new_clients_are_held_while_nothing_serves_and_others_are_served_on() {
    let program = Program::echo();
    let (front, upstream) = Front::before(&program);
    let mut before = front.client();
    before.send("hello");
    before.expect("hello");
    front.relay.hold();
    let mut meanwhile = front.client();
    meanwhile.send("hello");
    eventually("it is held", || front.relay.counts().held == 1);
    before.send("again");
    before.expect("again");
    meanwhile.expect_silence();
    upstream.serve();
    meanwhile.expect("hello");
}

#[test]
fn clients_wait_for_the_next_generation_when_the_program_has_ended() {
    let (program, connections) = Program::by_hand();
    let (front, upstream) = Front::before(&program);
    let (mut client, server) = (front.client(), connections.recv().unwrap());
    let _port = program.close();
    upstream.lost();
    let mut next = front.client();
    next.send("hello");
    eventually("it is held", || front.relay.counts().held == 1);
    // The old one still finishes its answer.
    drop(server);
    client.expect_last("");
    // Its client need not close its side: nothing could receive that.
    let report = upstream.wait();
    drop(client);
    assert_eq!((report.closed, report.forced.len()), (1, 0));
    let program = Program::echo();
    front.serve(&program);
    next.expect("hello");
}

#[test]
fn a_closed_port_lets_go_what_is_held_and_what_waits_in_the_queue() {
    let front = Front::tcp();
    let mut clients: Vec<_> = (0..10).map(|_| front.client()).collect();
    let address = front.relay.address();
    front.relay.close();
    clients.iter_mut().for_each(|client| client.expect_end());
    assert_eq!(std::net::TcpStream::connect(address).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    front.relay.close();
    let upstream = front.relay.upstream(address);
    upstream.stop_by(never());
    assert_eq!(upstream.wait().closed, 0);
}

#[test]
fn requests_of_a_pause_are_answered_after_it_by_the_generation_that_serves_then() {
    let (old_program, new_program) = (Program::http("old"), Program::http("new"));
    let front = Front::http();
    let old = front.serve(&old_program);
    let mut kept = front.client();
    kept.get("/");
    kept.expect_answer("old / ");
    let paused = front.relay.pause();
    assert!(paused.wait());
    kept.get("/kept");
    let mut new = front.client();
    new.get("/new");
    eventually("both are held", || front.relay.counts().held == 2);
    // Longer than the pause, and so than any limit of theirs.
    let upstream = front.serve(&new_program);
    old.retire_by(never());
    assert_eq!(old.wait().forced.len(), 0);
    kept.expect_silence();
    new.expect_silence();
    assert_eq!((paused.under_way(), upstream.counts().total), (0, 0));
    front.relay.resume();
    kept.expect_answer("new /kept ");
    new.expect_answer("new /new ");
    assert_eq!(front.relay.counts().held, 0);
}

#[test]
fn a_request_that_has_come_only_in_part_when_a_pause_begins_is_answered_after_it() {
    let program = Program::http("a");
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut kept = front.client();
    kept.get("/");
    kept.expect_answer("a / ");
    let mut clients = [kept, front.client()];
    clients.iter_mut().for_each(|client| client.send("GET /late HTTP/1.1\r\n"));
    let has_begun = || upstream.connections().iter().filter(|it| it.activity == Activity::Busy).count() == 2;
    eventually("their beginnings are read", has_begun);
    // Not even until these clients send the rest.
    assert!(front.relay.pause().wait());
    clients.iter_mut().for_each(|client| client.send("Host: a\r\n\r\n"));
    eventually("both are held", || front.relay.counts().held == 2);
    clients.iter_mut().for_each(Client::expect_silence);
    front.relay.resume();
    clients.iter_mut().for_each(|client| client.expect_answer("a /late "));
}

#[test]
fn a_request_that_is_held_already_when_a_pause_begins_is_answered_after_it() {
    let front = Front::http();
    let mut client = front.client();
    client.get("/");
    eventually("it is held", || front.relay.counts().held == 1);
    let paused = front.relay.pause();
    assert!(paused.wait());
    let program = Program::http("a");
    let upstream = front.serve(&program);
    client.expect_silence();
    assert_eq!((paused.under_way(), upstream.counts().total), (0, 0));
    front.relay.resume();
    client.expect_answer("a / ");
}

#[test]
fn a_request_that_the_program_works_on_is_waited_for_in_a_pause() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut client = front.client();
    client.get("/");
    let mut server = connections.recv().unwrap();
    eventually("it is there", || upstream.connections().first().is_some_and(|it| it.received > 0));
    let paused = front.relay.pause();
    assert_eq!(paused.under_way(), 1);
    let waiting = thread::spawn(move || paused.wait());
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone");
    client.expect_answer("done");
    assert!(waiting.join().unwrap());
    client.get("/held");
    client.expect_silence();
    // A stop ends it.
    upstream.stop_by(never());
    server.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlast");
    client.expect_answer("last");
}

#[test]
fn a_pause_does_not_wait_for_a_request_that_was_closed_by_force() {
    let (program, connections) = Program::by_hand();
    let front = Front::http();
    let upstream = front.serve(&program);
    // With a request under way. The program keeps its end of the connection.
    let begin = || {
        let mut client = front.client();
        client.get("/");
        let mut server = connections.recv().unwrap();
        server.expect("GET / HTTP/1.1\r\n");
        let paused = front.relay.pause();
        assert_eq!(paused.under_way(), 1);
        let (say, is_quiet) = mpsc::channel();
        thread::spawn(move || say.send(paused.wait()));
        // It has most likely begun to wait.
        thread::sleep(Duration::from_millis(50));
        (client, server, is_quiet)
    };
    let (mut client, _server, is_quiet) = begin();
    let id = upstream.connections()[0].id;
    assert_eq!(upstream.close(id, Duration::ZERO).unwrap().outcome, Outcome::Forced);
    assert!(is_quiet.recv_timeout(LIMIT).unwrap());
    client.expect_reset();
    front.relay.resume();
    // The same at the deadline of a drain.
    let (mut client, _server, is_quiet) = begin();
    upstream.retire_by(soon());
    assert!(is_quiet.recv_timeout(LIMIT).unwrap());
    client.expect_reset();
    front.relay.resume();
    // The same when the relay ends.
    upstream.serve();
    let (mut client, _server, is_quiet) = begin();
    drop(front);
    assert!(is_quiet.recv_timeout(LIMIT).unwrap());
    client.expect_reset();
}

#[test]
fn a_held_request_of_a_client_that_has_to_leave_is_held_on() {
    let program = Program::http("a");
    let front = Front::http();
    let upstream = front.serve(&program);
    // One after the other, because the threads of a relay accept at the same time.
    let [mut first, mut second] = [(); 2].map(|()| {
        let mut client = front.client();
        client.get("/");
        client.expect_answer("a / ");
        client
    });
    assert!(front.relay.pause().wait());
    first.get("/held");
    second.get("/held");
    eventually("both are held", || front.relay.counts().held == 2);
    // Past the end of its grace period it is closed as any other.
    let ids: Vec<_> = upstream.connections().into_iter().map(|it| it.id).collect();
    let closed = upstream.close(ids[0], Duration::from_millis(100)).unwrap();
    assert_eq!((closed.connection.activity, closed.outcome), (Activity::Held, Outcome::Forced));
    let waiting = thread::spawn({
        let upstream = upstream.clone();
        move || upstream.close(ids[1], HUGE)
    });
    first.expect_reset();
    second.expect_silence();
    assert_eq!((front.relay.counts().succeeded, front.relay.counts().held), (2, 1));
    // Nothing shows that it has been asked to leave.
    thread::sleep(Duration::from_millis(500));
    front.relay.resume();
    let (head, body) = second.answer();
    assert!(head.contains("\r\nConnection: close\r\n") && body == "a /held ", "{head}{body}");
    second.expect_last("");
    assert_eq!(waiting.join().unwrap().unwrap().outcome, Outcome::Closed);
}

#[test]
fn a_client_that_has_to_leave_and_has_sent_nothing_leaves_in_a_pause() {
    let program = Program::http("a");
    let front = Front::http();
    let upstream = front.serve(&program);
    let mut idle = front.client();
    idle.get("/");
    idle.expect_answer("a / ");
    assert!(front.relay.pause().wait());
    let new = front.client();
    eventually("both are connected", || upstream.connections().len() == 2);
    for it in upstream.connections() {
        assert_eq!(upstream.close(it.id, HUGE).unwrap().outcome, Outcome::Closed);
    }
    [idle, new].iter_mut().for_each(|client| client.expect_last(""));
    assert_eq!(front.relay.counts().held, 0);
}

#[test]
fn a_client_that_hangs_up_in_a_pause_is_held_no_longer_and_makes_room() {
    let mut options = options(Protocol::Http(Forwarded::Off));
    options.max_connections = 2;
    let program = Program::http("a");
    let front = Front::start(options);
    let upstream = front.serve(&program);
    let mut kept = front.client();
    kept.get("/");
    kept.expect_answer("a / ");
    assert!(front.relay.pause().wait());
    let new = front.client();
    eventually("both are connected", || upstream.connections().len() == 2);
    // They have asked for nothing, so nothing is held for them.
    assert_eq!(front.relay.counts().held, 0);
    drop((kept, new));
    eventually("both are gone", || upstream.connections().is_empty());
    assert_eq!(front.said("Ended"), 2);
    let mut clients = [front.client(), front.client()];
    clients.iter_mut().for_each(|client| client.get("/later"));
    eventually("both are held", || front.relay.counts().held == 2);
    // What was requested before the end of a client's input is served.
    clients[0].finish();
    clients[0].expect_silence();
    front.relay.resume();
    clients.iter_mut().for_each(|client| client.expect_answer("a /later "));
    assert_eq!(upstream.counts().refused, 0);
}

#[test]
fn the_time_that_clients_may_wait_begins_anew_when_a_pause_ends() {
    let wait = Duration::from_secs(2);
    for protocol in [Protocol::Tcp, Protocol::Http(Forwarded::Off)] {
        let mut options = options(protocol);
        options.wait = wait;
        let front = Front::start(options);
        let program = if protocol == Protocol::Tcp { Program::named("GET") } else { Program::http("a") };
        let expect_service = |client: &mut Client| match protocol {
            Protocol::Tcp => client.expect("GET"),
            Protocol::Http(_) => client.expect_answer("a / "),
        };
        // Held from before the pause, because nothing serves yet.
        let mut before = front.client();
        before.get("/");
        eventually("it is held", || front.relay.counts().held == 1);
        assert!(front.relay.pause().wait());
        thread::sleep(wait);
        front.relay.resume();
        before.expect_silence();
        let upstream = front.serve(&program);
        expect_service(&mut before);
        // Held by the pause; then the program ends.
        assert!(front.relay.pause().wait());
        let mut meanwhile = front.client();
        meanwhile.get("/");
        eventually("it is held", || front.relay.counts().held == 1);
        thread::sleep(wait);
        upstream.lost();
        front.relay.resume();
        meanwhile.expect_silence();
        front.serve(&program);
        expect_service(&mut meanwhile);
        // The time is not unlimited.
        front.relay.hold();
        assert!(front.relay.pause().wait());
        let mut last = front.client();
        last.get("/");
        eventually("it is held", || front.relay.counts().held == 1);
        front.relay.resume();
        match protocol {
            Protocol::Tcp => last.expect_end(),
            Protocol::Http(_) => last.expect_refusal(503),
        }
    }
}

#[test]
fn all_requests_that_a_stop_finds_held_are_the_last_ones_of_their_clients() {
    let (many, _guard) = crowd(100);
    let (old, program) = (Program::http("old"), Program::http("a"));
    let front = Front::http();
    // Those that are held before the pause, too, which have been read.
    let mut clients: Vec<_> = (0..many).map(|_| front.client()).collect();
    let (read, unread) = clients.split_at_mut(many / 2);
    read.iter_mut().for_each(|client| client.get("/"));
    eventually("they are held", || front.relay.counts().held == many / 2);
    assert!(front.relay.pause().wait());
    unread.iter_mut().for_each(|client| client.get("/"));
    eventually("all are held", || front.relay.counts().held == many);
    let retired = front.serve(&old);
    let upstream = front.serve(&program);
    retired.retire_by(never());
    // The one that serves is the last to be stopped.
    for stopped in [retired, upstream.clone()] {
        stopped.stop_by(never());
    }
    for mut client in clients {
        let (head, body) = client.answer();
        assert!(head.contains("\r\nConnection: close\r\n") && body == "a / ", "{head}{body}");
        client.expect_last("");
    }
    let report = upstream.wait();
    assert_eq!((report.closed + report.disconnected, report.forced.len()), (many, 0));
}

#[test]
fn in_a_pause_new_clients_of_tcp_are_held_and_others_are_served() {
    let program = Program::echo();
    let front = Front::tcp();
    let upstream = front.serve(&program);
    let mut before = front.client();
    before.send("hello");
    before.expect("hello");
    assert!(front.relay.pause().wait());
    let mut new = front.client();
    new.send("hello");
    eventually("it is held", || front.relay.counts().held == 1);
    before.send("again");
    before.expect("again");
    assert_eq!(upstream.counts().total, 1);
    front.relay.resume();
    new.expect("hello");
    // A stop ends a pause, and loses no client either.
    assert!(front.relay.pause().wait());
    let mut last = front.client();
    last.send("hello");
    eventually("it is held", || front.relay.counts().held == 1);
    upstream.stop_by(never());
    last.expect("hello");
}
