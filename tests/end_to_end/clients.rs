//! Clients that were not written for this project.

use std::fs;
use std::process::Stdio;

use crate::support::{Ended, HUGE, Home, Instance, Process, is_installed};

/// Reads lines as a `socketserver.StreamRequestHandler` does, and disconnects when it is notified.
const PYTHON: &str = "
import socket, sys
with socket.create_connection(('127.0.0.1', int(sys.argv[1]))) as connection:
    reader, writer = connection.makefile('rb'), connection.makefile('wb', 0)
    for line in sys.argv[2:]:
        writer.write(line.encode() + b'\\n')
        print(reader.readline().decode().strip(), flush=True)
    print('ready', flush=True)
    for line in reader:
        print('last:', line.decode().strip(), flush=True)
";

fn python(home: &Home, instance: &Instance, lines: &[&str]) -> Process {
    let mut command = home.program("python3");
    command.args(["-c", PYTHON, &instance.address.port().to_string()]).args(lines);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let python = home.spawn(command);
    python.out.wait_for("ready");
    python
}

#[test]
fn a_python_client_of_the_echo_server_is_told_and_leaves() {
    let home = Home::new();
    if !is_installed("python3") {
        return;
    }
    let instance = home.start(&["echo", "--grace", HUGE]);
    let python = python(&home, &instance, &["one", "two"]);
    instance.admin(&["stop"]).expect(0).says("1 notified, 1 disconnected, 0 closed, 0 forced");
    assert_eq!(python.end().expect(0).out, "one\ntwo\nready\nlast: SHUTDOWN\n");
}

#[test]
fn a_python_client_of_the_command_server_is_told_and_leaves() {
    let home = Home::new();
    if !is_installed("python3") {
        return;
    }
    let instance = home.start(&["command", "--grace", HUGE]);
    let python = python(&home, &instance, &["quote", "help"]);
    instance.admin(&["stop"]).expect(0).says("1 notified, 1 disconnected, 0 closed, 0 forced");
    let out = python.end().expect(0).out;
    assert!(out.starts_with("A server that cannot be asked to leave"), "{out}");
    assert!(out.contains("\nCommands: ") && out.ends_with("ready\nlast: SHUTDOWN\n"), "{out}");
}

#[test]
fn nc_gets_an_echo_and_is_told() {
    let home = Home::new();
    if !is_installed("nc") {
        return;
    }
    for (kind, say, answer) in [("echo", "hello\n", "hello"), ("command", "HAIKU\n", "The socket is free.")] {
        let instance = home.start(&[kind, "--grace", HUGE]);
        let mut command = home.program("nc");
        // Netcat also stays until its own stdin ends.
        command.args(["127.0.0.1", &instance.address.port().to_string()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let nc = home.spawn(command);
        nc.write(say);
        nc.out.wait_for(answer);
        let stop = instance.admin_begins(&["stop"]);
        nc.out.wait_for("SHUTDOWN");
        drop(nc.stdin.lock().unwrap().take());
        nc.wait();
        stop.end().expect(0);
        let out = nc.out.whole();
        assert!(out.ends_with(&format!("{answer}\nSHUTDOWN\n")), "{kind}: {out}");
    }
}

fn curl(home: &Home, arguments: &[&str]) -> Ended {
    let mut command = home.program("curl");
    home.run({
        command.args(["--silent", "--show-error", "--max-time", "60", "--noproxy", "*"]).args(arguments);
        command
    })
}

/// An HTTP server for a directory with two small files and one big one, if curl is installed to query it.
fn http(home: &Home, options: &[&str]) -> Option<(Instance, String)> {
    if !is_installed("curl") {
        return None;
    }
    let files = home.directory().join("files");
    fs::create_dir(&files).unwrap();
    fs::write(files.join("a.txt"), "the file a\n").unwrap();
    fs::write(files.join("b.html"), "<p>the file b</p>\n").unwrap();
    let big: Vec<u8> = (0..BIG).map(|at| (at / 1000 % 251) as u8).collect();
    fs::write(files.join("big"), big).unwrap();
    let instance = home.start(&[&["http", files.to_str().unwrap()], options].concat());
    let url = format!("http://{}", instance.address);
    Some((instance, url))
}

const BIG: usize = 32 << 20;

#[test]
fn curl_gets_files_heads_and_listings() {
    let home = Home::new();
    let Some((_instance, url)) = http(&home, &[]) else { return };
    assert_eq!(curl(&home, &[&format!("{url}/a.txt")]).expect(0).out, "the file a\n");
    let head = curl(&home, &["--head", &format!("{url}/b.html")]).expect(0).out.to_lowercase();
    assert!(head.starts_with("http/1.1 200") && head.contains("content-length: 18\r\n"), "{head}");
    assert!(head.contains("content-type: text/html"), "{head}");
    let listing = curl(&home, &[&url]).expect(0).out;
    assert!(listing.contains("a.txt") && listing.contains("b.html"), "{listing}");
}

#[test]
fn curl_gets_404_for_what_is_not_there() {
    let home = Home::new();
    let Some((_instance, url)) = http(&home, &[]) else { return };
    let status = ["--output", "/dev/null", "--write-out", "%{http_code}"];
    for path in ["no", "a.txt/x", "../../../../etc/passwd", "%2e%2e/%2e%2e/etc/passwd"] {
        let url = format!("{url}/{path}");
        let ended = curl(&home, &[&status[..], &["--path-as-is", &url]].concat()).expect(0);
        assert!(["404", "400", "403"].contains(&ended.out.as_str()), "{path}: {ended}");
    }
    let missing = curl(&home, &[&status[..], &[&format!("{url}/no")]].concat());
    assert_eq!(missing.expect(0).out, "404");
}

#[test]
fn curl_gets_two_files_over_one_connection() {
    let home = Home::new();
    let Some((instance, url)) = http(&home, &[]) else { return };
    let ended = curl(&home, &["--verbose", &format!("{url}/a.txt"), &format!("{url}/b.html")]).expect(0);
    assert_eq!(ended.out, "the file a\n<p>the file b</p>\n");
    assert_eq!(instance.status()["connections"]["total"], 1, "{ended}");
}

#[test]
fn curl_gets_a_range() {
    let home = Home::new();
    let Some((_instance, url)) = http(&home, &[]) else { return };
    let ended = curl(&home, &["--include", "--range", "4-7", &format!("{url}/a.txt")]).expect(0);
    assert!(ended.out.starts_with("HTTP/1.1 206") && ended.out.ends_with("\r\n\r\nfile"), "{ended}");
    ended.says("bytes 4-7/11");
}

#[test]
fn a_download_under_way_is_completed_before_the_server_stops() {
    let home = Home::new();
    let Some((instance, url)) = http(&home, &["--grace", HUGE]) else { return };
    let file = home.directory().join("downloaded");
    let mut command = home.program("curl");
    // Slow enough to be in progress for a while, and over long before the grace period ends.
    command.args(["--silent", "--show-error", "--limit-rate", "8M", "--noproxy", "*", "--output"]);
    command.arg(&file).arg(format!("{url}/big")).stderr(Stdio::piped());
    let curl = home.spawn(command);
    crate::support::eventually("the download is under way", || {
        fs::metadata(&file).is_ok_and(|file| file.len() > 0) && instance.status()["connections"]["now"] == 1
    });
    let stop = instance.admin_begins(&["stop", "--json"]);
    instance.err.wait_for("stopping, 1 client");
    assert!(fs::metadata(&file).unwrap().len() < BIG as u64, "it was over before the stop");
    curl.end().expect(0);
    let report = stop.end().expect(0).json()["report"].clone();
    assert_eq!((&report["forced"], instance.wait()), (&0.into(), 0), "{report}");
    let downloaded = fs::read(&file).unwrap();
    assert_eq!(downloaded.len(), BIG);
    assert!(downloaded.iter().enumerate().all(|(at, &byte)| byte == (at / 1000 % 251) as u8), "it has other contents");
}

#[test]
fn an_idle_keep_alive_connection_does_not_hold_up_the_stop() {
    let home = Home::new();
    let Some((instance, _)) = http(&home, &["--grace", HUGE]) else { return };
    let mut client = instance.client();
    client.send("HEAD /a.txt HTTP/1.1\r\nHost: x\r\n\r\n");
    client.expect("HTTP/1.1 200");
    instance.admin(&["stop"]).expect(0).says("stopped in ");
    assert_eq!(instance.wait(), 0);
    // It was closed, not reset.
    assert!(client.rest().ends_with("\r\n\r\n"));
}
