//! What is wrong with the settings.

use std::fmt;

/// What is wrong with the settings, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(pub(super) String);

impl ConfigError {
    /// The message of clap, without the usage of the command line.
    pub(super) fn clap(error: &clap::Error) -> ConfigError {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        ConfigError(line.strip_prefix("error: ").unwrap_or(line).to_owned())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}
