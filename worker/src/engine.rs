//! Who says that a waiting socket is ready. Two answers, one of which is built in: `epoll` on Linux with the feature of
//! that name, or else a thread for each waiting socket, by std alone. They differ in what waiting costs, never in what
//! happens.
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

#[cfg(all(feature = "epoll", target_os = "linux"))]
mod epoll;
#[cfg(all(feature = "epoll", target_os = "linux"))]
pub(crate) use epoll::{Engine, Watch};

#[cfg(not(all(feature = "epoll", target_os = "linux")))]
mod threads;
#[cfg(not(all(feature = "epoll", target_os = "linux")))]
pub(crate) use threads::{Engine, Watch};

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The name of a connection in the engine: its place in the registry, and the how manieth it is there. So a late event
/// finds nothing when its connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) place: u32,
    pub(crate) serial: u32,
}

/// Why a connection is reported. It is a hint: the socket may have nothing by the time that it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is input, or room in the send buffer.
    Ready,
    /// The client has closed its side, perhaps behind input.
    Closing,
    /// Its time is up.
    Due,
    /// [`Engine::again`] was called.
    Again,
    /// Room in the send buffer is awaited, and this thread may wait for it: where sockets are not polled.
    #[cfg_attr(all(feature = "epoll", target_os = "linux"), allow(dead_code))]
    Room,
}

/// What the engine reports, on its own threads, which may block there.
pub(crate) trait Events: Send + Sync {
    /// Something has happened to a connection.
    fn ready(&self, key: Key, why: Why);

    /// The listener has clients, perhaps. `accept` gets the next one.
    fn acceptable(self: Arc<Self>, accept: &mut dyn FnMut() -> io::Result<(TcpStream, SocketAddr)>);
}

/// When to look at the listener again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rearm {
    /// When a client comes.
    OnClient,
    /// Not before so much time has passed.
    After(Duration),
}
