//! Whether a service of Windows can run the same server as this command line, and how that is installed.

use std::env;
use std::path::{Path, PathBuf};

use worker::handlers::Http;

use super::config::Config;
use super::invocation::Invocation;
use super::server::{HandlerKind, OwnServer, Server};
use crate::host::windows_service::{self, ACCOUNT, ServiceError};
use crate::text::Reason;

/// Installs a service that runs this server from the next start of the system on. Returns a message about that.
///
/// # Errors
/// When the settings are wrong, the service could not start with them, or it cannot be installed.
pub fn install(invocation: &Invocation) -> Result<String, ServiceError> {
    let config = invocation.as_said().map_err(|error| ServiceError::new(error.to_string()).exiting(error.exit()))?;
    let program = env::current_exe()
        .map_err(|error| ServiceError::new(format!("cannot tell where this program is: {}", Reason(&error))))?;
    check(&config, invocation.file(), &program).map_err(ServiceError::new)?;
    let name = config.name.as_str();
    let line = windows_service::shown(invocation.arguments());
    let not_taken =
        windows_service::install(name, program, invocation.arguments(), config.delay.saturating_add(config.grace))?;
    let admin = match &config.socket {
        None => format!("admin-cli --name {name}"),
        Some(socket) => format!("admin-cli --socket {}", socket.display()),
    };
    let mut said = format!(
        "installed the service {name}, which runs: supervisor {line}\n\
         It starts with the system, as {ACCOUNT}, which has to be able to read what is served. Start it now: net start \
         {name}\n\
         As an administrator: {admin} status; its log: {admin} events\n"
    );
    for (what, why) in not_taken {
        said += &format!("warning: the service manager does not take {what}: {why}\n");
    }
    Ok(said)
}

/// Whether a service could start with these settings, as far as that can be told beforehand.
fn check(config: &Config, file: Option<&Path>, program: &Path) -> Result<(), String> {
    let mut paths = vec![("this program", program)];
    paths.extend(file.map(|file| ("the file", file)));
    paths.extend(config.env_file.as_deref().map(|file| ("the file with variables", file)));
    paths.extend(config.socket.as_deref().map(|socket| ("the admin socket", socket)));
    match &config.server {
        Server::Own(OwnServer { handler: HandlerKind::Http { dir }, .. }) => paths.push(("the directory", dir)),
        Server::Exec { program, front: _ } => {
            paths.push(("the program", Path::new(&program.program)));
            let directory = program.directory.as_deref().filter(|directory| !directory.as_os_str().is_empty());
            paths.extend(directory.map(|directory| ("the directory", directory)));
        }
        Server::Own(OwnServer { handler: HandlerKind::Echo | HandlerKind::Command, .. }) => {}
    }
    let own = env::var_os("USERPROFILE").filter(|own| !own.is_empty());
    for (what, path) in paths {
        let shown = path.display();
        if !path.is_absolute() {
            let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
            return Err(format!(
                "a service does not start in this directory: say {what} {shown} as an absolute path, such as {}",
                whole.display()
            ));
        }
        if own.as_ref().is_some_and(|own| is_in(path, Path::new(own))) {
            return Err(format!(
                "{what} {shown} is in your own directory, which {ACCOUNT} cannot read: put it somewhere else, such as \
                 below C:\\Program Files or C:\\ProgramData"
            ));
        }
    }
    match &config.server {
        Server::Own(OwnServer { handler: HandlerKind::Http { dir }, .. }) => {
            Http::new(dir).map(drop).map_err(|error| error.to_string())
        }
        Server::Exec { program, front: _ } if !is_program(Path::new(&program.program)) => {
            Err(format!("there is no program {}", program.program.display()))
        }
        Server::Exec { program, front: _ }
            if program.directory.as_ref().is_some_and(|it| !it.as_os_str().is_empty()) =>
        {
            program.check_directory().map_err(|error| error.to_string())
        }
        Server::Exec { .. } | Server::Own(_) => Ok(()),
    }
}

/// Whether it is in this directory: for Windows capitals are the same as small letters.
fn is_in(path: &Path, directory: &Path) -> bool {
    let small = |path: &Path| PathBuf::from(path.to_string_lossy().to_lowercase());
    small(path).starts_with(small(directory))
}

/// The system adds `.exe` if need be.
fn is_program(path: &Path) -> bool {
    path.is_file() || path.with_added_extension("exe").is_file()
}
