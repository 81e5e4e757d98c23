//! Releases in directories, and a symbolic link `current` that a deploy switches: what a restart starts.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Client, Ended, HUGE, Home, Instance, eventually, free_port, write_script};

/// Releases, of which `current` is one.
struct Releases<'a>(&'a Home);

/// Says which release it is, and where it was started.
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

    /// As a deploy does: at no time there is no link.
    fn switch(&self, name: &str) {
        let link = self.0.directory().join("next");
        symlink(self.path(name), &link).unwrap();
        fs::rename(&link, self.current()).unwrap();
    }

    /// Starts the command as a shell does whose user has gone to the current release.
    fn in_current(&self, mut command: Command) -> Command {
        command.current_dir(self.current()).env("PWD", self.current());
        command
    }

    fn exec(&self, options: &[&str], program: &[&str]) -> Instance {
        self.0.exec_by(self.in_current(self.0.exec_command(options, program)))
    }

    /// Starts a server of our own, and waits until it listens.
    fn start(&self, arguments: &[&str]) -> Instance {
        self.0.start_by(self.in_current(self.0.supervisor(arguments)))
    }

    /// What the server says of itself when it is this release.
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
    // Though the directory of the start is gone by now.
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
    // A restart would not change that, and changes nothing.
    instance.admin(&["restart"]).expect(1).says(dist.to_str().unwrap());
    fs::create_dir(&dist).unwrap();
    assert_eq!(ready().status, 200);
    assert_eq!(instance.status()["ready"], true);
}

/// Whether the program has a socket of ours decides whether the two can run side by side.
fn with_and_without_a_socket(test: impl Fn(&Home, &[&str])) {
    let port = free_port().to_string();
    for options in [&[][..], &["--listen", &port]] {
        test(&Home::new(), options);
    }
}

#[test]
fn a_restart_that_cannot_work_changes_nothing_and_says_why() {
    with_and_without_a_socket(|home, options| {
        let releases = Releases::new(home, &["one", "missing", "plain", "alien", "unknown", "folder"]);
        let server = |name| releases.path(name).join("server");
        fs::remove_file(server("missing")).unwrap();
        fs::remove_file(server("plain")).unwrap();
        fs::write(server("plain"), SERVER).unwrap();
        write_script(&server("alien"), "#!/no/such/interpreter\n");
        write_script(&server("unknown"), "#!/usr/bin/env no-such-interpreter\n");
        fs::remove_file(server("folder")).unwrap();
        fs::create_dir(server("folder")).unwrap();
        let instance = releases.exec(&[&["--grace", HUGE], options].concat(), &["./server"]);
        instance.out.wait_for(&releases.says("one"));
        let pid = program(home);
        for (name, why) in [
            ("missing", "./server: not found"),
            ("plain", "./server: not executable, or not permitted"),
            ("alien", "./server: its interpreter /no/such/interpreter: not found"),
            ("unknown", "./server: its interpreter no-such-interpreter: not found"),
            ("folder", "./server: is a directory"),
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
    let instance = releases.exec(&["--ready", "200ms", "--max-restarts", "1000"], &["./server"]);
    releases.switch("two");
    let restarted = instance.admin(&["restart"]).expect(1);
    restarted.says("restart failed, nothing is running (next try in ").says("broken");
    // The crash policy continues.
    releases.switch("one");
    eventually("it runs again", || instance.status()["state"] == "serving");
}
