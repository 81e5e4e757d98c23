//! Races: a connection moves to another generation while another thread does something to it.

#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::drain;
use crate::generation::Generation;
use crate::handler::Handler;
use crate::port::{Port, Shared};
use crate::registry::Entry;
use crate::report::{Activity, Outcome};
use crate::{course, handover, idle};

use super::{Server, deadline_after};

const LIMIT: Duration = Duration::from_secs(30);

/// Sends each byte back. Without a notice, so its connections move.
struct Bytes;

impl Handler for Bytes {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            client.write_all(&byte)?;
        }
        Ok(())
    }
}

/// One idle connection of a generation that has just been replaced, and has not moved yet.
struct Scene {
    port: Port,
    old: Arc<Generation>,
    new: Arc<Generation>,
    entry: Arc<Entry>,
    client: TcpStream,
}

impl Scene {
    fn new(handler: impl Handler) -> Scene {
        Scene::between(Server::new(handler), Server::new(Bytes))
    }

    fn between(old: Server, new: Server) -> Scene {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = Port::start(listener).unwrap();
        let old = Arc::new(Generation::new(old.plan));
        let new = Arc::new(Generation::new(new.plan));
        port.shared().serve_by(&old);
        let mut client = TcpStream::connect(port.address()).unwrap();
        client.set_read_timeout(Some(LIMIT)).unwrap();
        // After its first message it is idle until there is another one.
        client.write_all(b"?").unwrap();
        client.read_exact(&mut [0]).unwrap();
        let entry = port.shared().registry.of(&old).remove(0);
        eventually(|| entry.info().activity == Activity::Idle);
        port.shared().serve_by(&new);
        old.retire(deadline_after(Instant::now(), LIMIT));
        Scene { port, old, new, entry, client }
    }

    fn shared(&self) -> &Arc<Shared> {
        self.port.shared()
    }

    fn moves(&self) -> bool {
        handover::move_waiting(self.shared(), &self.entry)
    }

    /// Its thread has seen that it can move, and tries to.
    fn moves_in_its_thread(&self) -> bool {
        let mut held = self.entry.slot.take().expect("it is idle");
        let moves = handover::move_on(self.shared(), &self.entry, &mut held);
        course::close(self.shared(), &self.entry, held, Outcome::Closed, None);
        moves
    }

    fn is_served(&mut self) {
        self.client.write_all(b"?").unwrap();
        self.client.read_exact(&mut [0]).expect("it is served");
    }

    fn counts(&self) -> (usize, usize) {
        (self.old.counts().now, self.new.counts().now)
    }
}

fn eventually(holds: impl Fn() -> bool) {
    let end = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "it never came to that");
        thread::yield_now();
    }
}

#[test]
fn a_connection_that_has_moved_is_left_alone_by_the_drain_of_the_generation_that_it_has_left() {
    let mut scene = Scene::new(Bytes);
    assert!(scene.moves());
    // The drain had found it before it moved.
    assert!(!idle::close(scene.shared(), &scene.old, &scene.entry));
    idle::release_one(scene.shared(), &scene.old, &scene.entry);
    course::close_by_force(scene.shared(), &scene.old, &scene.entry);
    scene.is_served();
    assert_eq!((scene.counts(), scene.old.counts().forced), ((0, 1), 0));
}

#[test]
fn a_connection_that_is_being_closed_by_force_does_not_move() {
    let scene = Scene::new(Bytes);
    assert!(scene.old.count_forced(scene.entry.info(), || scene.entry.claim_by_force(&scene.old)));
    assert!(!scene.moves());
    assert_eq!(scene.counts(), (1, 0));
    assert!(!scene.moves_in_its_thread());
    assert_eq!(scene.counts(), (0, 0));
}

#[test]
fn a_connection_that_moves_before_it_is_asked_to_leave_is_not_waited_for() {
    let mut scene = Scene::new(Bytes);
    assert!(scene.moves());
    assert!(drain::close_one(scene.shared(), &scene.old, &scene.entry, Duration::ZERO).is_none());
    scene.is_served();
    assert_eq!(scene.counts(), (0, 1));
}

#[test]
fn a_connection_that_has_been_asked_to_leave_does_not_move() {
    let scene = Scene::new(Bytes);
    let ended = scene.old.await_end(scene.entry.id, || scene.entry.claim_to_leave(&scene.old));
    assert!(!scene.moves());
    assert!(!scene.moves_in_its_thread());
    assert!(ended.unwrap().recv_timeout(LIMIT).is_ok());
    assert_eq!(scene.counts(), (0, 0));
}

#[test]
fn a_connection_that_ends_before_it_is_asked_to_leave_is_not_waited_for() {
    let scene = Scene::new(Bytes);
    assert!(idle::close(scene.shared(), &scene.old, &scene.entry));
    assert!(drain::close_one(scene.shared(), &scene.old, &scene.entry, Duration::ZERO).is_none());
}

fn with_idle_timeout(limit: Option<Duration>) -> Server {
    let mut server = Server::new(Bytes);
    server.plan.idle_timeout = limit;
    server
}

#[test]
fn a_connection_that_moves_may_be_idle_for_as_long_as_its_new_server_allows() {
    for before in [None, Some(LIMIT * 2)] {
        let mut scene = Scene::between(with_idle_timeout(before), with_idle_timeout(Some(Duration::from_millis(50))));
        assert!(scene.moves());
        assert_eq!(scene.client.read(&mut [0]).expect("it is closed"), 0);
    }
    for after in [None, Some(LIMIT), Some(LIMIT * 3)] {
        let scene = Scene::between(with_idle_timeout(Some(LIMIT * 2)), with_idle_timeout(after));
        let look = || scene.entry.slot.look(|held| (held.idle_since, held.due())).expect("it waits");
        let (since, _) = look();
        assert!(since.is_some() && scene.moves());
        assert_eq!(look(), (since, after.map(|limit| since.unwrap() + limit)));
    }
}

/// A message has been read, and the pause has put it off.
fn read_ahead(scene: &mut Scene) {
    scene.entry.slot.look(|held| held.rest.push(b'?')).expect("it waits");
}

/// A first message has arrived, and the engine has reported that in vain because of the pause.
fn unread(scene: &mut Scene) {
    scene.entry.received.store(0, Ordering::Relaxed);
    scene.entry.slot.look(|held| held.has_session = true).expect("it waits");
    scene.client.write_all(b"?").unwrap();
    eventually(|| scene.entry.slot.look(|held| held.has_message()).expect("it waits"));
}

#[test]
fn a_message_that_a_pause_has_put_off_is_answered_before_its_connection_is_closed() {
    for put_off in [read_ahead, unread] {
        // The deadline of its generation, or a place that is needed.
        let mut scene = Scene::new(Bytes);
        scene.port.pause();
        put_off(&mut scene);
        scene.old.leave_now();
        assert!(!scene.moves() && !idle::close(scene.shared(), &scene.old, &scene.entry));
        scene.port.resume();
        scene.client.read_exact(&mut [0]).expect("it is answered");
        eventually(|| scene.old.counts().now == 0);
        // A request to close it.
        let mut scene = Scene::new(Bytes);
        scene.port.pause();
        put_off(&mut scene);
        thread::scope(|scope| {
            // If it is late, the connection has moved.
            scope.spawn(|| drain::close_one(scene.shared(), &scene.old, &scene.entry, LIMIT));
            scene.port.resume();
            (&scene.client).read_exact(&mut [0]).expect("it is answered");
        });
        eventually(|| scene.old.counts().now == 0);
    }
}

/// Its drop looks at the connections of the port, and panics.
struct Curious(Arc<OnceLock<Arc<Shared>>>, Sender<()>);

impl Handler for Curious {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        Bytes.serve(client)
    }
}

impl Drop for Curious {
    fn drop(&mut self) {
        if let Some(port) = self.0.get() {
            assert!(port.registry.all().iter().all(|entry| entry.info().id > 0));
            self.1.send(()).unwrap();
            panic!("the drop of a handler");
        }
    }
}

/// Ends a connection that alone still has its handler, whose drop looks at connections and panics.
fn drops_its_handler(end: fn(&Shared, &Entry) -> bool) {
    let (port, (dropped, is_dropped)) = (Arc::new(OnceLock::new()), mpsc::channel());
    let scene = Scene::new(Curious(port.clone(), dropped));
    port.set(scene.shared().clone()).unwrap();
    let Scene { port: _port, old, new: _new, entry, client: _client } = scene;
    eventually(|| Arc::strong_count(&old) == 2);
    drop(old);
    let shared = port.get().unwrap().clone();
    let ends = thread::spawn(move || end(&shared, &entry));
    is_dropped.recv_timeout(LIMIT).expect("it is dropped where no lock is held");
    assert!(ends.join().expect("a panic of the drop costs nothing else"));
}

#[test]
fn a_handler_that_is_dropped_with_the_last_move_may_look_at_connections_and_panic() {
    drops_its_handler(handover::move_waiting);
}

#[test]
fn a_handler_that_is_dropped_with_its_last_connection_may_look_at_connections_and_panic() {
    drops_its_handler(|port, entry| {
        let held = entry.slot.take().expect("it is idle");
        course::close(port, entry, held, Outcome::Closed, None);
        true
    });
}
