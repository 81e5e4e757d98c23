//! How a program is asked to end, and how long it has.

use std::fs;
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use nix::sys::signal::Signal::{SIGCONT, SIGHUP, SIGINT, SIGSTOP, SIGTERM, SIGUSR1};
use serde_json::Value;

use crate::exec::{assert_nothing_runs, file, sh};
use crate::support::{HUGE, Home, Instance, eventually, free_port};

/// A program that is never ready.
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
    process.signal_until_it_ends(SIGINT);
    assert_eq!(process.wait(), 5);
    assert_nothing_runs(&home);
}

#[test]
fn a_second_ctrl_c_kills_a_program_that_was_not_ready_in_time_and_is_ending() {
    let home = Home::new();
    let script = "trap '' TERM; echo up; while :; do sleep 0.05; done";
    let options = ["--ready", "notify", "--ready-within", "3", "--grace", HUGE];
    let process = home.spawn(home.exec_command(&options, &sh(script)));
    process.err.wait_for("asking the program");
    process.signal(SIGINT);
    process.err.wait_for("stopping");
    process.signal_until_it_ends(SIGINT);
    assert_eq!(process.wait(), 5, "{}", process.err.so_far());
    assert_nothing_runs(&home);
}

/// The next one is being built beside the one that serves, and both must end.
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
    eventually("both have said so", || so_many("saved", 2));
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}

/// Like celery: a master that waits for its worker, which has a job and does not handle signals. The job ends two
/// seconds after the test says so.
const MASTER: &str = r#"
import multiprocessing, os, signal, sys, time
def work(job):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("begun", flush=True)
    while not os.path.exists(job + ".go"):
        time.sleep(0.01)
    time.sleep(2)
    open(job + ".done", "w").close()
ending = []
worker = multiprocessing.get_context("fork").Process(target=work, args=(sys.argv[1],))
worker.start()
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
print("up", flush=True)
while not ending:
    time.sleep(0.01)
worker.join()
sys.exit(abs(worker.exitcode))
"#;

#[test]
fn a_master_that_alone_gets_the_signal_lets_its_workers_finish() {
    for (to, ends, finishes) in [("leader", "exited with code 0", true), ("group", "exited with code 15", false)] {
        let home = Home::new();
        let job = home.directory().join("job");
        let options = ["--stop-to", to, "--grace", HUGE];
        let instance = home.exec(&options, &["python3", "-c", MASTER, job.to_str().unwrap()]);
        instance.out.wait_for("begun");
        instance.out.wait_for("up");
        let stop = instance.admin_begins(&["stop", "--grace", "100"]);
        instance.err.wait_for("stopping");
        if finishes {
            fs::write(job.with_extension("go"), "").unwrap();
        }
        stop.end().expect(0).says(ends);
        assert_eq!(job.with_extension("done").exists(), finishes);
        assert_eq!(instance.wait(), 0);
        assert_nothing_runs(&home);
    }
}

#[test]
fn what_outlives_a_program_that_alone_got_the_signal_gets_it_then() {
    let home = Home::new();
    let child = "trap 'echo child; exit' TERM; echo up; while :; do sleep 0.05; done";
    let script = format!("trap 'echo leader; exit 0' TERM; sh -c \"{child}\" & wait");
    let instance = home.exec(&["--stop-to", "leader", "--grace", HUGE], &sh(&script));
    instance.out.wait_for("up");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_eq!(instance.out.whole(), "up\nleader\nchild\n");
    assert_nothing_runs(&home);
}

#[test]
fn at_the_deadline_all_are_killed_whoever_got_the_signal() {
    let home = Home::new();
    let instance = home.exec(&["--stop-to", "leader"], &sh("trap '' TERM; sleep 600 & echo up; wait; sleep 600"));
    instance.out.wait_for("up");
    instance.admin(&["stop", "--grace", "0.3"]).expect(5).says("killed by SIGKILL");
    assert_eq!(instance.wait(), 5);
    assert_nothing_runs(&home);
}

/// Reports which signals it gets, and ends on TERM if `ends`.
fn witness(home: &Home, signals: &str, ends: bool) -> Instance {
    let end = if ends { "; exit 0" } else { "" };
    let script = format!(
        "trap 'echo usr1' USR1; trap 'echo usr2' USR2; trap 'echo term{end}' TERM; echo up; while :; do sleep 0.02; done"
    );
    let instance = home.exec(&["--stop-signal", signals], &sh(&script));
    instance.out.wait_for("up");
    instance
}

#[test]
fn signals_follow_each_other_until_the_program_ends() {
    let home = Home::new();
    let instance = witness(&home, "USR1:2s,USR2:2s,TERM:600s", true);
    instance.admin(&["stop"]).expect(0).says("exited with code 0");
    assert_eq!(instance.wait(), 0);
    assert_eq!(instance.out.whole(), "up\nusr1\nusr2\nterm\n");
}

#[test]
fn after_the_last_signal_and_its_time_comes_kill() {
    let home = Home::new();
    let instance = witness(&home, "USR1:2s,TERM:2s", false);
    instance.admin(&["stop"]).expect(5).says("killed by SIGKILL");
    assert_eq!(instance.wait(), 5);
    assert_eq!(instance.out.whole(), "up\nusr1\nterm\n");
}

#[test]
fn a_shorter_grace_period_is_for_the_later_signals_first() {
    let home = Home::new();
    let instance = witness(&home, "USR1:600s,USR2:600s,TERM:600s", true);
    let stop = instance.admin_begins(&["stop"]);
    instance.out.wait_for("usr1");
    instance.admin(&["grace", "900"]).expect(0);
    instance.out.wait_for("usr2");
    instance.admin(&["grace", "500"]).expect(0);
    stop.end().expect(0);
    assert_eq!(instance.out.whole(), "up\nusr1\nusr2\nterm\n");
    let instance = witness(&home, "USR1:600s,USR2:600s,TERM:600s", true);
    instance.admin(&["stop", "--grace", "300"]).expect(0);
    assert_eq!(instance.out.whole(), "up\nterm\n");
}

#[test]
fn the_times_of_the_signals_are_the_grace_period_and_there_is_only_one() {
    let home = Home::new();
    let options = ["--stop-signal", "QUIT:20s,TERM:5s", "--grace", "3"];
    home.run(home.exec_command(&options, &["true"])).expect(2).says("leave out \"grace\" or the first time");
    let instance = home.exec(&["--stop-signal", "QUIT:20s,TERM:5s"], &["sleep", "600"]);
    instance.signal(SIGTERM);
    instance.err.wait_for("grace period 25 s");
    assert_eq!(instance.wait(), 0);
    let instance = home.exec(&["--stop-signal", "QUIT,TERM:5s", "--grace", "60"], &["sleep", "600"]);
    instance.signal(SIGTERM);
    instance.err.wait_for("grace period 60 s");
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_real_time_signal_can_ask_a_program_to_end() {
    for signal in ["RTMIN+3", "SIGRTMAX-2", "40"] {
        let home = Home::new();
        let instance = home.exec(&["--stop-signal", signal, "--grace", HUGE], &["sleep", "600"]);
        instance.admin(&["stop"]).expect(0).says("exited on SIGRTMIN+");
        assert_eq!(instance.wait(), 0);
    }
}

#[test]
fn an_exit_code_that_is_a_success_is_no_crash() {
    for (codes, script, wanted) in
        [("143,3", "exit 3", 0), ("143", "kill -TERM $$", 0), ("143", "exit 143", 0), ("0", "exit 0", 0)]
    {
        let home = Home::new();
        let options = ["--success-exit", codes, "--restart", "on-failure"];
        let ended = home.run(home.exec_command(&options, &sh(script))).expect(wanted);
        assert!(!ended.err.contains("crashed") && !ended.err.contains("starting generation"), "{ended}");
    }
    let home = Home::new();
    let options = ["--success-exit", "3", "--max-restarts", "0"];
    home.run(home.exec_command(&options, &sh("exit 4"))).expect(9).says("crashed");
}

#[test]
fn an_exit_code_that_is_a_success_since_a_restart_is_one_for_the_supervisor_too() {
    let home = Home::new();
    let (config, end) = (home.directory().join("app.json"), home.directory().join("end"));
    let configure = |more: &str| {
        let script = format!("while [ ! -e {} ]; do sleep 0.05; done; exit 3", end.display());
        fs::write(&config, format!(r#"{{ "program": ["sh", "-c", "{script}"]{more} }}"#)).unwrap();
    };
    configure("");
    let instance = home.exec(&["--config", config.to_str().unwrap(), "--grace", HUGE], &[]);
    configure(r#", "success-exit": "3""#);
    instance.admin(&["restart"]).expect(0);
    fs::write(&end, "").unwrap();
    assert_eq!(instance.wait(), 0);
}

#[test]
fn the_exit_code_is_that_of_the_program_that_ended_by_itself_though_another_one_ends_later() {
    let home = Home::new();
    let place = |name| home.directory().join(name);
    let awaits = |name| format!("while [ ! -e {} ]; do sleep 0.05; done", place(name).display());
    let script = format!(
        "if [ -e {} ]; then {}; exit 3; fi; trap '{}; exit 0' TERM; while :; do sleep 0.05; done",
        place("second").display(),
        awaits("crash"),
        awaits("release")
    );
    let options = ["--listen", &free_port().to_string(), "--ready", "0.1", "--restart", "never", "--grace", HUGE];
    let instance = home.exec(&options, &sh(&script));
    fs::write(place("second"), "").unwrap();
    let restart = instance.admin_begins(&["restart"]);
    instance.err.wait_for("generation 1 draining");
    fs::write(place("crash"), "").unwrap();
    instance.err.wait_for("the server ended: it exited with code 3");
    fs::write(place("release"), "").unwrap();
    restart.end();
    assert_eq!(instance.wait(), 3);
}

/// They arrive together at a process that could not receive them before.
#[test]
fn a_hangup_that_comes_with_a_signal_for_the_program_restarts_it() {
    let home = Home::new();
    let script = "trap 'echo usr1' USR1; echo up; while :; do sleep 0.02; done";
    let instance = home.exec(&["--on-hup", "restart", "--grace", "0"], &sh(script));
    instance.out.wait_for("up");
    for signal in [SIGSTOP, SIGUSR1, SIGHUP, SIGCONT] {
        instance.signal(signal);
    }
    eventually("it is restarted", || instance.status()["generation"] == 2);
    instance.signal(SIGTERM);
    assert_eq!(instance.wait(), 5);
}

fn limit_of(process: u32) -> String {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    line.split_whitespace().nth(3).unwrap().to_owned()
}

/// `select` cannot handle descriptors above 1023, so a program gets the limit that it would have without a supervisor.
#[test]
fn own_servers_use_all_descriptors_that_there_are_and_programs_get_what_they_would_have() {
    let home = Home::new();
    let by = ["sh", "-c", "ulimit -S -n 64; exec \"$@\"", "sh"];
    let instance = home.start_by(home.supervisor_by(&by, &["echo", "--grace", HUGE]));
    let mut clients: Vec<_> = (0..100).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(|client| client.greet());
    assert_ne!(limit_of(instance.pid), "64");
    let exec = home.exec_command(&["--name", &home.another("exec")], &sh("ulimit -S -n; exec sleep 600"));
    let mut command = home.program(by[0]);
    command.args(&by[1..]).arg(exec.get_program()).args(exec.get_args());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let exec = home.spawn(command);
    exec.out.wait_for("64");
    exec.signal(SIGTERM);
    assert_eq!(exec.wait(), 0);
}

#[test]
fn a_signal_from_admin_cli_is_for_the_program_alone() {
    let home = Home::new();
    let script = "trap 'echo hup' HUP; trap 'echo usr1' USR1; echo up; while :; do sleep 0.02; done";
    let instance = home.exec(&["--grace", "0"], &sh(script));
    instance.out.wait_for("up");
    instance.admin(&["signal", "HUP"]).expect(0).says("sent");
    instance.out.wait_for("hup");
    let answer = instance.admin(&["signal", "sigusr1", "--json"]).expect(0).json();
    assert_eq!((&answer["result"], &answer["signal"]), (&"signaled".into(), &10.into()));
    instance.out.wait_for("usr1");
    instance.admin(&["signal", "DANCE"]).expect(2).says("say a signal");
    instance.err.wait_for("sent SIGHUP to the program");
    assert!(instance.is_running());
}

/// `admin-cli` knows all signals; other clients of the socket may not.
#[test]
fn a_signal_that_there_is_not_is_refused_and_not_reported_as_sent() {
    let home = Home::new();
    let instance = home.exec(&[], &sh("exec sleep 600"));
    for signal in [-5, 0, 32, 9999] {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        writeln!(stream, r#"{{"v":1,"request":"signal","signal":{signal}}}"#).unwrap();
        let answer: Value = serde_json::from_reader(stream).unwrap();
        assert_eq!(answer["code"], "bad_request", "{signal}: {answer}");
    }
    assert!(!instance.err.so_far().contains("sent "), "{}", instance.err.so_far());
}

#[test]
fn a_signal_for_a_server_without_a_program_is_refused() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    instance.admin(&["signal", "HUP"]).expect(1).says("there is no program to signal");
    assert!(instance.is_running());
}
