//! `list`

use mastercontrol::Exit;
use mastercontrol::client::AskError;
use serde_json::json;

use crate::args::List;
use crate::failure::Failure;
use crate::found::{self, Found};
use crate::output;

pub(crate) fn list(json: bool, list: &List) -> Result<Exit, Failure> {
    let mut found = found::find()?;
    let mut exit = Exit::Done;
    if list.clean {
        found.retain(|found| {
            let is_dead = matches!(found.status, Err(AskError::NotRunning));
            let cleaned = if is_dead { found.clean() } else { Ok(()) };
            if let Err(failure) = &cleaned {
                // This one stays in the list; the other dead ones are removed.
                exit = failure.tell(false);
            }
            !is_dead || cleaned.is_err()
        });
    }
    if json {
        let instances: Vec<_> = found
            .iter()
            .map(|found| match &found.status {
                Ok(status) => json!(status),
                Err(AskError::NotRunning) => json!({ "name": found.name.as_str(), "state": "dead" }),
                Err(error) => json!({ "name": found.name.as_str(), "state": "unknown", "message": error.to_string() }),
            })
            .collect();
        output::data(&json!({ "result": "list", "instances": instances }).to_string())?;
    } else if found.is_empty() {
        output::message("no supervisor of yours is running");
    } else {
        let head = ["NAME", "KIND", "ADDRESS", "PID", "STATE"].map(str::to_owned);
        let lines = output::table(std::iter::once(head).chain(found.iter().map(Found::row)).collect());
        lines.iter().try_for_each(|line| output::data(line))?;
    }
    Ok(exit)
}
