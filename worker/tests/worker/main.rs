//! The promises of the server thread, kept over real sockets.

#![allow(clippy::unwrap_used)]

// Test support.
mod crowd;
mod support;
mod watchdog;

// When a stop ends, and from where it can be requested.
mod stop;
// Which clients are notified, and that the notice arrives.
mod notice;
// Clients that have connected just before a stop, and whose first message is on its way.
mod first;
// Clients that connect at the moment of the stop, and the port afterwards.
mod queue;
// A paused port.
mod pause;
// One server replaces another.
mod replace;
// Connections that are let go one after the other.
mod spread;
// The deadline: moved, forced, stuck.
mod force;
// One connection is ended, and the others are left alone.
mod close;
// Handlers that panic, and what is reported about connections.
mod report;
// Too many connections, no descriptors left, waiting that costs nothing.
mod limits;
// The handlers `Commands` and `Echo`.
mod command;
mod echo;
