//! How long `admin-cli status` takes compared with runit's `sv status`, each from start to exit, in turns.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::process::{Directory, Running, is_installed, write};

const ROUNDS: usize = 500;

pub fn run() {
    let running = Running::supervisor(&["echo"]);
    let directory = Directory::new("status");
    let service = runit(&directory.0);
    let mut ours = running.admin(&["status"]);
    let mut peer = service.as_ref().map(|_| {
        let mut peer = Command::new("sv");
        peer.arg("status").arg(&directory.0).stdout(Stdio::null());
        peer
    });
    let (mut our_times, mut peer_times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        our_times.push(time(&mut ours));
        peer_times.extend(peer.as_mut().map(time));
    }
    let ours = report("admin-cli status", our_times);
    if let Some(mut service) = service {
        let peer = report("sv status", peer_times);
        println!("ratio of the medians: {:.2}", ours.as_secs_f64() / peer.as_secs_f64());
        let _ = Command::new("sv").arg("force-shutdown").arg(&directory.0).stdout(Stdio::null()).status();
        let _ = service.wait();
    } else {
        println!("sv: not installed");
    }
}

/// A program under runit. Returns as soon as `sv` knows it.
fn runit(directory: &Path) -> Option<std::process::Child> {
    if !is_installed("runsv") || !is_installed("sv") {
        return None;
    }
    let script = directory.join("run");
    write(&script, "#!/bin/sh\nexec sleep 100000\n");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let service = Command::new("runsv").arg(directory).stdin(Stdio::null()).spawn().unwrap();
    let limit = Instant::now() + Duration::from_secs(10);
    while !Command::new("sv").arg("status").arg(directory).stdout(Stdio::null()).status().unwrap().success() {
        assert!(Instant::now() < limit, "runsv does not start");
        thread::sleep(Duration::from_millis(10));
    }
    Some(service)
}

fn time(command: &mut Command) -> Duration {
    let began = Instant::now();
    let status = command.status().unwrap();
    let took = began.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    took
}

/// Prints the median, and returns it.
fn report(what: &str, mut times: Vec<Duration>) -> Duration {
    times.sort();
    let median = times[times.len() / 2];
    let mean = times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap();
    println!("{what:<45} median {median:>10.2?}   mean {mean:>10.2?}");
    median
}
