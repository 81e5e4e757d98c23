//! The admin socket: each connection asks for one thing, and gets its answer from master control.

mod conversation;
mod follow;
#[cfg(target_os = "linux")]
mod linux;
mod server;
mod slots;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::time::Duration;

pub(crate) use server::{Admin, LAST_ANSWERS};

/// How long a client may take to send its request, and to read each line of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
