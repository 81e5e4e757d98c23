//! Handlers that can be used as they are.

mod command;
mod echo;
#[cfg(feature = "http")]
mod http;

pub use command::Commands;
pub use echo::Echo;
#[cfg(feature = "http")]
pub use http::{Http, Logged, Page};
