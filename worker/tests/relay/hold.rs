//! Clients wait while no generation serves.

use std::time::Duration;

use mastercontrol_worker::relay::Protocol;

use crate::support::{Front, Program, eventually, never, options};

#[test]
fn clients_that_come_before_the_program_are_served_by_it() {
    let front = Front::tcp();
    let mut clients: Vec<_> = (0..20).map(|_| front.client()).collect();
    clients.iter_mut().for_each(|client| client.send("hello"));
    eventually("all are held", || front.relay.counts().held == 20);
    let program = Program::echo();
    let upstream = front.serve(&program);
    clients.iter_mut().for_each(|client| client.expect("hello"));
    assert_eq!((front.relay.counts().held, upstream.counts().total), (0, 20));
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
    // What the old one still has to say is said.
    drop(server);
    client.expect_last("");
    // Its client does not have to close its side: it could be heard by none.
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
