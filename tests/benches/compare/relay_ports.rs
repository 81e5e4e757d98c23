//! A hundred thousand connections, one after the other and closed by the client: does any fail for lack of a port?

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Instant;

use crate::clients::GREETING;
use crate::peers;
use crate::process::{Directory, Running};
use crate::rounds::{Contender, Figure, Statistic, Unit, compare};

const CONNECTIONS: usize = 100_000;

/// The number of simultaneous clients.
const CLIENTS: usize = 8;

const FIGURES: [Figure; 4] = [
    Figure::new("took", Unit::Time, Statistic::Largest, 0),
    Figure::new("failed", Unit::Count, Statistic::Largest, 1).without_ratio(),
    Figure::new("no port for the client", Unit::Count, Statistic::Largest, 2).without_ratio(),
    Figure::new("failures of the program", Unit::Count, Statistic::Largest, 3).without_ratio(),
];

pub fn run() {
    let directory = Directory::new("relay-ports");
    let (files, _) = directory.files();
    let Some(nginx) = peers::nginx_behind(&directory.0, &files) else {
        println!("nginx is not installed");
        return;
    };
    println!("{CONNECTIONS} connections with a request each");
    let [http, tcp] = ["http", "tcp"].map(|protocol| peers::relayed_nginx(&directory.0, &files, protocol));
    let [haproxy_http, haproxy_tcp] = ["http", "tcp"].map(|mode| peers::haproxy(&directory.0, mode, nginx.address));
    let contenders = vec![
        Contender::ours("--relay http", || Some(measure(&http, true))).beside(&["HAProxy, http"]),
        Contender::peer("HAProxy, http", || Some(measure(haproxy_http.as_ref()?, false))),
        Contender::ours("--relay tcp", || Some(measure(&tcp, true))).beside(&["HAProxy, tcp"]),
        Contender::peer("HAProxy, tcp", || Some(measure(haproxy_tcp.as_ref()?, false))),
    ];
    compare(1, contenders, &FIGURES);
}

fn measure(running: &Running, is_ours: bool) -> Vec<f64> {
    let began = Instant::now();
    let fates: Vec<Fates> = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| talk(running.address))).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let took = began.elapsed().as_secs_f64();
    let failed: usize = fates.iter().map(|fates| fates.failed).sum();
    let no_port: usize = fates.iter().map(|fates| fates.no_port).sum();
    let failures = if is_ours { upstream_failures(running) } else { f64::NAN };
    assert!(!is_ours || (failed == 0 && failures == 0.0), "{failed} failed, {failures} of them at the program");
    vec![took, failed as f64, no_port as f64, failures]
}

fn upstream_failures(running: &Running) -> f64 {
    let output = running.admin(&["status", "--json"]).stdout(Stdio::piped()).output().unwrap();
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    status["relay"]["upstream_failures"].as_f64().unwrap()
}

#[derive(Default)]
struct Fates {
    failed: usize,
    /// The client itself had no port left. It tries again.
    no_port: usize,
}

fn talk(address: SocketAddr) -> Fates {
    let mut fates = Fates::default();
    for _ in 0..CONNECTIONS / CLIENTS {
        let stream = loop {
            match TcpStream::connect(address) {
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => fates.no_port += 1,
                stream => break stream,
            }
        };
        let answered = stream.is_ok_and(|stream| is_greeted(&stream));
        fates.failed += usize::from(!answered);
    }
    fates
}

fn is_greeted(mut stream: &TcpStream) -> bool {
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    if stream.write_all(b"GET /hello HTTP/1.1\r\nHost: x\r\n\r\n").is_err() {
        return false;
    }
    while !answer.ends_with(GREETING) {
        match stream.read(&mut part) {
            Ok(length) if length > 0 => answer.extend(&part[..length]),
            Ok(_) | Err(_) => return false,
        }
    }
    true
}
