//! Why a command was not carried out, with its exit code.

use std::io;

use mastercontrol::Exit;
use mastercontrol::client::AskError;
use mastercontrol::protocol::{ErrorCode, Refusal};
use mastercontrol::text::Reason;
use serde_json::{Value, json};

use crate::output::{self, Unwritten};

/// What the user reads, and the exit code.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
    /// For programs, if the exit code alone is not specific enough.
    code: Option<&'static str>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Failure {
        Failure { exit, message: message.into(), code: None }
    }

    /// Requests were lost before the action that they were to verify, so it was not begun.
    pub(crate) fn unanswered(message: String) -> Failure {
        Failure { code: Some("unanswered"), ..Failure::new(Exit::Failed, message) }
    }

    /// An error of the system, in words for people.
    pub(crate) fn system(error: &io::Error) -> Failure {
        let exit = match error.kind() {
            io::ErrorKind::PermissionDenied => Exit::NotPermitted,
            io::ErrorKind::TimedOut => Exit::GaveUp,
            _ => Exit::Failed,
        };
        Failure::new(exit, error.to_string())
    }

    /// An error in talking to the supervisor `whom`.
    pub(crate) fn asking(whom: &str, error: &AskError) -> Failure {
        let exit = match error {
            AskError::NotRunning => return Failure::new(Exit::NotRunning, format!("{whom} is not running")),
            AskError::Refused(refusal) => return Failure::refused(whom, refusal),
            AskError::NotPermitted(_) => Exit::NotPermitted,
            AskError::NoResponse | AskError::Suspended { .. } | AskError::Disconnected => Exit::NoAnswer,
            AskError::GaveUp => Exit::GaveUp,
            AskError::UnexpectedResponse(_) | AskError::OtherVersion(_) | AskError::Io(_) => Exit::Failed,
        };
        Failure::new(exit, format!("{whom}: {error}"))
    }

    /// A request that `whom` refused.
    pub(crate) fn refused(whom: &str, refusal: &Refusal) -> Failure {
        let exit = match refusal.code {
            ErrorCode::NotPermitted => Exit::NotPermitted,
            ErrorCode::BadRequest
            | ErrorCode::UnsupportedVersion
            | ErrorCode::Busy
            | ErrorCode::Failed
            | ErrorCode::Stopping
            | ErrorCode::NotDraining
            | ErrorCode::NoConnection
            | ErrorCode::Cancelled
            | ErrorCode::Other(_) => Exit::Failed,
        };
        let code = match refusal.code {
            ErrorCode::Stopping => Some("stopping"),
            ErrorCode::NotDraining => Some("not_draining"),
            ErrorCode::NoConnection => Some("no_connection"),
            ErrorCode::Cancelled => Some("cancelled"),
            ErrorCode::BadRequest
            | ErrorCode::UnsupportedVersion
            | ErrorCode::NotPermitted
            | ErrorCode::Busy
            | ErrorCode::Failed
            | ErrorCode::Other(_) => None,
        };
        Failure { code, ..Failure::new(exit, format!("{whom}: {}", refusal.message)) }
    }

    /// Reports it on stderr, and as JSON on stdout for programs.
    pub(crate) fn tell(&self, json: bool) -> Exit {
        self.tell_with(json.then(|| self.json()))
    }

    /// Writes it on stdout alone, as JSON, when clap writes it for people.
    pub(crate) fn tell_program(&self) {
        let _ = output::data(&self.json().to_string()); // The message is on stderr in any case.
    }

    /// The same when several are asked and this is the answer of the one with this name.
    pub(crate) fn tell_of(&self, name: &str, json: bool) -> Exit {
        self.tell_with(json.then(|| json!({ "name": name, "answer": self.json() })))
    }

    fn tell_with(&self, json: Option<Value>) -> Exit {
        if let Some(json) = json {
            let _ = output::data(&json.to_string()); // The message is on stderr in any case.
        }
        output::message(&format!("admin-cli: {}", self.message));
        self.exit
    }

    fn json(&self) -> Value {
        let code = self.code.unwrap_or(match self.exit {
            Exit::Done
            | Exit::Failed
            | Exit::Forced
            | Exit::Overrun
            | Exit::CrashedTooOften
            | Exit::OutOfControl
            | Exit::Lost => "failed",
            Exit::Usage => "usage",
            Exit::NotRunning => "not_running",
            Exit::NotPermitted => "not_permitted",
            Exit::NoAnswer => "no_answer",
            Exit::GaveUp => "gave_up",
        });
        json!({ "result": "error", "code": code, "message": self.message })
    }
}

/// There is an answer, but it cannot be written.
impl From<Unwritten> for Failure {
    fn from(Unwritten(error): Unwritten) -> Failure {
        Failure::new(Exit::Failed, format!("cannot write the answer: {}", Reason(&error)))
    }
}
