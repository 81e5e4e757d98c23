//! The supervisor as a library: what code can ask for, and what it gets back as values.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use supervisor::worker::{Connection, ServerError, handlers::Echo};
use supervisor::{Control, Error, Exit, Handler, Log, Report, Running, Supervisor, Trigger};

/// No test can wait for this.
const HUGE: Duration = Duration::from_secs(600);

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Waits for the end, but not for ever: a test that hangs says nothing.
fn wait(running: Running) -> Result<Report, Error> {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || done.send(running.wait()));
    ended.recv_timeout(Duration::from_secs(60)).expect("the supervisor does not end")
}

fn client(running: &Running) -> TcpStream {
    let client = TcpStream::connect(running.address()).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    client
}

fn greet(client: &mut TcpStream) {
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
}

#[test]
fn a_stop_from_another_thread_tells_the_clients_and_returns_the_report() {
    let running = Supervisor::new(Echo).start(anywhere()).unwrap();
    let mut client = client(&running);
    greet(&mut client);
    let control = running.control();
    thread::spawn(move || control.stop(HUGE));
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "SHUTDOWN\n");
    drop(client);
    let report = wait(running).unwrap();
    assert_eq!((report.drain.told, report.drain.left, report.drain.forced.len()), (1, 1, 0));
    assert_eq!((report.by.clone(), report.exit()), (Some(Trigger::Code), Exit::Done));
}

#[test]
fn a_handler_stops_its_own_server_without_a_deadlock() {
    static CONTROL: OnceLock<Control> = OnceLock::new();
    struct StopAtOnce;
    impl Handler for StopAtOnce {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            while client.next_message() {
                client.consume_all();
                CONTROL.wait().stop(HUGE);
            }
            Ok(())
        }
    }
    let running = Supervisor::new(StopAtOnce).start(anywhere()).unwrap();
    CONTROL.set(running.control()).unwrap();
    client(&running).write_all(b"x").unwrap();
    wait(running).unwrap();
}

/// What tests need of a connection and its users do not.
trait ConsumeAll {
    fn consume_all(&mut self);
}

impl ConsumeAll for Connection {
    fn consume_all(&mut self) {
        let length = self.buffered().len();
        io::BufRead::consume(self, length);
    }
}

#[test]
fn of_several_stops_the_shortest_counts() {
    let running = Supervisor::new(Echo).start(anywhere()).unwrap();
    let mut client = client(&running);
    greet(&mut client);
    for grace in [HUGE, Duration::from_millis(50), HUGE] {
        running.control().stop(grace);
    }
    // The client stays.
    let report = wait(running).unwrap();
    assert_eq!((report.drain.forced.len(), report.exit()), (1, Exit::Forced));
}

#[test]
fn it_starts_on_a_listener_that_is_bound_already() {
    let listener = TcpListener::bind(anywhere()).unwrap();
    let address = listener.local_addr().unwrap();
    let running = Supervisor::new(Echo).start_on(listener).unwrap();
    assert_eq!(running.address(), address);
    greet(&mut client(&running));
    running.control().stop(Duration::ZERO);
    wait(running).unwrap();
}

#[test]
fn a_taken_port_is_an_error_with_its_cause() {
    let listener = TcpListener::bind(anywhere()).unwrap();
    let error = Supervisor::new(Echo).start(listener.local_addr().unwrap()).unwrap_err();
    assert!(matches!(error, Error::Bind { .. }), "{error:?}");
    assert!(std::error::Error::source(&error).is_some());
    if cfg!(target_os = "linux") {
        let pid = format!("(pid {})", std::process::id());
        assert!(error.to_string().contains(&pid), "{error} does not name this process");
    }
}

#[test]
fn a_server_that_ends_by_itself_is_an_error() {
    struct BadNotice;
    impl Handler for BadNotice {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            while client.next_message() {}
            Ok(())
        }
        fn notice(&self) -> Option<&[u8]> {
            panic!("no words")
        }
    }
    let running = Supervisor::new(BadNotice).start(anywhere()).unwrap();
    running.control().stop(HUGE);
    match wait(running) {
        Err(Error::Server(ServerError::Panicked(message))) => assert_eq!(message, "no words"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_handler_that_hangs_is_reported_and_does_not_hold_up_the_end() {
    static NEVER: Mutex<Option<mpsc::Sender<()>>> = Mutex::new(None);
    struct Hang;
    impl Handler for Hang {
        fn serve(&self, _client: &mut Connection) -> io::Result<()> {
            let (sender, receiver) = mpsc::channel();
            *NEVER.lock().unwrap() = Some(sender);
            let _ = receiver.recv();
            Ok(())
        }
    }
    let running = Supervisor::new(Hang).start(anywhere()).unwrap();
    let _client = client(&running);
    while NEVER.lock().unwrap().is_none() {
        thread::yield_now();
    }
    running.control().stop(Duration::ZERO);
    let report = wait(running).unwrap();
    assert_eq!((report.drain.stuck.len(), report.exit()), (1, Exit::Overrun));
}

/// Runs in a process of its own, which the last resort ends.
#[test]
fn a_stop_that_hangs_is_ended_by_the_last_resort_which_says_so() {
    const CHILD: &str = "MASTERCONTROL_TEST_LAST_RESORT";
    struct HangingNotice;
    impl Handler for HangingNotice {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            while client.next_message() {}
            Ok(())
        }
        fn notice(&self) -> Option<&[u8]> {
            // The server thread itself hangs here, and nothing else would end it.
            let (_sender, receiver) = mpsc::channel::<()>();
            let _ = receiver.recv();
            None
        }
    }
    if std::env::var_os(CHILD).is_some() {
        let running = Supervisor::new(HangingNotice).last_resort().log(Log::text()).start(anywhere()).unwrap();
        running.control().stop(Duration::from_millis(50));
        let _ = running.wait();
        return;
    }
    let test = thread::current().name().unwrap().to_owned();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", &test, "--nocapture"])
        .env(CHILD, "1")
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(Exit::Overrun as i32), "{log}");
    assert!(log.contains("overran its deadline"), "{log}");
}
