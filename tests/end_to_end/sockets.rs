//! Unix sockets for programs, beside ports, several at a time.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::exec::{Clients, SERVER, assert_leaves_nothing, file, restart_five_times, sh};
use crate::manager::Manager;
use crate::support::{Ended, HUGE, Home, Instance, LIMIT, SUPERVISOR, eventually, free_port, is_installed};

/// The path of a socket in the test's directory.
fn path(home: &Home) -> PathBuf {
    home.directory().join("app.sock")
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(LIMIT))?;
    Ok(stream)
}

/// The process id that the program answers with.
fn pid_that_answers(path: &Path) -> String {
    let mut stream = connect(path).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.rsplit("\r\n").next().unwrap().to_owned()
}

/// A server on a Unix socket.
fn server(home: &Home, options: &[&str]) -> Instance {
    let script = file(home, "server.py", SERVER);
    let path = path(home);
    let options = [&["--listen", text(&path), "--grace", HUGE, "--ready", "notify"], options].concat();
    home.exec(&options, &["python3", &script])
}

/// Neither the socket nor its lock is left.
#[track_caller]
fn assert_is_gone(home: &Home) {
    let left: Vec<_> = fs::read_dir(home.directory()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    let ours = |name: &&std::ffi::OsString| name.to_string_lossy().contains("sock");
    assert_eq!(left.iter().filter(ours).collect::<Vec<_>>(), Vec::<&std::ffi::OsString>::new());
}

/// The supervisor did not start, and said why in one line.
#[track_caller]
fn refused(home: &Home, listen: &str) -> Ended {
    let ended = home.run(home.exec_command(&["--listen", listen], &["true"])).expect(1);
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    ended
}

#[test]
fn a_program_serves_on_a_unix_socket_whose_path_is_gone_when_stop_returns() {
    let home = Home::new();
    let instance = server(&home, &[]);
    let pid = pid_that_answers(&path(&home));
    instance.admin(&["connections"]).expect(1).says("those of Unix sockets cannot be seen");
    assert!(home.processes().iter().any(|(it, line)| it.to_string() == pid && line.contains("server.py")));
    instance.err.wait_for(&format!("listening on {} (pid {})", path(&home).display(), instance.pid));
    instance.admin(&["stop"]).expect(0).says("exited with code 0");
    assert_is_gone(&home);
    assert_eq!(instance.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn curl_gets_an_answer_through_the_socket() {
    if !is_installed("curl") {
        return;
    }
    let home = Home::new();
    let _instance = server(&home, &[]);
    let mut curl = home.program("curl");
    curl.args(["--silent", "--fail", "--unix-socket", text(&path(&home)), "http://server/"]);
    assert_eq!(home.run(curl).expect(0).out, pid_that_answers(&path(&home)));
}

#[test]
fn everybody_may_connect_whatever_the_umask_is() {
    let home = Home::new();
    let exec = home.exec_command(&["--listen", text(&path(&home)), "--grace", HUGE], &["sleep", "600"]);
    let mut command = home.program("sh");
    command.args(["-c", "umask 077; exec \"$@\"", "sh"]).arg(exec.get_program()).args(exec.get_args());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let _instance = home.exec_by(command);
    assert_eq!(fs::metadata(path(&home)).unwrap().permissions().mode() & 0o777, 0o666);
}

#[test]
fn who_may_connect_can_be_said() {
    let home = Home::new();
    let path = path(&home);
    let options = ["--listen", text(&path), "--socket-mode", "660", "--grace", HUGE];
    let _instance = home.exec(&options, &["sleep", "600"]);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn each_socket_has_a_name_of_its_own_whatever_ports_they_share() {
    let home = Home::new();
    let (shared, other) = (free_port(), free_port());
    let [first, second] = [1, 2].map(|last| format!("127.0.0.{last}:{shared}"));
    let options = ["--listen", &first, "--listen", &second, "--listen", &format!("web={other}")];
    assert_eq!(names(&home, &options), format!("127.0.0.1_{shared}:127.0.0.2_{shared}:web"));
}

#[test]
fn ports_and_paths_have_the_order_of_the_command_line_and_their_names() {
    let home = Home::new();
    let (one, two) = (free_port(), free_port());
    let other = home.directory().join("a:b.sock");
    let script = "import os, socket
print(os.environ['LISTEN_FDNAMES'], flush=True)
for fd in range(3, 3 + int(os.environ['LISTEN_FDS'])):
    print('at', fd, socket.socket(fileno=fd).getsockname(), flush=True)
import time; time.sleep(600)";
    let (one, two) = (format!("127.0.0.1:{one}"), format!("127.0.0.1:{two}"));
    let path = path(&home);
    let options = ["-l", text(&path), "-l", &one, "-l", text(&other), "-l", &two, "--grace", HUGE];
    let instance = home.exec(&options, &["python3", "-c", script]);
    let port = |address: &str| address.rsplit(':').next().unwrap().to_owned();
    let named = text(&other).replace(':', "_");
    instance.out.wait_for(&format!("{}:{}:{named}:{}", text(&path), port(&one), port(&two)));
    let python = |address: &str| format!("('127.0.0.1', {})", port(address));
    for (fd, name) in [(3, text(&path).to_owned()), (4, python(&one)), (5, text(&other).to_owned()), (6, python(&two))]
    {
        instance.out.wait_for(&format!("at {fd} {name}"));
    }
    // The words are the same everywhere.
    let words = format!("{}, {one}, {} and {two}", text(&path), text(&other));
    instance.err.wait_for(&format!("listening on {words} (pid "));
    let status = instance.status();
    assert_eq!(status["addresses"], json!([text(&path), one, text(&other), two]), "{status}");
    // For clients that know only one address.
    assert_eq!(status["address"], one, "{status}");
    instance.admin(&["status"]).expect(0).says(&format!("address      {words}\n"));
    home.admin(&["list"]).expect(0).says(&words);
    for address in [&one, &two] {
        let found = home.admin(&["--port", &port(address), "status", "--json"]).expect(0).json();
        assert_eq!(found["pid"], instance.pid, "{found}");
    }
    home.admin(&["--port", &free_port().to_string(), "ping"]).expect(3);
    instance.admin(&["stop"]).expect(0);
    assert_is_gone(&home);
}

#[test]
fn the_service_manager_and_a_log_for_programs_hear_of_all_addresses() {
    let home = Home::new();
    let manager = Manager::new(&home);
    let (path, address) = (path(&home), format!("127.0.0.1:{}", free_port()));
    let options = ["--listen", &address, "--listen", text(&path), "--grace", HUGE, "--log", "json"];
    let mut command = home.exec_command(&options, &["sleep", "600"]);
    command.env("NOTIFY_SOCKET", Manager::place(&home));
    let process = home.spawn(command);
    let said = format!("READY=1\nSTATUS=serving on {address} and {}, generation 1", path.display());
    manager.hears_start();
    assert_eq!(manager.hears(), said);
    let line: Value = serde_json::from_str(&process.err.wait_for("listening on ")).unwrap();
    assert_eq!((&line["address"], &line["addresses"]), (&json!(address), &json!([address, path])), "{line}");
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
}

#[test]
fn restarts_keep_the_socket_and_a_program_that_ends_well_loses_no_request() {
    let home = Home::new();
    let instance = server(&home, &[]);
    let path = path(&home);
    let clients = Clients::begin(move || connect(&path), "/");
    restart_five_times(&instance, &clients);
    let (refused, lost) = clients.end();
    assert!(refused.is_empty() && lost.is_empty(), "refused: {refused:?}, lost: {lost:?}\n{}", instance.err.so_far());
    instance.admin(&["stop"]).expect(0);
    assert_is_gone(&home);
}

#[test]
fn a_restart_that_fails_leaves_the_socket_and_the_old_program() {
    let home = Home::new();
    let server = file(&home, "server.py", SERVER);
    let script = file(&home, "start.sh", &format!("exec python3 {server}"));
    let path = path(&home);
    let instance = home.exec(&["--listen", text(&path), "--grace", HUGE, "--ready", "notify"], &["sh", &script]);
    let old = pid_that_answers(&path);
    file(&home, "start.sh", "exit 1");
    instance.admin(&["restart"]).expect(1);
    assert_eq!(pid_that_answers(&path), old);
}

#[test]
fn what_a_killed_supervisor_has_left_is_replaced() {
    let home = Home::new();
    let first = server(&home, &[]);
    let old = pid_that_answers(&path(&home));
    first.kill();
    eventually("all are gone", || home.processes().is_empty());
    assert!(path(&home).exists() && connect(&path(&home)).is_err());
    let second = server(&home, &[]);
    assert_ne!(pid_that_answers(&path(&home)), old);
    second.admin(&["stop"]).expect(0);
    assert_is_gone(&home);
}

#[test]
fn a_path_that_another_supervisor_has_is_refused_and_that_one_goes_on() {
    let home = Home::new();
    let instance = server(&home, &["--name", "other"]);
    // Also when it was deleted: then no other process has it either.
    for deleted in [false, true] {
        if deleted {
            fs::remove_file(path(&home)).unwrap();
        }
        let ended = refused(&home, text(&path(&home)));
        ended.says(&format!("{} is taken by ", path(&home).display())).says(&format!("(pid {})", instance.pid));
        assert!(deleted || !pid_that_answers(&path(&home)).is_empty());
    }
    home.admin(&["--name", "other", "stop"]).expect(0);
    assert_is_gone(&home);
}

#[test]
fn a_path_on_which_another_server_listens_is_refused_and_that_one_goes_on() {
    let home = Home::new();
    let path = path(&home);
    let listener = UnixListener::bind(&path).unwrap();
    let ended = refused(&home, text(&path));
    ended.says(&format!("{} is taken by ", path.display())).says(&format!("(pid {})", std::process::id()));
    connect(&path).unwrap();
    listener.accept().unwrap();
    fs::remove_file(path).unwrap();
    assert_is_gone(&home);
}

#[test]
fn what_is_no_socket_is_left_alone_and_a_missing_directory_is_named() {
    let home = Home::new();
    let precious = file(&home, "precious", "precious");
    refused(&home, &precious).says(&format!("{precious} is there and is no socket"));
    assert_eq!(fs::read_to_string(&precious).unwrap(), "precious");
    let missing = home.directory().join("missing");
    let ended = refused(&home, text(&missing.join("app.sock")));
    ended.says(&format!("there is no directory {} for the socket", missing.display()));
    assert_is_gone(&home);
}

#[test]
fn a_unix_socket_is_said_by_its_path_alone_and_only_for_a_program() {
    let home = Home::new();
    let long = format!("/{}", "x".repeat(107));
    for (listen, why) in [
        ("unix:/run/app.sock", "and nothing before it: /run/app.sock"),
        ("unix:app.sock", "and nothing before it: /run/app.sock"),
        ("app.sock", "or the path of a Unix socket (/run/app.sock)"),
        ("/run/", "say the absolute path of a Unix socket"),
        (&long, "the path has 108 bytes, and a socket's path at most 107"),
    ] {
        home.run(home.exec_command(&["--listen", listen], &["true"])).expect(2).says(why);
        home.run(home.exec_command(&["--ready", &format!("connect={listen}")], &["true"])).expect(2).says(why);
    }
    for kind in ["echo", "command", "http"] {
        let ended = home.run(home.supervisor(&[kind, "--listen", text(&path(&home))])).expect(2);
        ended.says("only exec has Unix sockets");
    }
    let (path, port) = (path(&home), free_port().to_string());
    let again = format!("{}//app.sock", home.directory().display());
    for twice in [[text(&path), &again], [&port, &format!("127.0.0.1:{port}")]] {
        let options = ["--listen", twice[0], "--listen", twice[1]];
        home.run(home.exec_command(&options, &["true"])).expect(2).says("twice; keep one");
    }
    let all = format!("0.0.0.0:{port}");
    let options = ["--listen", &all, "--listen", &port];
    let said = home.run(home.exec_command(&options, &["true"])).expect(1);
    said.says(&format!("{all}, on which this supervisor listens, too, is in the way; keep one"));
    assert_is_gone(&home);
}

#[test]
fn the_path_is_gone_however_the_supervisor_ends() {
    let home = Home::new();
    let path = path(&home);
    for (options, script, code) in [
        // It never starts.
        (&["--ready", "notify"][..], "exit 3", 1),
        (&["--ready", "notify", "--ready-within", "100ms"], "exec sleep 600", 1),
        // It ends by itself.
        (&["--restart", "never"], "exit 3", 3),
        (&["--restart", "never"], "sleep 0.1", 0),
        // It is given up.
        (&["--max-restarts", "0"], "exit 3", 9),
        (&["--max-restarts", "1"], "sleep 0.1; exit 3", 9),
        // Its second address cannot be bound.
        (&["--listen", "/no/such/directory/app.sock"], "exit 0", 1),
    ] {
        let options = [&["--listen", text(&path)], options].concat();
        home.run(home.exec_command(&options, &sh(script))).expect(code);
        assert_is_gone(&home);
    }
    home.run(home.exec_command(&["--listen", text(&path)], &["no-such-program"])).expect(127);
    assert_is_gone(&home);
    // A stop while nothing runs, between two attempts.
    let options = ["--listen", text(&path), "--max-restarts", "1000000", "--period", "1h", "--grace", HUGE];
    let instance = home.exec(&options, &sh("exit 3"));
    eventually("it waits", || instance.status()["state"] == "waiting");
    assert!(path.exists(), "the path is there between two tries");
    instance.admin(&["stop"]).expect(0);
    assert_is_gone(&home);
}

#[test]
fn what_somebody_else_has_put_in_its_place_is_left_there() {
    let home = Home::new();
    let instance = server(&home, &[]);
    fs::remove_file(path(&home)).unwrap();
    let other = UnixListener::bind(path(&home)).unwrap();
    instance.admin(&["stop"]).expect(0);
    connect(&path(&home)).unwrap();
    other.accept().unwrap();
}

#[test]
fn ready_connect_waits_until_the_path_answers() {
    let home = Home::new();
    let path = path(&home);
    let script = format!(
        "import os, socket, time
if os.path.exists('{0}'): os.remove('{0}')
listener = socket.socket(socket.AF_UNIX)
listener.bind('{0}')
time.sleep(0.3)
listener.listen()
while True:
    client, _ = listener.accept()
    try: client.sendall(b'hello\\n')
    except BrokenPipeError: pass # That was only a look.",
        path.display()
    );
    let ready = format!("connect={}", path.display());
    let instance = home.exec(&["--grace", HUGE, "--ready", &ready], &["python3", "-c", &script]);
    // At once: no second attempt is needed.
    let mut hello = [0; 6];
    connect(&path).unwrap().read_exact(&mut hello).unwrap();
    assert!(instance.status().get("addresses").is_none());
    // The supervisor's own queue would answer before the program does.
    let options = ["--listen", text(&path), "--ready", &ready];
    home.run(home.exec_command(&options, &["true"])).expect(2).says("the supervisor itself holds that socket");
}

/// The socket names that a program with these settings reports.
fn names(home: &Home, options: &[&str]) -> String {
    let script = "echo \"sockets [$LISTEN_FDNAMES]\"; exec sleep 600";
    let instance = home.exec(&[options, &["--grace", HUGE]].concat(), &sh(script));
    let line = instance.out.wait_for("sockets [");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    line.trim_start_matches("sockets [").trim_end_matches(']').to_owned()
}

#[test]
fn a_config_file_has_one_address_or_a_list_which_the_command_line_replaces() {
    let home = Home::new();
    let (port, path) = (free_port(), path(&home));
    let both = format!("{port}:{}", path.display());
    for (listen, expected) in [
        (json!([port, path]), both.as_str()),
        (json!([port.to_string(), path]), &both),
        (json!([path]), text(&path)),
        (json!(path), text(&path)),
        (json!([]), ""),
    ] {
        let config = file(&home, "config.json", &json!({ "listen": listen }).to_string());
        assert_eq!(names(&home, &["--config", &config]), expected, "{listen}");
        let said = free_port().to_string();
        assert_eq!(names(&home, &["--config", &config, "--listen", &said]), said, "{listen}");
    }
    assert_is_gone(&home);
}

#[test]
fn a_restart_cannot_change_the_addresses() {
    let home = Home::new();
    let path = path(&home);
    let config = file(&home, "config.json", &json!({ "listen": [path] }).to_string());
    let instance = home.exec(&["--config", &config, "--grace", HUGE], &["sleep", "600"]);
    let port = free_port();
    file(&home, "config.json", &json!({ "listen": [path, port] }).to_string());
    let changed = format!(r#"cannot change "listen" from {0} to {0} and 127.0.0.1:{port}"#, path.display());
    instance.admin(&["restart"]).expect(1).says(&changed);
}

#[test]
fn our_own_server_does_not_take_a_unix_socket_that_is_passed_to_it() {
    let home = Home::new();
    let program = [SUPERVISOR, "echo", "--admin", "off"];
    let path = path(&home);
    let options = ["--listen", text(&path), "--restart", "never"];
    home.run(home.exec_command(&options, &program)).expect(2).says("this server needs a TCP socket");
    assert_is_gone(&home);
}
