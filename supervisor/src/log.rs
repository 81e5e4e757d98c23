//! What the operator reads on stderr: one line an event, with its time.

use std::fmt::Display;
use std::io::Write;
use std::time::SystemTime;

use serde_json::{Map, Value};

/// How much weight a line has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One connection's or request's doings, shown with [`Log::verbose`].
    Detail,
    /// What an operator wants to know.
    Info,
    /// Something is not as it should be, and the supervisor goes on.
    Warning,
    /// Something failed.
    Error,
}

/// In what form lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Silent,
    Text,
    Json,
}

/// Where events are logged: on stderr, or nowhere.
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

    /// One JSON object a line: `time`, `level`, `event`, `message`, and what else belongs to the event.
    pub fn json() -> Log {
        Log { form: Form::Json, verbose: false }
    }

    /// Whether each connection and each request is logged, too.
    pub fn verbose(self, verbose: bool) -> Log {
        Log { verbose, ..self }
    }

    /// Whether [`Level::Detail`] is logged.
    pub fn is_verbose(self) -> bool {
        self.verbose && self.form != Form::Silent
    }

    /// Logs an event with its name, a message for people, and fields for programs.
    ///
    /// A line that cannot be written is lost: a supervisor does not end because nobody reads its log.
    pub fn line<const N: usize>(self, level: Level, event: &str, message: impl Display, fields: [(&str, Value); N]) {
        if self.form == Form::Silent || (level == Level::Detail && !self.verbose) {
            return;
        }
        let line = self.format(level, event, &message.to_string(), fields, SystemTime::now());
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    fn format<const N: usize>(
        self,
        level: Level,
        event: &str,
        message: &str,
        fields: [(&str, Value); N],
        time: SystemTime,
    ) -> String {
        let time = humantime::format_rfc3339_millis(time).to_string();
        match self.form {
            Form::Silent => String::new(),
            Form::Text => match level {
                Level::Detail | Level::Info => format!("{time} {message}\n"),
                Level::Warning => format!("{time} warning: {message}\n"),
                Level::Error => format!("{time} error: {message}\n"),
            },
            Form::Json => {
                let level = match level {
                    Level::Detail => "detail",
                    Level::Info => "info",
                    Level::Warning => "warning",
                    Level::Error => "error",
                };
                let always = [
                    ("time", Value::from(time)),
                    ("level", Value::from(level)),
                    ("event", Value::from(event)),
                    ("message", Value::from(message)),
                ];
                let object: Map<_, _> =
                    always.into_iter().chain(fields).map(|(name, value)| (name.to_owned(), value)).collect();
                format!("{}\n", Value::Object(object))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn a_json_line_is_one_object_whatever_the_message() {
        let time = UNIX_EPOCH + Duration::from_millis(1500);
        let line = Log::json().format(Level::Info, "test", "two\nlines \"quoted\"", [("id", 7.into())], time);
        assert_eq!(line.matches('\n').count(), 1);
        let object: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["time"], "1970-01-01T00:00:01.500Z");
        assert_eq!((&object["id"], &object["event"]), (&7.into(), &"test".into()));
    }
}
