//! Programs of different versions: they understand each other as far as they can, and report when they do not.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::support::{ADMIN_CLI, Home, SUPERVISOR};

/// A supervisor that claims to be of this version and answers each request with these lines. Returns its socket.
fn pretend(home: &Home, version: &str, answer: &[Value]) -> String {
    let socket = home.directory().join("other.sock");
    pretend_at(&socket, version, answer);
    socket.to_str().unwrap().to_owned()
}

fn pretend_at(socket: &Path, version: &str, answer: &[Value]) {
    let listener = UnixListener::bind(socket).unwrap();
    let lines = |values: &[Value]| values.iter().map(|value| format!("{value}\n")).collect::<String>();
    let pong = lines(&[json!({ "result": "pong", "name": "other", "pid": 1, "version": version, "mood": "fine" })]);
    let answer = lines(answer);
    // Ends with the tests.
    thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = String::new();
            BufReader::new(&client).read_line(&mut request).unwrap();
            let answer = if request.contains(r#""ping""#) { &pong } else { &answer };
            // A client may have read enough.
            let _ = client.write_all(answer.as_bytes());
        }
    });
}

/// The answer of a supervisor that does not know a request.
fn refusal() -> [Value; 1] {
    [
        json!({ "result": "error", "code": "bad_request", "message": "supervisor 0.0.7 does not understand this request" }),
    ]
}

fn connection() -> Value {
    json!({ "id": 7, "peer": "127.0.0.1:50000", "age_ms": 5, "activity": "dreaming", "of": "sheep" })
}

#[test]
fn what_a_newer_supervisor_calls_its_state_is_shown_as_it_is() {
    let home = Home::new();
    let drain = json!({ "by": "SIGTERM", "open": 1, "remaining_ms": 900, "connections": [connection()] });
    let status = json!({
        "result": "status", "name": "web", "kind": "http", "state": "hibernating", "pid": 1, "uptime_ms": 5,
        "connections": { "now": 1, "total": 7, "refused": 0, "asleep": 1 }, "drain": drain, "version": "99.0.0",
        "season": "winter"
    });
    let socket = pretend(&home, "99.0.0", &[status]);
    let ended = home.admin(&["--socket", &socket, "status"]).expect(0);
    ended.says("web is hibernating").says("1 client still connected").says("99.0.0");
    let status = home.admin(&["--socket", &socket, "status", "--json"]).expect(0).json();
    assert_eq!(status["state"], "hibernating");
    assert_eq!(status["drain"]["connections"][0]["activity"], "dreaming");
}

#[test]
fn a_newer_supervisor_can_be_stopped_with_events_and_words_that_are_new() {
    let home = Home::new();
    let report = json!({
        "by": "x", "notified": 1, "disconnected": 0, "closed": 0, "forced": 1, "stuck": 0, "took_ms": 5, "connections": [connection()]
    });
    let answer = [
        json!({ "event": "eclipse", "of": "the moon" }),
        json!({ "event": "draining", "by": 5, "changed": "altogether" }),
        json!({ "result": "stopped", "report": report, "moon": "full" }),
    ];
    let socket = pretend(&home, "99.0.0", &answer);
    let ended = home.admin(&["--socket", &socket, "stop"]).expect(5);
    ended.says("1 forced").says("connection 7 from 127.0.0.1:50000, dreaming");
}

#[test]
fn what_is_still_in_progress_though_admin_cli_would_have_waited_is_exit_code_7() {
    let drain = json!({ "by": "x", "open": 1, "remaining_ms": 900, "connections": [connection()] });
    let mut stopping = json!({ "result": "stopping" });
    stopping.as_object_mut().unwrap().extend(drain.as_object().unwrap().clone());
    let delayed = json!({ "result": "delayed", "by": "x", "remaining_ms": 900 });
    let restarting = json!({ "result": "restarting", "ahead": 0 });
    for (command, answer) in
        [(&["stop"][..], stopping), (&["stop", "--delay", "1"], delayed), (&["restart"], restarting)]
    {
        let home = Home::new();
        let socket = pretend(&home, mastercontrol::VERSION, &[answer]);
        let line = [&["--socket", &socket], command].concat();
        home.admin(&line).expect(7).says("not waiting for the end");
        home.admin(&[&line[..], &["--no-wait"]].concat()).expect(0);
    }
}

#[test]
fn one_that_refuses_and_one_that_answers_something_else_are_listed_with_what_they_said() {
    let home = Home::new();
    fs::create_dir(home.sockets()).unwrap();
    let refusal = json!({ "result": "error", "code": "busy", "message": "the moon is in the way" });
    pretend_at(&home.sockets().join("moon.sock"), mastercontrol::VERSION, &[refusal]);
    pretend_at(
        &home.sockets().join("sun.sock"),
        mastercontrol::VERSION,
        &[json!({ "result": "readiness", "ready": true })],
    );
    let list = home.admin(&["list"]).expect(0).out;
    let lines: Vec<_> = list.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(lines[1], "moon - - - the moon is in the way", "{list}");
    assert!(lines[2].starts_with("sun - - - unexpected response: {\""), "{list}");
}

#[test]
fn an_unexpected_answer_to_a_pause_is_shown_as_it_was_sent() {
    let closed = json!({ "result": "closed", "id": 7, "outcome": "closed" });
    let quiet = json!({ "event": "paused", "by": "x", "under_way": 0, "is_quiet": true });
    // With a command that has run, the exit code is that of the command.
    for (answer, code) in [(vec![closed.clone()], 1), (vec![quiet, closed], 0)] {
        let home = Home::new();
        let socket = pretend(&home, mastercontrol::VERSION, &answer);
        let ended = home.admin(&["--socket", &socket, "pause", "--", "true"]).expect(code);
        ended.says(r#"unexpected response: {"id":7,"outcome":"closed","result":"closed"}"#);
    }
}

#[test]
fn why_a_newer_supervisor_refuses_is_told_though_the_code_is_unknown() {
    let home = Home::new();
    let refusal = json!({ "result": "error", "code": "eclipsed", "message": "the moon is in the way", "until_ms": 5 });
    let socket = pretend(&home, "99.0.0", &[refusal]);
    home.admin(&["--socket", &socket, "stop"]).expect(1).says("the moon is in the way");
}

#[test]
fn how_a_newer_supervisor_has_closed_a_connection_is_shown_as_it_is() {
    let home = Home::new();
    let socket = pretend(&home, "99.0.0", &[json!({ "result": "closed", "id": 7, "outcome": "forgiven" })]);
    home.admin(&["--socket", &socket, "close", "7"]).expect(0).says("connection 7: forgiven");
}

#[test]
fn an_answer_of_a_newer_supervisor_that_is_not_understood_asks_for_the_newer_program() {
    let home = Home::new();
    let socket = pretend(&home, "99.0.0", &[json!({ "result": "eclipse" })]);
    let ended = home.admin(&["--socket", &socket, "status"]).expect(1);
    ended.says("the supervisor is newer (99.0.0) than this program (").says("use the program of that version");
}

#[test]
fn an_older_supervisor_that_does_not_know_a_request_asks_to_be_replaced() {
    let home = Home::new();
    let socket = pretend(&home, "0.0.7", &refusal());
    for request in ["restart", "events"] {
        let ended = home.admin(&["--socket", &socket, request]).expect(1);
        ended.says("the supervisor is older (0.0.7) than this program (").says("start the newer one");
    }
    let answer = home.admin(&["--socket", &socket, "restart", "--json"]).expect(1).json();
    assert!(answer["message"].as_str().unwrap().contains("older (0.0.7)"), "{answer}");
}

#[test]
fn a_refusal_of_a_supervisor_of_the_same_version_is_told_as_it_is() {
    let home = Home::new();
    let socket = pretend(&home, env!("CARGO_PKG_VERSION"), &refusal());
    home.admin(&["--socket", &socket, "stop"]).expect(1).says("does not understand this request");
}

#[test]
fn a_newer_client_is_told_which_version_the_supervisor_has() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let ask = |request: Value| -> Value {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        writeln!(stream, "{request}").unwrap();
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    };
    for (request, code) in [
        (json!({ "v": 1, "request": "eclipse" }), "bad_request"),
        (json!({ "v": 1, "request": "stop", "moon": "full" }), "bad_request"),
        (json!({ "v": 2, "request": "stop" }), "unsupported_version"),
    ] {
        let answer = ask(request);
        assert_eq!((&answer["result"], &answer["code"]), (&"error".into(), &code.into()), "{answer}");
        let release = format!("supervisor {}", env!("CARGO_PKG_VERSION"));
        assert!(answer["message"].as_str().unwrap().contains(&release), "{answer}");
    }
    let pong = ask(json!({ "v": 2, "request": "ping", "mood": "fine" }));
    assert_eq!((&pong["result"], &pong["version"]), (&"pong".into(), &env!("CARGO_PKG_VERSION").into()));
    instance.assert_serves();
}

#[test]
fn both_programs_tell_their_version_and_that_of_the_protocol() {
    let home = Home::new();
    for (program, name) in [(SUPERVISOR, "supervisor"), (ADMIN_CLI, "admin-cli")] {
        let mut command = home.program(program);
        command.arg("--version");
        let expected = format!("{name} {} (protocol 1)\n", env!("CARGO_PKG_VERSION"));
        assert_eq!(home.run(command).expect(0).out, expected);
    }
}
