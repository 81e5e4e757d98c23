//! No descriptors or ports left: a relay in a process of its own, with few of them.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::process::{Command, Stdio};

use mastercontrol_worker::relay::{Forwarded, Protocol};
use rustix::net::{AddressFamily, SocketType};

use crate::crowd::{crowd, descriptors};
use crate::support::{Client, Front, Program, options};

const PROGRAM: &str = "RELAY_TEST_PROGRAM";

/// The clients and the program are in the test's process. Prints its address, and ends with its standard input.
fn relay(program: SocketAddr) {
    let front = Front::start(options(Protocol::Http(Forwarded::Off)));
    front.relay.upstream(program).serve();
    // Not with `println!`, which the test harness may capture.
    io::stdout().write_all(format!("\n@{}\n", front.relay.address()).as_bytes()).unwrap();
    io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert_eq!(front.said("Exhausted"), 1, "it is reported once in a while");
}

#[test]
fn every_client_is_served_in_the_end_when_descriptors_run_out() {
    if let Ok(program) = std::env::var(PROGRAM) {
        return relay(program.parse().unwrap());
    }
    // The relay has 100 descriptors, and needs two for each client.
    let (many, _guard) = crowd(200, 1);
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
    let clients: Vec<_> = (0..many).map(connect).collect();
    for mut client in clients {
        client.expect_answer("a / ");
    }
    drop(child.stdin.take());
    lines.for_each(drop);
    assert!(child.wait().unwrap().success());
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
