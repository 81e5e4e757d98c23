//! Out of rotation and back: what a program hears of it, and what `resume` undoes.

use std::fs;

use crate::support::{HUGE, Home, Instance, eventually};

/// Notes what it hears, and its process id, in the file `heard`.
const PROGRAM: &str = r#"
import os, signal, socket, sys
def note(text):
    with open(sys.argv[1], "a") as heard:
        heard.write(f"{text} {os.getpid()}\n")
signal.signal(signal.SIGUSR1, lambda *_: note("out"))
signal.signal(signal.SIGUSR2, lambda *_: note("back"))
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
while True:
    signal.pause()
"#;

fn start(home: &Home) -> Instance {
    let heard = heard(home);
    let options = ["--drain-signal", "USR1", "--resume-signal", "USR2", "--ready", "notify"];
    home.exec(&options, &["python3", "-c", PROGRAM, &heard])
}

fn heard(home: &Home) -> String {
    home.directory().join("heard").to_str().unwrap().to_owned()
}

/// Waits until the programs of these generations have heard this, in this order.
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
    // The next one is not in rotation, either.
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
