//! How long `admin-cli stop` takes, from its start to its end, with clients that leave when they are told.

use std::io::Read;
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::peers;
use crate::process::{Directory, Running, write};

const ROUNDS: usize = 5;

pub fn run() {
    for clients in [0, 1_000, 9_000] {
        report(&format!("supervisor echo, {clients} clients"), || supervisor(clients));
    }
    let directory = Directory::new("stop");
    write(&directory.0.join("index.html"), "hello");
    report("nginx -s quit, 0 clients", || {
        let mut running = peers::nginx(&directory.0, &directory.0)?;
        let began = Instant::now();
        let configuration = directory.0.join("nginx.conf");
        Command::new("/usr/sbin/nginx")
            .args(["-s", "quit", "-c"])
            .arg(configuration)
            .stderr(Stdio::null())
            .status()
            .ok()?;
        running.child.wait().ok()?;
        Some(began.elapsed())
    });
    report("python3 -m http.server, SIGINT, 0 clients", || {
        let mut running = peers::python(&directory.0)?;
        let began = Instant::now();
        Command::new("kill").args(["-INT", &running.child.id().to_string()]).status().ok()?;
        running.child.wait().ok()?;
        Some(began.elapsed())
    });
}

fn report(what: &str, measure: impl Fn() -> Option<Duration>) {
    let times: Option<Vec<Duration>> = (0..ROUNDS).map(|_| measure()).collect();
    match times {
        Some(mut times) => {
            times.sort();
            println!("{what:<45} median {:>10.2?}   worst {:>10.2?}", times[ROUNDS / 2], times[ROUNDS - 1]);
        }
        None => println!("{what:<45} not installed"),
    }
}

fn supervisor(clients: usize) -> Option<Duration> {
    let running = Running::supervisor(&["echo"]);
    let mut connected: Vec<TcpStream> = (0..clients).map(|_| TcpStream::connect(running.address).unwrap()).collect();
    // The last one is being served, so all are.
    if let Some(last) = connected.last_mut() {
        use std::io::Write;
        last.write_all(b"x").unwrap();
        last.read_exact(&mut [0]).unwrap();
    }
    let leaving = std::thread::spawn(move || {
        for mut client in connected {
            let mut heard = String::new();
            client.read_to_string(&mut heard).unwrap();
            assert_eq!(heard, "SHUTDOWN\n");
        }
    });
    let began = Instant::now();
    let status = running.admin(&["stop"]).status().unwrap();
    let took = began.elapsed();
    assert!(status.success(), "stop: {status}");
    leaving.join().unwrap();
    Some(took)
}
