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

use std::env;
use std::ffi::OsString;
use std::process::ExitCode;

use mastercontrol::Exit;
use mastercontrol::cli::hint;
use mastercontrol::protocol::Request;

use args::{Cli, Command, HINTS, Ports, Target, program};
use completions::with_running;
use failure::Failure;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let (cli, after) = Cli::read(&arguments).unwrap_or_else(|error| refuse(&hint(error, HINTS), &arguments));
    let json = cli.json;
    run(cli, after).unwrap_or_else(|failure| failure.tell(json).into())
}

/// Reports what is wrong with these arguments, or prints the help that they ask for, and ends.
fn refuse(error: &clap::Error, arguments: &[OsString]) -> ! {
    // With --json before the command of a pause, the reader is a program.
    let json = arguments.iter().take_while(|argument| *argument != "--").any(|argument| argument == "--json");
    if json && error.use_stderr() {
        let text = error.render().to_string();
        // What follows is the usage.
        let message = text.split("\n\n").next().unwrap_or_default();
        Failure::new(Exit::Usage, message.strip_prefix("error: ").unwrap_or(message)).tell_program();
    }
    error.exit()
}

fn run(cli: Cli, after: Target) -> Result<ExitCode, Failure> {
    let Cli { target, json, command } = cli;
    let target = target.and(after).map_err(|why| Failure::new(Exit::Usage, why))?;
    if target.is_given()
        && let Some(why) = takes_no_target(&command)
    {
        return Err(Failure::new(Exit::Usage, why));
    }
    if json && matches!(command, Command::Generate(_) | Command::Offer { .. }) {
        return Err(Failure::new(Exit::Usage, "this has no JSON form: leave out --json"));
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
            let done = wanted.write(program(), with_running).map(|()| Exit::Done);
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
