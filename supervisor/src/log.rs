//! The log on stderr or, for a service, in a file: the entries of the [journal](crate::Journal), one line each.

use std::borrow::Cow;

use crate::protocol::Entry;
use crate::text::{self, Clock};

pub use crate::protocol::Level;

/// The form in which lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Silent,
    Text,
    Json,
}

/// Where the log is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Stderr(Clock),
    File,
}

/// How events are logged: on stderr, or nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Log {
    form: Form,
    verbose: bool,
}

impl Log {
    /// Nothing is logged.
    pub fn silent() -> Log {
        Log { form: Form::Silent, verbose: false }
    }

    /// Lines for people.
    pub fn text() -> Log {
        Log { form: Form::Text, verbose: false }
    }

    /// One JSON object a line: an [`Entry`].
    pub fn json() -> Log {
        Log { form: Form::Json, verbose: false }
    }

    /// Whether the actions of each connection and each request are events, too.
    pub fn verbose(self, verbose: bool) -> Log {
        Log { verbose, ..self }
    }

    /// Whether something of this level is an event.
    pub(crate) fn tells(self, level: Level) -> bool {
        match level {
            Level::Detail => self.verbose,
            Level::Info | Level::Warning | Level::Error => true,
        }
    }

    /// An entry as a line of the log. `json` is the entry in JSON. None: nothing is logged.
    pub(crate) fn line<'a>(self, entry: &Entry, json: &'a str, to: Place) -> Option<Cow<'a, str>> {
        match self.form {
            Form::Silent => None,
            Form::Text => Some(match to {
                // What the program writes is on stderr already.
                Place::Stderr(clock) => format!("{}\n", text::line(entry, clock)).into(),
                Place::File => format!("{}\n", text::entry(entry, Clock::Utc)).into(),
            }),
            Form::Json => Some(json.into()),
        }
    }
}
