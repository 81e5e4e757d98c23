//! Hints for commands that do not exist here, but in other programs of this kind.

use clap::builder::StyledStr;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// Commands of other programs, and the hints for them.
pub type Hints = &'static [(&'static [&'static str], &'static str)];

/// The commands of `admin-cli` that users try here, and others that a supervisor of programs might have.
pub(super) const OF_SUPERVISOR: Hints = &[
    (&["start", "run"], "`supervisor exec PROGRAM` starts and supervises a program"),
    (&["stop", "shutdown", "quit", "kill"], "`admin-cli stop` stops a running supervisor"),
    (&["restart", "reload"], "`admin-cli restart` replaces the server of a running supervisor"),
    (
        &["status", "list", "ps", "events", "connections", "port", "free", "check", "top"],
        "that is a command of `admin-cli`",
    ),
    (&["logs", "log"], "the log is on stderr of the supervisor; `admin-cli events --follow` prints it from elsewhere"),
];

/// Adds the hint for a command that does not exist, in place of what clap finds similar.
pub fn hint(mut error: clap::Error, hints: Hints) -> clap::Error {
    if let Some(word) = unknown_command(&error)
        && let Some((_, hint)) = hints.iter().find(|(words, _)| words.contains(&word.as_str()))
    {
        tip(&mut error, hint);
    }
    error
}

/// The same, but a program that is not one of ours may have been meant.
pub(super) fn hint_or_exec(mut error: clap::Error) -> clap::Error {
    if error.get(ContextKind::SuggestedSubcommand).is_none()
        && let Some(word) = unknown_command(&error)
    {
        tip(&mut error, &format!("to supervise this program: supervisor exec {word} ..."));
    }
    hint(error, OF_SUPERVISOR)
}

/// The command that does not exist, if that is the error.
fn unknown_command(error: &clap::Error) -> Option<String> {
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) if error.kind() == ErrorKind::InvalidSubcommand => Some(word.clone()),
        _ => None,
    }
}

fn tip(error: &mut clap::Error, text: &str) {
    error.remove(ContextKind::SuggestedSubcommand);
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![StyledStr::from(text.to_owned())]));
}
