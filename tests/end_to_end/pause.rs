//! Clients and requests wait, and none is lost.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use load::{Load, Mode};

use crate::pty::Pty;
use crate::rotation::behind_a_relay;
use crate::support::{Client, Home, Instance, LIMIT, eventually, some_more};

/// Files over HTTP: `/a` is `a`.
fn start(home: &Home) -> Instance {
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a"), "a").unwrap();
    home.start(&["http", files.to_str().unwrap()])
}

/// Sends a request, which gets no answer for now.
#[track_caller]
fn assert_waits(client: &mut Client) {
    client.send("GET /a HTTP/1.1\r\nHost: x\r\n\r\n");
    client.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    assert_eq!(client.0.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.0.set_read_timeout(Some(Duration::from_secs(45))).unwrap();
}

fn is_paused(instance: &Instance) -> bool {
    !instance.status()["pause"].is_null()
}

#[test]
fn clients_and_requests_wait_until_it_is_resumed_and_a_restart_goes_on_meanwhile() {
    let home = Home::new();
    let instance = start(&home);
    let mut kept = instance.client();
    assert_eq!(kept.get("/a").status, 200);
    instance.admin(&["pause", "--max", "10m"]).expect(0).says("paused for at most 600 s; `admin-cli resume` ends that");
    let mut new = instance.client();
    assert_waits(&mut kept);
    assert_waits(&mut new);
    instance.admin(&["status", "--short"]).expect(0).says(", paused for ");
    instance.admin(&["status"]).expect(0).says("pause        paused for ");
    instance.admin(&["pause"]).expect(1).says("it is paused already, by admin client");
    instance.admin(&["restart"]).expect(0).says("generation 2 is serving");
    instance.err.wait_for("generation 1 stopped in ");
    assert!(is_paused(&instance));
    let mut newer = instance.client();
    assert_waits(&mut newer);
    instance.admin(&["resume"]).expect(0).says("ready for new clients; the pause is over");
    for mut client in [kept, new, newer] {
        assert_eq!(client.answer().status, 200);
    }
    assert!(!is_paused(&instance));
    instance.err.wait_for("admin client ");
    instance.err.wait_for("the pause is over after ");
}

/// A client that has sent the first half of the command `QUOTE`.
fn half_way(instance: &Instance) -> Client {
    let mut client = instance.client();
    client.send("QUO");
    eventually("it is busy", || {
        let shown = instance.admin(&["connections", "--json"]).expect(0).json();
        shown["connections"][0]["activity"] == "busy" && shown["connections"][0]["received"] == 3
    });
    client
}

#[test]
fn a_message_that_is_under_way_is_answered_before_it_is_paused() {
    let home = Home::new();
    let instance = home.start(&["command"]);
    let mut client = half_way(&instance);
    let pause = instance.admin_begins(&["pause", "--max", "10m"]);
    eventually("it has begun", || is_paused(&instance));
    assert!(pause.is_running());
    client.send("TE\n");
    pause.end().expect(0);
    let mut answer = [0; 1];
    client.0.read_exact(&mut answer).unwrap();
    instance.admin(&["resume"]).expect(0);
}

#[test]
fn a_command_in_a_pause_has_no_json() {
    let home = Home::new();
    let instance = start(&home);
    let made = home.directory().join("made");
    let refused = instance.admin(&["--json", "pause", "--", "touch", made.to_str().unwrap()]).expect(2);
    refused.says("leave out --json");
    assert!(!made.exists());
}

#[test]
fn on_a_terminal_a_pause_with_a_command_shows_what_it_waits_for() {
    let home = Home::new();
    let instance = home.start(&["command"]);
    let mut client = half_way(&instance);
    let (pty, terminal) = Pty::open();
    let mut command = home.admin_command(&["pause", "--", "printf", "done"]);
    command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let pause = home.spawn(command);
    eventually("it says so", || pty.screen().contains("paused; waiting for 1 request"));
    client.send("TE\n");
    assert_eq!(pause.wait(), 0);
    // The line is cleared before the command writes, and not again.
    let screen = pty.screen();
    assert!(screen.contains("\r\x1b[Kdone") && !screen.split("done").nth(1).unwrap().contains('\x1b'), "{screen:?}");
}

#[test]
fn the_exit_code_is_that_of_the_command_and_the_pause_is_over_however_it_ends() {
    let home = Home::new();
    let instance = start(&home);
    let name = instance.name.clone();
    for (command, code) in [
        (&["true"][..], 0),
        (&["sh", "-c", "exit 7"], 7),
        (&["sh", "-c", "kill -9 $$"], 137),
        (&["there-is-no-such-command"], 127),
        (&["/etc/passwd"], 126),
    ] {
        let ended = instance.admin(&[&["pause", "--"], command].concat()).expect(code);
        ended.says(&format!("admin-cli: {name} was paused for "));
        assert!(!is_paused(&instance), "{command:?}");
        assert_eq!(instance.client().get("/a").status, 200);
    }
}

#[test]
fn a_pause_is_over_with_the_admin_cli_that_holds_it() {
    let home = Home::new();
    let instance = start(&home);
    let pid = home.directory().join("pid");
    let script = format!("echo $$ > {}.new; mv {0}.new {0}; exec sleep 1000", pid.display());
    let pause = instance.admin_begins(&["pause", "--", "sh", "-c", &script]);
    eventually("the command runs", || pid.exists());
    let mut client = instance.client();
    assert_waits(&mut client);
    pause.kill();
    assert_eq!(client.answer().status, 200);
    assert!(!is_paused(&instance));
    let command = fs::read_to_string(&pid).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(command), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_pause_is_over_by_itself_after_its_time() {
    let home = Home::new();
    let instance = start(&home);
    instance.admin(&["pause", "--max", "1"]).expect(0);
    assert_eq!(instance.client().get("/a").status, 200);
    instance.err.wait_for(": its time was up");
    let ended = instance.admin(&["pause", "--max", "1", "--", "sleep", "5"]).expect(0);
    ended.says("the pause ended after ").says("before the command finished: its time was up");
    // A message in progress does not end in time, so the command is not run.
    let mut busy = instance.client();
    busy.send("GET /a HTTP/1.1\r\n");
    eventually("it is busy", || {
        let shown = instance.admin(&["connections", "--json"]).expect(0).json();
        shown["connections"].as_array().unwrap().iter().any(|it| it["activity"] == "busy")
    });
    let made = home.directory().join("made");
    let ended = instance.admin(&["pause", "--max", "0.1", "--", "touch", made.to_str().unwrap()]).expect(1);
    ended.says("the pause ended before the requests under way were answered: its time was up");
    assert!(!made.exists());
}

#[test]
fn a_client_whose_pause_is_over_is_disconnected_as_any_other_is_that_has_its_answer() {
    let home = Home::new();
    let instance = start(&home);
    let pause = |max_ms: u32| {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        writeln!(stream, r#"{{"v":1,"request":"pause","max_ms":{max_ms},"hold":true}}"#).unwrap();
        stream
    };
    let mut heard = String::new();
    pause(1000).read_to_string(&mut heard).unwrap();
    assert!(heard.contains(r#""result":"resumed""#) && heard.contains("its time was up"), "{heard}");
    let _held = pause(600_000);
    eventually("it is paused", || is_paused(&instance));
    heard.clear();
    pause(50).read_to_string(&mut heard).unwrap();
    assert!(heard.contains("it is paused already"), "{heard}");
    assert!(is_paused(&instance));
}

#[test]
fn a_pause_of_no_time_is_refused_and_its_end_is_not_blamed_on_requests_that_there_were_not() {
    let home = Home::new();
    let instance = start(&home);
    for max in ["0", "0s", "0.0001"] {
        instance.admin(&["pause", "--max", max]).expect(2).says("--max").says("a pause takes some time");
    }
    // Other clients of the socket can ask for one. It may be over before master control hears that nothing is under way.
    for _ in 0..100 {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        writeln!(stream, r#"{{"v":1,"request":"pause","max_ms":0,"hold":true}}"#).unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).unwrap();
        assert!(heard.contains("its time was up") && !heard.contains("the requests under way"), "{heard}");
    }
    assert_eq!(instance.client().get("/a").status, 200);
}

#[test]
fn a_client_that_releases_a_pause_together_with_its_request_has_released_it() {
    let home = Home::new();
    let instance = start(&home);
    let mut stream = UnixStream::connect(home.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"{\"v\":1,\"request\":\"pause\",\"hold\":true}\n\n").unwrap();
    let mut heard = String::new();
    stream.read_to_string(&mut heard).unwrap();
    // Master control may hear of the release before it hears that nothing is under way.
    assert!(heard.contains(r#""result":"resumed""#) || heard.contains("it was released"), "{heard}");
    assert!(!is_paused(&instance));
}

#[test]
fn a_stop_ends_a_pause_and_loses_nothing() {
    let home = Home::new();
    let instance = start(&home);
    let mut kept = instance.client();
    assert_eq!(kept.get("/a").status, 200);
    instance.admin(&["pause"]).expect(0);
    let mut new = instance.client();
    assert_waits(&mut kept);
    assert_waits(&mut new);
    let stop = instance.admin_begins(&["stop"]);
    for mut client in [kept, new] {
        let answer = client.answer();
        assert!(answer.status == 200 && answer.is_last);
    }
    stop.end().expect(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_program_that_accepts_its_clients_itself_cannot_be_paused() {
    let home = Home::new();
    for options in [&[][..], &["--listen", "0"]] {
        let instance = home.exec(&[options, &["--ready", "50ms"]].concat(), &["sleep", "1000"]);
        let refused = instance.admin(&["pause", "--", "touch", "made"]).expect(1);
        refused.says("the program accepts its clients itself, so they cannot be held: start it with --relay http");
    }
}

/// Under load, with clients of both kinds.
fn no_request_is_lost(instance: &Instance, path: &str, body: &str) {
    let loads = [Mode::KeptAlive, Mode::OnePerConnection]
        .map(|mode| Load::new(instance.address, path, body, mode).connections(4).begin());
    loads.iter().for_each(|load| some_more(load, 50));
    for command in ["sleep 0.3", "sleep 0.1; exit 3"] {
        let ended = instance.admin(&["pause", "--max", "10m", "--", "sh", "-c", command]);
        assert!([0, 3].contains(&ended.code), "{ended}");
        loads.iter().for_each(|load| some_more(load, 50));
    }
    instance.admin(&["pause"]).expect(0);
    instance.admin(&["restart"]).expect(0);
    instance.admin(&["resume"]).expect(0);
    loads.iter().for_each(|load| some_more(load, 50));
    for load in loads {
        let report = load.end();
        assert_eq!(report.lost(), 0, "{report}");
        assert!(report.slowest >= Duration::from_millis(100), "{report}");
    }
}

#[test]
fn no_request_is_lost_in_pauses_under_load() {
    let home = Home::new();
    no_request_is_lost(&start(&home), "/a", "a");
}

#[test]
fn no_request_is_lost_in_pauses_of_a_relay_under_load() {
    let home = Home::new();
    fs::write(home.directory().join("a"), "a").unwrap();
    let instance = behind_a_relay(&home, &["--dir", home.directory().to_str().unwrap()]);
    no_request_is_lost(&instance, "/a", "a");
}
