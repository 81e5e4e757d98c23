//! Handlers that people can use as they are.

mod command;
mod echo;
#[cfg(feature = "http")]
pub mod http;

pub use command::Commands;
pub use echo::Echo;
