//! `admin-cli port` and `admin-cli free`: the processes that hold a port, and their end.

use std::net::TcpListener;
use std::process::{Command, Stdio};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal::{SIGSTOP, SIGTERM};

use crate::pty::{ENTER, Pty, is_stopped};
use crate::support::{ADMIN_CLI, Client, Ended, HUGE, Home, Process, SUPERVISOR, can_run, eventually, free_port};

/// The beginning of each program: `listen` takes the port, on an IPv4 or IPv6 address.
const LISTEN: &str = r#"
import os, signal, socket, sys, time
port = int(sys.argv[1])
def listen(address="127.0.0.1"):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)
def ready():
    print("ready", flush=True)
"#;

/// Listens, and ends when it is asked to.
const PLAIN: &str = "listener = listen(); ready(); signal.pause()";

/// Listens, and ignores TERM.
const STUBBORN: &str = "signal.signal(signal.SIGTERM, signal.SIG_IGN); listener = listen(); ready(); time.sleep(1000)";

/// Four processes share a socket.
const WORKERS: &str = r#"
listener = listen()
for _ in range(3):
    if os.fork() == 0:
        break
else:
    ready()
signal.pause()
"#;

/// Two processes share a socket. When the second one has been ended, the first one starts a third one and ends.
const RESPAWNING: &str = r#"
listener = listen()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
asleep, wake = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, lambda *_: (print("asked", flush=True), os._exit(0)))
        os.write(wake, b"x")
        time.sleep(1000)
    os.read(asleep, 1)
    if _ == 0:
        ready()
        os.wait()
"#;

/// On TERM it closes its socket and keeps running.
const LEAVING: &str = r#"
listener = listen()
signal.signal(signal.SIGTERM, lambda *_: (listener.close(), print("closed", flush=True)))
ready()
sys.stdin.read()
"#;

/// On a line on stdin it closes its socket and keeps running.
const LEAVING_WHEN_TOLD: &str = r#"
listener = listen()
ready()
sys.stdin.readline()
listener.close()
print("closed", flush=True)
sys.stdin.read()
"#;

fn python_command(home: &Home, by: &[&str], program: &str, port: u16) -> Command {
    let line = [by, &["python3", "-c"]].concat();
    let mut command = home.program(line[0]);
    command.args(&line[1..]).arg(format!("{LISTEN}{program}")).arg(port.to_string());
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// A program in Python. Returns when it has the port.
fn python(home: &Home, program: &str, port: u16) -> Process {
    let process = home.spawn(python_command(home, &[], program, port));
    process.out.wait_for("ready");
    process
}

/// Runs `admin-cli` with a command, the port and options.
fn admin(home: &Home, command: &str, port: u16, options: &[&str]) -> Ended {
    home.admin(&[&[command, &port.to_string()], options].concat())
}

#[track_caller]
fn assert_free(port: u16) {
    TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("port {port} is not free: {error}"));
}

#[test]
fn port_tells_process_program_command_user_and_address() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, PLAIN, port);
    let answer = admin(&home, "port", port, &["--json"]).expect(0).json();
    assert_eq!((&answer["result"], &answer["port"], &answer["held"]), (&"port".into(), &port.into(), &true.into()));
    let [holder] = &answer["by"].as_array().unwrap()[..] else { panic!("{answer}") };
    assert_eq!(holder["address"], format!("127.0.0.1:{port}"));
    assert_eq!(holder["pid"], server.pid);
    assert!(holder["program"].as_str().unwrap().starts_with("python"), "{answer}");
    assert!(holder["command"].as_str().unwrap().ends_with(&format!(" {port}")), "{answer}");
    assert_eq!(holder["user"], user());
    assert_eq!(holder["supervisor"], serde_json::Value::Null);
    let text = admin(&home, "port", port, &[]).expect(0);
    text.says(&format!("port {port} is held by python")).says(&format!("(pid {}, {})", server.pid, user()));
    assert!(server.is_running());
}

fn user() -> String {
    nix::unistd::User::from_uid(nix::unistd::geteuid()).unwrap().unwrap().name
}

#[test]
fn what_a_program_calls_itself_does_not_reach_the_terminal_as_it_is() {
    let home = Home::new();
    let port = free_port();
    let _server = python(&home, &format!("'\x1b[2J'\n{PLAIN}"), port);
    let text = admin(&home, "port", port, &[]).expect(0);
    assert!(!text.out.contains('\x1b'), "{text}");
    assert_eq!(text.out.lines().count(), 3, "{text}");
}

#[test]
fn a_free_port_is_exit_code_3_for_port_and_0_for_free() {
    let home = Home::new();
    let port = free_port();
    admin(&home, "port", port, &[]).expect(3).says(&format!("port {port} is free"));
    let answer = admin(&home, "port", port, &["--json"]).expect(3).json();
    assert_eq!((&answer["held"], &answer["by"]), (&false.into(), &serde_json::json!([])));
    admin(&home, "free", port, &[]).expect(0).says(&format!("port {port} is free already"));
    let answer = admin(&home, "free", port, &["--json"]).expect(0).json();
    assert_eq!((&answer["result"], &answer["ended"]), (&"freed".into(), &serde_json::json!([])));
}

#[test]
fn several_ports_are_looked_at_and_freed_as_they_are_written() {
    let home = Home::new();
    let ports = [free_port(), free_port()];
    let servers = ports.map(|port| python(&home, PLAIN, port));
    let [first, second] = ports.map(|port| format!(":{port}"));
    let looked = home.admin(&["port", &first, &second]).expect(0);
    for port in ports {
        looked.says(&format!("port {port} is held by python3"));
    }
    home.admin(&["port", &first, &free_port().to_string()]).expect(3).says(" is free: ");
    home.admin(&["free", &first, &second, "--yes"]).expect(0);
    ports.into_iter().for_each(assert_free);
    for server in servers {
        server.wait();
    }
}

#[test]
fn a_program_that_binds_its_own_port_is_found_by_that() {
    let home = Home::new();
    let (port, health) = (free_port(), free_port());
    let serve = ["python3", "-m", "http.server", "--bind", "127.0.0.1", &port.to_string()];
    let health_option = health.to_string();
    let instance = home.exec(&["--ready", &format!("connect={port}"), "--health", &health_option], &serve);
    for port in [port, health] {
        let status = home.admin(&["--port", &port.to_string(), "status", "--json"]).expect(0).json();
        assert_eq!(status["name"], instance.name.as_str(), "{status}");
    }
    let status = instance.status();
    let pid = status["program_pid"].as_u64().unwrap();
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(line.contains("http.server"), "{line:?}");
    instance.admin(&["status"]).expect(0).says(&format!("(pid {pid})"));
    home.admin(&["--port", &free_port().to_string(), "status"]).expect(3);
}

#[test]
fn what_is_no_port_is_a_usage_error_that_says_what_is_one() {
    let home = Home::new();
    for command in ["port", "free"] {
        for no_port in ["0", "65536", "http", "-1", ""] {
            home.admin(&[command, "--", no_port]).expect(2).says("a port is a number from 1 to 65535");
        }
        home.admin(&["--name", "web", command, "8000"]).expect(2).says("take no target");
    }
}

#[test]
fn free_ends_a_server_of_files_of_python() {
    let home = Home::new();
    let port = free_port();
    let mut command = home.program("python3");
    let number = port.to_string();
    command.args(["-u", "-m", "http.server", &number, "--bind", "127.0.0.1"]).current_dir(home.directory());
    let server = home.spawn(command);
    eventually("it takes connections", || Client::try_connect(([127, 0, 0, 1], port).into()).is_ok());
    let ended = admin(&home, "free", port, &["--grace", HUGE, "--yes"]).expect(0);
    ended.says(&format!("(pid {}, {}) has ended", server.pid, user())).says(&format!("port {port} is free"));
    assert_free(port);
    assert_eq!(server.wait(), -(SIGTERM as i32));
}

#[test]
fn free_without_a_terminal_and_without_yes_ends_nobody() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, PLAIN, port);
    let refused = admin(&home, "free", port, &[]).expect(2);
    refused.says("--yes").says(&format!("(pid {}", server.pid));
    let instance = home.start(&["echo"]);
    admin(&home, "free", instance.address.port(), &["--json"]).expect(2);
    instance.assert_serves();
    assert!(server.is_running());
}

#[test]
fn a_server_that_does_not_mind_term_is_killed_after_the_grace_period() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, STUBBORN, port);
    let answer = admin(&home, "free", port, &["--grace", "0.3", "--yes", "--json"]).expect(5).json();
    assert_eq!((&answer["ended"][0]["pid"], &answer["ended"][0]["end"]), (&server.pid.into(), &"killed".into()));
    assert_eq!(server.wait(), -9);
    assert_free(port);
}

/// Finding out who holds a port takes longer than this grace period.
#[test]
fn who_is_ended_is_asked_first_however_long_the_look_for_it_takes() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, PLAIN, port);
    admin(&home, "free", port, &["--grace", "0.00001", "--yes"]);
    assert_eq!(server.wait(), -(SIGTERM as i32));
    assert_free(port);
}

#[test]
fn free_now_kills_at_once() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, STUBBORN, port);
    admin(&home, "free", port, &["--now", "--yes"]).expect(5).says("was killed");
    assert_eq!(server.wait(), -9);
    assert_free(port);
    admin(&home, "free", port, &["--now", "--grace", "5"]).expect(2);
}

#[test]
fn a_server_that_is_suspended_ends_when_it_is_asked_to() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, PLAIN, port);
    server.signal(SIGSTOP);
    eventually("it is suspended", || is_stopped(server.pid));
    admin(&home, "free", port, &["--grace", HUGE, "--yes"]).expect(0);
    assert_eq!(server.wait(), -(SIGTERM as i32));
}

#[test]
fn all_processes_that_share_the_socket_are_named_and_ended() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, WORKERS, port);
    let processes = || admin(&home, "port", port, &["--json"]).json()["by"].as_array().unwrap().len();
    assert_eq!(processes(), 4);
    admin(&home, "port", port, &[]).expect(0).says("and 2 more");
    let answer = admin(&home, "free", port, &["--grace", HUGE, "--yes", "--json"]).expect(0).json();
    assert_eq!(answer["ended"].as_array().unwrap().len(), 4);
    assert_eq!(server.wait(), -(SIGTERM as i32));
    // Each of them would have this test's directory in its environment.
    assert_eq!(home.processes(), []);
    assert_free(port);
}

#[test]
fn workers_that_are_started_meanwhile_are_ended_too() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, RESPAWNING, port);
    let answer = admin(&home, "free", port, &["--grace", HUGE, "--yes", "--json"]).expect(0).json();
    assert_eq!(answer["ended"].as_array().unwrap().len(), 3, "{answer}");
    assert_eq!(server.wait(), 0);
    assert_eq!(server.out.whole(), "ready\nasked\nasked\n");
    assert_free(port);
}

#[test]
fn a_server_that_only_lets_go_of_the_port_is_left_alone() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, LEAVING, port);
    // It does so within this time, which is waited for to the end.
    let answer = admin(&home, "free", port, &["--grace", "10", "--yes", "--json"]).expect(0).json();
    assert_eq!(answer["ended"][0]["end"], "let_go");
    server.out.wait_for("closed");
    assert!(server.is_running());
    assert_free(port);
}

#[test]
fn all_addresses_of_a_port_are_named_and_freed() {
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("skipped: there is no IPv6 here");
    }
    let home = Home::new();
    let port = free_port();
    let first = python(&home, "v4 = listen(); v6 = listen('::1'); ready(); signal.pause()", port);
    let second = python(&home, "listener = listen('127.0.0.2'); ready(); signal.pause()", port);
    let answer = admin(&home, "port", port, &["--json"]).expect(0).json();
    let found = |(address, server): (&str, &Process)| {
        let is_it = |by: &serde_json::Value| by["address"] == format!("{address}:{port}") && by["pid"] == server.pid;
        answer["by"].as_array().unwrap().iter().any(is_it)
    };
    assert!([("127.0.0.1", &first), ("[::1]", &first), ("127.0.0.2", &second)].into_iter().all(found), "{answer}");
    admin(&home, "free", port, &["--grace", HUGE, "--yes"]).expect(0);
    for server in [first, second] {
        assert_eq!(server.wait(), -(SIGTERM as i32));
    }
    admin(&home, "port", port, &[]).expect(3);
}

#[test]
fn the_program_of_a_supervisor_is_that_supervisor() {
    let home = Home::new();
    let port = free_port();
    let (number, script) = (port.to_string(), format!("{LISTEN}{PLAIN}"));
    for (options, program) in [
        (&["--listen", &number][..], &["sleep", "1000"][..]),
        (&[], &["python3", "-c", &script, &number]),
        // Not the program itself, but a process that it has started.
        (&[], &["sh", "-c", "python3 -c \"$1\" $2 & wait", "sh", &script, &number]),
    ] {
        let instance = home.exec(&[&["--restart", "always"], options].concat(), program);
        eventually("it listens", || admin(&home, "port", port, &[]).code == 0);
        let answer = admin(&home, "port", port, &["--json"]).expect(0).json();
        let ours = |by: &serde_json::Value| by["supervisor"] == home.name();
        assert!(answer["by"].as_array().unwrap().iter().all(ours), "{answer}");
        let answer = admin(&home, "free", port, &["--grace", HUGE, "--yes", "--json"]).expect(0).json();
        assert_eq!((&answer["stopped"][0]["name"], &answer["ended"]), (&home.name().into(), &serde_json::json!([])));
        instance.wait();
        assert_free(port);
    }
}

#[test]
fn a_program_of_a_supervisor_that_cannot_be_asked_is_not_ended_since_it_would_be_started_again() {
    let home = Home::new();
    let port = free_port();
    let (number, script) = (port.to_string(), format!("{LISTEN}{PLAIN}"));
    let mut command = home.program(SUPERVISOR);
    command.args(["exec", "--admin", "off", "--", "python3", "-c", &script, &number]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let supervisor = home.spawn(command);
    supervisor.out.wait_for("ready");
    admin(&home, "free", port, &["--yes"]).expect(1).says(&format!("a supervisor (pid {})", supervisor.pid));
    admin(&home, "port", port, &[]).expect(0);
    supervisor.signal(SIGTERM);
    supervisor.wait();
    admin(&home, "free", port, &["--yes"]).expect(0).says("already");
}

#[test]
fn a_supervisor_that_cannot_be_asked_is_ended_as_any_other_program() {
    let home = Home::new();
    let instance = home.start(&["echo", "--admin", "off", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let mut free = home.admin_command(&["free", &instance.address.port().to_string(), "--grace", HUGE, "--yes"]);
    free.stdout(Stdio::piped()).stderr(Stdio::piped());
    let free = home.spawn(free);
    client.assert_told();
    drop(client);
    free.end().expect(0).says("has ended");
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_command_that_has_inherited_the_socket_is_not_ended() {
    let home = Home::new();
    let port = free_port();
    let program = format!(
        "import subprocess\nlistener = listen(); listener.set_inheritable(True); signal.signal(signal.SIGTERM, \
         signal.SIG_IGN)\nended = subprocess.run(['{}', 'free', str(port), '--yes'], close_fds=False, \
         capture_output=True, text=True)\nprint(ended.returncode, ended.stderr, flush=True); ready()\ntime.sleep(1000)",
        ADMIN_CLI
    );
    let server = python(&home, &program, port);
    assert!(server.out.so_far().starts_with("1 "), "{}", server.out.so_far());
    server.out.wait_for("this very command");
    assert!(server.is_running());
}

/// Whether a PID namespace can be created: as root, and not everywhere.
fn has_namespaces() -> bool {
    can_run(&["unshare", "--pid", "--fork", "--mount-proc", "true"])
}

/// Runs the rest of the command where it sees only itself.
const ALONE: [&str; 5] = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"];

#[test]
fn who_cannot_be_seen_from_this_container_is_not_ended() {
    if !has_namespaces() {
        return;
    }
    let home = Home::new();
    let port = free_port();
    let server = python(&home, PLAIN, port);
    let alone = |command: &str| {
        let mut admin = home.program(ALONE[0]);
        admin.args(&ALONE[1..]).args([ADMIN_CLI, command, &port.to_string()]);
        if command == "free" {
            admin.arg("--yes");
        }
        home.run(admin)
    };
    alone("port").expect(0).says(&format!("a process of {} that cannot be seen from here", user()));
    alone("free").expect(4).says("cannot be seen from here").says("in another container");
    assert!(server.is_running());
}

#[test]
fn process_1_is_not_ended() {
    if !has_namespaces() {
        return;
    }
    let home = Home::new();
    let port = free_port();
    // A supervisor that is process 1 of another container, with the same directory.
    let other = home.start_by(home.supervisor_by(&ALONE, &["echo"]));
    let program = format!(
        "import subprocess\nlistener = listen()\nended = subprocess.run(['{}', 'free', str(port), '--yes'], \
         capture_output=True, text=True)\nprint(os.getpid(), ended.returncode, ended.stderr, flush=True); ready()\n\
         time.sleep(1000)",
        ADMIN_CLI
    );
    let server = home.spawn(python_command(&home, &ALONE, &program, port));
    server.out.wait_for("ready");
    assert!(server.out.so_far().starts_with("1 4 "), "{}", server.out.so_far());
    server.out.wait_for("which manages others");
    other.assert_serves();
    other.admin(&["stop"]).expect(0);
    assert_eq!(other.wait(), 0);
}

#[test]
fn a_supervisor_in_a_container_is_found_by_the_number_that_its_process_has_here() {
    if !has_namespaces() {
        return;
    }
    let home = Home::new();
    let instance = home.start_by(home.supervisor_by(&ALONE, &["echo"]));
    assert_eq!(instance.status()["pid"], 1);
    let holder = &home.admin(&["port", &instance.address.port().to_string(), "--json"]).expect(0).json()["by"][0];
    assert_eq!(holder["supervisor"], home.name());
    assert_ne!(holder["pid"], 1);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

/// `admin-cli free` on a terminal.
fn free_on_terminal(home: &Home, port: u16, options: &[&str]) -> (Process, Pty) {
    let (pty, terminal) = Pty::open();
    let mut command = home.program("setsid");
    command.args(["--ctty", ADMIN_CLI, "free", &port.to_string()]).args(options);
    // A terminal is non-blocking for all processes that share it, so another one can have made it so.
    fcntl(&terminal, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    (home.spawn(command), pty)
}

fn wait_for_screen(pty: &Pty, part: &str) {
    eventually(&format!("the screen shows {part:?}"), || pty.screen().contains(part));
}

#[test]
fn on_a_terminal_it_asks_first_and_only_yes_is_yes() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, PLAIN, port);
    for answer in ["", "n", "no", "yesterday"] {
        let (free, pty) = free_on_terminal(&home, port, &[]);
        wait_for_screen(&pty, &format!("(pid {}, {}): end it? [y/N]", server.pid, user()));
        pty.press(answer);
        pty.press(ENTER);
        wait_for_screen(&pty, "nothing was ended");
        assert_eq!(free.wait(), 1);
        assert!(server.is_running());
    }
    let (free, pty) = free_on_terminal(&home, port, &[]);
    wait_for_screen(&pty, "[y/N]");
    pty.press("Y");
    pty.press(ENTER);
    wait_for_screen(&pty, &format!("port {port} is free"));
    assert_eq!(free.wait(), 0);
    assert_eq!(server.wait(), -(SIGTERM as i32));
}

#[test]
fn a_supervisor_is_asked_about_too_and_one_that_got_its_name_meanwhile_is_left_alone() {
    let home = Home::new();
    let first = home.start(&["echo"]);
    let (free, pty) = free_on_terminal(&home, first.address.port(), &[]);
    wait_for_screen(&pty, &format!("{}, a supervisor of yours (pid {}): end it? [y/N]", home.name(), first.pid));
    first.admin(&["stop"]).expect(0);
    assert_eq!(first.wait(), 0);
    let second = home.start(&["echo"]);
    pty.press("y");
    pty.press(ENTER);
    assert_eq!(free.wait(), 0, "{}", pty.screen());
    second.assert_serves();
}

#[test]
fn on_a_terminal_it_shows_for_whom_it_waits_and_for_how_long() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, STUBBORN, port);
    let (free, pty) = free_on_terminal(&home, port, &["--yes", "--grace", HUGE]);
    wait_for_screen(&pty, &format!("waiting for python3 (pid {}, {}), ", server.pid, user()));
    eventually("the time goes by", || pty.screen().matches(" s to go").count() >= 2);
    server.kill();
    assert_eq!(free.wait(), 0);
}

#[test]
fn who_lets_go_before_the_answer_is_not_ended() {
    let home = Home::new();
    let port = free_port();
    let server = python(&home, LEAVING_WHEN_TOLD, port);
    let (free, pty) = free_on_terminal(&home, port, &["--now"]);
    wait_for_screen(&pty, "[y/N]");
    server.write("\n");
    server.out.wait_for("closed");
    pty.press("y");
    pty.press(ENTER);
    assert_eq!(free.wait(), 0, "{}", pty.screen());
    assert!(server.is_running());
}

#[test]
fn who_takes_the_port_before_the_answer_is_not_ended() {
    let home = Home::new();
    let port = free_port();
    let first = python(&home, PLAIN, port);
    let (free, pty) = free_on_terminal(&home, port, &["--now"]);
    wait_for_screen(&pty, "[y/N]");
    first.kill();
    let second = python(&home, PLAIN, port);
    pty.press("y");
    pty.press(ENTER);
    wait_for_screen(&pty, &format!("(pid {}, {}), still or again", second.pid, user()));
    assert_eq!(free.wait(), 1);
    assert!(second.is_running());
}
