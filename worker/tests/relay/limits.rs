//! No descriptors left. The relay is in a process of its own, with few of them; the clients and the program are here.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use mastercontrol_worker::relay::{Forwarded, Protocol};

use crate::support::{Client, Front, Program, options};

const PROGRAM: &str = "RELAY_TEST_PROGRAM";

/// Says where it listens, and ends with its standard input.
fn relay(program: SocketAddr) {
    let front = Front::start(options(Protocol::Http(Forwarded::Off)));
    front.relay.upstream(program).serve();
    // Not by `println!`, which a test's harness may capture.
    io::stdout().write_all(format!("\n@{}\n", front.relay.address()).as_bytes()).unwrap();
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(front.said("Exhausted"), 1, "it is reported once in a while");
}

#[test]
fn every_client_is_served_in_the_end_when_descriptors_run_out() {
    if let Ok(program) = std::env::var(PROGRAM) {
        return relay(program.parse().unwrap());
    }
    let program = Program::http("a");
    let mut child = Command::new("sh")
        .arg("-c")
        .arg("ulimit -n 100 && exec \"$0\" --exact \"$1\" --nocapture --test-threads 1")
        .arg(std::env::current_exe().unwrap())
        .arg("limits::every_client_is_served_in_the_end_when_descriptors_run_out")
        .env(PROGRAM, program.address.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let address = lines.by_ref().filter_map(|line| Some(line.strip_prefix('@')?.to_owned())).next().unwrap();
    let connect = |_| {
        let mut client = Client::to(TcpStream::connect(&address).unwrap());
        client.get("/");
        client
    };
    let clients: Vec<_> = (0..200).map(connect).collect();
    for mut client in clients {
        client.expect_answer("a / ");
    }
    drop(child.stdin.take());
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
}
