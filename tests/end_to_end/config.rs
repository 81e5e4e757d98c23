//! Settings from a file: at a start, and checked beforehand.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Ended, HUGE, Home, SUPERVISOR, free_port};

/// Writes a file with settings into the test's directory, and returns its path.
fn write(home: &Home, settings: &Value) -> String {
    let file = home.directory().join("web.json");
    fs::write(&file, settings.to_string()).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The supervisor did not start, and said why in one line.
#[track_caller]
fn refused(home: &Home, arguments: &[&str]) -> Ended {
    refused_with(2, home, arguments)
}

#[track_caller]
fn refused_with(code: i32, home: &Home, arguments: &[&str]) -> Ended {
    let ended = home.run(home.supervisor(arguments)).expect(code);
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    ended
}

#[test]
fn a_supervisor_takes_its_settings_from_a_file() {
    let home = Home::new();
    let port = free_port();
    let file = write(&home, &json!({ "listen": port, "name": home.name(), "grace": "200ms", "verbose": true }));
    let mut command = home.program(SUPERVISOR);
    command.args(["echo", "--config", &file]);
    let instance = home.start_by(command);
    assert_eq!(instance.address, ([127, 0, 0, 1], port).into());
    let mut client = instance.client();
    client.greet();
    instance.err.wait_for("connection 1 from ");
    instance.admin(&["stop"]).expect(5).says("1 forced");
    client.assert_told();
    assert_eq!(instance.wait(), 5);
}

#[test]
fn a_flag_wins_over_the_file() {
    let home = Home::new();
    let file = write(&home, &json!({ "grace": HUGE, "listen": "192.0.2.1:8000", "name": "another" }));
    // The address and the name are also among the arguments.
    let instance = home.start(&["echo", "--config", &file, "--grace", "0.2"]);
    let mut client = instance.client();
    client.greet();
    instance.admin(&["stop"]).expect(5);
    client.assert_told();
    assert_eq!(instance.wait(), 5);
}

#[test]
fn a_directory_in_a_file_is_meant_from_where_the_file_is() {
    let home = Home::new();
    fs::create_dir(home.directory().join("public")).unwrap();
    fs::write(home.directory().join("public").join("hello.txt"), "hello from there").unwrap();
    write(&home, &json!({ "dir": "public" }));
    let mut command = home.supervisor(&["http", "--config", "web.json"]);
    command.current_dir(home.directory());
    let instance = home.start_by(command);
    let mut client = instance.client();
    client.send("GET /hello.txt HTTP/1.0\r\n\r\n");
    let answer = client.rest();
    assert!(answer.ends_with("\r\n\r\nhello from there"), "{answer}");
}

#[test]
fn with_a_wrong_file_it_does_not_start_and_says_why() {
    let home = Home::new();
    let file = write(&home, &json!({ "gracee": 5 }));
    let why = format!(r#"{file}: there is no setting "gracee"; did you mean "grace"?"#);
    refused(&home, &["echo", "--config", &file]).says(&format!("error: {why}"));
    let ended = refused(&home, &["echo", "--config", &file, "--log", "json"]);
    let line: Value = serde_json::from_str(&ended.err).unwrap();
    assert_eq!((&line["event"], &line["message"]), (&"not_started".into(), &why.into()), "{ended}");
    // It may be on a disk that is not mounted yet: a service manager tries again.
    let missing = home.run(home.supervisor(&["echo", "--config", "missing.json"])).expect(1);
    missing.says("missing.json: there is no such file");
    home.run(home.supervisor(&["echo", "--config", ""])).expect(2);
}

#[test]
fn a_directory_that_a_file_names_and_that_is_missing_is_refused_by_name() {
    let home = Home::new();
    let file = write(&home, &json!({ "dir": "missing" }));
    let directory = home.directory().join("missing");
    let ended = refused_with(1, &home, &["http", "--config", &file]);
    ended.says(&format!("there is no directory {}", directory.display()));
}

#[test]
fn check_says_for_which_servers_a_file_is_right() {
    let home = Home::new();
    let all = write(&home, &json!({ "grace": 5 }));
    home.admin(&["check", &all]).expect(0).says(&format!("{all}: valid for echo, command, http and exec\n"));
    let answer = home.admin(&["check", &all, "--json", "--for", "command"]).expect(0).json();
    assert_eq!(answer, json!({ "result": "valid", "for": ["command"] }));
    let http = write(&home, &json!({ "dir": "." }));
    home.admin(&["check", &http]).expect(0).says(&format!("{http}: valid for http and exec\n"));
    // Most of these are settings of http.
    let typo = write(&home, &json!({ "dir": ".", "max-connections": 5, "grcae": 5 }));
    home.admin(&["check", &typo]).expect(1).says(r#"there is no setting "grcae"; did you mean "grace"?"#);
    home.admin(&["check", &http, "--for", "echo"]).expect(1).says(r#""dir" is a setting of http, not of echo"#);
}

#[test]
fn check_says_what_a_start_would_say() {
    let home = Home::new();
    for (settings, code) in [
        (json!({ "grace": "soon" }), 2),
        (json!({ "verbose": 1 }), 2),
        (json!([]), 2),
        (json!({ "dir": "missing" }), 1),
    ] {
        let file = write(&home, &settings);
        let check = home.admin(&["check", &file, "--json"]).expect(1);
        let answer = check.json();
        assert_eq!((&answer["result"], &answer["code"]), (&"error".into(), &"failed".into()), "{check}");
        let message = answer["message"].as_str().unwrap();
        assert_eq!(check.err.trim_end(), format!("admin-cli: {message}"));
        assert!(message.starts_with(&file), "{check}");
        let problem = message.strip_prefix(&format!("{file}: ")).unwrap();
        refused_with(code, &home, &["http", "--config", &file]).says(problem);
    }
}

#[cfg(unix)]
#[test]
fn check_needs_no_program_for_a_file_of_exec() {
    let home = Home::new();
    let settings = json!({ "listen": ["127.0.0.1:8080", "/run/app.sock"], "stop-signal": "INT", "ready": "notify" });
    let file = write(&home, &settings);
    for target in [&[][..], &["--for", "exec"]] {
        let check = home.admin(&[&["check", &file][..], target].concat()).expect(0);
        check.says(&format!("{file}: valid for exec\n"));
    }
    for (settings, problem) in [
        (
            json!({ "stop-signal": "DANCE" }),
            r#""stop-signal" is "DANCE": say a signal: TERM, INT, QUIT, HUP, USR1, RTMIN+3 …"#,
        ),
        (json!({ "listen": [8000, 8000] }), r#""listen" has 127.0.0.1:8000 twice; keep one"#),
        (json!({ "program": true }), r#""program" is true; say a list: ["./server", "--fast"]"#),
    ] {
        let file = write(&home, &settings);
        home.admin(&["check", &file, "--for", "exec"]).expect(1).says(problem);
    }
}

#[cfg(unix)]
#[test]
fn check_says_when_a_service_manager_has_to_pass_the_socket_of_a_file() {
    let home = Home::new();
    let file = write(&home, &json!({ "overlap": 5 }));
    let note = "the service manager has to pass its socket: there is no \"listen\"";
    home.admin(&["check", &file]).expect(0).says(&format!("{file}: valid for exec; {note}\n"));
    let answer = home.admin(&["check", &file, "--json"]).expect(0).json();
    assert_eq!(answer, json!({ "result": "valid", "for": ["exec"], "note": note }));
}

#[cfg(unix)]
#[test]
fn check_looks_at_the_program_of_a_file_as_a_restart_does() {
    use crate::support::write_script;

    let home = Home::new();
    let path = home.directory().join("server");
    let file = write(&home, &json!({ "program": ["./server"], "dir": "." }));
    let check = |code: i32| home.admin(&["check", &file, "--for", "exec"]).expect(code);
    check(1).says("./server: not found");
    fs::write(&path, "#!/bin/sh\nexec sleep 600\n").unwrap();
    check(1).says("./server: not executable");
    write_script(&path, "#!/no/such/interpreter\n");
    check(1).says("/no/such/interpreter");
    write_script(&path, "#!/bin/sh\nexec sleep 600\n");
    check(0).says("valid for exec");
    let instance = home.exec_by({
        let mut command = home.program(SUPERVISOR);
        command.args(["exec", "--name", home.name(), "--config", &file]).stderr(std::process::Stdio::piped());
        command
    });
    fs::remove_file(&path).unwrap();
    let problem = check(1).err.trim_end().rsplit_once("json: ").unwrap().1.to_owned();
    instance.admin(&["restart"]).expect(1).says(&problem);
}

#[test]
fn of_several_problems_check_says_that_of_the_server_that_has_all_the_settings() {
    let home = Home::new();
    let settings = [
        (json!({ "check-every": 0 }), r#""check-every" is 0: say more than 0"#),
        #[cfg(unix)]
        (json!({ "stop-signal": "DANCE" }), r#""stop-signal" is "DANCE": say a signal"#),
    ];
    for (settings, problem) in settings {
        home.admin(&["check", &write(&home, &settings)]).expect(1).says(problem);
    }
}

#[test]
fn check_takes_a_file_a_kind_of_server_and_no_target() {
    let home = Home::new();
    let file = write(&home, &json!({}));
    home.admin(&["check"]).expect(2);
    home.admin(&["check", &file, "--for", "dance"]).expect(2);
    for target in [["--name", "web"], ["--port", "8000"], ["--socket", "web.sock"]] {
        home.admin(&[&["check", &file][..], &target].concat()).expect(2).says("it takes no target");
    }
}
