//! The program `admin-cli`: arguments -> request -> answer -> text and exit code.

mod args;
mod commands;
mod events;
mod failure;
mod output;
mod port;
mod target;

fn main() -> std::process::ExitCode {
    args::run().into()
}
