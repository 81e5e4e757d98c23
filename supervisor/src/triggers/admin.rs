//! The admin socket: each connection asks for one thing, and gets its answer from master control.

mod answer;
mod conversation;
mod follow;
#[cfg(target_os = "linux")]
mod linux;
mod place;
mod server;
mod slots;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

pub(crate) use server::{Admin, LAST_ANSWERS};
