//! What an idle connection costs the machine: the growth of the server's resident memory, and of all kernel stacks.

use std::fs;
use std::time::Duration;

use crate::clients::{Crowd, Talk};
use crate::peers;
use crate::process::{Directory, Running, field};
use crate::rounds::{Contender, Figure, ROUNDS, Statistic, Unit, compare};

const CLIENTS: usize = 2_000;

/// Time for threads that have just begun or ended to be counted correctly.
const SETTLE: Duration = Duration::from_millis(500);

const FIGURES: [Figure; 3] = [
    Figure::new("in all", Unit::Bytes, Statistic::Median, 0),
    Figure::new("resident", Unit::Bytes, Statistic::Median, 1).without_ratio(),
    Figure::new("kernel stacks", Unit::Bytes, Statistic::Median, 2).without_ratio(),
];

pub fn run() {
    let directory = Directory::new("memory");
    let (files, www) = directory.files();
    println!("per idle connection, of {CLIENTS}");
    let contenders = vec![
        Contender::ours("supervisor echo", || growth(Running::supervisor(&["echo"]), Talk::Echo)),
        Contender::ours("supervisor http", || growth(Running::supervisor(&["http", &www]), Talk::Http)),
        Contender::peer("tokio", || growth(peers::tokio()?, Talk::Echo)),
        Contender::peer("nginx", || growth(peers::nginx(&directory.0, &files)?, Talk::Http)),
        Contender::peer("lighttpd", || growth(peers::lighttpd(&directory.0, &files)?, Talk::Http)),
    ];
    compare(ROUNDS, contenders, &FIGURES);
}

fn growth(running: Running, talk: Talk) -> Option<Vec<f64>> {
    // The first clients have costs that later ones do not have.
    drop(Crowd::connect(running.address, 10, talk));
    let measure = || {
        std::thread::sleep(SETTLE);
        (running.resident(), kernel_stacks())
    };
    let before = measure();
    let crowd = Crowd::connect(running.address, CLIENTS, talk);
    let after = measure();
    drop(crowd);
    let each = |after: u64, before: u64| (after as f64 - before as f64) / CLIENTS as f64;
    let (resident, stacks) = (each(after.0, before.0), each(after.1, before.1));
    Some(vec![resident + stacks, resident, stacks])
}

/// The kernel stacks of all processes, in bytes: no file has the size for one process.
fn kernel_stacks() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").unwrap(), "KernelStack:") * 1024
}
