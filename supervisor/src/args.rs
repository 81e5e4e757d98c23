//! What the program does with its command line, which [`supervisor::config`] defines.

use std::sync::Arc;

use supervisor::config::{Config, Invocation, ServerKind};
use supervisor::text::Seconds;
use supervisor::worker::handlers::{Commands, Echo, Http, Logged};
use supervisor::{BuildError, Exit, Handler, Level, Log, Settings, Supervisor};

/// Runs the program to its end.
pub(crate) fn run() -> Exit {
    let invocation = Invocation::from_command_line();
    let config = match invocation.read() {
        Ok(config) => config,
        Err(error) => {
            invocation.log().line(Level::Error, "not_started", &error, []);
            return Exit::Failed;
        }
    };
    let first = config.clone();
    let mut supervisor = Supervisor::with_factory(move |settings| build(&invocation, &first, settings))
        .kind(config.server.kind())
        .name(config.name)
        .log(config.log)
        .console()
        .signals()
        .on_hup(config.on_hup)
        .last_resort()
        .admin(config.admin);
    if let Some(path) = config.socket {
        supervisor = supervisor.socket(path);
    }
    match supervisor.start(config.listen) {
        Err(error) => {
            config.log.line(Level::Error, "not_started", &error, []);
            error.exit()
        }
        // What went wrong has been logged by master control.
        Ok(running) => running.wait().map_or_else(|error| error.exit(), |report| report.exit()),
    }
}

/// Builds a generation of the server from what the command line and the file say now.
fn build(invocation: &Invocation, first: &Config, settings: &mut Settings) -> Result<Arc<dyn Handler>, BuildError> {
    let config = invocation.read()?;
    first.check_change(&config)?;
    let log = config.log;
    *settings = Settings {
        grace: config.grace,
        max_connections: config.max_connections,
        restart: config.restart,
        check_every: config.check_every,
        log,
    };
    Ok(match config.server {
        ServerKind::Echo => Arc::new(Echo),
        ServerKind::Command => Arc::new(Commands::new()),
        ServerKind::Http { dir } => {
            let http = Http::new(dir)?;
            let http = if log.is_verbose() { http.log(move |request| log_request(log, request)) } else { http };
            Arc::new(http)
        }
    })
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
