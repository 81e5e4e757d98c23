//! What can ask for something: one thread each, each a loop of `events.send(..)`. None touches the server. (The health
//! endpoint has several threads, and asks only how it goes.)

pub(crate) mod admin;
pub(crate) mod console;
pub(crate) mod health;
pub(crate) mod signals;
