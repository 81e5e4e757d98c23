//! A supervisor as a Windows service: installed, started, stopped and uninstalled, with the real service manager.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use windows_service::service::{
    Service as Installed, ServiceAccess, ServiceErrorControl, ServiceExitCode, ServiceInfo, ServiceStartType,
    ServiceState, ServiceStatus, ServiceType,
};
use windows_service::service_manager::{ServiceManager, ServiceManagerAccess};

use crate::support::{ADMIN_CLI, Client, Ended, HUGE, Home, SUPERVISOR, eventually, free_port};

/// Held while a service starts: under Wine any process that is run by hand at that time can take its place.
static START: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // The failure of another test does not affect this one.
    START.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Held while this process has handles of the service manager: Wine takes those of several threads for each other.
static MANAGER: Mutex<()> = Mutex::new(());

fn ask_manager<R>(ask: impl FnOnce() -> windows_service::Result<R>) -> windows_service::Result<R> {
    let _alone = MANAGER.lock().unwrap_or_else(PoisonError::into_inner);
    ask()
}

/// A service with an echo server and the test's name. It is removed after the test.
struct Service {
    home: Home,
    address: SocketAddr,
}

impl Service {
    fn install(options: &[&str]) -> Service {
        let home = Home::new();
        let address = ([127, 0, 0, 1], free_port()).into();
        let service = Service { home, address };
        let listen = service.address.to_string();
        let line = [&["install", "echo", "--name", service.home.name(), "--listen", &listen], options].concat();
        service.supervisor(&line).expect(0).says("installed the service").says("net start");
        service
    }

    /// `supervisor service` with these arguments.
    fn supervisor(&self, arguments: &[&str]) -> Ended {
        self.home.run(command(&self.home, arguments))
    }

    /// Asks the service manager about the service, or to do something with it.
    fn ask<R>(
        &self,
        access: ServiceAccess,
        ask: impl FnOnce(&Installed) -> windows_service::Result<R>,
    ) -> windows_service::Result<R> {
        ask_manager(|| {
            let manager = ServiceManager::local_computer(None::<&str>, ServiceManagerAccess::CONNECT)?;
            ask(&manager.open_service(self.home.name(), access)?)
        })
    }

    fn try_status(&self) -> windows_service::Result<ServiceStatus> {
        self.ask(ServiceAccess::QUERY_STATUS, Installed::query_status)
    }

    fn status(&self) -> ServiceStatus {
        self.try_status().unwrap()
    }

    fn start(&self) {
        let _alone = alone();
        let mut net = self.home.program("net");
        net.args(["start", self.home.name()]);
        self.home.run(net).expect(0);
        // Wine's service manager does not wait for that.
        self.await_state(ServiceState::Running);
    }

    /// Returns the status that the service reports at once.
    fn stop(&self) -> ServiceStatus {
        self.ask(ServiceAccess::STOP, Installed::stop).unwrap()
    }

    fn await_state(&self, state: ServiceState) -> ServiceStatus {
        eventually("the service has this state", || self.status().current_state == state);
        self.status()
    }

    fn client(&self) -> Client {
        let mut client = Client::connect(self.address);
        client.greet();
        client
    }

    fn admin(&self, arguments: &[&str]) -> Ended {
        self.home.admin(&[&["--name", self.home.name()], arguments].concat())
    }

    /// The service manager gives a service the environment of its user, not that of the test's programs. (Under Wine
    /// that is the same user.)
    fn log_file(&self) -> PathBuf {
        let data = PathBuf::from(std::env::var_os("LOCALAPPDATA").unwrap());
        data.join("mastercontrol").join(format!("{}.log", self.home.name()))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.admin(&["stop", "--now"]);
        self.supervisor(&["uninstall", self.home.name()]);
        let _ = fs::remove_file(self.log_file());
    }
}

fn command(home: &Home, arguments: &[&str]) -> Command {
    let mut command = home.program(SUPERVISOR);
    command.arg("service").args(arguments);
    command
}

#[test]
fn a_service_serves_is_stopped_by_the_service_manager_and_tells_its_clients() {
    let service = Service::install(&["--grace", HUGE]);
    assert_eq!(service.status().current_state, ServiceState::Stopped);
    service.start();
    let mut client = service.client();
    service.admin(&["status", "--short"]).expect(0).says("serving").says("1 connection");

    assert_eq!(service.stop().current_state, ServiceState::StopPending);
    client.assert_told();
    // It reports how long it may take, which is the clients' grace period.
    eventually("it has said how long", || service.status().wait_hint.as_secs() > 500);
    service.admin(&["status", "--short"]).expect(0).says("draining");
    drop(client);
    let status = service.await_state(ServiceState::Stopped);
    assert_eq!(status.exit_code, ServiceExitCode::NO_ERROR);
    let log = service.log();
    assert!(log.contains("service manager: stopping, 1 client") && log.contains("1 notified, 1 disconnected"), "{log}");
    TcpListener::bind(service.address).unwrap();

    service.start();
    service.client();
    service.admin(&["stop"]).expect(0);
    let status = service.await_state(ServiceState::Stopped);
    assert_eq!(status.exit_code, ServiceExitCode::NO_ERROR);
}

#[test]
fn a_stop_that_the_service_manager_has_asked_for_cannot_be_cancelled_during_its_delay() {
    let service = Service::install(&["--delay", "30"]);
    service.start();
    assert_eq!(service.stop().current_state, ServiceState::StopPending);
    eventually("it is scheduled", || service.log().contains("not ready for new clients"));
    service.admin(&["resume"]).expect(1).says("the service manager has asked for this stop");
    service.await_state(ServiceState::Stopped);
}

#[test]
fn the_commands_of_its_page_do_what_they_say() {
    let service = Service { home: Home::new(), address: ([127, 0, 0, 1], free_port()).into() };
    let name = service.home.name();
    // Not below the directory for temporary files, which belongs to the user.
    let directory = PathBuf::from(std::env::var_os("ProgramData").unwrap()).join(name);
    fs::create_dir_all(&directory).unwrap();
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/windows.md");
    let page = fs::read_to_string(page).unwrap();
    let block = page.split("```bat\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let (directory_text, listen) = (directory.to_str().unwrap(), service.address.to_string());
    for line in block.lines() {
        let mut words = line.split(' ').map(|word| match word {
            "supervisor" => SUPERVISOR,
            "admin-cli" => ADMIN_CLI,
            r"C:\www" => directory_text,
            "0.0.0.0:80" => &listen,
            "files" => name,
            other => other,
        });
        let mut command = service.home.program(words.next().unwrap());
        command.args(words);
        if line == "net start files" {
            service.start();
            continue;
        }
        service.home.run(command).expect(0);
        if line == "net stop files" {
            // Wine's service manager does not wait for that.
            service.await_state(ServiceState::Stopped);
        }
    }
    assert!(service.try_status().is_err(), "it is still there");
    let log = service.log();
    assert!(log.contains("service manager: stopping"), "{log}");
    fs::remove_dir(&directory).unwrap();
}

#[test]
fn who_installs_a_service_hears_how_it_is_commanded() {
    let home = Home::new();
    let name = home.name();
    let pipe = format!(r"\\.\pipe\{name}-own");
    for (options, hint) in [(&[][..], format!("--name {name} ")), (&["--socket", &pipe], format!("--socket {pipe} "))] {
        let line = [&["install", "echo", "--name", name], options].concat();
        let installed = home.run(command(&home, &line));
        home.run(command(&home, &["uninstall", name])).expect(0);
        installed.expect(0).says(&format!("admin-cli {hint}status"));
    }
}

#[test]
fn the_system_waits_at_a_shutdown_for_the_delay_and_for_the_clients() {
    let service = Service::install(&["--grace", "20", "--delay", "10"]);
    let mut reg = service.home.program("reg");
    let key = format!(r"HKLM\SYSTEM\CurrentControlSet\Services\{}", service.home.name());
    reg.args(["query", &key, "/v", "PreshutdownTimeout"]);
    // 35 seconds.
    service.home.run(reg).expect(0).says("0x88b8");
}

#[test]
fn a_service_that_is_uninstalled_is_stopped_before() {
    let service = Service::install(&["--grace", HUGE]);
    service.start();
    let mut client = service.client();
    let mut uninstall = command(&service.home, &["uninstall", service.home.name()]);
    uninstall.stdout(Stdio::piped()).stderr(Stdio::piped());
    let uninstall = service.home.spawn(uninstall);
    client.assert_told();
    assert!(uninstall.is_running(), "it did not wait for the client");
    drop(client);
    uninstall.end().expect(0).says("uninstalled the service");
    assert!(service.try_status().is_err(), "it is still there");
    service.supervisor(&["uninstall", service.home.name()]).expect(1).says("there is no service");
    TcpListener::bind(service.address).unwrap();
}

#[test]
fn a_service_that_cannot_start_says_so_to_the_service_manager_and_why_in_its_log() {
    let service = Service::install(&[]);
    let _taken = TcpListener::bind(service.address).unwrap();
    let _alone = alone();
    service.ask(ServiceAccess::START, |installed| installed.start::<&str>(&[])).unwrap();
    eventually("it has failed", || service.status().exit_code == ServiceExitCode::ServiceSpecific(1));
    assert_eq!(service.status().current_state, ServiceState::Stopped);
    let log = service.log();
    assert!(log.contains("is taken by"), "{log}");
}

#[test]
fn clients_that_are_closed_by_force_are_no_failure_of_the_service() {
    let service = Service::install(&["--grace", "0"]);
    service.start();
    let _client = service.client();
    service.stop();
    let status = service.await_state(ServiceState::Stopped);
    assert_eq!(status.exit_code, ServiceExitCode::NO_ERROR);
    let log = service.log();
    assert!(log.contains("1 forced"), "{log}");
}

#[test]
fn a_service_that_is_there_is_not_installed_again_and_one_that_is_not_ours_not_uninstalled() {
    let service = Service::install(&[]);
    let name = service.home.name();
    service.supervisor(&["install", "command", "--name", name]).expect(1).says("already").says("--name");
    let other = format!("{name}-other");
    let info = ServiceInfo {
        name: other.clone().into(),
        display_name: other.clone().into(),
        service_type: ServiceType::OWN_PROCESS,
        start_type: ServiceStartType::OnDemand,
        error_control: ServiceErrorControl::Normal,
        executable_path: r"C:\no-such-program.exe".into(),
        launch_arguments: Vec::new(),
        dependencies: Vec::new(),
        account_name: None,
        account_password: None,
    };
    let access = ServiceManagerAccess::CONNECT | ServiceManagerAccess::CREATE_SERVICE;
    let refused = ask_manager(|| {
        let manager = ServiceManager::local_computer(None::<&str>, access)?;
        let installed = manager.create_service(&info, ServiceAccess::DELETE)?;
        let refused = service.supervisor(&["uninstall", &other]);
        installed.delete().map(|()| refused)
    })
    .unwrap();
    refused.expect(1).says("is none of a supervisor");
}

#[test]
fn a_service_that_could_not_start_is_not_installed() {
    let home = Home::new();
    let (name, own) = (home.name(), home.directory().to_str().unwrap());
    let refused = |server: &[&str], code, why| {
        let line = [&["install"], server, &["--name", name]].concat();
        home.run(command(&home, &line)).expect(code).says(why);
    };
    refused(&["echo", "--grace", "soon"], 2, "500ms");
    refused(&["http", "public"], 1, "as an absolute path");
    refused(&["http"], 1, "as an absolute path");
    refused(&["http", r"C:\there\is\no\such\directory"], 1, "no directory");
    // The directory of a test is below the one for temporary files, which belongs to the user.
    refused(&["http", own], 1, "is in your own directory");
    refused(&["http", &own.to_uppercase()], 1, "is in your own directory");
    refused(&["echo", "--config", "echo.json"], 1, "there is no such file");
    let program = |program| {
        let line = ["install", "exec", "--name", name, "--", program];
        home.run(command(&home, &line)).expect(1)
    };
    program("cmd").says("as an absolute path");
    program(r"C:\no-such-program.exe").says("there is no program");
    fs::write(home.directory().join("program.env"), "A=1").unwrap();
    let cmd = cmd();
    let mut relative = command(&home, &["install", "exec", "--name", name, "--env-file", "program.env", "--", &cmd]);
    relative.current_dir(home.directory());
    home.run(relative).expect(1).says("the file with variables program.env as an absolute path");
    home.run(command(&home, &["uninstall", name])).expect(1).says("there is no service");
}

#[test]
fn a_program_may_be_named_without_its_exe() {
    let home = Home::new();
    home.run(command(&home, &["install", "exec", "--name", home.name(), "--", &cmd()])).expect(0);
    home.run(command(&home, &["uninstall", home.name()])).expect(0);
}

/// A program that is there, without its `.exe`.
fn cmd() -> String {
    format!(r"{}\System32\cmd", std::env::var("SystemRoot").unwrap())
}

#[test]
fn what_the_service_manager_runs_says_so_to_others() {
    let home = Home::new();
    let line = ["run", "echo", "--name", home.name()];
    let _alone = alone();
    home.run(command(&home, &line)).expect(2).says("service manager").says("net start");
}
