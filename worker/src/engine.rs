//! The engine reports that a waiting socket is ready. There are two engines, one of which is built in: `epoll` on Linux
//! with the feature of that name, or else a thread for each waiting socket, with std alone. They differ in what waiting
//! costs, never in what happens.
//!
//! Both have the same functions:
//!
//! - `Engine::new()`, and `run(events)`, which starts its threads.
//! - `watch(key, socket, watch, due)` reports when the socket has input, was closed, or the time is up. `watch` is the
//!   engine's own note on this socket, and says with `room` that room in the send buffer is awaited, too.
//! - `unwatch(socket, watch)`: a thread is going to wait for this socket by itself.
//! - `forget(key, watch)`: the connection has ended.
//! - `again(key)` reports the connection once more, behind others that are ready now.
//! - `blocked(call)` runs a call that may wait for a client.
//! - `listen(listener)`, `arm_listener(when)`, `unlisten()`: whether clients are accepted.
//! - `replace_acceptor()`: a handler hangs while it admits a client.
//! - `is_own(peer)`: whether a client is a connection that the engine itself has made.
//! - `kick_listener()` has an engine thread look at the listener, whether a client waits there or not.
//! - `close()` ends its threads.
//! - `POLLS`: whether a call that would wait for a client is worth trying without waiting first.

mod events;
pub(crate) use events::{Events, Key, Rearm, Why};

#[cfg(all(feature = "epoll", target_os = "linux"))]
mod epoll;
#[cfg(all(feature = "epoll", target_os = "linux"))]
pub(crate) use epoll::{Engine, Watch};

#[cfg(not(all(feature = "epoll", target_os = "linux")))]
mod threads;
#[cfg(not(all(feature = "epoll", target_os = "linux")))]
pub(crate) use threads::{Engine, Watch};
