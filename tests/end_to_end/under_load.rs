//! Restarts and stops while clients connect and disconnect. None of them loses anything.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
#[cfg(unix)]
use std::time::{Duration, Instant};

use load::{Load, Mode, Report};
#[cfg(unix)]
use mastercontrol::worker::FIRST_MESSAGE_WAIT;
use serde_json::Value;

use crate::support::{Client, HUGE, Home, Instance, LIMIT, eventually, some_more};
#[cfg(target_os = "linux")]
use crate::support::{SUPERVISOR, free_port};

/// How many requests are answered between two restarts. Wine is slow.
const BETWEEN: u64 = if cfg!(windows) { 200 } else { 2500 };

/// How long a connected client waits before it sends its request: much less than a server waits for that.
#[cfg(unix)]
const HESITATION: Duration = Duration::from_millis(50);

/// The number of restarts. `RESTARTS` sets more, for a longer run than the suite has time for.
pub fn restarts(usually: u64) -> u64 {
    std::env::var("RESTARTS").map_or(usually, |restarts| restarts.parse().unwrap())
}

/// A server for the file `1k`.
fn http(home: &Home) -> Vec<String> {
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("1k"), one_k()).unwrap();
    vec!["http".into(), files.to_str().unwrap().into()]
}

fn one_k() -> String {
    "x".repeat(1024)
}

/// Restarts the server repeatedly while it answers requests, none of which is lost. Returns what became of them, and
/// the report of each restart.
fn restart_under_load(instance: &Instance, mode: Mode) -> (Report, Vec<Value>) {
    let restarts = restarts(8);
    let load = Load::new(instance.address, "/1k", one_k(), mode).begin();
    let mut said = Vec::new();
    for generation in (2..).take(restarts.try_into().unwrap()) {
        some_more(&load, BETWEEN);
        let restarted = instance.admin(&["restart", "--json"]).expect(0).json();
        assert_eq!(restarted["generation"], generation, "{restarted}");
        assert_eq!(restarted["report"]["forced"], 0, "{restarted}");
        said.push(restarted);
    }
    some_more(&load, BETWEEN);
    let report = load.end();
    assert_eq!(report.lost(), 0, "{report}\n{}", instance.err.so_far());
    let status = instance.status();
    assert_eq!((&status["generation"], &status["state"]), (&(restarts + 1).into(), &"serving".into()));
    (report, said)
}

/// The same for a server in a thread of the supervisor, which counts its connections.
fn restart_thread_under_load(mode: Mode) -> Report {
    let home = Home::new();
    let server = http(&home);
    let instance = home.start(&[&server[0], &server[1], "--grace", HUGE]);
    let (report, _) = restart_under_load(&instance, mode);
    assert_eq!(instance.status()["connections"]["total"], report.connections, "{report}");
    report
}

#[test]
fn restarts_under_load_lose_no_request_of_one_request_connections() {
    restart_thread_under_load(Mode::OnePerConnection);
}

#[test]
fn restarts_under_load_lose_no_request_of_kept_alive_connections() {
    let report = restart_thread_under_load(Mode::KeptAlive);
    // A connection moves from one generation to the next: no client notices anything.
    assert_eq!((report.connections, report.notified, report.found_closed), (16, 0, 0), "{report}");
}

/// The old program is stopped, while there are always connections whose requests are on their way.
#[cfg(target_os = "linux")]
#[test]
fn restarts_of_our_own_server_as_a_program_lose_no_request_of_one_request_connections() {
    let home = Home::new();
    let server = http(&home);
    let port = free_port().to_string();
    let program = [SUPERVISOR, &server[0], &server[1], "--admin", "off", "--grace", HUGE];
    let instance = home.exec(&["--listen", &port, "--grace", HUGE, "--ready", "notify"], &program);
    let hesitating = Load::new(instance.address, "/1k", one_k(), Mode::OnePerConnection).hesitation(HESITATION).begin();
    let (_, said) = restart_under_load(&instance, Mode::OnePerConnection);
    let report = hesitating.end();
    assert_eq!(report.lost(), 0, "{report}\n{}", instance.err.so_far());
    // It closed no connection by force.
    assert!(said.iter().all(|said| said["report"]["program"] == "it exited with code 0"), "{said:?}");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

/// Sends one message to an echo server. A client that gets through is answered: with the message, or with the notice.
fn one_message(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"hello\n")?;
    let mut answer = [0; 16];
    let mut length = 0;
    while !answer[..length].contains(&b'\n') {
        match stream.read(&mut answer[length..])? {
            0 => break,
            more => length += more,
        }
    }
    let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
    // The notice may arrive together with the echo.
    Ok(answer.split_inclusive('\n').next().unwrap_or_default().to_owned())
}

/// Which generation takes a connection from the queue, the old one, the new one, or the old one as it drains, must not
/// matter to the client.
#[test]
fn whoever_connects_during_restarts_back_to_back_is_answered() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let (done, count, told) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let restarts = restarts(if cfg!(windows) { 5 } else { 20 });
    thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    while !done.load(Ordering::SeqCst) {
                        let answer = match one_message(instance.address) {
                            // This system is out of ports for a moment.
                            Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => continue,
                            answer => answer,
                        };
                        count.fetch_add(1, Ordering::SeqCst);
                        match answer.as_deref() {
                            Ok("hello\n") => {}
                            Ok("SHUTDOWN\n") => drop(told.fetch_add(1, Ordering::SeqCst)),
                            _ => return Err(answer),
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        let restarted: Vec<_> = (0..restarts)
            .map(|_| {
                let before = count.load(Ordering::SeqCst);
                // A client that has failed does not continue.
                let is_over = || clients.iter().any(|client| client.is_finished());
                eventually("clients come", || count.load(Ordering::SeqCst) > before || is_over());
                instance.admin(&["restart"])
            })
            .collect();
        done.store(true, Ordering::SeqCst);
        for client in clients {
            let ended = client.join().unwrap();
            assert!(ended.is_ok(), "neither answered nor told: {ended:?}, {}", instance.err.so_far());
        }
        restarted.into_iter().for_each(|ended| drop(ended.expect(0)));
    });
    assert_eq!(instance.status()["generation"], restarts + 1);
}

/// Restarts with clients, each of which must disconnect with its generation.
fn restart_with_clients(instance: &Instance) {
    let mut clients: Vec<Client> = (0..3).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(|client| client.greet());
    let restart = instance.admin_begins(&["restart"]);
    clients.iter_mut().for_each(|client| client.assert_told());
    drop(clients);
    restart.end().expect(0).says("3 notified, 3 disconnected, 0 closed, 0 forced");
}

#[test]
fn restarts_back_to_back_all_succeed() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    for _ in 0..5 {
        restart_with_clients(&instance);
    }
    assert_eq!(instance.status()["generation"], 6);
}

#[cfg(target_os = "linux")]
#[test]
fn many_restarts_leave_threads_descriptors_and_memory_as_they_were() {
    use crate::process::{descriptors, memory, threads};

    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let quiet = || !threads(instance.pid).iter().any(|(name, _)| name == "admin-client");
    instance.admin(&["restart"]).expect(0);
    eventually("the admin client's thread has ended", quiet);
    let (threads_before, descriptors_before) = (threads(instance.pid).len(), descriptors(instance.pid));
    let restarts = restarts(60);
    let mut memory_before = 0;
    for round in 0..restarts {
        if round == restarts / 3 {
            memory_before = memory(instance.pid);
        }
        restart_with_clients(&instance);
    }
    eventually("no more descriptors than before", || descriptors(instance.pid) <= descriptors_before);
    eventually("no more threads than before", || threads(instance.pid).len() <= threads_before);
    let memory = memory(instance.pid);
    assert!(memory < memory_before + 8 * 1024, "{memory_before} kB have become {memory} kB");
    assert_eq!(instance.status()["generation"], restarts + 2);
}

/// Stops a supervisor when clients have connected but not sent their requests yet. All are answered if the requests
/// arrive in time. Returns whether they do, for which a busy machine may be too slow.
#[cfg(unix)]
fn stop_while_clients_hesitate() -> bool {
    let home = Home::new();
    let server = http(&home);
    let instance = home.start(&[&server[0], &server[1], "--grace", HUGE]);
    let before = Instant::now();
    let mut clients: Vec<_> = (0..20).map(|_| instance.client()).collect();
    let stop = instance.admin_begins(&["stop"]);
    instance.err.wait_for(": stopping, ");
    thread::sleep(HESITATION.saturating_sub(before.elapsed()));
    let request = b"GET /1k HTTP/1.1\r\nHost: x\r\n\r\n";
    let sent: Vec<_> = clients.iter_mut().map(|client| client.0.write_all(request)).collect();
    let in_time = before.elapsed() < FIRST_MESSAGE_WAIT;
    if in_time {
        assert!(sent.iter().all(Result::is_ok), "{sent:?}");
        let answers: Vec<_> = clients.iter_mut().map(Client::answer).collect();
        assert!(answers.iter().all(|answer| answer.status == 200 && answer.body == one_k().as_bytes()), "{answers:?}");
    }
    drop(clients);
    stop.end().expect(0);
    assert_eq!(instance.wait(), 0);
    in_time
}

#[cfg(unix)]
#[test]
fn who_has_connected_a_moment_before_a_stop_is_answered_though_the_request_comes_later() {
    eventually("requests are in time", stop_while_clients_hesitate);
}
