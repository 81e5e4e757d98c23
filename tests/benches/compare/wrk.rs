//! The HTTP client of the measurements.

use std::net::SocketAddr;
use std::process::Command;

/// The results of one run.
pub struct Run {
    pub requests: f64,
    /// Requests per second.
    pub rate: f64,
    /// In seconds.
    pub worst_1_percent: f64,
}

/// Requests this file repeatedly, on this many kept-alive connections.
pub fn wrk(address: SocketAddr, file: &str, connections: u32, time: &str) -> Run {
    let url = format!("http://{address}/{file}");
    let mut command = Command::new("wrk");
    let output = command.args(["--latency", "-t1", &format!("-c{connections}"), "-d", time, &url]).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // A request that took more than two seconds is not an error.
    let is_error = |line: &str| line.contains("Socket errors") && !line.contains("connect 0, read 0, write 0,");
    assert!(!text.contains("Non-2xx") && !text.lines().any(is_error), "{text}");
    let first = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let requests = text.lines().find(|line| line.contains(" requests in ")).and_then(first);
    let behind = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).and_then(first);
    let number = |text: Option<String>| text.and_then(|text| text.parse::<f64>().ok()).unwrap();
    Run {
        requests: number(requests).max(1.0),
        rate: number(behind("Requests/sec:")),
        worst_1_percent: behind("99%").and_then(|time| seconds(&time)).unwrap(),
    }
}

/// Parses `12.34us`, `1.20ms` or `2.00s`.
fn seconds(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[digits.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        _ => return None,
    };
    Some(digits.parse::<f64>().ok()? * unit)
}
