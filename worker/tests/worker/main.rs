//! The promises of the server thread, kept over real sockets.

#![allow(clippy::unwrap_used)]

// What the tests are written with.
mod support;
mod watchdog;

// When a stop ends, and from where it can be asked for.
mod stop;
// Who is told, and that the notice arrives.
mod notice;
// Clients that have connected just before a stop, and whose first message is on its way.
mod first;
// Clients that come in the instant of the stop, and the port afterwards.
mod queue;
// A port that is paused.
mod pause;
// One server takes another one's place.
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
