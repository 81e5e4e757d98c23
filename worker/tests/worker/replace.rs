//! One server takes another one's place on the same listener: a restart, or the end of one that has failed.

use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{Activity, Connection, Failure, Handle, Handler, Ids, Server, Stopper, deadline_after};

use crate::support::{Client, HUGE, LIMIT, Log, Running, answering, eventually};

/// A server, and another one that waits for its place.
pub fn pair(old: impl Handler, new: impl Handler) -> (Running, Running) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let waiting = Server::new(new).start_closed(listener.try_clone().unwrap()).unwrap();
    (Running::on(listener, Server::new(old)), Running::from(waiting))
}

pub fn replace(old: &Running, new: &Running, grace: Duration) {
    let opener = Stopper::clone(new);
    old.retire_by(deadline_after(Instant::now(), grace), move |no_client| opener.open(no_client)).unwrap();
}

fn ask(client: &mut Client, answer: &str) {
    client.send("?");
    client.expect(answer);
}

#[test]
fn the_successor_takes_all_who_come_and_the_old_one_ends_when_its_last_client_has_left() {
    let (old, new) = pair(Echo, Echo);
    let mut client = old.idle_clients(1).remove(0);
    replace(&old, &new, HUGE);
    client.expect_last("SHUTDOWN\n");
    let mut other = new.client();
    ask(&mut other, "?");
    assert_eq!((old.counts().total, new.counts().total >= 1), (1, true));
    drop(client);
    let report = old.join();
    assert_eq!((report.notified, report.disconnected, report.forced.len()), (1, 1, 0));
    ask(&mut other, "?");
    new.stop(HUGE);
    other.expect_last("SHUTDOWN\n");
    drop(other);
    new.join();
}

#[test]
fn a_client_without_a_notice_gets_its_next_answer_and_only_that() {
    let (old, new) = pair(answering(b'1', b'x'), answering(b'2', b'x'));
    let mut client = old.client();
    ask(&mut client, "1");
    old.wait_for(1, Activity::Idle);
    replace(&old, &new, HUGE);
    ask(&mut new.client(), "2");
    // It was idle all the time, and nobody has closed it.
    client.send("?");
    client.expect_last("x");
    drop(client);
    let report = old.join();
    assert_eq!((report.closed, report.forced.len()), (1, 0));
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_client_that_stays_quiet_is_closed_at_the_end_of_the_grace_period_and_not_by_force() {
    let (old, new) = pair(answering(b'1', b'x'), Echo);
    let mut client = old.idle_clients(1).remove(0);
    replace(&old, &new, Duration::from_millis(50));
    client.expect_last("");
    let report = old.join();
    assert_eq!((report.closed, report.forced.len(), report.stuck.len()), (1, 0, 0));
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_stop_lets_go_at_once_whom_a_replacement_would_have_waited_for() {
    let (old, new) = pair(answering(b'1', b'x'), Echo);
    let mut client = old.client();
    ask(&mut client, "1");
    old.wait_for(1, Activity::Idle);
    replace(&old, &new, HUGE);
    old.stop(HUGE);
    client.expect_last("");
    assert_eq!(old.join().closed, 1);
    new.stop(HUGE);
    new.join();
}

#[test]
fn clients_that_come_between_two_servers_wait_in_the_queue() {
    let (old, new) = pair(Echo, Echo);
    let address = old.address();
    let (gone, way) = mpsc::channel();
    old.retire_by(deadline_after(Instant::now(), HUGE), move |_| gone.send(()).unwrap()).unwrap();
    way.recv().unwrap();
    old.join();
    // Nobody accepts now.
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send("?"));
    new.open(None);
    clients.iter_mut().for_each(|client| client.expect("?"));
    drop(clients);
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_server_that_never_got_its_place_ends_without_touching_the_queue() {
    let (old, new) = pair(Echo, Echo);
    new.retire_by(Instant::now(), |_| {}).unwrap();
    new.open(None);
    assert_eq!(new.join().notified, 0);
    ask(&mut old.client(), "?");
    assert_eq!(old.counts().total, 1, "it was woken, though it did not accept");
    old.stop(HUGE);
    old.join();
}

#[test]
fn no_number_is_given_twice_by_servers_that_share_them() {
    let ids = Ids::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let new = Running::from(Server::new(Echo).ids(ids.clone()).start_closed(listener.try_clone().unwrap()).unwrap());
    let old = Running::on(listener, Server::new(Echo).ids(ids));
    let clients = old.idle_clients(2);
    replace(&old, &new, HUGE);
    drop(clients);
    old.join();
    let _client = new.idle_clients(1);
    assert!(new.connections()[0].id >= 3, "{:?}", new.connections());
    new.stop(Duration::ZERO);
    new.join();
}

/// Panics, or hangs until the sender is dropped, when a client comes after `fail` was sent.
struct Fails {
    fail: Mutex<Receiver<()>>,
    gate: Option<Mutex<Receiver<()>>>,
}

impl Fails {
    fn panicking() -> (Sender<()>, Fails) {
        let (now, fail) = mpsc::channel();
        (now, Fails { fail: Mutex::new(fail), gate: None })
    }

    fn hanging() -> (Sender<()>, Sender<()>, Fails) {
        let (now, fail) = mpsc::channel();
        let (open, gate) = mpsc::channel();
        (now, open, Fails { fail: Mutex::new(fail), gate: Some(Mutex::new(gate)) })
    }
}

impl Handler for Fails {
    fn serve(&self, client: &mut Connection) -> std::io::Result<()> {
        Echo.serve(client)
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }

    fn admits(&self, _peer: SocketAddr) -> bool {
        let fails = self.fail.lock().unwrap().try_recv().is_ok();
        match &self.gate {
            Some(gate) if fails => assert!(gate.lock().unwrap().recv().is_err()),
            None if fails => panic!("on command"),
            _ => {}
        }
        true
    }
}

/// Waits for the end, which is a failure.
fn failure(handle: Handle) -> (String, mastercontrol_worker::DrainReport) {
    let error = handle.join().unwrap_err();
    (error.to_string(), error.drain)
}

#[test]
fn a_server_thread_that_panics_lets_its_clients_go_and_the_successor_serves_the_queue() {
    let log = Log::default();
    let (now, handler) = Fails::panicking();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let old = log.observe(Server::new(handler)).grace_on_failure(HUGE).start(listener.try_clone().unwrap()).unwrap();
    let mut client = Client::connect(address);
    ask(&mut client, "?");
    now.send(()).unwrap();
    let _its_last = Client::connect(address);
    client.expect_last("SHUTDOWN\n");
    let mut waiting = Client::connect(address);
    drop(client);
    let (message, drain) = failure(old);
    assert_eq!(
        (message.as_str(), drain.notified, drain.disconnected),
        ("the server thread panicked: on command", 1, 1)
    );
    assert_eq!((log.count("Failed"), log.count("finished")), (1, 1));
    let new = Running::on(listener, Server::new(Echo));
    ask(&mut waiting, "?");
    drop(waiting);
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_server_that_was_about_to_be_replaced_makes_way_when_it_panics() {
    let (now, handler) = Fails::panicking();
    let (old, new) = pair(handler, Echo);
    now.send(()).unwrap();
    let its_last = old.client();
    // Whether before or after the panic.
    replace(&old, &new, HUGE);
    ask(&mut new.client(), "?");
    drop(its_last);
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_server_that_takes_no_connections_is_told_from_one_that_does() {
    let (now, open, handler) = Fails::hanging();
    let server = Running::start(handler);
    assert!(server.is_accepting(LIMIT).unwrap());
    now.send(()).unwrap();
    let last = server.client();
    eventually("it hangs", || !server.is_accepting(Duration::from_millis(50)).unwrap());
    drop(open);
    assert!(server.is_accepting(LIMIT).unwrap());
    server.stop(HUGE);
    drop(last);
    server.join();
}

#[test]
fn the_clients_of_a_server_thread_that_hangs_are_told_all_the_same() {
    let log = Log::default();
    let (now, open, handler) = Fails::hanging();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut old =
        log.observe(Server::new(handler)).grace_on_failure(HUGE).start(listener.try_clone().unwrap()).unwrap();
    let mut client = Client::connect(address);
    ask(&mut client, "?");
    now.send(()).unwrap();
    let its_last = Client::connect(address);
    eventually("it hangs", || !old.is_accepting(Duration::from_millis(50)).unwrap());
    old.abandon_thread("it takes no connections").unwrap();
    client.expect_last("SHUTDOWN\n");
    drop(client);
    let (message, drain) = failure(old);
    assert_eq!((message.as_str(), drain.notified), ("the server thread hangs: it takes no connections", 1));
    // When it goes on after all, the client that it was busy with is told, too.
    drop(open);
    let mut its_last = its_last;
    its_last.expect_last("SHUTDOWN\n");
    assert_eq!(log.count("finished"), 1);
    let failure = Failure::Hung("so it is".into());
    assert_eq!(failure.to_string(), "the server thread hangs: so it is");
}

#[test]
fn a_stop_right_after_a_replacement_leaves_the_queue_to_the_successor() {
    for _ in 0..20 {
        let log = Log::default();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let waiting = log.observe(Server::new(Echo)).start_closed(listener.try_clone().unwrap()).unwrap();
        let (old, new) = (Running::on(listener, Server::new(Echo)), Running::from(waiting));
        assert!(old.is_accepting(LIMIT).unwrap());
        replace(&old, &new, HUGE);
        old.stop(HUGE);
        ask(&mut new.client(), "?");
        old.join();
        // The listener still waits for clients: what one does to it concerns both.
        ask(&mut new.client(), "?");
        assert_eq!(log.count("exhausted"), 0);
        new.stop(Duration::ZERO);
        new.join();
    }
}

#[test]
fn a_thread_that_was_given_up_though_it_accepts_takes_nobody_from_another_server() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut old = Server::new(Echo).start(listener.try_clone().unwrap()).unwrap();
    assert!(old.is_accepting(LIMIT).unwrap());
    old.abandon_thread("so it seemed").unwrap();
    failure(old);
    let new = Running::on(listener, Server::new(Echo));
    ask(&mut new.client(), "?");
    // Its wake-up, too, is its own.
    new.stop(Duration::ZERO);
    new.join();
}

fn sharing(listener: &TcpListener) -> Running {
    Running::on(listener.try_clone().unwrap(), Server::new(Echo).shared_listener(true))
}

/// Connects and asks, all the time, until the sender is dropped. Each client gets its answer, or is told. Returns how
/// many got their answer.
fn clients_all_the_time(address: SocketAddr, go_on: &Receiver<()>) -> usize {
    let mut answered = 0;
    while go_on.try_recv() == Err(mpsc::TryRecvError::Empty) {
        let mut client = Client::connect(address);
        client.send("?");
        let mut first = [0];
        client.0.read_exact(&mut first).expect("a client was lost");
        match &first {
            b"?" => answered += 1,
            _ => assert_eq!([&first[..], &client.rest()].concat(), b"SHUTDOWN\n"),
        }
    }
    answered
}

#[test]
fn of_two_servers_that_share_a_listener_either_stops_and_the_other_one_loses_nobody() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stays = std::thread::scope(|scope| {
        let mut stays = sharing(&listener);
        let (done, go_on) = mpsc::channel();
        let others = scope.spawn(move || clients_all_the_time(address, &go_on));
        for round in 0..50 {
            let (one, other) = (sharing(&listener), stays);
            let mut clients: Vec<_> = (0..6).map(|_| Client::connect(address)).collect();
            clients.iter_mut().for_each(|client| ask(client, "?"));
            let stops = if round % 2 == 0 { &one } else { &other };
            let its_own: Vec<_> = stops.connections().iter().map(|connection| connection.peer).collect();
            stops.stop(HUGE);
            for client in &mut clients {
                match its_own.contains(&client.address()) {
                    true => client.expect_last("SHUTDOWN\n"),
                    false => ask(client, "?"),
                }
            }
            clients.retain(|client| !its_own.contains(&client.address()));
            let stopped;
            (stopped, stays) = if round % 2 == 0 { (one, other) } else { (other, one) };
            stopped.join();
            clients.iter_mut().for_each(|client| ask(client, "?"));
        }
        drop(done);
        assert!(others.join().unwrap() > 0);
        stays
    });
    stays.stop(Duration::ZERO);
    stays.join();
}

#[test]
fn a_stop_whose_deadline_has_passed_ends_though_others_take_its_wake_ups() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let others = [sharing(&listener), sharing(&listener)];
    for _ in 0..10 {
        let server = sharing(&listener);
        server.stop(Duration::ZERO);
        server.join();
    }
    for server in others {
        server.stop(Duration::ZERO);
        server.join();
    }
}

#[test]
fn a_stop_leaves_a_shared_listener_and_its_queue_to_the_next_one() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let server = sharing(&listener);
    ask(&mut server.client(), "?");
    server.stop(HUGE);
    server.join();
    let mut waiting = Client::connect(address);
    waiting.send("?");
    let next = sharing(&listener);
    waiting.expect("?");
    drop(waiting);
    next.stop(HUGE);
    next.join();
}

#[test]
fn a_stop_takes_nobody_from_the_queue_of_a_shared_listener() {
    let (now, open, handler) = Fails::hanging();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Running::on(listener.try_clone().unwrap(), Server::new(handler).shared_listener(true));
    now.send(()).unwrap();
    let mut its_last = server.client();
    eventually("it hangs", || !server.is_accepting(Duration::from_millis(50)).unwrap());
    let mut waiting: Vec<_> = (0..5).map(|_| server.client()).collect();
    waiting.iter_mut().for_each(|client| client.send("?"));
    server.stop(HUGE);
    drop(open);
    its_last.expect_last("SHUTDOWN\n");
    drop(its_last);
    assert_eq!(server.join().notified, 1);
    let next = sharing(&listener);
    waiting.iter_mut().for_each(|client| client.expect("?"));
    drop(waiting);
    next.stop(HUGE);
    next.join();
}

#[test]
fn a_server_that_shares_its_listener_is_seen_to_take_connections_though_others_take_some() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (one, other) = (sharing(&listener), sharing(&listener));
    for _ in 0..10 {
        assert!(one.is_accepting(LIMIT).unwrap() && other.is_accepting(LIMIT).unwrap());
    }
    for server in [one, other] {
        server.stop(HUGE);
        server.join();
    }
}

#[test]
fn a_server_goes_on_when_somebody_makes_its_listener_non_blocking() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::default();
    let server = log.observe(Server::new(Echo).shared_listener(true));
    let server = Running::on(listener.try_clone().unwrap(), server);
    for _ in 0..3 {
        ask(&mut server.client(), "?");
        listener.set_nonblocking(true).unwrap();
    }
    ask(&mut server.client(), "?");
    assert_eq!(log.count("exhausted"), 0);
    server.stop(HUGE);
    server.join();
}
