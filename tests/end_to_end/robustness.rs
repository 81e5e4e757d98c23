//! Whatever happens to the admin socket, and whatever clients do there: the server keeps serving and can be stopped.

use std::fs;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal::SIGTERM;
use serde_json::Value;

use crate::process::{Hanging, descriptors, memory, threads};
use crate::support::{HUGE, Home, Instance, LIMIT, can_run, command, eventually};

#[test]
fn after_a_kill_it_starts_again_over_its_leftovers() {
    let home = Home::new();
    for _ in 0..5 {
        let instance = home.start(&["echo"]);
        let socket = home.socket();
        instance.kill();
        assert!(socket.exists(), "there is no leftover, so this test does not test anything");
    }
    home.start(&["echo"]).assert_serves();
}

#[test]
fn a_master_control_that_hangs_ends_the_process_with_an_exit_code_of_its_own() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let mut client = instance.client();
    client.greet();
    let hanging = Hanging::new(instance.pid);
    // The server is not affected, but cannot be commanded.
    client.greet();
    instance.admin(&["ping"]).expect(6);
    hanging.wait();
    let process = instance.into_process();
    assert_eq!(process.wait(), 10, "{}", process.err.whole());
    assert!(
        process.err.whole().contains("master control has been stuck for more than 10 s"),
        "{}",
        process.err.whole()
    );
    home.start(&["echo"]).assert_serves();
}

/// Asserts that its socket exists again and that it answers.
fn assert_made_again(home: &Home, instance: &Instance) {
    eventually("the socket is there again", || home.socket().exists());
    eventually("it answers", || instance.admin(&["ping"]).code == 0);
    instance.err.wait_for("has been restored");
    // The name still belongs to it.
    home.run(home.supervisor(&["command"])).expect(1).says(&format!("pid {}", instance.pid));
}

#[test]
fn a_socket_that_was_deleted_is_made_again() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    for _ in 0..3 {
        fs::remove_file(home.socket()).unwrap();
        assert_made_again(&home, &instance);
    }
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_lock_that_was_deleted_is_made_again() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    fs::remove_file(home.sockets().join(format!("{}.lock", home.name()))).unwrap();
    assert_made_again(&home, &instance);
}

#[test]
fn a_directory_that_was_deleted_is_made_again() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    for _ in 0..3 {
        // It may create files again while they are deleted one by one.
        eventually("the directory is deleted", || fs::remove_dir_all(home.sockets()).is_ok());
        assert_made_again(&home, &instance);
    }
}

#[test]
fn a_directory_that_was_moved_away_is_made_again() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    fs::rename(home.sockets(), home.directory().join("away")).unwrap();
    assert_made_again(&home, &instance);
}

/// Ways in which an admin socket is lost and cannot be created again at once, and how they end.
struct Loss {
    begin: fn(&Home, &Instance),
    end: fn(&Home, &Instance),
}

const LOSSES: [Loss; 4] = [
    // Something else takes the place of the directory, in one step, so that there is no time to create anything again.
    Loss {
        begin: |home, _| {
            fs::write(home.directory().join("file"), "in its place").unwrap();
            let (here, file) = (rustix::fs::CWD, home.directory().join("file"));
            rustix::fs::renameat_with(here, file, here, home.sockets(), rustix::fs::RenameFlags::EXCHANGE).unwrap();
        },
        end: |home, _| fs::remove_file(home.sockets()).unwrap(),
    },
    // The directory is a link to another one.
    Loss {
        begin: |home, _| {
            let (away, elsewhere) = (home.directory().join("away"), home.directory().join("elsewhere"));
            fs::create_dir(&elsewhere).unwrap();
            std::os::unix::fs::symlink(&elsewhere, home.directory().join("link")).unwrap();
            fs::rename(home.sockets(), away).unwrap();
            // It may have been created again already.
            eventually("the link is there", || {
                let _ = fs::remove_dir_all(home.sockets());
                fs::rename(home.directory().join("link"), home.sockets()).is_ok()
            });
        },
        end: |home, _| fs::remove_file(home.sockets()).unwrap(),
    },
    // The parent directory is gone, too.
    Loss { begin: |home, _| remove_all(home), end: |home, _| fs::create_dir(home.directory()).unwrap() },
    // No descriptor is left.
    Loss {
        begin: |home, instance| {
            limit_descriptors(instance, "3:");
            fs::remove_file(home.socket()).unwrap();
        },
        end: |_, instance| limit_descriptors(instance, "200:"),
    },
];

/// While files are deleted one by one, some may be created again.
fn remove_all(home: &Home) {
    eventually("the directory is gone", || {
        let _ = fs::remove_dir_all(home.directory());
        !home.directory().exists()
    });
}

/// Limits its descriptors; the limit is the lowest number that it cannot have.
fn limit_descriptors(instance: &Instance, limit: &str) {
    let mut prlimit = command("prlimit");
    prlimit.arg(format!("--pid={}", instance.pid)).arg(format!("--nofile={limit}"));
    assert!(prlimit.status().unwrap().success());
}

#[test]
fn an_admin_socket_that_cannot_be_made_again_at_once_is_made_as_soon_as_that_is_possible() {
    for Loss { begin, end } in LOSSES {
        let home = Home::new();
        let instance = home.start(&["echo", "--grace", HUGE]);
        let mut client = instance.client();
        client.greet();
        begin(&home, &instance);
        instance.err.wait_for("the admin socket is gone");
        // The server is not affected.
        client.greet();
        end(&home, &instance);
        assert_made_again(&home, &instance);
        drop(client);
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
    }
}

#[test]
fn while_the_admin_socket_is_lost_no_other_gets_the_name() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    limit_descriptors(&instance, "3:");
    fs::remove_file(home.socket()).unwrap();
    instance.err.wait_for("the admin socket is gone");
    home.run(home.supervisor(&["command"])).expect(1).says(&format!("the name {} is taken", home.name()));
    limit_descriptors(&instance, "200:");
    assert_made_again(&home, &instance);
}

#[test]
fn without_an_inotify_instance_the_admin_socket_works_and_is_made_again_when_it_was_deleted() {
    let own_limits = ["unshare", "--user", "--map-root-user"];
    let none = ["sh", "-c", "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"", "sh"];
    let by = [&own_limits[..], &none].concat();
    if !can_run(&[&by[..], &["nsenter", "--version"]].concat()) {
        return;
    }
    let home = Home::new();
    let instance = home.start_by(home.supervisor_by(&by, &["echo", "--grace", HUGE, "--admin", "require"]));
    let watches = || {
        let files = fs::read_dir(format!("/proc/{}/fd", instance.pid)).unwrap().flatten();
        files.filter(|file| fs::read_link(file.path()).is_ok_and(|file| file.ends_with("anon_inode:inotify"))).count()
    };
    instance.admin(&["ping"]).expect(0);
    instance.err.wait_for("cannot watch the admin socket");
    assert_eq!(watches(), 0);
    fs::remove_file(home.socket()).unwrap();
    assert_made_again(&home, &instance);
    let mut more = command("nsenter");
    more.args(["--user", "--preserve-credentials", "--target", &instance.pid.to_string(), "sh", "-c"]);
    assert!(more.arg("echo 8 > /proc/sys/user/max_inotify_instances").status().unwrap().success());
    eventually("it watches", || watches() == 1);
    fs::remove_file(home.socket()).unwrap();
    assert_made_again(&home, &instance);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn without_an_admin_socket_it_is_still_stopped_by_a_signal() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    remove_all(&home);
    instance.err.wait_for("the admin socket is gone");
    instance.signal(SIGTERM);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_port_is_free_again_even_if_it_was_killed_with_clients() {
    let home = Home::new();
    let first = home.start(&["echo"]);
    let address = first.address.to_string();
    let mut clients: Vec<_> = (0..10).map(|_| first.client()).collect();
    clients.iter_mut().for_each(|client| client.greet());
    first.kill();
    home.start(&["echo", "--listen", &address]).assert_serves();
}

/// Numbers that look random and are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn new() -> Dice {
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
            now.unwrap().subsec_nanos().into()
        });
        println_seed(seed);
        Dice(seed | 1)
    }

    fn below(&mut self, limit: usize) -> usize {
        // xorshift64
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 11).unwrap() % limit
    }
}

/// Shown if the test fails.
#[allow(clippy::print_stdout)]
fn println_seed(seed: u64) {
    println!("again with SEED={seed}");
}

/// A request that is wrong, or at most asks for something that changes nothing.
fn request(dice: &mut Dice) -> Vec<u8> {
    const GOOD: [&str; 2] = [r#"{"v":1,"request":"ping"}"#, r#"{"v":1,"request":"status"}"#];
    const BAD: [&str; 13] = [
        r#"{"v":1,"request":"events","since":-1}"#,
        r#"{"v":1,"request":"stop","grace_ms":-1}"#,
        r#"{"v":1,"request":"stop","grace_ms":1e99}"#,
        r#"{"v":1,"request":"stop","grace_ms":99999999999999999999999}"#,
        r#"{"v":1,"request":"stop","now":true}"#,
        r#"{"v":1,"request":["stop"]}"#,
        r#"{"v":2,"request":"stop"}"#,
        r#"{"v":"1","request":"stop"}"#,
        r#"{"request":"stop"}"#,
        r#"{"v":1,"request":"stop"}}"#,
        r#"{"v":1,"request":"STOP"}"#,
        r#"["v",1]"#,
        "stop",
    ];
    match dice.below(8) {
        0 => (0..dice.below(300)).map(|_| u8::try_from(dice.below(256)).unwrap()).chain([b'\n']).collect(),
        // Up to twice the maximum length of a line.
        1 => vec![b'{'; dice.below(128 * 1024)],
        2 => format!("{}\n", "[".repeat(dice.below(60_000))).into_bytes(),
        3 => format!("{{\"v\":1,\"request\":\"ping\",\"x\":\"{}\"}}\n", "x".repeat(dice.below(80_000))).into_bytes(),
        4 | 5 => format!("{}\n", BAD[dice.below(BAD.len())]).into_bytes(),
        _ => {
            let mut line = GOOD[dice.below(GOOD.len())].as_bytes().to_vec();
            match dice.below(3) {
                0 => line.truncate(dice.below(line.len())), // Cut off.
                1 => {
                    let at = dice.below(line.len());
                    line[at] = u8::try_from(dice.below(256)).unwrap();
                    line.push(b'\n');
                }
                _ => line.extend(b"\nand more\n"),
            }
            line
        }
    }
}

/// Sends a request, perhaps in pieces, and disconnects, perhaps without reading the answer.
fn ask(socket: &Path, request: &[u8], dice: &mut Dice) -> Option<String> {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let (first, second) = request.split_at(dice.below(request.len() + 1));
    // A request that is too long is not read completely.
    let _ = stream.write_all(first).and_then(|()| stream.write_all(second));
    if dice.below(10) == 0 {
        return None;
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => {}
        Err(error) => assert!(
            !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
            "neither answered nor closed: {:?}",
            String::from_utf8_lossy(request)
        ),
    }
    Some(String::from_utf8(answer).unwrap())
}

#[test]
fn thousands_of_broken_requests_are_answered_and_leave_no_trace() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let mut dice = Dice::new();
    let mut errors = 0;
    // More, for a longer run than the suite has time for.
    let rounds = std::env::var("BROKEN_REQUESTS").map_or(3000, |rounds| rounds.parse().unwrap());
    instance.admin(&["ping"]).expect(0);
    let is_quiet = || !threads(instance.pid).iter().any(|(name, _)| name == "admin-client");
    eventually("the admin client's thread has ended", is_quiet);
    let (descriptors_before, threads_before) = (descriptors(instance.pid), threads(instance.pid).len());
    let mut memory_before = 0;
    for round in 0..rounds {
        if round == 500 {
            memory_before = memory(instance.pid);
        }
        let request = request(&mut dice);
        let Some(answer) = ask(&home.socket(), &request, &mut dice) else { continue };
        if let Some(line) = answer.lines().next() {
            let answer: Value = serde_json::from_str(line).unwrap();
            assert!(["error", "pong", "status"].contains(&answer["result"].as_str().unwrap()), "{answer}");
            errors += usize::from(answer["result"] == "error");
        }
        if round % 100 == 0 {
            client.greet();
        }
    }
    assert!(errors > rounds / 3, "only {errors} errors: the requests are not broken enough");
    eventually("as many descriptors as before", || descriptors(instance.pid) == descriptors_before);
    // The engine may have ended a spare thread.
    eventually("no more threads than before", || threads(instance.pid).len() <= threads_before);
    let memory = memory(instance.pid);
    assert!(memory < memory_before + 32 * 1024, "{memory_before} kB have become {memory} kB");
    instance.assert_serves();
    assert_eq!(instance.status()["state"], "serving");
    instance.signal(SIGTERM);
    client.assert_told();
}

#[test]
fn silent_admin_clients_keep_nobody_from_asking_nor_the_server_from_stopping() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let silent: Vec<_> = (0..200).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    instance.admin(&["ping"]).expect(0);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    drop(silent);
}

#[test]
fn silent_admin_clients_that_have_all_descriptors_keep_no_other_from_asking() {
    let home = Home::new();
    let by = ["sh", "-c", "ulimit -n 40; exec \"$@\"", "sh"];
    let instance = home.start_by(home.supervisor_by(&by, &["echo"]));
    let silent: Vec<_> = (0..60).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    instance.admin(&["ping"]).expect(0);
    silent[0].set_read_timeout(Some(LIMIT)).unwrap();
    let mut first = String::new();
    BufReader::new(&silent[0]).read_line(&mut first).unwrap();
    assert!(first.contains("out of file descriptors, try again"), "{first}");
    instance.admin(&["stop"]).expect(0);
    drop(silent);
}

#[test]
fn of_too_many_silent_admin_clients_the_one_that_has_been_there_for_longest_hears_that() {
    let home = Home::new();
    let _instance = home.start(&["echo"]);
    let mut clients: Vec<_> = (0..65).map(|_| UnixStream::connect(home.socket()).unwrap()).collect();
    let mut first = clients.remove(0);
    first.set_read_timeout(Some(LIMIT)).unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).unwrap();
    assert!(answer.contains(r#""code":"busy""#), "{answer}");
    // The others still have their slots.
    for client in &mut clients {
        client.set_read_timeout(Some(LIMIT)).unwrap();
        client.write_all(b"{\"v\":1,\"request\":\"ping\"}\n").unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains(r#""result":"pong""#), "{answer}");
    }
}

#[test]
fn an_admin_client_that_asks_for_a_stop_and_vanishes_does_no_harm() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let mut stream = UnixStream::connect(home.socket()).unwrap();
    stream.write_all(b"{\"v\":1,\"request\":\"stop\"}\n").unwrap();
    drop(stream);
    client.assert_told();
    // The client would have got each of these lines.
    instance.err.wait_for("1 client still connected");
    assert_eq!(instance.status()["state"], "draining");
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn an_admin_client_that_does_not_read_its_answer_does_not_hold_up_the_end() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let streams: Vec<_> = (0..30)
        .map(|_| {
            let mut stream = UnixStream::connect(home.socket()).unwrap();
            stream.write_all(b"{\"v\":1,\"request\":\"stop\"}\n").unwrap();
            stream
        })
        .collect();
    // The server has waited for this client until now, so all could ask.
    client.assert_told();
    drop(client);
    assert_eq!(instance.wait(), 0);
    drop(streams);
}

#[test]
fn an_admin_client_that_sends_half_a_request_gets_an_error_in_time() {
    let home = Home::new();
    let _instance = home.start(&["echo"]);
    let mut stream = UnixStream::connect(home.socket()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"{\"v\":1,\"requ").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!((&answer["result"], &answer["code"]), (&"error".into(), &"bad_request".into()));
    assert!(answer["message"].as_str().unwrap().contains("took longer than"), "{answer}");
}

/// Sends a byte every tenth of a second, which is in time for any limit that counts from the last one. After a minute,
/// disconnects.
fn trickle(socket: &Path) -> UnixStream {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    thread::spawn(move || {
        let sent = (0..600).all(|_| {
            thread::sleep(Duration::from_millis(100));
            sender.write_all(b" ").is_ok()
        });
        if sent {
            let _ = sender.shutdown(Shutdown::Both);
        }
    });
    stream
}

#[test]
fn an_admin_client_that_sends_its_request_byte_by_byte_is_dropped_and_keeps_no_other_from_stopping() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let trickling = trickle(&home.socket());
    let mut answer = String::new();
    BufReader::new(trickling).read_line(&mut answer).unwrap();
    assert!(answer.contains("the request took longer than 5 s"), "{answer:?}");
    let _others: Vec<_> = (0..4).map(|_| trickle(&home.socket())).collect();
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}
