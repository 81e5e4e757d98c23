//! `port`

use mastercontrol::Exit;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::held::{By, Held};
use crate::output;

pub(crate) fn port(json: bool, ports: &[u16]) -> Result<Exit, Failure> {
    let mut all_held = true;
    for &port in ports {
        all_held &= show(json, port)?;
    }
    Ok(if all_held { Exit::Done } else { Exit::NotRunning })
}

/// Shows what holds one port. Returns whether anything does.
fn show(json: bool, port: u16) -> Result<bool, Failure> {
    let held = Held::look(port)?;
    let is_held = !held.by.is_empty();
    if json {
        let by: Vec<Value> = held.by.iter().map(By::json).collect();
        output::data(&json!({ "result": "port", "port": port, "held": is_held, "by": by }).to_string())?;
    } else if is_held {
        output::data(&held.to_string())?;
        held.table().iter().try_for_each(|line| output::data(line))?;
    } else {
        output::data(&format!("port {port} is free: nothing listens on it"))?;
    }
    Ok(is_held)
}
