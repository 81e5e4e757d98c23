//! A supervisor as a Windows service: installed, uninstalled, and run by the service control manager, which is one more
//! trigger. The reports to the manager are in `reports.rs`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use windows_service::service::{
    Service as Installed, ServiceAccess, ServiceAction, ServiceActionType, ServiceControlAccept, ServiceErrorControl,
    ServiceExitCode, ServiceFailureActions, ServiceFailureResetPeriod, ServiceInfo, ServiceStartType, ServiceState,
    ServiceStatus, ServiceType,
};
use windows_service::service_control_handler::{self, ServiceControlHandlerResult};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};
use windows_service::{define_windows_service, service_dispatcher};

use super::reports::{LONGEST, Report, Reports, State};
use super::view::MARGIN;
use crate::event::{Event, EventSender, ServiceControl, Trigger};
use crate::exit::Exit;
use crate::instance::{self, InstanceName};
use crate::journal::Journal;
use crate::log::{Level, Log};
use crate::text::{Reason, Seconds};

/// The arguments before the server's command line in that of its service.
const RUN: [&str; 2] = ["service", "run"];

/// The user of a service. It has few rights and no password.
pub(crate) const ACCOUNT: &str = r"NT AUTHORITY\LocalService";

/// How long the service manager waits before it restarts a failed service: the first time, the second, and each further
/// time.
const START_AGAIN_AFTER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(10), Duration::from_secs(60)];

/// After this time without a failure, the next failure counts as the first again.
const FORGET_FAILURES_AFTER: Duration = Duration::from_secs(3600);

/// How often to look whether a service has stopped: nothing announces it.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Error codes of the service manager, as `winerror.h` has them.
mod code {
    pub(super) const ACCESS_DENIED: i32 = 5;
    pub(super) const SERVICE_DOES_NOT_EXIST: i32 = 1060;
    pub(super) const SERVICE_CANNOT_ACCEPT_CONTROL: i32 = 1061;
    pub(super) const SERVICE_NOT_ACTIVE: i32 = 1062;
    pub(super) const FAILED_SERVICE_CONTROLLER_CONNECT: i32 = 1063;
    pub(super) const SERVICE_MARKED_FOR_DELETE: i32 = 1072;
    pub(super) const SERVICE_EXISTS: i32 = 1073;
}

/// What cannot be done with a service, in human-readable form.
#[derive(Debug)]
pub struct ServiceError {
    message: String,
    exit: Exit,
}

impl ServiceError {
    pub(crate) fn new(message: impl Into<String>) -> ServiceError {
        ServiceError { message: message.into(), exit: Exit::Failed }
    }

    /// The same with another exit code.
    pub(crate) fn exiting(self, exit: Exit) -> ServiceError {
        ServiceError { exit, ..self }
    }

    /// An error of the service manager, when `doing` this to the service with this name.
    fn system(doing: &str, name: &str, error: windows_service::Error) -> ServiceError {
        let error = match error {
            windows_service::Error::Winapi(error) => error,
            other => io::Error::other(other),
        };
        let message = match error.raw_os_error() {
            Some(code::ACCESS_DENIED) => {
                let message = format!(
                    "no permission to {doing} the service {name}: services are for administrators, so say it again \
                     in a terminal that was opened with \"Run as administrator\""
                );
                return ServiceError { message, exit: Exit::NotPermitted };
            }
            Some(code::SERVICE_DOES_NOT_EXIST) => format!("there is no service {name}"),
            Some(code::SERVICE_EXISTS) => format!(
                "there is a service {name} already; uninstall it (supervisor service uninstall {name}), or choose \
                 another name with --name"
            ),
            Some(code::SERVICE_MARKED_FOR_DELETE) => format!(
                "the service {name} has been uninstalled, but is not gone yet: close the windows that show services, \
                 such as services.msc, and the Task Manager"
            ),
            _ => format!("cannot {doing} the service {name}: {}", Reason(&error)),
        };
        ServiceError::new(message)
    }

    /// The exit code for a program that ends with this error.
    pub fn exit(&self) -> Exit {
        self.exit
    }
}

impl fmt::Display for ServiceError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for ServiceError {}

/// Installs a service that runs this program with these arguments from the next start of the system on, and may take
/// this long to stop. Returns the properties that the service manager did not accept, and why: the service works
/// without them.
///
/// # Errors
/// When it cannot be installed.
pub fn install(
    name: &str,
    program: PathBuf,
    arguments: &[OsString],
    stop: Duration,
) -> Result<Vec<(&'static str, String)>, ServiceError> {
    let failed = |error| ServiceError::system("install", name, error);
    let info = ServiceInfo {
        name: name.into(),
        display_name: format!("{name} (mastercontrol)").into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::AutoStart,
        error_control: ServiceErrorControl::Normal,
        executable_path: program,
        launch_arguments: RUN.iter().map(OsString::from).chain(arguments.iter().cloned()).collect(),
        dependencies: Vec::new(),
        account_name: Some(ACCOUNT.into()),
        account_password: None,
    };
    let access = ServiceAccess::CHANGE_CONFIG | ServiceAccess::START;
    let manager = connect(ServiceManagerAccess::CREATE_SERVICE).map_err(failed)?;
    let service = manager.create_service(&info, access).map_err(failed)?;
    let properties = properties(&service, &shown(arguments), stop).into_iter();
    Ok(properties.filter_map(|(what, done)| Some((what, reason(&done.err()?)))).collect())
}

/// The arguments, in human-readable form.
pub(crate) fn shown(arguments: &[OsString]) -> String {
    arguments.iter().map(|argument| argument.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Sets the properties that a service can do without.
fn properties(service: &Installed, line: &str, stop: Duration) -> [(&'static str, windows_service::Result<()>); 4] {
    let actions = START_AGAIN_AFTER.map(|delay| ServiceAction { action_type: ServiceActionType::Restart, delay });
    let failure_actions = ServiceFailureActions {
        reset_period: ServiceFailureResetPeriod::After(FORGET_FAILURES_AFTER),
        reboot_msg: None,
        command: None,
        actions: Some(actions.into()),
    };
    [
        ("its description", service.set_description(format!("Runs: supervisor {line}"))),
        ("that it is started again when its process ends", service.update_failure_actions(failure_actions)),
        (
            "that it is started again when it says that it has failed",
            service.set_failure_actions_on_non_crash_failures(true),
        ),
        (
            "how long it may take to stop when the system shuts down",
            service.set_preshutdown_timeout(stop.saturating_add(MARGIN).min(LONGEST)),
        ),
    ]
}

fn reason(error: &windows_service::Error) -> String {
    match error {
        windows_service::Error::Winapi(error) => Reason(error).to_string(),
        other => other.to_string(),
    }
}

/// Stops the service, waits until it has stopped, and removes it. Returns a message about that.
///
/// # Errors
/// When there is no such service, it is none of ours, it does not stop, or it cannot be removed.
pub fn uninstall(name: &InstanceName) -> Result<String, ServiceError> {
    let name = name.as_str();
    let failed = |error| ServiceError::system("uninstall", name, error);
    let access =
        ServiceAccess::QUERY_CONFIG | ServiceAccess::QUERY_STATUS | ServiceAccess::STOP | ServiceAccess::DELETE;
    let service = connect(ServiceManagerAccess::empty())
        .and_then(|manager| manager.open_service(name, access))
        .map_err(failed)?;
    let line = service.query_config().map_err(failed)?.executable_path;
    if !line.to_string_lossy().contains(&format!(" {} ", RUN.join(" "))) {
        let message = format!("the service {name} is none of a supervisor, so it stays: it runs {}", line.display());
        return Err(ServiceError::new(message));
    }
    stop(&service, name)?;
    service.delete().map_err(failed)?;
    Ok(format!("uninstalled the service {name}\n"))
}

/// Stops the service, and waits as long as the service says that it may take.
fn stop(service: &Installed, name: &str) -> Result<(), ServiceError> {
    let failed = |error| ServiceError::system("stop", name, error);
    // Its last report, and when it first made it.
    let mut said: Option<(ServiceState, u32, Instant)> = None;
    loop {
        let status = service.query_status().map_err(failed)?;
        let now = Instant::now();
        let since = match said {
            Some((state, checkpoint, since)) if (state, checkpoint) == (status.current_state, status.checkpoint) => {
                since
            }
            Some(_) | None => now,
        };
        said = Some((status.current_state, status.checkpoint, since));
        // When it reports nothing, as while it runs, it may take a while until it learns of the stop.
        let patience = status.wait_hint.saturating_add(MARGIN);
        if status.current_state == ServiceState::Stopped {
            return Ok(());
        } else if now.saturating_duration_since(since) > patience {
            let message = format!(
                "the service {name} has not stopped, and has said nothing for {}, so it is still installed; end its \
                 process ({}) in the Task Manager",
                Seconds(patience),
                status.process_id.unwrap_or_default()
            );
            return Err(ServiceError::new(message));
        } else if status.current_state == ServiceState::Running {
            match service.stop() {
                Ok(_) => {}
                // It has just ended, or is about to.
                Err(windows_service::Error::Winapi(error))
                    if matches!(
                        error.raw_os_error(),
                        Some(code::SERVICE_NOT_ACTIVE | code::SERVICE_CANNOT_ACCEPT_CONTROL)
                    ) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        thread::sleep(LOOK_EVERY);
    }
}

fn connect(access: ServiceManagerAccess) -> windows_service::Result<ServiceManager> {
    ServiceManager::local_computer(None::<&OsStr>, ServiceManagerAccess::CONNECT | access)
}

/// This process as a service: its connection to the service manager.
#[derive(Debug, Clone)]
pub struct Service {
    name: OsString,
    reports: Reports,
    /// Receives the commands of the service manager, once there is a server.
    events: Arc<OnceLock<EventSender>>,
}

/// A program that is a service, and returns its exit code.
type Program = Box<dyn FnOnce(Service) -> i32 + Send>;

/// The program to run; the function that the service manager calls has no other access to it.
static PROGRAM: Mutex<Option<Program>> = Mutex::new(None);

/// Runs a program, at most once in a process, as the service for which the service manager has started this process.
/// Returns the exit code of the program.
///
/// # Errors
/// When a user has started this process, and no service manager.
pub fn run(program: impl FnOnce(Service) -> i32 + Send + 'static) -> Result<i32, ServiceError> {
    let (end, ended) = mpsc::channel();
    let program: Program = Box::new(move |service| {
        let reports = service.reports.clone();
        let code = program(service);
        // Sent before the report, because the process may end with the report.
        let _ = end.send(code);
        let _ = reports.end(code); // If it cannot be told, the end of the process tells it.
        code
    });
    *PROGRAM.lock().unwrap_or_else(PoisonError::into_inner) = Some(program);
    // A process with one service needs no name here.
    match service_dispatcher::start("", service_main) {
        Ok(()) => Ok(ended.recv().unwrap_or(Exit::Failed as i32)),
        Err(windows_service::Error::Winapi(error))
            if error.raw_os_error() == Some(code::FAILED_SERVICE_CONTROLLER_CONNECT) =>
        {
            let message = "this is what the service manager runs, when it starts a service that was installed \
                           (supervisor service install …; net start NAME); to run the server here, leave out \
                           \"service run\"";
            Err(ServiceError { message: message.into(), exit: Exit::Usage })
        }
        Err(error) => Err(ServiceError::new(format!("cannot run as a service: {}", reason(&error)))),
    }
}

define_windows_service!(service_main, begin);

/// Runs on a thread of the system; the first argument is the name of the service.
fn begin(arguments: Vec<OsString>) {
    let program = PROGRAM.lock().unwrap_or_else(PoisonError::into_inner).take();
    let Some(program) = program else { return };
    match Service::register(arguments.into_iter().next().unwrap_or_default()) {
        Ok(service) => drop(program(service)),
        // There is no other way to report that it does not run.
        Err(_) => std::process::exit(Exit::Failed as i32),
    }
}

impl Service {
    fn register(name: OsString) -> windows_service::Result<Service> {
        let events = Arc::new(OnceLock::<EventSender>::new());
        let reports = Arc::new(OnceLock::<Reports>::new());
        let (to, from) = (events.clone(), reports.clone());
        let handle = service_control_handler::register(&name, move |control| {
            let Some(control) = ServiceControl::of(control.raw_service_control_type()) else {
                return if control == windows_service::service::ServiceControl::Interrogate {
                    ServiceControlHandlerResult::NoError
                } else {
                    ServiceControlHandlerResult::NotImplemented
                };
            };
            // The crate drops this closure when it returns, so the service manager must not call it again: it does not
            // if it has been told by then that the stop is under way.
            if let Some(reports) = from.get() {
                let _ = reports.obey();
            }
            if let Some(events) = to.get() {
                // An error means that the server has stopped already.
                let _ = events.send(Event::Stop { by: Trigger::ServiceManager(control), grace: None });
            }
            ServiceControlHandlerResult::NoError
        })?;
        let say = move |report| match handle.set_service_status(status(report)) {
            Err(windows_service::Error::Winapi(error)) => Err(error),
            other => other.map_err(io::Error::other),
        };
        let reports = reports.get_or_init(|| Reports::new(Box::new(say))).clone();
        let _ = reports.begin(); // The next report makes up for one that fails.
        Ok(Service { name, reports, events })
    }

    /// A journal for the service that logs to a file beside the instance's lock: a service has no stderr.
    pub fn journal(&self, log: Log) -> Journal {
        let name = self.name.display();
        let opened = instance::log_file(&self.name.to_string_lossy()).and_then(|path| {
            let journal = Journal::in_file(log, &path)
                .map_err(|error| format!("cannot write the log into {}: {}", path.display(), Reason(&error)))?;
            journal.line(Level::Info, "service", format!("the service {name} starts, log in {}", path.display()), []);
            Ok(journal)
        });
        opened.unwrap_or_else(|error| {
            let journal = Journal::new(log);
            journal.line(Level::Warning, "no_log", format!("the service {name} starts without a log: {error}"), []);
            journal
        })
    }

    /// Turns the commands of the service manager into these events from now on.
    pub(crate) fn commands(self, events: EventSender) -> Reports {
        // One service has one supervisor; of several, the first one receives the commands.
        let _ = self.events.set(events);
        self.reports
    }
}

/// A report in the form that the service manager needs.
fn status(report: Report) -> ServiceStatus {
    let (current_state, exit_code) = match report.state {
        State::Starting => (ServiceState::StartPending, ServiceExitCode::NO_ERROR),
        State::Running => (ServiceState::Running, ServiceExitCode::NO_ERROR),
        State::Stopping => (ServiceState::StopPending, ServiceExitCode::NO_ERROR),
        State::Stopped { code: 0 } => (ServiceState::Stopped, ServiceExitCode::NO_ERROR),
        State::Stopped { code } => (ServiceState::Stopped, ServiceExitCode::ServiceSpecific(code.cast_unsigned())),
    };
    let controls_accepted = match report.state {
        State::Running => ServiceControlAccept::STOP | ServiceControlAccept::PRESHUTDOWN,
        State::Starting | State::Stopping | State::Stopped { .. } => ServiceControlAccept::empty(),
    };
    ServiceStatus {
        service_type: ServiceType::OWN_PROCESS,
        current_state,
        controls_accepted,
        exit_code,
        checkpoint: report.checkpoint,
        wait_hint: report.wait_hint,
        process_id: None,
    }
}
