//! What restarts under load cost the clients: the fate of every request, compared with the same load without restarts,
//! and with `nginx -s reload`.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use load::{Load, Mode, Report};

use crate::peers;
use crate::process::{Directory, Running};
use crate::rounds::{Contender, Figure, ROUNDS, Statistic, Unit, compare};

const RESTARTS: u32 = 8;
const TIME: Duration = Duration::from_secs(5);
const CONNECTIONS: usize = 16;

const FIGURES: [Figure; 4] = [
    Figure::new("undisturbed", Unit::PerSecond, Statistic::Median, 0),
    Figure::new("with restarts", Unit::PerSecond, Statistic::Median, 1),
    Figure::new("lost", Unit::Count, Statistic::Largest, 2).without_ratio(),
    Figure::new("the command took", Unit::Time, Statistic::Median, 3).without_ratio(),
];

/// If no kept-alive connection is closed, no more are made than at the beginning.
const CONNECTIONS_MADE: Figure = Figure::new("connections made", Unit::Count, Statistic::Largest, 4).without_ratio();

pub fn run() {
    let directory = Directory::new("restart");
    let (files, www) = directory.files();
    let supervisor = Running::supervisor(&["http", &www]);
    let nginx = peers::nginx(&directory.0, &files);
    let restart = || {
        let status = supervisor.admin(&["restart"]).status().unwrap();
        assert!(status.success(), "restart: {status}");
    };
    for (mode, what) in [(Mode::OnePerConnection, "one request a connection"), (Mode::KeptAlive, "kept alive")] {
        println!("1 KiB, {CONNECTIONS} connections, {what}, {RESTARTS} restarts in {TIME:?}");
        let contenders = vec![
            Contender::ours("supervisor http", || Some(measure(&supervisor, mode, restart))),
            Contender::peer("nginx -s reload", || Some(measure(nginx.as_ref()?, mode, || reload(&directory.0)))),
        ];
        let more = (mode == Mode::KeptAlive).then_some(CONNECTIONS_MADE);
        let figures: Vec<_> = FIGURES.into_iter().chain(more).collect();
        compare(ROUNDS, contenders, &figures);
    }
}

fn load(running: &Running, mode: Mode) -> Load {
    Load::new(running.address, "/1k", vec![b'x'; 1024], mode).connections(CONNECTIONS)
}

fn measure(running: &Running, mode: Mode, restart: impl Fn()) -> Vec<f64> {
    let undisturbed = load(running, mode).run_for(TIME);
    let load = load(running, mode).begin();
    let mut times: Vec<Duration> = (0..RESTARTS)
        .map(|_| {
            // Spread over the duration of the load.
            thread::sleep(TIME / (RESTARTS + 1));
            let began = Instant::now();
            restart();
            began.elapsed()
        })
        .collect();
    thread::sleep(TIME / (RESTARTS + 1));
    let report = load.end();
    say_what_was_lost(&undisturbed);
    say_what_was_lost(&report);
    times.sort();
    let took = times[times.len() / 2].as_secs_f64();
    let (lost, connections) = (report.lost() + undisturbed.lost(), report.connections);
    vec![undisturbed.rate(), report.rate(), lost as f64, took, connections as f64]
}

fn say_what_was_lost(report: &Report) {
    if report.lost() > 0 || report.no_port > 0 {
        println!("  {report}");
    }
}

/// Returns when the old workers have been asked to end, not when they have.
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
