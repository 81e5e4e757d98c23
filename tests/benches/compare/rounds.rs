//! Measures several servers in turn, so that all see the same noise, and prints medians and ratios.

use std::time::Duration;

/// Enough for a median that one bad round does not move.
pub const ROUNDS: usize = 5;

/// One server, and how to measure a round of it: the same figures in the same order for all.
pub struct Contender<'a> {
    name: &'static str,
    is_peer: bool,
    /// The only peers that ours is compared with. Empty: all.
    beside: &'static [&'static str],
    /// None: it is not installed.
    measure: Box<dyn FnMut() -> Option<Vec<f64>> + 'a>,
}

impl<'a> Contender<'a> {
    /// One of our servers.
    pub fn ours(name: &'static str, measure: impl FnMut() -> Option<Vec<f64>> + 'a) -> Contender<'a> {
        Contender { name, is_peer: false, beside: &[], measure: Box::new(measure) }
    }

    /// One of the peers.
    pub fn peer(name: &'static str, measure: impl FnMut() -> Option<Vec<f64>> + 'a) -> Contender<'a> {
        Contender { name, is_peer: true, beside: &[], measure: Box::new(measure) }
    }

    pub fn beside(self, peers: &'static [&'static str]) -> Contender<'a> {
        Contender { beside: peers, ..self }
    }

    fn is_comparable(&self, peer: &Contender<'_>) -> bool {
        peer.is_peer && (self.beside.is_empty() || self.beside.contains(&peer.name))
    }
}

/// One of the printed figures.
pub struct Figure {
    pub name: &'static str,
    pub unit: Unit,
    pub of: Statistic,
    /// The index of the measured value that it is made of.
    pub value: usize,
    /// Whether its ratio is meaningful.
    pub has_ratio: bool,
}

#[derive(Clone, Copy)]
pub enum Unit {
    PerSecond,
    /// Measured in seconds.
    Time,
    Bytes,
    /// A number of something.
    Count,
}

#[derive(Clone, Copy)]
pub enum Statistic {
    Median,
    /// The 99th percentile.
    Worst1Percent,
    Largest,
}

impl Statistic {
    fn of(self, mut values: Vec<f64>) -> f64 {
        values.sort_by(f64::total_cmp);
        match self {
            Statistic::Median => percentile(&values, 50),
            Statistic::Worst1Percent => percentile(&values, 99),
            Statistic::Largest => percentile(&values, 100),
        }
    }
}

/// A percentile of sorted values: the smallest one that this percentage of them does not exceed.
pub fn percentile<T: Copy>(sorted: &[T], percent: usize) -> T {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}

/// Measures all in turn, `rounds` times. Prints the figures of each, and the ratios of ours to each peer.
pub fn compare(rounds: usize, contenders: Vec<Contender<'_>>, figures: &[Figure]) {
    let mut measured: Vec<(Contender<'_>, Vec<Vec<f64>>)> = contenders.into_iter().map(|it| (it, Vec::new())).collect();
    for _ in 0..rounds {
        for (contender, values) in &mut measured {
            values.extend((contender.measure)());
        }
    }
    for (contender, rounds) in &measured {
        let text = |figure: &Figure| format!("{} {:>11}", figure.name, figure.text(rounds));
        let texts: Vec<_> = figures.iter().map(text).collect();
        println!("  {:<24} {}", contender.name, texts.join("   "));
    }
    for (ours, our_rounds) in measured.iter().filter(|it| !it.0.is_peer) {
        for (peer, peer_rounds) in measured.iter().filter(|it| ours.is_comparable(&it.0) && !it.1.is_empty()) {
            let text = |figure: &Figure| format!("{} {}", figure.name, figure.ratio(our_rounds, peer_rounds));
            let texts: Vec<_> = figures.iter().filter(|it| it.has_ratio).map(text).collect();
            println!("  {:<35} {}", format!("ratio {} : {}", ours.name, peer.name), texts.join("   "));
        }
    }
}

impl Figure {
    pub const fn new(name: &'static str, unit: Unit, of: Statistic, value: usize) -> Figure {
        Figure { name, unit, of, value, has_ratio: true }
    }

    pub const fn without_ratio(self) -> Figure {
        Figure { has_ratio: false, ..self }
    }

    fn over(&self, rounds: &[Vec<f64>]) -> f64 {
        self.of.of(rounds.iter().map(|values| values[self.value]).collect())
    }

    fn text(&self, rounds: &[Vec<f64>]) -> String {
        if rounds.is_empty() {
            return "not installed".to_owned();
        }
        let value = self.over(rounds);
        if value.is_nan() {
            return "-".to_owned();
        }
        match self.unit {
            Unit::PerSecond => format!("{value:.0}/s"),
            Unit::Time => format!("{:.2?}", Duration::from_secs_f64(value)),
            Unit::Bytes => format!("{:.2} KiB", value / 1024.0),
            Unit::Count => format!("{value:.0}"),
        }
    }

    /// The ratio of the two statistics, and for a median the smallest and the largest ratio in one round.
    fn ratio(&self, ours: &[Vec<f64>], peers: &[Vec<f64>]) -> String {
        let ratio = self.over(ours) / self.over(peers);
        if ratio.is_nan() {
            return "-".to_owned();
        }
        let mut each: Vec<f64> = ours.iter().zip(peers).map(|(a, b)| a[self.value] / b[self.value]).collect();
        each.sort_by(f64::total_cmp);
        match (self.of, each.as_slice()) {
            (Statistic::Median, [least, .., most]) => format!("{ratio:.2} ({least:.2} to {most:.2})"),
            _ => format!("{ratio:.2}"),
        }
    }
}
