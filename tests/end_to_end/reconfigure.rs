//! The file of `supervisor http --config FILE` is read again at each restart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use load::{Load, Mode};
use serde_json::{Value, json};

use crate::support::{HUGE, Home, Instance, SUPERVISOR, eventually, free_port};

/// A directory with two directories to serve. Each contains `name`, which says which one it is, and `same`.
fn directories(home: &Home) -> PathBuf {
    for name in ["one", "two"] {
        let directory = home.directory().join(name);
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("name"), name).unwrap();
        fs::write(directory.join("same"), "same").unwrap();
    }
    home.directory().join("server.json")
}

fn configure(file: &Path, config: &Value) {
    fs::write(file, config.to_string()).unwrap();
}

/// An HTTP server that serves the directory `one`, as its file says.
fn start(home: &Home, config: Value) -> (Instance, PathBuf) {
    let file = directories(home);
    configure(&file, &config);
    (home.start(&["http", "--config", file.to_str().unwrap()]), file)
}

fn served(instance: &Instance) -> String {
    String::from_utf8(instance.client().get("/name").body).unwrap()
}

#[test]
fn a_restart_serves_what_the_file_says_now() {
    let home = Home::new();
    let (instance, file) = start(&home, json!({ "dir": "one", "grace": 600 }));
    assert_eq!(served(&instance), "one");
    configure(&file, &json!({ "dir": "two", "grace": 600 }));
    // Not without a restart.
    assert_eq!(served(&instance), "one");
    instance.admin(&["restart"]).expect(0);
    assert_eq!(served(&instance), "two");
}

#[test]
fn a_directory_that_was_replaced_through_the_file_is_served_to_all_clients() {
    let home = Home::new();
    let (instance, file) = start(&home, json!({ "dir": "one", "grace": 600 }));
    let mut old = instance.client();
    assert_eq!(old.get("/name").body, b"one");
    configure(&file, &json!({ "dir": home.directory().join("two"), "grace": 600 }));
    instance.admin(&["restart"]).expect(0);
    assert_eq!(served(&instance), "two");
    let answer = old.get("/name");
    assert_eq!((answer.body, answer.is_last), (b"two".to_vec(), false));
}

#[test]
fn a_grace_period_from_the_file_counts_for_the_generation_that_was_made_with_it() {
    let home = Home::new();
    let (instance, file) = start(&home, json!({ "dir": "one", "grace": 600 }));
    configure(&file, &json!({ "dir": "one", "grace": "200ms" }));
    instance.admin(&["restart"]).expect(0);
    // The grace period of the new generation is short.
    let mut slow = instance.client();
    slow.send("GET /na");
    eventually("half a request has come", || {
        instance.admin(&["connections", "--json"]).expect(0).json()["connections"][0]["received"] == 7
    });
    instance.admin(&["restart"]).expect(5).says("0 closed, 1 forced");
}

#[test]
fn a_wrong_file_fails_the_restart_and_the_old_generation_serves_on_until_it_is_right() {
    let home = Home::new();
    let (instance, file) = start(&home, json!({ "dir": "one", "grace": 600 }));
    fs::write(home.directory().join("file"), "no directory").unwrap();
    let load = Load::new(instance.address, "/same", "same", Mode::KeptAlive).connections(2).begin();
    eventually("there is load", || load.answered() > 0);
    // A wrong file, and what the message has to name.
    let wrong: [(&[u8], &str); 12] = [
        (b"", "server.json"),
        (b"dir = one", "server.json"),
        (br#"{"dir":"two""#, "server.json"),
        (br#"["two"]"#, "server.json"),
        (br#"{"dir":"two","gracious":5}"#, "gracious"),
        (br#"{"dir":["two"]}"#, "dir"),
        (br#"{"dir":"two","grace":"soon"}"#, "grace"),
        (br#"{"dir":"two","grace":-1}"#, "grace"),
        (br#"{"dir":"two","max-connections":"many"}"#, "max-connections"),
        (br#"{"dir":"three"}"#, "three"),
        (br#"{"dir":"file"}"#, "file"),
        (b"{\"dir\":\"two\xff\"}", "server.json"),
    ];
    // The clients of the load, and no others.
    eventually("both are connected", || instance.status()["connections"]["now"] == 2);
    let fails = |what: &str, part: &str| {
        let answered = load.answered();
        let failed = instance.admin(&["restart", "--json"]).expect(1);
        let answer = failed.json();
        assert_eq!((&answer["result"], &answer["code"]), (&"error".into(), &"failed".into()), "{what}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(part), "{what}: nothing about {part:?}: {answer}");
        let status = instance.status();
        assert_eq!((&status["generation"], &status["state"]), (&1.into(), &"serving".into()), "{what}");
        eventually("it keeps serving", || load.answered() > answered);
    };
    for (text, part) in wrong {
        fs::write(&file, text).unwrap();
        fails(&String::from_utf8_lossy(text), part);
    }
    fs::remove_file(&file).unwrap();
    fails("no file", "server.json");
    fs::create_dir(&file).unwrap();
    fails("a directory", "server.json");
    fs::remove_dir(&file).unwrap();
    assert_eq!(served(&instance), "one");
    // No client had to reconnect.
    assert_eq!(instance.status()["connections"]["total"], 3);

    configure(&file, &json!({ "dir": "two", "grace": 600 }));
    let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
    assert_eq!((&restarted["generation"], &restarted["replaced"]), (&2.into(), &1.into()));
    assert_eq!(served(&instance), "two");
    let report = load.end();
    assert_eq!(report.lost(), 0, "{report}");
}

#[test]
fn a_restart_cannot_change_the_address() {
    let home = Home::new();
    let file = directories(&home);
    let listen = |port: u16| json!({ "dir": "one", "listen": format!("127.0.0.1:{port}") });
    configure(&file, &listen(free_port()));
    let mut command = home.program(SUPERVISOR);
    command.args(["http", "--name", home.name(), "--grace", HUGE, "--config", file.to_str().unwrap()]);
    let instance = home.start_by(command);
    let before = fs::read(&file).unwrap();
    configure(&file, &listen(free_port()));
    instance.admin(&["restart"]).expect(1).says("listen");
    let status = instance.status();
    assert_eq!((&status["generation"], &status["state"]), (&1.into(), &"serving".into()));
    assert_eq!(served(&instance), "one");
    fs::write(&file, before).unwrap();
    instance.admin(&["restart"]).expect(0);
}

#[test]
fn a_wrong_file_is_no_start_at_all() {
    let home = Home::new();
    let file = directories(&home);
    configure(&file, &json!({ "dir": "one", "gracious": 5 }));
    let mut command = home.supervisor(&["http", "--config", file.to_str().unwrap()]);
    command.stdin(Stdio::null());
    home.run(command).expect(2).says("server.json").says("gracious");
}
