//! What an operator sees and can change during a drain: connections, deadlines, readiness.

use std::fs;
use std::io::{self, Read};

use crate::support::*;

/// A line of the table that `connections` shows: its words, without the age.
fn row(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[test]
fn connections_tells_of_each_who_it_is_and_what_it_has_got() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let mut client = instance.client();
    client.greet();
    let peer = client.0.local_addr().unwrap().to_string();
    let shown = instance.admin(&["connections"]).expect(0);
    let lines: Vec<_> = shown.out.lines().map(row).collect();
    assert_eq!(lines[0], ["ID", "PEER", "AGE", "STATE", "IN", "OUT", "GENERATION"]);
    assert_eq!((lines.len(), lines[1][0], lines[1][1]), (2, "1", peer.as_str()), "{shown}");
    let json = instance.admin(&["connections", "--json"]).expect(0).json();
    let connection = &json["connections"][0];
    assert_eq!((&connection["peer"], &connection["generation"]), (&peer.as_str().into(), &1.into()));
    assert!(connection["received"] == connection["sent"] && connection["sent"].as_u64() > Some(0), "{json}");
    drop(client);
    eventually("it has left", || instance.admin(&["connections"]).expect(0).err.contains("has no connections"));
}

#[test]
fn connections_shows_many_in_the_order_in_which_they_hold_a_drain_up() {
    let home = Home::new();
    let instance = home.start(&["http", ".", "--grace", HUGE]);
    let clients: Vec<_> = (0..100).map(|_| instance.client()).collect();
    eventually("all are there", || instance.status()["connections"]["now"] == 100);
    let mut busy = instance.client();
    busy.send("GET / HTTP/1.1\r\n");
    eventually("the last one is busy", || {
        let json = instance.admin(&["connections", "--json"]).expect(0).json();
        let connections = json["connections"].as_array().unwrap();
        assert!(connections.len() >= 100, "{json}");
        let by_age = connections[1..].windows(2).all(|two| two[0]["age_ms"].as_u64() >= two[1]["age_ms"].as_u64());
        connections.len() == 101 && connections[0]["activity"] == "busy" && connections[0]["id"] == 101 && by_age
    });
    drop((busy, clients));
}

#[test]
fn a_drain_gets_more_time_and_less_and_who_waits_for_it_goes_on_waiting() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    instance.admin(&["grace", "5"]).expect(1).says("no drain is in progress");
    let stop = instance.admin_begins(&["stop", "--grace", "100"]);
    client.assert_told();
    let moved = instance.admin(&["grace", "500", "--json"]).expect(0).json();
    let remaining = moved["drains"][0]["remaining_ms"].as_u64();
    assert!(remaining > Some(400_000), "{moved}");
    assert!(instance.status()["drain"]["remaining_ms"].as_u64() > Some(400_000));
    instance.admin(&["grace", "0"]).expect(0).says("0 s to go");
    stop.end().expect(5);
    assert_eq!(instance.wait(), 5);
    drop(client);
}

#[test]
fn the_deadline_of_an_old_generation_moves_too_and_the_new_one_goes_on() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    let restart = instance.admin_begins(&["restart"]);
    client.assert_told();
    eventually("it has moved", || {
        let moved = instance.admin(&["grace", "0.1"]);
        moved.code == 0 && moved.says("generation 1 draining").code == 0
    });
    restart.end().expect(5);
    instance.assert_serves();
    drop(client);
}

#[test]
fn one_that_is_not_ready_serves_all_the_same_until_it_is_ready_again() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    instance.admin(&["drain"]).expect(0).says("not ready");
    let status = instance.status();
    assert_eq!((&status["ready"], &status["state"]), (&false.into(), &"serving".into()));
    instance.admin(&["status", "--short"]).expect(0).says("not ready for new clients");
    instance.assert_serves();
    instance.admin(&["restart"]).expect(0);
    assert_eq!(instance.status()["ready"], false);
    instance.admin(&["resume"]).expect(0).says("ready for new clients");
    assert_eq!(instance.status()["ready"], true);
}

#[test]
fn kept_connections_end_with_an_answer_while_the_server_is_not_ready() {
    let home = Home::new();
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a"), "a").unwrap();
    let instance = home.start(&["http", files.to_str().unwrap()]);
    let mut client = instance.client();
    assert!(!client.get("/a").is_last);
    instance.admin(&["drain"]).expect(0);
    eventually("clients are asked to come again", || instance.client().get("/a").is_last);
    let last = client.get("/a");
    assert!(last.is_last && last.status == 200);
    assert_eq!(client.rest(), "");
    instance.admin(&["resume"]).expect(0);
    eventually("connections are kept again", || !instance.client().get("/a").is_last);
}

#[cfg(unix)]
#[test]
fn sigterm_takes_the_server_out_of_rotation_first_and_the_stop_loses_no_request() {
    use load::{Load, Mode};
    let home = Home::new();
    let (files, health) = (home.directory().join("files"), free_port());
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a"), "a").unwrap();
    let port = health.to_string();
    let instance = home.start(&["http", files.to_str().unwrap(), "--delay", "10", "--health", &port]);
    let load = Load::new(instance.address, "/a", "a", Mode::KeptAlive).connections(8).begin();
    some_more(&load, 100);
    instance.signal(nix::sys::signal::Signal::SIGTERM);
    let ready = || Client::connect(([127, 0, 0, 1], health).into()).get("/ready").status;
    eventually("it is not ready", || ready() == 503);
    assert_eq!(instance.client().get("/a").status, 200);
    some_more(&load, 100);
    // As a load balancer does that has noticed the drain.
    let report = load.end();
    assert!(report.lost() == 0 && report.notified > 0, "{report}");
    assert_eq!(instance.wait(), 0);
    instance.err.wait_for(": stopping in 10 s, not ready for new clients");
}

#[cfg(unix)]
#[test]
fn a_second_signal_does_not_wait_for_the_delay() {
    let home = Home::new();
    let instance = home.start(&["echo", "--delay", HUGE]);
    instance.signal(nix::sys::signal::Signal::SIGTERM);
    // Signals that arrive together are one request.
    let remaining = || instance.status()["delay"]["remaining_ms"].as_u64();
    eventually("it has been scheduled for a second", || remaining().is_some_and(|remaining| remaining < 599_000));
    instance.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn what_has_no_limit_is_shown_without_a_number() {
    let home = Home::new();
    let instance = home.start(&["echo", "--delay", "infinity", "--grace", "infinity", "--log", "json"]);
    let mut client = instance.client();
    client.greet();
    let stop = instance.admin_begins(&["stop"]);
    instance.err.wait_for("stopping when a stop is requested again, not ready for new clients");
    instance
        .admin(&["status"])
        .expect(0)
        .says("not ready for new clients, stopping when a stop is requested again, requested by");
    assert!(instance.status()["delay"]["remaining_ms"].is_null());

    instance.admin(&["stop", "--grace", "infinity", "--no-wait"]).expect(0).says("without a deadline");
    instance.err.wait_for("1 client still connected, without a deadline");
    assert!(instance.status()["drain"]["remaining_ms"].is_null());
    instance.admin(&["metrics"]).expect(0).says("mastercontrol_drain_remaining_seconds +Inf");
    let events = instance.admin(&["--json", "events"]).expect(0).out;
    assert!(events.contains(r#""grace_ms":null"#) && !events.contains("4294967"), "{events}");

    drop(client);
    stop.end().expect(0);
}

#[test]
fn a_stop_with_a_delay_serves_until_then_and_can_be_cancelled() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let stop = instance.admin_begins(&["stop", "--delay", HUGE]);
    eventually("it is scheduled", || instance.status()["ready"] == false);
    assert!(instance.status()["delay"]["remaining_ms"].as_u64() > Some(0));
    instance.admin(&["status", "--short"]).expect(0).says("stopping in ");
    instance.assert_serves();
    instance.admin(&["resume"]).expect(0);
    stop.end().expect(1).says("cancelled the stop");
    assert!(instance.status()["delay"].is_null());
    // The next one begins when it is time.
    let shown = instance.admin(&["stop", "--delay", "0.2", "--no-wait"]).expect(0);
    shown.says("stopping in 1 s, requested by admin client");
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_stop_without_a_delay_does_not_wait_for_one_that_has_a_delay() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    let delayed = instance.admin_begins(&["stop", "--delay", HUGE]);
    eventually("it is scheduled", || instance.status()["ready"] == false);
    instance.admin(&["stop"]).expect(0);
    delayed.end().expect(0).says("stopped in");
    assert_eq!(instance.wait(), 0);
}

#[test]
fn one_connection_is_closed_and_the_others_stay() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut clients: Vec<_> = (0..2).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(Client::greet);
    let id = |client: &Client| {
        let peer = client.0.local_addr().unwrap().to_string();
        let json = instance.admin(&["connections", "--json"]).expect(0).json();
        let connections = json["connections"].as_array().unwrap();
        connections.iter().find(|it| it["peer"] == peer.as_str()).unwrap()["id"].to_string()
    };
    let (first, second) = (id(&clients[0]), id(&clients[1]));
    let close = instance.admin_begins(&["close", &first]);
    clients[0].assert_told();
    drop(clients.remove(0));
    close.end().expect(0).says(&format!("connection {first} disconnected"));
    instance.admin(&["close", &second, "--now"]).expect(5).says("forced");
    let closed = instance.admin(&["close", &first, "--json"]).expect(1).json();
    assert_eq!(closed["code"], "no_connection");
    instance.assert_serves();
}

#[test]
fn a_drain_that_is_held_up_is_looked_into_lengthened_and_ended_client_by_client() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", "100"]);
    let follower = instance.admin_begins(&["events", "--follow"]);
    // Wine takes its time for each thread.
    let many = if cfg!(windows) { 50 } else { crowd(500) };
    let mut clients: Vec<_> = (0..many).map(|_| instance.client()).collect();
    clients.iter_mut().for_each(Client::greet);
    let stop = instance.admin_begins(&["stop"]);
    clients.iter_mut().for_each(Client::assert_told);
    clients.truncate(3);
    let held_up_by = || {
        let json = instance.admin(&["connections", "--json"]).expect(0).json();
        json["connections"].as_array().unwrap().clone()
    };
    eventually("three are left", || held_up_by().len() == 3);
    let ids: Vec<_> = held_up_by().iter().map(|connection| connection["id"].to_string()).collect();
    assert!(held_up_by().iter().all(|connection| connection["activity"] == "draining"));
    instance.admin(&["grace", HUGE]).expect(0).says("3 clients still connected");
    instance.admin(&["close", &ids[0], "--now"]).expect(5);
    instance.admin(&["close", &ids[1], "--grace", "0.1"]).expect(5);
    drop(clients);
    stop.end().expect(5).says(&format!("{many} notified, {} disconnected, 0 closed, 2 forced", many - 2));
    assert_eq!(instance.wait(), 5);
    let story = [
        &format!("stopping, {many} clients"),
        "the grace period ends in 600 s",
        &format!("closing connection {}", ids[0]),
        &format!("connection {} forced", ids[0]),
        &format!("closing connection {}", ids[1]),
        "stopped in",
    ];
    for told in [instance.log(), follower.end().expect(0).out] {
        let places: Vec<_> =
            story.iter().map(|part| told.find(part).unwrap_or_else(|| panic!("{part}: {told}"))).collect();
        assert!(places.is_sorted(), "{told}");
        // The stop ends with this connection: either may be reported first.
        assert!(told.contains(&format!("connection {} forced", ids[1])), "{told}");
    }
}

#[test]
fn what_has_been_sent_of_a_file_is_shown_while_it_is_being_sent() {
    const READ: u64 = 16 << 20;
    let home = Home::new();
    fs::File::create(home.directory().join("large")).unwrap().set_len(4 * READ).unwrap();
    let instance = home.start(&["http", home.directory().to_str().unwrap()]);
    let mut client = instance.client();
    client.send("GET /large HTTP/1.1\r\nHost: x\r\n\r\n");
    io::copy(&mut (&client.0).take(READ), &mut io::sink()).unwrap();
    eventually("it is counted", || {
        let json = instance.admin(&["connections", "--json"]).expect(0).json();
        json["connections"][0]["sent"].as_u64() > Some(READ / 2)
    });
    assert_eq!(instance.admin(&["connections", "--json"]).json()["connections"][0]["activity"], "busy");
}

#[test]
fn a_stop_that_has_begun_cannot_be_cancelled_and_the_client_is_told_so() {
    let home = Home::new();
    let instance = home.start(&["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    instance.admin(&["stop", "--delay", "0.01", "--no-wait"]).expect(0);
    client.assert_told();
    let refused = instance.admin(&["resume", "--json"]).expect(1);
    assert_eq!(refused.json()["code"], "stopping");
    refused.says("the stop has begun already");
    drop(client);
    assert_eq!(instance.wait(), 0);
    let log = instance.log();
    assert!(!log.contains("may be sent here again"), "{log}");
}

#[test]
fn of_two_stops_with_a_delay_the_log_tells_the_one_that_counts() {
    let home = Home::new();
    let instance = home.start(&["echo"]);
    instance.admin(&["stop", "--delay", "500", "--no-wait"]).expect(0);
    instance.admin(&["stop", "--delay", "10h", "--no-wait"]).expect(0);
    eventually("both are in the log", || instance.err.so_far().matches("stopping in ").count() == 2);
    let log = instance.err.so_far();
    assert!(!log.contains("stopping in 36000 s"), "{log}");
}
