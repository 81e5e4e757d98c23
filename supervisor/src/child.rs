//! A server that is a child process: any program.
//!
//! This part is the same on all systems: what to run (`program.rs`), how a program is built (`builder.rs`), when it is
//! ready (`started.rs`, `ready.rs`, `evidence.rs`, `family_sockets.rs`), the state of a running program (`process.rs`),
//! and a ready program as master control sees it (`generation.rs`). On Unix a `guardian` runs between the supervisor
//! and a program; `windows.rs` does the same for Windows: it starts a program, asks it to end, kills it, and detects
//! when no process of it remains.

mod builder;
mod check;
#[cfg(unix)]
#[doc(hidden)]
pub mod driven;
mod evidence;
#[cfg(target_os = "linux")]
mod family_connections;
mod family_sockets;
mod generation;
#[cfg(unix)]
pub(crate) mod guardian;
#[cfg(target_os = "linux")]
mod listeners;
mod looks;
mod observed;
mod output;
mod preflight;
#[cfg(target_os = "linux")]
mod private_port;
mod probe;
mod process;
mod program;
#[cfg(target_os = "linux")]
mod queue;
mod ready;
#[cfg(target_os = "linux")]
mod relayed;
#[cfg(target_os = "linux")]
mod relaying;
mod rotation;
mod sockets;
mod started;
mod stop_signals;
#[cfg(windows)]
mod windows;

pub(crate) use builder::{Children, Front};
pub use check::{Check, CheckKind};
#[cfg(unix)]
pub use guardian::{hidden_stage, supervisor_side::Socket};
pub use probe::{Probe, Url};
pub(crate) use program::ProgramFactory;
pub use program::{CannotStart, EndedEarly, Program};
pub(crate) use program::{ended, last_output, was_started};
pub use ready::Ready;
#[cfg(target_os = "linux")]
pub(crate) use relaying::Relaying;
pub use rotation::RotationSignals;
pub use stop_signals::{StopSignals, StopTo};
#[cfg(windows)]
pub use windows::Socket;
