//! Why a supervisor did not start, or ended: data and words.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::exit::Exit;
use crate::listen::Address;
use crate::server::BuildError;
use crate::server::program_end::ProgramEnd;
use crate::text::{Count, Reason, Seconds};

/// Why a supervisor did not start, or ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be bound.
    Bind {
        /// The address.
        address: Address,
        /// The process that has it, where the system tells.
        holder: Option<String>,
        /// What the system said.
        source: io::Error,
    },
    /// The name is taken by another instance.
    NameTaken {
        /// The name.
        name: String,
        /// The instance that has it, if it answers.
        holder: Option<String>,
    },
    /// The admin socket's path is taken by another instance.
    SocketTaken {
        /// The path.
        path: PathBuf,
        /// The instance that has it, if it answers.
        holder: Option<String>,
    },
    /// The admin socket cannot be created.
    AdminSocket {
        /// The socket, its lock, or their directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else that is needed is not available.
    Start {
        /// What it is.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The server cannot be built.
    Build {
        /// The program that was started and did not become ready. None: none was started.
        program: Option<String>,
        /// Why.
        source: BuildError,
    },
    /// The server ended by itself, and its policy does not start it again.
    Ended {
        /// Why.
        reason: String,
        /// It was a program that ended with an exit code that is a success.
        clean: bool,
        /// How the program ended. None: the server was none, or it did not end by itself.
        program: Option<ProgramEnd>,
    },
    /// The server failed too often.
    CrashedTooOften {
        /// How often within the period.
        times: usize,
        /// How often it may, by the policy.
        max_restarts: u32,
        /// The period of the policy.
        period: Duration,
        /// Why it failed the last time.
        reason: String,
    },
}

impl Error {
    /// The exit code for a program that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Bind { source, .. } | Error::AdminSocket { source, .. } | Error::Start { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::NotPermitted
            }
            Error::Build { source, .. } => match source.downcast_ref::<io::Error>() {
                Some(error) if error.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
                Some(_) | None => Exit::Failed,
            },
            Error::Bind { .. }
            | Error::NameTaken { .. }
            | Error::SocketTaken { .. }
            | Error::AdminSocket { .. }
            | Error::Start { .. }
            | Error::Ended { .. } => Exit::Failed,
            Error::CrashedTooOften { .. } => Exit::CrashedTooOften,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Bind { address: Address::Tcp(address), holder, source } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    let holder = holder.as_deref().unwrap_or("another program");
                    write!(formatter, "port {} is taken by {holder}; stop that or choose another port", address.port())
                }
                io::ErrorKind::PermissionDenied if cfg!(windows) => write!(
                    formatter,
                    "no permission to listen on port {}: the system keeps it for itself (`netsh interface ipv4 show \
                     excludedportrange tcp` lists such ports), or another program does; choose another one",
                    address.port()
                ),
                io::ErrorKind::PermissionDenied => write!(
                    formatter,
                    "no permission to listen on port {}: ports below 1024 need a privilege, choose a higher one",
                    address.port()
                ),
                io::ErrorKind::AddrNotAvailable => {
                    write!(formatter, "this machine has no address {}; try 127.0.0.1 or 0.0.0.0", address.ip())
                }
                _ => write!(formatter, "cannot listen on {address}: {}", Reason(source)),
            },
            #[cfg(unix)]
            Error::Bind { address: Address::Unix(path), holder, source } => {
                let directory = path.parent().unwrap_or(path).display();
                let path = path.display();
                match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        let holder = holder.as_deref().unwrap_or("another program");
                        write!(formatter, "{path} is taken by {holder}; stop that or choose another path")
                    }
                    io::ErrorKind::AlreadyExists => {
                        write!(formatter, "{path} is there and is no socket; remove it or choose another path")
                    }
                    io::ErrorKind::NotFound => {
                        write!(
                            formatter,
                            "there is no directory {directory} for the socket; make it or choose another path"
                        )
                    }
                    io::ErrorKind::PermissionDenied if source.get_ref().is_none() => {
                        write!(
                            formatter,
                            "no permission to listen on {path}: choose a directory that is this user's own"
                        )
                    }
                    _ => write!(formatter, "cannot listen on {path}: {}", Reason(source)),
                }
            }
            Error::NameTaken { name, holder } => {
                let holder = holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default();
                write!(formatter, "the name {name} is taken{holder}; stop that or choose another name with --name")
            }
            Error::SocketTaken { path, holder } => {
                let holder = holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default();
                write!(formatter, "the socket {} is taken{holder}; stop that or choose another path", path.display())
            }
            Error::AdminSocket { path, source } => {
                write!(formatter, "cannot use {} for the admin socket: {}", path.display(), Reason(source))
            }
            Error::Start { what, source } => write!(formatter, "cannot start {what}: {}", Reason(source)),
            Error::Build { program: Some(program), source } => write!(formatter, "{program} failed to start: {source}"),
            Error::Build { program: None, source } => write!(formatter, "{source}"),
            Error::Ended { reason, clean: _, program: _ } => write!(formatter, "the server ended: {reason}"),
            Error::CrashedTooOften { times, max_restarts, period, reason } => write!(
                formatter,
                "giving up: {} within {} (--max-restarts {max_restarts}): {reason}",
                Count(*times, "crash"),
                Seconds(*period)
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Bind { source, .. } | Error::AdminSocket { source, .. } | Error::Start { source, .. } => {
                Some(source)
            }
            Error::Build { source, .. } => Some(&**source),
            Error::NameTaken { .. }
            | Error::SocketTaken { .. }
            | Error::Ended { .. }
            | Error::CrashedTooOften { .. } => None,
        }
    }
}

/// The error for a supervisor that could not be started for lack of something.
pub(crate) fn lacking(what: &'static str) -> impl Fn(io::Error) -> Error + Copy {
    move |source| Error::Start { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_single_crash_that_is_too_many_is_counted_in_the_singular() {
        let period = Duration::from_secs(120);
        let error = Error::CrashedTooOften { times: 1, max_restarts: 0, period, reason: "it ended".into() };
        assert_eq!(error.to_string(), "giving up: 1 crash within 120 s (--max-restarts 0): it ended");
    }
}
