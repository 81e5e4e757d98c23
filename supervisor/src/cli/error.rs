//! What is wrong with the settings.

use std::fmt;

use crate::exit::Exit;

/// What is wrong with the settings, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// They are invalid until they are changed.
    Invalid(String),
    /// A file cannot be read now. It may be on a disk that is not mounted yet.
    Unreadable(String),
}

impl ConfigError {
    /// The message of clap, without the usage of the command line.
    pub(super) fn clap(error: &clap::Error) -> ConfigError {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        ConfigError::Invalid(line.strip_prefix("error: ").unwrap_or(line).to_owned())
    }

    /// The same, with the name of the file that it is about.
    pub(super) fn in_file(self, file: impl fmt::Display) -> ConfigError {
        match self {
            ConfigError::Invalid(message) => ConfigError::Invalid(format!("{file}: {message}")),
            ConfigError::Unreadable(message) => ConfigError::Unreadable(format!("{file}: {message}")),
        }
    }

    /// The exit code of a supervisor that does not start because of this. A service manager may try again after
    /// [`Exit::Failed`].
    pub fn exit(&self) -> Exit {
        match self {
            ConfigError::Invalid(_) => Exit::Usage,
            ConfigError::Unreadable(_) => Exit::Failed,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (ConfigError::Invalid(message) | ConfigError::Unreadable(message)) = self;
        formatter.write_str(message)
    }
}

impl std::error::Error for ConfigError {}
