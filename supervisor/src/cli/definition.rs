//! The definition of the command line, which `--help` shows.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use super::addresses::{parse_address, parse_mode, parse_passed};
use super::generate::Generate;
use super::probes::{parse_check, parse_ready};
#[cfg(windows)]
use super::signals::parse_on_hup;
use super::signals::{Signals, parse_signal, parse_stop_signals, parse_stop_to};
use super::values::{
    Form, RelayKind, default_max_connections, parse_connections, parse_failures, parse_interval, parse_number,
    parse_relay,
};
use crate::child::{Check, CheckKind, Ready, StopTo};
use crate::instance::InstanceName;
use crate::listen::ProgramSocket;
use crate::restart::RestartMode;
use crate::settings::{AdminSocket, Console, Forwarded, OnHup};
use crate::text::parse_seconds;
use crate::version::version;

/// The kinds of servers, as the command line names them.
pub const KINDS: &[&str] = &["echo", "command", "http", "exec"];

/// Supervise a socket server: keep it running, and stop, restart or replace it without losing a request.
#[derive(Debug, Parser)]
#[command(name = "supervisor", version = version(), arg_required_else_help = true, args_override_self = true)]
#[command(after_help = "Examples:
  supervisor exec python3 -m http.server 8888
  supervisor http . --listen 8080       serve this directory on 127.0.0.1:8080
  admin-cli restart                     replace it, from another terminal or a script
  admin-cli stop                        stop it")]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
#[cfg_attr(unix, expect(clippy::large_enum_variant, reason = "there is only one at a time"))]
pub(super) enum Command {
    #[command(flatten)]
    Server(ServerArgs),
    /// Install or uninstall a Windows service, or run as one
    #[cfg(windows)]
    #[command(subcommand)]
    #[command(after_help = r"Examples:
  supervisor service install http C:\www --listen 0.0.0.0:80 --name files
  net start files                            start it now
  admin-cli --name files status
  supervisor service uninstall files

Everything after `install` is an ordinary `supervisor` command line, with absolute paths.
The service has the name of the instance and runs as LocalService, which must be able to
read what is served. These commands are for administrators.")]
    Service(ServiceCommand),
    #[command(flatten)]
    Generate(Generate),
}

#[cfg(windows)]
#[derive(Debug, Subcommand)]
pub(super) enum ServiceCommand {
    /// Install a service that runs a server whenever the system starts
    Install {
        #[command(subcommand)]
        server: ServerArgs,
    },
    /// Stop a service, wait until it has stopped, and remove it
    Uninstall {
        /// The name of the service
        name: InstanceName,
    },
    /// Run as a service: for the service manager
    Run {
        #[command(subcommand)]
        server: ServerArgs,
    },
}

/// The servers alone: what the command line and a file say together.
#[derive(Debug, Parser)]
#[command(name = "supervisor", args_override_self = true)]
pub(super) struct ServerCli {
    #[command(subcommand)]
    pub(super) server: ServerArgs,
}

#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant, reason = "there is only one at a time")]
pub(super) enum ServerArgs {
    /// Send back whatever a client sends; SHUTDOWN to every client on stop
    #[command(display_order = 2)]
    #[command(after_help = "Examples:
  supervisor echo --listen 7000
  supervisor echo --name lobby --grace 1m30s     give clients a minute and a half")]
    Echo {
        /// Address to listen on: a port (on 127.0.0.1), or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:9999", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        connections: Connections,
        #[command(flatten)]
        options: Options,
    },
    /// Answer one command per line: SONG, QUOTE, POEM, HAIKU, HELP, QUIT
    #[command(display_order = 3)]
    #[command(after_help = "Examples:
  supervisor command --listen 0.0.0.0:31310      for other machines, too
  supervisor command --max-connections 100 --verbose")]
    Command {
        /// Address to listen on: a port (on 127.0.0.1), or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:31310", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        connections: Connections,
        #[command(flatten)]
        options: Options,
    },
    /// Serve the files of a directory over HTTP
    #[command(display_order = 1)]
    #[cfg_attr(
        unix,
        command(after_help = "Examples:
  supervisor http public --listen 8080
  supervisor http --config web.json --on-hup restart
  supervisor http . --check-every 10s            restart it if it hangs")
    )]
    #[cfg_attr(
        windows,
        command(after_help = "Examples:
  supervisor http public --listen 8080
  supervisor http --config web.json
  supervisor http . --check-every 10s            restart it if it hangs")
    )]
    Http {
        /// Directory to serve [default: .]
        dir: Option<PathBuf>,
        /// Address to listen on: a port (on 127.0.0.1), or an address and a port
        #[arg(short, long, value_name = "ADDR", default_value = "127.0.0.1:8000", value_parser = parse_address)]
        listen: SocketAddr,
        #[command(flatten)]
        connections: Connections,
        #[command(flatten)]
        options: Options,
    },
    /// Supervise any program: start, restart, replace and stop it
    #[command(display_order = 0)]
    #[cfg_attr(
        unix,
        command(after_help = "Examples:
  supervisor exec python3 -m http.server 8888
  supervisor exec --ready connect=8888 python3 -m http.server 8888
  supervisor exec --listen 8000 --ready notify --grace 30s ./server
  supervisor exec --listen 8080 --relay http node server.js
  supervisor exec --name queue --restart always --stop-signal INT ./worker --fast
  supervisor exec --stop-to leader --grace 10m celery -A tasks worker")
    )]
    #[cfg_attr(
        windows,
        command(after_help = "Examples:
  supervisor exec python -m http.server 8888
  supervisor exec --ready connect=8888 python -m http.server 8888
  supervisor exec --name queue --restart always --grace 30s worker.exe --fast")
    )]
    Exec {
        /// Address whose socket the program inherits, by the protocol of sd_listen_fds(3): a port (on 127.0.0.1), an
        /// address and a port, or the path of a Unix socket (/run/app.sock), optionally with a name (web=8000); may be
        /// repeated
        #[arg(short, long, value_name = "ADDR", value_parser = parse_passed, hide = cfg!(windows))]
        listen: Vec<ProgramSocket>,
        /// Keep the port, and pass its connections on to the program, which listens on a private port (PORT in its
        /// environment, {port} in its arguments): http for HTTP/1, where kept-alive connections survive a restart, or
        /// tcp for any bytes (Linux, with one --listen)
        #[arg(long, value_name = "PROTOCOL", value_parser = parse_relay, hide = cfg!(not(target_os = "linux")))]
        relay: Option<RelayKind>,
        #[command(flatten)]
        relaying: Relaying,
        /// Mode of the Unix sockets of --listen, which decides who may connect [default: 666, all users]
        #[arg(long, value_name = "MODE", value_parser = parse_mode, hide = cfg!(windows))]
        socket_mode: Option<u32>,
        /// Signal that asks the program to stop, or several, each for a time, then KILL (QUIT:20s,TERM:5s)
        /// [default: TERM]
        #[arg(long, value_name = "SIGNAL", value_parser = parse_stop_signals, hide = cfg!(windows))]
        stop_signal: Option<Signals>,
        /// Which processes get --stop-signal: the program's own alone (leader), or its whole process group (group)
        /// [default: group]
        #[arg(long, value_name = "WHO", value_parser = parse_stop_to, hide = cfg!(windows))]
        stop_to: Option<StopTo>,
        /// Signal for a program that is taken out of rotation, by `admin-cli drain` or a delayed stop; with --relay
        /// also when its drain begins, before its last connection has ended and it gets --stop-signal
        #[arg(long, value_name = "SIGNAL", value_parser = parse_signal, hide = cfg!(windows))]
        drain_signal: Option<i32>,
        /// Signal for a program that is back in rotation, after `admin-cli resume` (with --drain-signal)
        #[arg(long, value_name = "SIGNAL", value_parser = parse_signal, hide = cfg!(windows))]
        resume_signal: Option<i32>,
        /// Exit codes of the program that count as success, besides 0 (143,130)
        #[arg(long, value_name = "CODE", value_delimiter = ',', value_parser = parse_number::<i32>)]
        success_exit: Vec<i32>,
        #[cfg_attr(
            unix,
            doc = "When the program counts as ready: when it says so (notify), answers (connect=ADDR, http=URL), a command \
                   succeeds (exec=COMMAND), or this time has passed (2s); with --relay, connect and http=/PATH mean its \
                   private port [default: when it listens on a socket of its own (Linux), or after 1s; with --relay, when \
                   it listens on its private port]"
        )]
        #[cfg_attr(
            windows,
            doc = "When the program counts as ready: when it answers (connect=ADDR, http=URL), or this time has passed \
                   (2s) [default: after 1s]"
        )]
        #[arg(long, value_name = "WHEN", value_parser = parse_ready)]
        ready: Option<Ready>,
        /// How long the program may take to become ready
        #[arg(long, value_name = "TIME", default_value = "30", value_parser = parse_interval)]
        ready_within: Duration,
        /// How long a new program serves beside the old one before the old one is stopped; if the new one exits, fails
        /// its check or never passes it in that time, it is withdrawn (with --listen)
        #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_seconds, hide = cfg!(windows))]
        overlap: Duration,
        #[command(flatten)]
        checks: Checks,
        /// Directory in which the program starts, looked up again at each start [default: where the supervisor was
        /// started]
        #[arg(long, value_name = "PATH")]
        dir: Option<PathBuf>,
        /// File with variables for the program (KEY=value), read again at each start
        #[arg(long, value_name = "FILE")]
        env_file: Option<PathBuf>,
        #[command(flatten)]
        options: Options,
        /// The program and its arguments: everything after its name is passed to it
        #[arg(trailing_var_arg = true, required_unless_present = "config", value_name = "PROGRAM")]
        program: Vec<OsString>,
    },
}

/// What only a relay has.
#[derive(Debug, Args)]
pub(super) struct Relaying {
    /// What becomes of X-Forwarded-For and X-Forwarded-Proto (with --relay http) [default: append]
    #[arg(long, value_name = "HOW", hide = cfg!(not(target_os = "linux")))]
    pub(super) forwarded: Option<Forwarded>,
    /// How long clients are held while no program serves, after a crash for example (with --relay) [default: 30]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, hide = cfg!(not(target_os = "linux")))]
    pub(super) wait: Option<Duration>,
    /// How long the program may take to begin its answer to a request (with --relay http) [default: as long as it
    /// wants]
    #[arg(long, value_name = "TIME", value_parser = parse_interval, hide = cfg!(not(target_os = "linux")))]
    pub(super) answer_within: Option<Duration>,
    /// How many connections are relayed or held at once (with --relay); idle http clients make room for new ones
    /// [default: 10000, or half as many as the process may have descriptors]
    #[arg(long, value_name = "N", value_parser = parse_connections, hide = cfg!(not(target_os = "linux")))]
    pub(super) max_connections: Option<usize>,
}

/// What only a program has: our own servers are looked at from inside.
#[derive(Debug, Args)]
pub(super) struct Checks {
    #[cfg_attr(
        unix,
        doc = "Check the program while it serves, and replace it if the check fails: it must send WATCHDOG=1 (notify), \
               answer (connect=ADDR, http=URL), or a command must succeed (exec=COMMAND)"
    )]
    #[cfg_attr(
        windows,
        doc = "Check the program while it serves, and replace it if it does not answer (connect=ADDR, http=URL)"
    )]
    #[arg(long, value_name = "HOW", value_parser = parse_check)]
    pub(super) check: Option<CheckKind>,
    /// How often to run --check
    #[arg(long, value_name = "TIME", default_value = "10", value_parser = parse_interval)]
    check_every: Duration,
    /// How long an answer to --check may take
    #[arg(long, value_name = "TIME", default_value = "1", value_parser = parse_interval)]
    check_timeout: Duration,
    /// How many checks in a row have to fail before the program is replaced
    #[arg(long, value_name = "N", default_value = "3", value_parser = parse_failures)]
    check_failures: u32,
}

impl Checks {
    /// None: the program is not checked.
    pub(super) fn check(self) -> Option<Check> {
        let Checks { check, check_every: every, check_timeout: timeout, check_failures: failures } = self;
        Some(Check { how: check?, every, timeout, failures })
    }
}

/// What only a server of our own has.
#[derive(Debug, Args)]
pub(super) struct Connections {
    /// How many connections are served at once
    #[arg(long, value_name = "N", default_value_t = default_max_connections(), value_parser = parse_connections)]
    pub(super) max_connections: usize,
    /// Probe the server at this interval; restart it if it stops accepting connections
    #[arg(long, value_name = "TIME", value_parser = parse_interval)]
    pub(super) check_every: Option<Duration>,
}

#[derive(Debug, Args)]
pub(super) struct Options {
    /// Read settings from a JSON file, named like these options; read again at each restart
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Name under which admin-cli finds this instance [default: http, echo, command, or the name of the program's file]
    #[arg(short, long)]
    pub(super) name: Option<InstanceName>,
    /// How long clients get to disconnect on a stop
    #[arg(short, long, value_name = "TIME", default_value = "5", value_parser = parse_seconds)]
    pub(super) grace: Duration,
    /// How long a stop waits before it begins: not ready but still accepting, until load balancers have noticed; a
    /// second request to stop skips the wait
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_seconds)]
    pub(super) delay: Duration,
    /// Time over which clients are notified and connections closed on a stop or restart, oldest first, so that they do
    /// not all come back at once: at most --grace
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = parse_seconds)]
    pub(super) spread: Duration,
    /// When to start the server again after it has exited
    #[arg(long, value_name = "MODE", default_value = "on-failure")]
    pub(super) restart: RestartMode,
    /// How many crashes within the period are answered by a restart; at the next one it gives up (never with --restart
    /// always)
    #[arg(long, value_name = "N", default_value = "10", value_parser = parse_number::<u32>)]
    pub(super) max_restarts: u32,
    /// The period within which crashes are counted; a server that was ready for a minute starts afresh
    #[arg(long, value_name = "TIME", default_value = "120", value_parser = parse_interval)]
    pub(super) period: Duration,
    /// What SIGHUP does
    #[cfg_attr(unix, arg(long, value_name = "ACTION", default_value = "stop"))]
    #[cfg_attr(windows, arg(long, default_value = "stop", value_parser = parse_on_hup, hide = true))]
    pub(super) on_hup: OnHup,
    /// When Enter stops the server: only if stdin is a terminal (terminal), or always (stdin)
    #[arg(long, value_name = "WHERE", default_value = "terminal")]
    pub(super) console: Console,
    /// Admin socket: use it if it is available (try), refuse to start without it (require), or have none (off)
    #[arg(long, value_name = "MODE", default_value = "try")]
    pub(super) admin: AdminSocket,
    #[cfg_attr(
        unix,
        doc = "Path of the admin socket, in a directory that only its user may enter [default: by the name]"
    )]
    #[cfg_attr(windows, doc = r"Path of the admin pipe (\\.\pipe\web) [default: by the name]")]
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
    /// Address for GET /ready, /live and /metrics over HTTP: a port (on 127.0.0.1), or an address and a port
    #[arg(long, value_name = "ADDR", value_parser = parse_address)]
    pub(super) health: Option<SocketAddr>,
    /// Format of the log on stderr
    #[arg(long, value_name = "FORM", default_value = "text")]
    pub(super) log: Form,
    /// Also log each connection and each request
    #[arg(short, long)]
    pub(super) verbose: bool,
}
