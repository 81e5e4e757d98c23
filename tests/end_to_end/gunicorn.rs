//! gunicorn under `supervisor exec`: a third-party server that takes a socket and reports when it is ready.
//!
//! This is the real one, from PyPI: `MASTERCONTROL_TEST_GUNICORN` is its path; otherwise it is searched for in `PATH`.

use std::fs;
use std::path::{Path, PathBuf};

use load::{Load, Mode};

use crate::exec::{assert_nothing_runs, file};
use crate::recipes::recipe;
use crate::support::{HUGE, Home, Instance, can_run, free_port, some_more};

/// None: not installed, which is reported.
pub fn gunicorn() -> Option<PathBuf> {
    let told = std::env::var_os("MASTERCONTROL_TEST_GUNICORN").map(PathBuf::from);
    let program = told.clone().unwrap_or_else(|| "gunicorn".into());
    let can = can_run(&[program.to_str().unwrap(), "--version"]);
    // The variable says that these tests must run.
    assert!(can || told.is_none(), "{} cannot be run", program.display());
    can.then_some(program)
}

/// An application that answers with this text.
pub fn application(home: &Home, says: &str) {
    let text = format!(
        "def app(environ, start_response):
    body = b\"{says}\"
    start_response(\"200 OK\", [(\"Content-Length\", str(len(body)))])
    return [body]
"
    );
    file(home, "app.py", &text);
}

/// Starts gunicorn, which loads the application before it reports that it is ready.
pub fn start(home: &Home, gunicorn: &Path) -> Instance {
    start_with(home, gunicorn, &[])
}

/// The same with further arguments.
pub fn start_with(home: &Home, gunicorn: &Path, arguments: &[&str]) -> Instance {
    let port = free_port().to_string();
    let options = ["--listen", &port, "--grace", HUGE, "--ready", "notify"];
    let words = recipe("replace-a-program", "gunicorn", 1);
    let words: Vec<_> = words[1..].iter().map(String::as_str).collect();
    let line = [&[gunicorn.to_str().unwrap(), "--workers", "2"], &words[..], arguments].concat();
    let mut command = home.exec_command(&options, &line);
    // Python keeps compiled code, and would use it for a file that was changed within the same second.
    command.current_dir(home.directory()).env("PYTHONDONTWRITEBYTECODE", "1");
    home.exec_by(command)
}

fn answer(instance: &Instance) -> String {
    let answer = instance.client().get("/");
    assert_eq!(answer.status, 200);
    String::from_utf8(answer.body).unwrap()
}

#[test]
fn restarts_of_gunicorn_under_load_lose_no_request() {
    let Some(gunicorn) = gunicorn() else { return };
    let home = Home::new();
    application(&home, "hello");
    let instance = start(&home, &gunicorn);
    let load = Load::new(instance.address, "/", "hello", Mode::OnePerConnection).begin();
    for generation in 2..=9 {
        some_more(&load, 300);
        let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
        assert_eq!(restarted["generation"], generation, "{restarted}");
        assert_eq!(restarted["report"]["program"], "it exited with code 0", "{restarted}");
    }
    some_more(&load, 300);
    let report = load.end();
    assert_eq!(report.lost(), 0, "{report}\n{}", instance.err.so_far());
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}

#[test]
fn a_broken_version_for_gunicorn_leaves_the_old_one_serving_and_the_next_one_is_taken() {
    let Some(gunicorn) = gunicorn() else { return };
    let home = Home::new();
    application(&home, "one");
    let instance = start(&home, &gunicorn);
    assert_eq!(answer(&instance), "one");
    fs::write(home.directory().join("app.py"), "def app(environ:\n").unwrap();
    let restart = instance.admin(&["restart"]).expect(1);
    restart
        .says("generation 1 keeps serving")
        .says("before it was ready\nThe last output of the program:\n")
        .says("SyntaxError");
    assert_eq!(answer(&instance), "one");
    application(&home, "two");
    instance.admin(&["restart"]).expect(0).says("generation 2 is ready: ");
    assert_eq!(answer(&instance), "two");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_nothing_runs(&home);
}
