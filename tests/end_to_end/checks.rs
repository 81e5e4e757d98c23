//! Programs that are asked whether they work: before they are ready, while they serve, and through their own reports.

use std::fs;

use crate::exec::{SERVER, assert_leaves_nothing, assert_nothing_runs, below, file, sh};
use crate::support::{HUGE, Home, Instance, eventually, free_port};

/// Answers each request with its process id, on the socket that it was passed or else on the given port. The files
/// `hang` and `slow` contain the process id of a program that accepts connections but never answers, or answers late;
/// while the file `sick` exists, each answers 503.
const ANSWERS: &str = r#"
import os, socket, sys, time
os.chdir(os.path.dirname(sys.argv[0]))
own = str(os.getpid())
def is_in(name):
    try: return open(name).read().strip() == own
    except OSError: return False
listener = socket.socket(fileno=3) if "LISTEN_FDS" in os.environ else socket.create_server(("127.0.0.1", int(sys.argv[1])))
listener.setblocking(True)
kept = []
while True:
    client, _ = listener.accept()
    if is_in("hang"):
        kept.append(client)
        continue
    # Who asks may be gone.
    try:
        client.recv(1000)
        if is_in("slow"):
            time.sleep(0.2)
        status = b"503 Service Unavailable" if os.path.exists("sick") else b"200 OK"
        client.sendall(b"HTTP/1.1 %s\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (status, len(own), own.encode()))
    except OSError:
        pass
    client.close()
"#;

fn pid_that_answers(instance: &Instance) -> String {
    String::from_utf8(instance.client().get("/").body).unwrap()
}

/// Whether the log contains this.
fn log_says(instance: &Instance, part: &str) -> bool {
    instance.err.so_far().contains(part)
}

#[test]
fn ready_http_waits_for_an_answer_of_2xx() {
    let home = Home::new();
    let (script, port) = (file(&home, "server.py", ANSWERS), free_port().to_string());
    let sick = file(&home, "sick", "");
    let ready = format!("http=http://127.0.0.1:{port}/health");
    let options = ["--ready", &ready, "--grace", HUGE];
    // Longer than an interpreter needs to start on a busy machine.
    let late = [&options[..], &["--ready-within", "15"]].concat();
    let ended = home.run(home.exec_command(&late, &["python3", &script, &port])).expect(1);
    ended.says("it was not ready within 15 s: it answers 503 Service Unavailable");
    fs::remove_file(sick).unwrap();
    let instance = home.exec(&options, &["python3", &script, &port]);
    let evidence = format!("it answers http://127.0.0.1:{port}/health with 200 OK");
    assert_eq!(instance.status()["evidence"], evidence.as_str());
}

/// Both generations take connections from the same socket, and only an answer of the new one counts.
#[test]
fn ready_http_counts_no_answer_of_the_old_generation() {
    let home = Home::new();
    let (script, port) = (file(&home, "server.py", ANSWERS), free_port().to_string());
    let ready = format!("http=http://127.0.0.1:{port}/");
    let config = file(&home, "config.json", r#"{"ready-within": 100}"#);
    let options = ["--listen", &port, "--ready", &ready, "--config", &config, "--grace", HUGE];
    let instance = home.exec(&options, &["python3", &script]);
    let old = pid_that_answers(&instance);
    file(&home, "config.json", r#"{"ready-within": 1}"#);
    file(&home, "server.py", "import time; time.sleep(600)");
    instance.admin(&["restart"]).expect(1).says("it was not ready within 1 s");
    assert_eq!(pid_that_answers(&instance), old);
    file(&home, "config.json", r#"{"ready-within": 100}"#);
    file(&home, "server.py", ANSWERS);
    instance.admin(&["restart"]).expect(0);
    assert_ne!(pid_that_answers(&instance), old);
}

/// Such a connection is accepted only once the request has arrived.
#[test]
fn ready_http_asks_a_server_that_accepts_no_connection_before_there_is_a_request() {
    let home = Home::new();
    let deferred = ANSWERS
        .replace("kept = []", "listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)\nkept = []")
        .replace(
            "client.recv(1000)",
            "request = client.makefile('rb')\n        while request.readline().strip(): pass",
        );
    let (script, port) = (file(&home, "server.py", &deferred), free_port().to_string());
    let ready = format!("http=http://127.0.0.1:{port}/");
    let options = ["--listen", &port, "--ready", &ready, "--ready-within", HUGE, "--grace", HUGE];
    let instance = home.exec(&options, &["python3", &script]);
    let old = pid_that_answers(&instance);
    instance.admin(&["restart"]).expect(0);
    assert_ne!(pid_that_answers(&instance), old);
}

#[test]
fn ready_exec_waits_until_a_command_succeeds() {
    let home = Home::new();
    let up = home.directory().join("up");
    let ready = format!("exec=echo asked >> {0}.asked; cat {0}", up.display());
    let script = format!("sleep 0.3; echo > {}; exec sleep 600", up.display());
    let instance = home.exec(&["--ready", &ready, "--grace", HUGE], &sh(&script));
    assert_eq!(instance.status()["evidence"], format!("`{}` succeeded", &ready[5..]).as_str());
    assert!(fs::read_to_string(format!("{}.asked", up.display())).unwrap().lines().count() > 1);
    // Its errors are passed through; its stdout is not the program's.
    instance.err.wait_for("No such file");
    assert!(instance.out.so_far().is_empty());
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_leaves_nothing(&home);
    // Longer than a shell needs to start on a busy machine.
    let options = ["--ready", "exec=echo no database >&2; exit 7", "--ready-within", "8"];
    let ended = home.run(home.exec_command(&options, &["sleep", "600"])).expect(1);
    ended.says("it was not ready within 8 s: the command exited with code 7").says("no database");
    assert_leaves_nothing(&home);
}

#[test]
fn a_program_that_hangs_is_replaced_new_one_first_and_one_that_is_slow_is_not() {
    let home = Home::new();
    let (script, port) = (file(&home, "server.py", ANSWERS), free_port().to_string());
    let check = format!("http=http://127.0.0.1:{port}/health");
    let options = [
        "--listen",
        &port,
        "--check",
        &check,
        "--check-every",
        "0.3",
        "--check-timeout",
        "3",
        "--grace",
        "0.5",
        "--log",
        "json",
    ];
    let instance = home.exec(&options, &["python3", &script]);
    let first = pid_that_answers(&instance);
    file(&home, "slow", &first);
    eventually("it was asked while it was slow", || {
        // Each answer takes longer then than a look here.
        assert_eq!(pid_that_answers(&instance), first);
        instance.status()["uptime_ms"].as_u64().unwrap() > 4000
    });
    assert!(!log_says(&instance, "unhealthy"), "{}", instance.err.so_far());
    file(&home, "hang", &first);
    eventually("another one serves", || instance.status()["generation"] == 2);
    // Until then the old one may still accept a client.
    instance.err.wait_for("generation 1 stopped in");
    assert_ne!(pid_that_answers(&instance), first);
    let log = instance.err.so_far();
    let reason = format!("generation 1 does not work: check {check} failed 3 times in a row: no answer within 3 s");
    assert!(log.contains(&reason), "{log}");
    let (ready, draining) = (log.find("generation 2 is ready").unwrap(), log.find("generation 1 draining").unwrap());
    assert!(ready < draining, "{log}");
    eventually("the restart is over", || instance.status()["state"] == "serving");
    assert_eq!(instance.status()["crashes"], 0);
}

#[test]
fn without_sockets_of_ours_a_program_that_fails_its_check_is_killed_and_started_again() {
    let home = Home::new();
    let (script, port) = (file(&home, "server.py", ANSWERS), free_port());
    let text = port.to_string();
    let check = format!("connect=127.0.0.1:{port}");
    let http = format!("http=http://127.0.0.1:{port}/");
    // On a busy machine an interpreter takes longer to begin than a program may run before it counts as ready anyway.
    let answers = ["--ready", &http, "--ready-within", HUGE];
    let is_there = ["--max-restarts", "100000"];
    for (check, ready, reason) in
        [(&http, &answers[..], "no answer within 3 s"), (&check, &is_there, "it does not listen on 127.0.0.1")]
    {
        let options = ["--check", check, "--check-every", "0.2", "--check-timeout", "3", "--check-failures", "2"];
        let options = [&options[..], ready, &["--grace", HUGE]].concat();
        let mut instance = home.exec(&options, &["python3", &script, &text]);
        instance.address = ([127, 0, 0, 1], port).into();
        if check == &http {
            file(&home, "hang", &pid_that_answers(&instance));
        } else {
            // It behaves as if it had never listened.
            file(&home, "server.py", "import time; time.sleep(600)");
            instance.admin(&["restart"]).expect(0);
        }
        let reason = format!("check {check} failed 2 times in a row: {reason}");
        eventually("it is replaced", || log_says(&instance, &format!("crashed: {reason}")));
        file(&home, "server.py", ANSWERS);
        eventually("another one serves", || {
            let status = instance.status();
            status["state"] == "serving" && status["last_end"]["reason"].as_str().unwrap().starts_with(&reason)
        });
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        assert_nothing_runs(&home);
    }
}

#[test]
fn a_program_that_fails_its_check_has_failed_though_it_then_exits_with_0() {
    let home = Home::new();
    let sick = home.directory().join("sick");
    let check = format!("exec=test ! -e {}", sick.display());
    let options = ["--check", &check, "--check-every", "0.1", "--check-failures", "1", "--grace", HUGE];
    let program = sh("trap 'exit 0' TERM; while :; do sleep 0.05; done");
    let instance = home.exec(&options, &program);
    fs::write(&sick, "").unwrap();
    eventually("it is replaced", || log_says(&instance, "crashed: check exec="));
    fs::remove_file(&sick).unwrap();
    eventually("another one serves", || {
        let status = instance.status();
        status["state"] == "serving" && status["generation"].as_u64().unwrap() > 1
    });
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    // The end of a program that did not end by itself says nothing.
    fs::write(&sick, "").unwrap();
    home.run(home.exec_command(&[&options[..], &["--restart", "never"]].concat(), &program)).expect(1);
}

#[test]
fn a_check_by_a_command_leaves_nothing_behind_when_it_hangs() {
    let home = Home::new();
    let options =
        ["--check", "exec=sleep 605", "--check-every", "0.2", "--check-timeout", "0.2", "--check-failures", "2"];
    {
        let instance = home.exec(&[&options[..], &["--grace", HUGE]].concat(), &["sleep", "600"]);
        eventually("it is replaced", || {
            log_says(&instance, "check exec=sleep 605 failed 2 times in a row: the command did not end within 200 ms")
        });
        eventually("it runs again", || instance.status()["state"] == "serving");
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        assert_leaves_nothing(&home);
    }
    let instance =
        home.exec(&["--check", "exec=sleep 605", "--check-every", "0.1", "--check-timeout", HUGE], &["sleep", "600"]);
    eventually("it is asked", || below(&home, &instance).iter().any(|(_, line)| line == "sleep 605"));
    instance.kill();
    eventually("all are gone", || home.processes().is_empty());
}

#[test]
fn a_stop_leaves_no_command_of_a_check_behind() {
    let home = Home::new();
    // So many processes do not end in an instant.
    let check = "exec=trap '' TERM; for _ in $(seq 200); do sleep 605 & done; sleep 606";
    let options = ["--check", check, "--check-every", "0.1", "--check-timeout", HUGE, "--grace", HUGE];
    let instance = home.exec(&options, &["sleep", "600"]);
    eventually("it is asked", || below(&home, &instance).iter().any(|(_, line)| line == "sleep 606"));
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn a_new_version_that_fails_its_check_within_the_overlap_is_withdrawn() {
    let home = Home::new();
    let (script, port) = (file(&home, "server.py", ANSWERS), free_port().to_string());
    let check = format!("exec=grep -q healthy {}", home.directory().join("config.json").display());
    let config = file(&home, "config.json", r#"{"check-timeout": 5, "grace": 600, "name": "healthy"}"#);
    let checks = ["--check", &check, "--check-every", "0.2", "--check-failures", "30"];
    let options = [&["--listen", &port, "--overlap", HUGE, "--config", &config], &checks[..]].concat();
    let instance = home.exec(&options, &["python3", &script]);
    let old = pid_that_answers(&instance);
    // The old generation has the same check: it would be replaced if the next one did not exist by then.
    file(&home, "config.json", r#"{"check-timeout": 5, "grace": 600}"#);
    let restart = instance.admin(&["restart"]).expect(1);
    restart.says("generation 2 was withdrawn: check exec=").says("the command exited with code 1");
    file(&home, "config.json", r#"{"check-timeout": 5, "grace": 600, "name": "healthy"}"#);
    // Until then it may still accept a client.
    instance.err.wait_for("generation 2 stopped in");
    assert_eq!(pid_that_answers(&instance), old);
}

/// The old one answers every request that goes to both.
#[test]
fn a_new_version_of_which_no_check_has_had_an_answer_does_not_take_over() {
    let home = Home::new();
    let (script, port) = (file(&home, "server.py", ANSWERS), free_port().to_string());
    let check = format!("http=http://127.0.0.1:{port}/");
    let config = file(&home, "config.json", "{}");
    let options = [
        "--listen",
        &port,
        "--ready",
        "1ms",
        "--check",
        &check,
        "--check-timeout",
        HUGE,
        "--config",
        &config,
        "--grace",
        HUGE,
    ];
    let instance = home.exec(&options, &["python3", &script]);
    let old = pid_that_answers(&instance);
    file(&home, "config.json", r#"{"overlap": 20}"#);
    file(&home, "server.py", "import sys, time; print('never accepts', file=sys.stderr); time.sleep(600)");
    let restart = instance.admin(&["restart"]).expect(1);
    restart
        .says("generation 2 was withdrawn: check http=")
        .says("has had no good answer from it")
        .says("never accepts");
    assert_eq!(pid_that_answers(&instance), old);
    // A version that answers does. On a busy machine it needs time to start, and to accept a connection before the old
    // one does.
    file(&home, "config.json", r#"{"overlap": 15}"#);
    file(&home, "server.py", ANSWERS);
    instance.admin(&["restart"]).expect(0);
    assert_ne!(pid_that_answers(&instance), old);
}

/// Reports that it is ready and works, until a file says otherwise.
const SAYS: &str = r#"
import os, socket, sys, time
def say(*words):
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto("\n".join(words).encode(), os.environ["NOTIFY_SOCKET"])
print("every", os.environ.get("WATCHDOG_USEC"), flush=True)
say("READY=1", "STATUS=warming up")
while not os.path.exists(sys.argv[1]):
    say("WATCHDOG=1")
    time.sleep(0.05)
os.remove(sys.argv[1])
say(*sys.argv[2:])
time.sleep(600)
"#;

#[test]
fn a_program_that_says_no_more_that_it_works_is_replaced() {
    let home = Home::new();
    let script = file(&home, "says.py", SAYS);
    for (last, reason) in [("STATUS=", "no WATCHDOG=1 for 1 s"), ("WATCHDOG=trigger", "it sent WATCHDOG=trigger")] {
        let quiet = home.directory().join("quiet");
        let options = ["--ready", "notify", "--check", "notify", "--check-every", "0.5", "--check-failures", "2"];
        let program = ["python3", &script, quiet.to_str().unwrap(), last];
        let instance = home.exec(&[&options[..], &["--grace", HUGE]].concat(), &program);
        instance.out.wait_for("every 500000");
        assert_eq!(instance.status()["says"], "warming up");
        instance.admin(&["status"]).expect(0).says("status       warming up").says("ready        it sent READY=1");
        fs::write(&quiet, "").unwrap();
        eventually("it is replaced", || log_says(&instance, &format!("crashed: check notify failed: {reason}")));
        eventually("the next one serves", || {
            let status = instance.status();
            status["state"] == "serving" && status["generation"].as_u64().unwrap() > 1
        });
    }
}

#[test]
fn a_program_that_stops_is_checked_no_more_and_says_so() {
    let home = Home::new();
    let script = file(&home, "says.py", SAYS);
    let quiet = file(&home, "quiet", "");
    let options = ["--ready", "notify", "--check", "notify", "--check-every", "2", "--check-failures", "1"];
    let program = ["python3", &script, &quiet, "STATUS=saving", "STOPPING=1"];
    let instance = home.exec(&[&options[..], &["--grace", HUGE]].concat(), &program);
    eventually("it has said so", || instance.status()["says"] == "stopping: saving");
    eventually("a while has passed", || instance.status()["uptime_ms"].as_u64().unwrap() > 6000);
    assert_eq!(instance.status()["generation"], 1);
}

#[test]
fn a_command_that_still_asks_the_last_program_does_not_hold_up_the_next_one() {
    let home = Home::new();
    let asked = home.directory().join("asked");
    let check = format!("exec=touch {}; exec sleep 600", asked.display());
    let options = ["--check", &check, "--check-every", "0.1", "--check-timeout", "600", "--grace", HUGE];
    let instance = home.exec(&options, &["sleep", "600"]);
    eventually("it is asked", || asked.exists());
    instance.admin(&["restart"]).expect(0);
    assert_eq!(instance.status()["generation"], 2);
}

/// A process of another program knows the name of the socket, and even has the same user.
#[test]
fn only_the_programs_own_processes_say_how_it_does() {
    let home = Home::new();
    let name = home.directory().join("name");
    let script = format!("echo $NOTIFY_SOCKET > {0}.new; mv {0}.new {0}; exec sleep 600", name.display());
    let process = home.spawn(home.exec_command(&["--ready", "notify", "--ready-within", HUGE], &sh(&script)));
    eventually("its socket is known", || name.exists());
    let socket = fs::read_to_string(&name).unwrap();
    let stranger = std::os::unix::net::UnixDatagram::unbound().unwrap();
    stranger.send_to(b"READY=1\nSTATUS=mine", socket.trim_end()).unwrap();
    let pid = std::process::id();
    process.err.wait_for(&format!("a message on NOTIFY_SOCKET was ignored: pid {pid} is no process of the program"));
    home.admin(&["--name", home.name(), "status"]).expect(0).says("is starting");
    // More than the queue holds: most of these have been read when the last one has been sent.
    for _ in 0..1000 {
        stranger.send_to(b"READY=1", socket.trim_end()).unwrap();
    }
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    process.wait();
    assert_eq!(process.err.whole().matches("was ignored").count(), 1, "a stranger fills the log");
}

#[test]
fn a_program_says_that_it_is_ready_whatever_tmpdir_is() {
    let home = Home::new();
    let script = r#"
import os, socket, time
name = os.environ["NOTIFY_SOCKET"]
assert os.path.isabs(name), name
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", name)
time.sleep(600)
"#;
    let script = file(&home, "ready.py", script);
    let start = |temporary: &str| {
        let options = ["--ready", "notify", "--ready-within", HUGE, "--grace", HUGE];
        let mut command = home.exec_command(&options, &["python3", &script]);
        command.env("TMPDIR", temporary);
        home.exec_by(command)
    };
    let instance = start("");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    let temporary = home.directory().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let instance = start(temporary.to_str().unwrap());
    fs::remove_dir_all(&temporary).unwrap();
    instance.admin(&["restart"]).expect(0);
}

/// A helper that has exited when its message is read could no longer be identified, so `systemd-notify` waits.
#[test]
fn a_helper_of_the_program_that_waits_for_the_barrier_says_that_it_is_ready() {
    let home = Home::new();
    let helper = r#"
import array, os, select, socket
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
notify.send(b"READY=1")
ours, theirs = os.pipe()
notify.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs]))])
os.close(theirs)
wait = select.poll()
wait.register(ours, select.POLLHUP)
assert wait.poll(30000)
print("passed", flush=True)
"#;
    let helper = file(&home, "helper.py", helper);
    let instance =
        home.exec(&["--ready", "notify", "--grace", HUGE], &sh(&format!("python3 {helper}; exec sleep 600")));
    instance.out.wait_for("passed");
    assert_eq!(instance.status()["evidence"], "it sent READY=1");
}

/// Nothing shows afterwards which generation accepted a connection. But here there is only one.
#[test]
fn a_program_that_closes_each_connection_at_once_does_not_work() {
    let home = Home::new();
    let closes = "import socket\nlistener = socket.socket(fileno=3)\nlistener.setblocking(True)\n\
                  while True: listener.accept()[0].close()";
    let port = free_port().to_string();
    let check = format!("http=http://127.0.0.1:{port}/");
    let options = ["--listen", &port, "--check", &check, "--check-every", "0.1", "--check-failures", "20"];
    let instance = home.exec(&[&options[..], &["--grace", HUGE]].concat(), &["python3", "-c", closes]);
    instance.err.wait_for(&format!("does not work: check {check} failed 20 times in a row"));
}

#[test]
fn a_check_that_can_show_nothing_is_refused() {
    let home = Home::new();
    let port = free_port().to_string();
    let connect = format!("connect={port}");
    for (options, reason) in [
        (&["--listen", &port, "--check", &connect][..], "the supervisor itself holds that socket"),
        // Each of these takes the connections to that one.
        (&["--listen", &format!("0.0.0.0:{port}"), "--ready", &connect], "the supervisor itself holds that socket"),
        (&["--listen", &format!("[::]:{port}"), "--check", &connect], "the supervisor itself holds that socket"),
        (&["--check", "http=https://127.0.0.1/"], "TLS is not supported"),
        (&["--check", "https=127.0.0.1"], "say notify, connect=8000, http="),
        (&["--check", &connect, "--check-failures", "0"], "say 1 or more"),
    ] {
        let ended = home.run(home.exec_command(options, &["python3", "-c", SERVER]));
        assert!([1, 2].contains(&ended.code), "{ended}");
        ended.says(reason);
    }
}
