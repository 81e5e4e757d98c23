//! Programs under `supervisor exec` on Windows. They are supervisors themselves, because each of these is a program
//! that starts another one and takes Ctrl-Break as a request to stop.

use std::fs;
use std::net::SocketAddr;

use crate::support::{Client, HUGE, Home, Instance, SUPERVISOR, eventually, free_port};

/// An echo server at this address.
fn echo(address: &str) -> Vec<&str> {
    vec![SUPERVISOR, "echo", "--listen", address, "--admin", "off", "--grace", HUGE]
}

/// An echo server that is two processes away from the supervisor under test.
fn grandchild(address: &str) -> Vec<&str> {
    [vec![SUPERVISOR, "exec", "--admin", "off", "--grace", HUGE, "--"], echo(address)].concat()
}

/// Starts a program that listens on this address, and waits until it does.
fn start(home: &Home, address: SocketAddr, options: &[&str], program: &[&str]) -> Instance {
    let ready = format!("connect={address}");
    let mut instance = home.exec(&[&["--ready", &ready], options].concat(), program);
    instance.address = address;
    Client::connect(address).greet();
    instance
}

fn address() -> SocketAddr {
    ([127, 0, 0, 1], free_port()).into()
}

/// Asserts that nothing is left. (Each of the processes has the supervisor's stderr.)
#[track_caller]
fn assert_nothing_is_left(instance: &Instance) -> String {
    let log = instance.log();
    instance.assert_port_is_free();
    log
}

#[test]
fn a_stop_sends_ctrl_break_or_says_that_it_cannot() {
    let home = Home::new();
    let address = address();
    let instance = start(&home, address, &["--grace", HUGE], &echo(&address.to_string()));
    let mut client = instance.client();
    client.greet();
    instance.admin(&["stop", "--no-wait"]).expect(0);
    // Wine 8 cannot send Ctrl-Break to other processes.
    let cannot = || instance.err.so_far().contains("Ctrl-Break cannot be sent");
    eventually("the program knows", || cannot() || instance.err.so_far().contains("Ctrl-Break: stopping"));
    if cannot() {
        eprintln!("this system cannot send Ctrl-Break");
        instance.admin(&["stop", "--now"]).expect(5).says("killed, 1 process had to be killed");
        assert_eq!(instance.wait(), 5);
    } else {
        client.assert_told();
        assert_eq!(instance.wait(), 0);
    }
    assert_nothing_is_left(&instance);
}

#[test]
fn a_program_that_stays_is_killed_at_the_deadline_with_all_that_it_has_started() {
    let home = Home::new();
    let address = address();
    let instance = start(&home, address, &["--grace", HUGE], &grandchild(&address.to_string()));
    let mut client = instance.client();
    client.greet();
    instance.admin(&["stop", "--grace", "0.3"]).expect(5).says("(killed, ").says("had to be killed");
    instance.assert_port_is_free();
    assert_eq!(instance.wait(), 5);
    assert_nothing_is_left(&instance);
}

#[test]
fn nothing_is_left_of_a_supervisor_that_is_killed_and_the_next_one_starts() {
    let home = Home::new();
    let address = address();
    let text = address.to_string();
    let program = grandchild(&text);
    let first = start(&home, address, &[], &program);
    let process = first.process.clone();
    first.kill();
    process.err.whole();
    let second = start(&home, address, &[], &program);
    second.admin(&["stop", "--now"]).expect(5);
    assert_eq!(second.wait(), 5);
    assert_nothing_is_left(&second);
}

#[test]
fn what_a_program_leaves_behind_is_ended_before_the_next_one_starts() {
    let home = Home::new();
    let (address, other, name) = (address(), address().to_string(), format!("{}-program", home.name()));
    // An argument that begins with a slash is an option of `start`.
    let (text, supervisor) = (address.to_string(), SUPERVISOR.replace('/', "\\"));
    let background = [vec!["start", "/b", &supervisor], echo(&text)[1..].to_vec()].concat();
    let foreground = vec!["&", SUPERVISOR, "echo", "--listen", &other, "--name", &name];
    let program = [vec!["cmd", "/c"], background, foreground].concat();
    let instance = start(&home, address, &["--restart", "always"], &program);
    let stops = || home.admin(&["--name", &name, "stop"]).code == 0;
    eventually("its program ends", stops);
    eventually("the next one runs", || instance.status()["generation"] == 2);
    eventually("with all that belongs to it", || Client::try_connect(address).is_ok());
    instance.admin(&["stop", "--now"]).expect(5);
    assert_eq!(instance.wait(), 5);
    let log = assert_nothing_is_left(&instance);
    assert!(!log.contains("could not be started"), "{log}");
}

#[test]
fn a_restart_is_a_stop_and_then_a_start_and_says_for_how_long_nothing_served() {
    let home = Home::new();
    let address = address();
    let instance = start(&home, address, &["--grace", "0"], &grandchild(&address.to_string()));
    let restart = instance.admin(&["restart", "--json"]).expect(5).json();
    assert_eq!(restart["generation"], 2, "{restart}");
    assert!(restart["down_ms"].as_u64().is_some_and(|down| down > 0), "{restart}");
    instance.client().greet();
    instance.admin(&["stop"]).expect(5);
    assert_eq!(instance.wait(), 5);
    assert_nothing_is_left(&instance);
}

#[test]
fn a_program_that_crashes_too_often_is_given_up() {
    let home = Home::new();
    let instance = home.exec(&["--max-restarts", "1"], &["cmd", "/c", "exit", "3"]);
    assert_eq!(instance.wait(), 9);
    let log = instance.log();
    assert!(log.contains("giving up: 2 crashes within"), "{log}");
}

#[test]
fn a_program_that_is_not_ready_in_time_is_killed_and_its_last_lines_are_told() {
    let home = Home::new();
    let (address, other) = (address().to_string(), address().to_string());
    let ready = format!("connect={address}");
    let options = ["--ready", &ready, "--ready-within", "15"];
    let ended = home.run(home.exec_command(&options, &echo(&other))).expect(1);
    ended.says(&format!("it was not ready within 15 s: it takes no connection on {address}\n"));
    ended.says(&format!("listening on {other}"));
}

#[test]
fn exit_codes_pass_through_with_all_their_bits() {
    let home = Home::new();
    for code in [0, 1, 2, 126, 127, 128, 255, 256, 300, 65_536, i32::MAX, -1, i32::MIN] {
        let text = code.to_string();
        let process = home.spawn(home.exec_command(&["--restart", "never"], &["cmd", "/c", "exit", &text]));
        assert_eq!(process.wait(), code);
    }
}

#[test]
fn a_program_that_cannot_be_started_is_one_line_and_the_exit_code_of_a_shell() {
    let home = Home::new();
    let text = home.directory().join("text.txt");
    fs::write(&text, "no program\n").unwrap();
    let directory = home.directory().to_str().unwrap();
    for (program, code, why) in [
        ("no-such-program", 127, "no-such-program: not found"),
        ("ping localhost", 127, "not found; if this is a program with its arguments, write each as a word of its own"),
        (directory, 126, "is a directory"),
        (text.to_str().unwrap(), 126, "is no program"),
    ] {
        let refused = home.run(home.exec_command(&[], &[program])).expect(code);
        refused.says(why);
        assert_eq!(refused.err.lines().count(), 1, "{refused}");
    }
}

#[test]
fn what_windows_does_not_have_is_refused_and_not_ignored() {
    let home = Home::new();
    for (option, value, why) in [
        ("--listen", "8000", "let it bind its address itself"),
        ("--ready", "notify", "say connect=8000 or http="),
        ("--stop-signal", "TERM", "Windows has no signals"),
        ("--on-hup", "restart", "Windows has no signals"),
    ] {
        let refused = home.run(home.exec_command(&[option, value], &["cmd"])).expect(2);
        let first = refused.err.lines().next().unwrap_or_default();
        assert!(first.contains(option) && first.contains(why), "{refused}");
    }
}

#[test]
fn the_help_offers_nothing_that_windows_does_not_have() {
    let home = Home::new();
    for kind in ["echo", "exec"] {
        let mut command = home.program(SUPERVISOR);
        command.args([kind, "--help"]);
        let help = home.run(command).expect(0).out;
        for missing in ["notify", "SIG", "--stop-signal", "--on-hup", "Unix", "sd_listen_fds", "directory of its user"]
        {
            assert!(!help.contains(missing), "{missing}: {help}");
        }
    }
}

#[test]
fn what_is_no_path_of_a_pipe_is_refused_with_what_to_say() {
    let home = Home::new();
    let path = r"C:\directory\web.sock";
    home.admin(&["--socket", path, "ping"]).expect(2).says(r"say \\.\pipe\web");
    home.run(home.supervisor(&["echo", "--admin", "require", "--socket", path])).expect(1).says(r"say \\.\pipe\web");
}
