//! The evidence that a program under `supervisor exec` is ready, and what becomes of one that is not.

use std::fs;
use std::net::TcpListener;
use std::process::Stdio;

use nix::sys::signal::Signal;

use crate::exec::{Clients, SERVER, assert_leaves_nothing, by_tcp, file, sh};
use crate::support::{Client, HUGE, Home, Instance, Process, eventually, free_port};

fn evidence(instance: &Instance) -> String {
    instance.status()["evidence"].as_str().unwrap_or_default().to_owned()
}

/// On a very busy machine a program may need more than the second after which it counts as ready anyway.
fn be_fast(instance: &Instance) {
    while evidence(instance) == "it has run for 1 s" {
        instance.admin(&["restart"]).expect(0);
    }
}

/// Listens on this port after a while, in a process that it has started.
fn listens_late(port: u16) -> String {
    format!(
        "import os, socket, time
time.sleep(0.2)
if os.fork():
    os.wait()
listener = socket.create_server(('127.0.0.1', {port}))
time.sleep(600)"
    )
}

#[test]
fn a_program_is_ready_as_soon_as_one_of_its_processes_listens() {
    let home = Home::new();
    let port = free_port();
    let instance = home.exec(&["--grace", HUGE], &["python3", "-c", &listens_late(port)]);
    be_fast(&instance);
    // At once: no second attempt is needed.
    Client::try_connect(([127, 0, 0, 1], port).into()).unwrap();
    assert_eq!(evidence(&instance), format!("it listens on 127.0.0.1:{port}"));
    instance.admin(&["status"]).expect(0).says(&format!("ready        it listens on 127.0.0.1:{port}"));
    instance.err.wait_for(&format!(" is ready: it listens on 127.0.0.1:{port}"));
}

#[test]
fn a_unix_socket_of_its_own_makes_a_program_ready_too() {
    let home = Home::new();
    let path = home.directory().join("own.sock");
    let script = format!(
        "import socket, time
import os
if os.path.exists('{0}'): os.remove('{0}')
listener = socket.socket(socket.AF_UNIX)
listener.bind('{0}')
listener.listen()
time.sleep(600)",
        path.display()
    );
    let instance = home.exec(&["--grace", HUGE], &["python3", "-c", &script]);
    be_fast(&instance);
    assert_eq!(evidence(&instance), format!("it listens on {}", path.display()));
}

/// Neither a socket of ours, nor one that does not listen, nor one of another program is evidence.
#[test]
fn a_program_that_does_not_listen_is_ready_when_it_has_run_for_a_second() {
    let home = Home::new();
    let (port, bound) = (free_port().to_string(), free_port());
    let _of_the_test = TcpListener::bind(("127.0.0.1", free_port())).unwrap();
    let script = format!(
        "import socket, time
passed = socket.socket(fileno=3)
bound = socket.socket()
bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
bound.bind(('127.0.0.1', {bound}))
time.sleep(600)"
    );
    let instance = home.exec(&["--listen", &port, "--grace", HUGE], &["python3", "-c", &script]);
    assert_eq!(evidence(&instance), "it has run for 1 s");
}

/// It runs for longer than an interpreter needs to start.
#[test]
fn without_ready_too_a_new_version_that_ends_soon_never_takes_over() {
    let home = Home::new();
    let works = format!("exec python3 {}", file(&home, "server.py", SERVER));
    // A shell fails soon even on a busy machine.
    let start = file(&home, "start", &works);
    let port = free_port().to_string();
    let instance = home.exec(&["--listen", &port, "--grace", HUGE], &["sh", &start]);
    let answer = || String::from_utf8(instance.client().get("/").body).unwrap();
    let old = answer();
    for (pause, reason) in [("sleep 0.1", "no database"), ("true", "no configuration")] {
        file(&home, "start", &format!("{pause}; echo {reason} >&2; exit 1"));
        let restart = instance.admin(&["restart"]).expect(1);
        restart.says("generation 1 keeps serving").says("it exited with code 1 before it was ready").says(reason);
        assert_eq!(answer(), old);
    }
    file(&home, "start", &works);
    instance.admin(&["restart"]).expect(0).says("generation 2 is ready: ");
    assert_ne!(answer(), old);
}

#[test]
fn a_restart_that_fails_is_a_failure_and_no_crash_of_the_policy() {
    let home = Home::new();
    let broken = home.directory().join("broken");
    let script = format!("[ -e {0} ] && {{ rm {0}; echo no database >&2; exit 3; }}; exec sleep 600", broken.display());
    let instance = home.exec(&["--max-restarts", "0", "--grace", HUGE], &sh(&script));
    for generation in 2..5 {
        fs::write(&broken, "").unwrap();
        instance.admin(&["restart"]).expect(1).says("it exited with code 3 before it was ready").says("no database");
        eventually("the policy has started it again", || {
            let status = instance.status();
            status["state"] == "serving" && status["generation"] == generation
        });
    }
    assert_eq!(instance.status()["crashes"], 0);
}

/// It may already be doing its work.
#[test]
fn a_program_that_does_not_have_to_show_anything_is_asked_to_end_from_its_first_moment_on() {
    for _ in 0..5 {
        let home = Home::new();
        let process = home.spawn(home.exec_command(
            &["--grace", HUGE],
            &sh("trap 'sleep 0.2; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done"),
        ));
        process.out.wait_for("up");
        process.signal(Signal::SIGTERM);
        assert_eq!(process.wait(), 0, "{}", process.err.whole());
        assert_eq!(process.out.whole(), "up\nsaved\n");
        assert_leaves_nothing(&home);
    }
}

#[test]
fn always_means_always() {
    let home = Home::new();
    let options = ["--restart", "always", "--max-restarts", "0", "--log", "json"];
    let process = home.spawn(home.exec_command(&options, &sh("echo run; exit $(( $(date +%N) % 2 ))")));
    eventually("it was started four times", || process.out.so_far().lines().count() > 3);
    process.signal(Signal::SIGTERM);
    assert_eq!(process.wait(), 0, "{}", process.err.whole());
}

/// Has the port, and does not belong to the program.
fn stranger(home: &Home, port: u16) -> Process {
    let mut command = home.program("python3");
    command.args([
        "-c",
        &format!("{LISTEN}\nprint('up', flush=True)\ntime.sleep(600)").replace("PORT", &port.to_string()),
    ]);
    command.stdout(Stdio::piped());
    let stranger = home.spawn(command);
    stranger.out.wait_for("up");
    stranger
}

const LISTEN: &str = "import socket, time\nlistener = socket.create_server(('127.0.0.1', PORT))";

#[test]
fn a_program_that_ends_at_once_is_never_called_ready() {
    let home = Home::new();
    for options in [&[][..], &["--listen", "127.0.0.1:0"]] {
        let options = [&["--restart", "never"], options].concat();
        let ended = home.run(home.exec_command(&options, &sh("exit 3"))).expect(3);
        ended.says("generation 1 crashed: it exited with code 3");
        assert!(!ended.err.contains("is ready"), "{ended}");
    }
}

#[test]
fn a_program_that_binds_the_address_that_the_supervisor_holds_for_it_crashes_with_a_hint() {
    let home = Home::new();
    let port = free_port();
    let script = LISTEN.replace("PORT", &port.to_string());
    let options = ["--listen", &port.to_string(), "--restart", "never"];
    let ended = home.run(home.exec_command(&options, &["python3", "-c", &script])).expect(1);
    ended.says(&format!("the supervisor holds 127.0.0.1:{port} for the program: does it take passed sockets?"));
}

#[test]
fn an_answer_of_another_process_does_not_make_a_program_ready() {
    let home = Home::new();
    let port = free_port();
    let stranger = stranger(&home, port);
    let taken = format!("port {port} is taken by python3 (pid {})", stranger.pid);
    let ready = format!("connect={port}");
    let options = ["--ready", &ready, "--ready-within", "8"];
    // One that cannot get the port, one that does not say so, and one that never asks for it.
    let listens = LISTEN.replace("PORT", &port.to_string());
    let quiet = format!("import os, sys\nsys.stderr = open(os.devnull, 'w')\n{listens}");
    for (script, end) in [
        (&listens[..], "it exited with code 1 before it was ready"),
        (&quiet, "it exited with code 1 before it was ready"),
        ("import time\ntime.sleep(600)", "it was not ready within 8 s"),
    ] {
        let ended = home.run(home.exec_command(&options, &["python3", "-c", script])).expect(1);
        ended.says(&format!("{end}: {taken}"));
        assert!(!ended.err.contains("running (pid"), "{ended}");
    }
    stranger.kill();
    // It may have the port when that is free again.
    let instance =
        home.exec(&["--ready", &ready, "--grace", HUGE], &["python3", "-c", &format!("{listens}\ntime.sleep(600)")]);
    assert_eq!(evidence(&instance), format!("it answers on 127.0.0.1:{port}"));
}

/// Only the program is at fault: the supervisor holds the socket for it.
#[test]
fn of_a_program_that_ends_before_it_serves_the_supervisor_is_not_named_as_what_is_in_its_way() {
    let home = Home::new();
    let port = free_port();
    let url = format!("http=http://127.0.0.1:{port}/");
    for (script, within, reason) in
        [("exit 3", HUGE, "it exited with code 3 before it was ready"), ("exec sleep 600", "500ms", "was not ready")]
    {
        let port = port.to_string();
        // The first start is not repeated, whatever the crash policy is.
        let options = ["--listen", &port, "--ready", &url, "--ready-within", within, "--restart", "always"];
        let ended = home.run(home.exec_command(&options, &sh(script))).expect(1);
        ended.says(reason);
        assert!(!ended.err.contains("taken by"), "{ended}");
    }
}

#[test]
fn a_program_that_ends_while_it_is_probed_has_ended_though_the_time_is_over_then() {
    let home = Home::new();
    let options = ["--ready", "exec=sleep 3; false", "--ready-within", "500ms"];
    let ended = home.run(home.exec_command(&options, &sh("sleep 0.2; exit 3"))).expect(1);
    ended.says("it exited with code 3 before it was ready");
}

#[test]
fn a_unix_socket_answers_for_its_program_by_any_path() {
    let home = Home::new();
    let link = home.directory().join("link");
    std::os::unix::fs::symlink(home.directory(), &link).unwrap();
    let script = format!(
        "import os, socket, time
os.chdir('{}')
listener = socket.socket(socket.AF_UNIX)
listener.bind('own.sock')
listener.listen()
time.sleep(600)",
        home.directory().display()
    );
    let path = link.join("own.sock");
    let ready = format!("connect={}", path.display());
    let instance =
        home.exec(&["--ready", &ready, "--ready-within", HUGE, "--grace", HUGE], &["python3", "-c", &script]);
    assert_eq!(evidence(&instance), format!("it answers on {}", path.display()));
}

/// A server that a restart replaces with the current `server.py`, which has to prove itself for a while.
fn overlapping(home: &Home, overlap: &str) -> Instance {
    let script = file(home, "server.py", SERVER);
    let port = free_port().to_string();
    let options = ["--listen", &port, "--ready", "notify", "--overlap", overlap, "--grace", HUGE];
    home.exec(&options, &["python3", &script])
}

/// Reports that it is ready, but nothing else works.
const BROKEN: &str = "
import os, socket, sys, time
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
time.sleep(2)
sys.exit('no database')
";

#[test]
fn a_new_version_that_exits_within_the_overlap_is_withdrawn_and_the_old_one_serves_throughout() {
    let home = Home::new();
    let instance = overlapping(&home, HUGE);
    let clients = Clients::begin(by_tcp(&instance), "/");
    clients.go_on(5);
    file(&home, "server.py", BROKEN);
    for withdrawn in [2, 3] {
        let restart = instance.admin(&["restart"]).expect(1);
        restart
            .says(&format!("generation 1 keeps serving: generation {withdrawn} was withdrawn: it exited with code 1"));
        restart.says("no database");
        clients.go_on(5);
    }
    let (refused, lost) = clients.end();
    assert!(refused.is_empty() && lost.is_empty(), "{refused:?}, {lost:?}");
    let status = instance.status();
    assert_eq!((&status["generation"], &status["crashes"]), (&1.into(), &0.into()), "{status}");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn a_new_version_serves_beside_the_old_one_for_the_overlap_and_then_alone() {
    let home = Home::new();
    let instance = overlapping(&home, "0.5");
    let clients = Clients::begin(by_tcp(&instance), "/");
    for generation in 2..5 {
        clients.go_on(5);
        instance.admin(&["restart"]).expect(0).says(&format!("generation {generation} is ready: "));
    }
    let (refused, lost) = clients.end();
    assert!(refused.is_empty() && lost.is_empty(), "{refused:?}, {lost:?}");
    instance.err.wait_for("generation 1 draining");
    let log = instance.err.so_far();
    let beside = log.find("generation 2 serves beside generation 1 for 500 ms").unwrap();
    assert!(log.find("generation 1 draining").unwrap() > beside, "{log}");
}

#[test]
fn a_stop_and_a_crash_within_the_overlap_leave_nothing_behind() {
    for kill_old in [false, true] {
        let home = Home::new();
        let instance = overlapping(&home, HUGE);
        let old = String::from_utf8(instance.client().get("/").body).unwrap();
        let restart = instance.admin_begins(&["restart"]);
        instance.err.wait_for("generation 2 serves beside generation 1");
        if kill_old {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(old.parse().unwrap()), Signal::SIGKILL).unwrap();
            restart.end().expect(0).says("generation 2 is ready: ");
            assert_eq!(instance.client().get("/").status, 200);
            instance.admin(&["stop"]).expect(0);
        } else {
            instance.admin(&["stop"]).expect(0);
            restart.end().expect(1).says("the server is being stopped");
        }
        assert_eq!(instance.wait(), 0);
        assert_leaves_nothing(&home);
    }
}

#[test]
fn without_sockets_that_both_can_have_there_is_no_overlap() {
    let home = Home::new();
    let ended = home.run(home.exec_command(&["--overlap", "1s"], &["sleep", "600"])).expect(2);
    ended.says("\"overlap\" needs \"listen\"");
}

#[test]
fn of_a_program_that_takes_no_passed_sockets_is_warned_when_a_client_waits() {
    let home = Home::new();
    let port = free_port().to_string();
    let instance = home.exec(&["--listen", &port, "--grace", HUGE], &["sleep", "600"]);
    let _waits = instance.client();
    instance
        .err
        .wait_for(&format!("warning: no process accepts from port {port}: does the program take passed sockets?"));
    instance.admin(&["stop"]).expect(0);
    instance.assert_port_is_free();
}

#[test]
fn of_a_program_that_takes_its_clients_is_not_warned() {
    let home = Home::new();
    let instance = overlapping(&home, "0");
    // Those of the first seconds, and those after them.
    for until in [0, 6000, 12000] {
        eventually("time has passed", || instance.status()["uptime_ms"].as_u64().unwrap() > until);
        assert_eq!(instance.client().get("/").status, 200);
    }
    assert!(!instance.err.so_far().contains("no process accepts"), "{}", instance.err.so_far());
}
