//! The command line of `admin-cli`.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::{Args, Parser, Subcommand};
use mastercontrol::cli::KINDS;
use mastercontrol::cli::generate::Generate;
use mastercontrol::instance::InstanceName;
use mastercontrol::text::parse_seconds;

/// Give commands to a running supervisor.
#[derive(Debug, Parser)]
#[command(name = "admin-cli", version = mastercontrol::version(), arg_required_else_help = true)]
#[command(after_help = "Examples:
  admin-cli stop                      stop the only one that is running
  admin-cli restart                   replace its server, and lose nobody
  admin-cli --name web stop --now     close all connections of `web` at once
  admin-cli --port 8000 status        what the one on port 8000 is doing
  admin-cli events --follow           what has happened, and what happens
  admin-cli check web.json            whether `supervisor http --config web.json` would take it
  admin-cli port 8888                 who holds port 8888, whoever that is
  admin-cli free 8888 --grace 5       end whoever holds it, in the end by force

Exit codes:
  0  done                  5  done, but by force
  1  failed                6  no answer
  2  usage                 7  gave up waiting; what was asked for goes on
  3  not running           8  done, but a handler could not be ended
  4  not permitted")]
pub(crate) struct Cli {
    /// Write the answer as JSON
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// With --all, go on after one that fails
    #[arg(long, global = true, requires = "all")]
    pub(crate) keep_going: bool,
    #[command(flatten)]
    pub(crate) target: Target,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Which supervisor is meant. None of these: the only one that is running.
#[derive(Debug, Args)]
#[group(multiple = false)]
#[command(next_help_heading = "Which supervisor (else the only one that is running)")]
pub(crate) struct Target {
    /// The supervisor with this name
    #[arg(short, long, global = true)]
    pub(crate) name: Option<InstanceName>,
    /// The supervisor with this admin socket
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// The supervisor whose server listens on this port
    #[arg(short, long, global = true)]
    pub(crate) port: Option<u16>,
    /// All that are running, one after the other, up to the first that fails
    #[arg(short, long, global = true)]
    pub(crate) all: bool,
    /// Of `--all`, which excludes the others; this one does not.
    #[arg(skip)]
    pub(crate) keep_going: bool,
}

impl Target {
    /// Whether any is named.
    pub(crate) fn is_given(&self) -> bool {
        self.name.is_some() || self.socket.is_some() || self.port.is_some() || self.all
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Ask whether it is there
    #[command(after_help = "Examples:
  admin-cli ping
  admin-cli --name web ping     exit code 0 if it is, 3 if not")]
    Ping,
    /// Show what it is doing
    #[command(after_help = "Examples:
  admin-cli status
  admin-cli --port 8000 status --json
  admin-cli status --all --short            one line for each")]
    Status(Status),
    /// Show its connections, those that would hold up a drain first
    #[command(after_help = "Examples:
  admin-cli connections
  admin-cli --name web connections --json")]
    Connections,
    /// Close one connection: its client is told, and gets the grace period to leave
    #[command(after_help = "Examples:
  admin-cli close 17                        its number is the first column of `connections`
  admin-cli close 17 --now")]
    Close(Close),
    /// Show how it goes as metrics, in Prometheus' text format
    #[command(after_help = "Examples:
  admin-cli metrics
  admin-cli --name web metrics              its output is a file for the textfile collector")]
    Metrics,
    /// Stop it: every client is told, and gets the grace period to leave
    #[command(after_help = "Examples:
  admin-cli stop
  admin-cli stop --grace 1m30s              give clients a minute and a half
  admin-cli --name web stop --now
  admin-cli stop --grace 10m --timeout 5    wait for five seconds at most; it goes on")]
    Stop(Stop),
    /// Give clients more or less time in the drain that is under way: this long from now
    #[command(after_help = "Examples:
  admin-cli grace 30                        half a minute from now
  admin-cli grace 0                         close what is left by force")]
    Grace(Grace),
    /// Say that it is not ready for new clients, and serve those that come all the same
    #[command(after_help = "Examples:
  admin-cli drain
  admin-cli drain --all")]
    Drain,
    /// Say that it is ready again, and cancel a stop with a delay
    #[command(after_help = "Examples:
  admin-cli resume
  admin-cli --name web resume")]
    Resume,
    /// Replace its server by a new one, and let the clients of the old one go: nobody is refused
    #[command(after_help = "Examples:
  admin-cli restart
  admin-cli --name web restart --grace 30s
  admin-cli restart --no-wait               return at once")]
    Restart(Restart),
    /// Show what has happened, and with --follow what happens
    #[command(after_help = "Examples:
  admin-cli events
  admin-cli events --follow --json
  admin-cli events --since 17               what came after the event with this number")]
    Events(Events),
    /// List all supervisors of this user
    #[command(after_help = "Examples:
  admin-cli list
  admin-cli list --json
  admin-cli list --clean                    remove what dead ones have left")]
    List(List),
    /// Say whether a file with settings is right, before a supervisor reads it
    #[command(after_help = "Examples:
  admin-cli check web.json
  admin-cli check web.json --for http")]
    Check(Check),
    /// Say who holds a TCP port, and whether that is a supervisor of this user
    #[command(after_help = "Examples:
  admin-cli port 8888
  admin-cli port 8888 --json

Exit code 0: it is held. 3: it is free.")]
    Port(Port),
    #[cfg_attr(
        target_os = "linux",
        doc = "End whoever holds a TCP port: a supervisor by its admin socket, others by TERM and, after the grace \
               period, KILL"
    )]
    #[cfg_attr(
        not(target_os = "linux"),
        doc = "End whoever holds a TCP port, if that is a supervisor of this user: by its admin socket"
    )]
    #[command(after_help = "Examples:
  admin-cli free 8888                      asks first
  admin-cli free 8888 --grace 5 --yes
  admin-cli free 8888 --now --yes          by force, at once

Exit code 0: it is free, or was. 4: somebody who holds it may not be ended. 5: it is free, but by force.")]
    Free(Free),
    #[command(flatten)]
    Generate(Generate),
}

/// How to show it.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// In one line
    #[arg(long)]
    pub(crate) short: bool,
}

/// What to list.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Remove what dead ones have left
    #[arg(long)]
    pub(crate) clean: bool,
}

/// What to close.
#[derive(Debug, Args)]
pub(crate) struct Close {
    /// The connection's number, as `connections` shows it
    pub(crate) id: u64,
    /// How long its client gets to leave [default: what the supervisor was started with]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    /// Close it at once: the same as --grace 0
    #[arg(long, conflicts_with = "grace")]
    pub(crate) now: bool,
}

/// How to stop.
#[derive(Debug, Args)]
pub(crate) struct Stop {
    /// How long clients get to leave [default: what the supervisor was started with]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    /// Close all connections at once: the same as --grace 0
    #[arg(long, conflicts_with = "grace")]
    pub(crate) now: bool,
    /// Say at once that it is not ready for new clients, and stop it this much later
    #[arg(long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) delay: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// How long.
#[derive(Debug, Args)]
pub(crate) struct Grace {
    /// How long clients get to leave, from now on
    #[arg(value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Duration,
}

/// How to restart.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    /// How long clients of the old server get to leave [default: what the supervisor was started with]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    #[command(flatten)]
    pub(crate) wait: Wait,
}

/// How long to wait for the end of what was asked for.
#[derive(Debug, Args)]
pub(crate) struct Wait {
    /// Return at once, and let it go on
    #[arg(long)]
    pub(crate) no_wait: bool,
    /// Give up waiting after this time; it goes on
    #[arg(long, value_name = "TIME", value_parser = parse_seconds, conflicts_with = "no_wait")]
    pub(crate) timeout: Option<Duration>,
}

/// Which events.
#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on with what happens, until the supervisor ends
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Begin behind the event with this number [default: with the last 1000]
    #[arg(long, value_name = "SEQ")]
    pub(crate) since: Option<u64>,
}

/// What to check.
#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The file that is meant for the supervisor's --config
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// The server that the file has to be right for [default: any]
    #[arg(long = "for", value_name = "KIND", value_parser = PossibleValuesParser::new(KINDS))]
    pub(crate) kind: Option<String>,
}

/// Which port.
#[derive(Debug, Args)]
pub(crate) struct Port {
    /// The port's number
    #[arg(value_name = "PORT", value_parser = parse_port)]
    pub(crate) number: u16,
}

/// Which port to free, and how.
#[derive(Debug, Args)]
pub(crate) struct Free {
    #[command(flatten)]
    pub(crate) port: Port,
    /// How long it gets to end [default: what a supervisor was started with, and 5 for others]
    #[arg(short, long, value_name = "TIME", value_parser = parse_seconds)]
    pub(crate) grace: Option<Duration>,
    /// End it by force at once: the same as --grace 0
    #[arg(long, conflicts_with = "grace")]
    pub(crate) now: bool,
    /// Do not ask
    #[arg(short, long)]
    pub(crate) yes: bool,
}

/// The grace period that was asked for with --grace or --now. None: with neither.
pub(crate) fn grace_of(grace: Option<Duration>, now: bool) -> Option<Duration> {
    if now { Some(Duration::ZERO) } else { grace }
}

fn parse_port(text: &str) -> Result<u16, String> {
    let port = text.parse().ok().filter(|&port| port > 0);
    port.ok_or_else(|| "a port is a number from 1 to 65535".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_help_of_each_command_has_examples_and_all_of_them_are_taken() {
        let program = Cli::command();
        program.clone().debug_assert();
        for command in program.get_subcommands().chain([&program]) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.starts_with("Examples:\n"), "{} has no examples", command.get_name());
            for line in help.lines().filter(|line| line.starts_with("  admin-cli ") && !line.contains('|')) {
                // What is said about it stands behind two spaces.
                let words = line.trim_start().split("  ").next().unwrap().split(' ');
                Cli::try_parse_from(words).unwrap_or_else(|error| panic!("{line}\n{error}"));
            }
        }
    }
}
