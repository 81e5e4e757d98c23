//! How long a stop with idle clients takes, from the signal until the process has ended. Each client is notified, if
//! the protocol has a notice, and closes its connection when the server has ended its half.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::clients::{Crowd, Talk};
use crate::peers;
use crate::process::{Directory, Running};
use crate::rounds::{Contender, Figure, ROUNDS, Statistic, Unit, compare};

/// How long nothing has happened before the stop.
const IDLE: Duration = Duration::from_secs(2);

const FIGURES: [Figure; 2] =
    [Figure::new("median", Unit::Time, Statistic::Median, 0), Figure::new("worst", Unit::Time, Statistic::Largest, 0)];

pub fn run() {
    let directory = Directory::new("stop");
    let (files, www) = directory.files();
    for clients in [1_000, 9_000] {
        println!("{clients} clients, idle for {IDLE:?}");
        let stop = |running, talk, signal| Some(vec![stop(running, clients, talk, signal).as_secs_f64()]);
        let contenders = vec![
            Contender::ours("supervisor echo", || stop(Running::supervisor(&["echo"]), Talk::Echo, Signal::SIGTERM)),
            Contender::ours("supervisor http", || {
                stop(Running::supervisor(&["http", &www]), Talk::Http, Signal::SIGTERM)
            }),
            Contender::peer("tokio", || stop(peers::tokio()?, Talk::Echo, Signal::SIGTERM)),
            // These stop gracefully on other signals.
            Contender::peer("nginx", || stop(peers::nginx(&directory.0, &files)?, Talk::Http, Signal::SIGQUIT)),
            Contender::peer("lighttpd", || stop(peers::lighttpd(&directory.0, &files)?, Talk::Http, Signal::SIGINT)),
        ];
        compare(ROUNDS, contenders, &FIGURES);
    }
}

fn stop(mut running: Running, clients: usize, talk: Talk, signal: Signal) -> Duration {
    let crowd = Crowd::connect(running.address, clients, talk);
    std::thread::sleep(IDLE);
    let leaving = crowd.leave_when_notified();
    let began = Instant::now();
    running.end(signal);
    let took = began.elapsed();
    leaving.join().unwrap();
    took
}
