//! The settings of the program `supervisor`: its command line, and the file that `--config` names.
//!
//! Both have one definition, that of the command line. What the file says is made into arguments (`{"grace": 5}` into
//! `--grace=5`) and put before those of the command line; clap parses them together, and the last one counts.

mod file;
pub mod generate;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::{IntErrorKind, ParseIntError};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use clap::builder::{PathBufValueParser, PossibleValue, TypedValueParser};
use clap::parser::ValueSource;
use clap::{Arg, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::child::{Program, Ready};
use crate::exit::Exit;
#[cfg(windows)]
use crate::host::windows_service::{self as service, ServiceError};
use crate::instance::InstanceName;
#[cfg(unix)]
use crate::instance::MAX_SOCKET_PATH;
use crate::journal::Journal;
use crate::listen::{Address, ProgramSocket, in_words};
use crate::log::{Level, Log};
use crate::restart::{RestartMode, RestartPolicy};
use crate::settings::{AdminSocket, Console, OnHup};
use crate::text::parse_seconds;
use crate::version::version;
use file::ConfigFile;
use generate::Generate;

/// How long the name of a socket may be, by sd_listen_fds(3).
#[cfg(unix)]
const MAX_SOCKET_NAME: usize = 255;

/// The kinds of servers, as the command line names them.
pub const KINDS: &[&str] = &["echo", "command", "http", "exec"];

/// Run a server, and stop it so that every client is told: on Enter, a signal, or `admin-cli stop`.
#[derive(Debug, Parser)]
#[command(name = "supervisor", version = version(), arg_required_else_help = true, args_override_self = true)]
#[command(after_help = "Examples:
  supervisor http . --listen 8080       serve this directory on 127.0.0.1:8080
  supervisor echo --grace 30            give clients half a minute to leave
  supervisor exec -- python3 -m http.server 8888
  admin-cli stop                        stop it from another terminal or a script")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
#[cfg_attr(unix, expect(clippy::large_enum_variant, reason = "there is only one at a time"))]
enum Command {
    #[command(flatten)]
    Server(Server),
    /// Install, uninstall or be a service of Windows
    #[cfg(windows)]
    #[command(subcommand)]
    #[command(after_help = r"Examples:
  supervisor service install http C:\www --listen 0.0.0.0:80 --name files
  net start files                            start it now
  admin-cli --name files status
  supervisor service uninstall files

What stands behind `install` is what would run the server here, with paths from the root.
The service has the name of the instance, and is LocalService, which has to be able to
read what is served. All of it is for administrators.")]
    Service(Service),
    #[command(flatten)]
    Generate(Generate),
}

#[cfg(windows)]
#[derive(Debug, Subcommand)]
enum Service {
    /// Install a service that runs a server from the next start of the system on
    Install {
        #[command(subcommand)]
        server: Server,
    },
    /// Stop a service, wait until it has stopped, and remove it
    Uninstall {
        /// The name of the service
        name: InstanceName,
    },
    /// What the service manager runs
    Run {
        #[command(subcommand)]
        server: Server,
    },
}

/// The servers alone: what the command line and a file say together.
#[derive(Debug, Parser)]
#[command(name = "supervisor", args_override_self = true)]
struct Servers {
    #[command(subcommand)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Server {
    /// Send back what comes; SHUTDOWN to every client on stop
    #[command(after_help = "Examples:
  supervisor echo --listen 7000
  supervisor echo --name lobby --grace 1m30s     give clients a minute and a half to leave")]
    Echo {
        /// Address to listen on: a port, or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        connections: Connections,
        #[command(flatten)]
        options: Options,
    },
    /// Answer one command a line: SONG, QUOTE, POEM, HAIKU, HELP, QUIT
    #[command(after_help = "Examples:
  supervisor command --listen 0.0.0.0:31310      for other machines, too
  supervisor command --max-connections 100 --verbose")]
    Command {
        /// Address to listen on: a port, or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:31310", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        connections: Connections,
        #[command(flatten)]
        options: Options,
    },
    /// Serve the files of a directory over HTTP
    #[cfg_attr(
        unix,
        command(after_help = "Examples:
  supervisor http public --listen 8080
  supervisor http --config web.json --on-hup restart
  supervisor http . --check-every 10s            restart it when it hangs")
    )]
    #[cfg_attr(
        windows,
        command(after_help = "Examples:
  supervisor http public --listen 8080
  supervisor http --config web.json
  supervisor http . --check-every 10s            restart it when it hangs")
    )]
    Http {
        /// Directory to serve [default: .]
        dir: Option<PathBuf>,
        /// Address to listen on: a port, or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:8000", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        connections: Connections,
        #[command(flatten)]
        options: Options,
    },
    /// Run any program: stop, restart and replace it
    #[cfg_attr(
        unix,
        command(after_help = "Examples:
  supervisor exec -- python3 -m http.server 8888
  supervisor exec --ready connect=8888 -- python3 -m http.server 8888
  supervisor exec --listen 8000 --ready notify --grace 30s -- ./server
  supervisor exec --name queue --restart always --stop-signal INT -- ./worker --fast")
    )]
    #[cfg_attr(
        windows,
        command(after_help = "Examples:
  supervisor exec -- python -m http.server 8888
  supervisor exec --ready connect=8888 -- python -m http.server 8888
  supervisor exec --name queue --restart always --grace 30s -- worker.exe --fast")
    )]
    Exec {
        /// Address whose socket the program gets, by the protocol of sd_listen_fds(3): a port, an address and a port,
        /// or the path of a Unix socket (/run/app.sock), each with a name before it if need be (web=8000); more than
        /// once for several
        #[arg(short, long, value_name = "ADDR", value_parser = parse_passed, hide = cfg!(windows))]
        listen: Vec<ProgramSocket>,
        /// Mode of the Unix sockets among them: who may connect [default: 666, everybody]
        #[arg(long, value_name = "MODE", value_parser = parse_mode, hide = cfg!(windows))]
        socket_mode: Option<u32>,
        /// What asks the program to end [default: TERM]
        #[arg(long, value_name = "SIGNAL", value_parser = parse_signal, hide = cfg!(windows))]
        stop_signal: Option<i32>,
        #[cfg_attr(
            unix,
            doc = "When the program is ready: it says so (notify), its address answers (connect=ADDR), or after a \
                   time (2s) [default: at once]"
        )]
        #[cfg_attr(
            windows,
            doc = "When the program is ready: its address answers (connect=ADDR), or after a time (2s) [default: at \
                   once]"
        )]
        #[arg(long, value_name = "WHEN", value_parser = parse_ready)]
        ready: Option<Ready>,
        /// How long that may take
        #[arg(long, value_name = "TIME", default_value = "30", value_parser = parse_interval)]
        ready_within: Duration,
        #[command(flatten)]
        options: Options,
        /// The program and its arguments
        #[arg(last = true, required = true, value_name = "PROGRAM")]
        program: Vec<OsString>,
    },
}

/// What only a server of our own has.
#[derive(Debug, Args)]
struct Connections {
    /// How many connections are served at once
    #[arg(long, value_name = "N", default_value_t = default_max_connections(), value_parser = parse_number::<usize>)]
    max_connections: usize,
    /// Connect to the server that often, and restart it when it takes no connections
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    check_every: Option<Duration>,
}

#[derive(Debug, Args)]
struct Options {
    /// Settings from a JSON file, with the names of these options; read again at each restart
    #[arg(long, value_name = "FILE", value_parser = PathBufValueParser::new().try_map(ConfigFile::new))]
    config: Option<ConfigFile>,
    /// Name by which admin-cli finds this instance [default: the server's]
    #[arg(short, long)]
    name: Option<InstanceName>,
    /// How long clients get to leave on a stop
    #[arg(short, long, value_name = "TIME", default_value = "5", value_parser = parse_seconds)]
    grace: Duration,
    /// Start the server again when it ends by itself
    #[arg(long, value_name = "MODE", default_value = "on-failure")]
    restart: RestartMode,
    /// Give up when the server crashes more often than this within the period
    #[arg(long, value_name = "N", default_value = "5", value_parser = parse_number::<u32>)]
    max_restarts: u32,
    /// The period within which crashes are counted
    #[arg(long, value_name = "TIME", default_value = "60", value_parser = parse_interval)]
    period: Duration,
    /// What SIGHUP does
    #[cfg_attr(unix, arg(long, value_name = "ACTION", default_value = "stop"))]
    #[cfg_attr(windows, arg(long, default_value = "stop", value_parser = parse_on_hup, hide = true))]
    on_hup: OnHup,
    /// Where Enter is heard: on stdin if that is a terminal, or on stdin whatever that is
    #[arg(long, value_name = "WHERE", default_value = "terminal")]
    console: Console,
    /// Admin socket for admin-cli: start without it if it cannot be had, require it, or have none
    #[arg(long, value_name = "MODE", default_value = "try")]
    admin: AdminSocket,
    #[cfg_attr(
        unix,
        doc = "Path of the admin socket, in a directory of its user alone [default: what belongs to the name]"
    )]
    #[cfg_attr(windows, doc = r"Path of the admin pipe (\\.\pipe\web) [default: what belongs to the name]")]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Address for GET /ready, /live and /metrics over HTTP: a port, or an address and a port
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    health: Option<SocketAddr>,
    /// Form of the log on stderr
    #[arg(long, value_name = "FORM", default_value = "text")]
    log: Form,
    /// Log each connection and each request, too
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Text,
    Json,
}

// The words for these are written out: with `derive`, `--help` would show each of them in a paragraph of its own.

impl ValueEnum for RestartMode {
    fn value_variants<'a>() -> &'a [RestartMode] {
        &[RestartMode::Always, RestartMode::OnFailure, RestartMode::Never]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            RestartMode::Always => "always",
            RestartMode::OnFailure => "on-failure",
            RestartMode::Never => "never",
        }))
    }
}

impl ValueEnum for OnHup {
    fn value_variants<'a>() -> &'a [OnHup] {
        &[OnHup::Restart, OnHup::Stop]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            OnHup::Restart => "restart",
            OnHup::Stop => "stop",
        }))
    }
}

impl ValueEnum for Console {
    fn value_variants<'a>() -> &'a [Console] {
        &[Console::Terminal, Console::Stdin]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Console::Terminal => "terminal",
            Console::Stdin => "stdin",
        }))
    }
}

impl ValueEnum for AdminSocket {
    fn value_variants<'a>() -> &'a [AdminSocket] {
        &[AdminSocket::Try, AdminSocket::Require, AdminSocket::Off]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            AdminSocket::Try => "try",
            AdminSocket::Require => "require",
            AdminSocket::Off => "off",
        }))
    }
}

/// A command line, and the file that it names.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The program, the kind of its server, and the rest.
    arguments: Vec<OsString>,
    kind: &'static str,
    /// Whether the command line says which directory is served: that cannot be said twice.
    has_dir: bool,
    /// Whether the command line has addresses of a program: those of the file would come in addition.
    has_listen: bool,
    log: Log,
    file: Option<ConfigFile>,
    #[cfg(windows)]
    is_service: bool,
}

impl Invocation {
    /// Parses the command line of this process. If that asks for help, completions or man pages, is wrong, or installs
    /// or uninstalls a service, the process ends here.
    pub fn from_command_line() -> Invocation {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        match Cli::try_parse_from(&arguments).unwrap_or_else(|error| error.exit()).command {
            Command::Server(server) => Invocation::new(arguments, server),
            #[cfg(windows)]
            Command::Service(Service::Run { server }) => {
                Invocation { is_service: true, ..Invocation::new(without_service(arguments), server) }
            }
            #[cfg(windows)]
            Command::Service(Service::Install { server }) => {
                end(Invocation::new(without_service(arguments), server).install())
            }
            #[cfg(windows)]
            Command::Service(Service::Uninstall { name }) => end(service::uninstall(&name)),
            Command::Generate(wanted) => {
                let exit = wanted.write(Cli::command()).map_or_else(
                    |message| {
                        let journal = Journal::new(Log::text());
                        journal.line(Level::Error, "not_written", message, []);
                        journal.flush();
                        Exit::Failed
                    },
                    |()| Exit::Done,
                );
                std::process::exit(exit as i32)
            }
        }
    }

    fn parse(arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
        let server = Servers::try_parse_from(&arguments)?.server;
        Ok(Invocation::new(arguments, server))
    }

    fn new(arguments: Vec<OsString>, server: Server) -> Invocation {
        let has_dir = matches!(server, Server::Http { dir: Some(_), .. });
        let (server, _, _, options) = server.parts();
        let has_listen = matches!(&server, ServerKind::Exec { listen, .. } if !listen.is_empty());
        Invocation {
            arguments,
            kind: server.kind(),
            has_dir,
            has_listen,
            log: options.log(),
            file: options.config,
            #[cfg(windows)]
            is_service: false,
        }
    }

    /// Whether the service manager is to run this, see [`crate::host::windows_service::run`].
    #[cfg(windows)]
    pub fn is_service(&self) -> bool {
        self.is_service
    }

    #[cfg(windows)]
    fn install(&self) -> Result<String, ServiceError> {
        let config = self.read().map_err(|error| ServiceError::new(error.to_string()))?;
        let file = self.file.as_ref().map(|file| Path::new(&file.named));
        service::install(&config, file, self.arguments.get(1..).unwrap_or_default())
    }

    /// The log that the command line alone asks for: for what there is to say when the file is wrong.
    pub fn log(&self) -> Log {
        self.log
    }

    /// Reads the file, if one is named, and puts it together with the command line, which counts more. For the start,
    /// and again for each restart.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong.
    pub fn read(&self) -> Result<Config, ConfigError> {
        let Some(file) = &self.file else { return Config::parse(&self.arguments) };
        let mut settings = file.arguments(&Servers::command(), self.kind, self.has_dir)?;
        if self.has_listen {
            settings.retain(|setting| !setting.as_encoded_bytes().starts_with(b"--listen="));
        }
        // No argument stands between the program and the kind of its server.
        let (before, after) = self.arguments.split_at(self.arguments.len().min(2));
        let together: Vec<_> = before.iter().chain(&settings).chain(after).collect();
        Config::parse(together)
    }
}

/// The command line of a server from one that has `service install` or `service run` before it.
#[cfg(windows)]
fn without_service(mut arguments: Vec<OsString>) -> Vec<OsString> {
    arguments.drain(1..3);
    arguments
}

/// Ends the process, and says what became of a service.
#[cfg(windows)]
fn end(done: Result<String, ServiceError>) -> ! {
    use std::io::Write;
    let exit = done.map_or_else(
        |error| {
            let journal = Journal::new(Log::text());
            journal.line(Level::Error, "service", &error, []);
            journal.flush();
            error.exit()
        },
        |said| {
            let _ = std::io::stdout().write_all(said.as_bytes()); // It is done, whoever reads that.
            Exit::Done
        },
    );
    std::process::exit(exit as i32)
}

/// Whether a file is right for a kind of server, one of [`KINDS`], without a command line.
///
/// # Errors
/// When it cannot be read or is wrong.
pub fn check(file: &Path, kind: &str) -> Result<Config, ConfigError> {
    let mut config = OsString::from("--config=");
    config.push(file);
    let cli = Servers::command();
    let rest = cli.find_subcommand(kind).map(not_in_a_file).unwrap_or_default();
    let line = ["supervisor".into(), kind.into(), config].into_iter().chain(rest).collect();
    Invocation::parse(line).map_err(|error| ConfigError::clap(&error))?.read()
}

/// Whether all settings in a file are those of a kind of server, whatever their values are.
pub fn has_settings_of(file: &Path, kind: &str) -> bool {
    ConfigFile::new(file.to_owned()).is_ok_and(|file| file.has_settings_of(&Servers::command(), kind))
}

/// What has to be on the command line of this server, since no file can say it: any program.
fn not_in_a_file(server: &clap::Command) -> Vec<OsString> {
    let has_program = server.get_arguments().any(Arg::is_last_set);
    if has_program { vec!["--".into(), "program".into()] } else { Vec::new() }
}

/// What is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerKind {
    /// What comes is sent back.
    Echo,
    /// One command a line is answered.
    Command,
    /// Files over HTTP.
    Http {
        /// The directory with the files.
        dir: PathBuf,
    },
    /// A program.
    Exec {
        /// What to run, and how.
        program: Program,
        /// The sockets that it gets.
        listen: Vec<ProgramSocket>,
    },
}

impl ServerKind {
    /// Its name on the command line, one of [`KINDS`].
    pub fn kind(&self) -> &'static str {
        match self {
            ServerKind::Echo => "echo",
            ServerKind::Command => "command",
            ServerKind::Http { .. } => "http",
            ServerKind::Exec { .. } => "exec",
        }
    }

    /// The addresses, for people.
    fn listen(&self, one: SocketAddr) -> String {
        match self {
            ServerKind::Echo | ServerKind::Command | ServerKind::Http { .. } => one.to_string(),
            ServerKind::Exec { listen, .. } if listen.is_empty() => "nothing".into(),
            ServerKind::Exec { listen, .. } => in_words(listen),
        }
    }

    /// The mode of its Unix sockets, for people.
    fn socket_mode(&self) -> String {
        match self {
            #[cfg(unix)]
            ServerKind::Exec { listen, .. } => {
                format!("{:o}", listen.first().map_or(crate::listen::DEFAULT_MODE, |listen| listen.mode))
            }
            #[cfg(windows)]
            ServerKind::Exec { .. } => String::new(),
            ServerKind::Echo | ServerKind::Command | ServerKind::Http { .. } => String::new(),
        }
    }

    /// The name of its instance, unless told otherwise.
    fn name(&self) -> &str {
        match self {
            ServerKind::Echo | ServerKind::Command | ServerKind::Http { .. } => self.kind(),
            ServerKind::Exec { program, .. } => {
                Path::new(&program.program).file_name().and_then(|name| name.to_str()).unwrap_or("exec")
            }
        }
    }
}

/// All settings, with the defaults for what was not said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What is served.
    pub server: ServerKind,
    /// The address to listen on. A program has its own, see [`ServerKind::Exec`].
    pub listen: SocketAddr,
    /// Whether that was said, and is not the default.
    pub listen_said: bool,
    /// The name by which `admin-cli` finds the instance.
    pub name: InstanceName,
    /// How long clients get to leave.
    pub grace: Duration,
    /// How many connections are served at once. A program looks after that itself.
    pub max_connections: usize,
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
    /// How often the server is tried. None: never.
    pub check_every: Option<Duration>,
    /// What SIGHUP does.
    pub on_hup: OnHup,
    /// Where Enter is heard.
    pub console: Console,
}

impl Config {
    fn parse(arguments: impl IntoIterator<Item: Into<OsString> + Clone>) -> Result<Config, ConfigError> {
        let wrong = |error| ConfigError::clap(&error);
        let said = Servers::command().try_get_matches_from(arguments).map_err(wrong)?;
        let listen_said = said.subcommand().is_some_and(|(_, said)| {
            said.value_source("listen").is_some_and(|source| source != ValueSource::DefaultValue)
        });
        let server = Servers::from_arg_matches(&said).map_err(wrong)?.server;
        if let Server::Exec { listen, socket_mode, ready, .. } = &server {
            check_addresses(listen, *socket_mode, ready.as_ref())?;
        }
        let (server, listen, connections, options) = server.parts();
        Ok(Config {
            // The kinds' own names are valid.
            name: options.name.clone().or_else(|| server.name().parse().ok()).unwrap_or_default(),
            log: options.log(),
            server,
            listen,
            listen_said,
            grace: options.grace,
            max_connections: connections.as_ref().map_or(0, |connections| connections.max_connections),
            admin: options.admin,
            socket: options.socket,
            health: options.health,
            restart: RestartPolicy {
                mode: options.restart,
                max_restarts: options.max_restarts,
                period: options.period,
            },
            check_every: connections.and_then(|connections| connections.check_every),
            on_hup: options.on_hup,
            console: options.console,
        })
    }

    /// These settings for a server on a socket that was passed to this process. It is bound already, so its address is
    /// the one that counts.
    ///
    /// # Errors
    /// When another one was said.
    pub fn listen_on(self, passed: SocketAddr) -> Result<Config, ConfigError> {
        if self.listen_said && self.listen != passed {
            return Err(ConfigError(format!(
                "\"listen\" is {}, but the service manager passed a socket on {passed}: leave --listen out, or say the \
                 same in both places",
                self.server.listen(self.listen)
            )));
        }
        Ok(Config { listen: passed, ..self })
    }

    /// Whether a restart can lead from these settings to the new ones. It keeps the process, its listener, its name and
    /// its admin socket, so it cannot change what these were made from.
    ///
    /// # Errors
    /// When it cannot: the message names the setting.
    pub fn check_change(&self, new: &Config) -> Result<(), ConfigError> {
        match self.fixed().into_iter().zip(new.fixed()).find(|(old, new)| old != new) {
            None => Ok(()),
            Some(((setting, old), (_, new))) => Err(ConfigError(format!(
                "a restart cannot change {setting:?} from {old} to {new}: that needs a stop and a start"
            ))),
        }
    }

    /// What stays as it is until the process ends.
    fn fixed(&self) -> [(&'static str, String); 10] {
        let socket = match &self.socket {
            Some(path) => format!("{path:?}"),
            None => "what belongs to the name".into(),
        };
        let form = if self.log.verbose(false) == Log::json() { Form::Json } else { Form::Text };
        [
            ("server", self.server.kind().into()),
            ("listen", self.server.listen(self.listen)),
            ("name", self.name.to_string()),
            ("admin", word(self.admin)),
            ("socket", socket),
            ("health", self.health.map_or_else(|| "none".into(), |health| health.to_string())),
            ("log", word(form)),
            ("on-hup", word(self.on_hup)),
            ("console", word(self.console)),
            ("socket-mode", self.server.socket_mode()),
        ]
    }
}

/// The word for a value, as the settings have it.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What is wrong with the settings, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl ConfigError {
    /// What clap has to say, without the usage of the command line.
    fn clap(error: &clap::Error) -> ConfigError {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        ConfigError(line.strip_prefix("error: ").unwrap_or(line).to_owned())
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Server {
    fn parts(self) -> (ServerKind, SocketAddr, Option<Connections>, Options) {
        match self {
            Server::Echo { listen, connections, options } => (ServerKind::Echo, listen, Some(connections), options),
            Server::Command { listen, connections, options } => {
                (ServerKind::Command, listen, Some(connections), options)
            }
            Server::Http { dir, listen, connections, options } => {
                (ServerKind::Http { dir: dir.unwrap_or_else(|| ".".into()) }, listen, Some(connections), options)
            }
            #[cfg_attr(windows, allow(unused_variables))]
            Server::Exec { mut listen, socket_mode, stop_signal, ready, ready_within, options, program } => {
                #[cfg(unix)]
                if let Some(mode) = socket_mode {
                    listen.iter_mut().for_each(|listen| listen.mode = mode);
                }
                let mut line = program.into_iter();
                let program = Program {
                    program: line.next().unwrap_or_default(),
                    args: line.collect(),
                    #[cfg(unix)]
                    stop_signal: stop_signal.unwrap_or(nix::sys::signal::Signal::SIGTERM as i32),
                    ready: ready.unwrap_or(Ready::AtOnce),
                    ready_within,
                };
                (ServerKind::Exec { program, listen }, ([0, 0, 0, 0], 0).into(), None, options)
            }
        }
    }
}

impl Options {
    fn log(&self) -> Log {
        let log = match self.log {
            Form::Text => Log::text(),
            Form::Json => Log::json(),
        };
        log.verbose(self.verbose)
    }
}

/// 10,000, or fewer if the system gives fewer descriptors: some are kept for files, admin clients and refusals.
#[cfg(unix)]
fn default_max_connections() -> usize {
    use nix::sys::resource::{Resource, getrlimit};
    const MOST: u64 = 10_000;
    const KEPT: u64 = 100;
    let most = |limit: u64| (limit - KEPT.min(limit / 2)).clamp(1, MOST);
    let most = getrlimit(Resource::RLIMIT_NOFILE).map_or(MOST, |(soft, _)| most(soft));
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Windows has no such limit on handles.
#[cfg(windows)]
fn default_max_connections() -> usize {
    10_000
}

/// What cannot go together in what a program is given.
fn check_addresses(listen: &[ProgramSocket], mode: Option<u32>, ready: Option<&Ready>) -> Result<(), ConfigError> {
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
        rest = others;
    }
    if mode.is_some() && listen.iter().all(|listen| listen.address.tcp().is_some()) {
        return Err(ConfigError("\"socket-mode\" is for Unix sockets, and \"listen\" has none".into()));
    }
    match ready {
        Some(Ready::Connect(address)) if listen.iter().any(|listen| listen.address == *address) => {
            Err(ConfigError(format!(
                "the queue of {address} answers before any program does, since its socket is ours: say --ready notify or a \
             time"
            )))
        }
        Some(_) | None => Ok(()),
    }
}

/// An address whose socket a program gets, with or without a name for that.
#[cfg(unix)]
fn parse_passed(text: &str) -> Result<ProgramSocket, String> {
    // A path may have a `=`, too.
    let (name, address) = match text.split_once('=') {
        Some((name, address)) if !is_for_a_unix_socket(text) => (Some(name), address),
        Some(_) | None => (None, text),
    };
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    match name {
        Some(name) if name.is_empty() || name.len() > MAX_SOCKET_NAME || !name.chars().all(allowed) => {
            Err("a socket's name has letters, digits, dots, hyphens and underscores: web=8000".into())
        }
        _ => Ok(ProgramSocket { name: name.map(str::to_owned), ..parse_any_address(address)?.into() }),
    }
}

#[cfg(windows)]
fn parse_passed(_text: &str) -> Result<ProgramSocket, String> {
    Err("on Windows no program gets sockets from another one: let it bind its address itself".into())
}

/// As chmod has it.
#[cfg(unix)]
fn parse_mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|&mode| mode <= 0o777 && text.len() >= 3);
    mode.ok_or_else(|| "say a mode as chmod has it: 660, 600".into())
}

#[cfg(windows)]
fn parse_mode(_text: &str) -> Result<u32, String> {
    Err("on Windows no program gets sockets from another one".into())
}

#[cfg(windows)]
fn parse_any_address(text: &str) -> Result<Address, String> {
    parse_address(text).map(Address::Tcp)
}

/// Any address that a socket for a program can have.
#[cfg(unix)]
fn parse_any_address(text: &str) -> Result<Address, String> {
    if !is_for_a_unix_socket(text) {
        let words =
            "say a port (8000), an address and a port (0.0.0.0:8000) or the path of a Unix socket (/run/app.sock)";
        return parse_address(text).map(Address::Tcp).map_err(|_| words.into());
    }
    if !text.starts_with('/') || text.ends_with('/') {
        return Err("say the path of a Unix socket from the root, and nothing before it: /run/app.sock".into());
    }
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!("the path has {} bytes, and a socket's path at most {MAX_SOCKET_PATH}", text.len()));
    }
    // Without `//` and `/./`: the same path is the same address.
    Ok(Address::Unix(Path::new(text).components().collect()))
}

/// As nginx and gunicorn write it, it is meant for one, too.
fn is_for_a_unix_socket(text: &str) -> bool {
    text.starts_with('/') || text.starts_with("unix:")
}

/// A port, a host and a port, or an address and a port.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if is_for_a_unix_socket(text) {
        return Err("only exec has Unix sockets; say a port (8000) or an address and a port (0.0.0.0:8000)".into());
    }
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Ok(([127, 0, 0, 1], port).into());
    }
    let addresses = text.to_socket_addrs().map_err(|_| "say a port (8000) or an address and a port (0.0.0.0:8000)")?;
    addresses.into_iter().next().ok_or_else(|| format!("{text} has no address"))
}

/// A file that is meant for other systems, too, may say what is done here anyway.
#[cfg(windows)]
fn parse_on_hup(text: &str) -> Result<OnHup, String> {
    match text {
        "stop" => Ok(OnHup::Stop),
        _ => Err("Windows has no signals: say admin-cli restart instead".into()),
    }
}

#[cfg(windows)]
fn parse_signal(_text: &str) -> Result<i32, String> {
    Err("Windows has no signals: a program is asked to end by Ctrl-Break".into())
}

/// A signal's name, with or without SIG, or its number.
#[cfg(unix)]
fn parse_signal(text: &str) -> Result<i32, String> {
    use nix::sys::signal::Signal;
    let name = text.to_uppercase();
    let named = name.parse::<Signal>().or_else(|_| format!("SIG{name}").parse());
    let numbered = || text.parse::<i32>().ok().and_then(|number| Signal::try_from(number).ok());
    let signal = named.ok().or_else(numbered).ok_or("say a signal: TERM, INT, QUIT, HUP, USR1 …")?;
    Ok(signal as i32)
}

/// When a program is ready.
fn parse_ready(text: &str) -> Result<Ready, String> {
    if let Some(address) = text.strip_prefix("connect=") {
        return parse_any_address(address).map(Ready::Connect);
    }
    match text {
        #[cfg(unix)]
        "notify" => Ok(Ready::Notify),
        #[cfg(windows)]
        "notify" => Err("Windows has no sockets for that: say connect=8000 or a time (2s)".into()),
        _ => parse_seconds(text).map(Ready::After).map_err(|_| {
            let notify = if cfg!(unix) { "notify, " } else { "" };
            format!("say {notify}connect=8000 or a time (2s)")
        }),
    }
}

/// A duration that is not zero.
fn parse_interval(text: &str) -> Result<Duration, String> {
    match parse_seconds(text)? {
        Duration::ZERO => Err("say more than 0".into()),
        interval => Ok(interval),
    }
}

/// A whole number, with messages for people.
fn parse_number<T: FromStr<Err = ParseIntError>>(text: &str) -> Result<T, &'static str> {
    text.parse().map_err(|error: ParseIntError| match error.kind() {
        IntErrorKind::PosOverflow => "that is too much",
        _ => "say a whole number (0, 5, 100)",
    })
}
