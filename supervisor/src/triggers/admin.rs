//! The admin socket: each connection makes one request, and gets its answer from master control.

mod answer;
mod conversation;
mod follow;
#[cfg(target_os = "linux")]
mod linux;
mod place;
#[cfg(unix)]
mod restore;
mod server;
mod slots;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
mod unix_loop;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
mod windows_loop;

pub(crate) use server::{Admin, LAST_ANSWERS};
