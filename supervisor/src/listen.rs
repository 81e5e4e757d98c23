//! Where a server listens: its addresses, and the sockets bound to them.

mod address;
mod names;
mod tcp;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
pub use address::DEFAULT_MODE;
pub(crate) use address::in_words;
pub use address::{Address, ProgramSocket};
pub(crate) use names::names;
pub(crate) use tcp::bind_tcp;
#[cfg(unix)]
pub(crate) use unix::{Bound, FileIdentity, SocketFile, file_identity};
#[cfg(windows)]
pub(crate) use windows::{Bound, SocketFile};
