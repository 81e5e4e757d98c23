//! `admin-cli wait`: for a supervisor that is ready, has restarted, or is gone.

#[cfg(target_os = "linux")]
use crate::support::eventually;
#[cfg(unix)]
use crate::support::free_port;
use crate::support::{HUGE, Home};

#[test]
fn a_supervisor_that_has_not_started_yet_is_waited_for() {
    let home = Home::new();
    let wait = home.spawn(home.admin_command(&["--name", home.name(), "wait", "--ready"]));
    let only = home.spawn(home.admin_command(&["wait", "--ready"]));
    assert!(wait.is_running() && only.is_running());
    let _instance = home.start(&["echo", "--grace", HUGE]);
    assert_eq!((wait.wait(), only.wait()), (0, 0));
}

#[test]
fn ready_means_ready_for_clients() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    instance.admin(&["wait", "--ready"]).expect(0).says("serving");
    instance.admin(&["wait", "--ready", "--timeout", "0"]).expect(0).says("serving");
    instance.admin(&["drain"]).expect(0);
    instance.admin(&["wait", "--ready", "--timeout", "50ms"]).expect(7).says("timed out waiting: ").says("not ready");
    let wait = instance.admin_begins(&["wait", "--ready", "--json"]);
    instance.admin(&["resume"]).expect(0);
    assert_eq!(wait.end().expect(0).json()["ready"], true);
}

#[test]
fn a_wait_for_the_end_ends_with_the_supervisor() {
    let home = Home::new();
    home.admin(&["--name", home.name(), "wait", "--gone"]).expect(0);
    let instance = home.start(&["echo", "--grace", HUGE]);
    instance.admin(&["wait", "--gone", "--timeout", "50ms"]).expect(7);
    let wait = instance.admin_begins(&["wait", "--gone", "--json"]);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(wait.end().expect(0).json()["result"], "gone");
}

#[test]
fn a_generation_is_waited_for_and_so_is_a_later_one() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let wait = instance.admin_begins(&["wait", "--generation", "3"]);
    instance.admin(&["restart"]).expect(0);
    assert!(wait.is_running());
    instance.admin(&["restart"]).expect(0);
    wait.end().expect(0);
    instance.admin(&["wait", "--generation", "2"]).expect(0);
}

#[cfg(target_os = "linux")]
#[test]
fn one_that_ends_before_it_is_ready_is_waited_for_no_longer() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    instance.admin(&["drain"]).expect(0);
    let wait = instance.admin_begins(&["wait", "--ready"]);
    // It sleeps between two looks.
    let sleeps = format!("/proc/{}/wchan", wait.pid);
    eventually("it has been seen", || std::fs::read_to_string(&sleeps).is_ok_and(|it| it.contains("nanosleep")));
    instance.admin(&["stop"]).expect(0);
    wait.end().expect(3).says("it ended before it was ready");
}

#[cfg(unix)]
#[test]
fn another_one_that_hangs_does_not_end_a_wait_for_the_one_with_a_port() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let home = Home::new();
    let hangs = home.start(&["echo", "--name", &home.another("hangs")]);
    hangs.signal(SIGSTOP);
    let port = free_port().to_string();
    home.admin(&["--port", &port, "wait", "--ready", "--timeout", "0"]).expect(7);
    let wait = home.spawn(home.admin_command(&["--port", &port, "wait", "--ready"]));
    let _instance = home.start(&["echo", "--listen", &port]);
    assert_eq!(wait.wait(), 0);
    hangs.signal(SIGCONT);
}

#[cfg(unix)]
const BUSY: &str = r#"{"result":"error","code":"busy","message":"out of file descriptors, try again"}"#;

#[cfg(unix)]
const SERVING: &str =
    r#"{"result":"status","name":"x","kind":"x","state":"serving","ready":true,"pid":1,"uptime_ms":1,"version":""}"#;

/// Answers requests at this socket, each with the next of these answers.
#[cfg(unix)]
fn answer_at(socket: &std::path::Path, answers: &'static [&'static str]) {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut client, _) = listener.accept().unwrap();
            BufReader::new(&client).read_line(&mut String::new()).unwrap();
            writeln!(client, "{answer}").unwrap();
        }
    });
}

#[cfg(unix)]
#[test]
fn one_that_is_too_busy_to_answer_is_waited_for() {
    let home = Home::new();
    let socket = home.directory().join("busy.sock");
    answer_at(&socket, &[BUSY, SERVING]);
    home.admin(&["--socket", socket.to_str().unwrap(), "wait", "--ready"]).expect(0).says("serving");
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_terminal_it_is_asked_only_once_which_one_is_waited_for() {
    use crate::pty::{ENTER, Pty};
    let home = Home::new();
    let _other = home.start(&["echo", "--name", &home.another("other")]);
    let busy = home.another("busy");
    answer_at(&home.sockets().join(format!("{busy}.sock")), &[BUSY, BUSY, BUSY, SERVING]);
    let (pty, terminal) = Pty::open();
    let mut command = home.admin_command(&["wait", "--ready"]);
    command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
    let wait = home.spawn(command);
    let asked = || pty.screen().matches("which one?").count();
    eventually("it asks", || asked() > 0);
    pty.press(&busy);
    pty.press(ENTER);
    eventually("it has ended, or asks again", || !wait.is_running() || asked() > 1);
    assert_eq!(asked(), 1, "{}", pty.screen());
    assert_eq!(wait.wait(), 0);
}

#[test]
fn it_has_to_be_said_what_is_waited_for() {
    let home = Home::new();
    home.admin(&["wait"]).expect(2);
    home.admin(&["wait", "--ready", "--gone"]).expect(2);
    home.admin(&["wait", "--ready", "--all"]).expect(2);
}
