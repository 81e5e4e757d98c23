//! `check`

use std::path::Path;

use mastercontrol::Exit;
use mastercontrol::cli::{self, Checked, HandlerKind, KINDS, OwnServer, Server};
use mastercontrol::text::listed;
use mastercontrol::worker::handlers::Http;
use serde_json::json;

use crate::args::Check;
use crate::failure::Failure;
use crate::output;

pub(crate) fn check(json: bool, check: &Check) -> Result<Exit, Failure> {
    let file = check.file.display();
    let (mut right, mut problem, mut note) = (Vec::new(), None, None);
    for &kind in KINDS.iter().filter(|&&kind| check.kind.as_deref().is_none_or(|only| only == kind)) {
        match check_for(&check.file, kind) {
            Ok(needs_socket) => {
                right.push(kind);
                note = note
                    .or(needs_socket.then_some("the service manager has to pass its socket: there is no \"listen\""));
            }
            Err(message) => {
                // The file is most likely meant for the kind that has the most of its settings.
                let known = cli::known_settings(&check.file, kind);
                if problem.as_ref().is_none_or(|&(most, _)| known > most) {
                    problem = Some((known, message));
                }
            }
        }
    }
    match problem {
        Some((_, message)) if right.is_empty() => return Err(Failure::new(Exit::Failed, message)),
        _ if json => {
            let mut answer = json!({ "result": "valid", "for": right });
            if let Some(note) = note {
                answer["note"] = note.into();
            }
            output::data(&answer.to_string())?;
        }
        _ => {
            let note = note.map(|note| format!("; {note}")).unwrap_or_default();
            output::data(&format!("{file}: valid for {}{note}", listed(&right, "and")))?;
        }
    }
    Ok(Exit::Done)
}

/// Whether a server of this kind could be started with the file. Returns whether it needs a socket from the service
/// manager.
fn check_for(file: &Path, kind: &str) -> Result<bool, String> {
    let Checked { config, has_program, needs_socket } = cli::check(file, kind).map_err(|error| error.to_string())?;
    let problem = match config.server {
        Server::Own(OwnServer { handler: HandlerKind::Http { dir }, .. }) => {
            Http::new(dir).err().map(|error| error.to_string())
        }
        Server::Own(OwnServer { handler: HandlerKind::Echo | HandlerKind::Command, .. }) => None,
        // The same check as for a restart.
        Server::Exec { program, .. } => {
            let checked = if has_program { program.check() } else { program.check_directory() };
            checked.err().map(|error| error.to_string())
        }
    };
    problem.map_or(Ok(needs_socket), |problem| Err(format!("{}: {problem}", file.display())))
}
