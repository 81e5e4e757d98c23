//! The sources of requests: one thread each, each a loop of `events.send(..)`. None of them touches the server.

pub(crate) mod admin;
pub(crate) mod console;
pub(crate) mod signals;
