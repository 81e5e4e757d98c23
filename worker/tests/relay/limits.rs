//! No descriptors or ports left: a relay in a process of its own, with few of them.

use std::fs;
use std::io::{self, BufRead, BufReader, Lines, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::num::NonZero;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;

use mastercontrol_worker::relay::{Forwarded, Options, Protocol};
use rustix::net::{AddressFamily, SocketType};

use crate::crowd::{crowd, descriptors};
use crate::support::{Client, Front, Program, asks, eventually, options};
use crate::watchdog::Watchdog;

const PROGRAM: &str = "RELAY_TEST_PROGRAM";

/// Prints its address, and then the number of its open descriptors for each line of its standard input, with which it
/// ends. The clients and the program are in the test's process.
fn relay(program: &str, options: Options) -> Front {
    // Not with `println!`, which the test harness may capture.
    let say = |line: String| io::stdout().write_all(format!("\n@{line}\n").as_bytes()).unwrap();
    let front = Front::start(options);
    front.relay.upstream(program.parse().unwrap()).serve();
    say(front.relay.address().to_string());
    for _ in io::stdin().lines() {
        say(fs::read_dir("/proc/self/fd").unwrap().count().to_string());
    }
    front
}

/// A relay in a process of its own, with few descriptors.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    address: SocketAddr,
    _watchdog: Watchdog,
}

impl Process {
    fn start(test: &str, program: &Program) -> Process {
        // Each loop of a relay has two, and there is one for each core.
        let limit = 96 + 2 * thread::available_parallelism().map_or(1, NonZero::get).max(2);
        let mut child = Command::new("sh")
            .arg("-c")
            .arg(format!("ulimit -n {limit} && exec \"$0\" --exact \"$1\" --nocapture --test-threads 1"))
            .arg(std::env::current_exe().unwrap())
            .arg(test)
            .env(PROGRAM, program.address.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let address = next(&mut lines).parse().unwrap();
        Process { child, lines, address, _watchdog: Watchdog::start() }
    }

    fn client(&self) -> Client {
        Client::to(TcpStream::connect(self.address).unwrap())
    }

    fn descriptors(&mut self) -> usize {
        self.child.stdin.as_ref().unwrap().write_all(b"\n").unwrap();
        next(&mut self.lines).parse().unwrap()
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        self.lines.map_while(Result::ok).for_each(drop);
        assert!(self.child.wait().unwrap().success());
    }
}

fn next(lines: &mut Lines<BufReader<ChildStdout>>) -> String {
    lines.map_while(Result::ok).find_map(|line| Some(line.strip_prefix('@')?.to_owned())).unwrap()
}

#[test]
fn every_client_is_served_in_the_end_when_descriptors_run_out() {
    if let Ok(program) = std::env::var(PROGRAM) {
        let front = relay(&program, options(Protocol::Http(Forwarded::Off)));
        assert_eq!(front.said("Exhausted"), 1, "it is reported once in a while");
        return;
    }
    // The relay has some 100 descriptors, and needs two for each client.
    let (many, _guard) = crowd(200, 1);
    let program = Program::http("a");
    let relay = Process::start("limits::every_client_is_served_in_the_end_when_descriptors_run_out", &program);
    let connect = |_| {
        let mut client = relay.client();
        client.get("/");
        client
    };
    let clients: Vec<_> = (0..many).map(connect).collect();
    for mut client in clients {
        client.expect_answer("a / ");
    }
    relay.end();
}

#[test]
fn clients_that_are_refused_leave_the_descriptors_to_those_that_are_served() {
    if let Ok(program) = std::env::var(PROGRAM) {
        let options = Options { max_connections: 4, ..options(Protocol::Http(Forwarded::Off)) };
        relay(&program, options);
        return;
    }
    let (many, _guard) = crowd(60, 1);
    let (program, connections) = Program::by_hand();
    let mut relay =
        Process::start("limits::clients_that_are_refused_leave_the_descriptors_to_those_that_are_served", &program);
    let mut served: Vec<_> = (0..4).map(|_| relay.client()).collect();
    let mut served: Vec<_> = served.iter_mut().map(|client| (asks(client, &connections), client)).collect();
    let before = relay.descriptors();
    // They stay after they have read the refusal.
    let mut refused: Vec<_> = (0..many).map(|_| relay.client()).collect();
    refused.iter_mut().for_each(|client| client.expect_refusal(503));
    eventually("at most eight of them stay", || relay.descriptors() <= before + 8);
    for (server, client) in &mut served {
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        server.finish();
        client.expect_answer("ok");
        // Only a new connection to the program can take this.
        *server = asks(client, &connections);
        server.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmore");
        client.expect_answer("more");
    }
    drop((served, refused));
    relay.end();
}

const FEW_PORTS: &str = "RELAY_TEST_FEW_PORTS";

/// A client with its own source address, so that it takes none of the relay's ports.
fn client_from(source: Ipv4Addr, to: SocketAddr) -> Client {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrV4::new(source, 0)).unwrap();
    rustix::net::connect(&socket, &to).unwrap();
    Client::to(socket.into())
}

/// In a network that has ten ports for connections from each address.
#[test]
fn every_client_is_served_when_the_ports_of_an_address_run_out() {
    if std::env::var_os(FEW_PORTS).is_some() {
        // More than there are ports.
        let many = (descriptors() / 8).clamp(11, 100) as u8;
        let program = Program::http("a");
        let front = Front::http();
        front.serve(&program);
        let clients = (1..=many).map(|number| client_from(Ipv4Addr::new(127, 0, 1, number), front.relay.address()));
        let mut clients: Vec<_> = clients.collect();
        for client in &mut clients {
            client.get("/");
            client.expect_answer("a / ");
        }
        assert_eq!((program.connections(), front.said("Exhausted")), (many.into(), 0));
        return;
    }
    let network = "ip link set lo up && echo 40000 40009 > /proc/sys/net/ipv4/ip_local_port_range";
    let can = Command::new("unshare").args(["--net", "sh", "-c", network]).stderr(Stdio::null()).status();
    if !can.is_ok_and(|status| status.success()) {
        return; // It takes privileges.
    }
    let ended = Command::new("unshare")
        .args(["--net", "sh", "-c", &format!("{network} && exec \"$0\" --exact \"$1\" --nocapture")])
        .arg(std::env::current_exe().unwrap())
        .arg("limits::every_client_is_served_when_the_ports_of_an_address_run_out")
        .env(FEW_PORTS, "")
        .output()
        .unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
}
