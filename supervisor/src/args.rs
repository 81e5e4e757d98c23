//! The command line of `supervisor`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use supervisor::instance::InstanceName;
use supervisor::text::{Seconds, parse_seconds};
use supervisor::worker::handlers::{Commands, Echo, Http, Logged};
use supervisor::{AdminSocket, Exit, Handler, Level, Log, Supervisor};

/// Run a server, and stop it so that every client is told: on Enter, a signal, or `admin-cli stop`.
#[derive(Debug, Parser)]
#[command(name = "supervisor", version, arg_required_else_help = true)]
#[command(after_help = "Examples:
  supervisor http . --listen 8080       serve this folder on 127.0.0.1:8080
  supervisor echo --grace 30            give clients half a minute to leave
  admin-cli stop                        stop it from another terminal or a script")]
struct Cli {
    #[command(subcommand)]
    server: Server,
}

#[derive(Debug, Subcommand)]
enum Server {
    /// Send back what comes; SHUTDOWN to every client on stop
    Echo {
        /// Address to listen on: a port, or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        options: Options,
    },
    /// Answer one command a line: SONG, QUOTE, POEM, HAIKU, HELP, QUIT
    Command {
        /// Address to listen on: a port, or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:31310", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        options: Options,
    },
    /// Serve the files of a folder over HTTP
    Http {
        /// Folder to serve
        #[arg(default_value = ".")]
        dir: PathBuf,
        /// Address to listen on: a port, or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:8000", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        options: Options,
    },
}

#[derive(Debug, Args)]
struct Options {
    /// Name by which admin-cli finds this instance [default: the server's]
    #[arg(short, long)]
    name: Option<InstanceName>,
    /// How long clients get to leave on a stop
    #[arg(short, long, value_name = "SECONDS", default_value = "5", value_parser = parse_seconds)]
    grace: Duration,
    /// How many connections are served at once
    #[arg(long, value_name = "N", default_value_t = default_max_connections())]
    max_connections: usize,
    /// Admin socket for admin-cli: start without it if it cannot be had, require it, or have none
    #[arg(long, value_name = "MODE", default_value = "try")]
    admin: Admin,
    /// Path of the admin socket, in a folder of its user alone [default: what belongs to the name]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Form of the log on stderr
    #[arg(long, value_name = "FORM", default_value = "text")]
    log: Form,
    /// Log each connection and each request, too
    #[arg(short, long)]
    verbose: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Admin {
    Try,
    Require,
    Off,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    Text,
    Json,
}

/// Runs the program to its end.
pub(crate) fn run() -> Exit {
    let cli = Cli::parse();
    match cli.server {
        Server::Echo { listen, options } => supervise("echo", Echo, listen, options),
        Server::Command { listen, options } => supervise("command", Commands::new(), listen, options),
        Server::Http { dir, listen, options } => {
            let log = options.log();
            match Http::new(&dir) {
                Ok(http) if log.is_verbose() => {
                    supervise("http", http.log(move |request| log_request(log, request)), listen, options)
                }
                Ok(http) => supervise("http", http, listen, options),
                Err(error) => {
                    log.line(Level::Error, "not_started", &error, []);
                    let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
                    if denied { Exit::NotPermitted } else { Exit::Failed }
                }
            }
        }
    }
}

fn supervise(kind: &str, handler: impl Handler, address: SocketAddr, options: Options) -> Exit {
    let log = options.log();
    let mut supervisor = Supervisor::new(handler)
        .kind(kind)
        .grace(options.grace)
        .log(log)
        .max_connections(options.max_connections)
        .console()
        .signals()
        .last_resort()
        .admin(match options.admin {
            Admin::Try => AdminSocket::Try,
            Admin::Require => AdminSocket::Require,
            Admin::Off => AdminSocket::Off,
        });
    // The kinds' own names are valid.
    if let Some(name) = options.name.or_else(|| kind.parse().ok()) {
        supervisor = supervisor.name(name);
    }
    if let Some(path) = options.socket {
        supervisor = supervisor.socket(path);
    }
    match supervisor.start(address) {
        Err(error) => {
            log.line(Level::Error, "not_started", &error, []);
            error.exit()
        }
        // What went wrong has been logged by master control.
        Ok(running) => running.wait().map_or_else(|error| error.exit(), |report| report.exit()),
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

fn log_request(log: Log, logged: &Logged<'_>) {
    let Logged { peer, request, status, sent, took, .. } = logged;
    let message = format!("{peer} \"{request}\" {status} {sent} bytes in {}", Seconds(*took));
    let fields = [
        ("peer", peer.to_string().into()),
        ("request", (*request).into()),
        ("status", (*status).into()),
        ("sent", (*sent).into()),
    ];
    log.line(Level::Detail, "request", message, fields);
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

/// A port, a host and a port, or an address and a port.
fn parse_address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(port) = text.strip_prefix(':').unwrap_or(text).parse::<u16>() {
        return Ok(([127, 0, 0, 1], port).into());
    }
    let addresses = text.to_socket_addrs().map_err(|_| "say a port (8000) or an address and a port (0.0.0.0:8000)")?;
    addresses.into_iter().next().ok_or_else(|| format!("{text} has no address"))
}
