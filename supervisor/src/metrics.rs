//! A status as metrics, in Prometheus' text format: for `/metrics` of the health endpoint, and for `admin-cli metrics`.

use std::fmt::{Display, Write};

use crate::protocol::{Relay, Requests, State, Status};

/// The media type of [`text`].
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Everything that a supervisor can be doing.
const STATES: [State; 5] = [State::Starting, State::Serving, State::Restarting, State::Waiting, State::Draining];

/// The metrics of a supervisor. They are always the same ones, with 0 for what is not the case; only those about
/// connections are missing if a program accepts its connections itself.
pub fn text(status: &Status) -> String {
    let mut metrics = Metrics(String::new());
    let about = [("name", &*status.name), ("kind", &*status.kind), ("version", &*status.version)];
    metrics.begin("info", "gauge", "What this supervisor is.");
    metrics.sample("info", &about, 1);
    metrics.gauge("uptime_seconds", "For how long the supervisor has been running.", Seconds(status.uptime_ms));
    metrics.gauge("ready", "Whether it is ready for new clients.", u8::from(status.ready));
    metrics.begin(
        "state",
        "gauge",
        "What the supervisor is doing: 1 for the state in the label state, 0 for the others.",
    );
    for state in STATES {
        metrics.sample("state", &[("state", &state.to_string())], u8::from(state == status.state));
    }
    metrics.gauge("state_age_seconds", "For how long it has been doing that.", Seconds(status.state_ms));
    metrics.gauge("generation", "The number of the generation that serves, or served last.", status.generation);
    metrics.counter("restarts", "Restarts that were requested and have succeeded.", status.restarts);
    metrics.counter("crashes", "How many times the server has ended by itself.", status.crashes);
    let next_try = Seconds(status.next_try_ms.unwrap_or(0));
    metrics.gauge("next_try_seconds", "Seconds until a server that has ended by itself is started again.", next_try);
    let remaining = status.drain.as_ref().map_or(Some(0), |drain| drain.remaining_ms);
    let remaining = remaining.map_or_else(|| "+Inf".to_owned(), |ms| Seconds(ms).to_string());
    metrics.gauge(
        "drain_remaining_seconds",
        "Seconds until the end of a drain is forced: +Inf without a deadline.",
        remaining,
    );
    if let Some(counts) = status.connections {
        let draining = status.drain.as_ref().map_or(0, |drain| drain.open);
        metrics.gauge("drain_connections", "Open connections of a drain.", draining);
        metrics.gauge("connections", "Open connections.", counts.now);
        metrics.counter("connections_accepted", "Connections that were accepted.", counts.total);
        metrics.counter(
            "connections_refused",
            "Connections that were refused because there were too many.",
            counts.refused,
        );
        metrics.counter(
            "connections_notified",
            "Connections whose clients were notified that the server goes away.",
            counts.notified,
        );
        metrics.counter("connections_forced", "Connections that were closed by force.", counts.forced);
    }
    if let Some(relay) = &status.relay {
        relayed(&mut metrics, relay);
    }
    metrics.0
}

/// What a relay counts.
fn relayed(metrics: &mut Metrics, relay: &Relay) {
    metrics.gauge("relay_held", "Clients and requests that wait for a program, or for the end of a pause.", relay.held);
    let longest = Seconds(relay.longest_wait_ms);
    metrics.gauge("relay_longest_wait_seconds", "The longest wait since the last restart began.", longest);
    metrics.counter(
        "relay_upstream_failures",
        "Connections to the program that could not be made, that ended without an answer or in the middle of one, or that \
         brought none in time.",
        relay.upstream_failures,
    );
    metrics.counter("relay_given_up", "Clients without a request that no program served in time.", relay.given_up);
    let Some(requests) = relay.requests else { return };
    let Requests {
        succeeded,
        redirected,
        client_errors,
        server_errors,
        rejected,
        bad_gateway,
        unavailable,
        gateway_timeout,
        retries,
    } = requests;
    metrics.begin(
        "requests_total",
        "counter",
        "Requests by who answered (by: program, relay) and how (status: 2xx to 5xx; of the relay 4xx, 502, 503, 504).",
    );
    for (by, class, number) in [
        ("program", "2xx", succeeded),
        ("program", "3xx", redirected),
        ("program", "4xx", client_errors),
        ("program", "5xx", server_errors),
        ("relay", "4xx", rejected),
        ("relay", "502", bad_gateway),
        ("relay", "503", unavailable),
        ("relay", "504", gateway_timeout),
    ] {
        metrics.sample("requests_total", &[("by", by), ("status", class)], number);
    }
    metrics.counter(
        "requests_retried",
        "Requests that were sent once more, because the program closed a connection that it had kept alive.",
        retries,
    );
}

/// Metrics, one after the other. Each name gets the common prefix.
struct Metrics(String);

impl Metrics {
    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.begin(name, "gauge", help);
        self.sample(name, &[], value);
    }

    /// Adds the suffix of a counter.
    fn counter(&mut self, name: &str, help: &str, value: impl Display) {
        let name = format!("{name}_total");
        self.begin(&name, "counter", help);
        self.sample(&name, &[], value);
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to memory does not fail.
        let _ = write!(self.0, "# HELP mastercontrol_{name} {help}\n# TYPE mastercontrol_{name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> = labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escape(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.0, "mastercontrol_{name}{labels} {value}");
    }
}

/// A label's value, as it is written between quotes.
fn escape(value: &str) -> String {
    value.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

/// Milliseconds, in the unit of Prometheus.
struct Seconds(u64);

impl Display for Seconds {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    /// A supervisor with this name in this state.
    fn status(name: &str, state: State) -> Status {
        serde_json::from_value(json!({
            "name": name, "kind": "echo", "state": state, "state_ms": 90_061, "ready": true, "pid": 1,
            "uptime_ms": 100_000, "generation": 3, "restarts": 2, "crashes": 1,
            "connections": { "now": 5, "total": 17, "refused": 4, "notified": 3, "forced": 6 },
            "drain": { "by": "SIGTERM", "open": 2, "remaining_ms": 7, "connections": [] },
            "next_try_ms": 1500, "version": "1.2.3",
        }))
        .unwrap()
    }

    fn samples(status: &Status) -> Vec<String> {
        let text = text(status);
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(|line| line.strip_prefix("mastercontrol_").unwrap().to_owned()).collect()
    }

    #[test]
    fn all_that_is_counted_is_there_in_base_units() {
        assert_eq!(
            samples(&status("shop", State::Serving)),
            [
                r#"info{name="shop",kind="echo",version="1.2.3"} 1"#,
                "uptime_seconds 100.000",
                "ready 1",
                r#"state{state="starting"} 0"#,
                r#"state{state="serving"} 1"#,
                r#"state{state="restarting"} 0"#,
                r#"state{state="waiting"} 0"#,
                r#"state{state="draining"} 0"#,
                "state_age_seconds 90.061",
                "generation 3",
                "restarts_total 2",
                "crashes_total 1",
                "next_try_seconds 1.500",
                "drain_remaining_seconds 0.007",
                "drain_connections 2",
                "connections 5",
                "connections_accepted_total 17",
                "connections_refused_total 4",
                "connections_notified_total 3",
                "connections_forced_total 6",
            ]
        );
    }

    #[test]
    fn what_a_relay_counts_is_there_and_of_requests_only_if_it_knows_them() {
        let requests = Requests { succeeded: 9, bad_gateway: 2, ..Requests::default() };
        let relay = Relay { held: 3, longest_wait_ms: 1500, upstream_failures: 4, ..Relay::default() };
        let relayed = |requests| {
            let relay = Some(Relay { requests, ..relay.clone() });
            samples(&Status { relay, ..status("x", State::Serving) }).split_off(20)
        };
        let connections = [
            "relay_held 3",
            "relay_longest_wait_seconds 1.500",
            "relay_upstream_failures_total 4",
            "relay_given_up_total 0",
        ];
        assert_eq!(relayed(None), connections);
        let all = relayed(Some(requests));
        assert!(all.contains(&r#"requests_total{by="program",status="2xx"} 9"#.to_owned()), "{all:?}");
        assert!(all.contains(&r#"requests_total{by="relay",status="502"} 2"#.to_owned()), "{all:?}");
    }

    #[test]
    fn it_is_in_one_state_whatever_that_is() {
        for state in [State::Starting, State::Serving, State::Restarting, State::Waiting, State::Draining] {
            let samples = samples(&status("x", state.clone()));
            let on: Vec<_> = samples.iter().filter(|line| line.starts_with("state{") && line.ends_with(" 1")).collect();
            assert_eq!(on, [&format!("state{{state=\"{state}\"}} 1")]);
        }
    }

    #[test]
    fn a_label_may_be_any_text() {
        let samples = samples(&status("a\"b\\c\nd", State::Serving));
        assert_eq!(samples[0], r#"info{name="a\"b\\c\nd",kind="echo",version="1.2.3"} 1"#);
    }

    #[test]
    fn nothing_is_said_of_connections_that_a_program_looks_after_itself() {
        let program = Status { program: Some("nginx".into()), connections: None, ..status("x", State::Serving) };
        assert!(!text(&program).contains("connections"), "{}", text(&program));
    }
}
