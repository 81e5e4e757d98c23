//! All settings, with defaults for those that were not given.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches};

use super::conflicts;
use super::definition::{Options, ServerArgs, ServerCli};
use super::directory;
use super::env_file;
use super::error::ConfigError;
use super::file::{definitions, setting};
use super::server::Server;
use super::values::{Form, word};
use crate::instance::InstanceName;
use crate::listen::Address;
use crate::log::Log;
use crate::restart::RestartPolicy;
use crate::settings::{AdminSocket, Console, OnHup, Part};

/// All settings, with defaults for those that were not given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What was said, or is the default, as far as that alone makes the difference: for people.
    pub parts: Vec<Part>,
    /// Whether the name was given, and is not the server's.
    pub name_said: bool,
    /// What is served, and where.
    pub server: Server,
    /// The file with the variables of a program.
    pub env_file: Option<PathBuf>,
    /// The name by which `admin-cli` finds the instance.
    pub name: InstanceName,
    /// How long clients get to disconnect.
    pub grace: Duration,
    /// How long a stop waits before it begins.
    pub delay: Duration,
    /// The time over which a drain lets clients go.
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
    /// Where Enter is read.
    pub console: Console,
}

impl Config {
    /// Relative paths are resolved against this directory. The service manager passed sockets on these addresses.
    pub(super) fn parse(
        arguments: impl IntoIterator<Item: Into<OsString> + Clone>,
        directory: &Path,
        passed: &[Address],
    ) -> Result<Config, ConfigError> {
        let wrong = |error| ConfigError::clap(&error);
        let said = ServerCli::command().try_get_matches_from(arguments).map_err(wrong)?;
        let is_said = |setting: &str| {
            said.subcommand().is_some_and(|(_, said)| {
                said.value_source(setting).is_some_and(|source| source != ValueSource::DefaultValue)
            })
        };
        let listen_said = is_said("listen");
        let server = ServerCli::from_arg_matches(&said).map_err(wrong)?.server;
        conflicts::check_program(&server, passed, &is_said)?;
        let (mut grace, mut env_file) = (None, None);
        if let ServerArgs::Exec { stop_signal, env_file: file, .. } = &server {
            grace = stop_signal.as_ref().and_then(|signals| signals.whole);
            env_file = file.as_ref().map(|file| directory::join(directory, file));
        }
        let environment = env_file.as_deref().map(env_file::variables).transpose()?.unwrap_or_default();
        let (mut server, options) = Server::new(server, listen_said, directory, passed);
        match &mut server {
            Server::Exec { program, .. } => program.environment = environment,
            Server::Own(own) => own.listen_on(passed)?,
        }
        if let Some(health) = options.health {
            conflicts::check_health(health, &server, passed)?;
        }
        let grace = grace.unwrap_or(options.grace);
        conflicts::check_spread(options.spread, grace, &server)?;
        Ok(Config {
            parts: parts(&said),
            name_said: options.name.is_some(),
            // The names of all kinds are valid.
            name: options.name.clone().or_else(|| server.name().parse().ok()).unwrap_or_default(),
            log: options.log(),
            server,
            env_file,
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

    /// Whether a restart can change from these settings to the new ones. A restart keeps the process, its listener, its
    /// name and its admin socket, so it cannot change the settings that these were made from.
    ///
    /// # Errors
    /// When it cannot: the message names the setting.
    pub fn check_change(&self, new: &Config) -> Result<(), ConfigError> {
        // A program with a new name does not rename the instance.
        let is_kept = |setting| setting != "name" || self.name_said || new.name_said;
        let mut settings = self.fixed().into_iter().zip(new.fixed());
        match settings.find(|(old, new)| old != new && is_kept(old.0)) {
            None => Ok(()),
            Some(((setting, old), (_, new))) => Err(ConfigError::Invalid(format!(
                "a restart cannot change {setting:?} from {old} to {new}: that needs a stop and a start"
            ))),
        }
    }

    /// The settings that stay the same until the process ends.
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
