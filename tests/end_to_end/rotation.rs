//! Out of rotation and back: how a program learns of it, and what `resume` undoes.

use std::fs;

use crate::support::{Client, HUGE, Home, Instance, eventually, free_port};

/// Records what it learns, and its process id, in the file `heard`.
const PROGRAM: &str = r#"
import os, signal, socket, sys, time
def note(text):
    with open(sys.argv[1], "a") as heard:
        heard.write(f"{text} {os.getpid()}\n")
signal.signal(signal.SIGUSR1, lambda *_: note("out"))
signal.signal(signal.SIGUSR2, lambda *_: note("back"))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
# A signal may come right before a `pause`, which would not end then.
while True:
    time.sleep(0.05)
"#;

fn start(home: &Home) -> Instance {
    let heard = heard(home);
    let options = ["--drain-signal", "USR1", "--resume-signal", "USR2", "--ready", "notify"];
    home.exec(&options, &["python3", "-c", PROGRAM, &heard])
}

/// Python's standard server, which keeps connections alive.
pub fn behind_a_relay(home: &Home, options: &[&str]) -> Instance {
    let port = free_port().to_string();
    let options = [&["--listen", &port, "--relay", "http"], options].concat();
    let line = ["python3", "-m", "http.server", "{port}", "--bind", "127.0.0.1", "--protocol", "HTTP/1.1"];
    home.exec(&options, &line)
}

fn heard(home: &Home) -> String {
    home.directory().join("heard").to_str().unwrap().to_owned()
}

/// Waits until these programs have learned this, in this order.
#[track_caller]
fn wait_until_heard(home: &Home, instance: &Instance, expected: &[(u64, &str)]) {
    let pids: Vec<_> = expected.iter().map(|(pid, what)| format!("{what} {pid}\n")).collect();
    let so_far = || fs::read_to_string(heard(home)).unwrap_or_default();
    eventually("the program hears it", || so_far() == pids.concat() || !pids.concat().starts_with(&so_far()));
    assert_eq!(so_far(), pids.concat(), "{}", instance.err.so_far());
}

fn pid(instance: &Instance) -> u64 {
    instance.status()["program_pid"].as_u64().unwrap()
}

#[test]
fn a_program_hears_once_that_it_is_taken_out_of_rotation_and_that_it_is_back() {
    let home = Home::new();
    let instance = start(&home);
    let first = pid(&instance);
    instance.admin(&["drain"]).expect(0);
    instance.admin(&["drain"]).expect(0);
    wait_until_heard(&home, &instance, &[(first, "out")]);
    // The next one is out of rotation, too.
    instance.admin(&["restart"]).expect(0);
    let second = pid(&instance);
    wait_until_heard(&home, &instance, &[(first, "out"), (second, "out")]);
    instance.admin(&["resume"]).expect(0).says("ready for new clients; the drain is cancelled");
    instance.admin(&["resume"]).expect(0);
    wait_until_heard(&home, &instance, &[(first, "out"), (second, "out"), (second, "back")]);
    // A stop without a delay says so by its own signal.
    instance.admin(&["stop"]).expect(0);
    wait_until_heard(&home, &instance, &[(first, "out"), (second, "out"), (second, "back")]);
}

#[test]
fn a_program_hears_of_a_postponed_stop_and_of_its_cancellation() {
    let home = Home::new();
    let instance = start(&home);
    let program = pid(&instance);
    let stop = instance.admin_begins(&["stop", "--delay", HUGE]);
    wait_until_heard(&home, &instance, &[(program, "out")]);
    let resumed = instance.admin(&["resume", "--json"]).expect(0).json();
    assert_eq!((&resumed["ready"], &resumed["undone"][0]), (&true.into(), &"stop".into()), "{resumed}");
    stop.end().expect(1).says("cancelled the stop");
    wait_until_heard(&home, &instance, &[(program, "out"), (program, "back")]);
    instance.err.wait_for(": the stop is cancelled, ready for new clients again");
}

/// As far as this client can tell, the server does not know that there is a stop or a restart.
#[track_caller]
fn assert_is_served(client: &mut Client) {
    (0..3).for_each(|_| client.greet());
}

#[test]
fn a_restart_notifies_clients_over_the_spread_oldest_first() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut clients: Vec<_> = (0..3).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(Client::greet);
    let restart = instance.admin_begins(&["restart", "--spread", HUGE]);
    clients.remove(0).assert_told();
    instance.err.wait_for("generation 1 draining: 3 clients, grace period 600 s, spread over 600 s");
    clients.iter_mut().for_each(assert_is_served);
    // A client that connects now belongs to the new generation.
    assert_is_served(&mut instance.client());
    // The remaining time is shared out again, and all have their turn in it.
    instance.admin(&["grace", "20"]).expect(0);
    for mut client in clients {
        client.assert_told();
    }
    restart.end().expect(0).says("3 notified, 3 disconnected");
}

#[test]
fn every_stop_is_spread_as_the_settings_say_unless_it_says_otherwise() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE, "--spread", HUGE]);
    let mut clients: Vec<_> = (0..2).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(Client::greet);
    instance.signal(nix::sys::signal::Signal::SIGTERM);
    clients.remove(0).assert_told();
    instance.err.wait_for("SIGTERM");
    instance.err.wait_for(", spread over 600 s");
    assert_is_served(&mut clients[0]);
    let stop = instance.admin_begins(&["stop", "--spread", "0"]);
    clients.remove(0).assert_told();
    stop.end().expect(0).says("2 notified, 2 disconnected");
    assert_eq!(instance.wait(), 0);
}

#[test]
fn kept_connections_behind_a_relay_are_closed_over_the_spread_too() {
    let home = Home::new();
    let instance = behind_a_relay(&home, &["--grace", HUGE]);
    // One after the other, because the threads of a relay accept at the same time.
    let mut clients: Vec<_> = (0..2)
        .map(|_| {
            let mut client = instance.client();
            assert!(!client.get("/").is_last);
            client
        })
        .collect();
    let stop = instance.admin_begins(&["stop", "--spread", HUGE]);
    assert_eq!(clients[0].rest(), "");
    assert!((0..3).all(|_| !clients[1].get("/").is_last));
    instance.admin(&["stop", "--spread", "0", "--no-wait"]).expect(0);
    assert_eq!(clients[1].rest(), "");
    stop.end().expect(0).says("0 notified, 0 disconnected, 2 closed");
}

#[test]
fn before_a_stop_with_a_spread_kept_connections_do_not_all_end_with_their_next_answers() {
    let own = |home: &Home, options: &[&str]| home.start(&[&["http", "."], options].concat());
    for start in [behind_a_relay, own] {
        let home = Home::new();
        let instance = start(&home, &["--grace", HUGE]);
        let mut client = instance.client();
        instance.admin(&["stop", "--delay", HUGE, "--spread", "10", "--no-wait"]).expect(0);
        assert!((0..10).all(|_| !client.get("/").is_last));
        instance.admin(&["resume"]).expect(0);
        instance.admin(&["stop", "--delay", HUGE, "--no-wait"]).expect(0);
        eventually("clients are asked to come again", || instance.client().get("/").is_last);
        assert!(client.get("/").is_last);
    }
}

#[test]
fn a_spread_beyond_the_grace_period_is_refused_with_both_numbers() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", "30"]);
    let both = "clients cannot be let go over 40 s within a grace period of 30 s: spread at most 30 s, or give more";
    instance.admin(&["restart", "--spread", "40"]).expect(1).says(both);
    for command in ["stop", "restart"] {
        let said = instance.admin(&[command, "--grace", "30", "--spread", "40", "--no-wait"]).expect(2);
        said.says("--spread is 40 s, and --grace is 30 s: say at most 30 s, or give more");
    }
    instance.admin(&["stop", "--spread", "40", "--no-wait"]).expect(1).says(both);
    assert_eq!(instance.status()["generation"], 1);
    instance.admin(&["restart", "--grace", "40", "--spread", "40"]).expect(0);
    let said = home.run(home.supervisor(&["echo", "--listen", "0", "--grace", "1", "--spread", "2"])).expect(2);
    said.says(r#""spread" is 2 s, and "grace" is 1 s: say at most 1 s, or give more"#);
}

#[test]
fn clients_that_only_a_program_knows_cannot_be_let_go_over_a_time() {
    let home = Home::new();
    let instance = start(&home);
    let why = "without --relay only the program knows them";
    instance.admin(&["restart", "--spread", "1"]).expect(1).says(why);
    instance.admin(&["stop", "--spread", "1"]).expect(1).says(why);
    let said = home.run(home.supervisor(&["exec", "--spread", "1", "sleep", "1000"])).expect(2);
    said.says(r#""spread" needs "relay": without it only the program knows its clients"#);
}
