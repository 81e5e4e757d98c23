//! What is served, and where, as the command line says it.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::definition::{Connections, Options, Relaying, ServerArgs};
use super::directory;
use super::error::ConfigError;
#[cfg(unix)]
use super::signals::Signals;
use super::values::{RelayKind, default_max_relayed, word};
use crate::child::{Program, Ready, RotationSignals};
#[cfg(unix)]
use crate::child::{StopSignals, StopTo};
use crate::listen::{Address, ProgramSocket, in_words};
use crate::settings::{RelayOptions, RelayProtocol};
use crate::text::Seconds;

/// How long a relay holds clients by default.
const WAIT: Duration = Duration::from_secs(30);

/// What is served, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// One of our own.
    Own(OwnServer),
    /// A program.
    Exec {
        /// What to run, and how.
        program: Box<Program>,
        /// Where its clients come from.
        front: Front,
    },
}

/// Where the clients of a program come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Front {
    /// From the sockets that it gets, or from those that it creates.
    Sockets(Vec<ProgramSocket>),
    /// From a relay that listens on this address.
    Relay(SocketAddr, RelayOptions),
}

/// A server of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnServer {
    /// What it does for its clients.
    pub handler: HandlerKind,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Whether the address was given, and is not the default.
    pub listen_said: bool,
    /// How many connections are served at once.
    pub max_connections: usize,
    /// How often the server is checked. None: never.
    pub check_every: Option<Duration>,
}

/// What a server of our own does for its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerKind {
    /// Sends each message back.
    Echo,
    /// Answers one command per line.
    Command,
    /// Serves files over HTTP.
    Http {
        /// The directory with the files.
        dir: PathBuf,
    },
}

impl OwnServer {
    /// A socket that the service manager passed is already bound, so its address is the one that counts.
    pub(super) fn listen_on(&mut self, passed: &[Address]) -> Result<(), ConfigError> {
        match passed {
            [] => Ok(()),
            [Address::Tcp(passed)] if self.listen_said && self.listen != *passed => Err(another(&self.listen, passed)),
            [Address::Tcp(passed)] => {
                self.listen = *passed;
                Ok(())
            }
            #[cfg(unix)]
            [Address::Unix(path)] => Err(ConfigError::Invalid(format!(
                "the service manager passed a Unix socket ({}), and this server needs a TCP socket; in a .socket unit write \
                 ListenStream= with a port",
                path.display()
            ))),
            [_, _, ..] => Err(ConfigError::Invalid(format!(
                "the service manager passed {} sockets ({}), and one server has one",
                passed.len(),
                in_words(passed)
            ))),
        }
    }
}

/// The error for a configured address that differs from that of the only socket.
pub(super) fn another(listen: &dyn fmt::Display, passed: &SocketAddr) -> ConfigError {
    ConfigError::Invalid(format!(
        "\"listen\" is {listen}, but the service manager passed a socket on {passed}: leave --listen out, or say the same \
         in both places"
    ))
}

impl Server {
    /// Its name on the command line, one of [`KINDS`](super::KINDS).
    pub fn kind(&self) -> &'static str {
        match self {
            Server::Own(OwnServer { handler: HandlerKind::Echo, .. }) => "echo",
            Server::Own(OwnServer { handler: HandlerKind::Command, .. }) => "command",
            Server::Own(OwnServer { handler: HandlerKind::Http { .. }, .. }) => "http",
            Server::Exec { .. } => "exec",
        }
    }

    /// The addresses, for people.
    pub(super) fn listen(&self) -> String {
        match self {
            Server::Own(own) => own.listen.to_string(),
            Server::Exec { front: Front::Sockets(listen), .. } if listen.is_empty() => "nothing".into(),
            Server::Exec { front: Front::Sockets(listen), .. } => in_words(listen),
            Server::Exec { front: Front::Relay(listen, _), .. } => listen.to_string(),
        }
    }

    /// The mode of its Unix sockets, for people.
    pub(super) fn socket_mode(&self) -> String {
        match self {
            #[cfg(unix)]
            Server::Exec { front, .. } => {
                let first = match front {
                    Front::Sockets(listen) => listen.first(),
                    Front::Relay(..) => None,
                };
                format!("{:o}", first.map_or(crate::listen::DEFAULT_MODE, |listen| listen.mode))
            }
            #[cfg(windows)]
            Server::Exec { .. } => String::new(),
            Server::Own(_) => String::new(),
        }
    }

    /// What its relay does, for people.
    pub(super) fn relay(&self) -> [(&'static str, String); 5] {
        let names = ["relay", "forwarded", "wait", "answer-within", "max-connections"];
        let values = match self {
            Server::Exec { front: Front::Relay(_, relay), .. } => {
                let RelayOptions { protocol, wait, max_connections } = relay;
                let (protocol, forwarded, answer_within) = match protocol {
                    RelayProtocol::Tcp => ("tcp", String::new(), None),
                    RelayProtocol::Http { forwarded, answer_within } => ("http", word(*forwarded), *answer_within),
                };
                let answer_within = answer_within.map_or_else(|| "off".into(), |time| Seconds(time).to_string());
                let (wait, max_connections) = (Seconds(*wait).to_string(), max_connections.to_string());
                [protocol.into(), forwarded, wait, answer_within, max_connections]
            }
            Server::Exec { front: Front::Sockets(_), .. } | Server::Own(_) => {
                ["none".into(), String::new(), String::new(), String::new(), String::new()]
            }
        };
        let mut values = values.into_iter();
        names.map(|name| (name, values.next().unwrap_or_default()))
    }

    /// The default name of its instance.
    pub(super) fn name(&self) -> &str {
        match self {
            Server::Own(_) => self.kind(),
            Server::Exec { program, .. } => {
                Path::new(&program.program).file_name().and_then(|name| name.to_str()).unwrap_or("exec")
            }
        }
    }

    /// Relative paths are resolved against this directory.
    pub(super) fn new(
        arguments: ServerArgs,
        listen_said: bool,
        directory: &Path,
        passed: &[Address],
    ) -> (Server, Options) {
        let own = |handler, listen, connections: Connections| {
            let Connections { max_connections, check_every } = connections;
            Server::Own(OwnServer { handler, listen, listen_said, max_connections, check_every })
        };
        match arguments {
            ServerArgs::Echo { listen, connections, options } => (own(HandlerKind::Echo, listen, connections), options),
            ServerArgs::Command { listen, connections, options } => {
                (own(HandlerKind::Command, listen, connections), options)
            }
            ServerArgs::Http { dir, listen, connections, options } => {
                let dir = directory::join(directory, dir.as_deref().unwrap_or(Path::new(".")));
                (own(HandlerKind::Http { dir }, listen, connections), options)
            }
            #[cfg_attr(windows, allow(unused_variables, unused_mut))]
            ServerArgs::Exec {
                mut listen,
                relay,
                relaying,
                socket_mode,
                stop_signal,
                stop_to,
                drain_signal: drain,
                resume_signal: resume,
                success_exit,
                ready,
                ready_within,
                overlap,
                checks,
                dir,
                env_file: _,
                options,
                program,
            } => {
                #[cfg(unix)]
                if let Some(mode) = socket_mode {
                    listen.iter_mut().for_each(|listen| listen.mode = mode);
                }
                let mut line = program.into_iter();
                let program = Program {
                    program: line.next().unwrap_or_default(),
                    args: line.collect(),
                    environment: Vec::new(),
                    directory: Some(dir.map_or_else(|| directory.to_owned(), |dir| directory::join(directory, &dir))),
                    #[cfg(unix)]
                    stop: {
                        let to = stop_to.unwrap_or(StopTo::Group);
                        match stop_signal {
                            Some(Signals { first, later, whole: _ }) => StopSignals { first, later, to },
                            None => StopSignals { to, ..StopSignals::one(nix::sys::signal::Signal::SIGTERM as i32) },
                        }
                    },
                    rotation: RotationSignals { drain, resume },
                    success: success_exit,
                    ready: ready.unwrap_or(Ready::Auto),
                    ready_within,
                    overlap,
                    check: checks.check(),
                };
                let front = match (relay, passed, &listen[..]) {
                    (Some(relay), [Address::Tcp(address)], _)
                    | (Some(relay), [], [ProgramSocket { address: Address::Tcp(address), .. }]) => {
                        Front::Relay(*address, relaying.options(relay))
                    }
                    // Options that conflict with a relay have been refused.
                    (_, _, _) => Front::Sockets(listen),
                };
                (Server::Exec { program: Box::new(program), front }, options)
            }
        }
    }
}

impl Relaying {
    fn options(self, kind: RelayKind) -> RelayOptions {
        let Relaying { forwarded, wait, answer_within, max_connections } = self;
        RelayOptions {
            protocol: match kind {
                RelayKind::Tcp => RelayProtocol::Tcp,
                RelayKind::Http => RelayProtocol::Http { forwarded: forwarded.unwrap_or_default(), answer_within },
            },
            wait: wait.unwrap_or(WAIT),
            max_connections: max_connections.unwrap_or_else(default_max_relayed),
        }
    }
}
