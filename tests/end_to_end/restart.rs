//! A restart: a new generation of the server takes over the socket, and the old one drains beside it.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::{Client, Ended, HUGE, Home, Instance, Process, eventually};

/// A directory for an HTTP server, with a small file and a big one.
fn files(home: &Home) -> PathBuf {
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("small"), "small\n").unwrap();
    fs::write(files.join("big"), big()).unwrap();
    files
}

/// More than the buffers of a connection take, whatever the system allows.
fn big() -> Vec<u8> {
    (0..32 << 20).map(|at| (at / 1000 % 251) as u8).collect()
}

/// An HTTP server with a grace period that no test can wait for.
fn http(home: &Home) -> Instance {
    home.start(&["http", files(home).to_str().unwrap(), "--grace", HUGE])
}

fn echo(home: &Home) -> Instance {
    home.start(&["echo", "--grace", HUGE])
}

/// Begins a restart, and waits until the old generation is draining with this many clients.
fn restart_begins(instance: &Instance, arguments: &[&str], clients: usize) -> Process {
    let restart = instance.admin_begins(&[&["restart"], arguments].concat());
    eventually_waits_for(instance, clients);
    restart
}

fn eventually_waits_for(instance: &Instance, clients: usize) {
    eventually("the old generation waits for its clients", || {
        let status = instance.status();
        status["state"] == "restarting" && status["drain"]["open"] == clients
    });
}

fn eventually_serves(instance: &Instance, generation: u64) {
    eventually("the restart is over", || {
        let status = instance.status();
        status["state"] == "serving" && status["generation"] == generation
    });
}

/// The counts of a restart for the clients of the old generation: notified, disconnected, closed, forced.
#[track_caller]
fn counts(ended: &Ended) -> (u64, u64, u64, u64) {
    let answer = ended.json();
    assert_eq!(answer["result"], "restarted", "{ended}");
    let count = |name: &str| answer["report"][name].as_u64().unwrap_or_else(|| panic!("no {name}: {ended}"));
    (count("notified"), count("disconnected"), count("closed"), count("forced"))
}

/// Sends a line to an echo server that may be draining, and returns what arrives first: the line, or the notice.
#[track_caller]
fn ask(client: &mut Client) -> String {
    client.send("hello\n");
    let mut answer = vec![0; 6];
    client.0.read_exact(&mut answer).unwrap();
    if answer == b"SHUTDO" {
        answer.resize(9, 0);
        client.0.read_exact(&mut answer[6..]).unwrap();
    }
    let answer = String::from_utf8(answer).unwrap();
    assert!(answer == "hello\n" || answer == "SHUTDOWN\n", "{answer:?}");
    answer
}

#[test]
fn a_restart_replaces_the_generation_and_keeps_process_and_address() {
    let home = Home::new();
    let instance = echo(&home);
    let before = instance.status();
    assert_eq!(before["generation"], 1);
    drop(instance.client());
    eventually("it has come and gone", || {
        let connections = &instance.status()["connections"];
        connections["total"] == 1 && connections["now"] == 0
    });
    let restarted = instance.admin(&["restart"]).expect(0);
    let lines: Vec<&str> = restarted.out.lines().map(str::trim).collect();
    assert_eq!(
        lines[..2],
        ["restarted: generation 2 is serving", "same command, directory and settings"],
        "{restarted}"
    );
    assert!(lines[2].starts_with("generation 1 stopped in ") && !lines[2].contains("notified"), "{restarted}");
    let after = instance.status();
    assert_eq!((&after["generation"], &after["state"]), (&2.into(), &"serving".into()));
    for same in ["pid", "address", "name", "kind"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    instance.client().greet();
    eventually("both generations count", || instance.status()["connections"]["total"] == 2);
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    instance.assert_port_is_free();
}

#[test]
fn restart_answers_in_json_with_generation_and_report() {
    let home = Home::new();
    let instance = echo(&home);
    for generation in 2..5 {
        let answer = instance.admin(&["restart", "--json"]).expect(0).json();
        assert_eq!(answer["result"], "restarted");
        assert_eq!((&answer["generation"], &answer["replaced"]), (&generation.into(), &(generation - 1).into()));
        let report = &answer["report"];
        for count in ["notified", "disconnected", "closed", "forced", "stuck"] {
            assert_eq!(report[count], 0, "{count}: {answer}");
        }
        assert!(report["took_ms"].is_u64(), "{answer}");
        assert_eq!(report["connections"], Value::Array(Vec::new()), "{answer}");
        assert!(report["by"].as_str().unwrap().starts_with("admin client"), "{answer}");
    }
}

#[test]
fn the_log_says_which_generation_takes_connections() {
    let home = Home::new();
    let instance = echo(&home);
    for generation in 2..5 {
        instance.admin(&["restart"]).expect(0);
        instance.err.wait_for(&format!("generation {generation} is serving"));
    }
}

#[test]
fn a_restart_of_what_is_not_running_is_exit_code_3() {
    let home = Home::new();
    home.admin(&["--name", home.name(), "restart"]).expect(3).says("not running");
    let answer = home.admin(&["--name", home.name(), "restart", "--json"]).expect(3).json();
    assert_eq!(answer["code"], "not_running");
}

#[test]
fn a_wrong_command_line_of_restart_is_exit_code_2() {
    let home = Home::new();
    let wrong: [&[&str]; 3] =
        [&["restart", "--grace", "soon"], &["restart", "--no-wait", "--timeout", "5"], &["restart", "now"]];
    for arguments in wrong {
        let ended = home.admin(arguments).expect(2);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{arguments:?}: {ended}");
    }
}

#[test]
fn sixteen_http_clients_keep_their_connections_through_eight_restarts() {
    let home = Home::new();
    let instance = http(&home);
    let mut clients: Vec<_> = (0..16).map(|_| instance.client()).collect();
    for restarts in 0..=8 {
        for client in &mut clients {
            let answer = client.get("/small");
            assert_eq!((answer.status, answer.is_last, answer.body), (200, false, b"small\n".to_vec()));
        }
        assert_eq!(instance.status()["generation"], restarts + 1);
        instance.admin(&["restart", "--grace", HUGE]).expect(0);
    }
    assert_eq!(instance.status()["connections"]["now"], 16);
}

#[test]
fn an_http_client_that_stays_quiet_keeps_its_connection_through_a_restart_which_does_not_wait_for_it() {
    let home = Home::new();
    let instance = http(&home);
    let mut client = instance.client();
    client.get("/small");
    let restarted = instance.admin(&["restart", "--grace", HUGE, "--json"]).expect(0);
    assert_eq!(counts(&restarted), (0, 0, 0, 0));
    assert!(!client.get("/small").is_last);
    assert_eq!(instance.status()["generation"], 2);
}

#[test]
fn a_download_under_way_is_completed_by_the_old_generation_while_the_new_one_serves() {
    let home = Home::new();
    let instance = http(&home);
    let big = big();
    let mut old = instance.client();
    old.send("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    let (answer, length) = old.header();
    assert_eq!((answer.status, length), (200, big.len()));
    let restart = restart_begins(&instance, &["--json"], 1);
    assert_eq!(instance.status()["drain"]["connections"][0]["activity"], "busy");
    for _ in 0..20 {
        let mut new = instance.client();
        let answer = new.get("/small");
        assert_eq!((answer.status, answer.is_last), (200, false));
    }
    assert_eq!(instance.status()["drain"]["open"], 1);
    let mut received = vec![0; length];
    old.0.read_exact(&mut received).unwrap();
    assert!(received == big, "it has other contents");
    // The connection now belongs to the new generation.
    assert_eq!(counts(&restart.end().expect(0)), (0, 0, 0, 0));
    assert!(!old.get("/small").is_last);
}

#[test]
fn echo_and_command_clients_are_told_at_once_and_can_come_back_at_once() {
    for (kind, line, answer) in
        [("echo", "hello\n", "hello\n"), ("command", "QUOTE\n", "A server that cannot be asked")]
    {
        let home = Home::new();
        let instance = home.start(&[kind, "--grace", HUGE]);
        let mut clients: Vec<Client> = (0..10).map(|_| instance.client()).collect();
        for client in &mut clients {
            client.send(line);
            client.expect(answer);
        }
        let restart = instance.admin_begins(&["restart", "--json"]);
        let again: Vec<Client> = clients
            .into_iter()
            .map(|mut client| {
                let rest = client.rest();
                assert!(rest.ends_with("SHUTDOWN\n"), "{kind}: {rest:?}");
                // The old connection still exists, and holds up the old generation.
                let mut again = instance.client();
                again.send(line);
                again.expect(answer);
                again
            })
            .collect();
        assert_eq!(counts(&restart.end().expect(0)), (10, 10, 0, 0), "{kind}");
        assert_eq!(instance.status()["connections"]["now"], 10);
        drop(again);
    }
}

#[test]
fn a_client_that_stays_though_told_is_closed_by_force_and_named_while_the_new_generation_serves() {
    let home = Home::new();
    let instance = echo(&home);
    let mut stays = instance.client();
    stays.greet();
    let restart = instance.admin_begins(&["restart", "--grace", "0.5"]);
    instance.err.wait_for("generation 2 is serving");
    let mut served = 0;
    while restart.is_running() {
        served += usize::from(ask(&mut instance.client()) == "hello\n");
    }
    assert!(served > 0, "nobody was served meanwhile");
    let restarted = restart.end().expect(5);
    restarted.says("restarted: generation 2 is serving").says("1 forced").says("was notified but did not disconnect");
    restarted.says(&stays.0.local_addr().unwrap().to_string());
    stays.assert_told();
    eventually_serves(&instance, 2);
    instance.client().greet();
}

#[test]
fn without_waiting_restart_returns_at_once_and_the_restart_goes_on() {
    let home = Home::new();
    let instance = echo(&home);
    let mut stays = instance.client();
    stays.greet();
    let answer = instance.admin(&["restart", "--no-wait", "--json"]).expect(0).json();
    assert_eq!(answer["result"], "restarting", "{answer}");
    stays.assert_told();
    eventually_waits_for(&instance, 1);
    assert_eq!(instance.status()["generation"], 2);
    drop(stays);
    eventually_serves(&instance, 2);
    instance.client().greet();
}

#[test]
fn a_restart_that_gives_up_waiting_is_exit_code_7_and_the_restart_goes_on() {
    let home = Home::new();
    let instance = echo(&home);
    let mut stays = instance.client();
    stays.greet();
    instance.admin(&["restart", "--timeout", "0.5"]).expect(7).says("still in progress");
    eventually_waits_for(&instance, 1);
    instance.client().greet();
    stays.assert_told();
    drop(stays);
    eventually_serves(&instance, 2);
}

#[test]
fn status_and_list_say_restarting_and_for_whom_the_old_generation_waits() {
    let home = Home::new();
    let instance = echo(&home);
    let mut stays = instance.client();
    stays.greet();
    let peer = stays.0.local_addr().unwrap().to_string();
    let restart = restart_begins(&instance, &[], 1);
    let status = instance.status();
    assert_eq!((&status["state"], &status["generation"]), (&"restarting".into(), &2.into()));
    let drain = &status["drain"];
    assert!(drain["by"].as_str().unwrap().starts_with("admin client"), "{drain}");
    let connection = &drain["connections"][0];
    assert_eq!((&connection["peer"], &connection["activity"]), (&peer.as_str().into(), &"draining".into()));
    instance.admin(&["status"]).expect(0).says("restarting").says("1 client still connected");
    let list = home.admin(&["list"]).expect(0);
    let line = list.out.lines().find(|line| line.starts_with(&instance.name)).unwrap();
    assert!(line.contains("restarting"), "{line}");
    drop(stays);
    restart.end().expect(0);
    let status = instance.status();
    assert!(status["state"] == "serving" && status["drain"].is_null() && status["restarts"] == 1, "{status}");
}

#[test]
fn restarts_that_are_asked_for_during_a_restart_come_one_after_the_other() {
    let home = Home::new();
    let instance = echo(&home);
    let mut stays = instance.client();
    stays.greet();
    let first = restart_begins(&instance, &["--json"], 1);
    let waiting: Vec<Process> = (0..5).map(|_| instance.admin_begins(&["restart", "--json"])).collect();
    // No restart begins while the first one is in progress: this client would be notified.
    let mut served = instance.client();
    for _ in 0..50 {
        served.greet();
    }
    assert_eq!(instance.status()["generation"], 2);
    drop(stays);
    assert_eq!(first.end().expect(0).json()["generation"], 2);
    served.assert_told();
    drop(served);
    let mut generations = BTreeSet::new();
    for restart in waiting {
        let answer = restart.end().expect(0).json();
        let generation = answer["generation"].as_u64().unwrap();
        assert_eq!(answer["replaced"], generation - 1, "{answer}");
        generations.insert(generation);
    }
    assert_eq!(generations, (3..8).collect());
    eventually_serves(&instance, 7);
}

#[test]
fn a_stop_during_a_restart_ends_both_generations_and_whoever_waits_for_the_restart_hears_that() {
    let home = Home::new();
    let instance = echo(&home);
    let mut old = instance.client();
    old.greet();
    let restart = restart_begins(&instance, &["--json"], 1);
    let mut new = instance.client();
    new.greet();
    let waiting = instance.admin_begins(&["restart"]);
    let stop = instance.admin_begins(&["stop"]);
    old.assert_told();
    // Notified by the stop: the restart does not concern it.
    new.assert_told();
    drop((old, new));
    stop.end().expect(0).says("stopped in").says("2 notified, 2 disconnected");
    let answer = restart.end().expect(1).json();
    assert_eq!(answer["result"], "error", "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("stop"), "{answer}");
    // That request may have arrived after the last server had ended.
    let waiting = waiting.end();
    assert!([1, 3].contains(&waiting.code), "{waiting}");
    assert_eq!(instance.wait(), 0);
    instance.assert_port_is_free();
}

#[test]
fn a_stop_during_a_restart_has_the_grace_period_of_the_stop() {
    let home = Home::new();
    let instance = echo(&home);
    let mut old = instance.client();
    old.greet();
    let restart = restart_begins(&instance, &[], 1);
    let mut new = instance.client();
    new.greet();
    // No client of either generation disconnects.
    let stop = instance.admin(&["stop", "--grace", "0.3", "--json"]).expect(5);
    assert_eq!(stop.json()["report"]["forced"], 2, "{stop}");
    restart.end().expect(1).says("stop");
    old.assert_told();
    new.assert_told();
    assert_eq!(instance.wait(), 5);
    instance.assert_port_is_free();
}

#[test]
fn twenty_restarts_and_five_stops_at_the_same_time_all_get_true_answers() {
    let home = Home::new();
    let instance = echo(&home);
    let mut clients: Vec<Client> = (0..5).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(|client| client.greet());
    // Clients that are notified disconnect, so nothing is held up.
    let leaving = std::thread::spawn(move || clients.iter_mut().for_each(|client| client.assert_told()));
    let (mut restarts, mut stops) = (Vec::new(), Vec::new());
    for number in 0..25 {
        // The stops are among the last requests: after the first one there is nothing left to see.
        if number >= 15 && number % 2 == 0 {
            stops.push(instance.admin_begins(&["stop", "--json"]));
        } else {
            restarts.push(instance.admin_begins(&["restart", "--json"]));
        }
    }
    assert_eq!((restarts.len(), stops.len()), (20, 5));
    let mut generations = Vec::new();
    for restart in restarts {
        let ended = restart.end();
        match ended.code {
            0 => generations.push(ended.json()["generation"].as_u64().unwrap()),
            1 => assert!(ended.json()["message"].as_str().unwrap().contains("stop"), "{ended}"),
            3 => assert_eq!(ended.json()["code"], "not_running", "{ended}"),
            _ => panic!("neither done nor stopped: {ended}"),
        }
    }
    generations.sort_unstable();
    let contiguous: Vec<u64> = (2..).take(generations.len()).collect();
    assert_eq!(generations, contiguous);
    let stops: Vec<Ended> = stops.iter().map(Process::end).collect();
    for stop in &stops {
        match stop.code {
            0 => assert_eq!(stop.json()["result"], "stopped", "{stop}"),
            3 => assert_eq!(stop.json()["code"], "not_running", "{stop}"),
            _ => panic!("neither stopped nor too late: {stop}"),
        }
    }
    assert!(stops.iter().any(|stop| stop.code == 0), "nobody has stopped it: {stops:?}");
    leaving.join().unwrap();
    assert_eq!(instance.wait(), 0);
    instance.assert_port_is_free();
}

#[test]
fn a_client_that_was_told_by_a_restart_does_not_hold_up_a_stop_now() {
    let home = Home::new();
    let instance = echo(&home);
    let mut stays = instance.client();
    stays.greet();
    let restart = restart_begins(&instance, &[], 1);
    instance.admin(&["stop", "--now"]).expect(5).says("1 forced");
    restart.end().expect(1);
    assert_eq!(instance.wait(), 5);
}

#[cfg(unix)]
mod on_unix {
    use super::*;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use nix::sys::signal::Signal::{SIGHUP, SIGTERM};

    use crate::support::LIMIT;

    /// Sends a request to the admin socket, faster than any program could.
    fn request(home: &Home, request: &str) -> UnixStream {
        let mut stream = UnixStream::connect(home.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        writeln!(stream, r#"{{"v":1,"request":"{request}"}}"#).unwrap();
        stream
    }

    /// The last line of the answer. None: the supervisor ended before it got to the request.
    fn result(stream: UnixStream) -> Option<Value> {
        let line = BufReader::new(stream).lines().map_while(Result::ok).last()?;
        Some(serde_json::from_str(&line).unwrap())
    }

    #[test]
    fn a_stop_in_any_moment_of_a_restart_ends_all_of_it() {
        let home = Home::new();
        for round in 0..100 {
            let instance = echo(&home);
            let mut client = instance.client();
            client.greet();
            let restart = request(&home, "restart");
            // While the new generation is built, while it takes over, while the old one drains: moments that cannot be
            // waited for.
            thread::sleep(Duration::from_micros(round * 20));
            let stop = request(&home, "stop");
            client.assert_told();
            drop(client);
            let (restart, stop) = (result(restart), result(stop).unwrap());
            assert_eq!(stop["result"], "stopped", "{round}: {stop}");
            assert_eq!(stop["report"]["forced"], 0, "{round}: {stop}");
            // Each request has its own thread there, so it may have been overtaken by the stop.
            if let Some(restart) = restart {
                match restart["result"].as_str() {
                    Some("restarted") => assert_eq!(restart["generation"], 2, "{round}: {restart}"),
                    _ => assert!(restart["message"].as_str().unwrap().contains("stop"), "{round}: {restart}"),
                }
            }
            assert_eq!(instance.wait(), 0, "{round}");
        }
    }

    #[test]
    fn sighup_restarts_if_it_is_to_twice_in_a_row_too_and_sigterm_stops() {
        let home = Home::new();
        let instance = home.start(&["echo", "--grace", HUGE, "--on-hup", "restart"]);
        for generation in 2..4 {
            instance.signal(SIGHUP);
            instance.err.wait_for(&format!("generation {generation} is serving"));
        }
        instance.client().greet();
        instance.signal(SIGTERM);
        assert_eq!(instance.wait(), 0);
        assert!(instance.log().contains("SIGHUP"), "{}", instance.log());
    }

    #[test]
    fn a_sighup_during_a_restart_is_a_restart_of_its_own() {
        let home = Home::new();
        let instance = home.start(&["echo", "--grace", HUGE, "--on-hup", "restart"]);
        let mut stays = instance.client();
        stays.greet();
        instance.signal(SIGHUP);
        eventually_waits_for(&instance, 1);
        instance.signal(SIGHUP);
        stays.assert_told();
        drop(stays);
        eventually_serves(&instance, 3);
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
    }

    #[test]
    fn sigterm_during_a_restart_stops_both_generations() {
        let home = Home::new();
        let instance = home.start(&["echo", "--grace", HUGE, "--on-hup", "restart"]);
        let mut old = instance.client();
        old.greet();
        instance.signal(SIGHUP);
        eventually_waits_for(&instance, 1);
        let mut new = instance.client();
        new.greet();
        instance.signal(SIGTERM);
        old.assert_told();
        new.assert_told();
        drop((old, new));
        assert_eq!(instance.wait(), 0);
    }

    #[test]
    fn sighup_stops_unless_told_otherwise() {
        let home = Home::new();
        let instance = echo(&home);
        instance.signal(SIGHUP);
        assert_eq!(instance.wait(), 0);
        assert!(!instance.log().contains("generation 2"), "{}", instance.log());
    }

    #[test]
    fn a_directory_that_was_deleted_and_made_anew_is_served_with_and_without_a_restart() {
        let home = Home::new();
        let instance = http(&home);
        assert_eq!(instance.client().get("/small").body, b"small\n");
        let files = home.directory().join("files");
        fs::remove_dir_all(&files).unwrap();
        fs::create_dir(&files).unwrap();
        fs::write(files.join("small"), "anew\n").unwrap();
        assert_eq!(instance.client().get("/small").body, b"anew\n");
        instance.admin(&["restart"]).expect(0);
        assert_eq!(instance.client().get("/small").body, b"anew\n");
    }

    #[test]
    fn a_directory_that_is_gone_fails_the_restart_and_the_old_generation_serves_on() {
        let home = Home::new();
        let instance = http(&home);
        let mut client = instance.client();
        client.get("/small");
        let (files, away) = (home.directory().join("files"), home.directory().join("away"));
        fs::rename(&files, &away).unwrap();
        instance.admin(&["restart"]).expect(1).says("files");
        assert_eq!(instance.status()["generation"], 1);
        // The client has not been notified. Its answers are for what the path leads to now.
        let answer = client.get("/small");
        assert_eq!((answer.status, answer.is_last), (503, false));
        fs::rename(&away, &files).unwrap();
        let answer = client.get("/small");
        assert_eq!((answer.status, answer.is_last), (200, false));
        drop(client);
        instance.admin(&["restart"]).expect(0);
        eventually_serves(&instance, 2);
    }
}
