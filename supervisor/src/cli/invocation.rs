//! What a command line asks for.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};

use super::config::Config;
#[cfg(windows)]
use super::definition::ServiceCommand;
use super::definition::{Cli, Command, ServerArgs, ServerCli};
use super::directory;
use super::error::ConfigError;
use super::file::{Arguments, ConfigFile, not_in_a_file};
use super::generate::Generate;
use super::hint::hint_or_exec;
#[cfg(windows)]
use crate::instance::InstanceName;
use crate::listen::Address;
use crate::log::Log;

/// What a command line asks for.
#[derive(Debug)]
pub enum Asked {
    /// To run a server.
    Serve(Invocation),
    /// To run one as the service for which the service manager has started this process.
    #[cfg(windows)]
    RunService(Invocation),
    /// To install a service that runs one.
    #[cfg(windows)]
    InstallService(Invocation),
    /// To uninstall the service with this name.
    #[cfg(windows)]
    UninstallService(InstanceName),
    /// To write completions or man pages.
    Generate(Generate),
}

impl Asked {
    /// Parses a command line, including the program's name.
    ///
    /// # Errors
    /// When it is wrong, or asks for help or the version: [`clap::Error::exit`] says that, and ends the process.
    pub fn parse(arguments: Vec<OsString>) -> Result<Asked, clap::Error> {
        Ok(match Cli::try_parse_from(&arguments).map_err(hint_or_exec)?.command {
            Command::Server(server) => Asked::Serve(Invocation::new(arguments, server)),
            #[cfg(windows)]
            Command::Service(ServiceCommand::Run { server }) => {
                Asked::RunService(Invocation::new(without_service(arguments), server))
            }
            #[cfg(windows)]
            Command::Service(ServiceCommand::Install { server }) => {
                Asked::InstallService(Invocation::new(without_service(arguments), server))
            }
            #[cfg(windows)]
            Command::Service(ServiceCommand::Uninstall { name }) => Asked::UninstallService(name),
            Command::Generate(wanted) => Asked::Generate(wanted),
        })
    }
}

/// The definition of the whole command line.
pub fn command() -> clap::Command {
    Cli::command()
}

/// A command line, and the file that it names.
#[derive(Debug, Clone)]
pub struct Invocation {
    /// The program, the kind of its server, and the rest.
    arguments: Vec<OsString>,
    /// The directory against which its relative paths are resolved.
    directory: PathBuf,
    kind: &'static str,
    /// Whether the command line says which directory is served, which must not be said twice.
    has_dir: bool,
    /// The options of the command line that can be repeated: they replace those of the file.
    repeated: Vec<&'static str>,
    /// Whether it has a program, which takes precedence over that of the file.
    has_program: bool,
    log: Log,
    pub(super) file: Option<ConfigFile>,
}

impl Invocation {
    pub(super) fn parse(arguments: Vec<OsString>) -> Result<Invocation, clap::Error> {
        let server = ServerCli::try_parse_from(&arguments)?.server;
        Ok(Invocation::new(arguments, server))
    }

    fn new(arguments: Vec<OsString>, server: ServerArgs) -> Invocation {
        let has_dir = matches!(server, ServerArgs::Http { dir: Some(_), .. });
        let repeated = match &server {
            ServerArgs::Exec { listen, success_exit, .. } => {
                let said = [("--listen=", !listen.is_empty()), ("--success-exit=", !success_exit.is_empty())];
                said.into_iter().filter(|(_, said)| *said).map(|(option, _)| option).collect()
            }
            ServerArgs::Echo { .. } | ServerArgs::Command { .. } | ServerArgs::Http { .. } => Vec::new(),
        };
        let has_program = matches!(&server, ServerArgs::Exec { program, .. } if !program.is_empty());
        let (kind, options) = match server {
            ServerArgs::Echo { options, .. } => ("echo", options),
            ServerArgs::Command { options, .. } => ("command", options),
            ServerArgs::Http { options, .. } => ("http", options),
            ServerArgs::Exec { options, .. } => ("exec", options),
        };
        let (directory, log) = (directory::of_the_start(), options.log());
        let file = options.config.map(|file| ConfigFile::new(&file, &directory));
        Invocation { arguments, directory, kind, has_dir, repeated, has_program, log, file }
    }

    /// The file's name as given.
    #[cfg(windows)]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| Path::new(&file.named))
    }

    /// The command line, without the program.
    #[cfg(windows)]
    pub fn arguments(&self) -> &[OsString] {
        self.arguments.get(1..).unwrap_or_default()
    }

    /// The log that the command line alone asks for: for messages about a file that is wrong.
    pub fn log(&self) -> Log {
        self.log
    }

    /// Reads the file, if one is named, and merges it with the command line, which takes precedence. For the start, and
    /// again for each restart.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong.
    pub fn read(&self) -> Result<Config, ConfigError> {
        self.read_with(&[])
    }

    /// The same for a process to which the service manager has passed sockets on these addresses.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong, or something else is said about the addresses.
    pub fn read_with(&self, passed: &[Address]) -> Result<Config, ConfigError> {
        self.read_in(&self.directory, passed)
    }

    /// The same with paths as they were given.
    ///
    /// # Errors
    /// When the file cannot be read or is wrong.
    #[cfg(windows)]
    pub(super) fn as_said(&self) -> Result<Config, ConfigError> {
        self.read_in(Path::new(""), &[])
    }

    fn read_in(&self, directory: &Path, passed: &[Address]) -> Result<Config, ConfigError> {
        let Some(file) = &self.file else { return Config::parse(&self.arguments, directory, passed) };
        let Arguments { mut options, mut program } = file.arguments(&ServerCli::command(), self.kind, self.has_dir)?;
        let is_said =
            |option: &OsString| self.repeated.iter().any(|said| option.as_encoded_bytes().starts_with(said.as_bytes()));
        options.retain(|option| !is_said(option));
        match (self.has_program, program.is_empty()) {
            (true, _) => program.clear(),
            (false, false) if self.arguments.last().is_some_and(|last| last == "--") => {}
            (false, false) => program.insert(0, "--".into()),
            (false, true) if self.kind == "exec" => {
                let problem = r#"it has no "program", and neither has the command line (supervisor exec ... PROGRAM)"#;
                return Err(ConfigError::Invalid(format!("{}: {problem}", file.named)));
            }
            (false, true) => {}
        }
        // No argument is between the program and the kind of its server.
        let (before, after) = self.arguments.split_at(self.arguments.len().min(2));
        let together: Vec<_> = before.iter().chain(&options).chain(after).chain(&program).collect();
        let config = Config::parse(together, directory, passed);
        // What the command line alone has wrong, too, is not about the file.
        config.map_err(|problem| match Config::parse(&self.arguments, directory, passed) {
            Err(same) if same == problem => problem,
            Ok(_) | Err(_) => problem.in_file(&file.named),
        })
    }
}

/// The command line of a server, from one that has `service install` or `service run` before it.
#[cfg(windows)]
fn without_service(mut arguments: Vec<OsString>) -> Vec<OsString> {
    arguments.drain(1..3);
    arguments
}

/// A valid file, without a command line.
#[derive(Debug)]
pub struct Checked {
    /// Its settings. If it names no program for `exec`, as the command line may do, any program stands in.
    pub config: Config,
    /// Whether it names a program.
    pub has_program: bool,
    /// Whether it needs an address but names none: the service manager has to pass the socket.
    pub needs_socket: bool,
}

/// Whether a file is valid for a kind of server, one of [`KINDS`](super::KINDS), without a command line.
///
/// # Errors
/// When it cannot be read or is wrong.
pub fn check(file: &Path, kind: &str) -> Result<Checked, ConfigError> {
    let mut config = OsString::from("--config=");
    config.push(file);
    let cli = ServerCli::command();
    let parse = |rest: Vec<OsString>| {
        let line = ["supervisor".into(), kind.into(), config.clone()].into_iter().chain(rest).collect();
        Invocation::parse(line).map_err(|error| ConfigError::clap(&error))
    };
    let invocation = parse(Vec::new())?;
    let said = invocation.file.as_ref().map(|file| file.arguments(&cli, kind, false)).transpose()?;
    let has_program = said.is_some_and(|said| !said.program.is_empty());
    let rest = cli.find_subcommand(kind).filter(|_| !has_program).map(not_in_a_file).unwrap_or_default();
    let invocation = parse(rest)?;
    // Any address that could be passed.
    let passed = [Address::Tcp((Ipv4Addr::LOCALHOST, 0).into())];
    let (config, needs_socket) = match invocation.read() {
        Ok(config) => (config, false),
        Err(problem) if cfg!(unix) && kind == "exec" => (invocation.read_with(&passed).map_err(|_| problem)?, true),
        Err(problem) => return Err(problem),
    };
    Ok(Checked { config, has_program, needs_socket })
}

/// How many of the settings in a file are those of a kind of server, whatever their values are.
pub fn known_settings(file: &Path, kind: &str) -> usize {
    ConfigFile::new(file, &directory::of_the_start()).known_settings(&ServerCli::command(), kind)
}
