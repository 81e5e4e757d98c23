//! Programs under `supervisor exec`: unmodified, without a line about master control.

use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use nix::sys::signal::Signal;

use crate::pty::Pty;
use crate::signals::DEAF;
use crate::support::{
    ADMIN_CLI, Client, HUGE, Home, Instance, Process, SUPERVISOR, can_run, eventually, free_port, write_script,
};

/// Serves one request per connection on the passed socket. A request in progress is answered before it ends.
pub const SERVER: &str = r#"
import os, select, signal, socket, sys
assert os.environ["LISTEN_FDS"] == "1" and os.environ["LISTEN_PID"] == str(os.getpid()), dict(os.environ)
listener = socket.socket(fileno=3)
listener.setblocking(False)
asleep, wake = socket.socketpair()
wake.setblocking(False)
signal.set_wakeup_fd(wake.fileno())
ending = []
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
def say_ready():
    if "NOTIFY_SOCKET" in os.environ:
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
say_ready()
while not ending:
    select.select([listener, asleep], [], [])
    if ending:
        break
    try:
        client, _ = listener.accept()
    except BlockingIOError:
        continue
    client.setblocking(True)
    client.recv(1000)
    body = str(os.getpid()).encode()
    client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
    client.shutdown(socket.SHUT_WR)
    client.recv(1000)
    client.close()
"#;

/// Writes a file into the test's directory.
pub fn file(home: &Home, name: &str, text: &str) -> String {
    let path = home.directory().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A directory with a small file.
fn files(home: &Home) -> PathBuf {
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("small"), "small\n").unwrap();
    files
}

pub fn sh(script: &str) -> [&str; 3] {
    ["sh", "-c", script]
}

/// Python's own file server. Returns when it answers.
fn http_server(home: &Home, options: &[&str]) -> Instance {
    let port = free_port();
    let (text, files) = (port.to_string(), files(home));
    let line = ["python3", "-m", "http.server", &text, "--bind", "127.0.0.1", "--directory", files.to_str().unwrap()];
    let mut command = home.exec_command(&[options, &["--console", "stdin"]].concat(), &line);
    command.stdin(Stdio::piped());
    let mut instance = home.exec_by(command);
    instance.address = ([127, 0, 0, 1], port).into();
    eventually_answers(&instance);
    instance
}

fn eventually_answers(instance: &Instance) {
    eventually("it takes connections", || Client::try_connect(instance.address).is_ok());
    let answer = instance.client().get("/small");
    assert_eq!((answer.status, answer.body), (200, b"small\n".to_vec()));
}

/// Everything that runs except the supervisor itself.
pub fn below(home: &Home, supervisor: &Process) -> Vec<(u32, String)> {
    home.processes().into_iter().filter(|(pid, _)| *pid != supervisor.pid).collect()
}

#[track_caller]
pub fn assert_nothing_runs(home: &Home) {
    assert_eq!(home.processes(), []);
}

/// The supervisor ends successfully, and nothing is left.
fn assert_ends_well(home: &Home, instance: &Instance) {
    assert_eq!(instance.wait(), 0, "{}", instance.err.so_far());
    assert_nothing_runs(home);
    instance.assert_port_is_free();
    let log = instance.log();
    assert!(!log.contains("Traceback") && log.contains("stopped in"), "{log}");
}

#[test]
fn a_program_with_a_very_long_command_line_can_be_looked_at() {
    let home = Home::new();
    let long = "x".repeat(100_000);
    let instance = home.exec(&[], &["sh", "-c", "exec sleep 1000", &long]);
    let program = instance.status()["program"].as_str().unwrap().to_owned();
    assert!(program.starts_with("sh -c exec sleep 1000 xxx") && program.ends_with('…'), "{program}");
    home.admin(&["list"]).expect(0).says("serving");
    instance.admin(&["stop"]).expect(0);
}

#[test]
fn python_under_exec_answers_and_enter_ends_it() {
    let home = Home::new();
    let instance = http_server(&home, &["--grace", HUGE]);
    instance.write("\n");
    assert_ends_well(&home, &instance);
}

#[test]
fn python_under_exec_answers_and_sigint_ends_it() {
    let home = Home::new();
    let instance = http_server(&home, &["--grace", HUGE]);
    instance.signal(Signal::SIGINT);
    assert_ends_well(&home, &instance);
}

#[test]
fn python_under_exec_answers_and_sigterm_ends_it() {
    let home = Home::new();
    let instance = http_server(&home, &["--grace", HUGE]);
    instance.signal(Signal::SIGTERM);
    assert_ends_well(&home, &instance);
}

#[test]
fn python_under_exec_answers_and_admin_cli_ends_it() {
    let home = Home::new();
    let instance = http_server(&home, &["--grace", HUGE]);
    let stopped = instance.admin(&["stop"]).expect(0);
    assert!(below(&home, &instance).is_empty(), "{:?}", below(&home, &instance));
    instance.assert_port_is_free();
    stopped.says("stopped in ").says("exited on SIGTERM");
    assert_ends_well(&home, &instance);
}

#[test]
fn the_stop_signal_is_the_one_that_was_said() {
    for signal in ["INT", "SIGUSR2", "10"] {
        let home = Home::new();
        // Short sleeps, because a signal that arrives before one has begun is handled only when it is over.
        let script = "for it in INT TERM USR1 USR2; do trap \"echo got $it; exit 0\" $it; done; echo up
                      while :; do sleep 0.1; done";
        let exec = home.exec_command(&["--stop-signal", signal, "--grace", HUGE], &sh(script));
        // As a shell does for programs that it starts in the background.
        let mut command = home.program("sh");
        command.args(["-c", "trap '' INT QUIT; exec \"$@\"", "sh"]).arg(exec.get_program()).args(exec.get_args());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let instance = home.exec_by(command);
        instance.out.wait_for("up");
        instance.admin(&["stop"]).expect(0).says("exited with code 0");
        assert_eq!(instance.wait(), 0);
        let name = if signal == "10" { "USR1" } else { signal.trim_start_matches("SIG") };
        instance.out.wait_for(&format!("got {name}"));
        assert_nothing_runs(&home);
    }
}

#[test]
fn a_program_that_ignores_the_signal_is_killed_at_the_deadline_and_that_is_said() {
    let home = Home::new();
    let script = "trap '' TERM; echo up; while :; do sleep 600; done";
    let instance = home.exec(&["--grace", HUGE], &sh(script));
    instance.out.wait_for("up");
    eventually("it sleeps", || below(&home, &instance).iter().any(|(_, line)| line == "sleep 600"));
    let stopped = instance.admin(&["stop", "--grace", "0.2"]).expect(5);
    stopped.says("killed by SIGKILL, 2 processes had to be killed");
    assert!(below(&home, &instance).is_empty());
    assert_eq!(instance.wait(), 5);
    assert!(instance.log().contains("2 processes had to be killed"), "{}", instance.log());
    assert_nothing_runs(&home);
}

#[test]
fn of_a_program_that_ends_it_is_shown_how_long_it_has_and_nothing_of_clients() {
    let home = Home::new();
    let instance = home.exec(&["--grace", HUGE], &sh("trap '' TERM; echo trapped >&2; while :; do sleep 0.1; done"));
    instance.err.wait_for("trapped");
    let (pty, terminal) = Pty::open();
    let mut command = home.program("setsid");
    command.args(["--ctty", ADMIN_CLI, "stop"]);
    command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let stop = home.spawn(command);
    eventually("the time is shown", || pty.screen().contains(" s to go"));
    let said = [&["status"][..], &["status", "--short"], &["grace", "100"], &["stop", "--no-wait"], &["grace", "0"]];
    for said in said.map(|arguments| instance.admin(arguments).expect(0).out.replace("admin client", "")) {
        assert!(said.contains(" s to go") && !said.contains("client"), "{said}");
    }
    assert_eq!((stop.wait(), instance.wait()), (5, 5));
    assert!(!pty.screen().contains("client"), "{}", pty.screen());
    let log = instance.log().replace("admin client", "");
    assert!(log.contains("the grace period ends in 100 s") && !log.contains("client"), "{log}");
}

/// `timeout` signals the process that it started, and then the group that both are in.
#[test]
fn timeout_stops_a_program_which_ends_in_its_own_time() {
    let mut limit = 1;
    let mut rounds = 0;
    while rounds < 5 {
        let home = Home::new();
        let script = "trap 'sleep 0.2; echo saved; exit 0' TERM; echo up; while :; do sleep 0.05; done";
        let exec = home.exec_command(&["--grace", HUGE], &sh(script));
        let mut command = home.program("timeout");
        command.arg(limit.to_string()).arg(exec.get_program()).args(exec.get_args());
        let ended = home.run(command).expect(124);
        if ended.out.is_empty() && limit < 60 {
            // A busy machine needs longer to start.
            limit *= 2;
            continue;
        }
        assert_eq!(ended.out, "up\nsaved\n", "{ended}");
        rounds += 1;
    }
}

#[test]
fn without_a_deadline_a_program_ends_when_it_is_done() {
    let home = Home::new();
    let done = home.directory().join("done");
    let script =
        format!("trap 'echo told' TERM; echo up; while [ ! -e {} ]; do sleep 0.05; done; exit 0", done.display());
    let instance = home.exec(&["--grace", "infinity"], &sh(&script));
    instance.out.wait_for("up");
    let stop = instance.admin_begins(&["stop"]);
    instance.out.wait_for("told");
    instance.admin(&["status"]).expect(0).says("without a deadline");
    fs::write(&done, "").unwrap();
    stop.end().expect(0);
    assert_eq!(instance.wait(), 0);
}

/// Starts a child of the shell that sleeps, and waits until it does: a child that has not become `sleep` yet would lose
/// a signal that the shell has a handler for.
const SLEEPER: &str = "sleep 600 & until grep -q sleep /proc/$!/comm; do :; done";

#[test]
fn a_second_signal_kills_what_is_left() {
    let home = Home::new();
    let instance =
        home.exec(&["--grace", HUGE], &sh(&format!("trap 'echo told' TERM; {SLEEPER}; echo up; wait; sleep 600")));
    instance.out.wait_for("up");
    instance.signal(Signal::SIGTERM);
    instance.out.wait_for("told");
    instance.signal_until_it_ends(Signal::SIGTERM);
    assert_eq!(instance.wait(), 5);
    assert_nothing_runs(&home);
}

/// Starts children that have left it in every possible way.
const FAMILY: &str =
    "(sleep 601 &); setsid sleep 602 & setsid sh -c '(sleep 603 &); sleep 604' & (setsid nohup sleep 605 &)
                      python3 -c 'import os
if not os.fork():
    os.setsid()
    if not os.fork():
        os.closerange(0, 3)
        os.execvp(\"sleep\", [\"sleep\", \"606\"])' &
                      sleep 607";

fn family(home: &Home, options: &[&str]) -> Instance {
    let instance = home.exec(options, &sh(FAMILY));
    eventually("the family is complete", || sleepers(home) == 7);
    instance
}

fn sleepers(home: &Home) -> usize {
    home.processes().iter().filter(|(_, line)| line.starts_with("sleep 60")).count()
}

#[test]
fn all_that_a_program_has_started_is_gone_when_stop_returns() {
    let home = Home::new();
    let instance = family(&home, &["--grace", HUGE]);
    instance.admin(&["stop"]).expect(0);
    assert!(below(&home, &instance).is_empty(), "{:?}", below(&home, &instance));
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}

/// Each is a session of its own and a child of the one before: only the end of that makes it the child of another
/// process.
#[test]
fn a_stop_reaches_leftovers_of_leftovers_without_waiting_for_the_deadline() {
    let home = Home::new();
    let script = "setsid sh -c 'setsid sh -c \"setsid sleep 601 & wait\" & wait' & wait";
    let instance = home.exec(&["--grace", HUGE], &sh(script));
    eventually("the family is complete", || sleepers(&home) == 1);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}

#[test]
fn what_a_program_leaves_behind_is_told_only_once() {
    let home = Home::new();
    let said = home.directory().join("said");
    let script = format!(
        "import os, signal, time
signal.signal(signal.SIGTERM, lambda *_: open('{0}', 'a').write('told\\n'))
open('{0}', 'a').write('up\\n')
while not os.path.exists('{0}.end'): time.sleep(0.01)",
        said.display()
    );
    let script = file(&home, "leftover.py", &script);
    // Some processes end at once, and each of their ends is a reason to look again.
    let line = format!("setsid sh -c 'python3 {script} & sleep 602 & wait' & setsid sleep 603 & sleep 604 & wait");
    let instance = home.exec(&["--grace", HUGE], &sh(&line));
    let has_said = || fs::read_to_string(&said).unwrap_or_default();
    eventually("the family is complete", || sleepers(&home) == 3 && has_said() == "up\n");
    let stop = instance.admin_begins(&["stop"]);
    eventually("the others are gone", || sleepers(&home) == 0 && has_said() != "up\n");
    eventually("only the leftover is left", || {
        let left = below(&home, &instance);
        left.iter().all(|(_, line)| line.contains("leftover.py") || line.contains(" @") || line.contains("stop"))
    });
    assert_eq!(has_said(), "up\ntold\n");
    fs::write(format!("{}.end", said.display()), "").unwrap();
    stop.end().expect(0);
    assert_eq!(instance.wait(), 0);
    assert_eq!(has_said(), "up\ntold\n");
}

#[test]
fn all_that_a_program_has_started_is_gone_when_the_supervisor_is_killed() {
    let home = Home::new();
    let instance = family(&home, &["--grace", HUGE]);
    instance.kill();
    eventually("all are gone", || home.processes().is_empty());
}

#[test]
fn all_that_a_program_has_started_is_gone_when_it_ends_by_itself() {
    let home = Home::new();
    let instance = family(&home, &["--grace", HUGE, "--restart", "never"]);
    let (program, _) = home.processes().into_iter().find(|(_, line)| line.starts_with("sh -c (sleep 601")).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(program.try_into().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(instance.wait(), 137);
    assert_nothing_runs(&home);
}

#[test]
fn a_restart_leaves_nothing_of_the_old_generation() {
    let home = Home::new();
    let instance = family(&home, &["--grace", HUGE]);
    let old = below(&home, &instance);
    instance.admin(&["restart"]).expect(0);
    let left: Vec<_> =
        below(&home, &instance).into_iter().filter(|(pid, _)| old.iter().any(|(it, _)| it == pid)).collect();
    assert!(left.is_empty(), "{left:?}");
    eventually("the next family is complete", || sleepers(&home) == 7);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

/// Neither files nor processes are left.
#[track_caller]
pub fn assert_leaves_nothing(home: &Home) {
    assert_nothing_runs(home);
    let left: Vec<_> = fs::read_dir(home.sockets()).into_iter().flatten().flatten().collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_program_that_is_not_found_or_cannot_be_run_is_127_or_126_in_one_line() {
    let home = Home::new();
    let plain = file(&home, "plain", "#!/bin/sh\n");
    let no_interpreter = home.directory().join("no-interpreter");
    write_script(&no_interpreter, "#!/no/such/interpreter\n");
    let no_interpreter = no_interpreter.to_str().unwrap();
    let directory = home.directory().to_str().unwrap();
    let missing = format!("{directory}/missing");
    for (program, code, why) in [
        ("no-such-program", 127, "not found"),
        ("sleep 1000", 127, "not found; if this is a program with its arguments, write each as a word of its own"),
        (missing.as_str(), 127, "not found"),
        (&plain, 126, "not executable"),
        (no_interpreter, 126, "interpreter"),
        (directory, 126, "is a directory"),
    ] {
        let port = free_port().to_string();
        for options in [&[][..], &["--listen", &port], &["--ready", "notify"], &["--restart", "always"]] {
            let ended = home.run(home.exec_command(options, &[program, "argument"])).expect(code);
            assert_eq!((ended.out.as_str(), ended.err.lines().count()), ("", 1), "{ended}");
            assert!(ended.err.contains(program) && ended.err.contains(why), "{ended}");
            assert_leaves_nothing(&home);
        }
    }
}

#[test]
fn a_program_gets_the_listening_socket_by_the_protocol_and_serves_from_it() {
    let home = Home::new();
    let script = file(&home, "server.py", SERVER);
    let port = free_port().to_string();
    let instance = home.exec(&["--listen", &port, "--grace", HUGE], &["python3", &script]);
    let answer = instance.client().get("/");
    let pid = String::from_utf8(answer.body).unwrap();
    assert!(below(&home, &instance).iter().any(|(it, line)| it.to_string() == pid && line.contains("server.py")));
    instance.admin(&["stop"]).expect(0).says("exited with code 0");
    instance.assert_port_is_free();
    assert_ends_well(&home, &instance);
}

#[test]
fn several_sockets_have_the_order_of_the_command_line_and_nothing_else_is_passed_on() {
    let home = Home::new();
    let (one, two) = (free_port().to_string(), free_port().to_string());
    let script = "import os, socket
print(os.environ['LISTEN_FDS'], *(socket.socket(fileno=fd).getsockname()[1] for fd in (3, 4)), flush=True)
print('open', sorted(os.listdir('/proc/self/fd'), key=int), flush=True)
print('notify', os.environ.get('NOTIFY_SOCKET'), flush=True)
import time; time.sleep(600)";
    let options = ["--listen", &one, "--listen", &two, "--grace", HUGE];
    let instance = home.exec(&options, &["python3", "-c", script]);
    instance.out.wait_for(&format!("2 {one} {two}"));
    // Python's own sockets are closed again; the fifth descriptor is that of the listing.
    let open = instance.out.wait_for("open");
    assert!(!open.contains("'6'"), "{open}");
    instance.out.wait_for("notify None");
    instance.admin(&["stop"]).expect(0);
    for port in [one, two] {
        std::net::TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    }
}

/// Connects repeatedly, with one request per connection.
pub struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: JoinHandle<(Vec<String>, Vec<String>)>,
}

impl Clients {
    pub fn begin<S: Read + Write>(connect: impl Fn() -> io::Result<S> + Send + 'static, path: &'static str) -> Clients {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (until, count) = (stop.clone(), answered.clone());
        let thread = thread::spawn(move || {
            let (mut refused, mut lost) = (Vec::new(), Vec::new());
            while !until.load(Ordering::Relaxed) {
                let stream = match connect() {
                    Ok(stream) => stream,
                    Err(error) => {
                        refused.push(error.to_string());
                        continue;
                    }
                };
                match one_request(stream, path) {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200 ") => drop(count.fetch_add(1, Ordering::Relaxed)),
                    Ok(answer) => lost.push(format!("answered {answer:?}")),
                    Err(error) => lost.push(error.to_string()),
                }
            }
            (refused, lost)
        });
        Clients { stop, answered, thread }
    }

    pub fn go_on(&self, more: u64) {
        let next = self.answered.load(Ordering::Relaxed) + more;
        eventually("clients are answered", || self.answered.load(Ordering::Relaxed) >= next);
    }

    /// The errors of refused connections, and those of requests that were lost in another way.
    pub fn end(self) -> (Vec<String>, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

pub fn by_tcp(instance: &Instance) -> impl Fn() -> io::Result<TcpStream> + Send + use<> {
    let address = instance.address;
    move || Client::try_connect(address).map(|client| client.0)
}

fn one_request(mut stream: impl Read + Write, path: &str) -> io::Result<String> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        // The whole answer had already arrived.
        Err(error) if !(error.kind() == ErrorKind::ConnectionReset && answer.ends_with(b"\n")) => return Err(error),
        Ok(_) | Err(_) => {}
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

pub fn restart_five_times(instance: &Instance, clients: &Clients) {
    for generation in 2..7 {
        clients.go_on(20);
        let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
        assert_eq!((&restarted["generation"], &restarted["replaced"]), (&generation.into(), &(generation - 1).into()));
        // The socket was open all the time.
        assert!(restarted.get("down_ms").is_none(), "{restarted}");
    }
    clients.go_on(20);
}

#[test]
fn restarts_keep_the_port_and_a_program_that_ends_well_loses_no_request() {
    let home = Home::new();
    let script = file(&home, "server.py", SERVER);
    let port = free_port().to_string();
    let options = ["--listen", &port, "--grace", HUGE, "--ready", "notify"];
    let instance = home.exec(&options, &["python3", &script]);
    let clients = Clients::begin(by_tcp(&instance), "/");
    restart_five_times(&instance, &clients);
    let (refused, lost) = clients.end();
    assert!(refused.is_empty() && lost.is_empty(), "refused: {refused:?}, lost: {lost:?}\n{}", instance.err.so_far());
    assert_eq!(instance.status()["generation"], 6);
    instance.admin(&["stop"]).expect(0);
    assert_ends_well(&home, &instance);
}

#[test]
fn with_ready_notify_the_supervisor_is_ready_when_the_program_says_so() {
    let home = Home::new();
    let go = home.directory().join("go");
    let script = format!(
        "import os, socket, time
print('starting', flush=True)
while not os.path.exists('{}'):
    time.sleep(0.01)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
time.sleep(600)",
        go.display()
    );
    let process = home.spawn(home.exec_command(&["--ready", "notify"], &["python3", "-c", &script]));
    process.out.wait_for("starting");
    assert_eq!(process.err.so_far(), "");
    home.admin(&["--name", home.name(), "status"]).expect(0).says("is starting");
    fs::write(&go, "").unwrap();
    process.err.wait_for("running (pid ");
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn a_program_that_never_gets_ready_at_the_start_is_exit_code_1_with_its_last_lines() {
    let home = Home::new();
    for (script, reason) in [
        ("echo no database >&2; exec sleep 600", "it was not ready within 2 s: it did not send READY=1"),
        ("echo no database >&2; exit 7", "it exited with code 7 before it was ready"),
    ] {
        let options = ["--ready", "notify", "--ready-within", "2"];
        let options = if script.ends_with('7') { &options[..2] } else { &options };
        let ended = home.run(home.exec_command(options, &sh(script))).expect(1);
        ended.says(&format!("error: sh -c {script} failed to start: {reason}"));
        // Its output appears once, unchanged.
        assert!(ended.err.contains("no database\n") && ended.err.contains(&format!("{reason}\n")), "{ended}");
        assert_eq!(ended.err.matches("no database\n").count(), 1, "{ended}");
        assert_leaves_nothing(&home);
    }
}

#[test]
fn a_program_that_is_not_ready_in_time_is_asked_to_end_and_the_log_says_so() {
    let home = Home::new();
    let script = "trap 'echo saved; exit 0' TERM; echo up; while :; do sleep 0.01; done";
    let options = ["--ready", "notify", "--ready-within", "3"];
    let process = home.spawn(home.exec_command(&options, &sh(script)));
    process.out.wait_for("saved");
    process.err.wait_for(") to end, and killing what is left of it in 5 s: it was not ready within 3 s");
    assert_eq!(process.wait(), 1);
    assert_leaves_nothing(&home);
}

/// A program that runs and never reports that it is ready.
fn never_ready(home: &Home) -> Process {
    let options = ["--ready", "notify", "--ready-within", HUGE];
    let process = home.spawn(home.exec_command(&options, &sh("echo up; exec sleep 600")));
    process.out.wait_for("up");
    process
}

#[test]
fn sigterm_ends_a_program_that_is_not_ready_yet_and_leaves_nothing() {
    let home = Home::new();
    let process = never_ready(&home);
    process.signal(Signal::SIGTERM);
    process.wait();
    eventually("all are gone", || home.processes().is_empty());
    assert_leaves_nothing(&home);
}

#[test]
fn a_stop_of_a_program_that_is_not_ready_yet_ends_it_at_once() {
    let home = Home::new();
    let process = never_ready(&home);
    home.admin(&["--name", home.name(), "restart", "--no-wait"]).expect(0).says("waiting for 1 other restart");
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn a_program_that_is_not_ready_yet_is_gone_when_the_supervisor_is_killed() {
    let home = Home::new();
    let process = never_ready(&home);
    process.kill();
    eventually("all are gone", || home.processes().is_empty());
}

/// The time that the new version of a server gets to be ready. It is a shell's, which needs little time to begin.
const READY_WITHIN: &str = r#"{"ready-within": 2}"#;
const READY_WHENEVER: &str = r#"{"ready-within": 100}"#;

/// A server that is started by the script `start.sh`.
fn replaceable(home: &Home) -> Instance {
    let server = file(home, "server.py", SERVER);
    let script = file(home, "start.sh", &format!("exec python3 {server}"));
    let config = file(home, "config.json", READY_WHENEVER);
    let port = free_port().to_string();
    let options = ["--listen", &port, "--grace", HUGE, "--ready", "notify", "--config", &config];
    home.exec(&options, &["sh", &script])
}

fn pid_that_answers(instance: &Instance) -> String {
    String::from_utf8(instance.client().get("/").body).unwrap()
}

#[test]
fn a_new_version_that_never_gets_ready_leaves_the_old_one_serving_and_says_why() {
    let home = Home::new();
    let instance = replaceable(&home);
    let right = fs::read_to_string(home.directory().join("start.sh")).unwrap();
    file(&home, "start.sh", "echo no database >&2; echo waiting for it >&2; exec sleep 600");
    file(&home, "config.json", READY_WITHIN);
    let old = pid_that_answers(&instance);
    let clients = Clients::begin(by_tcp(&instance), "/");
    clients.go_on(5);
    let restart = instance.admin(&["restart"]).expect(1);
    restart.says("generation 1 keeps serving").says("it was not ready within 2 s");
    restart.says("The last output of the program:\n  | no database\n  | waiting for it\n");
    clients.go_on(5);
    let (refused, lost) = clients.end();
    assert!(refused.is_empty() && lost.is_empty(), "{refused:?}, {lost:?}");
    assert_eq!(pid_that_answers(&instance), old);
    let status = instance.status();
    assert_eq!((&status["generation"], &status["state"]), (&1.into(), &"serving".into()));
    let left: Vec<_> = below(&home, &instance).into_iter().filter(|(_, line)| !line.contains(" @")).collect();
    assert!(left.len() == 1 && left[0].0.to_string() == old, "{left:?}");
    // The next version works again.
    file(&home, "config.json", READY_WHENEVER);
    file(&home, "start.sh", &right);
    instance.admin(&["restart"]).expect(0).says("generation 2 is ready: ");
    assert_ne!(pid_that_answers(&instance), old);
    instance.admin(&["stop"]).expect(0);
    assert_ends_well(&home, &instance);
}

#[test]
fn a_new_version_that_ends_before_it_is_ready_leaves_the_old_one_serving_and_says_why() {
    let home = Home::new();
    let instance = replaceable(&home);
    file(&home, "start.sh", "echo no database >&2; exit 1");
    let old = pid_that_answers(&instance);
    let restart = instance.admin(&["restart", "--json"]).expect(1).json();
    assert_eq!(restart["code"], "failed");
    let message = restart["message"].as_str().unwrap();
    assert!(
        message.contains("it exited with code 1 before it was ready\nThe last output of the program:\n  | no database"),
        "{message}"
    );
    assert_eq!(pid_that_answers(&instance), old);
}

#[test]
fn ready_connect_waits_until_the_port_answers() {
    let home = Home::new();
    let (port, files) = (free_port(), files(&home));
    let (text, ready) = (port.to_string(), format!("connect={port}"));
    let line = ["python3", "-m", "http.server", &text, "--bind", "127.0.0.1", "--directory", files.to_str().unwrap()];
    let mut instance = home.exec(&["--grace", HUGE, "--ready", &ready], &line);
    instance.address = ([127, 0, 0, 1], port).into();
    // At once: no second attempt is needed.
    assert_eq!(instance.client().get("/small").status, 200);
    instance.admin(&["restart"]).expect(0);
    assert_eq!(instance.client().get("/small").status, 200);
    instance.admin(&["stop"]).expect(0);
    assert_ends_well(&home, &instance);
}

#[test]
fn the_status_of_a_program_has_no_connections_and_none_of_them_can_be_closed() {
    let home = Home::new();
    let instance = replaceable(&home);
    let status = instance.status();
    assert!(status["program"].is_string() && status.get("connections").is_none(), "{status}");
    assert!(!instance.admin(&["status"]).expect(0).out.contains("connection"));
    assert!(!instance.admin(&["status", "--short"]).expect(0).out.contains("connection"));
    instance.admin(&["close", "1"]).expect(1).says("without --relay only the program has it");
}

#[test]
fn without_sockets_of_ours_a_restart_is_a_stop_and_a_start_and_says_for_how_long_nothing_served() {
    let home = Home::new();
    let instance = http_server(&home, &["--grace", HUGE]);
    let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
    assert_eq!((&restarted["generation"], &restarted["replaced"]), (&2.into(), &1.into()), "{restarted}");
    // On a busy machine it may count as ready before it listens; then the end of the outage is not known.
    let is_known = !restarted["evidence"].as_str().unwrap().starts_with("it has run");
    assert_eq!(restarted["down_ms"].is_u64(), is_known, "{restarted}");
    assert_eq!(restarted["report"]["program"], "it was killed by SIGTERM", "{restarted}");
    eventually_answers(&instance);
    let restarted = instance.admin(&["restart"]).expect(0);
    restarted.says("restarted: generation 3 is ready: ").says("generation 2 stopped in ");
    assert_eq!(
        restarted.out.contains("the outage lasted at most "),
        !restarted.out.contains("it has run"),
        "{restarted}"
    );
    eventually_answers(&instance);
    assert_eq!(instance.status()["generation"], 3);
    instance.admin(&["stop"]).expect(0);
    assert_ends_well(&home, &instance);
}

#[test]
fn sighup_restarts_the_program_if_it_is_told_to() {
    let home = Home::new();
    let instance = home.exec(&["--on-hup", "restart", "--grace", HUGE], &sh("echo up $$; exec sleep 600"));
    instance.out.wait_for("up");
    instance.signal(Signal::SIGHUP);
    eventually("the next one runs", || instance.out.so_far().lines().count() == 2);
    eventually("the restart is over", || instance.status()["state"] == "serving");
    assert_eq!(instance.status()["generation"], 2);
}

#[test]
fn a_program_that_fails_is_started_again_with_growing_waits_until_that_is_too_often() {
    for script in ["echo run; exit 3", "echo run; sleep 0.1; exit 3"] {
        let home = Home::new();
        let options = ["--max-restarts", "2", "--log", "json"];
        let process = home.spawn(home.exec_command(&options, &sh(script)));
        assert_eq!(process.wait(), 9, "{}", process.err.whole());
        assert_eq!(process.out.whole(), "run\n".repeat(3));
        let log = process.err.whole();
        let events: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let waits: Vec<u64> = events.iter().filter_map(|event| event["wait_ms"].as_u64()).collect();
        assert!(waits.len() == 2 && waits[0] >= 100 && waits[1] > waits[0], "{log}");
        assert!(log.contains("it exited with code 3"), "{log}");
        assert_leaves_nothing(&home);
    }
}

#[test]
fn a_program_that_ends_well_ends_the_supervisor_unless_it_is_to_run_always() {
    let home = Home::new();
    for script in ["echo done", "echo done; sleep 0.1"] {
        let ended = home.run(home.exec_command(&[], &sh(script))).expect(0);
        assert_eq!(ended.out, "done\n", "{ended}");
        assert_leaves_nothing(&home);
    }
    let first = home.directory().join("first");
    let script =
        format!("[ -e {0} ] || {{ : > {0}; echo first; exit 0; }}; echo second; exec sleep 600", first.display());
    let process = home.spawn(home.exec_command(&["--restart", "always", "--grace", HUGE], &sh(&script)));
    process.out.wait_for("first");
    process.out.wait_for("second");
    eventually("it serves", || {
        let status = home.admin(&["--name", home.name(), "status", "--json"]);
        status.code == 0 && status.json()["state"] == "serving"
    });
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    assert_leaves_nothing(&home);
}

/// How fast it ends must make no difference, so this is tried several times.
#[test]
fn a_program_that_ends_well_after_a_crash_ends_the_supervisor_though_it_was_passed_a_socket() {
    for _ in 0..10 {
        let home = Home::new();
        let first = home.directory().join("first");
        let script = format!("[ -e {0} ] && exit 0; : > {0}; sleep 0.1; exit 3", first.display());
        let port = free_port().to_string();
        let ended = home.run(home.exec_command(&["--listen", &port], &sh(&script))).expect(0);
        assert_eq!(ended.err.matches("crashed").count(), 1, "{ended}");
        assert!(ended.err.contains("the server ended: it exited with code 0"), "{ended}");
        assert_leaves_nothing(&home);
    }
}

#[test]
fn while_a_program_waits_for_its_next_try_status_says_why_and_a_stop_ends_it() {
    let home = Home::new();
    let first = home.directory().join("first");
    // It runs until the test has seen it.
    let script = format!("echo up; while [ ! -e {} ]; do sleep 0.01; done; exit 3", first.display());
    let instance = home.exec(&["--max-restarts", "100000", "--grace", HUGE], &sh(&script));
    fs::write(&first, "").unwrap();
    eventually("it waits", || {
        let status = instance.status();
        status["state"] == "waiting" && status["last_end"]["reason"] == "it exited with code 3"
    });
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn stdin_is_dev_null_and_stdout_and_stderr_pass_through() {
    for options in [&[][..], &["--ready", "notify"]] {
        let home = Home::new();
        let script = "import os, socket, sys
print('stdin is', os.readlink('/proc/self/fd/0'), repr(sys.stdin.read()))
os.write(2, b'to stderr\\n')
if 'NOTIFY_SOCKET' in os.environ:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
    import time; time.sleep(3)
";
        let mut command = home.exec_command(options, &["python3", "-c", script]);
        command.stdin(Stdio::piped());
        let process = home.spawn(command);
        assert_eq!(process.wait(), 0, "{}", process.err.so_far());
        assert_eq!(process.out.whole(), "stdin is /dev/null ''\n");
        assert!(process.err.whole().lines().any(|line| line == "to stderr"), "{}", process.err.whole());
    }
}

/// The part of a line before a time.
fn before_time(line: &str) -> &str {
    let length = "2026-01-31T12:04:10.321".len();
    let begin = line.find("Z ").and_then(|end| end.checked_sub(length));
    begin.map_or(line, |begin| &line[..begin])
}

#[test]
fn what_a_program_writes_right_before_it_ends_is_in_the_log() {
    for code in [0, 3] {
        for _ in 0..3 {
            let home = Home::new();
            // The pipe is made to hold everything, so that it is still unread when the program ends.
            let script = format!(
                "import fcntl, os, sys
fcntl.fcntl(2, fcntl.F_SETPIPE_SZ, 1 << 20)
os.write(2, ''.join(f'{{number}}\\n' for number in range(100000, 200000)).encode())
sys.exit({code})"
            );
            let ended = home.run(home.exec_command(&["--max-restarts", "0"], &["python3", "-c", &script]));
            let written: String = (100_000..200_000).map(|number| format!("{number}\n")).collect();
            // The supervisor's own lines begin with the time, and may appear in the middle of one of the program's.
            let logged: String = ended.err.split_inclusive('\n').map(before_time).collect();
            assert!(logged == written, "{} bytes of {}", logged.len(), written.len());
        }
    }
}

#[test]
fn status_shows_program_generation_and_pid() {
    let home = Home::new();
    let instance = home.exec(&["--grace", HUGE], &["sleep", "600"]);
    let status = instance.status();
    assert_eq!((&status["program"], &status["kind"]), (&"sleep 600".into(), &"exec".into()), "{status}");
    assert_eq!((&status["generation"], &status["pid"]), (&1.into(), &instance.pid.into()), "{status}");
    assert!(status.get("address").is_none(), "{status}");
    let text = instance.admin(&["status"]).expect(0);
    text.says("sleep 600").says(&instance.pid.to_string()).says("generation");
    home.admin(&["list"]).expect(0).says("sleep 600");
}

/// Signals that cannot be caught in a supervisor linked with this C library.
const THE_C_LIBRARYS: Range<i32> = if cfg!(target_env = "musl") { 32..35 } else { 32..34 };

#[test]
fn a_program_has_no_signal_blocked_or_ignored_whatever_its_supervisor_has_inherited() {
    let home = Home::new();
    let exec = home.exec_command(&[], &["cat", "/proc/self/status"]);
    let mut command = home.program(DEAF[0]);
    command.args(&DEAF[1..]).arg(exec.get_program()).args(exec.get_args());
    let ended = home.run(command).expect(0);
    for set in ["SigBlk", "SigIgn"] {
        let line = ended.out.lines().find(|line| line.starts_with(set)).unwrap();
        let signals = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
        // These belong to the hardware (ILL, FPE, SEGV) or to the C library, which keeps some for itself.
        let others = [4, 8, 11].into_iter().chain(THE_C_LIBRARYS).map(|number| 1 << (number - 1)).sum::<u64>();
        assert_eq!(signals & !others, 0, "{line}");
    }
}

/// Prints the number of each signal that can be passed on, or `ready`.
const LISTENER: &str = "
import os, signal
asleep, wake = os.pipe()
os.set_blocking(wake, False)
signal.set_wakeup_fd(wake)
wanted = [signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT, signal.SIGALRM, signal.SIGVTALRM,
          signal.SIGPROF, signal.SIGIO, signal.SIGURG, signal.SIGPWR, *range(signal.SIGRTMIN, signal.SIGRTMAX + 1)]
for number in wanted:
    signal.signal(number, lambda *_: None)
print('ready', *map(int, wanted), flush=True)
while True:
    for number in os.read(asleep, 100):
        print('got', number, flush=True)
";

#[test]
fn what_asks_nothing_of_the_supervisor_is_passed_on_to_the_program() {
    let home = Home::new();
    let instance = home.exec(&["--grace", HUGE], &["python3", "-c", LISTENER]);
    let wanted = instance.out.wait_for("ready");
    let numbers = wanted.split(' ').skip(1).filter(|number| !THE_C_LIBRARYS.contains(&number.trim().parse().unwrap()));
    for number in numbers {
        let mut kill = home.program("kill");
        kill.args(["-s", number, &instance.pid.to_string()]);
        home.run(kill).expect(0);
        let got = format!("got {number}\n");
        eventually(&format!("it gets signal {number}"), || instance.out.so_far().contains(&got));
    }
    assert_eq!(instance.status()["generation"], 1);
}

#[test]
fn without_a_name_the_instance_is_called_like_the_program() {
    let home = Home::new();
    let mut command = home.program(SUPERVISOR);
    command.args(["exec", "--", "/usr/bin/env", "sleep", "600"]).stderr(Stdio::piped());
    let process = home.spawn(command);
    process.err.wait_for("running (pid ");
    home.admin(&["--name", "env", "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    assert_leaves_nothing(&home);
}

/// A supervisor in a namespace of its own, as in a container. None: not permitted here.
pub fn as_process_1(home: &Home, options: &[&str], script: &str) -> Option<Process> {
    let unshare = ["--pid", "--fork", "--kill-child", "--mount-proc"];
    if !can_run(&[&["unshare"], &unshare[..], &["true"]].concat()) {
        return None;
    }
    let mut command = home.program("unshare");
    command.args(unshare).args([SUPERVISOR, "exec", "--admin", "off"]).args(options).arg("--").args(sh(script));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    Some(home.spawn(command))
}

#[test]
fn as_process_1_it_passes_the_exit_code_and_leaves_no_zombie() {
    let home = Home::new();
    let script = "(sleep 0.05 &); (setsid sleep 0.05 &)
        for pid in $(seq 20); do (true &); done
        while grep -qs 'sleep' /proc/[0-9]*/cmdline || grep -qs '^State:.Z' /proc/[0-9]*/status; do :; done
        read -r name < /proc/1/cmdline; exit 42";
    let script = script.replace("'sleep'", "'^sleep'");
    let Some(process) = as_process_1(&home, &["--restart", "never"], &script) else { return };
    assert_eq!(process.wait(), 42, "{}", process.err.whole());
}

#[test]
fn as_process_1_it_reaps_orphans_that_are_not_the_programs() {
    let home = Home::new();
    let Some(process) = as_process_1(&home, &["--restart", "never"], "echo up; exec sleep 600") else { return };
    process.out.wait_for("up");
    let (supervisor, _) =
        home.processes().into_iter().find(|(_, line)| line.starts_with(&format!("{SUPERVISOR} exec"))).unwrap();
    // As `exec` into a container does.
    let mut visitor = home.program("nsenter");
    visitor.args(["--target", &supervisor.to_string(), "--pid", "--mount", "sh", "-c"]);
    visitor.arg("for i in 1 2 3 4 5; do (sleep 0.05 &); (setsid sleep 0.05 &); done");
    home.run(visitor).expect(0);
    eventually("no orphan and no zombie is left", || {
        let children = fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
        let sleepers = home.processes().iter().any(|(_, line)| line == "sleep 0.05");
        !sleepers && children.split_whitespace().count() == 1
    });
    // Process 1 gets only signals that it has a handler for; it has one for this signal.
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(supervisor.try_into().unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(process.wait(), 0, "{}", process.err.whole());
    assert_nothing_runs(&home);
}

#[test]
fn a_config_file_has_the_settings_of_exec_and_a_restart_takes_new_ones() {
    let home = Home::new();
    let config = file(&home, "config.json", r#"{"stop-signal": "USR1", "grace": 600, "ready": "0"}"#);
    let script = format!("trap 'echo by TERM; exit' TERM; trap 'echo by USR1; exit' USR1; {SLEEPER}; echo up; wait");
    let instance = home.exec(&["--config", &config], &sh(&script));
    instance.out.wait_for("up");
    file(&home, "config.json", r#"{"stop-signal": "TERM", "grace": 600, "ready": "0"}"#);
    instance.admin(&["restart"]).expect(0);
    instance.out.wait_for("by USR1");
    eventually("the next one is up", || instance.out.so_far().matches("up\n").count() == 2);
    instance.admin(&["stop"]).expect(0);
    instance.out.wait_for("by TERM");
}

#[test]
fn the_addresses_of_the_command_line_count_more_than_that_of_the_file() {
    let home = Home::new();
    let (said, filed) = (free_port(), free_port());
    let config = file(&home, "config.json", &format!(r#"{{"listen": {filed}, "grace": 600}}"#));
    let script = "echo $LISTEN_FDS sockets; exec sleep 600";
    {
        let instance = home.exec(&["--config", &config], &sh(script));
        assert_eq!(instance.address.port(), filed);
        instance.out.wait_for("1 sockets");
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
    }
    let instance = home.exec(&["--config", &config, "--listen", &said.to_string()], &sh(script));
    assert_eq!(instance.address.port(), said);
    instance.out.wait_for("1 sockets");
    instance.admin(&["stop"]).expect(0);
}
