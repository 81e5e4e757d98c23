//! The promises of the relay, kept over real sockets: clients and programs are threads of the test.

#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

// Test support.
#[path = "../worker/crowd.rs"]
mod crowd;
mod support;
#[path = "../worker/watchdog.rs"]
mod watchdog;

// Bytes in both directions.
mod bytes;
// Clients wait while no generation serves.
mod hold;
// One generation replaces another; a stop; the end of one connection.
mod drain;

// Messages are told apart: each goes to the generation that serves.
mod messages;
// The relay's own answers, and when it ends a connection.
mod refusals;
// Connections that are kept through a replacement, a crash, a stop.
mod kept;
// Clients and programs that end, or stall, at any byte of a message.
mod hostile;

// No descriptors or ports left.
mod limits;
