//! A supervisor for a socket server: it starts the server, keeps it up, and ends it well.
//!
//! Give it a [`Handler`] and say where the order to stop may come from:
//!
//! ```no_run
//! use std::time::Duration;
//! use mastercontrol::{AdminSocket, Console, Listen, Log, Supervisor, worker::handlers::Echo};
//!
//! let running = Supervisor::new(Echo)
//!     .grace(Duration::from_secs(10))
//!     .console(Console::Terminal)
//!     .signals()
//!     .admin(AdminSocket::Require)
//!     .log(Log::text())
//!     .start(Listen::Bind("127.0.0.1:9999".parse()?))?;
//! let report = running.wait()?;
//! println!("{} clients were notified", report.drain.notified);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without triggers only code stops it, with [`Handle::control`].

mod announcement;
mod builder;
#[cfg(test)]
mod corpus;
mod deadline;
#[cfg(unix)]
mod descriptors;
mod error;
mod event;
mod exit;
mod handle;
mod health;
mod journal;
mod listen;
mod log;
mod master;
mod report;
mod restart;
mod server;
mod settings;
mod start;
mod sync;
mod triggers;
mod version;
mod watchdog;
mod wire;
mod writer;

pub mod child;
#[cfg(feature = "cli")]
pub mod cli;
pub mod client;
pub mod holder;
pub mod host;
pub mod instance;
pub mod metrics;
pub mod protocol;
pub mod text;

pub use builder::{Handlers, Programs, Supervisor};
pub use error::Error;
pub use event::{ConsoleEvent, ServiceControl, Trigger};
pub use exit::Exit;
pub use handle::{Control, Handle};
pub use journal::Journal;
#[cfg(unix)]
pub use listen::DEFAULT_MODE;
pub use listen::{Address, ProgramSocket};
pub use log::{Level, Log};
pub use report::Report;
pub use restart::{RestartMode, RestartPolicy};
pub use server::{BuildError, ProgramEnd};
pub use settings::{
    AdminSocket, Console, DEFAULT_GRACE, Forwarded, OnHup, Part, RelayOptions, RelayProtocol, Settings,
};
pub use start::Listen;
pub use version::{VERSION, version};
pub use worker;
pub use worker::Handler;

/// The code of the book compiles.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/library.md")]
struct Book;

/// So does that of the package's page.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
