//! What became of a generation that drained, or of all in a stop, and how that is logged.

use serde_json::json;

use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::Report;
use crate::server::Ended;
use crate::text;
use crate::wire;

/// What became of a generation that drained.
#[derive(Debug)]
pub(super) struct Gone {
    pub(super) generation: u64,
    pub(super) by: String,
    pub(super) ended: Ended,
    /// What still hangs, if it was left behind.
    pub(super) hangs: Option<String>,
}

impl Gone {
    /// Logs what became of it. Returns its number and the report.
    pub(super) fn log(self, log: &Journal) -> (u64, Report) {
        let Gone { generation, by, ended, hangs } = self;
        let report = wire::report(&by, &ended);
        match hangs {
            None => log_report(log, Some(generation), &report),
            Some(hangs) => {
                let message = format!("generation {generation} hangs and was abandoned: {hangs}");
                log.line(Level::Error, "left_behind", message, [("generation", generation.into())]);
            }
        }
        (generation, report)
    }
}

/// Logs what became of an old generation, or of all in a stop.
pub(super) fn log_report(log: &Journal, generation: Option<u64>, report: &Report) {
    for connection in &report.connections {
        let message = format!("forced: {}", text::describe_forced(connection));
        let fields = [("id", connection.id.into()), ("peer", connection.peer.to_string().into())];
        log.line(Level::Warning, "forced", message, fields);
    }
    if !report.held_up_by.is_empty() {
        let peers: Vec<_> = report.held_up_by.iter().map(|connection| connection.peer.to_string()).collect();
        let what = generation.map_or_else(|| "the stop".into(), |generation| format!("generation {generation}"));
        let message = format!("{what} was held up by {}", peers.join(", "));
        let fields = [("generation", generation.into()), ("peers", json!(peers))];
        log.line(Level::Info, "held_up", message, fields);
    }
    let (event, what) = match generation {
        None => ("stopped", String::new()),
        Some(generation) => ("retired", format!("generation {generation} ")),
    };
    let fields = [
        ("generation", generation.into()),
        ("notified", report.notified.into()),
        ("disconnected", report.disconnected.into()),
        ("closed", report.closed.into()),
        ("forced", report.forced.into()),
        ("stuck", report.stuck.into()),
        ("took_ms", report.took_ms.into()),
    ];
    log.line(Level::Info, event, format!("{what}{}", text::summary(report)), fields);
}
