//! What has to work on every system.

use std::fs;
use std::process::Stdio;

use crate::support::{Client, HUGE, Home, crowd, free_port};

#[test]
fn a_supervisor_starts_serves_and_is_stopped_by_admin_cli() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    instance.client().greet();
    instance.admin(&["ping"]).expect(0).says(instance.name.as_str());
    instance.admin(&["stop"]).expect(0).says("stopped in");
    assert_eq!(instance.wait(), 0);
    instance.assert_port_is_free();
}

#[test]
fn status_tells_name_kind_address_process_and_connections() {
    let home = Home::new();
    let instance = home.start(&["command"]);
    let mut client = instance.client();
    client.send("HELP\n");
    client.expect("Commands: ");
    let status = instance.status();
    assert_eq!(status["result"], "status");
    assert_eq!(status["name"], instance.name.as_str());
    assert_eq!(status["kind"], "command");
    assert_eq!(status["state"], "serving");
    assert_eq!(status["address"], instance.address.to_string());
    assert_eq!(status["pid"], instance.pid);
    assert_eq!(status["connections"]["now"], 1);
    assert_eq!((&status["ready"], &status["restarts"], &status["crashes"]), (&true.into(), &0.into(), &0.into()));
    assert!(status["state_ms"].as_u64() <= status["uptime_ms"].as_u64(), "{status}");
    instance.admin(&["status"]).expect(0).says(&instance.address.to_string()).says("serving, ready, for ");
}

#[test]
fn every_command_that_the_help_names_is_carried_out() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let (file, pages) = (home.directory().join("echo.json"), home.directory().join("man1"));
    fs::write(&file, "{}").unwrap();
    let (file, pages) = (file.to_str().unwrap(), pages.to_str().unwrap());
    let port = instance.address.port().to_string();
    // Windows has no signals.
    let no_signal = if cfg!(unix) { (1, "there is no program to signal") } else { (2, "Windows has no signals") };
    let lines: [(&[&str], i32, &str); 22] = [
        (&["ping"], 0, &instance.name),
        (&["wait", "--ready"], 0, "serving"),
        (&["status"], 0, "serving, ready"),
        (&["connections"], 0, "idle"),
        (&["top"], 2, "needs a terminal"),
        (&["metrics"], 0, "mastercontrol_ready 1"),
        (&["events"], 0, "listening on"),
        (&["list"], 0, &instance.name),
        (&["port", &port], 0, "a supervisor of yours"),
        (&["check", file], 0, "valid for echo"),
        (&["completions", "powershell"], 0, "Register-ArgumentCompleter"),
        (&["manual", pages], 0, ""),
        (&["drain"], 0, "not ready"),
        (&["pause"], 0, "paused for at most 30 s"),
        (&["resume"], 0, "ready for new clients"),
        (&["close", "1", "--now"], 5, "forced"),
        (&["signal", "HUP"], no_signal.0, no_signal.1),
        (&["restart"], 0, "generation 2 is serving"),
        (&["grace", "5"], 1, "no drain is in progress"),
        (&["help", "stop"], 0, "Usage"),
        (&["stop"], 0, "stopped in"),
        (&["free", &port], 0, "already"),
    ];
    let help = home.admin(&["--help"]).expect(0).out;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // A continuation on the next line is indented further.
    let names = commands.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    let mut names: Vec<&str> = names.map(|line| line.split(' ').next().unwrap()).collect();
    let mut tried = lines.map(|(line, ..)| line[0]);
    names.sort_unstable();
    tried.sort_unstable();
    assert_eq!(names, tried);
    for (line, code, answer) in lines {
        home.admin(line).expect(code).says(answer);
    }
    assert!(fs::read_dir(pages).unwrap().any(|page| page.unwrap().file_name() == "admin-cli-stop.1"));
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_short_status_is_one_line() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let expected = format!("{} on {}: serving, generation 1, 0 connections, up ", instance.name, instance.address);
    let status = instance.admin(&["status", "--short"]).expect(0);
    assert_eq!(status.says(&expected).out.lines().count(), 1);
}

#[test]
fn events_are_told_up_to_the_end_of_the_supervisor() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    instance.admin(&["events"]).expect(0).says("1 20").says("listening on ");
    let followers = [(); 3].map(|()| instance.admin_begins(&["events", "--follow"]));
    followers.iter().for_each(|follower| drop(follower.out.wait_for("listening on ")));
    instance.admin(&["stop"]).expect(0);
    for follower in followers {
        follower.end().expect(0).says("stopped in").says("has ended");
    }
    assert_eq!(instance.wait(), 0);
}

#[test]
fn list_shows_what_is_running() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let list = home.admin(&["list"]).expect(0);
    let line = list.out.lines().find(|line| line.starts_with(&instance.name)).expect("it is not in the list");
    assert!(line.contains(&instance.address.to_string()) && line.contains("serving"), "{line}");
}

#[test]
fn an_instance_is_found_by_its_port() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let port = instance.address.port().to_string();
    home.admin(&["--port", &port, "ping"]).expect(0).says(instance.name.as_str());
    home.admin(&["--port", &port, "stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn port_names_the_supervisor_that_holds_it() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let port = instance.address.port().to_string();
    let answer = home.admin(&["port", &port, "--json"]).expect(0).json();
    assert_eq!(answer["by"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!(answer["by"][0]["supervisor"], instance.name.as_str());
    assert_eq!(answer["by"][0]["address"], instance.address.to_string());
    assert_eq!(answer["by"][0]["pid"], instance.pid);
    home.admin(&["port", &port]).expect(0).says(&format!("{}, a supervisor of yours", instance.name));
}

#[test]
fn free_stops_the_supervisor_that_holds_the_port_and_its_clients_are_told() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let mut client = instance.client();
    client.greet();
    let port = instance.address.port().to_string();
    let mut free = home.admin_command(&["free", &port, "--grace", HUGE, "--yes", "--json"]);
    free.stdout(Stdio::piped()).stderr(Stdio::piped());
    let free = home.spawn(free);
    client.assert_told();
    drop(client);
    let answer = free.end().expect(0).json();
    assert_eq!(answer["stopped"][0]["name"], instance.name.as_str());
    // Where the system does not tell who holds a port, `free` connects to it, and that connection may still be open.
    let disconnected = answer["stopped"][0]["report"]["disconnected"].as_u64().unwrap();
    assert!(disconnected == 1 || !cfg!(target_os = "linux") && disconnected > 1, "{answer}");
    assert_eq!(instance.wait(), 0);
    instance.assert_port_is_free();
    home.admin(&["port", &port]).expect(3);
    home.admin(&["free", &port]).expect(0).says("already");
}

#[test]
fn a_supervisor_whose_clients_stay_is_freed_by_force_with_exit_code_5() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let port = instance.address.port().to_string();
    // Elsewhere the connection by which `free` looks at the port can be closed by force, too.
    let forced = if cfg!(target_os = "linux") { "1 forced" } else { " forced" };
    home.admin(&["free", &port, "--now", "--yes"]).expect(5).says(forced);
    assert_eq!(instance.wait(), 5);
}

#[cfg(not(target_os = "linux"))]
#[test]
fn where_the_system_does_not_tell_who_holds_a_port_it_says_what_does() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    home.admin(&["port", &port]).expect(0).says("a program that is no supervisor of yours");
    home.admin(&["free", &port, "--yes"]).expect(1).says(if cfg!(windows) { "netstat" } else { "lsof" });
}

#[test]
fn enter_through_a_pipe_stops_an_idle_server() {
    let home = Home::new();
    let mut command = home.supervisor(&["echo", "--grace", HUGE, "--console", "stdin"]);
    command.stdin(Stdio::piped());
    let instance = home.start_by(command);
    instance.write("\n");
    assert_eq!(instance.wait(), 0);
    assert!(instance.log().contains("Enter: stopping"), "{}", instance.log());
}

/// Also where the system has no terminals to test with.
#[test]
fn what_is_no_console_is_left_to_those_that_it_belongs_to() {
    let home = Home::new();
    let mut command = home.supervisor(&["echo", "--grace", HUGE]);
    command.stdin(Stdio::piped());
    let instance = home.start_by(command);
    instance.write("\n\n");
    instance.assert_serves();
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert!(!instance.log().contains("Enter"), "{}", instance.log());
}

#[test]
fn of_many_clients_each_is_told() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut clients: Vec<Client> = (0..crowd(200)).map(|_| instance.client()).collect();
    let many = u64::try_from(clients.len()).unwrap();
    for client in &mut clients {
        client.greet();
    }
    let stop = instance.admin_begins(&["stop", "--json"]);
    for mut client in clients {
        client.assert_told();
    }
    let report = stop.end().expect(0).json()["report"].clone();
    assert_eq!((report["notified"].as_u64(), report["disconnected"].as_u64()), (Some(many), Some(many)), "{report}");
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_client_that_stays_is_closed_by_force_at_the_deadline() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let stop = instance.admin(&["stop", "--grace", "0.3"]).expect(5);
    stop.says("1 forced").says("was notified but did not disconnect");
    client.assert_told();
    assert_eq!(instance.wait(), 5);
    instance.assert_port_is_free();
}

#[test]
fn a_name_in_use_is_refused_and_says_by_whom() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let refused = home.run(home.supervisor(&["command"])).expect(1);
    assert_eq!(refused.err.lines().count(), 1, "{refused}");
    refused.says(&format!("pid {}", instance.pid)).says(&instance.name);
    instance.assert_serves();
}

#[test]
fn after_a_kill_it_starts_again_with_the_same_name_and_port() {
    let home = Home::new();
    let first = home.start(&["echo"]);
    let address = first.address.to_string();
    let mut client = first.client();
    client.greet();
    // The system closes its connection first, so the port has one that waits for the last of its packets (TIME_WAIT).
    first.kill();
    drop(client);
    let second = home.start(&["echo", "--listen", &address]);
    second.assert_serves();
    assert_eq!(second.status()["pid"], second.pid);
}

#[test]
fn one_that_is_killed_in_the_middle_of_a_restart_or_a_stop_starts_again_with_the_same_name_and_port() {
    let home = Home::new();
    let port = free_port().to_string();
    for middle in ["restart", "stop"] {
        let instance = home.start(&["echo", "--grace", HUGE, "--listen", &port]);
        let mut client = instance.client();
        client.greet();
        let waits = instance.admin_begins(&[middle]);
        client.assert_told();
        instance.kill();
        // Not running, if it was killed before it could answer the request.
        let ended = waits.end();
        assert!(matches!(ended.code, 3 | 6), "{ended}");
    }
    let again = home.start(&["echo", "--listen", &port]);
    again.assert_serves();
    assert_eq!(again.status()["generation"], 1);
}

#[test]
fn a_leftover_is_shown_as_dead_in_the_list() {
    let home = Home::new();
    home.start(&["echo"]).kill();
    let list = home.admin(&["list"]).expect(0);
    let line = list.out.lines().find(|line| line.starts_with(home.name())).expect("it is not in the list");
    assert!(line.ends_with("dead"), "{line}");
}

#[test]
fn nobody_there_is_exit_code_3() {
    let home = Home::new();
    home.admin(&["--name", home.name(), "ping"]).expect(3).says("not running");
}
