//! Programs behind `supervisor exec --relay`: each binds a port itself and does not know about passed sockets.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;

use load::{Load, Mode, Report};
use nix::sys::signal::Signal;

use crate::exec::{assert_nothing_runs, file, sh};
use crate::readme::{project, shell};
use crate::support::{Client, HUGE, Home, Instance, eventually, free_port, is_installed, some_more};

/// Binds the address in HOST and PORT. Answers with the text in the file `text`, or else with its port, and records
/// each signal to end in the file `signals`. `/hold` is answered once the file `release` exists, `/die` with its exit.
/// Connections are kept alive.
const SERVER: &str = r#"
import http.server, os, signal, sys, threading, time
assert "LISTEN_FDS" not in os.environ and "MASTERCONTROL_DESCRIPTORS" not in os.environ, dict(os.environ)
os.chdir(os.path.dirname(os.path.abspath(sys.argv[1])))
port = int(os.environ["PORT"])
text = open("text").read() if os.path.exists("text") else str(port)
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.path == "/die":
            os._exit(3)
        if self.path == "/hold":
            open("held", "w").close()
            while not os.path.exists("release"):
                time.sleep(0.01)
        body = (self.headers.get("X-Forwarded-For", "") if self.path == "/for" else text).encode()
        self.send_response(503 if text == "broken" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
def end(*_):
    with open("signals", "a") as signals:
        signals.write(f"{port}\n")
    os._exit(0)
signal.signal(signal.SIGTERM, end)
Server((os.environ["HOST"], port), Handler).serve_forever()
"#;

fn script(home: &Home) -> String {
    file(home, "server.py", SERVER)
}

/// Starts the server behind a relay of this protocol.
fn start(home: &Home, protocol: &str, options: &[&str]) -> Instance {
    let (script, port) = (script(home), free_port().to_string());
    let options = [&["--listen", &port, "--relay", protocol], options].concat();
    home.exec(&options, &["python3", &script, &script])
}

fn path(home: &Home, name: &str) -> PathBuf {
    home.directory().join(name)
}

fn write(home: &Home, name: &str, text: &str) {
    fs::write(path(home, name), text).unwrap();
}

/// Waits until the program works on `/hold`.
fn wait_until_held(home: &Home) {
    eventually("the program has the request", || path(home, "held").exists());
    fs::remove_file(path(home, "held")).unwrap();
}

/// The server's answer on a new connection.
#[track_caller]
fn answer(instance: &Instance) -> String {
    body(&mut instance.client(), "/")
}

#[track_caller]
fn body(client: &mut Client, path: &str) -> String {
    let answer = client.get(path);
    assert_eq!(answer.status, 200, "{path}");
    String::from_utf8(answer.body).unwrap()
}

#[track_caller]
fn assert_stops(home: &Home, instance: &Instance) {
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0, "{}", instance.err.so_far());
    assert_nothing_runs(home);
    instance.assert_port_is_free();
}

/// Restarts while clients request the same text.
fn restarts_under_load(protocol: &str, mode: Mode) -> Report {
    let home = Home::new();
    write(&home, "text", "hello");
    let instance = start(&home, protocol, &["--grace", HUGE]);
    let load = Load::new(instance.address, "/", "hello", mode).connections(8).begin();
    for generation in 2..=6 {
        some_more(&load, 200);
        let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
        assert_eq!(restarted["generation"], generation, "{restarted}");
        assert_eq!(restarted["report"]["program"], "it exited with code 0", "{restarted}");
    }
    some_more(&load, 200);
    let report = load.end();
    assert_eq!(report.lost(), 0, "{report}\n{}", instance.err.so_far());
    assert_stops(&home, &instance);
    report
}

#[test]
fn restarts_of_a_program_that_binds_its_port_itself_lose_no_request() {
    restarts_under_load("tcp", Mode::OnePerConnection);
}

#[test]
fn requests_on_kept_alive_connections_survive_restarts() {
    let report = restarts_under_load("http", Mode::KeptAlive);
    assert_eq!((report.connections, report.notified, report.found_closed), (8, 0, 0), "{report}");
    restarts_under_load("http", Mode::OnePerConnection);
}

#[test]
fn a_kept_alive_connection_moves_to_the_next_generation_and_a_restart_does_not_wait_for_it() {
    let home = Home::new();
    let instance = start(&home, "http", &["--grace", HUGE]);
    let mut client = instance.client();
    let first = body(&mut client, "/");
    instance.admin(&["restart"]).expect(0);
    let second = body(&mut client, "/");
    assert_ne!(first, second);
    assert_eq!(fs::read_to_string(path(&home, "signals")).unwrap(), format!("{first}\n"));
    let here = client.0.local_addr().unwrap().to_string();
    let listed = instance.admin(&["connections", "--json"]).expect(0);
    assert!(listed.out.contains(&here) && listed.out.contains(r#""activity":"idle""#), "{listed}");
    let status = instance.status();
    assert_eq!(status["relay"]["requests"]["succeeded"], 2, "{status}");
    assert_eq!(body(&mut client, "/for"), "127.0.0.1");
    drop(client);
    assert_stops(&home, &instance);
}

#[test]
fn a_crash_costs_the_request_under_way_and_no_other_one() {
    let home = Home::new();
    let instance = start(&home, "http", &[]);
    let mut idle = instance.client();
    let first = body(&mut idle, "/");
    let mut busy = instance.client();
    busy.send("POST /hold HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    wait_until_held(&home);
    let mut killer = instance.client();
    killer.send("POST /die HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(killer.answer().status, 502);
    assert_eq!(busy.answer().status, 502);
    instance.err.wait_for("generation 1 crashed: it exited with code 3");
    let second = body(&mut idle, "/");
    assert_ne!(first, second);
    assert_eq!(answer(&instance), second);
    let status = instance.status();
    assert!(status["relay"]["requests"]["bad_gateway"].as_u64().unwrap() >= 1, "{status}");
    drop((idle, busy, killer));
    assert_stops(&home, &instance);
}

#[test]
fn two_generations_run_side_by_side_on_ports_of_their_own() {
    let home = Home::new();
    let instance = start(&home, "tcp", &["--grace", HUGE]);
    let mut old = instance.client();
    let first = body(&mut old, "/");
    let restart = instance.admin_begins(&["restart", "--json"]);
    instance.err.wait_for("generation 1 draining: 1 client, ");
    let second = answer(&instance);
    assert_ne!(first, second);
    // The old one still has its client, and has not been asked to end.
    assert_eq!(body(&mut old, "/"), first);
    assert!(!path(&home, "signals").exists());
    let status = instance.status();
    assert_eq!(status["relay"]["upstream"], format!("127.0.0.1:{second}"), "{status}");
    drop(old);
    let restarted = restart.end().expect(0).json();
    assert_eq!(restarted["report"]["disconnected"], 1, "{restarted}");
    assert_eq!(fs::read_to_string(path(&home, "signals")).unwrap(), format!("{first}\n"));
    assert_stops(&home, &instance);
}

#[test]
fn the_private_port_is_in_arguments_variables_and_conditions() {
    let home = Home::new();
    let (script, port) = (script(&home), free_port().to_string());
    let variables = file(&home, "variables", "ADDRESS=here:{port}\nHOST=localhost\nPORT=80\n");
    let line = r#"test "$2" = "--at=$PORT" && test "$ADDRESS" = "here:$PORT" && test "$HOST" = localhost && exec python3 "$1" "$1""#;
    let command = ["sh", "-c", line, "sh", &script, "--at={port}"];
    let check = r#"exec=test "$PORT" = {port}"#;
    let options =
        ["--listen", &port, "--relay", "tcp", "--env-file", &variables, "--ready", "http=/", "--check", check];
    let instance = home.exec(&options, &command);
    let private = answer(&instance);
    assert_eq!(instance.status()["evidence"], format!("it answers http://127.0.0.1:{private}/ with 200 OK"));
    assert_stops(&home, &instance);
}

#[test]
fn a_program_whose_port_another_process_takes_gets_another_one() {
    let home = Home::new();
    let (script, port) = (script(&home), free_port().to_string());
    // The first time, another process gets the port first.
    let thief = r#"
import os, socket, subprocess, sys, time
if not os.path.exists("stolen"):
    open("stolen", "w").write(os.environ["PORT"])
    while not os.path.exists("taken"):
        time.sleep(0.01)
if sys.argv[2] == "waits" and open("stolen").read() == os.environ["PORT"]:
    time.sleep(1000)
os.execvp("python3", ["python3", sys.argv[1], sys.argv[1]])
"#;
    for how in ["exits", "waits"] {
        let _ = fs::remove_file(path(&home, "stolen"));
        let _ = fs::remove_file(path(&home, "taken"));
        let thief = file(&home, "thief.py", thief);
        let mut command = home.exec_command(&["--listen", &port, "--relay", "tcp"], &["python3", &thief, &script, how]);
        command.current_dir(home.directory());
        let starting = home.spawn(command);
        let mut stolen = String::new();
        eventually("the program has its port", || {
            stolen = fs::read_to_string(path(&home, "stolen")).unwrap_or_default();
            !stolen.is_empty()
        });
        let holder = TcpListener::bind(("127.0.0.1", stolen.parse().unwrap())).unwrap();
        write(&home, "taken", "");
        starting.err.wait_for(&format!("another process took the private port {stolen} "));
        let line = starting.err.wait_for("listening on 127.0.0.1:");
        assert!(line.contains(&port), "{line}");
        assert_ne!(body(&mut Client::connect(([127, 0, 0, 1], port.parse().unwrap()).into()), "/"), stolen);
        drop(holder);
        starting.signal(Signal::SIGTERM);
        assert_eq!(starting.wait(), 0, "{}", starting.err.so_far());
    }
}

#[test]
fn a_program_that_listens_elsewhere_is_not_ready_and_the_message_says_where_it_does() {
    let home = Home::new();
    let (port, elsewhere) = (free_port().to_string(), free_port().to_string());
    let options = ["--listen", &port, "--relay", "tcp", "--ready-within", "20"];
    let line = ["python3", "-m", "http.server", &elsewhere, "--bind", "127.0.0.1"];
    let ended = home.run(home.exec_command(&options, &line)).expect(1);
    ended.says("it does not listen on its private port ").says(&format!(", but on 127.0.0.1:{elsewhere};"));
    // Even if something else would show that it is ready.
    let options = [&options[..], &["--ready", "200ms"]].concat();
    let ended = home.run(home.exec_command(&options, &line)).expect(1);
    ended.says("it was not ready within 20 s: it does not listen on its private port ");
    // Long before its time limit.
    let options = ["--listen", &port, "--relay", "tcp", "--ready-within", "1000"];
    let starting = home.spawn(home.exec_command(&options, &line));
    starting.err.wait_for("the program is not ready after 5 s: it does not listen on its private port ");
    starting.signal(Signal::SIGTERM);
    starting.wait();
}

#[test]
fn a_new_version_that_does_not_get_ready_leaves_the_old_one_serving() {
    let home = Home::new();
    let instance = start(&home, "tcp", &["--ready", "http=/", "--ready-within", "20"]);
    let before = answer(&instance);
    write(&home, "text", "broken");
    instance.admin(&["restart"]).expect(1).says(
        "generation 1 keeps serving: the new program failed to start: it was not ready within 20 s: it answers 503",
    );
    assert_eq!(answer(&instance), before);
    assert_stops(&home, &instance);
}

#[test]
fn clients_are_held_while_a_crashed_program_is_replaced() {
    let home = Home::new();
    let instance = start(&home, "tcp", &["--grace", HUGE]);
    let first = answer(&instance);
    let mut killer = instance.client();
    killer.send("GET /die HTTP/1.1\r\nHost: x\r\n\r\n");
    instance.err.wait_for("generation 1 crashed: it exited with code 3");
    // Whenever a client connects, the next program serves it.
    let second = answer(&instance);
    assert_ne!(first, second);
    assert_eq!(killer.try_rest().unwrap_or_default(), "");
    // The client has not closed its side.
    instance.err.wait_for("generation 1 stopped in ");
    let status = instance.status();
    assert_eq!((&status["generation"], &status["crashes"]), (&2.into(), &1.into()), "{status}");
    assert_stops(&home, &instance);
}

#[test]
fn a_client_that_was_held_for_too_long_is_closed() {
    let home = Home::new();
    write(&home, "text", "hello");
    let instance = start(&home, "tcp", &["--wait", "100ms", "--restart", "always"]);
    // The next one never becomes ready.
    let script = script(&home);
    fs::write(&script, "import time; time.sleep(1000)").unwrap();
    let mut killer = instance.client();
    killer.send("GET /die HTTP/1.1\r\nHost: x\r\n\r\n");
    instance.err.wait_for("generation 1 crashed");
    drop(killer);
    let mut held = instance.client();
    held.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(held.try_rest().unwrap_or_default(), "");
    eventually("it is counted", || instance.status()["relay"]["given_up"] == 1);
    assert_stops(&home, &instance);
}

#[test]
fn clients_that_wait_for_a_program_are_listed_and_can_be_closed() {
    let home = Home::new();
    write(&home, "text", "hello");
    let instance = start(&home, "http", &["--wait", HUGE, "--restart", "always"]);
    // The next one never becomes ready.
    fs::write(script(&home), "import time; time.sleep(1000)").unwrap();
    let mut killer = instance.client();
    killer.send("POST /die HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(killer.answer().status, 502);
    drop(killer);
    instance.err.wait_for("generation 1 crashed");
    let mut held = instance.client();
    held.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n");
    let mut id = String::new();
    eventually("it is listed", || {
        let listed = instance.admin(&["connections", "--json"]).expect(0).json();
        let connections = listed["connections"].as_array().unwrap();
        let found = connections.iter().find(|one| one["activity"] == "held" && one["generation"].is_null());
        found.is_some_and(|found| {
            id = found["id"].to_string();
            found["peer"] == held.0.local_addr().unwrap().to_string()
        })
    });
    instance.admin(&["connections"]).expect(0).says("waiting for a program");
    instance.admin(&["close", &id, "--now"]).expect(5);
    assert!(held.try_rest().unwrap_or_default().is_empty());
    eventually("it is gone", || instance.status()["relay"]["held"] == 0);
    assert_stops(&home, &instance);
}

#[test]
fn a_client_that_speaks_tls_is_logged_once_for_each_program() {
    let home = Home::new();
    let instance = start(&home, "http", &["--grace", HUGE]);
    for generation in 1..=2 {
        for _ in 0..3 {
            let mut client = instance.client();
            client.send(b"\x16\x03\x01\x00\x05hello\n\n");
            // The program answers in its own way, and closes.
            let _ = client.0.read_to_end(&mut Vec::new());
        }
        let said = || instance.err.so_far().matches(" speaks TLS, which --relay http passes on unchanged").count();
        eventually("it is logged", || said() >= generation);
        assert_eq!(said(), generation, "{}", instance.err.so_far());
        instance.admin(&["restart"]).expect(0);
    }
    assert_stops(&home, &instance);
}

#[test]
fn a_stop_waits_for_the_last_connection_before_the_program_hears_of_it() {
    let home = Home::new();
    let instance = start(&home, "tcp", &["--grace", HUGE]);
    let mut client = instance.client();
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until_held(&home);
    let stop = instance.admin_begins(&["stop", "--json"]);
    instance.err.wait_for("stopping, 1 client, ");
    assert!(Client::try_connect(instance.address).is_err(), "it still listens");
    assert!(!path(&home, "signals").exists());
    write(&home, "release", "");
    assert_eq!(client.answer().status, 200);
    drop(client);
    let stopped = stop.end().expect(0).json();
    assert_eq!(stopped["report"]["program"], "it exited with code 0", "{stopped}");
    assert_eq!(instance.wait(), 0);
    assert!(path(&home, "signals").exists());
    assert_nothing_runs(&home);
}

#[test]
fn a_program_hears_that_its_drain_begins_if_it_wants_to() {
    let home = Home::new();
    let script = script(&home);
    // SIGUSR1 does not end this program.
    let text = SERVER.replace(
        "signal.signal(signal.SIGTERM",
        "signal.signal(signal.SIGUSR1, lambda *_: open(\"drains\", \"w\").close())\nsignal.signal(signal.SIGTERM",
    );
    fs::write(&script, text).unwrap();
    let port = free_port().to_string();
    let options = ["--listen", &port, "--relay", "tcp", "--drain-signal", "USR1", "--grace", HUGE];
    let instance = home.exec(&options, &["python3", &script, &script]);
    let mut client = instance.client();
    body(&mut client, "/");
    let restart = instance.admin_begins(&["restart"]);
    eventually("it hears of its drain", || path(&home, "drains").exists());
    assert!(!path(&home, "signals").exists());
    body(&mut client, "/");
    drop(client);
    restart.end().expect(0);
    assert!(path(&home, "signals").exists());
    assert_stops(&home, &instance);
}

#[test]
fn at_the_deadline_connections_are_forced_and_a_program_that_does_not_end_is_killed() {
    let home = Home::new();
    let port = free_port().to_string();
    let deaf = r#"import os, signal, socket
signal.signal(signal.SIGTERM, lambda *_: open("signaled", "w").close())
listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
clients = []
while True:
    clients.append(listener.accept())
    clients[-1][0].sendall(b"hello")
"#;
    let deaf = file(&home, "deaf.py", deaf);
    let mut command =
        home.exec_command(&["--listen", &port, "--relay", "tcp", "--grace", "200ms"], &["python3", &deaf]);
    command.current_dir(home.directory());
    let instance = home.exec_by(command);
    let mut client = instance.client();
    client.expect("hello");
    let stopped = instance.admin(&["stop", "--json"]).expect(5).json();
    let report = &stopped["report"];
    assert_eq!((&report["forced"], &report["program"]), (&1.into(), &"it was killed by SIGKILL".into()), "{stopped}");
    // It had five seconds to end, so this is not an overrun.
    assert!(report["took_ms"].as_u64().unwrap() >= 5000, "{stopped}");
    assert!(path(&home, "signaled").exists());
    assert_eq!(instance.wait(), 5, "{}", instance.err.so_far());
    assert_nothing_runs(&home);
}

#[test]
fn the_deadline_of_an_old_generation_can_be_moved() {
    let home = Home::new();
    let instance = start(&home, "tcp", &["--grace", HUGE]);
    let mut client = instance.client();
    body(&mut client, "/");
    let restart = instance.admin_begins(&["restart", "--json"]);
    instance.err.wait_for("generation 1 draining: 1 client, ");
    instance.admin(&["grace", "100ms"]).expect(0);
    let restarted = restart.end().expect(5).json();
    let report = &restarted["report"];
    // The program is asked to end, and has time for that.
    assert_eq!((&report["forced"], &report["program"]), (&1.into(), &"it exited with code 0".into()), "{restarted}");
    assert_stops(&home, &instance);
}

#[test]
fn without_a_grace_period_all_ends_at_once() {
    let home = Home::new();
    let instance = start(&home, "tcp", &["--grace", HUGE]);
    let mut client = instance.client();
    body(&mut client, "/");
    let first = instance.admin_begins(&["stop"]);
    instance.err.wait_for("stopping, 1 client, ");
    let stopped = instance.admin(&["stop", "--now", "--json"]).expect(5).json();
    first.end().expect(5);
    assert_eq!(stopped["report"]["forced"], 1, "{stopped}");
    assert_eq!(instance.wait(), 5);
    assert_nothing_runs(&home);
}

#[test]
fn kept_connections_end_with_an_answer_while_it_is_not_ready() {
    let home = Home::new();
    let instance = start(&home, "http", &["--grace", HUGE]);
    let mut client = instance.client();
    assert!(!client.get("/").is_last);
    instance.admin(&["drain"]).expect(0);
    eventually("clients are asked to come again", || instance.client().get("/").is_last);
    assert!(client.get("/").is_last);
    assert_eq!(client.rest(), "");
    instance.admin(&["resume"]).expect(0);
    eventually("connections are kept again", || !instance.client().get("/").is_last);
}

#[test]
fn its_connections_are_listed_closed_and_counted() {
    let home = Home::new();
    let health = free_port();
    let instance = start(&home, "tcp", &["--grace", HUGE, "--health", &health.to_string()]);
    let mut client = instance.client();
    let private = body(&mut client, "/");
    let here = client.0.local_addr().unwrap().to_string();
    let listed = instance.admin(&["connections"]).expect(0);
    listed.says(&here);
    let json = instance.admin(&["connections", "--json"]).expect(0);
    assert!(json.out.contains(r#""generation":1"#), "{json}");
    let status = instance.status();
    let (relay, connections) = (&status["relay"], &status["connections"]);
    assert_eq!((&relay["protocol"], &relay["held"]), (&"tcp".into(), &0.into()), "{status}");
    assert_eq!(relay["upstream"], format!("127.0.0.1:{private}"), "{status}");
    assert_eq!((&connections["now"], &connections["total"]), (&1.into(), &1.into()), "{status}");
    instance.admin(&["status"]).expect(0).says(&format!("relay        tcp, to 127.0.0.1:{private}, 0 waiting, "));
    let metrics = Client::connect(([127, 0, 0, 1], health).into()).get("/metrics");
    let metrics = String::from_utf8(metrics.body).unwrap();
    for sample in ["mastercontrol_connections 1\n", "mastercontrol_relay_held 0\n"] {
        assert!(metrics.contains(sample), "{metrics}");
    }
    let close = instance.admin(&["close", "1", "--now"]);
    assert!([0, 5].contains(&close.code), "{close}");
    assert_eq!(client.try_rest().unwrap_or_default(), "");
    eventually("it is gone", || instance.status()["connections"]["now"] == 0);
    assert_stops(&home, &instance);
}

#[test]
fn a_client_that_is_closed_at_once_during_the_drain_of_a_relay_is_reported_as_forced() {
    let home = Home::new();
    for protocol in ["http", "tcp"] {
        let instance = start(&home, protocol, &["--grace", HUGE]);
        let mut held = instance.client();
        held.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
        wait_until_held(&home);
        let stop = instance.admin_begins(&["stop"]);
        instance.wait_for_countdown();
        let listed = instance.admin(&["connections", "--json"]).expect(0).json();
        let id = listed["connections"][0]["id"].to_string();
        instance.admin(&["close", &id, "--now"]).expect(5).says("forced");
        stop.end().expect(5).says("1 forced");
        assert_eq!(instance.wait(), 5);
        assert!(held.try_rest().unwrap_or_default().is_empty());
    }
}

#[test]
fn a_new_program_on_probation_gets_the_clients_and_gives_them_back_if_it_fails() {
    let home = Home::new();
    let instance = start(&home, "tcp", &["--overlap", HUGE]);
    let first = answer(&instance);
    let restart = instance.admin_begins(&["restart"]);
    instance.err.wait_for("generation 2 serves beside generation 1 ");
    let second = answer(&instance);
    assert_ne!(first, second);
    let mut killer = instance.client();
    killer.send("GET /die HTTP/1.1\r\nHost: x\r\n\r\n");
    restart.end().expect(1).says("generation 1 keeps serving: generation 2 was withdrawn");
    drop(killer);
    assert_eq!(answer(&instance), first);
    assert_stops(&home, &instance);
}

#[test]
fn a_program_begins_with_the_limit_of_descriptors_that_the_supervisor_began_with() {
    let home = Home::new();
    let port = free_port().to_string();
    let program = sh(r#"ulimit -n > limit; exec python3 -m http.server "$PORT" --bind 127.0.0.1"#);
    let line = ["exec", "--name", home.name(), "--listen", &port, "--relay", "tcp", "--"];
    let line = [&line[..], &program].concat();
    let mut command = home.supervisor_by(&["sh", "-c", "ulimit -Sn 100; exec \"$0\" \"$@\""], &line);
    command.current_dir(home.directory()).stderr(Stdio::piped());
    let instance = home.exec_by(command);
    assert_eq!(fs::read_to_string(path(&home, "limit")).unwrap(), "100\n");
    let limits = fs::read_to_string(format!("/proc/{}/limits", instance.pid)).unwrap();
    let own = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert!(!own.contains(" 100 "), "{own}");
    assert_stops(&home, &instance);
}

#[test]
fn a_program_is_replaced_though_its_clients_could_take_all_descriptors() {
    let home = Home::new();
    let (script, port) = (script(&home), free_port().to_string());
    let start = |clients: &str| {
        let options =
            ["exec", "--name", home.name(), "--listen", &port, "--relay", "http", "--max-connections", clients];
        let line = [&options[..], &["--", "python3", &script, &script]].concat();
        // A client and its connection to the program take two descriptors.
        home.supervisor_by(&["sh", "-c", "ulimit -n 256; exec \"$0\" \"$@\""], &line)
    };
    home.run(start("200")).expect(2).says("the limit of file descriptors allows 156; say 156 or fewer");
    let mut command = start("150");
    command.stderr(Stdio::piped());
    let instance = home.exec_by(command);
    let mut clients: Vec<_> = (0..150).map(|_| instance.client()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    instance.admin(&["restart"]).expect(0);
    for client in &mut clients {
        assert_eq!(client.get("/").status, 200);
    }
    assert_stops(&home, &instance);
}

#[test]
fn what_a_relay_cannot_do_is_refused_at_the_start() {
    let home = Home::new();
    let refused = |options: &[&str], says: &str| {
        home.run(home.exec_command(options, &["true"])).expect(2).says(says);
    };
    refused(&["--relay", "tcp"], "\"relay\" needs \"listen\"");
    refused(&["--ready", "connect"], "\"ready\" has no address, and only \"relay\" gives the program a private port");
    let ended = home.run(home.exec_command(&["--listen", "8000", "--relay", "udp"], &["true"])).expect(2);
    ended.says("say http or tcp");
}

#[test]
fn the_deploy_script_replaces_a_server_in_node_and_one_in_python() {
    for (program, server) in [("node", "server.js"), ("python3", "server.py")] {
        if !is_installed(program) {
            eprintln!("skipped: {program} is not installed");
            continue;
        }
        let home = Home::new();
        let root = home.directory().join("shop");
        let text = fs::read_to_string(project().join("examples/relay").join(server)).unwrap();
        for (release, text) in [("1", &*text), ("2", &*text), ("3", "it is broken")] {
            let release = root.join("releases").join(release);
            fs::create_dir_all(&release).unwrap();
            fs::write(release.join(server), text).unwrap();
        }
        symlink("releases/1", root.join("current")).unwrap();
        let (current, port) = (root.join("current"), free_port().to_string());
        let options = ["--listen", &port, "--relay", "http", "--dir", current.to_str().unwrap(), "--ready", "http=/"];
        let instance = home.exec(&options, &[program, server]);
        let deploy = |release: &str| {
            let script = format!("examples/relay/deploy.sh {} {} {release}", home.name(), root.display());
            let mut deploy = shell(&home, &script);
            deploy.stdout(Stdio::piped()).stderr(Stdio::piped());
            home.run(deploy)
        };
        let mut client = instance.client();
        assert_eq!(body(&mut client, "/"), "1\n");
        deploy("2").expect(0);
        assert_eq!(body(&mut client, "/"), "2\n", "{program}");
        deploy("3").expect(1).says("3 did not take over, releases/2 keeps serving");
        assert_eq!(fs::read_link(&current).unwrap().to_str(), Some("releases/2"));
        assert_eq!(body(&mut client, "/"), "2\n", "{program}");
        drop(client);
        assert_stops(&home, &instance);
    }
}

#[test]
fn a_release_that_has_taken_over_stays_though_clients_of_the_old_one_had_to_be_closed_by_force() {
    let home = Home::new();
    let (root, script, port) = (path(&home, "shop"), script(&home), free_port().to_string());
    let current = root.join("current");
    for release in ["1", "2"] {
        fs::create_dir_all(root.join("releases").join(release)).unwrap();
    }
    symlink("releases/1", &current).unwrap();
    let options =
        ["--listen", &port, "--relay", "http", "--dir", current.to_str().unwrap(), "--ready", "http=/", "--grace", "0"];
    let instance = home.exec(&options, &["python3", &script, &script]);
    let mut client = instance.client();
    client.send("GET /hold HTTP/1.1\r\nHost: x\r\n\r\n");
    wait_until_held(&home);
    let mut deploy = shell(&home, &format!("examples/relay/deploy.sh {} {} 2", home.name(), root.display()));
    deploy.stdout(Stdio::piped()).stderr(Stdio::piped());
    home.run(deploy).expect(0).says("2 serves");
    assert_eq!(fs::read_link(&current).unwrap().to_str(), Some("releases/2"));
    drop(client);
    instance.admin(&["stop", "--grace", HUGE]).expect(0);
    assert_eq!(instance.wait(), 0);
}
