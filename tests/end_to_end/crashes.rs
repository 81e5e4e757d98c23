//! Programs that crash: what is reported, and when the next one starts.

use serde_json::Value;

use crate::exec::sh;
use crate::support::{HUGE, Home, Instance, eventually};

fn events(instance: &Instance, name: &str) -> Vec<Value> {
    let lines = instance.admin(&["events", "--json"]).expect(0).out;
    let events = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    events.filter(|event| event["event"] == name).collect()
}

/// The first program runs this script, which writes to stderr and fails. The next one keeps running.
fn fails_once(home: &Home, script: &str) -> Instance {
    let first = home.directory().join("first");
    let script = format!("[ -e {0} ] && exec sleep 600; : > {0}; sleep 2; {script}", first.display());
    let instance = home.exec(&["--ready", "20ms", "--grace", HUGE], &sh(&script));
    eventually("the next one runs", || instance.status()["generation"] == 2);
    instance
}

#[test]
fn a_crash_says_why_by_the_last_lines_that_the_program_wrote() {
    let home = Home::new();
    let instance = fails_once(&home, "for i in $(seq 30); do echo line $i >&2; done; printf 'the end' >&2; exit 3");
    let mut expected: Vec<Value> = (22..=30).map(|i| format!("line {i}").into()).collect();
    expected.push("the end".into());
    let last_end = &instance.status()["last_end"];
    assert_eq!((&last_end["reason"], &last_end["last_output"]), (&"it exited with code 3".into(), &expected.into()));
    let crashes = events(&instance, "crashed");
    assert_eq!((crashes.len(), &crashes[0]["last_output"]), (1, &last_end["last_output"]));
    let message = crashes[0]["message"].as_str().unwrap();
    assert_eq!(message, "generation 1 crashed: it exited with code 3");
    // Events are read where stderr is not.
    instance.admin(&["events"]).expect(0).says("it exited with code 3\n  | line 22\n  | line 23\n");
    instance.admin(&["status"]).expect(0).says("it exited with code 3\n").says("| line 22\n").says("| the end");
    // And all of it is passed through.
    instance.err.wait_for("line 30");
    let log = instance.err.so_far();
    assert!((1..=30).all(|i| log.matches(&format!("line {i}\n")).count() == 1), "{log}");
}

#[test]
fn a_crash_says_why_though_others_keep_its_stderr_open() {
    let home = Home::new();
    let instance = fails_once(&home, "(trap '' TERM; sleep 600) & echo broken >&2; kill -KILL $$");
    let last_end = &instance.status()["last_end"];
    assert_eq!(last_end["reason"], "it was killed by SIGKILL");
    assert_eq!(last_end["last_output"], serde_json::json!(["broken"]));
}

#[test]
fn a_program_that_ends_well_has_no_last_words() {
    let home = Home::new();
    let done = home.directory().join("done");
    let script = format!("[ -e {0} ] && exec sleep 600; : > {0}; sleep 2; echo bye >&2; exit 0", done.display());
    let instance = home.exec(&["--ready", "20ms", "--restart", "always"], &sh(&script));
    eventually("the next one runs", || instance.status()["generation"] == 2);
    let last_end = &instance.status()["last_end"];
    assert_eq!((&last_end["reason"], last_end.get("last_output")), (&"it exited with code 0".into(), None));
}

/// Such as a process that still has the port.
#[test]
fn after_a_crash_the_next_program_starts_when_nothing_of_the_last_one_is_left() {
    let home = Home::new();
    let child = home.directory().join("child");
    let script = format!(
        "[ -e {0} ] && {{ kill -0 $(cat {0}) && echo too early || echo alone; exec sleep 600; }}
         sh -c 'trap \"\" TERM; echo $$ > {0}; while :; do sleep 0.01; done' &
         while [ ! -s {0} ]; do sleep 0.01; done; sleep 2; kill -KILL $$",
        child.display()
    );
    let instance = home.exec(&["--ready", "20ms", "--grace", HUGE], &sh(&script));
    instance.out.wait_for("alone");
    eventually("it serves", || instance.status()["state"] == "serving");
    let status = instance.status();
    assert_eq!((&status["generation"], &status["crashes"]), (&2.into(), &1.into()), "{status}");
    assert!(!instance.out.so_far().contains("too early"), "{}", instance.out.so_far());
}
