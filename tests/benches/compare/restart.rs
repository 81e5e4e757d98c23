//! What restarts under load cost its clients: the fate of every request, beside the same load without restarts, and
//! beside `nginx -s reload`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use load::{Load, Mode};

use crate::peers;
use crate::process::{Directory, Running, write};

const RESTARTS: u32 = 8;
const TIME: Duration = Duration::from_secs(10);

pub fn run() {
    let directory = Directory::new("restart");
    let files = directory.0.join("files");
    std::fs::create_dir(&files).unwrap();
    write(&files.join("1k"), vec![b'x'; 1024]);
    let supervisor = Running::supervisor(&["http", files.to_str().unwrap()]);
    let nginx = peers::nginx(&directory.0, &files);
    for (mode, what) in [(Mode::OnePerConnection, "one request a connection"), (Mode::KeptAlive, "kept alive")] {
        println!("1 KiB, 16 connections, {what}");
        without(&supervisor, mode, "supervisor http");
        with(&supervisor, mode, "supervisor http", || {
            let status = supervisor.admin(&["restart"]).status().unwrap();
            assert!(status.success(), "restart: {status}");
        });
        match &nginx {
            None => println!("  nginx is not installed"),
            Some(nginx) => {
                without(nginx, mode, "nginx");
                with(nginx, mode, "nginx -s reload", || reload(&directory.0));
            }
        }
    }
}

fn load(running: &Running, mode: Mode) -> Load {
    Load::new(running.address, "/1k", vec![b'x'; 1024], mode)
}

fn without(running: &Running, mode: Mode, name: &str) {
    println!("  {name:<16} undisturbed: {}", load(running, mode).run_for(TIME));
}

fn with(running: &Running, mode: Mode, name: &str, restart: impl Fn()) {
    let load = load(running, mode).begin();
    let mut times: Vec<Duration> = (0..RESTARTS)
        .map(|_| {
            // Spread over the time of the load.
            thread::sleep(TIME / (RESTARTS + 1));
            let began = Instant::now();
            restart();
            began.elapsed()
        })
        .collect();
    thread::sleep(TIME / (RESTARTS + 1));
    println!("  {name:<16} {RESTARTS} restarts:  {}", load.end());
    times.sort();
    println!("  {:<16} the command took {:.1?}, at worst {:.1?}", "", times[times.len() / 2], times[times.len() - 1]);
}

/// Returns when the old workers have been told to end, not when they have.
fn reload(directory: &Path) {
    let configuration = directory.join("nginx.conf");
    let status = Command::new("/usr/sbin/nginx")
        .args(["-s", "reload", "-c"])
        .arg(configuration)
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success(), "reload: {status}");
}
