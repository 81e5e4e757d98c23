//! What a relay costs compared with HAProxy and with a direct connection: an nginx behind each of them, and `wrk` as
//! the client. Processor time is that of the relay alone.

use crate::peers;
use crate::process::{Directory, Running, is_installed};
use crate::rounds::{Contender, Figure, ROUNDS, Statistic, Unit, compare};
use crate::wrk::wrk;

const ROUND: &str = "2s";

const FIGURES: [Figure; 3] = [
    Figure::new("requests", Unit::PerSecond, Statistic::Median, 0),
    Figure::new("processor time each", Unit::Time, Statistic::Median, 1),
    Figure::new("99 % within", Unit::Time, Statistic::Median, 2),
];

/// With one connection, the time of a request is all latency.
const LATENCY: Figure = Figure::new("a request takes", Unit::Time, Statistic::Median, 3);

pub fn run() {
    let directory = Directory::new("relay");
    let (files, _) = directory.files();
    if !is_installed("wrk") {
        println!("wrk is not installed");
        return;
    }
    let Some(nginx) = peers::nginx_behind(&directory.0, &files) else {
        println!("nginx is not installed");
        return;
    };
    let [http, tcp] = ["http", "tcp"].map(|protocol| peers::relayed_nginx(&directory.0, &files, protocol));
    let [haproxy_http, haproxy_tcp] = ["http", "tcp"].map(|mode| peers::haproxy(&directory.0, mode, nginx.address));
    for (what, file, connections) in
        [("1 KiB", "1k", 64), ("1 KiB", "1k", 1_000), ("1 MiB", "1m", 64), ("1 KiB", "1k", 1)]
    {
        println!("{what}, {connections} kept alive");
        let measure = |running: &Running| Some(measure(running, file, connections));
        let contenders = vec![
            Contender::ours("--relay http", || measure(&http)).beside(&["HAProxy, http", "direct"]),
            Contender::peer("HAProxy, http", || measure(haproxy_http.as_ref()?)),
            Contender::ours("--relay tcp", || measure(&tcp)).beside(&["HAProxy, tcp", "direct"]),
            Contender::peer("HAProxy, tcp", || measure(haproxy_tcp.as_ref()?)),
            // nginx's own processor time is not a cost of the relay.
            Contender::peer("direct", || {
                let mut values = measure(&nginx)?;
                values[1] = f64::NAN;
                Some(values)
            }),
        ];
        let more = (connections == 1).then_some(LATENCY);
        let figures: Vec<_> = FIGURES.into_iter().chain(more).collect();
        compare(ROUNDS, contenders, &figures);
    }
}

fn measure(running: &Running, file: &str, connections: u32) -> Vec<f64> {
    let before = running.own_cpu();
    let run = wrk(running.address, file, connections, ROUND);
    let each = (running.own_cpu() - before).as_secs_f64() / run.requests;
    vec![run.rate, each, run.worst_1_percent, 1.0 / run.rate]
}
