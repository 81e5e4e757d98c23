//! Files over HTTP under `wrk`: requests a second, and processor time of the server for each.

use std::process::Command;
use std::time::Duration;

use crate::peers;
use crate::process::{Directory, Running, is_installed, write};

const ROUNDS: usize = 5;
const ROUND: &str = "2s";

struct Case {
    what: &'static str,
    file: &'static str,
    connections: u32,
}

#[derive(Clone, Copy)]
struct Measured {
    rate: f64,
    cpu: Duration,
}

pub fn run() {
    if !is_installed("wrk") {
        println!("wrk is not installed");
        return;
    }
    let directory = Directory::new("http");
    let files = directory.0.join("files");
    std::fs::create_dir(&files).unwrap();
    write(&files.join("1k"), vec![b'x'; 1024]);
    write(&files.join("1m"), vec![b'x'; 1024 * 1024]);
    let servers = [
        ("supervisor http", Some(Running::supervisor(&["http", files.to_str().unwrap()]))),
        ("nginx", peers::nginx(&directory.0, &files)),
        ("lighttpd", peers::lighttpd(&directory.0, &files)),
    ];
    for case in [
        Case { what: "1 KiB, 64 connections", file: "1k", connections: 64 },
        Case { what: "1 KiB, 1 connection", file: "1k", connections: 1 },
        Case { what: "1 MiB, 64 connections", file: "1m", connections: 64 },
        Case { what: "1 MiB, 1 connection", file: "1m", connections: 1 },
    ] {
        println!("{}", case.what);
        let mut rounds: Vec<Vec<Measured>> = vec![Vec::new(); servers.len()];
        // In turn, so that all see the same noise.
        for _ in 0..ROUNDS {
            for ((_, running), measured) in servers.iter().zip(&mut rounds) {
                measured.extend(running.as_ref().map(|running| measure(running, &case)));
            }
        }
        for ((name, _), mut measured) in servers.iter().zip(rounds) {
            if measured.is_empty() {
                println!("  {name:<16} not installed");
                continue;
            }
            measured.sort_by(|a, b| a.rate.total_cmp(&b.rate));
            let Measured { rate, .. } = measured[measured.len() / 2];
            measured.sort_by_key(|measured| measured.cpu);
            let Measured { cpu, .. } = measured[measured.len() / 2];
            println!(
                "  {name:<16} {rate:>9.0} requests/s   {:>7.2} µs processor time each",
                cpu.as_nanos() as f64 / 1e3
            );
        }
    }
}

fn measure(running: &Running, case: &Case) -> Measured {
    let before = running.cpu();
    let url = format!("http://{}/{}", running.address, case.file);
    let output =
        Command::new("wrk").args(["-t1", &format!("-c{}", case.connections), "-d", ROUND, &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let number = |line: &str| line.split_whitespace().next().and_then(|number| number.parse::<f64>().ok());
    let requests = text.lines().find(|line| line.contains(" requests in ")).and_then(number).unwrap();
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")).and_then(number).unwrap();
    assert!(!text.contains("Non-2xx"), "{text}");
    Measured { rate, cpu: (running.cpu() - before).div_f64(requests.max(1.0)) }
}
