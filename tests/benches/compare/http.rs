//! Files over HTTP under `wrk`: requests per second, and processor time of the server for each.

use crate::peers;
use crate::process::{Directory, Running, is_installed};
use crate::rounds::{Contender, Figure, ROUNDS, Statistic, Unit, compare};
use crate::wrk::wrk;

const ROUND: &str = "2s";

const FIGURES: [Figure; 2] = [
    Figure::new("requests", Unit::PerSecond, Statistic::Median, 0),
    Figure::new("processor time each", Unit::Time, Statistic::Median, 1),
];

pub fn run() {
    if !is_installed("wrk") {
        println!("wrk is not installed");
        return;
    }
    let directory = Directory::new("http");
    let (files, www) = directory.files();
    let supervisor = Running::supervisor(&["http", &www]);
    let nginx = peers::nginx(&directory.0, &files);
    let lighttpd = peers::lighttpd(&directory.0, &files);
    for (what, file) in [("1 KiB", "1k"), ("1 MiB", "1m")] {
        for connections in [64, 1] {
            println!("{what}, {connections} kept alive");
            let measure = |running: &Running| Some(measure(running, file, connections));
            let contenders = vec![
                Contender::ours("supervisor http", || measure(&supervisor)),
                Contender::peer("nginx", || measure(nginx.as_ref()?)),
                Contender::peer("lighttpd", || measure(lighttpd.as_ref()?)),
            ];
            compare(ROUNDS, contenders, &FIGURES);
        }
    }
}

fn measure(running: &Running, file: &str, connections: u32) -> Vec<f64> {
    let before = running.cpu();
    let run = wrk(running.address, file, connections, ROUND);
    vec![run.rate, (running.cpu() - before).as_secs_f64() / run.requests]
}
