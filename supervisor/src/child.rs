//! A server that is a child process: any program.
//!
//! This part is the same everywhere: what to run (`program.rs`), how a program is built (`builder.rs`), what it takes
//! to be ready (`started.rs`, `ready.rs`, `evidence.rs`, `family_sockets.rs`), what is known of one that runs
//! (`process.rs`), and what master control sees of one that is ready (`generation.rs`). On Unix a `guardian` stands
//! between the supervisor and a program; `windows.rs` has the same for Windows: how it is started, asked to end and
//! killed, and how it is known that nothing of it is left.

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
