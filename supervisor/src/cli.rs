//! The settings of the program `supervisor`: its command line, and the file that `--config` names.
//!
//! Both have one definition, that of the command line. What the file says is made into arguments (`{"grace": 5}` into
//! `--grace=5`) and put before those of the command line; clap parses them together, and the last one counts.

mod config;
mod definition;
#[cfg(unix)]
mod descriptors;
mod directory;
mod env_file;
mod error;
mod file;
pub mod generate;
mod hint;
mod invocation;
#[cfg(windows)]
pub mod service;
#[cfg(test)]
mod tests;
mod values;

pub use config::{Config, HandlerKind, OwnServer, Server};
pub use definition::KINDS;
#[cfg(unix)]
pub use descriptors::raise_descriptor_limit;
pub use error::ConfigError;
pub use hint::{Hints, hint};
pub use invocation::{Asked, Invocation, check, command, known_settings};
pub use values::parse_signal;
