//! Commands of another user. Only root can act as two users, so these tests need it.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::signal::Signal::{SIGHUP, SIGTERM};
use nix::unistd::{User, geteuid};

use crate::support::{
    ADMIN_CLI, Client, Ended, HUGE, Home, Instance, Process, SUPERVISOR, can_run, command, eventually, free_port,
    is_installed,
};

/// The user `nobody`, on most systems.
const OTHER: u32 = 65534;

/// Listens on an address and a port.
const LISTEN: &str = "import signal, socket, sys; address = sys.argv[1]; \
                      family = socket.AF_INET6 if ':' in address else socket.AF_INET; \
                      listener = socket.create_server((address, int(sys.argv[2])), family=family); \
                      print('ready', flush=True); signal.pause()";

/// Runs the rest of the command as another user.
const AS_OTHER: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// A directory that everybody can enter, with the programs in it: the built ones may be where only root has access.
struct Lobby {
    home: Home,
    directory: PathBuf,
}

impl Lobby {
    fn open() -> Option<Lobby> {
        if !geteuid().is_root() {
            eprintln!("skipped: only root can act as another user");
            return None;
        }
        if !is_installed("setpriv") {
            return None;
        }
        let home = Home::new();
        let directory = home.directory().to_owned();
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).unwrap();
        let lobby = Lobby { home, directory };
        lobby.copy(SUPERVISOR, "supervisor");
        lobby.copy(ADMIN_CLI, "admin-cli");
        Some(lobby)
    }

    /// Copies a program, by a process of its own, as [`write_script`](crate::support::write_script) does. Returns where
    /// it is.
    fn copy(&self, from: &str, name: &str) -> PathBuf {
        let to = self.directory.join(name);
        let mut copy = self.home.program("cp");
        copy.arg(from).arg(&to);
        self.home.run(copy).expect(0);
        to
    }

    /// One of the programs, run by the other user.
    fn as_other(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = self.home.program(AS_OTHER[0]);
        command.args(&AS_OTHER[1..]).arg(self.directory.join(program)).args(arguments);
        command
    }

    /// A server in Python, run by this command.
    fn listener(&self, by: &[&str], address: &str, port: u16) -> Process {
        let line = [by, &["/usr/bin/env", "python3", "-c", LISTEN, address]].concat();
        let mut command = self.home.program(line[0]);
        command.args(&line[1..]).arg(port.to_string()).stdout(Stdio::piped());
        let process = self.home.spawn(command);
        process.out.wait_for("ready");
        process
    }

    /// Runs `admin-cli` as the other user, with that user's own directory.
    fn admin_as_other(&self, arguments: &[&str]) -> Ended {
        let mut command = self.as_other("admin-cli", arguments);
        command.env_remove("MASTERCONTROL_DIR").env_remove("XDG_RUNTIME_DIR");
        self.home.run(command)
    }
}

#[test]
fn another_user_does_not_get_to_the_socket() {
    let Some(lobby) = Lobby::open() else { return };
    let instance = lobby.home.start(&["echo"]);
    for command in ["ping", "stop"] {
        let name = ["--name", lobby.home.name(), command];
        lobby.home.run(lobby.as_other("admin-cli", &name)).expect(4).says("not permitted");
        let socket = ["--socket", lobby.home.socket().to_str().unwrap(), command, "--json"].map(str::to_owned);
        let socket: Vec<&str> = socket.iter().map(String::as_str).collect();
        let answer = lobby.home.run(lobby.as_other("admin-cli", &socket)).expect(4).json();
        assert_eq!(answer["code"], "not_permitted");
    }
    instance.assert_serves();
}

/// A third user, besides root and [`OTHER`].
const THIRD: &str = "65533";

#[test]
fn a_socket_of_another_user_is_not_talked_to() {
    const TAKES_THE_PLACE: &str = "import os, signal, socket, sys; listener = socket.socket(socket.AF_UNIX); \
                                   listener.bind(sys.argv[1]); os.chmod(sys.argv[1], 0o777); listener.listen(); \
                                   print('ready', flush=True); signal.pause()";
    let Some(lobby) = Lobby::open() else { return };
    fs::set_permissions(&lobby.directory, fs::Permissions::from_mode(0o777)).unwrap();
    let socket = lobby.directory.join("other.sock").display().to_string();
    let mut command = lobby.home.program("setpriv");
    command.args(["--reuid", THIRD, "--regid", THIRD, "--clear-groups", "/usr/bin/env", "python3", "-c"]);
    command.args([TAKES_THE_PLACE, &socket]).stdout(Stdio::piped());
    let process = lobby.home.spawn(command);
    process.out.wait_for("ready");
    let why = format!("the process that listens on {socket} belongs to user {THIRD}, and not to you");
    for command in ["ping", "stop"] {
        lobby.home.run(lobby.as_other("admin-cli", &["--socket", &socket, command])).expect(4).says(&why);
    }
}

#[test]
fn another_user_who_gets_to_the_socket_is_refused_and_logged() {
    let Some(lobby) = Lobby::open() else { return };
    let instance = lobby.home.start(&["echo", "--grace", HUGE]);
    // The directory has been opened to others.
    fs::set_permissions(lobby.home.sockets(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(lobby.home.socket(), fs::Permissions::from_mode(0o666)).unwrap();
    for command in ["ping", "stop"] {
        let name = ["--name", lobby.home.name(), command];
        lobby.home.run(lobby.as_other("admin-cli", &name)).expect(4).says(&format!("user {OTHER} may not command"));
    }
    instance.err.wait_for(&format!("warning: admin socket: user {OTHER} may not command"));
    instance.assert_serves();
}

#[test]
fn a_lock_that_another_user_has_left_is_named() {
    let Some(lobby) = Lobby::open() else { return };
    chown(&lobby.directory, Some(OTHER), Some(OTHER)).unwrap();
    let socket = lobby.directory.join("app.sock").display().to_string();
    let lock = format!("{socket}.mastercontrol.lock");
    fs::write(&lock, "").unwrap();
    fs::set_permissions(&lock, fs::Permissions::from_mode(0o600)).unwrap();
    let start = lobby.as_other("supervisor", &["exec", "--admin", "off", "--listen", &socket, "true"]);
    lobby.home.run(start).expect(4).says(&format!("no permission to lock {lock}, which belongs to another user"));
}

#[test]
fn root_may_command_the_supervisor_of_another_user() {
    let Some(lobby) = Lobby::open() else { return };
    chown(&lobby.directory, Some(OTHER), Some(OTHER)).unwrap();
    let program = lobby.directory.join("supervisor").display().to_string();
    let by: Vec<&str> = AS_OTHER.iter().copied().chain([program.as_str()]).collect();
    let mut command = lobby.home.program(by[0]);
    let port = free_port().to_string();
    command.args(&by[1..]).args(["echo", "--name", lobby.home.name(), "--listen", &port]);
    let instance = lobby.home.start_by(command);
    instance.admin(&["ping"]).expect(0);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert!(instance.log().contains("admin client (user 0, pid "), "{}", instance.log());
}

impl Lobby {
    /// A server with clients that has all threads that it may have, and its port. The limit on threads does not apply to
    /// root. None: it cannot be started here.
    fn start_without_threads(&self) -> Option<(Instance, String, Client)> {
        if !is_installed("prlimit") {
            return None;
        }
        chown(&self.directory, Some(OTHER), Some(OTHER)).unwrap();
        let port = free_port().to_string();
        let arguments = ["echo", "--name", self.home.name(), "--listen", &port, "--grace", HUGE];
        let instance = self.home.start_by(self.as_other("supervisor", &arguments));
        let mut client = instance.client();
        client.greet();
        let mut prlimit = command(AS_OTHER[0]);
        prlimit.args(&AS_OTHER[1..]).arg("prlimit").arg(format!("--pid={}", instance.pid)).arg("--nproc=1:1");
        self.home.run(prlimit).expect(0);
        Some((instance, port, client))
    }
}

#[test]
fn without_threads_a_crowd_of_silent_admin_clients_keeps_no_other_from_stopping() {
    let Some(lobby) = Lobby::open() else { return };
    let Some((instance, _, mut client)) = lobby.start_without_threads() else { return };
    let silent: Vec<_> = (0..20).map(|_| UnixStream::connect(lobby.home.socket()).unwrap()).collect();
    instance.admin(&["stop", "--no-wait"]).expect(0);
    client.assert_told();
    drop(client);
    assert_eq!(instance.wait(), 0);
    drop(silent);
}

#[test]
fn without_threads_a_restart_is_reported_as_in_progress_and_not_as_done() {
    let Some(lobby) = Lobby::open() else { return };
    let Some((instance, _, mut client)) = lobby.start_without_threads() else { return };
    instance.admin(&["restart"]).expect(7).says("restarting").says("out of threads");
    instance.err.wait_for("restart failed");
    assert_eq!(instance.admin(&["restart", "--json"]).expect(7).json()["result"], "restarting");
    assert_eq!(instance.status()["generation"], 1);
    client.greet();
}

#[test]
fn a_stop_that_continues_after_admin_cli_has_to_give_up_waiting_is_exit_code_7() {
    let Some(lobby) = Lobby::open() else { return };
    let Some((instance, port, mut client)) = lobby.start_without_threads() else { return };
    lobby.home.admin(&["free", &port, "--yes"]).expect(7).says("is stopping").says("no thread");
    instance.admin(&["stop"]).expect(7).says("stopping").says("out of threads");
    let answer = instance.admin(&["stop", "--json"]).expect(7).json();
    assert_eq!(answer["result"], "stopping");
    instance.admin(&["stop", "--no-wait"]).expect(0);
    assert!(instance.is_running());
    client.assert_told();
    drop(client);
    assert_eq!(instance.wait(), 0);
}

/// With one more thread than before, a different step of the start fails each time.
#[test]
fn a_program_that_cannot_be_started_for_lack_of_threads_leaves_no_process_behind() {
    let Some(lobby) = Lobby::open() else { return };
    if !is_installed("prlimit") {
        return;
    }
    // No other test counts against the limit of this user.
    let user = "61061";
    chown(&lobby.directory, Some(61061), Some(61061)).unwrap();
    let as_user = |program: &str, arguments: &[&str]| {
        let mut command = lobby.home.program("setpriv");
        command.args(["--reuid", user, "--regid", user, "--clear-groups", program]).args(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let (port, supervisor) = (free_port().to_string(), lobby.directory.join("supervisor").display().to_string());
    let options = ["exec", "--name", lobby.home.name(), "--listen", &port, "--on-hup", "restart", "--grace", HUGE];
    let instance = lobby.home.exec_by(as_user(&supervisor, &[&options[..], &["--", "sleep", "600"]].concat()));
    let log_has = |part: &str| instance.err.so_far().matches(part).count();
    for limit in 1.. {
        let limits = [format!("--pid={}", instance.pid), format!("--nproc={limit}:")];
        lobby.home.run(as_user("prlimit", &[&limits[0], &limits[1]])).expect(0);
        instance.signal(SIGHUP);
        let serves = || log_has("generation 2 is ready") > 0;
        eventually("it is restarted or not", || log_has("restart failed") == limit || serves());
        if serves() {
            break;
        }
    }
    eventually("all that ended has been waited for", || {
        let mut ps = command("ps");
        let children = ps.args(["-o", "stat=", "--ppid", &instance.pid.to_string()]).output().unwrap();
        !String::from_utf8_lossy(&children.stdout).lines().any(|state| state.starts_with('Z'))
    });
}

#[test]
fn a_client_in_another_pid_namespace_is_served_since_its_user_decides() {
    if !can_run(&["unshare", "--pid", "--fork", "true"]) {
        return;
    }
    let home = Home::new();
    // A process in the namespace has no numbers for processes outside it.
    let instance = home.start_by(home.supervisor_by(&["unshare", "--pid", "--fork", "--kill-child"], &["echo"]));
    instance.admin(&["ping"]).expect(0);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert!(instance.log().contains("admin client (user 0): stopping"), "{}", instance.log());
}

#[test]
fn with_a_temporary_directory_that_is_of_no_use_the_socket_is_beside_the_lock() {
    let Some(lobby) = Lobby::open() else { return };
    let [missing, of_root, taken] = ["missing", "of-root", "taken"].map(|name| lobby.directory.join(name));
    fs::create_dir(&of_root).unwrap();
    fs::create_dir(&taken).unwrap();
    fs::set_permissions(&taken, fs::Permissions::from_mode(0o777)).unwrap();
    fs::create_dir(taken.join(format!("mastercontrol-{OTHER}"))).unwrap();
    for temporary in [missing, of_root, taken] {
        let port = free_port().to_string();
        let options = ["echo", "--name", lobby.home.name(), "--listen", &port, "--admin", "require"];
        let mut command = lobby.as_other("supervisor", &options);
        command.env_remove("MASTERCONTROL_DIR").env_remove("XDG_RUNTIME_DIR").env("TMPDIR", &temporary);
        let instance = lobby.home.start_by(command);
        lobby.admin_as_other(&["--name", lobby.home.name(), "stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
    }
}

#[test]
fn a_port_that_needs_a_privilege_is_exit_code_4() {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or("1024".into());
    if first.trim().parse::<u16>().unwrap() <= 80 {
        return eprintln!("skipped: here port 80 needs no privilege");
    }
    let Some(lobby) = Lobby::open() else { return };
    chown(&lobby.directory, Some(OTHER), Some(OTHER)).unwrap();
    let name = lobby.home.name();
    let refused = lobby.as_other("supervisor", &["echo", "--listen", "80", "--name", name]);
    let ended = lobby.home.run(refused).expect(4);
    ended.says("no permission to listen on port 80");
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    let left: Vec<_> = fs::read_dir(lobby.home.sockets()).into_iter().flatten().collect();
    assert!(left.is_empty(), "{left:?} is left behind");
}

#[test]
fn the_port_of_another_user_is_not_freed() {
    let Some(lobby) = Lobby::open() else { return };
    let port = free_port();
    let number = port.to_string();
    let server = lobby.listener(&[], "127.0.0.1", port);
    lobby.admin_as_other(&["port", &number]).expect(0).says("a process of root that cannot be seen from here");
    let answer = lobby.admin_as_other(&["port", &number, "--json"]).expect(0).json();
    assert_eq!((&answer["by"][0]["user"], &answer["by"][0]["pid"]), (&"root".into(), &serde_json::Value::Null));
    lobby.admin_as_other(&["free", &number, "--yes"]).expect(4).says("run this as root");
    let answer = lobby.admin_as_other(&["free", &number, "--now", "--yes", "--json"]).expect(4).json();
    assert_eq!(answer["code"], "not_permitted");
    assert!(server.is_running());
}

#[test]
fn of_a_port_that_two_users_hold_nobody_is_ended() {
    let Some(lobby) = Lobby::open() else { return };
    let port = free_port();
    let roots = lobby.listener(&[], "127.0.0.1", port);
    let others = lobby.listener(&AS_OTHER, "127.0.0.2", port);
    lobby.admin_as_other(&["free", &port.to_string(), "--now", "--yes"]).expect(4);
    assert!(roots.is_running() && others.is_running());
}

#[test]
fn a_supervisor_is_not_taken_for_the_process_of_another_user_on_another_address_of_its_port() {
    if TcpListener::bind("[::1]:0").is_err() {
        return eprintln!("skipped: there is no IPv6 here");
    }
    assert_not_taken_for_the_process_of_root(&[], "::1");
}

#[test]
fn a_supervisor_is_not_taken_for_the_process_of_another_user_on_its_address_in_another_network() {
    if !can_run(&["unshare", "--net", "true"]) {
        return;
    }
    assert_not_taken_for_the_process_of_root(&["unshare", "--net"], "0.0.0.0");
}

/// The other user has a supervisor on all addresses of IPv4, run by this command, and root a process on this address.
#[track_caller]
fn assert_not_taken_for_the_process_of_root(by: &[&str], address: &str) {
    let Some(lobby) = Lobby::open() else { return };
    chown(&lobby.directory, Some(OTHER), Some(OTHER)).unwrap();
    let port = free_port();
    let (number, supervisor) = (port.to_string(), lobby.directory.join("supervisor").display().to_string());
    let line = [by, &AS_OTHER, &[&supervisor]].concat();
    let mut command = lobby.home.program(line[0]);
    let listen = format!("0.0.0.0:{port}");
    command.args(&line[1..]).args(["echo", "--name", lobby.home.name(), "--listen", &listen]);
    let instance = lobby.home.start_by(command);
    let server = lobby.listener(&[], address, port);
    let admin = |arguments: &[&str]| lobby.home.run(lobby.as_other("admin-cli", arguments));
    admin(&["port", &number]).expect(0).says("a process of root that cannot be seen from here");
    let answer = admin(&["port", &number, "--json"]).expect(0).json();
    let shown = if address.contains(':') { format!("[{address}]:{port}") } else { listen };
    let holder = answer["by"].as_array().unwrap().iter().find(|by| by["address"] == shown).unwrap();
    assert_eq!((&holder["user"], &holder["pid"]), (&"root".into(), &serde_json::Value::Null));
    assert_eq!(holder["supervisor"], serde_json::Value::Null);
    admin(&["free", &number, "--yes"]).expect(4).says("run this as root");
    assert!(instance.is_running() && server.is_running());
    admin(&["ping"]).expect(0);
}

#[test]
fn a_socket_that_another_user_has_made_is_not_freed() {
    let Some(lobby) = Lobby::open() else { return };
    let port = free_port().to_string();
    // Root listens, and becomes another user by starting another program.
    let script = "import os, socket, sys; listener = socket.create_server(('127.0.0.1', int(sys.argv[1]))); \
                  listener.set_inheritable(True); print('ready', flush=True); os.execvp(sys.argv[2], sys.argv[2:])";
    let mut command = lobby.home.program("python3");
    command.args(["-c", script, &port]).args(AS_OTHER).args(["sleep", "1000"]).stdout(Stdio::piped());
    let server = lobby.home.spawn(command);
    server.out.wait_for("ready");
    eventually("it has become the other program", || {
        lobby.admin_as_other(&["port", &port]).out.contains("sleep (pid ")
    });
    lobby.admin_as_other(&["free", &port, "--now", "--yes"]).expect(4).says("on a socket of root: run this as root");
    assert!(server.is_running());
}

#[test]
fn a_process_of_another_user_is_not_ended_whatever_this_one_may() {
    let Some(lobby) = Lobby::open() else { return };
    let port = free_port().to_string();
    // Root holds a socket that the other user could have made.
    let script = format!(
        "import os, signal, socket, sys; os.seteuid({OTHER}); listener = socket.create_server(('127.0.0.1', \
         int(sys.argv[1]))); os.seteuid(0); print('ready', flush=True); signal.pause()"
    );
    let mut command = lobby.home.program("python3");
    command.args(["-c", &script, &port]).stdout(Stdio::piped());
    let server = lobby.home.spawn(command);
    server.out.wait_for("ready");
    // A user who sees and may end all processes, and is not root.
    let mut command = lobby.home.program(AS_OTHER[0]);
    command.args(&AS_OTHER[1..]).env_remove("MASTERCONTROL_DIR").env_remove("XDG_RUNTIME_DIR");
    for set in ["--inh-caps", "--ambient-caps"] {
        command.args([set, "+sys_ptrace,+dac_read_search,+kill"]);
    }
    command.arg(lobby.directory.join("admin-cli")).args(["free", &port, "--now", "--yes"]);
    lobby.home.run(command).expect(4).says(&format!("(pid {}, root): run this as root", server.pid));
    assert!(server.is_running());
}

/// A set-user-id program cannot be inspected.
#[test]
fn the_private_port_of_a_program_that_runs_as_another_user_is_found() {
    let Some(lobby) = Lobby::open() else { return };
    // Others may have no access to the Python of the tests.
    if !can_run(&["/usr/bin/python3", "--version"]) {
        return;
    }
    let env = lobby.copy("/usr/bin/env", "env");
    fs::set_permissions(&env, fs::Permissions::from_mode(0o4755)).unwrap();
    let sockets = lobby.directory.join("sockets-of-other");
    fs::create_dir(&sockets).unwrap();
    fs::set_permissions(&sockets, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&sockets, Some(OTHER), Some(OTHER)).unwrap();
    let server = "import os, http.server, sys; assert os.geteuid() == 0, os.geteuid(); http.server.test(\
                  http.server.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')";
    let port = free_port().to_string();
    let options = ["exec", "--listen", &port, "--relay", "http", "--"];
    let line = [&options[..], &[env.to_str().unwrap(), "/usr/bin/python3", "-c", server, "{port}"]].concat();
    let mut command = lobby.as_other("supervisor", &line);
    command.env("MASTERCONTROL_DIR", &sockets).current_dir(&lobby.directory).stderr(Stdio::piped());
    let process = lobby.home.spawn(command);
    process.err.wait_for("listening on ");
    let mut client = Client::connect(([127, 0, 0, 1], port.parse().unwrap()).into());
    client.send("GET / HTTP/1.0\r\n\r\n");
    assert!(client.rest().starts_with("HTTP/1.0 200 "), "{}", process.err.so_far());
    process.signal(SIGTERM);
    assert_eq!(process.wait(), 0, "{}", process.err.so_far());
}

/// Runs the rest of the command without the capability that root does not have in most containers.
const IN_A_CONTAINER: [&str; 3] = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"];

/// A program of the other user that this Python code is, with these arguments.
fn python_as_other<'a>(code: &'a str, arguments: &[&'a str]) -> Vec<&'a str> {
    [&AS_OTHER, &["/usr/bin/python3", "-c", code][..], arguments].concat()
}

#[test]
fn in_a_container_a_program_of_another_user_is_seen_to_listen() {
    let Some(lobby) = Lobby::open() else { return };
    if !can_run(&[&IN_A_CONTAINER[..], &AS_OTHER, &["/usr/bin/python3", "--version"]].concat()) {
        return;
    }
    let server = "import http.server, sys; http.server.test(http.server.SimpleHTTPRequestHandler, \
                  port=int(sys.argv[1]), bind='127.0.0.1')";
    let (port, own) = (free_port().to_string(), free_port().to_string());
    let (connect, http) = (format!("connect={own}"), format!("http=http://127.0.0.1:{own}/"));
    let relay = |how| vec!["--listen", &port, "--relay", how];
    for (options, listens_at) in [
        (relay("tcp"), "{port}"),
        ([relay("http"), vec!["--ready", "connect"]].concat(), "{port}"),
        (vec!["--ready", &connect], &own),
        (vec!["--ready", &http], &own),
    ] {
        let program = python_as_other(server, &[listens_at]);
        let arguments = [&["exec", "--name", lobby.home.name()], &options[..], &["--"], &program].concat();
        let mut command = lobby.home.supervisor_by(&IN_A_CONTAINER, &arguments);
        command.current_dir(&lobby.directory).stderr(Stdio::piped());
        let process = lobby.home.spawn(command);
        process.err.wait_for("is ready");
        lobby.home.admin(&["restart"]).expect(0);
        let at = if listens_at == "{port}" { &port } else { listens_at };
        let mut client = Client::connect(([127, 0, 0, 1], at.parse().unwrap()).into());
        client.send("GET / HTTP/1.0\r\n\r\n");
        assert!(client.rest().starts_with("HTTP/1.0 200 "), "{options:?}: {}", process.err.so_far());
        drop(client);
        process.signal(SIGTERM);
        assert_eq!(process.wait(), 0, "{}", process.err.so_far());
    }
}

#[test]
fn in_a_container_it_is_said_that_two_generations_of_another_user_cannot_be_told_apart() {
    let Some(lobby) = Lobby::open() else { return };
    if !can_run(&[&IN_A_CONTAINER[..], &AS_OTHER, &["/usr/bin/python3", "--version"]].concat()) {
        return;
    }
    let server = "import http.server, socket; server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), \
                  http.server.SimpleHTTPRequestHandler, False); server.socket = socket.socket(fileno=3); \
                  server.serve_forever()";
    let port = free_port().to_string();
    let ready = format!("http=http://127.0.0.1:{port}/");
    let options = ["exec", "--name", lobby.home.name(), "--listen", &port, "--ready", &ready, "--"];
    let line = [&options[..], &python_as_other(server, &[])].concat();
    let mut command = lobby.home.supervisor_by(&IN_A_CONTAINER, &line);
    command.current_dir(&lobby.directory).stderr(Stdio::piped());
    let process = lobby.home.spawn(command);
    process.err.wait_for("is ready");
    lobby.home.admin(&["restart", "--no-wait"]).expect(0);
    process.err.wait_for("it cannot be determined which generation answers");
    process.signal(SIGTERM);
    assert_eq!(process.wait(), 0, "{}", process.err.so_far());
}

#[test]
fn root_may_free_the_port_of_another_user() {
    let Some(lobby) = Lobby::open() else { return };
    let port = free_port();
    let server = lobby.listener(&AS_OTHER, "127.0.0.1", port);
    let other = User::from_uid(OTHER.into()).unwrap().map_or(format!("user {OTHER}"), |user| user.name);
    let port = port.to_string();
    lobby.home.admin(&["port", &port]).expect(0).says(&format!("(pid {}, {other})", server.pid));
    lobby.home.admin(&["free", &port, "--grace", HUGE, "--yes"]).expect(0).says("has ended");
    assert_eq!(server.wait(), -(SIGTERM as i32));
}

#[test]
fn a_directory_of_somebody_else_is_not_used() {
    let Some(lobby) = Lobby::open() else { return };
    let directory = lobby.home.sockets();
    fs::create_dir(&directory).unwrap();
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).unwrap();
    chown(&directory, Some(OTHER), Some(OTHER)).unwrap();
    let ended = lobby.home.run(lobby.home.supervisor(&["echo", "--admin", "require"])).expect(4);
    ended.says(&format!("belongs to user {OTHER}"));
}
