//! The program `admin-cli`: arguments -> request -> answer -> text and exit code.

mod args;
mod ask;
mod commands;
mod completions;
mod describe;
mod failure;
mod found;
mod held;
mod live;
mod output;
mod target;
mod top;
mod verify;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use mastercontrol::Exit;
use mastercontrol::cli::hint;
use mastercontrol::protocol::Request;

use args::{Cli, Command, HINTS, Ports};
use completions::with_running;
use failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| hint(error, HINTS).exit());
    let json = cli.json;
    run(cli).unwrap_or_else(|failure| failure.tell(json).into())
}

fn run(cli: Cli) -> Result<ExitCode, Failure> {
    let Cli { target, json, command } = cli;
    if let Some(why) = target.conflict() {
        return Err(Failure::new(Exit::Usage, why));
    }
    if target.is_given()
        && let Some(why) = takes_no_target(&command)
    {
        return Err(Failure::new(Exit::Usage, why));
    }
    let done = match command {
        // The exit code of the command is passed on.
        Command::Pause(pause) => return commands::pause(&target, json, &pause),
        Command::Ping => commands::ping(&target, json),
        Command::Status(status) => commands::status(&target, json, &status),
        Command::Connections => commands::connections(&target, json),
        Command::Close(close) => commands::close(&target, json, &close),
        Command::Metrics => commands::metrics(&target, json),
        Command::Stop(stop) => commands::stop(&target, json, &stop),
        Command::Grace(grace) => commands::grace(&target, json, &grace),
        Command::Drain => commands::readiness(&target, json, Request::Drain {}),
        Command::Resume => commands::readiness(&target, json, Request::Resume {}),
        Command::Restart(restart) => commands::restart(&target, json, &restart),
        Command::Signal(signal) => commands::signal(&target, json, &signal),
        Command::Top => commands::top(&target, json),
        Command::Wait(wait) => commands::wait(&target, json, &wait),
        Command::Events(which) => commands::events(&target, json, &which),
        Command::List(list) => commands::list(json, &list),
        Command::Check(check) => commands::check(json, &check),
        Command::Port(Ports { ports }) => commands::port(json, &ports),
        Command::Free(free) => commands::free(json, &free),
        Command::Offer { what } => commands::offer(what),
        Command::Generate(wanted) => {
            let done = wanted.write(Cli::command(), with_running).map(|()| Exit::Done);
            done.map_err(|message| Failure::new(Exit::Failed, message))
        }
    };
    done.map(ExitCode::from)
}

/// Why a command takes no target. None: it asks a supervisor, which can be named.
fn takes_no_target(command: &Command) -> Option<&'static str> {
    match command {
        Command::List(_) => Some("list shows all; it takes no target"),
        Command::Check(_) => Some("check reads a file and asks no supervisor; it takes no target"),
        Command::Port(_) | Command::Free(_) => {
            Some("port and free look for the process that holds a port; they take no target")
        }
        Command::Offer { .. } => Some("this is for completions; it takes no target"),
        Command::Generate(_) => Some("this asks no supervisor; it takes no target"),
        Command::Ping
        | Command::Status(_)
        | Command::Connections
        | Command::Close(_)
        | Command::Metrics
        | Command::Stop(_)
        | Command::Grace(_)
        | Command::Drain
        | Command::Resume
        | Command::Pause(_)
        | Command::Restart(_)
        | Command::Signal(_)
        | Command::Top
        | Command::Wait(_)
        | Command::Events(_) => None,
    }
}
