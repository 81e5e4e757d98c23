//! Signals are acknowledged, and a second one stops at once.

use std::process::Stdio;

use nix::sys::signal::Signal::{self, SIGHUP, SIGINT, SIGQUIT, SIGTERM};

use crate::support::{HUGE, Home};

#[test]
fn every_signal_is_acknowledged_by_its_name_and_sender() {
    for signal in [SIGHUP, SIGINT, SIGTERM, SIGQUIT] {
        let home = Home::new();
        let instance = home.start(&["echo", "--grace", HUGE]);
        instance.signal(signal);
        assert_eq!(instance.wait(), 0, "{signal}");
        let expected = format!("{signal} (from pid {}): stopping, 0 clients", std::process::id());
        assert!(instance.log().contains(&expected), "{}", instance.log());
    }
}

#[test]
fn a_second_signal_closes_the_rest_at_once() {
    let second: [(Signal, Signal); 4] = [(SIGTERM, SIGTERM), (SIGTERM, SIGINT), (SIGINT, SIGINT), (SIGHUP, SIGQUIT)];
    for (first, second) in second {
        let home = Home::new();
        let instance = home.start(&["echo", "--grace", HUGE]);
        let mut client = instance.client();
        client.greet();
        instance.signal(first);
        client.assert_told();
        instance.err.wait_for("stopping, 1 client");
        instance.wait_for_countdown();
        instance.signal(second);
        assert_eq!(instance.wait(), 5, "{first}, {second}");
        let expected = format!("{second} (from pid {}): closing 1 client now", std::process::id());
        assert!(instance.log().contains(&expected), "{}", instance.log());
    }
}

#[test]
fn enter_after_a_signal_closes_the_rest_at_once() {
    let home = Home::new();
    let mut command = home.supervisor(&["echo", "--grace", HUGE, "--console", "stdin"]);
    command.stdin(Stdio::piped());
    let instance = home.start_by(command);
    let mut client = instance.client();
    client.greet();
    instance.signal(SIGTERM);
    client.assert_told();
    instance.wait_for_countdown();
    instance.write("\n");
    assert_eq!(instance.wait(), 5);
    assert!(instance.log().contains("Enter: closing 1 client now"), "{}", instance.log());
}

#[test]
fn a_signal_after_admin_cli_closes_the_rest_at_once() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let stop = instance.admin_begins(&["stop"]);
    client.assert_told();
    instance.wait_for_countdown();
    instance.signal(SIGINT);
    assert_eq!(instance.wait(), 5);
    stop.end().expect(5).says("1 forced");
}

#[test]
fn while_clients_remain_a_countdown_says_how_many_and_how_long() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut clients = [instance.client(), instance.client()];
    clients.iter_mut().for_each(|client| client.greet());
    instance.signal(SIGTERM);
    let line = instance.err.wait_for("2 clients still connected");
    assert!(line.ends_with(" s to go"), "{line}");
    let [_first, second] = clients;
    drop(second);
    instance.err.wait_for("1 client still connected");
    drop(_first);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn without_a_deadline_a_stop_waits_for_the_last_client_until_somebody_sets_one() {
    for options in [&["--grace", "infinity"][..], &[]] {
        let home = Home::new();
        let instance = home.start(&[&["echo"], options].concat());
        let mut client = instance.client();
        client.greet();
        let stop = instance.admin_begins(&["stop", "--grace", "infinity"]);
        client.assert_told();
        instance.err.wait_for("grace period infinity");
        instance.err.wait_for("1 client still connected, without a deadline");
        instance.admin(&["status"]).expect(0).says("without a deadline");
        instance.admin(&["grace", "0"]).expect(0);
        stop.end().expect(5);
        assert_eq!(instance.wait(), 5);
    }
}

#[test]
fn under_nohup_sighup_is_ignored_and_other_signals_are_not() {
    let home = Home::new();
    let instance = home.start_by(home.supervisor_by(&["nohup"], &["echo", "--grace", HUGE]));
    instance.signal(SIGHUP);
    // If it had been accepted, that would have been before this one.
    instance.signal(SIGTERM);
    assert_eq!(instance.wait(), 0);
    let log = instance.log();
    assert!(log.contains("SIGTERM") && !log.contains("SIGHUP"), "{log}");
}

/// Runs the rest of the command with all signals blocked, and ignored where that is possible. (32 and 33 are for a C
/// library's own use.)
pub const DEAF: [&str; 3] = [
    "python3",
    "-c",
    "import os, signal, sys
for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP, 32, 33}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execvp(sys.argv[1], sys.argv[1:])",
];

#[test]
fn signals_that_whoever_started_it_has_blocked_or_ignored_are_heard() {
    for signal in [SIGINT, SIGTERM, SIGQUIT] {
        let home = Home::new();
        let instance = home.start_by(home.supervisor_by(&DEAF, &["echo", "--grace", HUGE]));
        instance.signal(signal);
        assert_eq!(instance.wait(), 0, "{}", instance.log());
    }
}

#[test]
fn many_signals_at_once_do_no_harm() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    for _ in 0..50 {
        for signal in [SIGHUP, SIGINT, SIGTERM, SIGQUIT] {
            // It may have ended: a later signal can close the client.
            let _ = instance.try_signal(signal);
        }
    }
    // If they took longer than a decision does, it is closed by force.
    drop(client);
    assert!([0, 5].contains(&instance.wait()), "{}", instance.log());
}

#[test]
fn a_json_log_has_one_object_a_line_and_names_the_trigger() {
    let home = Home::new();
    let mut command = home.supervisor(&["echo", "--log", "json", "--verbose"]);
    command.stderr(Stdio::piped());
    let process = home.spawn(command);
    let listening = process.err.wait_for("\"listening\"");
    let object: serde_json::Value = serde_json::from_str(&listening).unwrap();
    let mut client = crate::support::Client::connect(object["address"].as_str().unwrap().parse().unwrap());
    client.greet();
    assert_eq!(object["pid"], process.pid);
    assert_eq!(object["socket"], home.socket().to_str().unwrap());
    process.signal(SIGTERM);
    process.err.wait_for("\"stopping\"");
    client.assert_told();
    drop(client);
    let log = process.end().expect(0).err;
    let objects: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let events: Vec<&str> = objects.iter().map(|object| object["event"].as_str().unwrap()).collect();
    assert_eq!(events, ["listening", "connected", "stopping", "ended", "stopped"], "{log}");
    assert!(objects[2]["by"].as_str().unwrap().starts_with("SIGTERM"), "{log}");
    assert_eq!((&objects[4]["notified"], &objects[4]["forced"]), (&1.into(), &0.into()), "{log}");
}

#[test]
fn signals_that_come_together_are_one_decision() {
    // As a service manager that wants to reach shells, too, sends them, and as an impatient person does.
    for (first, second) in [(SIGTERM, SIGHUP), (SIGHUP, SIGTERM), (SIGTERM, SIGTERM), (SIGINT, SIGINT)] {
        let home = Home::new();
        let instance = home.start(&["echo", "--grace", HUGE]);
        let mut client = instance.client();
        client.greet();
        instance.signal(first);
        instance.signal(second);
        client.assert_told();
        instance.wait_for_countdown();
        drop(client);
        assert_eq!(instance.wait(), 0, "{first}, {second}");
    }
}

/// `timeout` signals its child, and then the group that both are in.
#[test]
fn timeout_stops_a_supervisor_gracefully() {
    let home = Home::new();
    let instance = home.start_by(home.supervisor_by(&["timeout", "10"], &["echo", "--grace", HUGE]));
    let mut client = instance.client();
    client.greet();
    client.assert_told();
    instance.wait_for_countdown();
    drop(client);
    assert_eq!(instance.wait(), 124);
    assert!(instance.log().contains("0 forced"), "{}", instance.log());
}
