//! Clients that connect at the moment of the stop, and the port afterwards.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
#[cfg(unix)]
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

#[cfg(unix)]
use mastercontrol_worker::Event;
use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{Activity, Connection, Handler, Port, Server};

use crate::support::{Client, Fate, Gated, HUGE, Running, crowd, eventually};

/// A handler that holds up the accepting thread with a client, which it does not admit.
struct HoldsUp<H> {
    handler: H,
    stage: Arc<Mutex<Stage>>,
    gate: Mutex<Receiver<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Admitting,
    /// The next client is the one that holds it up.
    Armed,
    HeldUp,
}

impl<H: Handler> Handler for HoldsUp<H> {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        self.handler.serve(client)
    }

    fn notice(&self) -> Option<&[u8]> {
        self.handler.notice()
    }

    fn admits(&self, _peer: SocketAddr) -> bool {
        let armed = {
            let mut stage = self.stage.lock().unwrap();
            let armed = *stage == Stage::Armed;
            if armed {
                *stage = Stage::HeldUp;
            }
            armed
        };
        if armed {
            let _ = self.gate.lock().unwrap().recv();
        }
        !armed
    }
}

/// A server whose accepting thread is held up until the sender is dropped. Its earlier connections have ended: there is
/// room for as many clients, which have to wait in the accept queue.
pub fn held_up(handler: impl Handler, room: usize) -> (Running, Sender<()>) {
    let (open, gate) = mpsc::channel::<()>();
    let stage = Arc::new(Mutex::new(Stage::Admitting));
    let handler = HoldsUp { handler, stage: stage.clone(), gate: Mutex::new(gate) };
    let server = Running::of(Server::new(handler).max_connections(room));
    let first = server.idle_clients(room);
    *stage.lock().unwrap() = Stage::Armed;
    let last = server.client();
    eventually("it is held up", || *stage.lock().unwrap() == Stage::HeldUp);
    drop((first, last));
    eventually("they have left", || server.counts().now == 0);
    (server, open)
}

#[test]
fn clients_that_wait_in_the_accept_queue_are_told() {
    let (many, _guard) = crowd(50);
    let (server, open) = held_up(Echo, many);
    let mut clients: Vec<_> = (0..many).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.send("hello?"));
    thread::scope(|scope| {
        scope.spawn(|| server.stop(HUGE));
        eventually("the stop has begun", || server.deadline().is_some());
        drop(open);
    });
    clients.iter_mut().for_each(|client| client.expect_last("SHUTDOWN\n"));
    drop(clients);
    let report = server.join();
    assert_eq!((report.notified, report.disconnected, report.closed, report.forced.len()), (many, many, 0, 0));
}

#[test]
fn without_a_notice_a_message_that_waits_in_the_accept_queue_is_served() {
    let (gate, handler) = Gated::new(None);
    drop(gate);
    let (server, open) = held_up(handler, 10);
    let mut clients: Vec<_> = (0..10).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.send("a"));
    thread::scope(|scope| {
        scope.spawn(|| server.stop(HUGE));
        eventually("the stop has begun", || server.deadline().is_some());
        drop(open);
    });
    clients.iter_mut().for_each(|client| client.expect_last("."));
    assert_eq!(server.join().closed, 10);
}

/// Fewer than std's accept queue holds. When it overflows, the system drops the end of a handshake, and the client
/// believes that it is connected, although no server will ever hear of it.
const CLIENTS: usize = 120;

/// A connection that the system has forgotten is reset only when its client sends something.
fn fate_of_late(client: &mut Client) -> Fate {
    client.0.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    match client.0.peek(&mut [0]) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            let _ = client.0.write_all(b"?");
            client.fate()
        }
        // The error is reported only once.
        Err(_) => Fate::Reset,
        Ok(_) => client.fate(),
    }
}

/// No more can be promised: between the last look into the queue and the close of the listener, the system completes
/// connections of which no process ever hears. So the fate of each is counted, and every client that was connected
/// before the stop has to be notified.
#[test]
fn every_client_connected_before_the_stop_is_told_while_others_keep_connecting() {
    let (many, _guard) = crowd(CLIENTS);
    let server = Running::start(Echo);
    let address = server.address();
    let connected = AtomicUsize::new(0);
    let stopping = AtomicBool::new(false);
    let (before, after): (Vec<_>, Vec<_>) = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut clients = Vec::new();
                    while clients.len() < many / 4 {
                        let Ok(client) = Client::try_connect(address) else { break };
                        clients.push((stopping.load(Ordering::SeqCst), client));
                        connected.fetch_add(1, Ordering::SeqCst);
                    }
                    clients
                })
            })
            .collect();
        eventually("some have connected", || connected.load(Ordering::SeqCst) >= many / 6);
        stopping.store(true, Ordering::SeqCst);
        server.stop(HUGE);
        clients.into_iter().flat_map(|clients| clients.join().unwrap()).partition(|(late, _)| !late)
    });
    for (_, mut client) in before {
        assert_eq!(client.fate(), Fate::Ended("SHUTDOWN\n".into()));
    }
    let fates: Vec<_> = after.into_iter().map(|(_, mut client)| fate_of_late(&mut client)).collect();
    let told = fates.iter().filter(|&fate| *fate == Fate::Ended("SHUTDOWN\n".into())).count();
    let reset = fates.iter().filter(|&fate| *fate == Fate::Reset).count();
    assert_eq!(told + reset, fates.len(), "a client was closed without a word: {fates:?}");
    let report = server.join();
    assert_eq!((report.notified, report.forced.len()), (report.disconnected, 0));
}

// Not on Windows: under Wine some thousand connections take longer than a test may.
#[cfg(unix)]
#[test]
fn clients_that_keep_coming_do_not_hold_up_the_stop() {
    let address = Arc::new(OnceLock::new());
    let own = address.clone();
    // For each client that is accepted there is another before the next look into the queue, which never becomes empty.
    let server = Server::new(Echo).max_connections(1).observer(move |event| {
        if let Event::Refused { .. } = event {
            let _ = own.get().map(Client::try_connect);
        }
    });
    let server = Running::of(server);
    let mut idle = server.idle_clients(1).remove(0);
    address.set(server.address()).unwrap();
    (0..10).for_each(|_| drop(server.client()));
    eventually("some have come", || server.counts().refused >= 10);
    let stopper = server.stopper();
    stopper.stop(HUGE);
    let before = stopper.counts().refused;
    idle.expect_last("SHUTDOWN\n");
    drop(idle);
    assert_eq!(server.join().forced.len(), 0);
    // As many as a queue can hold, and no more. (Without a limit it would continue until the system has no port left.)
    let later = stopper.counts().refused - before;
    assert!(later < 5_000, "{later} clients were taken after the stop had begun");
}

#[test]
fn the_port_can_be_bound_again_while_clients_are_still_draining() {
    let old = Running::start(Echo);
    let mut stays = old.idle_clients(1).remove(0);
    old.stop(HUGE);
    stays.expect_last("SHUTDOWN\n");
    // A client that has been notified knows that the listener is closed.
    let new = Running::on(TcpListener::bind(old.address()).unwrap(), Server::new(Echo));
    assert_eq!(new.address(), old.address());
    let mut client = new.client();
    client.send("hello");
    client.expect("hello");
    old.wait_for(1, Activity::Draining);
    drop(stays);
    assert_eq!(old.join().disconnected, 1);
    new.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    assert_eq!(new.join().disconnected, 1);
}

#[test]
fn new_clients_are_refused_by_the_system_while_others_are_still_draining() {
    let server = Running::start(Echo);
    let mut stays = server.idle_clients(1).remove(0);
    server.stop(HUGE);
    stays.expect_last("SHUTDOWN\n");
    assert!(Client::try_connect(server.address()).is_err());
    drop(stays);
    server.join();
}

/// Holds up each thread that admits a client, until the sender is dropped.
struct HoldsUpAll {
    asked: Arc<AtomicUsize>,
    gate: Mutex<Receiver<()>>,
}

impl Handler for HoldsUpAll {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        Echo.serve(client)
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }

    fn admits(&self, _peer: SocketAddr) -> bool {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let _ = self.gate.lock().unwrap().recv();
        true
    }
}

#[test]
fn clients_from_the_queue_are_served_to_their_end_though_the_port_is_dropped_while_they_are_taken_from_it() {
    let (open, gate) = mpsc::channel();
    let asked = Arc::new(AtomicUsize::new(0));
    let port = Port::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let handler = HoldsUpAll { asked: asked.clone(), gate: Mutex::new(gate) };
    let handle = Server::new(handler).build(&port).unwrap();
    handle.stopper().serve();
    let first = Client::connect(port.address());
    eventually("the first is being admitted", || asked.load(Ordering::SeqCst) == 1);
    let second = Client::connect(port.address());
    handle.stopper().stop(HUGE);
    eventually("the stop takes the second from the queue", || asked.load(Ordering::SeqCst) == 2);
    drop(port);
    drop(open);
    for mut client in [first, second] {
        client.expect_last("SHUTDOWN\n");
    }
    let report = handle.join().unwrap();
    assert_eq!((report.notified, report.disconnected), (2, 2));
}
