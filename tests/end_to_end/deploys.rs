//! Releases in directories, and a symbolic link `current` that a deploy switches: what a restart starts.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::exec::{SERVER as SOCKET_SERVER, file};
use crate::support::{Client, Ended, HUGE, Home, Instance, SUPERVISOR, eventually, free_port, write_script};

/// Releases, one of which is `current`.
struct Releases<'a>(&'a Home);

/// Prints its release, and where it was started.
const SERVER: &str = "#!/bin/sh
echo \"$(cat release) in $(pwd -P), for others $PWD\"
exec sleep 600
";

impl Releases<'_> {
    /// Makes releases with these names. The first one is the current one.
    fn new<'a>(home: &'a Home, names: &[&str]) -> Releases<'a> {
        let releases = Releases(home);
        for name in names {
            let release = releases.path(name);
            fs::create_dir_all(release.join("dist")).unwrap();
            fs::write(release.join("release"), name).unwrap();
            fs::write(release.join("dist/release"), name).unwrap();
            write_script(&release.join("server"), SERVER);
        }
        releases.switch(names[0]);
        releases
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.directory().join("releases").join(name)
    }

    fn current(&self) -> PathBuf {
        self.0.directory().join("current")
    }

    /// Switches the link as a deploy does: it exists at all times.
    fn switch(&self, name: &str) {
        let link = self.0.directory().join("next");
        symlink(self.path(name), &link).unwrap();
        fs::rename(&link, self.current()).unwrap();
    }

    /// Starts the command like a shell whose user has changed into the current release.
    fn in_current(&self, mut command: Command) -> Command {
        command.current_dir(self.current()).env("PWD", self.current());
        command
    }

    fn exec(&self, options: &[&str], program: &[&str]) -> Instance {
        // Options of the test override this one.
        let options = [&["--ready", "20ms"], options].concat();
        self.0.exec_by(self.in_current(self.0.exec_command(&options, program)))
    }

    /// Starts a server of our own, and waits until it listens.
    fn start(&self, arguments: &[&str]) -> Instance {
        self.0.start_by(self.in_current(self.0.supervisor(arguments)))
    }

    /// The output of the server when it is this release.
    fn says(&self, name: &str) -> String {
        format!("{name} in {}, for others {}\n", self.path(name).display(), self.current().display())
    }
}

fn switch_and_restart(releases: &Releases<'_>, instance: &Instance) -> Ended {
    instance.out.wait_for(&releases.says("one"));
    releases.switch("two");
    let restarted = instance.admin(&["restart"]).expect(0);
    instance.out.wait_for(&releases.says("two"));
    restarted
}

#[test]
fn a_restart_starts_the_release_that_the_path_of_the_start_leads_to_now() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one", "two"]);
    let instance = releases.exec(&[], &["./server"]);
    switch_and_restart(&releases, &instance);
    // Although the directory of the start is gone by now.
    fs::remove_dir_all(releases.path("one")).unwrap();
    instance.admin(&["restart"]).expect(0);
}

#[test]
fn a_program_starts_in_the_directory_that_is_said_by_whatever_path() {
    for absolute in [true, false] {
        let home = Home::new();
        let releases = Releases::new(&home, &["one", "two"]);
        let dir = if absolute { releases.current() } else { "./current".into() };
        let mut command = home.exec_command(&["--dir", dir.to_str().unwrap()], &["./server"]);
        command.current_dir(home.directory());
        let instance = home.exec_by(command);
        instance.out.wait_for(&format!("one in {}", releases.path("one").display()));
        releases.switch("two");
        instance.admin(&["restart"]).expect(0);
        instance.out.wait_for(&format!("two in {}", releases.path("two").display()));
    }
}

#[test]
fn a_path_in_the_environment_that_leads_elsewhere_is_not_followed() {
    for wrong in ["/tmp", "relative", "/nowhere"] {
        let home = Home::new();
        let releases = Releases::new(&home, &["one"]);
        let mut command = home.exec_command(&[], &["./server"]);
        command.current_dir(releases.path("one")).env("PWD", wrong);
        let instance = home.exec_by(command);
        let path = releases.path("one");
        instance.out.wait_for(&format!("one in {0}, for others {0}\n", path.display()));
    }
}

#[test]
fn a_program_whose_directory_is_missing_does_not_start_and_that_is_said() {
    let home = Home::new();
    let ended = home.run(home.exec_command(&["--dir", "/nowhere/at/all"], &["sh"])).expect(126);
    ended.says("error: there is no directory /nowhere/at/all");
}

#[test]
fn the_configuration_is_that_of_the_current_release() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one", "two"]);
    for name in ["one", "two"] {
        let config = format!(r#"{{ "grace": "{HUGE}", "dir": "{}/dist" }}"#, releases.path(name).display());
        fs::write(releases.path(name).join("web.json"), config).unwrap();
    }
    let instance = releases.start(&["http", "--config", "web.json"]);
    assert_eq!(instance.client().get("/release").body, b"one");
    releases.switch("two");
    fs::remove_dir_all(releases.path("one")).unwrap();
    instance.admin(&["restart"]).expect(0);
    assert_eq!(instance.client().get("/release").body, b"two");
}

#[test]
fn files_are_those_of_the_current_release_without_a_restart() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one", "two"]);
    let instance = releases.start(&["http", "dist"]);
    let mut client = instance.client();
    assert_eq!(client.get("/release").body, b"one");
    releases.switch("two");
    assert_eq!(client.get("/release").body, b"two");
}

#[test]
fn while_the_served_directory_is_missing_the_server_is_not_ready_and_says_why() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one"]);
    let port = free_port();
    let instance = releases.start(&["http", "dist", "--health", &port.to_string()]);
    let dist = releases.current().join("dist");
    let ready = || Client::connect(([127, 0, 0, 1], port).into()).get("/ready");
    eventually("it is ready", || ready().status == 200);
    fs::remove_dir_all(&dist).unwrap();
    let answer = ready();
    let text = String::from_utf8(answer.body).unwrap();
    assert_eq!(answer.status, 503);
    assert!(text.starts_with("not ready: ") && text.contains(dist.to_str().unwrap()), "{text}");
    instance.admin(&["status"]).expect(0).says("not ready").says(dist.to_str().unwrap());
    assert_eq!(instance.status()["ready"], false);
    // A restart would not help, and changes nothing.
    instance.admin(&["restart"]).expect(1).says(dist.to_str().unwrap());
    fs::create_dir(&dist).unwrap();
    assert_eq!(ready().status, 200);
    assert_eq!(instance.status()["ready"], true);
}

/// Runs a test with and without a socket of ours, which decides whether the two programs can run side by side.
fn with_and_without_a_socket(test: impl Fn(&Home, &[&str])) {
    let port = free_port().to_string();
    for options in [&[][..], &["--listen", &port]] {
        test(&Home::new(), options);
    }
}

#[test]
fn a_restart_that_cannot_work_changes_nothing_and_says_why() {
    with_and_without_a_socket(|home, options| {
        let releases = Releases::new(home, &["one", "missing", "plain", "alien", "unknown", "directory"]);
        let server = |name| releases.path(name).join("server");
        fs::remove_file(server("missing")).unwrap();
        fs::remove_file(server("plain")).unwrap();
        fs::write(server("plain"), SERVER).unwrap();
        write_script(&server("alien"), "#!/no/such/interpreter\n");
        write_script(&server("unknown"), "#!/usr/bin/env no-such-interpreter\n");
        fs::remove_file(server("directory")).unwrap();
        fs::create_dir(server("directory")).unwrap();
        let instance = releases.exec(&[&["--grace", HUGE], options].concat(), &["./server"]);
        instance.out.wait_for(&releases.says("one"));
        let pid = program(home);
        for (name, why) in [
            ("missing", "./server: not found"),
            ("plain", "./server: not executable, or not permitted"),
            ("alien", "./server: its interpreter /no/such/interpreter: not found"),
            ("unknown", "./server: its interpreter no-such-interpreter: not found"),
            ("directory", "./server: is a directory"),
            ("gone", "there is no directory"),
        ] {
            releases.switch(name);
            let restarted = instance.admin(&["restart"]).expect(1);
            restarted.says("generation 1 keeps serving").says(why);
            assert_eq!((program(home), &instance.status()["generation"]), (pid, &1.into()), "{name}");
        }
        let log = instance.err.so_far();
        assert!(!log.contains("outage"), "{log}");
        releases.switch("one");
        instance.admin(&["restart"]).expect(0);
        assert_ne!(program(home), pid);
    });
}

/// The process that `server` has become.
fn program(home: &Home) -> u32 {
    let sleeps = |processes: Vec<(u32, String)>| processes.into_iter().find(|(_, line)| line == "sleep 600");
    let mut found = None;
    eventually("the program runs", || {
        found = sleeps(home.processes());
        found.is_some()
    });
    found.unwrap().0
}

#[test]
fn a_restart_that_is_an_outage_says_so_before_it_begins() {
    with_and_without_a_socket(|home, options| {
        let releases = Releases::new(home, &["one"]);
        let instance = releases.exec(options, &["./server"]);
        instance.out.wait_for(&releases.says("one"));
        instance.admin(&["restart"]).expect(0);
        instance.err.wait_for("generation 1 draining");
        let log = instance.err.so_far();
        let outage = log.find("an outage begins: generation 1 has to end before the next one starts");
        match options {
            [] => assert!(outage.unwrap() < log.find("generation 1 draining").unwrap(), "{log}"),
            _ => assert_eq!(outage, None, "{log}"),
        }
    });
}

#[test]
fn a_new_version_that_ends_when_the_old_one_is_gone_fails_the_command_which_says_what_runs() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one", "two"]);
    write_script(&releases.path("two").join("server"), "#!/bin/sh\necho broken >&2\nexit 3\n");
    let instance = releases.exec(&["--ready", "3s", "--max-restarts", "1000"], &["./server"]);
    releases.switch("two");
    let restarted = instance.admin(&["restart"]).expect(1);
    restarted.says("restart failed, nothing is running (next try in ").says("broken");
    // The crash policy continues.
    releases.switch("one");
    eventually("it runs again", || instance.status()["state"] == "serving");
}

/// Prints what it got from the environment file.
const SAYS_KEY: &str = "echo \"key $KEY\"; exec sleep 600";

#[test]
fn a_restart_reads_the_environment_file_again() {
    let home = Home::new();
    let file = home.directory().join("app.env");
    fs::write(&file, "# comment\nexport KEY='one two' # what it is\n").unwrap();
    let instance = home.exec(&["--env-file", file.to_str().unwrap()], &["sh", "-c", SAYS_KEY]);
    instance.out.wait_for("key one two\n");
    fs::write(&file, "KEY=\"se\\ncret\"\nNEW=secret\n").unwrap();
    let restarted = instance.admin(&["restart"]).expect(0);
    instance.out.wait_for("cret\n");
    restarted.says("changed: variable KEY (not shown)").says("changed: variable NEW set (new)");
    let shown = restarted.out + &instance.admin(&["events", "--json"]).expect(0).out + &instance.err.so_far();
    assert!(!shown.contains("secret") && !shown.contains("cret"), "{shown}");
    // Variables for the program are not in the environment of its guardian.
    for (pid, line) in home.processes().into_iter().filter(|(_, line)| line.contains(" @")) {
        let environment = String::from_utf8(fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
        assert!(!environment.split('\0').any(|variable| variable.starts_with("NEW=")), "{line}");
    }
    let environment = fs::read(format!("/proc/{}/environ", program(&home))).unwrap();
    let environment = String::from_utf8(environment).unwrap();
    assert!(environment.contains("NEW=secret") && !environment.contains("ENVIRONMENT"), "{environment}");
}

#[test]
fn a_restart_that_changes_thousands_of_variables_names_some_and_counts_the_rest() {
    let home = Home::new();
    let file = home.directory().join("app.env");
    fs::write(&file, "KEY=one\n").unwrap();
    let instance = home.exec(&["--env-file", file.to_str().unwrap()], &["sh", "-c", SAYS_KEY]);
    fs::write(&file, (0..3000).fold(String::new(), |text, at| format!("{text}KEY_{at:04}=two\n"))).unwrap();
    let restarted = instance.admin(&["restart"]).expect(0);
    restarted.says("changed: variable KEY_0000 set (new)").says("changed: and 2951 more (not shown)");
    instance.err.wait_for("variable KEY_0049 set (new), and 2951 more (not shown)\n");
}

#[test]
fn an_environment_file_that_is_wrong_changes_nothing_and_its_line_is_named() {
    with_and_without_a_socket(|home, options| {
        let file = home.directory().join("app.env");
        fs::write(&file, "KEY=one\n").unwrap();
        let options = [&["--env-file", file.to_str().unwrap()], options].concat();
        let instance = home.exec(&options, &["sh", "-c", SAYS_KEY]);
        let pid = program(home);
        for (text, problem) in [("KEY=two\n\noops\n", "app.env: line 3: say KEY=value"), ("A='", "app.env: line 1: ")] {
            fs::write(&file, text).unwrap();
            instance.admin(&["restart"]).expect(1).says("generation 1 keeps serving").says(problem);
        }
        fs::remove_file(&file).unwrap();
        instance.admin(&["restart"]).expect(1).says("app.env: there is no such file");
        assert_eq!(program(home), pid);
    });
}

#[test]
fn a_program_is_looked_for_where_the_environment_file_says() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one"]);
    let file = home.directory().join("app.env");
    fs::write(&file, format!("PATH={}:/usr/bin:/bin\n", releases.current().display())).unwrap();
    let instance = releases.exec(&["--env-file", file.to_str().unwrap()], &["server"]);
    instance.out.wait_for(&releases.says("one"));
}

#[test]
fn a_restart_takes_program_directory_and_variables_from_the_configuration() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one", "two"]);
    fs::write(home.directory().join("app.env"), "KEY=1\n").unwrap();
    let config = home.directory().join("app.json");
    let configure = |text: &str| fs::write(&config, text).unwrap();
    configure(r#"{ "program": ["./server"], "dir": "releases/one", "env-file": "app.env" }"#);
    let mut command = home.program(SUPERVISOR);
    command.args(["exec", "--name", home.name(), "--config", config.to_str().unwrap()]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let instance = home.exec_by(command);
    instance.out.wait_for("one in ");
    assert_eq!(instance.status()["program"], "./server");
    configure(r#"{ "program": ["sh", "-c", "echo $0 $KEY; exec ./server", "changed"], "dir": "releases/two" }"#);
    let restarted = instance.admin(&["restart"]).expect(0);
    instance.out.wait_for("two in ");
    let (one, two) = (releases.path("one"), releases.path("two"));
    restarted.says(&format!("changed: directory {} -> {}", one.display(), two.display()));
    restarted.says("changed: arguments -c echo").says("changed: variable KEY set (removed)");
    assert_eq!(instance.status()["program"], "sh -c echo $0 $KEY; exec ./server changed");
    for (text, problem) in [
        (r#"{ "program": [] }"#, r#""program" is an empty list; say a list: ["./server", "--fast"]"#),
        (r#"{ "program": "./server --fast" }"#, r#""program" is "./server --fast"; say a list"#),
        ("{}", r#"it has no "program", and neither has the command line"#),
        (r#"{ "program": "/no/such/program" }"#, "/no/such/program: not found"),
    ] {
        configure(text);
        instance.admin(&["restart"]).expect(1).says("generation 2 keeps serving").says(problem);
    }
}

#[test]
fn the_program_of_the_command_line_counts_more_than_that_of_the_file() {
    let home = Home::new();
    let config = home.directory().join("app.json");
    fs::write(&config, r#"{ "program": ["/no/such/program"] }"#).unwrap();
    let instance = home.exec(&["--config", config.to_str().unwrap()], &["sh", "-c", "echo here; exec sleep 600"]);
    instance.out.wait_for("here");
    let neither = home.run(home.exec_command(&[], &[])).expect(2);
    neither.says("PROGRAM");
}

/// As in a script that passes its own arguments on, and has none.
#[test]
fn the_program_of_the_file_runs_if_nothing_follows_the_hyphens_of_the_command_line() {
    let home = Home::new();
    let config = home.directory().join("app.json");
    fs::write(&config, r#"{ "program": ["sh", "-c", "echo here; exec sleep 600"] }"#).unwrap();
    let instance = home.exec(&["--config", config.to_str().unwrap()], &[]);
    instance.out.wait_for("here");
}

#[test]
fn a_restart_says_what_has_changed() {
    let home = Home::new();
    let releases = Releases::new(&home, &["one", "two"]);
    write_script(&releases.path("two").join("server"), &format!("{SERVER}# and more\n"));
    let config = home.directory().join("app.json");
    fs::write(&config, r#"{ "grace": 5 }"#).unwrap();
    let instance = releases.exec(&["--config", config.to_str().unwrap()], &["./server"]);
    instance.admin(&["restart"]).expect(0).says("same command, directory and settings");
    fs::write(&config, r#"{ "grace": 30 }"#).unwrap();
    let restarted = switch_and_restart(&releases, &instance);
    let server = |name| releases.path(name).join("server").display().to_string();
    let (one, two) = (server("one"), server("two"));
    restarted.says(&format!("changed: program {one} ({} bytes, ", SERVER.len()));
    restarted.says(&format!(" -> {two} ({} bytes, ", SERVER.len() + "# and more\n".len()));
    restarted.says(&format!(
        "changed: directory {} -> {}",
        releases.path("one").display(),
        releases.path("two").display()
    ));
    restarted.says("changed: grace 5 -> 30");
    instance.err.wait_for("; changed: grace 5 -> 30, program ");
    let json = instance.admin(&["restart", "--json"]).expect(0).json();
    assert_eq!(json["changes"], serde_json::json!([]));
}

/// Binds its address only after a while, as many programs do.
const SLOW: &str = "
import socket, sys, time
time.sleep(0.3)
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(('127.0.0.1', int(sys.argv[1])))
listener.listen()
while True:
    listener.accept()[0].close()
";

#[test]
fn an_outage_is_not_reported_shorter_than_clients_see_it() {
    let home = Home::new();
    let (server, port) = (file(&home, "slow.py", SLOW), free_port());
    // Otherwise a program that starts late would count as ready after a second.
    let ready = format!("connect={port}");
    let instance = home.exec(&["--ready", &ready], &["python3", &server, &port.to_string()]);
    let is_over = AtomicBool::new(false);
    let (restarted, seen) = thread::scope(|scope| {
        // From the first refused client to the last one: the outage is at least this long.
        let clients = scope.spawn(|| {
            let mut refused = None;
            while !is_over.load(Ordering::Relaxed) {
                let before = Instant::now();
                let connected = TcpStream::connect(("127.0.0.1", port));
                if connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
                    refused.get_or_insert((Instant::now(), before)).1 = before;
                }
                // So that it does not use up all ports.
                thread::sleep(Duration::from_millis(1));
            }
            refused.map(|(first, last)| last.saturating_duration_since(first)).unwrap_or_default()
        });
        let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
        is_over.store(true, Ordering::Relaxed);
        (restarted, clients.join().unwrap())
    });
    let reported = Duration::from_millis(restarted["down_ms"].as_u64().unwrap() + 1);
    assert!(reported >= seen, "{reported:?} reported, {seen:?} seen");
    assert_eq!(restarted["evidence"], format!("it answers on 127.0.0.1:{port}"));
}

#[test]
fn of_a_program_of_which_nothing_is_known_nothing_is_claimed() {
    let home = Home::new();
    let instance = home.exec(&["--ready", "20ms"], &["sleep", "600"]);
    let restarted = instance.admin(&["restart"]).expect(0);
    restarted.says("generation 2 is ready: it has run for 20 ms");
    assert!(!(restarted.out + &instance.err.so_far()).contains("serv"));
}

/// Answers with its release, which it reads at its start.
fn release_server() -> String {
    let server = SOCKET_SERVER.replace("str(os.getpid()).encode()", "release");
    format!("release = open('release', 'rb').read()\n{server}")
}

/// The part of a server that reports its readiness, and nothing else.
fn say_ready() -> String {
    let (says, _) = SOCKET_SERVER.split_once("while not ending").unwrap();
    says.to_owned()
}

/// Answers with its release, except when it is asked for its health.
fn sick_server() -> String {
    release_server().replace("client.recv(1000)\n    body", "request = client.recv(1000)\n    body").replace(
        r#"sendall(b"HTTP/1.1 200 OK"#,
        r#"sendall(b"HTTP/1.1 " + (b"503 Sick" if b"/health" in request else b"200 OK") + b""#,
    )
}

/// The answer to one client on a connection of its own.
fn ask(address: SocketAddr) -> io::Result<String> {
    let mut client = TcpStream::connect(address)?;
    client.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    let (_, release) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(release.to_owned())
}

#[test]
fn deploys_under_load_lose_no_request_and_what_answers_after_a_restart_is_the_current_release() {
    const DEPLOYS: usize = 20;
    const CLIENTS: usize = 16;
    let home = Home::new();
    let names: Vec<String> = (0..=DEPLOYS).map(|number| format!("r{number:02}")).collect();
    let (port, config) = (free_port().to_string(), home.directory().join("app.json"));
    let check = format!("http=http://127.0.0.1:{port}/health");
    let failed_check = format!("check {check} failed 3 times in a row: it answers 503 Sick");
    let broken = [
        ("no-file", String::new(), "not found"),
        ("syntax-error", "def".into(), "SyntaxError"),
        ("never-ready", "import time; time.sleep(600)".into(), "it was not ready within 1 s"),
        ("exits-soon", format!("{}import time; time.sleep(3)", say_ready()), "it exited with code 0"),
        ("sick", sick_server(), &failed_check),
    ];
    let all: Vec<&str> = names.iter().map(String::as_str).chain(broken.iter().map(|(name, ..)| *name)).collect();
    let releases = Releases::new(&home, &all);
    for name in all {
        fs::write(releases.path(name).join("app.py"), release_server()).unwrap();
        write_script(&releases.path(name).join("server"), "#!/bin/sh\nexec python3 app.py\n");
    }
    let configure = |settings| fs::write(&config, format!("{{ {settings} }}")).unwrap();
    configure(r#""ready-within": "60s""#.into());
    let options = ["--listen", &port, "--ready", "notify", "--grace", HUGE, "--config", config.to_str().unwrap()];
    let instance = releases.exec(&options, &["./server"]);
    let (is_over, deployed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let client = || {
            let mut answers = 0;
            while !is_over.load(Ordering::Relaxed) {
                let oldest = deployed.load(Ordering::SeqCst);
                let release = ask(instance.address).unwrap_or_else(|error| panic!("lost a request: {error}"));
                // It shares the socket while it is on probation.
                let on_probation = release == "sick" && oldest == DEPLOYS;
                let position = names.iter().position(|name| *name == release);
                assert!(on_probation || position.unwrap() >= oldest, "{release} after {oldest}");
                answers += 1;
            }
            answers
        };
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        // The clients end, whatever fails here.
        let ends = OnDrop(|| is_over.store(true, Ordering::Relaxed));
        for (number, name) in names.iter().enumerate().skip(1) {
            releases.switch(name);
            instance.admin(&["restart"]).expect(0);
            deployed.store(number, Ordering::SeqCst);
        }
        fs::remove_file(releases.path("no-file").join("server")).unwrap();
        for (name, program, why) in broken {
            fs::write(releases.path(name).join("app.py"), program).unwrap();
            releases.switch(name);
            match name {
                "never-ready" => configure(r#""ready-within": "1s""#.into()),
                "exits-soon" => configure(format!(r#""ready-within": "60s", "overlap": "{HUGE}""#)),
                "sick" => configure(format!(
                    r#""ready-within": "60s", "overlap": "{HUGE}", "check": "{check}", "check-timeout": "30s""#
                )),
                _ => {}
            }
            let kept = format!("generation {} keeps serving", DEPLOYS + 1);
            instance.admin(&["restart"]).expect(1).says(&kept).says(why);
        }
        drop(ends);
        let answers: usize = clients.into_iter().map(|client| client.join().unwrap()).sum();
        assert!(answers >= CLIENTS, "{answers}");
    });
    // A withdrawn generation may keep a client until it has ended.
    instance.err.wait_for(&format!("generation {} stopped in", DEPLOYS + 3));
    assert_eq!(ask(instance.address).unwrap(), *names.last().unwrap());
}

struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
