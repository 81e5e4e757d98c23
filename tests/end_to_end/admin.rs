//! `admin-cli`: what it does, and its exit codes.

use std::fs;
use std::process::Stdio;

use crate::support::{Client, HUGE, Home, Instance, eventually, free_port};

/// A server whose stop waits for this client.
fn with_a_client(home: &Home) -> (Instance, Client) {
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    (instance, client)
}

#[test]
fn stop_answers_when_port_and_name_are_free() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let answer = instance.admin(&["stop", "--json"]).expect(0).json();
    instance.assert_port_is_free();
    assert_eq!(fs::read_dir(home.sockets()).unwrap().count(), 0, "something is left behind");
    assert_eq!(answer["result"], "stopped");
    assert_eq!(answer["report"]["forced"], 0);
    assert!(answer["report"]["by"].as_str().unwrap().starts_with("admin client ("), "{answer}");
}

#[test]
fn two_stops_at_the_same_time_both_get_true_answers() {
    let home = Home::new();
    let (instance, mut client) = with_a_client(&home);
    let first = instance.admin_begins(&["stop", "--json"]);
    client.assert_told();
    // A shorter grace period is logged, so the log shows that the request has arrived.
    let second = instance.admin_begins(&["stop", "--grace", "500", "--json"]);
    instance.err.wait_for("the grace period ends in");
    drop(client);
    for stop in [first, second] {
        let report = stop.end().expect(0).json()["report"].clone();
        assert_eq!(
            (&report["notified"], &report["disconnected"], &report["forced"]),
            (&1.into(), &1.into(), &0.into())
        );
    }
    assert_eq!(instance.wait(), 0);
}

#[test]
fn stop_without_waiting_returns_while_the_stop_goes_on() {
    let home = Home::new();
    let (instance, client) = with_a_client(&home);
    let answer = instance.admin(&["stop", "--no-wait", "--json"]).expect(0).json();
    assert_eq!((&answer["result"], &answer["open"]), (&"stopping".into(), &1.into()));
    assert!(instance.is_running());
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_stop_that_gives_up_waiting_is_exit_code_7_and_the_stop_goes_on() {
    let home = Home::new();
    let (instance, client) = with_a_client(&home);
    instance.admin(&["stop", "--timeout", "0.5"]).expect(7).says("still in progress");
    assert_eq!(instance.status()["state"], "draining");
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_stop_that_is_not_waited_for_at_all_has_been_asked_for_all_the_same() {
    let home = Home::new();
    let (instance, client) = with_a_client(&home);
    instance.admin(&["stop", "--timeout", "0"]).expect(7).says("still in progress");
    eventually("it drains", || instance.status()["state"] == "draining");
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn stop_now_is_exit_code_5_with_clients_and_0_without() {
    let home = Home::new();
    let (instance, _client) = with_a_client(&home);
    instance.admin(&["stop", "--now"]).expect(5).says("1 forced");
    assert_eq!(instance.wait(), 5);

    let instance = home.start(&["echo"]);
    instance.admin(&["stop", "--now"]).expect(0).says("stopped in ");
    assert_eq!(instance.wait(), 0);
}

#[test]
fn ping_status_and_list_answer_during_a_drain() {
    let home = Home::new();
    let (instance, client) = with_a_client(&home);
    instance.admin(&["stop", "--no-wait"]).expect(0);
    instance.admin(&["ping"]).expect(0);
    instance.admin(&["status"]).expect(0).says("draining").says("1 client still connected");
    let status = instance.status();
    assert_eq!(status["state"], "draining");
    assert_eq!((&status["drain"]["open"], &status["drain"]["connections"][0]["id"]), (&1.into(), &1.into()));
    home.admin(&["list"]).expect(0).says("draining");
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_second_stop_with_a_shorter_grace_shortens() {
    let home = Home::new();
    let (instance, _client) = with_a_client(&home);
    let first = instance.admin_begins(&["stop"]);
    instance.err.wait_for("stopping");
    instance.admin(&["stop", "--grace", "0.2"]).expect(5);
    first.end().expect(5);
    assert_eq!(instance.wait(), 5);
    assert!(instance.log().contains("the grace period ends in 200 ms, 1 client still connected"), "{}", instance.log());
}

#[test]
fn a_second_stop_with_a_longer_grace_does_not_lengthen() {
    let home = Home::new();
    let (instance, _client) = with_a_client(&home);
    instance.admin(&["stop", "--grace", "300", "--no-wait"]).expect(0);
    let answer = instance.admin(&["stop", "--grace", "100000", "--no-wait", "--json"]).expect(0).json();
    assert!(answer["remaining_ms"].as_u64().unwrap() <= 300_000, "{answer}");
    assert!(!instance.err.so_far().contains("the grace period ends"), "{}", instance.err.so_far());
}

#[test]
fn a_wrong_command_line_is_exit_code_2() {
    let home = Home::new();
    let wrong: [&[&str]; 8] = [
        &[],
        &["dance"],
        &["stop", "--grace", "soon"],
        &["stop", "--now", "--grace", "5"],
        &["stop", "--no-wait", "--timeout", "5"],
        &["--name", "a/b", "ping"],
        &["--name", "a", "--port", "80", "ping"],
        &["--port", "99999", "ping"],
    ];
    for arguments in wrong {
        let ended = home.admin(arguments).expect(2);
        assert!(ended.out.is_empty() && !ended.err.is_empty(), "{arguments:?}: {ended}");
    }
}

#[test]
fn nobody_there_is_exit_code_3_by_name_by_port_by_socket_and_without_a_target() {
    let home = Home::new();
    let port = free_port().to_string();
    let nobody = home.another("nobody");
    let [socket, long] = if cfg!(unix) {
        [home.directory().join("no.sock").display().to_string(), format!("/tmp/{}.sock", "x".repeat(120))]
    } else {
        [r"\\.\pipe\".to_owned() + &nobody, r"\\.\pipe\".to_owned() + &"x".repeat(120)]
    };
    let targets: [&[&str]; 5] =
        [&["--name", &nobody], &["--port", &port], &["--socket", &socket], &["--socket", &long], &[]];
    for target in targets {
        for command in ["ping", "status", "stop"] {
            home.admin(&[target, &[command]].concat()).expect(3);
            let answer = home.admin(&[target, &[command, "--json"]].concat()).expect(3).json();
            assert_eq!((&answer["result"], &answer["code"]), (&"error".into(), &"not_running".into()));
        }
    }
    home.admin(&["list"]).expect(0).says("no supervisor of yours is running");
}

#[cfg(unix)]
#[test]
fn a_supervisor_that_hangs_is_exit_code_6() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let home = Home::new();
    let instance = home.start(&["echo"]);
    instance.signal(SIGSTOP);
    let asking = ["ping", "status", "stop"].map(|command| instance.admin_begins(&[command, "--json"]));
    for asking in asking {
        let answer = asking.end().expect(6).json();
        assert_eq!(answer["code"], "no_answer");
    }
    // It still exists, and is the only one that can be meant.
    home.admin(&["list"]).expect(0).says("it does not answer");
    #[cfg(target_os = "linux")]
    home.admin(&["list"]).says(&format!("it is suspended; `kill -CONT {}` continues it", instance.process.pid));
    instance.signal(SIGCONT);
    // The stop was requested before, and is carried out now.
    assert_eq!(instance.wait(), 0);
}

/// If a process waits for room in a full queue and is suspended meanwhile, Linux interrupts its wait.
#[cfg(target_os = "linux")]
#[test]
fn who_was_suspended_goes_on_waiting_for_a_supervisor_that_hangs() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    use nix::sys::socket::{Backlog, listen};
    use std::os::unix::net::{UnixListener, UnixStream};
    let home = Home::new();
    let socket = home.directory().join("full.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _first = UnixStream::connect(&socket).unwrap();
    let mut command = home.admin_command(&["--socket", &socket.display().to_string(), "ping"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let asking = home.spawn(command);
    while asking.try_signal(SIGSTOP) && asking.try_signal(SIGCONT) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    asking.end().expect(6).says("it does not answer");
}

#[cfg(unix)]
#[test]
fn while_a_supervisor_hangs_nobody_says_that_none_has_its_port() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let home = Home::new();
    let instance = home.start(&["echo"]);
    instance.signal(SIGSTOP);
    let port = instance.address.port().to_string();
    home.admin(&["--port", &port, "ping"]).expect(6).says(&format!("{}: it does not answer", home.name()));
    instance.signal(SIGCONT);
}

/// Only Linux has all these addresses, and shows who listens on them.
#[cfg(target_os = "linux")]
#[test]
fn a_port_that_a_supervisor_that_hangs_may_have_is_not_taken_for_that_of_another_one() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let home = Home::new();
    let names = ["a", "b", "c"].map(|name| home.another(name));
    let start = |name: &str, listen: &str| home.start(&["echo", "--name", name, "--listen", listen]);
    let unrelated = start(&names[2], "0");
    let port = free_port().to_string();
    let b = start(&names[1], &format!("127.0.0.2:{port}"));
    // One that hangs elsewhere is not in the way.
    unrelated.signal(SIGSTOP);
    home.admin(&["--port", &port, "ping"]).expect(0).says(&format!("pid {}", b.pid));
    unrelated.signal(SIGCONT);
    let a = start(&names[0], &format!("127.0.0.1:{port}"));
    a.signal(SIGSTOP);
    let unclear = home.admin(&["--port", &port, "stop"]).expect(6);
    unclear.says(&format!("{} has port {port}, but {} may have it, too (it does not answer", names[1], names[0]));
    unclear.says("say which one is meant with --name");
    b.assert_serves();
    a.signal(SIGCONT);
}

#[cfg(unix)]
#[test]
fn an_answer_that_cannot_be_written_is_a_failure_unless_its_reader_has_gone() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let port = instance.address.port().to_string();
    let run = |script: &str, arguments: &[&str]| {
        let mut command = home.program("sh");
        command.args(["-c", script, "-", crate::support::ADMIN_CLI]).args(arguments);
        home.run(command)
    };
    let commands: [&[&str]; 9] = [
        &["ping"],
        &["status", "--json"],
        &["status", "--all"],
        &["metrics"],
        &["connections", "--json"],
        &["events"],
        &["events", "--follow"],
        &["list"],
        &["port", &port],
    ];
    for arguments in commands {
        if cfg!(target_os = "linux") {
            let full = run("exec \"$@\" > /dev/full", arguments).expect(1);
            full.says("cannot write the answer: No space left on device");
            assert_eq!(full.err.lines().count(), 1, "{arguments:?}: {full}");
        }
        // A client that follows may already have written everything, and would then wait for the next event.
        if !arguments.contains(&"--follow") {
            assert_eq!(run("(\"$@\" && echo done >&2) | :", arguments).expect(0).err, "done\n");
        }
    }
}

#[test]
fn every_command_answers_in_json() {
    let home = Home::new();
    let (instance, client) = with_a_client(&home);
    let pong = instance.admin(&["--json", "ping"]).expect(0).json();
    assert_eq!((&pong["result"], &pong["pid"]), (&"pong".into(), &instance.pid.into()));
    assert_eq!(pong["name"], home.name());
    assert_eq!(instance.admin(&["status", "--json"]).expect(0).json()["result"], "status");
    let list = home.admin(&["list", "--json"]).expect(0).json();
    assert_eq!(list["instances"][0]["address"], instance.address.to_string());
    assert_eq!(list["instances"].as_array().unwrap().len(), 1);
    assert_eq!(instance.admin(&["stop", "--no-wait", "--json"]).expect(0).json()["result"], "stopping");
    let gave_up = instance.admin(&["stop", "--timeout", "0.2", "--json"]).expect(7).json();
    assert_eq!(gave_up["code"], "gave_up");
    drop(client);
    assert_eq!(instance.wait(), 0);
    assert_eq!(home.start(&["echo"]).admin(&["stop", "--json"]).expect(0).json()["result"], "stopped");
}

#[test]
fn with_several_running_and_no_target_both_are_named_and_none_is_stopped() {
    let home = Home::new();
    let [first, second] = ["first", "second"].map(|name| home.another(name));
    let names = [first.clone(), second.clone()];
    let first = home.start(&["echo", "--name", &first]);
    let second = home.start(&["command", "--name", &second]);
    for command in ["ping", "status", "stop"] {
        let ended = home.admin(&[command]).expect(2);
        ended.says(&names[0]).says(&names[1]).says("--name");
        assert!(ended.out.is_empty(), "messages belong on stderr: {ended}");
    }
    let list = home.admin(&["list", "--json"]).expect(0).json();
    let listed: Vec<_> = list["instances"].as_array().unwrap().iter().map(|it| it["name"].clone()).collect();
    assert_eq!(listed, names);
    first.assert_serves();
    second.assert_serves();
    let port = second.address.port().to_string();
    home.admin(&["--port", &port, "stop"]).expect(0);
    assert_eq!(second.wait(), 0);
    // Now it is clear which one is meant.
    home.admin(&["stop"]).expect(0);
    assert_eq!(first.wait(), 0);
}

/// Only Linux has all these addresses.
#[cfg(target_os = "linux")]
#[test]
fn of_several_with_one_port_those_with_a_server_there_are_meant_and_one_of_them_has_to_be_named() {
    let home = Home::new();
    let names = ["a", "b", "c", "d"].map(|name| home.another(name));
    let [a, b, c, d] = &names;
    let port = free_port().to_string();
    let at = |host: &str| format!("{host}:{port}");
    let health = home.start(&["echo", "--name", a, "--health", &at("127.0.0.2")]);
    let ping = ["--port", &port, "ping"];
    home.admin(&ping).expect(0).says(&format!("pid {}", health.pid));
    let other_health = home.start(&["echo", "--name", d, "--health", &at("127.0.0.3")]);
    let unclear = home.admin(&ping).expect(2);
    unclear.says(&format!("several supervisors of yours have port {port}:")).says(a).says(d).says("with --name");
    let server = home.start(&["echo", "--name", c, "--listen", &at("127.0.0.1")]);
    home.admin(&ping).expect(0).says(&format!("pid {}", server.pid));
    let other_server = home.start(&["echo", "--name", b, "--listen", &at("127.0.0.4")]);
    let unclear = home.admin(&["--port", &port, "stop"]).expect(2);
    unclear.says(b).says(c);
    assert!(!unclear.err.contains(a) && !unclear.err.contains(d), "{unclear}");
    for instance in [&health, &other_health, &server, &other_server] {
        instance.assert_serves();
    }
}

#[test]
fn a_leftover_is_shown_as_dead_and_is_not_in_the_way() {
    let home = Home::new();
    let [dead, alive] = ["was", "is"].map(|name| home.another(name));
    home.start(&["echo", "--name", &dead]).kill();
    home.admin(&["list"]).expect(0).says("dead");
    let list = home.admin(&["list", "--json"]).expect(0).json();
    assert_eq!(list["instances"][0]["state"], "dead");
    home.admin(&["ping"]).expect(3);
    let alive = home.start(&["echo", "--name", &alive]);
    // Only the live one can be meant.
    home.admin(&["ping"]).expect(0).says(&format!("pid {}", alive.pid));
    // The name can be used again.
    let again = home.start(&["echo", "--name", &dead]);
    again.assert_serves();
}

#[test]
fn what_dead_ones_have_left_is_removed_on_request_and_the_living_stay() {
    let home = Home::new();
    let [dead, alive] = ["was", "is"].map(|name| home.another(name));
    let killed = home.start(&["echo", "--name", &dead]);
    let alive = home.start(&["echo", "--name", &alive]);
    killed.kill();
    let list = home.admin(&["list", "--clean"]).expect(0);
    assert!(list.err.contains(&format!("removed the stale socket of {dead}")) && !list.out.contains(&dead), "{list}");
    let left: Vec<_> = fs::read_dir(home.sockets()).unwrap().map(|file| file.unwrap().file_name()).collect();
    let is_alive = |file: &std::ffi::OsString| file.to_str().unwrap().starts_with(&format!("{}.", alive.name));
    // A pipe is not in a directory.
    assert!(left.len() == if cfg!(unix) { 2 } else { 1 } && left.iter().all(is_alive), "{left:?}");
    alive.assert_serves();
    if cfg!(unix) {
        // A file that is not a socket is left alone, and does not hide any other.
        let file = home.sockets().join("a-file.sock");
        fs::write(&file, "").unwrap();
        home.start(&["echo", "--name", "dead"]).kill();
        let list = home.admin(&["list", "--clean"]).expect(1);
        list.says("there is a file that is no socket").says("removed the stale socket of dead").says(&alive.name);
        assert!(file.exists());
    }
}

/// As if a program had used up all threads that its user may have.
#[cfg(unix)]
#[test]
fn supervisors_are_found_without_threads() {
    let home = Home::new();
    let all: Vec<_> = ["a", "b"].map(|name| home.start(&["echo", "--name", &home.another(name)])).into();
    let admin = |arguments: &[&str]| {
        let mut command = home.admin_command(arguments);
        // The system has no room for such a stack.
        command.env("RUST_MIN_STACK", "1000000000000000000").stdout(Stdio::piped()).stderr(Stdio::piped());
        home.run(command)
    };
    let list = admin(&["list"]).expect(0);
    for instance in &all {
        list.says(&instance.name);
    }
    admin(&["--port", &all[1].address.port().to_string(), "stop"]).expect(0);
}

#[test]
fn all_are_asked_in_the_order_of_their_names() {
    let home = Home::new();
    let all: Vec<_> = ["c", "a", "b"].map(|name| home.start(&["echo", "--name", &home.another(name)])).into();
    let short = |line: &str| Some(line.strip_prefix(&home.another(""))?.get(..1)?.to_owned());
    let names = |out: &str| out.lines().filter_map(short).collect::<String>();
    assert_eq!(names(&home.admin(&["status", "--all", "--short"]).expect(0).out), "abc");
    let restarted = home.admin(&["restart", "--all"]).expect(0);
    let lines = restarted.out.lines().filter(|line| line.contains(": restarted: generation 2 is serving"));
    assert_eq!(names(&lines.map(|line| format!("{line}\n")).collect::<String>()), "abc", "{restarted}");
    home.admin(&["close", "1", "--all"]).expect(2).says("close is for one supervisor");
    home.admin(&["close", "one"]).expect(2).says("say a whole number");
    home.admin(&["metrics", "--all"]).expect(2).says("metrics is for one supervisor");
    assert_eq!(home.admin(&["metrics", "--all", "--json"]).expect(0).out.lines().count(), 3);
    let stopped = home.admin(&["stop", "--all", "--json"]).expect(0);
    let lines: Vec<serde_json::Value> = stopped.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| (&line["name"], &line["answer"]["result"])).collect();
    let [a, b, c] = ["a", "b", "c"].map(|name| home.another(name).into());
    let stopped = &"stopped".into();
    assert_eq!(told, [(&a, stopped), (&b, stopped), (&c, stopped)]);
    all.iter().for_each(|instance| assert_eq!(instance.wait(), 0));
    home.admin(&["stop", "--all"]).expect(3);
}

#[test]
fn the_help_of_a_command_for_one_supervisor_does_not_offer_all() {
    let home = Home::new();
    for command in [&["connections"][..], &["events"], &["top"], &["wait", "--ready"], &["close", "1"]] {
        home.admin(&[command, &["--all"]].concat()).expect(2).says("is for one supervisor");
        let help = home.admin(&[command[0], "--help"]).expect(0);
        assert!(help.out.contains("--name") && !help.out.contains("--all"), "{help}");
    }
}

#[test]
fn of_all_those_after_one_that_fails_are_asked_only_if_that_is_wanted() {
    let home = Home::new();
    let file = home.directory().join("b.json");
    fs::write(&file, "{}").unwrap();
    let config = file.to_str().unwrap();
    let a = home.start(&["echo", "--name", &home.another("a")]);
    let b = home.start(&["echo", "--name", &home.another("b"), "--config", config]);
    let c = home.start(&["echo", "--name", &home.another("c")]);
    fs::write(&file, "wrong").unwrap();
    let generations = || [&a, &b, &c].map(|instance| instance.status()["generation"].as_u64().unwrap());
    let failed = format!("{}: restart failed", b.name);
    home.admin(&["restart", "--all"]).expect(1).says(&failed);
    assert_eq!(generations(), [2, 1, 1]);
    let kept_going = home.admin(&["restart", "--all", "--keep-going"]).expect(1);
    kept_going.says(&failed).says(&format!("{}: restarted", c.name));
    assert_eq!(generations(), [3, 1, 2]);
    let told = home.admin(&["restart", "--all", "--keep-going", "--json"]).expect(1);
    let lines: Vec<serde_json::Value> = told.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let told: Vec<_> = lines.iter().map(|line| (&line["name"], &line["answer"]["result"])).collect();
    let restarted = &"restarted".into();
    let [a, b, c] = [&a, &b, &c].map(|instance| instance.name.as_str().into());
    assert_eq!(told, [(&a, restarted), (&b, &"error".into()), (&c, restarted)]);
}

#[cfg(unix)]
#[test]
fn of_all_one_that_fails_counts_for_more_than_one_that_was_stopped_by_force_before() {
    use nix::sys::signal::Signal::{SIGCONT, SIGSTOP};
    let home = Home::new();
    let [a, b] = ["a", "b"].map(|name| home.start(&["echo", "--grace", HUGE, "--name", &home.another(name)]));
    let mut client = a.client();
    client.greet();
    b.signal(SIGSTOP);
    let stopped = home.admin(&["stop", "--all", "--keep-going", "--now"]).expect(6);
    stopped.says("1 forced").says(&format!("{}: it does not answer", b.name));
    b.signal(SIGCONT);
    assert_eq!((a.wait(), b.wait()), (5, 0));
}

#[test]
fn two_options_that_name_a_supervisor_are_refused_wherever_they_stand() {
    let home = Home::new();
    let [a, b] = ["a", "b"].map(|name| home.start(&["echo", "--name", &home.another(name)]));
    let port = b.address.port().to_string();
    let socket = home.sockets().join(format!("{}.sock", a.name)).display().to_string();
    let (name, all): (&[&str], &[&str]) = (&["--name", &a.name], &["--all"]);
    let (port, socket): (&[&str], &[&str]) = (&["--port", &port], &["--socket", &socket]);
    for (one, other) in [(name, all), (name, port), (socket, name), (all, port), (socket, all), (port, socket)] {
        for command in [&["ping"], &["stop"]] {
            let lines = [
                [one, other, command].concat(),
                [one, command, other].concat(),
                [other, command, one].concat(),
                [command, one, other].concat(),
            ];
            for line in lines {
                let ended = home.admin(&line).expect(2);
                ended.says(one[0]).says(other[0]);
                assert!(ended.out.is_empty(), "{line:?}: {ended}");
            }
        }
    }
    assert_eq!(home.admin(&[name, &["stop", "--all", "--json"]].concat()).expect(2).json()["code"], "usage");
    for line in [["--keep-going", "stop"], ["stop", "--keep-going"], ["list", "--keep-going"]] {
        home.admin(&line).expect(2).says("--keep-going is only for --all");
    }
    a.assert_serves();
    b.assert_serves();
    for line in
        [["--keep-going", "ping", "--all"], ["--all", "ping", "--keep-going"], ["ping", "--all", "--keep-going"]]
    {
        assert_eq!(home.admin(&line).expect(0).out.lines().count(), 2);
    }
}

#[test]
fn stop_and_start_twenty_times_with_the_same_name_and_port() {
    let home = Home::new();
    let address = format!("127.0.0.1:{}", free_port());
    let mut ended = Vec::new();
    for round in 0..20 {
        let instance = home.start(&["echo", "--listen", &address]);
        let mut client = instance.client();
        client.greet();
        // The port is left with both kinds of closed connections: closed first by the client, and closed first by the
        // server.
        let stop = instance.admin_begins(&["stop"]);
        if round % 2 == 0 {
            client.assert_told();
        }
        drop(client);
        stop.end().expect(0);
        // The next one starts without waiting for the end of this process: the answer must already be true.
        ended.push(instance.into_process());
    }
    for process in ended {
        assert_eq!(process.wait(), 0);
    }
}

/// A path for a socket of this test, in an existing directory.
fn path_of_its_own(home: &Home) -> String {
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt;
        let directory = home.directory().join("own");
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        directory.join("x.sock").display().to_string()
    }
    #[cfg(windows)]
    {
        r"\\.\pipe\".to_owned() + &home.another("own")
    }
}

#[test]
fn a_socket_at_a_path_of_its_own_is_found_there() {
    let home = Home::new();
    let socket = path_of_its_own(&home);
    let instance = home.start(&["echo", "--socket", &socket]);
    home.admin(&["--socket", &socket, "ping"]).expect(0);
    home.admin(&["--socket", &socket, "stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    let directory = if cfg!(unix) { home.directory().join("own") } else { home.sockets() };
    assert_eq!(fs::read_dir(directory).unwrap().count(), 0, "something is left behind");
}

#[test]
fn with_the_admin_socket_off_there_is_none_and_enter_stops_it() {
    let home = Home::new();
    let mut command = home.supervisor(&["echo", "--admin", "off", "--console", "stdin"]);
    command.stdin(Stdio::piped());
    let instance = home.start_by(command);
    assert!(fs::read_dir(home.sockets()).into_iter().flatten().next().is_none());
    instance.admin(&["ping"]).expect(3);
    instance.write("\n");
    assert_eq!(instance.wait(), 0);
}

#[cfg(unix)]
#[test]
fn the_socket_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let home = Home::new();
    let _instance = home.start(&["echo"]);
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&home.socket()), 0o600);
    assert_eq!(mode(&home.sockets()), 0o700);
}

#[test]
fn usage_errors_are_json_with_json() {
    let home = Home::new();
    for line in [&["--json", "stop", "--nonsense"][..], &["stop", "--nonsense", "--json"], &["--json"]] {
        assert_eq!(home.admin(line).expect(2).json()["code"], "usage", "{line:?}");
    }
    home.admin(&["--json", "completions", "bash"]).expect(2).says("leave out --json");
}
