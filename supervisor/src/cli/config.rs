//! All settings, with the defaults for what was not said.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::definition::{Connections, Options, Relaying, ServerArgs, ServerCli};
use super::directory;
use super::env_file;
use super::error::ConfigError;
use super::file::{definitions, setting};
#[cfg(unix)]
use super::values::Signals;
use super::values::{Form, RelayKind, default_max_relayed, word};
use crate::child::{CheckKind, Probe, Program, Ready, RotationSignals};
#[cfg(unix)]
use crate::child::{StopSignals, StopTo};
use crate::instance::InstanceName;
use crate::listen::{Address, ProgramSocket, in_words};
use crate::log::Log;
use crate::restart::RestartPolicy;
use crate::settings::{AdminSocket, Console, OnHup, Part, RelayOptions, RelayProtocol};
use crate::text::Seconds;

/// How long a relay holds clients, unless told otherwise.
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
    /// From the sockets that it gets, or from those that it makes.
    Sockets(Vec<ProgramSocket>),
    /// From a relay that listens there.
    Relay(SocketAddr, RelayOptions),
}

/// A server of our own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnServer {
    /// What it does for its clients.
    pub handler: HandlerKind,
    /// The address to listen on.
    pub listen: SocketAddr,
    /// Whether that was said, and is not the default.
    pub listen_said: bool,
    /// How many connections are served at once.
    pub max_connections: usize,
    /// How often the server is tried. None: never.
    pub check_every: Option<Duration>,
}

/// What a server of our own does for its clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HandlerKind {
    /// Each message is sent back.
    Echo,
    /// One command a line is answered.
    Command,
    /// Files over HTTP.
    Http {
        /// The directory with the files.
        dir: PathBuf,
    },
}

impl OwnServer {
    /// A socket that the service manager passed is bound already, so its address is the one that counts.
    fn listen_on(&mut self, passed: &[Address]) -> Result<(), ConfigError> {
        match passed {
            [] => Ok(()),
            [Address::Tcp(passed)] if self.listen_said && self.listen != *passed => Err(another(&self.listen, passed)),
            [Address::Tcp(passed)] => {
                self.listen = *passed;
                Ok(())
            }
            #[cfg(unix)]
            [Address::Unix(path)] => Err(ConfigError(format!(
                "the service manager passed a Unix socket ({}), and this server needs a TCP socket; in a .socket unit write \
                 ListenStream= with a port",
                path.display()
            ))),
            [_, _, ..] => Err(ConfigError(format!(
                "the service manager passed {} sockets ({}), and one server has one",
                passed.len(),
                in_words(passed)
            ))),
        }
    }
}

/// Another address is configured than the one of the only socket.
fn another(listen: &dyn fmt::Display, passed: &SocketAddr) -> ConfigError {
    ConfigError(format!(
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
    fn listen(&self) -> String {
        match self {
            Server::Own(own) => own.listen.to_string(),
            Server::Exec { front: Front::Sockets(listen), .. } if listen.is_empty() => "nothing".into(),
            Server::Exec { front: Front::Sockets(listen), .. } => in_words(listen),
            Server::Exec { front: Front::Relay(listen, _), .. } => listen.to_string(),
        }
    }

    /// The mode of its Unix sockets, for people.
    fn socket_mode(&self) -> String {
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
    fn relay(&self) -> [(&'static str, String); 5] {
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

    /// The name of its instance, unless told otherwise.
    fn name(&self) -> &str {
        match self {
            Server::Own(_) => self.kind(),
            Server::Exec { program, .. } => {
                Path::new(&program.program).file_name().and_then(|name| name.to_str()).unwrap_or("exec")
            }
        }
    }

    /// Relative paths are meant from this directory.
    fn new(arguments: ServerArgs, listen_said: bool, directory: &Path, passed: &[Address]) -> (Server, Options) {
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
                    // Other options beside a relay have been refused.
                    (_, _, _) => Front::Sockets(listen),
                };
                (Server::Exec { program: Box::new(program), front }, options)
            }
        }
    }
}

/// All settings, with the defaults for what was not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What was said, or is the default, as far as that alone makes the difference: for people.
    pub parts: Vec<Part>,
    /// Whether the name was said, and is not the server's.
    pub name_said: bool,
    /// What is served, and where.
    pub server: Server,
    /// The name by which `admin-cli` finds the instance.
    pub name: InstanceName,
    /// How long clients get to leave.
    pub grace: Duration,
    /// How long a stop waits before it begins.
    pub delay: Duration,
    /// Over which time clients are let go in a drain.
    pub spread: Duration,
    /// Whether there is an admin socket.
    pub admin: AdminSocket,
    /// The admin socket's path, if it is not the one that belongs to the name.
    pub socket: Option<PathBuf>,
    /// The address of the health endpoint. None: there is none.
    pub health: Option<SocketAddr>,
    /// The log, verbose or not.
    pub log: Log,
    /// When the server is started again after it has ended by itself.
    pub restart: RestartPolicy,
    /// What SIGHUP does.
    pub on_hup: OnHup,
    /// Where Enter is heard.
    pub console: Console,
}

impl Config {
    /// Relative paths are meant from this directory. The service manager passed sockets on these addresses.
    pub(super) fn parse(
        arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
        directory: &Path,
        passed: &[Address],
    ) -> Result<Config, ConfigError> {
        let wrong = |error| ConfigError::clap(&error);
        let said = ServerCli::command().try_get_matches_from(arguments).map_err(wrong)?;
        let is_said = |setting| {
            said.subcommand().is_some_and(|(_, said)| {
                said.value_source(setting).is_some_and(|source| source != ValueSource::DefaultValue)
            })
        };
        let (listen_said, grace_said) = (is_said("listen"), is_said("grace"));
        let mut grace = None;
        let server = ServerCli::from_arg_matches(&said).map_err(wrong)?.server;
        let mut environment = Vec::new();
        if let ServerArgs::Exec {
            listen,
            relay,
            relaying,
            socket_mode,
            stop_signal,
            drain_signal,
            resume_signal,
            ready,
            overlap,
            checks,
            env_file,
            ..
        } = &server
        {
            grace = stop_signal.as_ref().and_then(|signals| signals.whole);
            if grace.is_some() && grace_said {
                return Err(ConfigError(
                    "the times of \"stop-signal\" say how long a stop takes, and so does \"grace\": leave out \"grace\" or \
                     the first time"
                        .into(),
                ));
            }
            check_addresses(listen, passed, relay.is_some(), *socket_mode, ready.as_ref(), checks.check.as_ref())?;
            check_relay(*relay, relaying, listen, passed, ready.as_ref(), checks.check.as_ref())?;
            if listen.is_empty() && passed.is_empty() && !overlap.is_zero() {
                return Err(ConfigError(
                    "\"overlap\" needs \"listen\": without it the old program has to end before the new one starts"
                        .into(),
                ));
            }
            match (drain_signal, resume_signal) {
                (None, Some(_)) => {
                    return Err(ConfigError(
                        "\"resume-signal\" needs \"drain-signal\": a program that does not hear that it is taken out of \
                         rotation need not hear that it is back"
                            .into(),
                    ));
                }
                (Some(drain), Some(resume)) if drain == resume => {
                    return Err(ConfigError(
                        "\"drain-signal\" and \"resume-signal\" are the same signal; choose another one for either"
                            .into(),
                    ));
                }
                (None | Some(_), None) | (Some(_), Some(_)) => {}
            }
            if let Some(file) = env_file {
                environment = env_file::variables(&directory::join(directory, file))?;
            }
        }
        let (mut server, options) = Server::new(server, listen_said, directory, passed);
        match &mut server {
            Server::Exec { program, .. } => program.environment = environment,
            Server::Own(own) => own.listen_on(passed)?,
        }
        let grace = grace.unwrap_or(options.grace);
        check_spread(options.spread, grace, &server)?;
        Ok(Config {
            parts: parts(&said),
            name_said: options.name.is_some(),
            // The kinds' own names are valid.
            name: options.name.clone().or_else(|| server.name().parse().ok()).unwrap_or_default(),
            log: options.log(),
            server,
            grace,
            delay: options.delay,
            spread: options.spread,
            admin: options.admin,
            socket: options.socket,
            health: options.health,
            restart: RestartPolicy {
                mode: options.restart,
                max_restarts: options.max_restarts,
                period: options.period,
            },
            on_hup: options.on_hup,
            console: options.console,
        })
    }

    /// Whether a restart can lead from these settings to the new ones. It keeps the process, its listener, its name and
    /// its admin socket, so it cannot change what these were made from.
    ///
    /// # Errors
    /// When it cannot: the message names the setting.
    pub fn check_change(&self, new: &Config) -> Result<(), ConfigError> {
        // A program that has another name than the one before does not give it to the instance.
        let is_kept = |setting| setting != "name" || self.name_said || new.name_said;
        let mut settings = self.fixed().into_iter().zip(new.fixed());
        match settings.find(|(old, new)| old != new && is_kept(old.0)) {
            None => Ok(()),
            Some(((setting, old), (_, new))) => Err(ConfigError(format!(
                "a restart cannot change {setting:?} from {old} to {new}: that needs a stop and a start"
            ))),
        }
    }

    /// The settings that stay as they are until the process ends.
    fn fixed(&self) -> Vec<(&'static str, String)> {
        let socket = match &self.socket {
            Some(path) => format!("{path:?}"),
            None => "what belongs to the name".into(),
        };
        let form = if self.log.verbose(false) == Log::json() { Form::Json } else { Form::Text };
        let mut fixed = vec![
            ("server", self.server.kind().into()),
            ("listen", self.server.listen()),
            ("name", self.name.to_string()),
            ("admin", word(self.admin)),
            ("socket", socket),
            ("health", self.health.map_or_else(|| "none".into(), |health| health.to_string())),
            ("log", word(form)),
            ("on-hup", word(self.on_hup)),
            ("console", word(self.console)),
            ("socket-mode", self.server.socket_mode()),
        ];
        fixed.extend(self.server.relay());
        fixed
    }
}

impl Options {
    pub(super) fn log(&self) -> Log {
        let log = match self.log {
            Form::Text => Log::text(),
            Form::Json => Log::json(),
        };
        log.verbose(self.verbose)
    }
}

/// All settings but those of which a program has more to say, as they were said.
fn parts(said: &ArgMatches) -> Vec<Part> {
    let cli = ServerCli::command();
    let Some((kind, said)) = said.subcommand() else { return Vec::new() };
    let of_program = |name: &str| kind == "exec" && ["program", "dir", "env-file"].contains(&name);
    let names = cli.find_subcommand(kind).into_iter().flat_map(definitions);
    names
        .filter(|definition| !of_program(setting(definition)))
        .map(|definition| {
            let values = said.get_raw(definition.get_id().as_str()).into_iter().flatten();
            let values: Vec<_> = values.map(|value| value.display().to_string()).collect();
            Part { name: setting(definition).to_owned(), value: values.join(" "), secret: false }
        })
        .collect()
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

/// What needs a relay, and what a relay needs.
fn check_relay(
    relay: Option<RelayKind>,
    relaying: &Relaying,
    listen: &[ProgramSocket],
    passed: &[Address],
    ready: Option<&Ready>,
    check: Option<&CheckKind>,
) -> Result<(), ConfigError> {
    let refuse = |message: String| Err(ConfigError(message));
    let Relaying { forwarded, wait, answer_within, max_connections } = relaying;
    let of_http = [("forwarded", forwarded.is_some()), ("answer-within", answer_within.is_some())];
    let of_all = [("wait", wait.is_some()), ("max-connections", max_connections.is_some())];
    let said = |options: &[(&'static str, bool)]| options.iter().find(|(_, said)| *said).map(|(name, _)| *name);
    let Some(relay) = relay else {
        let private = [
            ("ready", matches!(ready, Some(Ready::Probe(probe)) if probe.needs_private_port())),
            ("check", matches!(check, Some(CheckKind::Probe(probe)) if probe.needs_private_port())),
        ];
        return match (said(&of_http).or(said(&of_all)), said(&private)) {
            (Some(name), _) => {
                refuse(format!("{name:?} needs \"relay\": without it the program serves its clients itself"))
            }
            (None, Some(name)) => refuse(format!(
                "{name:?} has no address, and only \"relay\" gives the program a private port: say connect=8000 or \
                 http=http://127.0.0.1:8000/path"
            )),
            (None, None) => Ok(()),
        };
    };
    if let (RelayKind::Tcp, Some(name)) = (relay, said(&of_http)) {
        return refuse(format!(
            "{name:?} is for \"relay\": \"http\"; with \"tcp\" the bytes are passed on as they are"
        ));
    }
    match (passed, listen) {
        ([], _) | ([Address::Tcp(_)], []) => {}
        ([Address::Tcp(passed)], [listen]) if listen.address == Address::Tcp(*passed) => {}
        ([Address::Tcp(passed)], listen) => return Err(another(&in_words(listen), passed)),
        #[cfg(unix)]
        ([Address::Unix(path)], _) => {
            return refuse(format!(
                "\"relay\" has TCP clients only, and the service manager passed a Unix socket ({}); in a .socket unit \
                 write ListenStream= with a port",
                path.display()
            ));
        }
        ([_, _, ..], _) => {
            return refuse(format!(
                "\"relay\" has one address, and the service manager passed several sockets ({}); keep one",
                in_words(passed)
            ));
        }
    }
    match listen {
        [] if !passed.is_empty() => Ok(()),
        [] => refuse("\"relay\" needs \"listen\": the address on which clients connect".into()),
        [ProgramSocket { address: Address::Tcp(_), name: None, .. }] => Ok(()),
        [ProgramSocket { name: Some(name), .. }] => refuse(format!(
            "\"listen\" has the name {name}, but with \"relay\" the program gets no socket; leave the name out"
        )),
        #[cfg(unix)]
        [socket @ ProgramSocket { address: Address::Unix(_), .. }] => {
            refuse(format!("\"relay\" has TCP clients only, and \"listen\" is {socket}; say a port"))
        }
        [_, _, ..] => refuse("\"relay\" has one address, and \"listen\" has several; keep one".into()),
    }
}

/// Whether clients can be let go over that time.
fn check_spread(spread: Duration, grace: Duration, server: &Server) -> Result<(), ConfigError> {
    if !spread.is_zero() && matches!(server, Server::Exec { front: Front::Sockets(_), .. }) {
        return Err(ConfigError("\"spread\" needs \"relay\": without it only the program knows its clients".into()));
    }
    if spread > grace {
        let (spread, grace) = (Seconds(spread), Seconds(grace));
        return Err(ConfigError(format!(
            "\"spread\" is {spread}, and \"grace\" is {grace}: say at most {grace}, or give more"
        )));
    }
    Ok(())
}

/// The options of a program that exclude each other.
fn check_addresses(
    listen: &[ProgramSocket],
    passed: &[Address],
    relayed: bool,
    mode: Option<u32>,
    ready: Option<&Ready>,
    check: Option<&CheckKind>,
) -> Result<(), ConfigError> {
    let any_port = |address: &Address| address.tcp().is_some_and(|address| address.port() == 0);
    let mut rest = listen;
    while let [ProgramSocket { address, name, .. }, others @ ..] = rest {
        if others.iter().any(|other| other.address == *address) && !any_port(address) {
            return Err(ConfigError(format!("\"listen\" has {address} twice; keep one")));
        }
        if let Some(name) = name
            && others.iter().any(|other| other.name.as_ref() == Some(name))
        {
            return Err(ConfigError(format!("\"listen\" has the name {name} twice; choose another one")));
        }
        if !relayed && passed.contains(address) {
            return Err(ConfigError(format!(
                "\"listen\" has {address}, and the service manager passes a socket on it: leave it out of \"listen\", since \
                 the program gets the sockets that are passed in any case"
            )));
        }
        rest = others;
    }
    if mode.is_some() && listen.iter().all(|listen| listen.address.tcp().is_some()) {
        return Err(ConfigError("\"socket-mode\" is for Unix sockets, and \"listen\" has none".into()));
    }
    let ready = match ready {
        Some(Ready::Probe(probe)) => Some(probe),
        _ => None,
    };
    let check = match check {
        Some(CheckKind::Probe(probe)) => Some(probe),
        _ => None,
    };
    for (option, probe, instead) in
        [("--ready", ready, "http=URL, --ready notify or a time"), ("--check", check, "http=URL or --check notify")]
    {
        if let Some(Probe::Connect(address)) = probe
            && (listen.iter().any(|listen| listen.address == *address) || passed.contains(address))
        {
            return Err(ConfigError(format!(
                "{option} connect={address} cannot work with --listen {address}: the supervisor itself holds that \
                 socket. Use {option} {instead}."
            )));
        }
    }
    Ok(())
}
