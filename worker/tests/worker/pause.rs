//! A paused port: what arrives waits, what is under way ends.

use std::io::{ErrorKind, Read};
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{Activity, Handler, Port, Server};

use crate::support::{Client, Gated, HUGE, LIMIT, Running, answering};

fn port() -> Port {
    Port::start(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
}

fn serving(port: &Port, handler: impl Handler) -> Running {
    let server = Running::from(Server::new(handler).build(port).unwrap());
    server.serve();
    server
}

fn expect_silence(client: &mut Client) {
    client.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = client.0.read(&mut [0]).unwrap_err().kind();
    assert!(matches!(error, ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    client.0.set_read_timeout(Some(LIMIT)).unwrap();
}

#[test]
fn a_client_that_connects_just_before_a_pause_is_served_after_it() {
    let port = port();
    let server = serving(&port, answering(b'.', b'!'));
    for _ in 0..500 {
        let mut clients = [server.client(), server.client()];
        assert!(port.pause().wait());
        port.resume();
        for client in &mut clients {
            client.send("?");
            client.expect(".");
        }
    }
    server.stop(HUGE);
    server.join();
}

#[test]
fn what_comes_during_a_pause_is_served_after_it() {
    let port = port();
    let server = serving(&port, answering(b'.', b'!'));
    let mut kept = server.idle_clients(2);
    for client in &mut kept {
        client.send("?");
        client.expect(".");
    }
    server.wait_for(2, Activity::Idle);
    for _ in 0..3 {
        let paused = port.pause();
        assert!(paused.wait() && paused.under_way() == 0);
        let before = server.counts().total;
        let mut new = server.client();
        new.send("?");
        for client in &mut kept {
            client.send("?");
            expect_silence(client);
        }
        expect_silence(&mut new);
        assert_eq!(server.counts().total, before);
        assert!(server.is_accepting(LIMIT), "a check would restart it");
        port.resume();
        kept.push(new);
        for client in &mut kept {
            client.expect(".");
        }
    }
    // Nothing is left of the pause.
    kept[0].send("?");
    kept[0].expect(".");
    server.stop(HUGE);
    drop(kept);
    server.join();
}

#[test]
fn a_message_that_is_under_way_is_served_and_waited_for() {
    let port = port();
    let (gate, handler) = Gated::new(None);
    let server = serving(&port, handler);
    let mut client = server.client();
    client.send("??");
    server.wait_for_message(2);
    let paused = port.pause();
    assert_eq!(paused.under_way(), 1);
    let waiting = thread::spawn(move || paused.wait());
    gate.send(()).unwrap();
    client.expect(".");
    assert!(waiting.join().unwrap());
    // The other message was sent ahead, and is not served in the pause.
    drop(gate);
    expect_silence(&mut client);
    port.resume();
    client.expect(".");
    drop(client);
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_pause_that_ends_is_waited_for_no_longer() {
    let port = port();
    let (gate, handler) = Gated::new(None);
    let server = serving(&port, handler);
    let mut client = server.client();
    client.send("?");
    server.wait_for_message(1);
    let paused = port.pause();
    let waiting = thread::spawn(move || paused.wait());
    port.resume();
    assert!(!waiting.join().unwrap());
    drop(gate);
    client.expect(".");
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_server_that_is_replaced_meanwhile_leaves_what_waits_to_the_next_one() {
    let port = port();
    let old = serving(&port, answering(b'1', b'1'));
    let mut kept = old.idle_clients(1).remove(0);
    kept.send("?");
    kept.expect("1");
    assert!(port.pause().wait());
    kept.send("?");
    let mut queued = old.client();
    queued.send("?");
    let new = Running::from(Server::new(answering(b'2', b'!')).build(&port).unwrap());
    new.serve();
    old.retire_by(Instant::now() + HUGE);
    let stopper = old.stopper();
    // It does not wait for the end of the pause.
    old.join();
    // The pause is that of the port, which the new one serves.
    stopper.stop(Duration::ZERO);
    expect_silence(&mut kept);
    port.resume();
    kept.expect("2");
    queued.expect("2");
    new.stop(HUGE);
    drop((kept, queued));
    new.join();
}

#[test]
fn a_stop_ends_the_pause_and_answers_what_has_waited() {
    let port = port();
    let server = serving(&port, answering(b'.', b'!'));
    let mut kept = server.idle_clients(1).remove(0);
    kept.send("?");
    kept.expect(".");
    port.pause();
    kept.send("?");
    let mut queued = server.client();
    queued.send("?");
    server.stop(HUGE);
    kept.expect_last("!");
    queued.expect_last("!");
    server.join();
}

#[test]
fn a_paused_server_with_a_notice_still_sends_it() {
    let port = port();
    let server = serving(&port, Echo);
    let mut client = server.idle_clients(1).remove(0);
    port.pause();
    server.stop(HUGE);
    client.expect_last("SHUTDOWN\n");
    drop(client);
    assert_eq!(server.join().notified, 1);
}
