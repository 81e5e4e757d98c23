//! A server that crashes is started again, with growing waits, until it crashes too often.

use crate::support::{Client, Home, Instance, eventually, free_port};

pub const FRAGILE: &str = env!("CARGO_BIN_EXE_crash-on-command");

/// Starts a server that can be crashed.
pub fn start_fragile(home: &Home) -> Instance {
    let mut command = home.program(FRAGILE);
    command.args(["--name", home.name(), "--listen", &format!("127.0.0.1:{}", free_port())]);
    home.start_by(command)
}

/// Makes the server crash. Its clients are notified; the one that it crashed on is lost.
pub fn crash(instance: &Instance) {
    let mut client = instance.client();
    client.send("CRASH\n");
    client.expect("CRASH\n");
    let _its_last = instance.client();
    client.assert_told();
}

/// Sends a line and expects it back. The client may have had to wait in the queue for that.
pub fn ask(client: &mut Client) {
    client.send("hello\n");
    client.expect("hello\n");
}

/// The waits that the log mentions, in milliseconds.
fn waits(log: &str) -> Vec<u64> {
    let lines = log.lines().filter_map(|line| line.split_once("starting generation ")?.1.split_once(" in "));
    let wait = |text: &str| match text.split_once(' ') {
        Some((number, "ms")) => number.parse().unwrap(),
        Some((number, "s")) => (number.parse::<f64>().unwrap() * 1000.0) as u64,
        other => panic!("{other:?} is no time"),
    };
    lines.map(|(_, text)| wait(text)).collect()
}

#[test]
fn a_server_that_crashes_comes_back_after_growing_waits_and_serves_who_came_meanwhile_until_it_gives_up() {
    let home = Home::new();
    let instance = start_fragile(&home);
    for crashes in 1..=5 {
        crash(&instance);
        let mut meanwhile: Vec<_> = (0..5).map(|_| instance.client()).collect();
        meanwhile.iter_mut().for_each(ask);
        let status = instance.status();
        assert_eq!((&status["generation"], &status["state"]), (&(crashes + 1).into(), &"serving".into()));
        assert_eq!(status["last_end"]["generation"], crashes);
        assert_eq!(status["last_end"]["reason"], "the handler panicked when a client came: crashed on command");
    }
    eventually("all waits are in the log", || waits(&instance.err.so_far()).len() == 5);
    let waits = waits(&instance.err.so_far());
    assert!(waits.windows(2).all(|pair| pair[0] < pair[1]), "{waits:?}");
    crash(&instance);
    assert_eq!(instance.wait(), 9);
    instance.assert_port_is_free();
    let log = instance.log();
    assert!(log.contains("error: giving up: 6 crashes within 120 s (--max-restarts 5)"), "{log}");
}

#[test]
fn the_status_says_why_it_crashed_and_while_it_waits_until_when() {
    let home = Home::new();
    let instance = start_fragile(&home);
    for _ in 0..4 {
        crash(&instance);
        ask(&mut instance.client());
    }
    crash(&instance);
    eventually("it serves again", || {
        let status = instance.status();
        // On a very busy machine the wait may not be seen.
        let waits = status["state"] == "waiting";
        assert_eq!(status["next_try_ms"].is_u64(), waits, "{status}");
        assert!(!waits || status["last_end"]["generation"] == 5, "{status}");
        status["state"] == "serving" && status["generation"] == 6
    });
    instance.admin(&["status"]).expect(0).says("last crash   generation 5, ").says("crashed on command");
}

#[test]
fn a_stop_while_it_waits_needs_no_server() {
    let home = Home::new();
    let instance = start_fragile(&home);
    for _ in 0..3 {
        crash(&instance);
        ask(&mut instance.client());
    }
    crash(&instance);
    // Whatever its state is at that moment.
    instance.admin(&["stop", "--grace", "600", "--timeout", "60"]).expect(0);
    assert_eq!(instance.wait(), 0);
    instance.assert_port_is_free();
}

#[test]
fn a_server_that_is_looked_at_and_takes_connections_goes_on() {
    let home = Home::new();
    let instance = home.start(&["echo", "--check-every", "1"]);
    let mut client = instance.client();
    client.greet();
    // It has been probed twice by then, and a probe does not count as a connection.
    std::thread::sleep(std::time::Duration::from_millis(2_500));
    client.greet();
    let status = instance.status();
    assert_eq!((&status["generation"], &status["connections"]["total"]), (&1.into(), &1.into()));
}
