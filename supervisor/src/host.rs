//! The host's service manager: the socket that it passes to this process, and what it is told.
//!
//! One such as systemd is told by datagrams, that of Windows by reports, both of the same view of master control.

mod manager;
mod reports;
mod systemd;
mod view;
#[cfg(windows)]
pub mod windows_service;

pub(crate) use manager::Manager;
#[cfg(test)]
pub(crate) use systemd::Notify;
pub use systemd::{Passed, PassedError, VARIABLES, passed};
pub(crate) use view::{Phase, View};
