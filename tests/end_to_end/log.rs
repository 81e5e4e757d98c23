//! The log: nothing else waits for a reader that stalls, is slow, or has gone away.

use std::io::{self, BufRead, BufReader, PipeReader, PipeWriter, Read, Write};
use std::os::fd::AsFd;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal::SIGTERM;
use serde_json::Value;

use crate::pty::{CTRL_S, Pty};
use crate::recover::{FRAGILE, ask};
use crate::support::{Client, HUGE, Home, eventually, free_port};

/// A program that never stops complaining.
const CHATTY: &str = "import sys
while True:
    sys.stderr.write('x' * 79 + '\\n')";

/// Fills a pipe to the brim.
fn full_pipe() -> (PipeReader, PipeWriter) {
    let (reader, mut writer) = io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    while writer.write(b"x").is_ok() {}
    fcntl(&writer, FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    (reader, writer)
}

/// Whether a write to this pipe or terminal would block.
pub fn is_full(writer: impl AsFd) -> bool {
    poll(&mut [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO) == Ok(0)
}

#[test]
fn a_program_whose_output_nobody_reads_is_restarted_and_stopped_as_any_other() {
    let home = Home::new();
    let (reader, writer) = io::pipe().unwrap();
    let mut command = home.exec_command(&["--ready", "0.1s"], &["python3", "-c", CHATTY]);
    command.stderr(writer.try_clone().unwrap());
    let process = home.spawn(command);
    let admin = |request: &[&str]| home.admin(&[&["--name", home.name()], request].concat());
    for _ in 0..2 {
        eventually("the program serves, and has to wait", || admin(&["ping"]).code == 0 && is_full(&writer));
        admin(&["status"]).expect(0);
        admin(&["restart"]).expect(0);
    }
    eventually("the program has to wait", || is_full(&writer));
    admin(&["stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    drop(reader);
}

#[test]
fn a_stop_that_kills_a_program_whose_output_nobody_reads_does_not_hang() {
    let home = Home::new();
    let (reader, writer) = io::pipe().unwrap();
    let deaf = format!("import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n{CHATTY}");
    let mut command = home.exec_command(&["--ready", "0.1s"], &["python3", "-c", &deaf]);
    command.stderr(writer.try_clone().unwrap());
    let process = home.spawn(command);
    let admin = |request: &[&str]| home.admin(&[&["--name", home.name()], request].concat());
    eventually("the program serves, and has to wait", || admin(&["ping"]).code == 0 && is_full(&writer));
    admin(&["stop", "--grace", "0.2"]).expect(5);
    assert_eq!(process.wait(), 5);
    drop(reader);
}

#[test]
fn on_a_terminal_that_ctrl_s_has_stopped_a_program_is_restarted_and_stopped_as_any_other() {
    let home = Home::new();
    let (pty, terminal) = Pty::open();
    pty.press(CTRL_S);
    eventually("the terminal is stopped", || is_full(&terminal));
    let mut command = home.exec_command(&["--ready", "0.1s"], &["python3", "-c", CHATTY]);
    command.stderr(terminal);
    let process = home.spawn(command);
    let admin = |request: &[&str]| home.admin(&[&["--name", home.name()], request].concat());
    eventually("the program serves", || admin(&["ping"]).code == 0);
    admin(&["restart"]).expect(0);
    admin(&["stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    assert_eq!(pty.screen(), "", "it was not stopped");
}

#[test]
fn a_line_that_is_longer_than_the_room_in_the_pipe_does_not_keep_it_from_restarting_and_stopping() {
    let home = Home::new();
    let (reader, mut writer) = io::pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(8192)).unwrap();
    // There is room for the first lines, and less than the long one needs.
    writer.write_all(&vec![b'x'; usize::try_from(size).unwrap() - 4096]).unwrap();
    let variables = home.directory().join("variables");
    std::fs::write(&variables, "").unwrap();
    let options = ["--ready", "0.1s", "--log", "json", "--env-file", variables.to_str().unwrap()];
    let mut command = home.exec_command(&options, &["sleep", "600"]);
    command.stderr(writer);
    let process = home.spawn(command);
    let admin = |request: &[&str]| home.admin(&[&["--name", home.name()], request].concat());
    eventually("it serves", || admin(&["status"]).out.contains("serving"));
    std::fs::write(&variables, (0..300).fold(String::new(), |text, at| format!("{text}KEY_{at:0200}=new\n"))).unwrap();
    admin(&["restart"]).expect(0);
    let events = admin(&["events", "--json"]).expect(0).out;
    assert!(events.lines().any(|line| line.len() > 4096), "{events}");
    admin(&["restart"]).expect(0);
    admin(&["stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    drop(reader);
}

#[test]
fn clients_are_served_and_commands_carried_out_long_before_a_slow_reader_has_read_of_that() {
    let home = Home::new();
    let (mut reader, writer) = io::pipe().unwrap();
    let size = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    // Their lines are several times what the pipe holds, however long the pages of the system are.
    let clients = usize::try_from(size).unwrap() / 20;
    let port = free_port();
    let mut command = home.supervisor(&["echo", "--verbose", "--listen", &port.to_string()]);
    command.stderr(writer);
    let process = home.spawn(command);
    let lines = AtomicUsize::new(0);
    let admin = |request: &[&str]| home.admin(&[&["--name", home.name()], request].concat());
    thread::scope(|scope| {
        scope.spawn(|| {
            // A few lines at a time.
            let mut part = [0; 400];
            while let Ok(length @ 1..) = reader.read(&mut part) {
                lines.fetch_add(part[..length].iter().filter(|&&byte| byte == b'\n').count(), Ordering::Relaxed);
                if process.is_running() {
                    thread::sleep(Duration::from_millis(150));
                }
            }
        });
        eventually("it answers", || admin(&["ping"]).code == 0);
        for _ in 0..clients {
            Client::connect(([127, 0, 0, 1], port).into()).greet();
        }
        admin(&["restart"]).expect(0);
        let read = lines.load(Ordering::Relaxed);
        assert!(read < clients * 3 / 2, "{read} lines of at least {} were read meanwhile", 2 * clients);
        admin(&["stop"]).expect(0);
        assert_eq!(process.wait(), 0);
    });
}

#[test]
fn the_log_has_the_order_of_the_events_and_says_where_lines_are_missing() {
    let home = Home::new();
    let (reader, writer) = full_pipe();
    let port = free_port();
    let mut command =
        home.supervisor(&["echo", "--verbose", "--log", "json", "--listen", &port.to_string(), "--grace", HUGE]);
    command.stderr(writer);
    let process = home.spawn(command);
    let admin = |request: &[&str]| home.admin(&[&["--name", home.name()], request].concat());
    eventually("it answers", || admin(&["ping"]).code == 0);
    // More than there is room for without a reader.
    for _ in 0..4000 {
        Client::connect(([127, 0, 0, 1], port).into()).greet();
    }
    let number = |entry: &Value| entry["seq"].as_u64().unwrap();
    let events = admin(&["events", "--json"]).expect(0).out;
    let an_event =
        events.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).find(|event| event["seq"].is_u64());
    let an_event = number(&an_event.unwrap());
    let reader = thread::spawn(move || {
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        // The first line follows the bytes that filled the pipe.
        let entry = |line: String| -> Value {
            serde_json::from_str(line.trim_start_matches('x')).unwrap_or_else(|error| panic!("{error}: {line}"))
        };
        lines.map(entry).collect::<Vec<_>>()
    });
    eventually("that lines were lost is an event, though nothing else happens", || {
        admin(&["events", "--json"]).expect(0).out.contains("\"event\":\"log_lines_lost\"")
    });
    admin(&["stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    let (mut last, mut missing, mut still_events) = (0, 0, 0);
    for entry in reader.join().unwrap() {
        let seq = number(&entry);
        assert!(seq > last, "{entry} comes after {last}");
        let lost = seq - last - 1;
        if lost > 0 {
            assert_eq!((&entry["event"], &entry["lost"]), (&"log_lines_lost".into(), &lost.into()), "after {last}");
            still_events += u64::from((last..seq).contains(&an_event));
        }
        missing += lost;
        last = seq;
    }
    assert!(last > 8000 && missing > 0, "{missing} of {last} are missing");
    assert_eq!(still_events, 1, "the log has lost none of those that are kept as events");
}

#[test]
fn a_closed_stderr_does_not_keep_it_from_serving_and_stopping() {
    let home = Home::new();
    let mut command = home.supervisor_by(&["sh", "-c", "exec \"$0\" \"$@\" 2>&-"], &["echo"]);
    command.stderr(Stdio::null());
    let process = home.spawn(command);
    eventually("it answers", || home.admin(&["--name", home.name(), "ping"]).code == 0);
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
}

#[test]
fn a_log_that_nobody_reads_does_not_keep_it_from_serving_and_stopping() {
    let home = Home::new();
    let (reader, writer) = full_pipe();
    let mut command = home.supervisor(&["echo", "--grace", HUGE]);
    command.stderr(writer);
    let process = home.spawn(command);
    eventually("it answers", || home.admin(&["--name", home.name(), "ping"]).code == 0);
    process.signal(SIGTERM);
    assert_eq!(process.wait(), 0);
    drop(reader);
}

#[test]
fn a_log_whose_reader_has_gone_away_does_not_keep_it_from_serving_and_stopping() {
    let home = Home::new();
    let (reader, writer) = io::pipe().unwrap();
    let mut command = home.supervisor(&["echo", "--verbose"]);
    command.stderr(writer);
    let process = home.spawn(command);
    drop(reader);
    eventually("it answers", || home.admin(&["--name", home.name(), "ping"]).code == 0);
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
}

#[test]
fn a_server_that_panics_is_restarted_and_reported_though_nobody_reads_the_log() {
    let home = Home::new();
    let (reader, writer) = full_pipe();
    let port = free_port();
    let mut command = home.program(FRAGILE);
    command.args(["--name", home.name(), "--listen", &format!("127.0.0.1:{port}")]).stderr(writer);
    let process = home.spawn(command);
    let admin = |request: &[&str]| home.admin(&[&["--name", home.name()], request].concat());
    eventually("it answers", || admin(&["ping"]).code == 0);
    let connect = || Client::connect(([127, 0, 0, 1], port).into());
    let mut client = connect();
    client.send("CRASH\n");
    client.expect("CRASH\n");
    let its_last = connect();
    client.assert_told();
    drop((client, its_last));
    ask(&mut connect());
    admin(&["events"]).expect(0).says(" panicked at ").says(": crashed on command");
    admin(&["stop"]).expect(0);
    assert_eq!(process.wait(), 0);
    drop(reader);
}
