//! The host's service manager: it passes sockets to this process, and receives reports from it.
//!
//! A manager such as systemd receives datagrams, that of Windows status reports; both are made from the same view of
//! master control.

mod manager;
mod passed;
pub(crate) mod pidfd;
mod reports;
mod store;
mod systemd;
mod view;
#[cfg(windows)]
pub mod windows_service;

pub(crate) use manager::Manager;
pub use passed::{Passed, PassedError, passed};
#[cfg(test)]
pub(crate) use systemd::Notify;
pub use systemd::VARIABLES;
pub(crate) use view::{Phase, View};
