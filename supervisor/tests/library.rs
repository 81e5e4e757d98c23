//! The supervisor as a library: what code can request, and the values that it gets back.
#![allow(clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol::worker::{Connection, Session, Sessions, handlers::Echo};
use mastercontrol::{
    Control, Error, Exit, Handle, Handler, Listen, Log, Report, RestartMode, RestartPolicy, Supervisor, Trigger,
};

/// No test can wait for this.
const HUGE: Duration = Duration::from_secs(600);

fn anywhere() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Waits for the end, but not for ever: a test that hangs reports nothing.
fn wait(running: Handle) -> Result<Report, Error> {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let _ = done.send(running.wait()); // The test has given up.
    });
    ended.recv_timeout(Duration::from_secs(60)).expect("the supervisor does not end")
}

fn client(running: &Handle) -> TcpStream {
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
    let running = Supervisor::new(Echo).start(Listen::Bind(anywhere())).unwrap();
    let mut client = client(&running);
    greet(&mut client);
    let control = running.control();
    thread::spawn(move || control.stop(HUGE));
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "SHUTDOWN\n");
    drop(client);
    let report = wait(running).unwrap();
    assert_eq!((report.drain.notified, report.drain.disconnected, report.drain.forced.len()), (1, 1, 0));
    assert_eq!((report.by.clone(), report.exit()), (Trigger::Code, Exit::Done));
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
    let running = Supervisor::new(StopAtOnce).start(Listen::Bind(anywhere())).unwrap();
    CONTROL.set(running.control()).unwrap();
    client(&running).write_all(b"x").unwrap();
    wait(running).unwrap();
}

/// For tests: a connection has no such method.
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
    let running = Supervisor::new(Echo).start(Listen::Bind(anywhere())).unwrap();
    let mut client = client(&running);
    greet(&mut client);
    for grace in [HUGE, Duration::from_millis(50), HUGE] {
        running.control().stop(grace);
    }
    // The client stays connected.
    let report = wait(running).unwrap();
    assert_eq!((report.drain.forced.len(), report.exit()), (1, Exit::Forced));
}

#[test]
fn it_starts_on_a_listener_that_is_bound_already() {
    let listener = TcpListener::bind(anywhere()).unwrap();
    let address = listener.local_addr().unwrap();
    let running = Supervisor::new(Echo).start(Listen::Listener(listener)).unwrap();
    assert_eq!(running.address(), address);
    greet(&mut client(&running));
    running.control().stop(Duration::ZERO);
    wait(running).unwrap();
}

#[test]
fn a_listener_that_is_shared_outlives_the_supervisor_with_its_queue() {
    let listener = TcpListener::bind(anywhere()).unwrap();
    let start = || Supervisor::new(Echo).start(Listen::Shared(listener.try_clone().unwrap())).unwrap();
    let running = start();
    greet(&mut client(&running));
    running.control().restart(HUGE);
    greet(&mut client(&running));
    running.control().stop(HUGE);
    wait(running).unwrap();
    let mut waiting = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    waiting.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let next = start();
    greet(&mut waiting);
    drop(waiting);
    next.control().stop(HUGE);
    wait(next).unwrap();
}

#[test]
fn a_taken_port_is_an_error_with_its_cause() {
    let listener = TcpListener::bind(anywhere()).unwrap();
    let address = listener.local_addr().unwrap();
    let error = || Supervisor::new(Echo).start(Listen::Bind(address)).unwrap_err();
    let taken = error();
    assert!(matches!(taken, Error::Bind { .. }), "{taken:?}");
    assert!(std::error::Error::source(&taken).is_some());
    if cfg!(target_os = "linux") {
        let pid = format!("(pid {})", std::process::id());
        // A process that another test starts has the listener for a moment, too.
        eventually("the error names this process", || error().to_string().contains(&pid));
    }
}

#[test]
fn a_handler_that_cannot_be_made_keeps_the_supervisor_from_starting() {
    struct BadNotice;
    impl Handler for BadNotice {
        fn serve(&self, _client: &mut Connection) -> io::Result<()> {
            Ok(())
        }
        fn notice(&self) -> Option<&[u8]> {
            panic!("no words")
        }
    }
    let denied = || io::Error::new(io::ErrorKind::PermissionDenied, "keep out");
    for (supervisor, message, exit) in [
        (Supervisor::new(BadNotice), "building it panicked: no words", Exit::Failed),
        (Supervisor::with_factory(|_| panic!("no hands")), "building it panicked: no hands", Exit::Failed),
        (Supervisor::with_factory(|_| Err("no idea".into())), "no idea", Exit::Failed),
        (Supervisor::with_factory(move |_| Err(denied().into())), "keep out", Exit::NotPermitted),
    ] {
        let error = supervisor.start(Listen::Bind(anywhere())).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.exit()), (message, exit));
    }
}

/// An echo server whose accepting thread panics when a client connects after a `!` was received.
#[derive(Default)]
struct Crashes(AtomicBool);

impl Handler for Crashes {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            let mut message = [0];
            client.read_exact(&mut message)?;
            self.0.store(message == *b"!", Ordering::SeqCst);
            client.write_all(&message)?;
        }
        Ok(())
    }

    fn notice(&self) -> Option<&[u8]> {
        Some(b"SHUTDOWN\n")
    }

    fn admits(&self, _peer: SocketAddr) -> bool {
        assert!(!self.0.swap(false, Ordering::SeqCst), "on command");
        true
    }
}

/// Makes the server crash. Returns when it has.
fn crash(running: &Handle) {
    let mut client = client(running);
    client.write_all(b"!").unwrap();
    client.read_exact(&mut [0]).unwrap();
    let _last = self::client(running);
    // The client is notified, because its generation ends.
    let mut heard = String::new();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "SHUTDOWN\n");
}

#[test]
fn a_server_that_crashes_is_started_again_and_serves_who_came_meanwhile_until_that_is_too_often() {
    let policy = RestartPolicy { max_restarts: 5, ..RestartPolicy::default() };
    let running = Supervisor::new(Crashes::default()).restart(policy).start(Listen::Bind(anywhere())).unwrap();
    for _ in 0..5 {
        crash(&running);
        // This client waits in the queue until a server is running again.
        greet(&mut client(&running));
    }
    crash(&running);
    let address = running.address();
    let error = wait(running).unwrap_err();
    assert!(matches!(error, Error::CrashedTooOften { times: 6, .. }), "{error}");
    assert_eq!(error.exit(), Exit::CrashedTooOften);
    let message =
        "giving up: 6 crashes within 120 s (--max-restarts 5): the handler panicked when a client came: on command";
    assert_eq!(error.to_string(), message);
    assert_is_free(address);
}

/// A client of another test can have the port for a moment, and a process that another test starts the listener.
fn assert_is_free(address: SocketAddr) {
    eventually(&format!("{address} is free"), || TcpListener::bind(address).is_ok());
}

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < end, "never came true: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_policy_that_starts_nothing_again_ends_the_supervisor_with_the_first_crash() {
    let policy = RestartPolicy { mode: RestartMode::Never, ..RestartPolicy::default() };
    let running = Supervisor::new(Crashes::default()).restart(policy).start(Listen::Bind(anywhere())).unwrap();
    crash(&running);
    let error = wait(running).unwrap_err();
    assert_eq!(error.to_string(), "the server ended: the handler panicked when a client came: on command");
    assert_eq!(error.exit(), Exit::Failed);
}

#[test]
fn a_restart_from_code_builds_the_server_afresh() {
    /// Answers with the number of its generation.
    struct Numbered(u8);
    impl Handler for Numbered {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            while client.next_message() {
                client.consume_all();
                client.write_all(&[self.0])?;
            }
            Ok(())
        }
    }
    let mut built = 0;
    let supervisor = Supervisor::with_factory(move |_| {
        built += 1;
        // The second one cannot be built, so the first keeps serving.
        if built == 2 { Err("not today".into()) } else { Ok(Arc::new(Numbered(built))) }
    });
    let running = supervisor.start(Listen::Bind(anywhere())).unwrap();
    let ask = |client: &mut TcpStream| {
        let mut answer = [0];
        client.write_all(b"?").and_then(|()| client.read_exact(&mut answer)).unwrap();
        answer[0]
    };
    let mut first = client(&running);
    assert_eq!(ask(&mut first), 1);
    running.control().restart(HUGE);
    running.control().restart(HUGE);
    while ask(&mut client(&running)) != 3 {
        thread::yield_now();
    }
    // The connection is still open, and moves to the new generation in a moment.
    while ask(&mut first) != 3 {
        thread::yield_now();
    }
    running.control().stop(HUGE);
    wait(running).unwrap();
}

/// On Windows the name of a pipe is not a path.
#[cfg(unix)]
#[test]
fn what_a_handler_has_to_say_stands_among_the_events_even_if_nothing_is_logged() {
    use mastercontrol::client::{self, Patience};
    use mastercontrol::instance::InstancePaths;
    use mastercontrol::protocol::{Request, Response};
    use mastercontrol::{AdminSocket, Journal, Level};
    use std::ops::ControlFlow;
    use std::os::unix::fs::DirBuilderExt;

    struct Talkative(Journal);
    impl Handler for Talkative {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            self.0.line(Level::Info, "greeted", "a client has connected", [("from", client.peer().to_string().into())]);
            client.write_all(b"x")
        }
        fn speaks_first(&self) -> bool {
            true
        }
    }
    let directory = std::env::temp_dir().join(format!("events-test-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&directory); // Of a run that was killed, and had that process id.
    std::fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
    let socket = directory.join("x.sock");
    let journal = Journal::new(Log::silent());
    let supervisor = Supervisor::new(Talkative(journal.clone())).journal(journal);
    let running = supervisor.admin(AdminSocket::Require).socket(&socket).start(Listen::Bind(anywhere())).unwrap();
    client(&running).read_exact(&mut [0]).unwrap();
    let mut entries = Vec::new();
    let request = Request::Events { since: None, follow: false };
    client::listen(&InstancePaths::at(&socket).unwrap(), request, Patience::short(), |response| {
        match response {
            Response::Entry(entry) => entries.push(entry),
            Response::Progress(_) => {}
            Response::Answer(_) => return ControlFlow::Break(()),
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    let names: Vec<_> = entries.iter().map(|entry| (entry.seq, entry.event.as_str())).collect();
    assert_eq!(names, [(1, "listening"), (2, "greeted")]);
    assert!(entries[1].fields["from"].as_str().unwrap().starts_with("127.0.0.1:"), "{:?}", entries[1]);
    running.control().stop(HUGE);
    wait(running).unwrap();
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_server_that_takes_no_connections_is_found_and_restarted() {
    /// In the first generation, its accepting thread hangs for ever once the flag is set.
    struct Hangs(Option<Arc<AtomicBool>>);
    impl Handler for Hangs {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            Echo.serve(client)
        }
        fn notice(&self) -> Option<&[u8]> {
            Some(b"SHUTDOWN\n")
        }
        fn admits(&self, _peer: SocketAddr) -> bool {
            while self.0.as_ref().is_some_and(|hang| hang.load(Ordering::SeqCst)) {
                thread::park();
            }
            true
        }
    }
    let hang = Arc::<AtomicBool>::default();
    let mut first_hangs = Some(hang.clone());
    let supervisor = Supervisor::with_factory(move |_| Ok(Arc::new(Hangs(first_hangs.take()))));
    let running = supervisor.check_every(Duration::from_millis(50)).start(Listen::Bind(anywhere())).unwrap();
    let mut first = client(&running);
    greet(&mut first);
    hang.store(true, Ordering::SeqCst);
    let _hangs = client(&running);
    // The client is notified, although the thread that should do it hangs.
    let mut heard = String::new();
    first.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "SHUTDOWN\n");
    drop(first);
    greet(&mut client(&running));
    running.control().stop(HUGE);
    wait(running).unwrap();
}

/// The first line of a health endpoint's answer.
fn ask_health(address: SocketAddr, path: &str) -> String {
    ask_health_in_full(address, path).lines().next().unwrap().to_owned()
}

fn ask_health_in_full(address: SocketAddr, path: &str) -> String {
    let mut client = TcpStream::connect(address).unwrap();
    write!(client, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_health_endpoint_answers_at_its_address_and_is_gone_with_the_supervisor() {
    let running = Supervisor::new(Echo).health(anywhere()).start(Listen::Bind(anywhere())).unwrap();
    let health = running.health().unwrap();
    assert_ne!(health, running.address());
    assert_eq!(ask_health(health, "/live"), "HTTP/1.1 200 OK");
    let silent = TcpStream::connect(health).unwrap();
    running.control().stop(Duration::ZERO);
    wait(running).unwrap();
    assert_is_free(health);
    drop(silent);
    assert_eq!(Supervisor::new(Echo).start(Listen::Bind(anywhere())).unwrap().health(), None);
}

/// For example, a disk that does not answer.
#[test]
fn what_hangs_when_it_is_looked_at_is_not_ready_and_the_supervisor_is_alive() {
    struct Hangs {
        looks: Arc<AtomicUsize>,
        until: Mutex<mpsc::Receiver<()>>,
    }
    impl Handler for Hangs {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            Echo.serve(client)
        }

        fn available(&self) -> io::Result<()> {
            self.looks.fetch_add(1, Ordering::SeqCst);
            let _ = self.until.lock().unwrap().recv(); // The test is over.
            Ok(())
        }
    }
    let (over, until) = mpsc::channel();
    let looks = Arc::new(AtomicUsize::new(0));
    let hangs = Hangs { looks: looks.clone(), until: Mutex::new(until) };
    let running = Supervisor::new(hangs).health(anywhere()).start(Listen::Bind(anywhere())).unwrap();
    let health = running.health().unwrap();
    assert_eq!(ask_health(health, "/live"), "HTTP/1.1 200 OK");
    assert_eq!(looks.load(Ordering::SeqCst), 0, "it is no matter of what is served");
    let ready = ask_health_in_full(health, "/ready");
    let is_refused =
        |ready: &str| ready.starts_with("HTTP/1.1 503 ") && ready.ends_with(" could not be read within 1 s\n");
    assert!(is_refused(&ready), "{ready}");
    thread::scope(|scope| {
        let asking: Vec<_> = (0..30).map(|_| scope.spawn(|| ask_health_in_full(health, "/ready"))).collect();
        for ready in asking.into_iter().map(|asked| asked.join().unwrap()) {
            assert!(is_refused(&ready), "{ready}");
        }
    });
    assert_eq!(looks.load(Ordering::SeqCst), 1, "each look that hangs takes a thread");
    drop(over);
    while ask_health(health, "/ready") != "HTTP/1.1 200 OK" {
        thread::yield_now();
    }
    running.control().stop(HUGE);
    wait(running).unwrap();
}

#[test]
fn many_that_ask_at_the_same_time_whether_it_is_ready_share_one_look_and_are_told_that_it_is() {
    #[derive(Default)]
    struct Slow {
        under_way: AtomicUsize,
    }
    impl Handler for Slow {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            Echo.serve(client)
        }

        fn available(&self) -> io::Result<()> {
            let others = self.under_way.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(50));
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            if others == 0 { Ok(()) } else { Err(io::Error::other("two looks at the same time")) }
        }
    }
    let running = Supervisor::new(Slow::default()).health(anywhere()).start(Listen::Bind(anywhere())).unwrap();
    let health = running.health().unwrap();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..40).map(|_| scope.spawn(|| ask_health_in_full(health, "/ready"))).collect();
        for ready in asking.into_iter().map(|asked| asked.join().unwrap()) {
            assert!(ready.starts_with("HTTP/1.1 200 OK"), "{ready}");
        }
    });
    running.control().stop(HUGE);
    wait(running).unwrap();
}

#[test]
fn whoever_cannot_start_has_no_health_endpoint_any_more() {
    let health = TcpListener::bind(anywhere()).unwrap().local_addr().unwrap();
    let supervisor = Supervisor::with_factory(move |_| {
        // The endpoint exists while the server is being built.
        assert_eq!(ask_health(health, "/ready"), "HTTP/1.1 503 Service Unavailable");
        Err("it cannot be built".into())
    });
    let error = supervisor.health(health).start(Listen::Bind(anywhere())).unwrap_err();
    assert_eq!(error.to_string(), "it cannot be built");
    assert_is_free(health);
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
        fn speaks_first(&self) -> bool {
            true
        }
    }
    let running = Supervisor::new(Hang).start(Listen::Bind(anywhere())).unwrap();
    let _client = client(&running);
    while NEVER.lock().unwrap().is_none() {
        thread::yield_now();
    }
    running.control().stop(Duration::ZERO);
    let report = wait(running).unwrap();
    assert_eq!((report.drain.stuck.len(), report.exit()), (1, Exit::Overrun));
}

#[test]
fn a_handler_whose_drop_blocks_holds_up_its_own_generation_and_no_command() {
    /// The drop of the first generation's handler signals the test and waits for it.
    struct Closes(Option<(mpsc::Sender<()>, mpsc::Receiver<()>)>);
    impl Drop for Closes {
        fn drop(&mut self) {
            if let Some((begins, go_on)) = &self.0 {
                begins.send(()).unwrap();
                let _ = go_on.recv(); // The test has failed.
            }
        }
    }
    /// A receiver is not `Sync`.
    struct Guarded {
        _closes: Mutex<Closes>,
    }
    impl Handler for Guarded {
        fn serve(&self, client: &mut Connection) -> io::Result<()> {
            Echo.serve(client)
        }
    }
    let (begins, begun) = mpsc::channel();
    let (go_on, waits) = mpsc::channel();
    let mut first = Some((begins, waits));
    let supervisor =
        Supervisor::with_factory(move |_| Ok(Arc::new(Guarded { _closes: Mutex::new(Closes(first.take())) })));
    let running = supervisor.health(anywhere()).start(Listen::Bind(anywhere())).unwrap();
    let metrics = || ask_health_in_full(running.health().unwrap(), "/metrics");
    running.control().restart(HUGE);
    begun.recv_timeout(Duration::from_secs(60)).unwrap();
    let status = metrics();
    assert!(status.contains("_restarts_total 0\n") && status.contains("_generation 2\n"), "{status}");
    greet(&mut client(&running));
    drop(go_on);
    while !metrics().contains("_restarts_total 1\n") {
        thread::yield_now();
    }
    running.control().stop(HUGE);
    wait(running).unwrap();
}

/// Runs in a process of its own, which the last resort ends.
#[test]
fn a_stop_that_hangs_is_ended_by_the_last_resort_which_says_so() {
    const CHILD: &str = "MASTERCONTROL_TEST_LAST_RESORT";
    struct HangsAtItsEnd;
    impl Session for HangsAtItsEnd {
        fn serve(&mut self, client: &mut Connection) -> io::Result<()> {
            while client.next_message() {
                client.consume_all();
                client.write_all(b"!")?;
            }
            Ok(())
        }
    }
    impl Drop for HangsAtItsEnd {
        fn drop(&mut self) {
            // The thread that drains the clients hangs here, and nothing else would end it.
            loop {
                thread::park();
            }
        }
    }
    if std::env::var_os(CHILD).is_some() {
        let supervisor = Supervisor::new(Sessions::new(|_| HangsAtItsEnd));
        let running = supervisor.last_resort().log(Log::text()).start(Listen::Bind(anywhere())).unwrap();
        let mut client = client(&running);
        client.write_all(b"?").and_then(|()| client.read_exact(&mut [0])).unwrap();
        // The connection waits again a moment after the answer, which nothing announces.
        thread::sleep(Duration::from_millis(200));
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
