//! The command line of `admin-cli`.

use std::ffi::OsString;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::error::ErrorKind;
use clap::{ArgMatches, Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use load::Url;
use mastercontrol::cli::generate::Generate;
use mastercontrol::cli::{Hints, KINDS, parse_number, parse_signal};
use mastercontrol::instance::InstanceName;
use mastercontrol::text::{Seconds, listed, milliseconds, parse_seconds};

/// What is said about commands that other programs have.
pub(crate) const HINTS: Hints = &[
    (
        &["start", "run", "exec"],
        "`supervisor exec PROGRAM` starts a supervisor; `restart` replaces the server of a running one",
    ),
    (&["logs", "log", "tail"], "`events` prints what the log has, and `events --follow` also what happens next"),
    (
        &["reload"],
        "`restart` replaces the server without losing a client; `signal HUP` has a program read its settings again",
    ),
    (
        &["kill", "quit", "exit", "shutdown"],
        "`stop` ends it, and `stop --now` at once; `free PORT` ends any holder of a port",
    ),
    (&["ls", "ps"], "`list` lists all supervisors of this user"),
    (&["show", "info", "health"], "`status` shows what it is doing"),
    (&["conns", "clients"], "`connections` shows its clients"),
];

/// Control a running supervisor.
#[derive(Debug, Parser)]
#[command(name = "admin-cli", version = mastercontrol::version(), arg_required_else_help = true)]
#[command(after_help = "Examples:
  admin-cli stop                      stop the only one that is running
  admin-cli restart                   replace its server without losing a client
  admin-cli --name web stop --now     close all connections of `web` at once
  admin-cli --port 8000 status        show the one on port 8000
  admin-cli events --follow           print past and new events
  admin-cli check web.json            check a file for `supervisor http --config web.json`
  admin-cli port 8888                 show what holds port 8888
  admin-cli free 8888 --grace 5       end what holds it, by force after 5 s

Exit codes:
  0  done                  5  done, but by force
  1  failed                6  no answer
  2  usage                 7  gave up waiting; the request is in progress
  3  not running           8  done, but a handler could not be ended
  4  not permitted        11  done, but --verify lost a request")]
pub(crate) struct Cli {
    /// Write the answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// Reads these arguments. Returns the target that is given after the command separately.
    ///
    /// # Errors
    /// What clap finds wrong; `pause --`, which it takes for `pause`; a spread that is longer than the grace period.
    pub(crate) fn read(arguments: &[OsString]) -> Result<(Cli, Target), clap::Error> {
        let mut program = program();
        let matches = program.try_get_matches_from_mut(arguments)?;
        let read = |matches: &ArgMatches| {
            let after = matches.subcommand().map(|(_, matches)| Target::from_arg_matches(matches)).transpose()?;
            Ok((Cli::from_arg_matches(matches)?, after.unwrap_or_default()))
        };
        let (cli, after) = read(&matches).map_err(|error: clap::Error| error.format(&mut program))?;
        match &cli.command {
            Command::Pause(pause) if pause.command.is_empty() && arguments.last().is_some_and(|last| last == "--") => {
                let why =
                    "there is no command after `--`: without `--`, `pause` lasts until `resume`, or at most --max";
                Err(program.error(ErrorKind::TooFewValues, why))
            }
            Command::Stop(Stop { grace: Some(grace), spread: Some(spread), .. })
            | Command::Restart(Restart { grace: Some(grace), spread: Some(spread), .. })
                if spread > grace =>
            {
                let (spread, grace) = (Seconds(*spread), Seconds(*grace));
                let why = format!("--spread is {spread}, and --grace is {grace}: say at most {grace}, or give more");
                Err(program.error(ErrorKind::ValueValidation, why))
            }
            _ => Ok((cli, after)),
        }
    }
}

/// The definition of the command line. The options of the target can stand before the command and after it. They are
/// not global: clap would have the second value of one replace the first, and another supervisor would be stopped.
pub(crate) fn program() -> clap::Command {
    let target = Target::augment_args(clap::Command::new("target"));
    Cli::command().mut_subcommands(|command| {
        let name = command.get_name();
        let options = target.get_arguments().map(|option| {
            let is_for_all = ["all", "keep_going"].contains(&option.get_id().as_str());
            // A hidden one is still known, so that it can be said why it is refused.
            let hidden = WITHOUT_TARGET.contains(&name) || is_for_all && FOR_ONE.contains(&name);
            let option = option.clone().hide(hidden);
            match (option.get_id().as_str(), name) {
                ("all", "metrics") => {
                    option.help("With --json, all that are running, one after the other, until one fails")
                }
                ("all", "pause") => {
                    option.help("All that are running, one after the other, until one fails; not with a command")
                }
                _ => option,
            }
        });
        let options: Vec<_> = options.collect();
        command.args(options)
    })
}

/// The commands that ask no supervisor, or all of them.
const WITHOUT_TARGET: &[&str] = &["list", "check", "port", "free", "offer", "completions", "manual"];

/// The commands that are for one supervisor, and never for all.
const FOR_ONE: &[&str] = &["connections", "close", "top", "wait", "events"];

/// Which supervisor is meant. None of these: the only one that is running.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Which supervisor (default: the only one that is running)")]
pub(crate) struct Target {
    /// The supervisor with this name
    #[arg(short, long)]
    pub(crate) name: Option<InstanceName>,
    /// The supervisor with this admin socket
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The supervisor whose server listens on this port
    #[arg(short, long, value_parser = parse_port)]
    pub(crate) port: Option<u16>,
    /// All that are running, one after the other, until one fails
    #[arg(short, long)]
    pub(crate) all: bool,
    /// With --all, continue after one that fails
    #[arg(long)]
    pub(crate) keep_going: bool,
}

impl Target {
    /// Whether any is named.
    pub(crate) fn is_given(&self) -> bool {
        !self.given().is_empty()
    }

    /// These, which stand before the command, and those `after` it: they have to agree.
    ///
    /// # Errors
    /// Why they do not go together.
    pub(crate) fn and(self, after: Target) -> Result<Target, String> {
        let mut given = self.given();
        let more: Vec<_> = after.given().into_iter().filter(|option| !given.contains(option)).collect();
        given.extend(more);
        if given.len() > 1 {
            return Err(format!(
                "{} exclude each other: say only once which supervisor is meant",
                listed(&given, "and")
            ));
        }
        let both = Target {
            name: self.name.or(after.name),
            socket: self.socket.or(after.socket),
            port: self.port.or(after.port),
            all: self.all || after.all,
            keep_going: self.keep_going || after.keep_going,
        };
        if both.keep_going && !both.all { Err("--keep-going is only for --all".into()) } else { Ok(both) }
    }

    /// The options that name one, with their values.
    fn given(&self) -> Vec<String> {
        let Target { name, socket, port, all, keep_going: _ } = self;
        let options = [
            name.as_ref().map(|name| format!("--name {name}")),
            socket.as_ref().map(|socket| format!("--socket {}", socket.display())),
            port.map(|port| format!("--port {port}")),
            all.then(|| "--all".into()),
        ];
        options.into_iter().flatten().collect()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Check whether the supervisor is running
    #[command(after_help = "Examples:
  admin-cli ping
  admin-cli --name web ping     exit code 0 if it is, 3 if not")]
    Ping,
    /// Show what the supervisor is doing
    #[command(after_help = "Examples:
  admin-cli status
  admin-cli --port 8000 status --json
  admin-cli status --all --short            one line for each")]
    Status(Status),
    /// List open connections, those that would delay a drain first
    #[command(after_help = "Examples:
  admin-cli connections
  admin-cli --name web connections --json")]
    Connections,
    /// Close one connection: its client is notified, and has the grace period to disconnect
    #[command(after_help = "Examples:
  admin-cli close 17                        the ID column of `connections`
  admin-cli close 17 --now")]
    Close(Close),
    /// Watch state, connections and events on the terminal, and control the supervisor with keys
    #[command(after_help = "Examples:
  admin-cli top                             a list first if there are several
  admin-cli --name web top

Keys: ? shows them all. k closes one connection, + and - move the deadline of a drain, r restarts
the server, s stops it: each asks for confirmation first. q quits, and the supervisor keeps
running.")]
    Top,
    /// Print metrics in the Prometheus text format
    #[command(after_help = "Examples:
  admin-cli metrics
  admin-cli --name web metrics              for node_exporter's textfile collector")]
    Metrics,
    /// Stop the server: clients are notified, and get the grace period to disconnect
    #[command(after_help = "Examples:
  admin-cli stop
  admin-cli stop --grace 1m30s              give clients a minute and a half
  admin-cli --name web stop --now
  admin-cli stop --grace 10m --timeout 5    wait five seconds at most
  admin-cli stop --delay 5 --verify http://balancer/

Give --verify the URL of the load balancer in front of the server. Half of the connections are kept
alive, the other half carry one request each. A request is lost if it is refused, reset, not
answered within 30 s, or answered in part or with another status than before; then the exit code is
11. A request on an idle connection that the server closed without reading it is sent again, as HTTP
clients do. If any is lost before the stop, nothing is stopped.")]
    Stop(Stop),
    /// Set the deadline of the drain in progress to this long from now
    #[command(after_help = "Examples:
  admin-cli grace 30                        half a minute from now
  admin-cli grace 0                         close the remaining connections")]
    Grace(Grace),
    /// Report not ready, so that load balancers send no new clients; clients that connect are still served
    #[command(after_help = "Examples:
  admin-cli drain
  admin-cli drain --all")]
    Drain,
    /// Hold new connections and requests until `resume`
    #[command(after_help = "Examples:
  admin-cli pause --max 1m                  a minute at most
  admin-cli resume
  admin-cli pause -- ./migrate              until that has ended, however it ends
  admin-cli --name web pause --max 10s -- sh -c './migrate && admin-cli --name web restart'

Requests that are under way are answered first; then the server is paused. A restart prepares the
next generation meanwhile. With a command, the output and the exit code are those of the command,
--json is refused, and the pause ends when the command or admin-cli ends. For `supervisor exec` this
needs --relay.")]
    Pause(Pause),
    /// Undo a drain, a pause or a scheduled stop, whichever is in force
    #[command(after_help = "Examples:
  admin-cli resume
  admin-cli --name web resume")]
    Resume,
    /// Replace the server with its next generation; old clients drain
    #[command(after_help = "Examples:
  admin-cli restart
  admin-cli --name web restart --grace 30s
  admin-cli restart --grace 15 --spread 10  clients come back over ten seconds
  admin-cli restart --no-wait               return at once
  admin-cli restart --verify http://localhost:8000/

--verify: half of the connections are kept alive, the other half carry one request each. A request
is lost if it is refused, reset, not answered within 30 s, or answered in part or with another
status than before; then the exit code is 11. A request on an idle connection that the server closed
without reading it is sent again, as HTTP clients do. If any is lost before the restart, nothing is
restarted.")]
    Restart(Restart),
    /// Send a signal to the program of `supervisor exec`
    #[command(after_help = "Examples:
  admin-cli signal HUP                      have the program read its settings again
  admin-cli --name web signal USR1")]
    Signal(SendSignal),
    /// Wait until the supervisor is ready, has restarted, or has ended; works even before it has started
    #[command(after_help = "Examples:
  admin-cli --name web wait --ready
  admin-cli --name web wait --ready --timeout 30   give up after half a minute (exit code 7)
  admin-cli --name web wait --generation 2         until its second generation serves
  admin-cli --name web wait --gone")]
    Wait(WaitFor),
    /// Show past events; with --follow, keep printing new ones
    #[command(after_help = "Examples:
  admin-cli events
  admin-cli events --follow --json
  admin-cli events --since 17               only those after event 17")]
    Events(Events),
    /// List all supervisors of this user
    #[command(after_help = "Examples:
  admin-cli list
  admin-cli list --json
  admin-cli list --clean                    also remove stale sockets")]
    List(List),
    /// Check a settings file before a supervisor reads it
    #[command(after_help = "Examples:
  admin-cli check web.json
  admin-cli check web.json --for http")]
    Check(Check),
    /// Show what holds TCP ports, and whether that is a supervisor of this user
    #[command(after_help = "Examples:
  admin-cli port 8888
  admin-cli port 8888 --json
  admin-cli port 8080 8081

Exit code 0: it is held. 3: it is free, or one of several is.")]
    Port(Ports),
    #[cfg_attr(
        target_os = "linux",
        doc = "Free TCP ports: stop the supervisor that holds them, or send any other process TERM and, after the \
               grace period, KILL"
    )]
    #[cfg_attr(not(target_os = "linux"), doc = "Free TCP ports: stop the supervisor of this user that holds them")]
    #[command(after_help = "Examples:
  admin-cli free 8888                      asks first
  admin-cli free 8888 --grace 5 --yes
  admin-cli free 8888 --now --yes          by force, at once
  admin-cli free 8080 8081 --yes           one after the other

Exit code 0: the port is free. 4: not permitted to end its holder. 5: it is free, but by force.")]
    Free(Free),
    /// Print what completions offer of what runs
    #[command(hide = true)]
    #[command(after_help = "Examples:
  admin-cli offer names")]
    Offer {
        /// What to print
        what: Offered,
    },
    #[command(flatten)]
    Generate(Generate),
}

/// What runs, for completions.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Offered {
    Names,
    Ports,
    Connections,
}

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show it in one line
    #[arg(long)]
    pub(crate) short: bool,
}

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Remove the stale sockets of dead ones
    #[arg(long)]
    pub(crate) clean: bool,
}

/// What to close.
#[derive(Debug, Args)]
pub(crate) struct Close {
    /// The connection's number, as `connections` shows it
    #[arg(value_parser = parse_number::<u64>)]
    pub(crate) id: u64,
    /// How long its client gets to disconnect [default: the supervisor's own]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    /// Close it at once: the same as --grace 0
    #[arg(long, conflicts_with = "grace")]
    pub(crate) now: bool,
}

/// How to stop.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long clients get to disconnect [default: the supervisor's own]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    /// Close all connections at once: the same as --grace 0
    #[arg(long, conflicts_with = "grace")]
    pub(crate) now: bool,
    /// Notify clients and close connections over this time, oldest first, and not all at once: at most the grace period
    /// [default: the supervisor's own]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, conflicts_with = "now")]
    pub(crate) spread: Option<Duration>,
    /// Report at once that it is not ready for new clients, and stop it after this time
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) delay: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) verify: Verify,
}

/// How long.
#[derive(Debug, Args)]
pub(crate) struct Grace {
    /// How long clients get to disconnect, from now on
    #[arg(value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Duration,
}

/// How long to pause.
#[derive(Debug, Args)]
pub(crate) struct Pause {
    /// End the pause after this time [default: 30 s, or with a command as long as that runs]
    #[arg(long, value_name = "TIME", value_parser = parse_pause)]
    pub(crate) max: Option<Duration>,
    /// Run this command meanwhile
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// How to restart.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// How long clients of the old server get to disconnect [default: the supervisor's own]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    /// Notify these clients and close their connections over this time, oldest first, and not all at once: at most the
    /// grace period [default: the supervisor's own]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) spread: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait: Wait,
    #[command(flatten)]
    pub(crate) verify: Verify,
}

/// Requests that are sent meanwhile.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Send requests to this URL before, during and after, and report what became of each
    #[arg(long = "verify", value_name = "URL", conflicts_with = "no_wait")]
    pub(crate) url: Option<Url>,
    /// How many connections --verify uses at the same time
    #[arg(long, value_name = "N", default_value = "8", value_parser = parse_connections, requires = "url")]
    pub(crate) connections: usize,
    /// How many requests --verify sends per second [default: as many as are answered]
    #[arg(long, value_name = "N", requires = "url")]
    pub(crate) rate: Option<NonZeroU32>,
}

/// How long to wait for the end of what was asked for.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Return at once instead of waiting for the end
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Stop waiting after this time; the request stays in progress
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, conflicts_with = "no_wait")]
    pub(crate) timeout: Option<Duration>,
}

/// Which signal.
#[derive(Debug, Args)]
pub(crate) struct SendSignal {
    /// The signal's name or number: HUP, USR1, RTMIN+3
    #[arg(value_name = "SIGNAL", value_parser = parse_signal)]
    pub(crate) signal: i32,
}

/// What to wait for, and how long.
#[derive(Debug, Args)]
pub(crate) struct WaitFor {
    #[command(flatten)]
    pub(crate) until: Until,
    /// Give up after this time [default: never]
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) timeout: Option<Duration>,
}

/// What to wait for.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Until {
    /// Until it is ready for clients
    #[arg(long)]
    pub(crate) ready: bool,
    /// Until it is not running
    #[arg(long)]
    pub(crate) gone: bool,
    /// Until this generation, or a later one, is ready for clients
    #[arg(long, value_name = "N", value_parser = parse_number::<u64>)]
    pub(crate) generation: Option<u64>,
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Keep printing new events until the supervisor ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin after the event with this number [default: the last 1000]
    #[arg(long, value_name = "SEQ", value_parser = parse_number::<u64>)]
    pub(crate) since: Option<u64>,
}

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file for the supervisor's --config
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The server that the file must be valid for [default: any]
    #[arg(long = "for", value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    pub(crate) kind: Option<String>,
}

/// Which ports.
#[derive(Debug, Args)]
pub(crate) struct Ports {
    /// The ports' numbers (8888, :8888)
    #[arg(value_name = "PORT", value_parser = parse_port, required = true)]
    pub(crate) ports: Vec<u16>,
}

/// Which port to free, and how.
#[derive(Debug, Args)]
pub(crate) struct Free {
    #[command(flatten)]
    pub(crate) ports: Ports,
    /// How long it has to exit [default: a supervisor's own, 5 s for anything else]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    /// End it by force at once: the same as --grace 0
    #[arg(long, conflicts_with = "grace")]
    pub(crate) now: bool,
    /// Do not ask for confirmation
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// The grace period that was asked for with --grace or --now. None: with neither.
pub(crate) fn grace_of(grace: Option<Duration>, now: bool) -> Option<Duration> {
    if now { Some(Duration::ZERO) } else { grace }
}

fn parse_connections(text: &str) -> Result<usize, String> {
    // Both kinds, and no more threads than any system gives.
    let connections = text.parse().ok().filter(|connections| (2..=1000).contains(connections));
    connections.ok_or_else(|| "a number of connections is from 2 to 1000".into())
}

fn parse_pause(text: &str) -> Result<Duration, String> {
    let max = parse_seconds(text)?;
    if milliseconds(max) > 0 { Ok(max) } else { Err("a pause takes some time: at least 1ms".into()) }
}

fn parse_port(text: &str) -> Result<u16, String> {
    // As a server may print it, with a host that is left out.
    let port = text.strip_prefix(':').unwrap_or(text).parse().ok().filter(|&port| port > 0);
    port.ok_or_else(|| "a port is a number from 1 to 65535".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn read(line: &str) -> Result<Target, String> {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        let (cli, after) = Cli::read(&words).map_err(|error| error.to_string())?;
        cli.target.and(after)
    }

    #[test]
    fn two_values_of_a_target_option_are_refused_on_whichever_side_of_the_command_they_stand() {
        for (option, one, two) in [("--name", "one", "two"), ("--port", "1", "2"), ("--socket", "/a", "/b")] {
            let error = read(&format!("admin-cli {option} {one} stop {option} {two}")).unwrap_err();
            assert!(error.starts_with(&format!("{option} {one} and {option} {two} exclude each other")), "{error}");
            read(&format!("admin-cli {option} {one} stop {option} {one}")).unwrap();
            read(&format!("admin-cli {option} {one} stop")).unwrap();
            read(&format!("admin-cli stop {option} {one}")).unwrap();
        }
        let error = read("admin-cli --name one stop --port 1").unwrap_err();
        assert!(error.starts_with("--name one and --port 1 exclude each other"), "{error}");
        let error = read("admin-cli stop --keep-going").unwrap_err();
        assert_eq!(error, "--keep-going is only for --all");
        assert!(read("admin-cli --all stop --keep-going").unwrap().keep_going);
    }

    #[test]
    fn a_pause_with_an_empty_command_is_refused() {
        for line in ["admin-cli pause --", "admin-cli pause --max 5 --"] {
            let error = read(line).unwrap_err();
            assert!(error.contains("there is no command after `--`"), "{error}");
        }
        read("admin-cli pause -- true").unwrap();
        read("admin-cli pause").unwrap();
    }

    #[test]
    fn help_shows_target_options_only_where_they_are_taken() {
        for command in program().get_subcommands_mut() {
            let name = command.get_name().to_owned();
            let help = command.render_long_help().to_string();
            let takes = !WITHOUT_TARGET.contains(&name.as_str());
            let takes_all = takes && !FOR_ONE.contains(&name.as_str());
            for (option, shown) in [("--name", takes), ("--all", takes_all), ("--keep-going", takes_all)] {
                assert_eq!(help.contains(option), shown, "{name} {option}");
            }
        }
    }

    #[test]
    fn the_help_of_each_command_has_examples_and_all_of_them_are_taken() {
        let program = program();
        program.clone().debug_assert();
        for command in program.get_subcommands().chain([&program]) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n"), "{} has no examples", command.get_name());
            for line in help.lines().filter(|line| line.starts_with("  admin-cli ") && !line.contains('|')) {
                // What is said about it stands behind two spaces.
                let words = line.trim_start().split("  ").next().unwrap().split(' ');
                // Windows has no signals, and refuses each with that reason.
                if cfg!(windows) && command.get_name() == "signal" {
                    continue;
                }
                let words: Vec<_> = words.map(OsString::from).collect();
                Cli::read(&words).unwrap_or_else(|error| panic!("{line}\n{error}"));
            }
        }
    }
}
