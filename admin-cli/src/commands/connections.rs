//! `connections`

use std::cmp::Reverse;
use std::time::Duration;

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Connection, ProgramConnection, Progress, Request};
use mastercontrol::text::Age;
use serde_json::json;

use crate::args::Target;
use crate::ask::{answer, not_understood};
use crate::describe::holds_up;
use crate::failure::Failure;
use crate::output;
use crate::target::choose;

pub(crate) fn connections(target: &Target, json: bool) -> Result<Exit, Failure> {
    let (mut all, mut seen) = (Vec::new(), Vec::new());
    let chosen = choose(target)?;
    let answer = answer(&chosen, Request::Connections {}, Patience::short(), |progress| match progress {
        Progress::Connections { connections } => all.extend(connections),
        Progress::ProgramConnections { connections } => seen.extend(connections),
        _ => {}
    })?;
    if !matches!(answer, Answer::Connections { .. }) {
        return Err(not_understood(&chosen, &answer));
    }
    all.sort_by_key(|connection| (holds_up(&connection.activity), Reverse(connection.age_ms)));
    if json {
        let mut listed = json!({ "result": "connections", "connections": all });
        if !seen.is_empty() {
            listed["program_connections"] = json!(seen);
        }
        output::data(&listed.to_string())?;
    } else if !seen.is_empty() {
        let head = ["PEER", "ADDRESS", "PID", "STATE", "RECV-Q", "SEND-Q", "GENERATION"].map(str::to_owned);
        let or_none = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
        let row = |it: &ProgramConnection| {
            let (received, sent) = (it.receive_queue.to_string(), it.send_queue.to_string());
            let (pid, generation) = (or_none(it.pid.map(u64::from)), or_none(it.generation));
            [it.peer.to_string(), it.address.to_string(), pid, it.state.to_string(), received, sent, generation]
        };
        let lines = output::table(std::iter::once(head).chain(seen.iter().map(row)).collect());
        lines.iter().try_for_each(|line| output::data(line))?;
    } else if all.is_empty() {
        output::message(&format!("{} has no connections", chosen.label));
    } else {
        let head = ["ID", "PEER", "AGE", "STATE", "IN", "OUT", "GENERATION"].map(str::to_owned);
        let row = |it: &Connection| {
            let generation = it.generation.map_or_else(|| "-".into(), |generation| generation.to_string());
            let age = Age(Duration::from_millis(it.age_ms)).to_string();
            let (received, sent) = (it.received.to_string(), it.sent.to_string());
            [it.id.to_string(), it.peer.to_string(), age, it.activity.to_string(), received, sent, generation]
        };
        let lines = output::table(std::iter::once(head).chain(all.iter().map(row)).collect());
        lines.iter().try_for_each(|line| output::data(line))?;
    }
    Ok(Exit::Done)
}
