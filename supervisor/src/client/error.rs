//! Why a supervisor did not answer: data and words.

use std::fmt;
use std::io;

use serde::Serialize;

use crate::protocol::Refusal;
use crate::text::Reason;
use crate::version::VERSION;

/// Why a supervisor did not answer.
#[derive(Debug)]
pub enum AskError {
    /// Nothing listens there.
    NotRunning,
    /// The system denies access to this user.
    NotPermitted(io::Error),
    /// It did not answer in time.
    NoResponse,
    /// It did not answer in time, because its process is suspended.
    Suspended {
        /// The process id.
        pid: u32,
    },
    /// It did not end in time, and is still in progress.
    GaveUp,
    /// It refused, and said why.
    Refused(Refusal),
    /// It ended the conversation without a result.
    Disconnected,
    /// It sent something that does not belong to the protocol.
    UnexpectedResponse(String),
    /// It has another version, and one side does not understand the other.
    OtherVersion(String),
    /// The connection failed.
    Io(io::Error),
}

impl AskError {
    /// For a message of the protocol that does not answer the request: shows it as it was sent.
    pub fn unexpected(response: &impl Serialize) -> AskError {
        AskError::UnexpectedResponse(serde_json::json!(response).to_string())
    }
}

impl fmt::Display for AskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::NotRunning => write!(formatter, "nothing listens there"),
            AskError::NotPermitted(error) => write!(formatter, "not permitted: {}", Reason(error)),
            AskError::NoResponse => write!(formatter, "it does not answer"),
            AskError::Suspended { pid } => {
                write!(formatter, "it does not answer, since it is suspended; `kill -CONT {pid}` continues it")
            }
            AskError::GaveUp => write!(formatter, "timed out waiting; the request is still in progress"),
            AskError::Refused(refusal) => formatter.write_str(&refusal.message),
            AskError::Disconnected => write!(formatter, "it disconnected without an answer"),
            AskError::UnexpectedResponse(line) => write!(formatter, "unexpected response: {line}"),
            AskError::OtherVersion(theirs) if is_older(theirs, VERSION) => write!(
                formatter,
                "the supervisor is older ({theirs}) than this program ({VERSION}), and does not know this request: stop it, by a signal if need be, and start the newer one"
            ),
            AskError::OtherVersion(theirs) => write!(
                formatter,
                "the supervisor is newer ({theirs}) than this program ({VERSION}), and they do not understand each \
                 other: use the program of that version"
            ),
            AskError::Io(error) => write!(formatter, "the connection failed: {}", Reason(error)),
        }
    }
}

impl std::error::Error for AskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AskError::NotPermitted(error) | AskError::Io(error) => Some(error),
            AskError::NotRunning
            | AskError::NoResponse
            | AskError::Suspended { .. }
            | AskError::GaveUp
            | AskError::Refused(_)
            | AskError::Disconnected
            | AskError::UnexpectedResponse(_)
            | AskError::OtherVersion(_) => None,
        }
    }
}

/// Whether a version such as `0.9.1` comes before another one.
fn is_older(version: &str, than: &str) -> bool {
    let numbers =
        |version: &str| -> Vec<u64> { version.split(['.', '-']).map_while(|part| part.parse().ok()).collect() };
    numbers(version) < numbers(than)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (older, newer) in [("0.1.0", "0.2.0"), ("0.9.1", "0.10.0"), ("0.1.9", "1.0.0"), ("0.1.0", "0.1.1-rc.1")] {
            assert!(is_older(older, newer) && !is_older(newer, older) && !is_older(older, older), "{older} {newer}");
        }
    }
}
