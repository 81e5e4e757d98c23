//! The settings of the program `supervisor`: its command line, and the file that `--config` names.
//!
//! Both have one definition, that of the command line. The content of the file is turned into arguments (`{"grace": 5}`
//! into `--grace=5`) and put before those of the command line. clap parses them together, and the last one counts.
//!
//! This is for the programs `supervisor` and `admin-cli`, and may change in any release.

mod addresses;
mod config;
mod conflicts;
mod definition;
mod directory;
mod env_file;
mod error;
mod file;
pub mod generate;
mod hint;
mod invocation;
mod probes;
mod server;
#[cfg(windows)]
pub mod service;
mod signals;
#[cfg(test)]
mod tests;
mod values;

#[cfg(unix)]
pub use crate::descriptors::raise_descriptor_limit;
pub use crate::patient::Patient;
pub use config::Config;
pub use definition::KINDS;
pub use error::ConfigError;
pub use hint::{Hints, hint};
pub use invocation::{Asked, Checked, Invocation, check, command, known_settings};
pub use server::{Front, HandlerKind, OwnServer, Server};
pub use signals::parse_signal;
pub use values::parse_number;
