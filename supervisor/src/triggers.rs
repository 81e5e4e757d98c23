//! What can ask for something: one thread each, each a loop of `events.send(..)`. None touches the server.

pub(crate) mod admin;
pub(crate) mod console;
pub(crate) mod signals;
