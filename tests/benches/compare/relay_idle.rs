//! What an idle connection costs a relay compared with HAProxy: the growth of its own resident memory. Also the effect
//! of restarts on thousands of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::clients::{Crowd, Talk};
use crate::peers;
use crate::process::{Directory, Running};
use crate::rounds::{Contender, Figure, ROUNDS, Statistic, Unit, compare};

/// A proxy also has a connection to its program for each client, and many systems give a process 20,000 descriptors.
const CLIENTS: usize = 9_000;

/// The relay closes idle connections to the program when descriptors run out, so it can have more clients.
const RESTARTED_CLIENTS: usize = 10_000;

const RESTARTS: usize = 20;

const SETTLE: Duration = Duration::from_millis(500);

const GROWTH: [Figure; 1] = [Figure::new("resident", Unit::Bytes, Statistic::Median, 0)];

pub fn run() {
    let directory = Directory::new("relay-idle");
    let (files, _) = directory.files();
    let Some(nginx) = peers::nginx_behind(&directory.0, &files) else {
        println!("nginx is not installed");
        return;
    };
    println!("per idle connection, of {CLIENTS}");
    let ours = |protocol| growth(&peers::relayed_nginx(&directory.0, &files, protocol));
    let haproxy = |mode| growth(&peers::haproxy(&directory.0, mode, nginx.address)?);
    let contenders = vec![
        Contender::ours("--relay http", || ours("http")).beside(&["HAProxy, http"]),
        Contender::peer("HAProxy, http", || haproxy("http")),
        Contender::ours("--relay tcp", || ours("tcp")).beside(&["HAProxy, tcp"]),
        Contender::peer("HAProxy, tcp", || haproxy("tcp")),
    ];
    compare(ROUNDS, contenders, &GROWTH);
    restarts(&peers::relayed_nginx(&directory.0, &files, "http"));
}

fn growth(running: &Running) -> Option<Vec<f64>> {
    // The first clients have costs that later ones do not have.
    drop(Crowd::connect(running.address, 10, Talk::Http));
    let before = resident(running);
    let crowd = Crowd::connect(running.address, CLIENTS, Talk::Http);
    let after = resident(running);
    drop(crowd);
    Some(vec![(after as f64 - before as f64) / CLIENTS as f64])
}

fn resident(running: &Running) -> u64 {
    std::thread::sleep(SETTLE);
    running.own_resident()
}

/// Restarts close none of the connections, and leave nothing behind.
fn restarts(running: &Running) {
    let restart = || {
        let status = running.admin(&["restart"]).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "restart: {status}");
    };
    // With the first restart the supervisor allocates what it keeps.
    restart();
    let mut crowd = Crowd::connect(running.address, RESTARTED_CLIENTS, Talk::Http);
    restart();
    let before = (resident(running), running.own_descriptors());
    let began = Instant::now();
    (0..RESTARTS).for_each(|_| restart());
    let took = began.elapsed() / RESTARTS as u32;
    let after = (resident(running), running.own_descriptors());
    crowd.greet_again();
    assert!(after.1 <= before.1, "{} descriptors became {}", before.1, after.1);
    println!(
        "{RESTARTED_CLIENTS} idle connections through {RESTARTS} restarts of {took:.0?} each, and all are served afterwards"
    );
    println!("  resident: {} KiB before, {} KiB after", before.0 / 1024, after.0 / 1024);
    println!("  descriptors: {} before, {} after", before.1, after.1);
}
