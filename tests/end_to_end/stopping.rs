//! How a program is asked to end, and how long it has.

use std::process::Stdio;

use nix::sys::signal::Signal::{SIGINT, SIGTERM};

use crate::exec::{assert_nothing_runs, file, sh};
use crate::support::{HUGE, Home, eventually, free_port};

/// Is never ready.
const NEVER: [&str; 6] = ["--ready", "notify", "--ready-within", HUGE, "--grace", HUGE];

#[test]
fn a_program_that_is_not_ready_yet_is_asked_to_end_and_has_its_time() {
    let home = Home::new();
    let script = "trap 'sleep 0.5; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let process = home.spawn(home.exec_command(&NEVER, &sh(script)));
    process.out.wait_for("up");
    process.signal(SIGTERM);
    assert_eq!(process.wait(), 0);
    process.out.wait_for("saved");
    assert!(process.err.whole().contains("(exited with code 0)"), "{}", process.err.so_far());
    assert_nothing_runs(&home);
}

#[test]
fn a_program_that_is_not_ready_yet_and_ignores_the_signal_is_killed_at_the_deadline() {
    let home = Home::new();
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let process = home.spawn(home.exec_command(&NEVER, &sh(script)));
    process.out.wait_for("up");
    let name = ["--name", home.name()];
    let mut stop = home.admin_command(&[&name[..], &["stop"]].concat());
    stop.stdout(Stdio::null());
    let stop = home.spawn(stop);
    process.err.wait_for("stopping");
    // The deadline can be moved as in any other stop.
    home.admin(&[&name[..], &["grace", "0.1"]].concat()).expect(0);
    assert_eq!((stop.wait(), process.wait()), (5, 5));
    assert_nothing_runs(&home);
}

#[test]
fn a_second_ctrl_c_kills_a_program_that_is_not_ready_yet() {
    let home = Home::new();
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let process = home.spawn(home.exec_command(&NEVER, &sh(script)));
    process.out.wait_for("up");
    process.signal(SIGINT);
    // The first of these may still be the same decision.
    eventually("it is killed", || !process.try_signal(SIGINT));
    assert_eq!(process.wait(), 5);
    assert_nothing_runs(&home);
}

/// The next one is being built beside the one that serves, and both have to end.
#[test]
fn a_stop_in_the_middle_of_a_restart_asks_both_programs_to_end() {
    let home = Home::new();
    let script = "trap 'sleep 0.2; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done";
    let settings = |ready: &str| format!(r#"{{"ready": "{ready}", "ready-within": 600, "grace": 600}}"#);
    let config = file(&home, "config.json", &settings("0"));
    let port = free_port().to_string();
    let instance = home.exec(&["--listen", &port, "--config", &config], &sh(script));
    let so_many = |word: &str, number| instance.out.so_far().matches(word).count() == number;
    eventually("the first one is up", || so_many("up", 1));
    file(&home, "config.json", &settings("notify"));
    instance.admin(&["restart", "--no-wait"]).expect(0);
    eventually("the next one is up", || so_many("up", 2));
    instance.admin(&["stop"]).expect(0);
    assert!(so_many("saved", 2), "{}", instance.out.so_far());
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}
