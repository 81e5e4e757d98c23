//! One server replaces another on the same listener: a restart, or the end of a server that has failed.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{
    Activity, Connection, Handle, Handler, Ids, Outcome, Port, Server, Session, Sessions, deadline_after,
};

use crate::support::{Client, Gated, HUGE, LIMIT, Log, Running, answering, eventually};

/// A server, and another one that waits to replace it.
pub fn pair(old: impl Handler, new: impl Handler) -> (Running, Running) {
    let port = port();
    let old = Running::from(Server::new(old).build(&port).unwrap());
    let new = Running::from(Server::new(new).build(&port).unwrap());
    old.serve();
    (old, new.with(port))
}

fn port() -> Port {
    Port::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
}

pub fn replace(old: &Running, new: &Running, grace: Duration) {
    new.serve();
    old.retire_by(deadline_after(Instant::now(), grace));
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

/// Answers each byte with the number of messages so far.
struct Counted(u8);

impl Session for Counted {
    fn serve(&mut self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            client.read_exact(&mut [0])?;
            self.0 += 1;
            client.write_all(&[b'0' + self.0])?;
        }
        Ok(())
    }
}

fn counting() -> Sessions {
    Sessions::new(|_| Counted(0))
}

#[test]
fn an_idle_client_without_a_notice_moves_to_the_successor_and_notices_nothing() {
    let (old, new) = pair(answering(b'1', b'x'), answering(b'2', b'x'));
    let mut client = old.client();
    ask(&mut client, "1");
    old.wait_for(1, Activity::Idle);
    let id = old.connections()[0].id;
    replace(&old, &new, HUGE);
    let report = old.join();
    assert_eq!((report.disconnected, report.closed, report.forced.len()), (0, 0, 0));
    ask(&mut client, "2");
    assert_eq!((new.connections()[0].id, new.counts().now), (id, 1));
    new.stop(HUGE);
    client.expect_last("");
    assert_eq!(new.join().closed, 1);
}

#[test]
fn a_client_that_is_being_served_gets_its_answer_and_moves_then() {
    let (open, handler) = Gated::new(None);
    let (old, new) = pair(handler, answering(b'2', b'x'));
    let mut client = old.client();
    client.send("?");
    old.wait_for_message(1);
    replace(&old, &new, HUGE);
    ask(&mut new.client(), "2");
    assert_eq!(old.counts().now, 1);
    drop(open);
    client.expect(".");
    old.join();
    ask(&mut client, "2");
    new.stop(HUGE);
    client.expect_last("");
    new.join();
}

#[test]
fn a_client_moves_through_many_replacements() {
    let port = port();
    let mut current = Running::from(Server::new(answering(b'1', b'x')).build(&port).unwrap());
    current.serve();
    let mut client = current.client();
    ask(&mut client, "1");
    for _ in 0..50 {
        let next = Running::from(Server::new(answering(b'1', b'x')).build(&port).unwrap());
        replace(&current, &next, HUGE);
        std::mem::replace(&mut current, next).join();
        ask(&mut client, "1");
    }
    current.stop(HUGE);
    client.expect_last("");
    current.with(port).join();
}

#[test]
fn a_client_whose_session_remembers_something_stays_and_gets_one_more_answer() {
    let (old, new) = pair(counting(), counting());
    let mut client = old.client();
    ask(&mut client, "1");
    old.wait_for(1, Activity::Idle);
    replace(&old, &new, HUGE);
    ask(&mut new.client(), "1");
    // It was idle all the time, and its connection is still there.
    client.send("?");
    client.expect_last("2");
    drop(client);
    let report = old.join();
    assert_eq!((report.closed + report.disconnected, report.forced.len()), (1, 0));
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_client_with_a_session_that_stays_quiet_is_closed_at_the_end_of_the_grace_period_and_not_by_force() {
    let (old, new) = pair(counting(), Echo);
    let mut client = old.client();
    ask(&mut client, "1");
    old.wait_for(1, Activity::Idle);
    replace(&old, &new, Duration::from_millis(50));
    client.expect_last("");
    let report = old.join();
    assert_eq!((report.closed, report.forced.len(), report.stuck.len()), (1, 0, 0));
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_stop_lets_go_at_once_whom_a_replacement_would_have_waited_for() {
    let (old, new) = pair(counting(), Echo);
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
    old.retire_by(deadline_after(Instant::now(), HUGE));
    old.join();
    // Nothing accepts now.
    let mut clients: Vec<_> = (0..20).map(|_| Client::connect(address)).collect();
    clients.iter_mut().for_each(|client| client.send("?"));
    new.serve();
    clients.iter_mut().for_each(|client| client.expect("?"));
    drop(clients);
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_server_that_never_got_its_place_ends_without_touching_the_queue() {
    let (old, new) = pair(Echo, Echo);
    new.retire_by(Instant::now());
    assert_eq!(new.join().notified, 0);
    // Its end has closed the port, as the test wants; the one that serves keeps its clients.
    old.stop(HUGE);
    old.join();
}

#[test]
fn no_number_is_given_twice_by_servers_that_share_them() {
    let (ids, port) = (Ids::default(), port());
    let old = Running::from(Server::new(Echo).ids(ids.clone()).build(&port).unwrap());
    let new = Running::from(Server::new(Echo).ids(ids).build(&port).unwrap());
    old.serve();
    let clients = old.idle_clients(2);
    replace(&old, &new, HUGE);
    drop(clients);
    old.join();
    let _client = new.idle_clients(1);
    assert!(new.connections()[0].id >= 3, "{:?}", new.connections());
    new.stop(Duration::ZERO);
    new.with(port).join();
}

/// Panics, or hangs until the sender is dropped, when a client connects after `fail` was sent.
struct Fails {
    fail: Mutex<Receiver<()>>,
    fails: Arc<AtomicBool>,
    gate: Option<Mutex<Receiver<()>>>,
}

impl Fails {
    fn panicking() -> (Sender<()>, Fails) {
        let (now, fail) = mpsc::channel();
        (now, Fails { fail: Mutex::new(fail), fails: Arc::default(), gate: None })
    }

    /// The last value but one tells whether it hangs.
    fn hanging() -> (Sender<()>, Sender<()>, impl Fn() -> bool, Fails) {
        let (now, fail) = mpsc::channel();
        let (open, gate) = mpsc::channel();
        let fails = Arc::<AtomicBool>::default();
        let hangs = fails.clone();
        let handler = Fails { fail: Mutex::new(fail), fails, gate: Some(Mutex::new(gate)) };
        (now, open, move || hangs.load(Ordering::SeqCst), handler)
    }
}

impl Handler for Fails {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        Echo.serve(client)
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }

    fn admits(&self, _peer: SocketAddr) -> bool {
        let fails = self.fail.lock().unwrap().try_recv().is_ok();
        self.fails.fetch_or(fails, Ordering::SeqCst);
        match &self.gate {
            Some(gate) if fails => assert!(gate.lock().unwrap().recv().is_err()),
            None if fails => panic!("on command"),
            _ => {}
        }
        true
    }
}

/// Without a notice.
struct Quiet<H>(H);

impl<H: Handler> Handler for Quiet<H> {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        self.0.serve(client)
    }

    fn admits(&self, peer: SocketAddr) -> bool {
        self.0.admits(peer)
    }
}

/// Waits for the end, which is a failure.
fn failure(handle: Handle) -> (String, mastercontrol_worker::DrainReport) {
    let error = handle.join().unwrap_err();
    (error.to_string(), error.drain)
}

/// A server, and the port for another one, which is not built before it is needed.
fn observed(log: &Log, handler: impl Handler) -> (Port, Handle) {
    let port = port();
    let old = log.observe(Server::new(handler)).grace_on_failure(HUGE).build(&port).unwrap();
    old.stopper().serve();
    (port, old)
}

fn next(port: Port) -> Running {
    let new = Running::from(Server::new(Echo).build(&port).unwrap());
    new.serve();
    new.with(port)
}

#[test]
fn a_server_whose_handler_panics_when_a_client_comes_notifies_its_clients_and_the_next_one_serves_the_queue() {
    let log = Log::default();
    let (now, handler) = Fails::panicking();
    let (port, old) = observed(&log, handler);
    let mut client = Client::connect(port.address());
    ask(&mut client, "?");
    now.send(()).unwrap();
    let _its_last = Client::connect(port.address());
    client.expect_last("SHUTDOWN\n");
    let mut waiting = Client::connect(port.address());
    drop(client);
    let (message, drain) = failure(old);
    assert_eq!(message, "the handler panicked when a client came: on command");
    assert_eq!((drain.notified, drain.disconnected), (1, 1));
    assert_eq!((log.count("Failed"), log.count("finished")), (1, 1));
    let new = next(port);
    ask(&mut waiting, "?");
    drop(waiting);
    new.stop(HUGE);
    new.join();
}

#[test]
fn idle_clients_of_a_server_that_has_failed_move_to_the_next_one() {
    let log = Log::default();
    let (now, handler) = Fails::panicking();
    let (port, old) = observed(&log, Quiet(handler));
    let mut client = Client::connect(port.address());
    ask(&mut client, "?");
    now.send(()).unwrap();
    let _its_last = Client::connect(port.address());
    eventually("it has failed", || log.count("Failed") == 1);
    let new = next(port);
    failure(old);
    ask(&mut client, "?");
    assert_eq!(new.counts().now, 1);
    new.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    new.join();
}

#[test]
fn a_server_that_was_about_to_be_replaced_hands_over_when_it_panics() {
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
fn a_client_that_came_while_the_old_server_hung_is_served_by_the_next_one() {
    let (now, open, hangs, handler) = Fails::hanging();
    let (old, new) = pair(handler, Echo);
    now.send(()).unwrap();
    let its_last = old.client();
    eventually("it hangs", &hangs);
    new.serve();
    let mut client = new.client();
    client.send("?");
    // By then a thread has seen it.
    assert!(!new.is_accepting(Duration::from_millis(200)));
    old.retire_by(deadline_after(Instant::now(), HUGE));
    client.expect("?");
    drop(open);
    drop(its_last);
    drop(client);
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_server_that_accepts_nothing_is_told_from_one_that_does() {
    let (now, open, hangs, handler) = Fails::hanging();
    let server = Running::start(handler);
    assert!(server.is_accepting(LIMIT));
    now.send(()).unwrap();
    let last = server.client();
    eventually("it hangs", || hangs() && !server.is_accepting(Duration::from_millis(50)));
    drop(open);
    assert!(server.is_accepting(LIMIT));
    server.stop(HUGE);
    drop(last);
    server.join();
}

#[test]
fn the_clients_of_a_server_that_hangs_are_notified_and_the_next_one_serves() {
    let log = Log::default();
    let (now, open, hangs, handler) = Fails::hanging();
    let (port, old) = observed(&log, handler);
    let stopper = old.stopper();
    let mut client = Client::connect(port.address());
    ask(&mut client, "?");
    now.send(()).unwrap();
    let mut its_last = Client::connect(port.address());
    eventually("it hangs", || hangs() && !stopper.is_accepting(Duration::from_millis(50)));
    stopper.give_up("it accepts nothing");
    client.expect_last("SHUTDOWN\n");
    drop(client);
    let (message, drain) = failure(old);
    assert_eq!((message.as_str(), drain.notified), ("the server hangs: it accepts nothing", 1));
    let new = next(port);
    ask(&mut new.client(), "?");
    // When the handler returns after all, the client that it was busy with is notified, too.
    drop(open);
    its_last.expect_last("SHUTDOWN\n");
    assert_eq!(log.count("finished"), 1);
    assert!(new.is_accepting(LIMIT));
    new.stop(HUGE);
    new.join();
}

#[test]
fn a_stop_right_after_a_replacement_leaves_the_queue_to_the_successor() {
    for _ in 0..20 {
        let (old, new) = pair(Echo, Echo);
        assert!(old.is_accepting(LIMIT));
        replace(&old, &new, HUGE);
        old.stop(HUGE);
        ask(&mut new.client(), "?");
        old.join();
        // The port is still open: what one server does affects only itself.
        ask(&mut new.client(), "?");
        new.stop(Duration::ZERO);
        new.join();
    }
}

#[test]
fn a_server_that_was_given_up_though_it_accepts_takes_no_client_from_the_next_one() {
    let log = Log::default();
    let (port, old) = observed(&log, Echo);
    assert!(old.stopper().is_accepting(LIMIT));
    old.stopper().give_up("so it seemed");
    failure(old);
    let new = next(port);
    ask(&mut new.client(), "?");
    new.stop(Duration::ZERO);
    new.join();
}

#[test]
fn a_server_whose_port_has_failed_fails_and_so_does_each_other_one_there() {
    // Not a listening socket: nothing can be accepted from it, ever.
    #[cfg(target_os = "linux")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = std::net::TcpStream::from(std::os::fd::OwnedFd::from(listener.try_clone().unwrap()));
        let port = Port::start(listener).unwrap();
        let old = Server::new(Echo).build(&port).unwrap();
        old.stopper().serve();
        socket.shutdown(std::net::Shutdown::Both).unwrap();
        let (message, _) = failure(old);
        assert!(message.starts_with("the listening socket failed: "), "{message}");
        let next = Server::new(Echo).build(&port).unwrap();
        next.stopper().serve();
        assert!(failure(next).0.starts_with("the listening socket failed: "));
    }
}

/// Admits the first client at once, and the next one when the test allows it.
struct Hesitant(AtomicBool, Mutex<Receiver<()>>);

impl Handler for Hesitant {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        Echo.serve(client)
    }

    fn admits(&self, _peer: SocketAddr) -> bool {
        if self.0.swap(true, Ordering::SeqCst) {
            self.1.lock().unwrap().recv().unwrap();
        }
        true
    }
}

#[test]
fn a_client_is_served_while_the_next_one_in_the_queue_is_not_admitted_yet() {
    let port = port();
    let mut clients = [Client::connect(port.address()), Client::connect(port.address())];
    let (admit, admitted) = mpsc::channel();
    let server =
        Running::from(Server::new(Hesitant(AtomicBool::new(false), Mutex::new(admitted))).build(&port).unwrap());
    // All threads sleep by then.
    std::thread::sleep(Duration::from_millis(50));
    server.serve();
    ask(&mut clients[0], "?");
    admit.send(()).unwrap();
    ask(&mut clients[1], "?");
    drop(clients);
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_port_that_is_closed_takes_no_clients_and_leaves_those_that_it_has() {
    let port = port();
    let address = port.address();
    let server = Running::from(Server::new(Echo).build(&port).unwrap());
    server.serve();
    let mut client = server.idle_clients(1).remove(0);
    port.close();
    assert_eq!(std::net::TcpStream::connect(address).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    ask(&mut client, "?");
    // Its threads end with the last connection.
    drop(port);
    ask(&mut client, "?");
    server.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    assert_eq!(server.join().disconnected, 1);
}

fn sharing(listener: &TcpListener) -> Running {
    shared(listener, Server::new(Echo))
}

fn shared(listener: &TcpListener, server: Server) -> Running {
    let port = Port::start_shared(listener.try_clone().unwrap()).unwrap();
    Running::from(server.start_on(port).unwrap())
}

/// Connects and asks, all the time, until the sender is dropped. Each client is answered or notified. Returns how many
/// were answered.
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
    let (now, open, hangs, handler) = Fails::hanging();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = shared(&listener, Server::new(handler));
    now.send(()).unwrap();
    let mut its_last = server.client();
    eventually("it hangs", || hangs() && !server.is_accepting(Duration::from_millis(50)));
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
        assert!(one.is_accepting(LIMIT) && other.is_accepting(LIMIT));
    }
    for server in [one, other] {
        server.stop(HUGE);
        server.join();
    }
}

#[test]
fn a_server_still_accepts_when_others_change_the_mode_of_its_listener() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let log = Log::default();
    let server = shared(&listener, log.observe(Server::new(Echo)));
    for mode in [true, false, true] {
        ask(&mut server.client(), "?");
        listener.set_nonblocking(mode).unwrap();
    }
    ask(&mut server.client(), "?");
    assert_eq!(log.count("exhausted"), 0);
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_connection_that_has_moved_is_closed_through_the_server_that_it_has_left() {
    let (port, ids) = (port(), Ids::default());
    let server = || Server::new(answering(b'1', b'x')).ids(ids.clone()).build(&port).unwrap();
    let (old, new) = (Running::from(server()), Running::from(server()));
    old.serve();
    let mut client = old.idle_clients(1).remove(0);
    let id = old.connections()[0].id;
    replace(&old, &new, HUGE);
    eventually("it has moved", || new.counts().now == 1 && old.counts().now == 0);
    assert_eq!(old.close(id, HUGE).expect("it is found").outcome, Outcome::Closed);
    client.expect_last("");
    assert!(old.close(id, HUGE).is_none());
}

/// Panics when it is asked again for something that [`Server::new`] has already asked for.
struct AskedOnce {
    is_built: Arc<AtomicBool>,
    notice: Option<&'static [u8]>,
}

impl AskedOnce {
    fn assert_first(&self) {
        assert!(!self.is_built.load(Ordering::SeqCst), "it is asked again");
    }

    fn server(notice: Option<&'static [u8]>) -> Server {
        let is_built = Arc::new(AtomicBool::new(false));
        let server = Server::new(AskedOnce { is_built: is_built.clone(), notice });
        is_built.store(true, Ordering::SeqCst);
        server.max_connections(1)
    }
}

impl Handler for AskedOnce {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        if client.buffered().is_empty() {
            client.write_all(b"hello")?;
        }
        answering(b'1', b'1').serve(client)
    }

    fn notice(&self) -> Option<&[u8]> {
        self.assert_first();
        self.notice
    }

    fn refusal(&self) -> &[u8] {
        self.assert_first();
        b"full"
    }

    fn speaks_first(&self) -> bool {
        self.assert_first();
        true
    }

    fn idle_timeout(&self) -> Option<Duration> {
        self.assert_first();
        Some(HUGE)
    }
}

#[test]
fn a_handler_is_not_asked_again_by_the_threads_that_accept() {
    let server = Running::of(AskedOnce::server(Some(b"BYE")));
    let mut client = server.client();
    client.expect("hello");
    server.client().expect_last("full");
    drop(client);
    eventually("there is room", || server.counts().now == 0);
    server.client().expect("hello");
}

#[test]
fn a_handler_is_not_asked_again_by_the_thread_that_replaces_a_server() {
    let port = port();
    let old = Running::from(AskedOnce::server(None).build(&port).unwrap());
    let new = Running::from(AskedOnce::server(None).build(&port).unwrap());
    old.serve();
    let mut client = old.client();
    client.expect("hello");
    old.wait_for(1, Activity::Idle);
    // So the move is up to the thread that calls `serve`.
    old.retire_by(deadline_after(Instant::now(), HUGE));
    new.serve();
    ask(&mut client, "1");
    eventually("it has moved", || new.counts().now == 1);
}
