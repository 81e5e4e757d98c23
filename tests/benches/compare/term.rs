//! From SIGTERM until the process has ended, without clients: the least that any stop of a service costs.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::peers;
use crate::process::{Directory, Running};
use crate::rounds::{Contender, Figure, Statistic, Unit, compare};

/// One process per run.
const RUNS: usize = 100;

/// A server is asked to stop when its start is over and it waits.
const IDLE: Duration = Duration::from_millis(200);

const FIGURES: [Figure; 2] = [
    Figure::new("median", Unit::Time, Statistic::Median, 0),
    Figure::new("p99", Unit::Time, Statistic::Worst1Percent, 0),
];

pub fn run() {
    let directory = Directory::new("term");
    let (files, www) = directory.files();
    println!("{RUNS} runs");
    let contenders = vec![
        Contender::ours("supervisor http", || end(Running::supervisor(&["http", &www]))),
        Contender::ours("supervisor echo", || end(Running::supervisor(&["echo"]))),
        Contender::peer("lighttpd", || end(peers::lighttpd(&directory.0, &files)?)),
        Contender::peer("nginx", || end(peers::nginx(&directory.0, &files)?)),
        Contender::peer("tokio", || end(peers::tokio()?)),
    ];
    compare(RUNS, contenders, &FIGURES);
}

fn end(mut running: Running) -> Option<Vec<f64>> {
    std::thread::sleep(IDLE);
    let began = Instant::now();
    running.end(Signal::SIGTERM);
    Some(vec![began.elapsed().as_secs_f64()])
}
