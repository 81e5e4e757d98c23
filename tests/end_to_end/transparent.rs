//! `supervisor exec` in front of a program as if it were not there: how the program ends, and signals meant for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::exec::{assert_leaves_nothing, sh};
use crate::support::{HUGE, Home};

/// Runs each of these scripts to its end, and returns the supervisors' exit codes, in order. Some run side by side.
fn exit_codes(scripts: &[String]) -> Vec<i32> {
    let next = AtomicUsize::new(0);
    let run = || {
        let home = Home::new();
        let mut codes = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(script) = scripts.get(number) else { return codes };
            let ended = home.run(home.exec_command(&["--restart", "never"], &sh(script)));
            assert_leaves_nothing(&home);
            codes.push((number, ended.code));
        }
    };
    let mut codes: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    codes.sort();
    codes.into_iter().map(|(_, code)| code).collect()
}

#[test]
fn each_of_the_256_exit_codes_passes_through() {
    let scripts: Vec<_> = (0..256).map(|code| format!("exit {code}")).collect();
    assert_eq!(exit_codes(&scripts), (0..256).collect::<Vec<_>>());
}

#[test]
fn an_exit_code_of_a_program_that_has_run_for_a_while_passes_through() {
    let codes = [0, 1, 2, 3, 42, 126, 127, 255];
    let scripts = codes.map(|code| format!("sleep 0.1; exit {code}"));
    assert_eq!(exit_codes(&scripts), codes);
}

#[test]
fn each_signal_that_ends_a_program_is_128_and_its_number() {
    // 32 and 33 belong to the C library. The others that are left out suspend a program, or do nothing to one that does
    // not expect them.
    let nothing = [Signal::SIGCHLD, Signal::SIGCONT, Signal::SIGURG, Signal::SIGWINCH];
    let suspends = [Signal::SIGSTOP, Signal::SIGTSTP, Signal::SIGTTIN, Signal::SIGTTOU];
    let left_out = nothing.into_iter().chain(suspends).map(|signal| signal as i32).chain([32, 33]);
    let left_out: Vec<_> = left_out.collect();
    let signals: Vec<i32> = (1..=64).filter(|signal| !left_out.contains(signal)).collect();
    let scripts: Vec<_> = signals.iter().map(|signal| format!("ulimit -c 0; kill -{signal} $$; sleep 600")).collect();
    let wanted: Vec<_> = signals.iter().map(|signal| 128 + signal).collect();
    assert_eq!(exit_codes(&scripts), wanted);
}

#[test]
fn each_signal_that_asks_nothing_of_the_supervisor_reaches_the_program() {
    let home = Home::new();
    let signals = [
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGWINCH,
        Signal::SIGCONT,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGPROF,
        Signal::SIGIO,
        Signal::SIGURG,
    ];
    // Another signal may arrive while the handler is still writing, where `print` would fail, or right before a
    // `pause`, which would then not end.
    let script = "import os, signal, sys, time
for it in sys.argv[1:]:
    signal.signal(int(it), lambda number, _: os.write(1, b'got %d\\n' % number))
print('up', flush=True)
while True: time.sleep(0.05)";
    let numbers = signals.map(|signal| (signal as i32).to_string());
    let line: Vec<&str> = ["python3", "-c", script].into_iter().chain(numbers.iter().map(String::as_str)).collect();
    let instance = home.exec(&["--grace", HUGE], &line);
    instance.out.wait_for("up");
    for signal in signals {
        instance.signal(signal);
        instance.out.wait_for(&format!("got {}", signal as i32));
    }
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    // The guardian passes them on, and no other process gets one.
    assert_eq!(instance.out.whole().matches("got").count(), signals.len());
    assert_leaves_nothing(&home);
}

#[test]
fn the_code_of_a_program_that_ends_before_it_is_ready_passes_through_only_without_restarts() {
    let home = Home::new();
    for (mode, code) in [("never", 7), ("on-failure", 1), ("always", 1)] {
        let options = ["--ready", "notify", "--restart", mode];
        let ended = home.run(home.exec_command(&options, &sh("echo no database >&2; exit 7"))).expect(code);
        ended.says("it exited with code 7 before it was ready\n").says("no database\n");
        assert_leaves_nothing(&home);
    }
}
