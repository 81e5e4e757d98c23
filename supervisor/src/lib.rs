//! Supervises a socket server: keeps it running, and stops, restarts or replaces it without losing a request.
//!
//! This is the library. The package's program `supervisor` does the same for any program from the command line.
//!
//! Give it a [`Handler`], and name the triggers that may stop or restart the server:
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
//! # A tour
//!
//! 1. **Your protocol** is a [`Handler`] of the package [`worker`]: `serve` answers one message, and `notice` is what
//!    clients are sent when the server goes away.
//! 2. **[`Supervisor`]** is the builder. [`new`](Supervisor::new) takes one handler,
//!    [`with_factory`](Supervisor::with_factory) builds a fresh one for each generation, and
//!    [`program`](Supervisor::program) supervises a child process instead.
//! 3. **Triggers** are off until you turn them on: the [console](Supervisor::console), [signals](Supervisor::signals),
//!    the [admin socket](Supervisor::admin) and the [service manager](Supervisor::service_manager). Code can always
//!    stop or restart the server, from any thread, with the [`Control`] of [`Handle::control`].
//! 4. **[`start`](Supervisor::start)** binds the address and returns a [`Handle`] once the server is ready. From then
//!    on a crash is answered by the [`RestartPolicy`].
//! 5. **[`Handle::wait`]** returns at the end, with a [`Report`] of what became of the clients. [`Report::exit`] is the
//!    exit code for a program of your own.
//!
//! # To control a supervisor from Rust
//!
//! `admin-cli` is built from these modules, and a program of your own can be, too:
//!
//! ```no_run
//! use mastercontrol::client::{self, Patience};
//! use mastercontrol::instance::InstancePaths;
//! use mastercontrol::protocol::{Answer, Request};
//! use mastercontrol::{metrics, text};
//!
//! let web = InstancePaths::of(&"web".parse()?)?;
//! if let Answer::Status(status) = client::ask(&web, Request::Status {}, Patience::short(), |_| {})? {
//!     println!("{}", text::status_line(&status));
//!     println!("{}", metrics::text(&status));
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | module | has |
//! | --- | --- |
//! | [`instance`] | where a supervisor is found |
//! | [`client`] | the connection to its admin socket |
//! | [`protocol`] | requests and answers |
//! | [`text`] | answers and events in words, as the log and `admin-cli` show them |
//! | [`metrics`] | a status in the Prometheus text format |
//! | [`holder`] | which processes hold a port, and how they are ended |
//!
//! # Features
//!
//! `cli` (on by default) is the command line of the programs: the module `cli` has the settings of `supervisor`, its
//! configuration file, completions and man pages. It follows these programs and may change in any release. It needs
//! `clap`. Turn it off if you use the library alone.

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
mod patient;
#[cfg(target_os = "linux")]
mod proc_file;
mod report;
mod restart;
mod server;
mod settings;
mod start;
mod sync;
#[cfg(target_os = "linux")]
mod tcp_sockets;
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
pub use server::BuildError;
pub use server::program_end::ProgramEnd;
pub use settings::{
    AdminSocket, Console, DEFAULT_GRACE, Forwarded, OnHup, Part, RelayOptions, RelayProtocol, Settings,
};
pub use start::Listen;
pub use version::{VERSION, version};
pub use worker;
pub use worker::Handler;

/// Compiles the code of the book.
#[cfg(doctest)]
#[doc = include_str!("../../docs/src/library.md")]
struct Book;

/// Compiles the code of the package's page.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
