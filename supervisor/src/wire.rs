//! Plain counterparts of the worker's types, which the protocol carries.

use crate::protocol::{self, Activity, Connection, Counts, MAX_NAMED, Outcome};
use crate::server::Ended;
use crate::text::milliseconds;

pub(crate) fn connection(from: &worker::ConnectionInfo, generation: Option<u64>, stuck: bool) -> Connection {
    Connection {
        id: from.id,
        peer: from.peer,
        age_ms: milliseconds(from.age),
        activity: match from.activity {
            _ if stuck => Activity::Stuck,
            worker::Activity::Idle => Activity::Idle,
            worker::Activity::Busy => Activity::Busy,
            worker::Activity::Draining => Activity::Draining,
            worker::Activity::Held => Activity::Held,
        },
        received: from.received,
        sent: from.sent,
        generation,
    }
}

pub(crate) fn outcome(from: &worker::Closed) -> Outcome {
    match from.outcome {
        _ if from.stuck => Outcome::Stuck,
        worker::Outcome::Disconnected => Outcome::Disconnected,
        worker::Outcome::Closed => Outcome::Closed,
        worker::Outcome::Forced => Outcome::Forced,
    }
}

pub(crate) fn counts(from: worker::Counts) -> Counts {
    Counts { now: from.now, total: from.total, refused: from.refused, notified: from.notified, forced: from.forced }
}

pub(crate) fn report(by: &str, ended: &Ended) -> protocol::Report {
    let Ended { drain, program, killed, held_up_by } = ended;
    let is_stuck = |id: u64| drain.stuck.iter().any(|stuck| stuck.id == id);
    let stuck = drain.stuck.iter().map(|it| connection(it, None, true));
    let others = drain.forced.iter().filter(|it| !is_stuck(it.id)).map(|it| connection(it, None, false));
    protocol::Report {
        by: by.to_owned(),
        notified: drain.notified,
        disconnected: drain.disconnected,
        closed: drain.closed,
        forced: drain.forced.len(),
        stuck: drain.stuck.len(),
        killed: *killed,
        program: program.map(|end| end.to_string()),
        took_ms: milliseconds(drain.took),
        connections: stuck.chain(others).take(MAX_NAMED).collect(),
        held_up_by: held_up_by.iter().take(MAX_NAMED).cloned().collect(),
    }
}
