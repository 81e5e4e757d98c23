//! The promises of the relay, kept over real sockets: clients and programs are threads of the test.

#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

// What the tests are written with.
mod support;
#[path = "../worker/watchdog.rs"]
mod watchdog;

// Bytes in both directions.
mod bytes;
// Clients wait while no generation serves.
mod hold;
// One generation takes another one's place; a stop; one connection is ended.
mod drain;

// Messages are told apart: each goes to the generation that serves.
mod messages;
// What a relay answers itself, and when it ends a connection.
mod refusals;
// Connections that are kept through a replacement, a crash, a stop.
mod kept;
// Clients and programs that end, or stall, at any byte of a message.
mod hostile;

// No descriptors or ports left.
mod limits;
