//! Too many connections, no descriptors left, waiting that costs nothing.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use mastercontrol_worker::handlers::Echo;
use mastercontrol_worker::{Activity, Connection, Handler, Server};

use crate::support::{Client, HUGE, Log, Running, Serve, eventually, send_much};

const REFUSAL: &str = "Too many connections, try again later\n";

#[test]
fn the_one_connection_too_many_is_told_so_and_counted() {
    let log = Log::default();
    let server = Running::of(log.observe(Server::new(Echo).max_connections(2)));
    let mut clients = server.idle_clients(2);
    let mut one_too_many = server.client();
    one_too_many.expect_last(REFUSAL);
    drop(one_too_many);
    assert_eq!((server.counts().now, server.counts().total, server.counts().refused), (2, 2, 1));
    // The others have noticed nothing.
    for client in &mut clients {
        client.send("hello");
        client.expect("hello");
    }
    drop(clients);
    server.stop(HUGE);
    server.join();
    assert_eq!(log.count("refused"), 1);
}

/// Answers each byte with itself. No notice.
fn mirror() -> impl Handler {
    Serve(|client: &mut Connection| {
        client.set_idle_timeout(Some(HUGE));
        while client.next_message() {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            client.write_all(&byte)?;
        }
        Ok(())
    })
}

#[test]
fn one_more_takes_the_place_of_the_client_that_has_been_idle_for_longest_if_that_is_owed_nothing() {
    let server = Running::of(Server::new(mirror()).max_connections(3));
    let ask = |client: &mut Client| {
        client.send("?");
        client.expect("?");
        eventually("all are idle", || server.connections().iter().all(|it| it.activity == Activity::Idle));
    };
    let mut clients: Vec<_> = (0..3).map(|_| server.client()).collect();
    clients.iter_mut().for_each(ask);
    // From now on the second one has been idle longest.
    ask(&mut clients[0]);
    let mut one_more = server.client();
    ask(&mut one_more);
    clients.remove(1).expect_last("");
    clients.iter_mut().for_each(ask);
    assert_eq!((server.counts().now, server.counts().refused), (3, 0));
    drop((clients, one_more));
    server.stop(HUGE);
    server.join();
}

/// Answers `.` with itself, `!` with more than a client's system receives for it unasked, and `x` for the last time.
/// Other bytes only begin a message.
struct ClosesSlow;

impl Handler for ClosesSlow {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            let mut byte = [0];
            while !b".!x".contains(&byte[0]) {
                client.read_exact(&mut byte)?;
            }
            if byte == *b"!" {
                send_much(client, b'!')?;
            } else {
                client.write_all(&byte)?;
            }
            if byte == *b"x" {
                client.abandon_input();
                return Ok(());
            }
        }
        Ok(())
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Some(HUGE)
    }

    fn closes_slow(&self) -> bool {
        true
    }
}

/// Two clients are slow, and further ones come until one of them is served. Returns whether the older one has made room.
/// The younger one does if the older one is not waited for yet.
fn the_older_makes_room(slow: &str) -> bool {
    let server = Running::of(Server::new(ClosesSlow).max_connections(2));
    let mut clients: Vec<_> = (0..2).map(|_| server.client()).collect();
    for client in &mut clients {
        client.send(".");
        client.expect(".");
        client.send(slow);
    }
    eventually("there is room", || {
        let mut client = server.client();
        client.0.write_all(b".").and_then(|()| client.0.read(&mut [0])).is_ok_and(|length| length == 1)
    });
    let stays = |client: &Client| server.connections().iter().any(|it| it.peer == client.address());
    let result = !stays(&clients[0]) && stays(&clients[1]);
    drop(clients);
    server.stop(HUGE);
    server.join();
    result
}

#[test]
fn one_more_takes_the_place_of_the_oldest_slow_client_if_messages_may_be_cut_off() {
    for slow in ["half a message", "!", "x"] {
        eventually("the older one makes room", || the_older_makes_room(slow));
    }
}

#[test]
fn a_client_that_is_slow_keeps_its_place_if_messages_must_not_be_cut_off() {
    let server = Running::of(Server::new(Serve(|client: &mut Connection| ClosesSlow.serve(client))).max_connections(1));
    let mut client = server.client();
    client.send("half");
    server.wait_for_message(4);
    for _ in 0..10 {
        server.client().expect_last("");
    }
    client.send(".");
    client.expect(".");
    drop(client);
    server.stop(HUGE);
    server.join();
}

/// A client whose message is served for longer than it may be idle, and which is idle after that. Returns whether the
/// client itself was in time, which a busy machine may prevent.
fn is_closed_after_a_long_message() -> bool {
    const IDLE: Duration = Duration::from_millis(200);
    let handler = Serve(|client: &mut Connection| {
        client.set_idle_timeout(Some(IDLE));
        while client.next_message() {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            if byte == *b"w" {
                thread::sleep(2 * IDLE);
            }
            client.write_all(&byte)?;
        }
        Ok(())
    });
    let server = Running::start(handler);
    let mut client = server.client();
    client.send("?");
    client.expect("?");
    let is_in_time = client.0.write_all(b"w").is_ok() && client.0.read(&mut [0]).is_ok_and(|read| read == 1);
    if is_in_time {
        client.expect_last("");
    }
    server.stop(HUGE);
    server.join();
    is_in_time
}

#[test]
fn a_client_that_is_idle_for_too_long_is_closed_also_if_its_last_message_took_longer_than_that() {
    eventually("a client is in time", is_closed_after_a_long_message);
}

#[test]
fn a_limit_that_is_set_while_others_had_a_turn_is_kept() {
    let server = Running::start(Serve(|client: &mut Connection| {
        while client.next_message() {
            let mut byte = [0];
            client.read_exact(&mut byte)?;
            if byte == *b"!" {
                client.set_idle_timeout(Some(Duration::from_millis(50)));
            }
            client.write_all(&byte)?;
        }
        Ok(())
    }));
    // More than a client's turn.
    let burst = ".".repeat(100) + "!";
    let mut clients: Vec<_> = (0..10).map(|_| server.client()).collect();
    clients.iter_mut().for_each(|client| client.send(&burst));
    clients.iter_mut().for_each(|client| client.expect_last(&burst));
    server.stop(HUGE);
    server.join();
}

#[test]
fn a_refusal_survives_what_the_client_sends() {
    let server = Running::of(Server::new(Echo).max_connections(0));
    let mut client = server.client();
    eventually("it is refused", || server.counts().refused == 1);
    for _ in 0..64 {
        client.send([b'x'; 1024]);
    }
    client.expect_last(REFUSAL);
    drop(client);
    server.stop(HUGE);
    server.join();
}

#[test]
fn clients_are_served_again_when_there_is_room_again() {
    let server = Running::of(Server::new(Echo).max_connections(1));
    let first = server.idle_clients(1);
    server.client().expect_last(REFUSAL);
    drop(first);
    eventually("it has left", || server.counts().now == 0);
    let mut client = server.client();
    client.send("hello");
    client.expect("hello");
    drop(client);
    server.stop(HUGE);
    server.join();
}

/// The server is in a process of its own, with few descriptors; the clients are here.
#[cfg(target_os = "linux")]
mod descriptors {
    use std::io::{self, BufRead, BufReader, Read, Write};
    use std::process::{Child, ChildStdin, Stdio};
    use std::sync::mpsc::{self, Receiver};
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::crowd::crowd;
    use crate::support::{Client, LIMIT, ServeAndTell, Watchdog, child};

    /// Prints its address and its answers to its standard output, and takes commands from its standard input.
    fn serve(server: Server) {
        // Not with `println!`, which the test harness may capture.
        let say = |line: &str| io::stdout().write_all(format!("\n@{line}\n").as_bytes()).unwrap();
        let log = Log::default();
        let server = Running::of(log.observe(server));
        say(&server.address().to_string());
        for order in io::stdin().lock().lines() {
            match order.unwrap().as_str() {
                "exhausted?" => say(&log.count("exhausted").to_string()),
                "refused?" => say(&log.count("refused").to_string()),
                "connections?" => say(&server.counts().now.to_string()),
                "cpu?" => say(&cpu_ticks().to_string()),
                "stop" => {
                    server.stop(HUGE);
                    let report = server.join();
                    return say(&format!(
                        "told {} left {} forced {}",
                        report.notified,
                        report.disconnected,
                        report.forced.len()
                    ));
                }
                other => panic!("{other}"),
            }
        }
    }

    /// The CPU time of this process, in hundredths of a second.
    fn cpu_ticks() -> u64 {
        let stat = procfs();
        // The name of the command is in parentheses and may contain blanks.
        let fields: Vec<_> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }

    /// Read through a descriptor that was opened while there was one.
    fn procfs() -> String {
        use std::io::Seek;
        static STAT: std::sync::OnceLock<std::sync::Mutex<std::fs::File>> = std::sync::OnceLock::new();
        let stat = STAT.get_or_init(|| std::sync::Mutex::new(std::fs::File::open("/proc/self/stat").unwrap()));
        let mut stat = stat.lock().unwrap();
        stat.rewind().unwrap();
        let mut text = String::new();
        stat.read_to_string(&mut text).unwrap();
        text
    }

    struct Process {
        child: Child,
        orders: ChildStdin,
        answers: Receiver<String>,
        address: std::net::SocketAddr,
        _watchdog: Watchdog,
    }

    impl Process {
        fn start(test: &str) -> Process {
            let mut child = child(test, "ulimit -n 40");
            let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
            let orders = child.stdin.take().unwrap();
            let output = BufReader::new(child.stdout.take().unwrap());
            let (answer, answers) = mpsc::channel();
            thread::spawn(move || {
                for line in output.lines().map_while(Result::ok) {
                    if let Some(line) = line.strip_prefix('@') {
                        let _ = answer.send(line.to_owned());
                    }
                }
            });
            let address = answers.recv_timeout(LIMIT).unwrap().parse().unwrap();
            let mut process = Process { child, orders, answers, address, _watchdog: Watchdog::start() };
            process.ask("cpu?");
            process
        }

        fn ask(&mut self, question: &str) -> u64 {
            self.say(question).parse().unwrap()
        }

        fn say(&mut self, order: &str) -> String {
            writeln!(self.orders, "{order}").unwrap();
            self.answers.recv_timeout(LIMIT).unwrap()
        }

        fn wait_for(&mut self, question: &str, mut condition: impl FnMut(u64) -> bool) -> u64 {
            let end = std::time::Instant::now() + LIMIT;
            loop {
                let answer = self.ask(question);
                if condition(answer) {
                    return answer;
                }
                assert!(std::time::Instant::now() < end, "{question} {answer}");
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    #[test]
    fn out_of_descriptors_the_server_waits_without_spinning_and_goes_on_when_clients_leave() {
        if std::env::var_os("WORKER_TEST_CHILD").is_some() {
            return serve(Server::new(Echo));
        }
        // More than the server has descriptors for.
        let (many, _guard) = crowd(60, 1);
        let mut server = Process::start(
            "limits::descriptors::out_of_descriptors_the_server_waits_without_spinning_and_goes_on_when_clients_leave",
        );
        let mut clients: Vec<_> = (0..many).map(|_| Client::connect(server.address)).collect();
        server.wait_for("exhausted?", |times| times == 1);
        let room = server.wait_for("connections?", |now| now >= 20) as usize;
        assert!(room < 40, "the limit of descriptors does not hold: {room}");

        // A loop without a wait would use nearly all of this time, or half of it on a machine that is busy.
        let before = server.ask("cpu?");
        thread::sleep(Duration::from_secs(1));
        let used = server.ask("cpu?") - before;
        assert!(used <= 20, "{used} hundredths of a second of computing while there was nothing to do");

        // The first clients are served throughout; the last ones are served once the first have left.
        let ask = |client: &mut Client| {
            client.send("hello");
            client.expect("hello");
        };
        ask(&mut clients[0]);
        while clients.len() > 20 {
            drop(clients.drain(..10));
        }
        clients.iter_mut().for_each(ask);
        assert_eq!(server.ask("exhausted?"), 1, "it was said again and again");
        drop(clients);
        server.wait_for("connections?", |now| now == 0);
        assert_eq!(server.say("stop"), "told 0 left 0 forced 0");
        assert!(server.child.wait().unwrap().success());
    }

    #[test]
    fn out_of_descriptors_a_stop_tells_everybody_even_those_in_the_accept_queue() {
        if std::env::var_os("WORKER_TEST_CHILD").is_some() {
            return serve(Server::new(Echo));
        }
        // More than the server has descriptors for.
        let (many, _guard) = crowd(60, 1);
        let mut server = Process::start(
            "limits::descriptors::out_of_descriptors_a_stop_tells_everybody_even_those_in_the_accept_queue",
        );
        let clients: Vec<_> = (0..many).map(|_| Client::connect(server.address)).collect();
        server.wait_for("exhausted?", |times| times == 1);
        thread::scope(|scope| {
            // Each disconnects when it has been notified, and so makes room.
            for mut client in clients {
                scope.spawn(move || client.expect_last("SHUTDOWN\n"));
            }
            assert_eq!(server.say("stop"), format!("told {many} left {many} forced 0"));
        });
        assert!(server.child.wait().unwrap().success());
    }

    /// Opens a file for each byte, and answers whether there was a descriptor for it.
    fn open_for_each(client: &mut Connection) -> io::Result<()> {
        while client.next_message() {
            client.read_exact(&mut [0])?;
            let opened = std::fs::File::open("/dev/null");
            client.write_all(if opened.is_ok() { b"opened" } else { b"failed" })?;
        }
        Ok(())
    }

    #[test]
    fn clients_that_are_refused_leave_the_descriptors_to_those_that_are_served() {
        if std::env::var_os("WORKER_TEST_CHILD").is_some() {
            return serve(Server::new(ServeAndTell(open_for_each)).max_connections(4));
        }
        let (many, _guard) = crowd(60, 1);
        let mut server = Process::start(
            "limits::descriptors::clients_that_are_refused_leave_the_descriptors_to_those_that_are_served",
        );
        let mut served: Vec<_> = (0..4).map(|_| Client::connect(server.address)).collect();
        let ask = |client: &mut Client| {
            client.send("?");
            client.expect("opened");
        };
        served.iter_mut().for_each(ask);
        // They read nothing and stay.
        let refused: Vec<_> = (0..many).map(|_| Client::connect(server.address)).collect();
        server.wait_for("refused?", |number| {
            served.iter_mut().for_each(ask);
            number == many as u64
        });
        assert_eq!(server.ask("exhausted?"), 0);
        served.iter_mut().for_each(ask);
        drop((served, refused));
        server.wait_for("connections?", |now| now == 0);
        assert_eq!(server.say("stop"), "told 0 left 0 forced 0");
        assert!(server.child.wait().unwrap().success());
    }
}

#[cfg(unix)]
#[test]
fn a_stop_wakes_the_server_though_no_descriptor_is_left() {
    let test = "limits::a_stop_wakes_the_server_though_no_descriptor_is_left";
    crate::support::in_a_process_of_its_own(test, "ulimit -n 40", || {
        let server = Running::start(Echo);
        let mut client = server.client();
        client.send("hello");
        client.expect("hello");
        // While the server waits for its next client, the rest of the process takes all remaining descriptors.
        let taken: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).collect();
        assert!(taken.len() < 40, "the limit of descriptors does not hold: {}", taken.len());
        server.stop(HUGE);
        client.expect_last("SHUTDOWN\n");
        drop(client);
        assert_eq!(server.join().disconnected, 1);
    });
}

#[cfg(target_os = "linux")]
#[test]
fn an_idle_server_does_not_wake_up() {
    use std::fs;
    use std::time::Duration;

    /// How often the threads of the server have been woken.
    fn wake_ups() -> (usize, u64) {
        let threads = fs::read_dir("/proc/self/task").unwrap().map(|thread| thread.unwrap().path());
        let status: Vec<_> = threads.filter_map(|thread| fs::read_to_string(thread.join("status")).ok()).collect();
        let value = |status: &str, name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim().to_owned()
        };
        let of_server: Vec<u64> = status
            .iter()
            .filter(|status| {
                let name = value(status, "Name:");
                ["generation", "sentinel", "acceptor"].contains(&name.as_str()) || name.starts_with("engine-")
            })
            .map(|status| value(status, "voluntary_ctxt_switches:").parse().unwrap())
            .collect();
        (of_server.len(), of_server.iter().sum())
    }

    crate::support::in_a_process_of_its_own("limits::an_idle_server_does_not_wake_up", "", || {
        let server = Running::start(Echo);
        let mut clients = server.idle_clients(5);
        clients.iter_mut().for_each(|client| {
            client.send("hello");
            client.expect("hello");
        });
        // A thread that has reported that it is idle is about to wait, and a thread that was needed only for the start
        // ends after a second. From then on nothing should happen.
        eventually("all wait", || {
            let before = wake_ups();
            thread::sleep(Duration::from_millis(1500));
            wake_ups() == before
        });
        let before = wake_ups();
        assert!(before.0 >= 4, "the threads of the server are counted: {}", before.0);
        thread::sleep(Duration::from_secs(2));
        assert_eq!(wake_ups(), before);
        drop(clients);
        server.stop(HUGE);
        server.join();
    });
}
