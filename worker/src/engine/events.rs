//! What an engine reports, in terms common to both engines.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

/// The engine's name for a connection: its place in the registry, and how many connections have had that place before
/// it. So a late event finds nothing once its connection has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) place: u32,
    pub(crate) serial: u32,
}

/// Why a connection is reported. This is a hint: the socket may have nothing by the time it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    /// There is input, or room in the send buffer.
    Ready,
    /// The client has closed its side; there may be unread input.
    Closing,
    /// Its time is up.
    Due,
    /// `Engine::again` was called.
    Again,
    /// It has just been accepted, and is not watched yet: see `Engine::welcome`.
    #[cfg_attr(not(all(feature = "epoll", target_os = "linux")), allow(dead_code))]
    New,
    /// Room in the send buffer is awaited, and this thread may wait for it, where sockets are not polled.
    #[cfg_attr(all(feature = "epoll", target_os = "linux"), allow(dead_code))]
    Room,
}

/// Receives the engine's reports, on the engine's own threads, which may block there.
pub(crate) trait Events: Send + Sync {
    /// Something has happened to a connection.
    fn ready(self: Arc<Self>, key: Key, why: Why);

    /// The listener may have clients. `accept` gets the next one.
    fn acceptable(self: Arc<Self>, accept: &mut dyn FnMut() -> io::Result<(TcpStream, SocketAddr)>);
}

/// When to look at the listener again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rearm {
    /// When a client connects.
    OnClient,
    /// Not before this much time has passed.
    After(Duration),
}
