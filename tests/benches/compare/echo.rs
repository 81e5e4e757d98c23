//! Echo round trips, beside tokio: how many per second, and how long they take.

use std::time::Duration;

use crate::clients::round_trips;
use crate::peers;
use crate::process::Running;
use crate::rounds::{Contender, Figure, ROUNDS, Statistic, Unit, compare};

const TIME: Duration = Duration::from_secs(2);

const FIGURES: [Figure; 3] = [
    Figure::new("round trips", Unit::PerSecond, Statistic::Median, 0),
    Figure::new("p50", Unit::Time, Statistic::Median, 1),
    Figure::new("p99", Unit::Time, Statistic::Median, 2),
];

pub fn run() {
    let supervisor = Running::supervisor(&["echo"]);
    let tokio = peers::tokio();
    for clients in [1, 64, 1_000] {
        println!("{clients} clients");
        let measure = |running: &Running| {
            let measured = round_trips(running.address, clients, TIME);
            Some(vec![measured.rate, measured.median.as_secs_f64(), measured.worst_1_percent.as_secs_f64()])
        };
        let contenders = vec![
            Contender::ours("supervisor echo", || measure(&supervisor)),
            Contender::peer("tokio", || measure(tokio.as_ref()?)),
        ];
        compare(ROUNDS, contenders, &FIGURES);
    }
}
