//! What the program does with its command line, which [`mastercontrol::cli`] defines.

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use mastercontrol::cli::{self, Asked, Config, ConfigError, Front, HandlerKind, Invocation, Server};
#[cfg(windows)]
use mastercontrol::host::windows_service;
use mastercontrol::host::{Passed, PassedError};
use mastercontrol::text::Seconds;
use mastercontrol::worker::handlers::{Commands, Echo, Http, Logged};
use mastercontrol::{
    Address, BuildError, Exit, Handle, Handler, Journal, Level, Listen, Log, RestartMode, Settings, Supervisor,
};

/// Does what the command line asks for. Returns the exit code.
pub(crate) fn run(asked: Asked, passed: Result<Passed, PassedError>) -> i32 {
    match asked {
        Asked::Serve(invocation) => {
            let journal = Journal::new(invocation.log());
            journal.record_panics();
            let code = serve(&invocation, passed, &journal, Triggers::Terminal);
            journal.flush();
            code
        }
        Asked::Generate(wanted) => match wanted.write(cli::command(), |_, script| script) {
            Ok(()) => Exit::Done as i32,
            Err(message) => failed("not_written", message, Exit::Failed),
        },
        #[cfg(windows)]
        Asked::RunService(invocation) => run_service(invocation),
        #[cfg(windows)]
        Asked::InstallService(invocation) => say(cli::service::install(&invocation)),
        #[cfg(windows)]
        Asked::UninstallService(name) => say(windows_service::uninstall(&name)),
    }
}

/// Logs why something other than a server failed. Returns the exit code.
fn failed(event: &'static str, message: impl Display, exit: Exit) -> i32 {
    let journal = Journal::new(Log::text());
    journal.line(Level::Error, event, message, []);
    journal.flush();
    exit as i32
}

/// Runs the server as a service: without a console, and with the service manager instead.
#[cfg(windows)]
fn run_service(invocation: Invocation) -> i32 {
    let journal = Journal::new(invocation.log());
    let program = move |service: windows_service::Service| {
        let journal = service.journal(invocation.log());
        journal.record_panics();
        let code = serve(&invocation, Ok(Passed::default()), &journal, Triggers::Service(service));
        journal.flush();
        code
    };
    windows_service::run(program).unwrap_or_else(|error| {
        journal.line(Level::Error, "not_started", &error, []);
        journal.flush();
        error.exit() as i32
    })
}

/// Reports what became of a service.
#[cfg(windows)]
fn say(done: Result<String, windows_service::ServiceError>) -> i32 {
    use std::io::Write;
    match done {
        Ok(said) => {
            let _ = std::io::stdout().write_all(said.as_bytes()); // It is done, even if that is not read.
            Exit::Done as i32
        }
        Err(error) => failed("service", &error, error.exit()),
    }
}

/// Runs the server until its triggers stop it. Returns the exit code.
fn serve(invocation: &Invocation, passed: Result<Passed, PassedError>, journal: &Journal, triggers: Triggers) -> i32 {
    let not_started = |error: &dyn Error, exit: Exit| {
        journal.line(Level::Error, "not_started", error, []);
        exit as i32
    };
    let passed = match passed {
        Ok(passed) => passed,
        Err(error) => return not_started(&error, Exit::Failed),
    };
    let addresses = passed.addresses();
    let config = match invocation.read_with(&addresses) {
        Ok(config) => config,
        Err(error) => return not_started(&error, error.exit()),
    };
    let journal = journal.with(config.log);
    let first = config.clone();
    let invocation = invocation.clone();
    match &config.server {
        Server::Exec { program, front } => {
            let supervisor =
                Supervisor::program(move |settings| program_now(&invocation, &addresses, &first, settings));
            let supervisor = supervisor.shown_as(&program.to_string()).passed(passed);
            let supervisor = configure(supervisor, &config, &journal, triggers);
            match front {
                Front::Sockets(listen) => wait(supervisor.start(listen), &config, &journal),
                #[cfg(target_os = "linux")]
                Front::Relay(listen, relay) => {
                    cli::raise_descriptor_limit();
                    wait(supervisor.start_relayed(*listen, relay), &config, &journal)
                }
                #[cfg(not(target_os = "linux"))]
                Front::Relay(..) => failed("not_started", "only Linux has a relay", Exit::Failed),
            }
        }
        Server::Own(own) => {
            #[cfg(unix)]
            cli::raise_descriptor_limit();
            let of_requests = journal.clone();
            let supervisor = Supervisor::with_factory(move |settings| {
                build(&invocation, &addresses, &first, &of_requests, settings)
            });
            let supervisor = configure(supervisor.passed(passed), &config, &journal, triggers);
            wait(supervisor.start(Listen::Bind(own.listen)), &config, &journal)
        }
    }
}

/// What stops the server, besides the admin socket.
enum Triggers {
    /// Enter and signals.
    Terminal,
    /// The service manager of Windows.
    #[cfg(windows)]
    Service(windows_service::Service),
}

/// Applies the settings that are the same whatever is supervised.
fn configure<S>(supervisor: Supervisor<S>, config: &Config, journal: &Journal, triggers: Triggers) -> Supervisor<S> {
    let mut supervisor = supervisor
        .kind(config.server.kind())
        .name(config.name.clone())
        // In force until the first generation is built, and so for the stop of one that is never ready.
        .grace(config.grace)
        .delay(config.delay)
        .spread(config.spread)
        .journal(journal.clone())
        .on_hup(config.on_hup)
        .last_resort()
        .service_manager()
        .admin(config.admin);
    supervisor = match triggers {
        Triggers::Terminal => supervisor.console(config.console).signals(),
        #[cfg(windows)]
        Triggers::Service(service) => supervisor.service(service),
    };
    if let Some(path) = &config.socket {
        supervisor = supervisor.socket(path);
    }
    if let Some(address) = config.health {
        supervisor = supervisor.health(address);
    }
    supervisor
}

/// Waits until a supervisor has ended, if it could be started. Returns the exit code.
fn wait<L>(started: Result<Handle<L>, mastercontrol::Error>, config: &Config, journal: &Journal) -> i32 {
    let ended = match started {
        // Later failures are logged by master control.
        Ok(handle) => handle.wait(),
        Err(error) => {
            journal.line(Level::Error, "not_started", &error, []);
            Err(error)
        }
    };
    ended.map_or_else(|error| code(&error, config.restart.mode), |report| report.exit() as i32)
}

/// The exit code for an error. If a program ended by itself or could not be started, its code is passed on as a shell
/// would. If it ended before it was ready, that is a failure, unless the supervisor ends with its program in any case.
fn code(error: &mastercontrol::Error, mode: RestartMode) -> i32 {
    match error {
        mastercontrol::Error::Ended { clean: true, .. } => Exit::Done as i32,
        mastercontrol::Error::Ended { program: Some(end), .. } => end.code(),
        mastercontrol::Error::Build { source, .. } => {
            let cannot = source.downcast_ref::<mastercontrol::child::CannotStart>().map(|cannot| cannot.code.into());
            let early = source.downcast_ref::<mastercontrol::child::EndedEarly>();
            let passed_on = || early.filter(|_| mode == RestartMode::Never).map(|early| early.end.code());
            cannot.or_else(passed_on).unwrap_or(error.exit() as i32)
        }
        error => error.exit() as i32,
    }
}

/// The settings that the command line and the file now give a generation. Sockets on these addresses were passed.
fn settings_now(
    invocation: &Invocation,
    passed: &[Address],
    first: &Config,
    settings: &mut Settings,
) -> Result<Config, ConfigError> {
    let config = invocation.read_with(passed)?;
    first.check_change(&config)?;
    (settings.grace, settings.delay, settings.spread) = (config.grace, config.delay, config.spread);
    (settings.restart, settings.log) = (config.restart, config.log);
    settings.parts.clone_from(&config.parts);
    Ok(config)
}

fn program_now(
    invocation: &Invocation,
    passed: &[Address],
    first: &Config,
    settings: &mut Settings,
) -> Result<mastercontrol::child::Program, BuildError> {
    match settings_now(invocation, passed, first, settings)?.server {
        Server::Exec { program, .. } => Ok(*program),
        own @ Server::Own(_) => Err(format!("{} is no program", own.kind()).into()),
    }
}

/// Builds a generation of the server from what the command line and the file say now.
fn build(
    invocation: &Invocation,
    passed: &[Address],
    first: &Config,
    journal: &Journal,
    settings: &mut Settings,
) -> Result<Arc<dyn Handler>, BuildError> {
    let config = settings_now(invocation, passed, first, settings)?;
    let journal = journal.with(config.log);
    let Server::Own(own) = config.server else { return Err("a program is no server thread".into()) };
    (settings.max_connections, settings.check_every) = (own.max_connections, own.check_every);
    Ok(match own.handler {
        HandlerKind::Echo => Arc::new(Echo),
        HandlerKind::Command => Arc::new(Commands::new()),
        HandlerKind::Http { dir } => {
            let http = Http::new(dir)?;
            let log = journal.tells(Level::Detail);
            Arc::new(if log { http.log(move |request| log_request(&journal, request)) } else { http })
        }
    })
}

fn log_request(journal: &Journal, logged: &Logged<'_>) {
    let Logged { peer, request, status, sent, took, .. } = logged;
    let message = format!("{peer} \"{request}\" {status} {sent} bytes in {}", Seconds(*took));
    let fields = [
        ("peer", peer.to_string().into()),
        ("request", (*request).into()),
        ("status", (*status).into()),
        ("sent", (*sent).into()),
    ];
    journal.line(Level::Detail, "request", message, fields);
}
