//! The host's service manager: sockets that it passes, messages that it receives, and the files in deploy.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::{
    ADMIN_CLI, Client, HUGE, Home, Instance, LIMIT, SUPERVISOR, can_run, eventually, free_port, is_installed,
};

/// A service manager that only listens.
pub struct Manager(pub UnixDatagram);

impl Manager {
    pub fn new(home: &Home) -> Manager {
        Manager::on(UnixDatagram::bind(Manager::place(home)).unwrap())
    }

    fn on(socket: UnixDatagram) -> Manager {
        socket.set_read_timeout(Some(LIMIT)).unwrap();
        Manager(socket)
    }

    pub fn place(home: &Home) -> PathBuf {
        home.directory().join("notify")
    }

    /// The next message.
    pub fn hears(&self) -> String {
        let mut message = [0; 4096];
        let length = self.0.recv(&mut message).expect("the service manager hears nothing");
        String::from_utf8(message[..length].to_vec()).unwrap()
    }

    /// Expects the first message of all: it is not ready yet, and how long that may take.
    pub fn hears_start(&self) {
        let first = self.hears();
        let limit = first.strip_prefix("STATUS=starting generation 1\nEXTEND_TIMEOUT_USEC=");
        assert!(limit.is_some_and(|limit| limit.parse::<u64>().is_ok_and(|limit| limit > 30_000_000)), "{first}");
    }

    /// Receives messages up to one with this line, and returns all their lines.
    fn hears_up_to(&self, line: &str) -> Vec<String> {
        let mut lines = Vec::new();
        while !lines.iter().any(|it| it == line) {
            lines.extend(self.hears().lines().map(str::to_owned));
        }
        lines
    }

    fn assert_hears_nothing(&self) {
        self.0.set_nonblocking(true).unwrap();
        let heard = self.0.recv(&mut [0; 4096]);
        assert!(heard.is_err(), "{heard:?} bytes");
    }
}

/// The number after `name=`.
fn number(lines: &[String], name: &str) -> u64 {
    let found = lines.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    found.unwrap_or_else(|| panic!("no {name} in {lines:?}")).parse().unwrap()
}

/// Expects a message about the deadline alone. Returns how many seconds remain.
fn seconds_left(manager: &Manager) -> u64 {
    number(&[manager.hears()], "EXTEND_TIMEOUT_USEC") / 1_000_000
}

/// The time by the manager's clock, in microseconds.
fn monotonic() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
    u64::try_from(now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000).unwrap()
}

fn start_with(home: &Home, notify: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> Instance {
    let mut command = home.supervisor(arguments);
    command.env("NOTIFY_SOCKET", notify);
    home.start_by(command)
}

#[test]
fn the_manager_hears_that_it_is_ready_when_everything_is_in_place() {
    let home = Home::new();
    let manager = Manager::new(&home);
    let mut command = home.supervisor(&["echo", "--admin", "require"]);
    command.env("NOTIFY_SOCKET", Manager::place(&home)).stderr(Stdio::piped());
    let process = home.spawn(command);
    manager.hears_start();
    let first = manager.hears();
    let address = first.lines().find_map(|line| line.strip_prefix("STATUS=serving on ")?.split(',').next());
    let address: SocketAddr = address.unwrap().parse().unwrap();
    assert_eq!(first, format!("READY=1\nSTATUS=serving on {address}, generation 1"));
    Client::connect(address).greet();
    home.admin(&["--name", home.name(), "ping"]).expect(0);
    process.err.wait_for("listening on ");
    home.admin(&["--name", home.name(), "stop"]).expect(0);
    assert_eq!(process.wait(), 0);
}

#[test]
fn the_manager_hears_of_a_restart_of_one_that_fails_and_of_a_stop_whose_deadline_moves() {
    let home = Home::new();
    let manager = Manager::new(&home);
    let file = home.directory().join("server.json");
    fs::write(&file, "{}").unwrap();
    let config = file.to_str().unwrap();
    let instance = start_with(&home, Manager::place(&home), &["echo", "--config", config, "--grace", HUGE]);
    let serving = |generation| format!("STATUS=serving on {}, generation {generation}", instance.address);
    manager.hears_start();
    assert_eq!(manager.hears(), format!("READY=1\n{}", serving(1)));

    let before = monotonic();
    instance.admin(&["restart"]).expect(0);
    let lines = manager.hears_up_to("READY=1");
    assert_eq!((lines[0].as_str(), &lines[2]), ("RELOADING=1", &format!("{}; restarting", serving(1))));
    assert!((before..=monotonic()).contains(&number(&lines, "MONOTONIC_USEC")), "{lines:?} after {before}");
    // The new generation has this long to be ready, and then the clients of the old one have this long.
    assert!(number(&lines, "EXTEND_TIMEOUT_USEC") > 30_000_000, "{lines:?}");
    assert!(number(&lines[4..], "EXTEND_TIMEOUT_USEC") > 600_000_000, "{lines:?}");
    assert_eq!(lines[lines.len() - 2..], ["READY=1".to_owned(), serving(2)]);

    fs::write(&file, "{ wrong").unwrap();
    instance.admin(&["restart"]).expect(1);
    let lines = manager.hears_up_to("READY=1");
    assert_eq!((lines[0].as_str(), &lines[2]), ("RELOADING=1", &format!("{}; restarting", serving(2))));
    assert_eq!(lines[4..], ["READY=1".to_owned(), serving(2)]);

    let mut client = instance.client();
    client.greet();
    let stop = instance.admin_begins(&["stop"]);
    let lines: Vec<_> = manager.hears().lines().map(str::to_owned).collect();
    assert_eq!(lines[0], "STOPPING=1");
    assert!(lines[1].starts_with("STATUS=admin client") && lines[1].ends_with(": stopping"), "{lines:?}");
    assert!((600..=605).contains(&(number(&lines, "EXTEND_TIMEOUT_USEC") / 1_000_000)), "{lines:?}");
    // Later than that it cannot be.
    instance.admin(&["stop", "--grace", "700", "--no-wait"]).expect(0);
    instance.admin(&["stop", "--grace", "100", "--no-wait"]).expect(0);
    assert!((100..=105).contains(&seconds_left(&manager)));
    client.assert_told();
    drop(client);
    stop.end().expect(0);
    assert_eq!(instance.wait(), 0);
    manager.assert_hears_nothing();
}

#[test]
fn restarts_that_are_asked_for_together_are_told_one_after_the_other() {
    let home = Home::new();
    let manager = Manager::new(&home);
    let instance = start_with(&home, Manager::place(&home), &["echo"]);
    manager.hears_up_to("READY=1");
    let restarts: Vec<_> = (0..3).map(|_| instance.admin_begins(&["restart"])).collect();
    for _ in 0..3 {
        let lines = manager.hears_up_to("READY=1");
        let said = |line: &str| lines.iter().filter(|it| *it == line).count();
        assert_eq!((said("RELOADING=1"), said("READY=1")), (1, 1), "{lines:?}");
    }
    for restart in restarts {
        restart.end().expect(0);
    }
}

#[test]
#[cfg(target_os = "linux")]
fn signs_of_life_come_from_master_control_and_end_when_it_hangs() {
    let home = Home::new();
    let manager = Manager::new(&home);
    // The process id must be that of the program that replaces the shell.
    let script = "WATCHDOG_PID=$$ exec \"$0\" \"$@\"";
    let mut command = home.supervisor_by(&["sh", "-c", script], &["echo"]);
    command.env("NOTIFY_SOCKET", Manager::place(&home)).env("WATCHDOG_USEC", "200000");
    let instance = home.start_by(command);
    for _ in 0..5 {
        manager.hears_up_to("WATCHDOG=1");
    }
    let hanging = crate::process::Hanging::new(instance.pid);
    // First the messages sent before, and then nothing: that has to be waited for.
    manager.0.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut heard = 0;
    while manager.0.recv(&mut [0; 4096]).is_ok() {
        heard += 1;
        assert!(heard < 1000, "it does not end");
    }
    manager.0.set_read_timeout(Some(LIMIT)).unwrap();
    hanging.end();
    manager.hears_up_to("WATCHDOG=1");
    // During a stop, too.
    let mut client = instance.client();
    client.greet();
    let stop = instance.admin_begins(&["stop", "--grace", HUGE]);
    manager.hears_up_to("STOPPING=1");
    manager.hears_up_to("WATCHDOG=1");
    drop(client);
    stop.end().expect(0);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_watchdog_for_another_process_hears_nothing() {
    let home = Home::new();
    let manager = Manager::new(&home);
    let mut command = home.supervisor(&["echo"]);
    command.env("NOTIFY_SOCKET", Manager::place(&home)).env("WATCHDOG_USEC", "20000").env("WATCHDOG_PID", "1");
    let instance = home.start_by(command);
    manager.hears_up_to("READY=1");
    // The test is that nothing arrives.
    manager.0.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert!(manager.0.recv(&mut [0; 4096]).is_err());
    instance.assert_serves();
}

#[test]
#[cfg(target_os = "linux")]
fn a_manager_with_an_abstract_address_hears_the_same() {
    use std::os::linux::net::SocketAddrExt;
    let home = Home::new();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(home.name()).unwrap();
    let manager = Manager::on(UnixDatagram::bind_addr(&address).unwrap());
    let instance = start_with(&home, format!("@{}", home.name()), &["echo"]);
    manager.hears_start();
    assert!(manager.hears().starts_with("READY=1\n"));
    instance.assert_serves();
}

#[test]
fn a_manager_that_is_gone_or_cannot_be_reached_is_said_once_and_stops_nothing() {
    for place in ["/gone", "vsock:2:1234"] {
        let home = Home::new();
        let notify = if place == "/gone" { Manager::place(&home).into_os_string() } else { place.into() };
        let instance = start_with(&home, notify, &["echo"]);
        instance.err.wait_for("cannot report to the service manager: NOTIFY_SOCKET ");
        instance.admin(&["restart"]).expect(0);
        instance.assert_serves();
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        assert_eq!(instance.log().matches("service manager").count(), 1, "{}", instance.log());
    }
}

/// Fills a manager's queue, however long it is, until no process can send to it.
pub fn fill(manager: &Path) {
    loop {
        // A single sender may have its own buffer full first.
        let sender = UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        let sent = (0..).take_while(|_| sender.send_to(b"STATUS=full", manager).is_ok()).count();
        if sent == 0 {
            break;
        }
    }
}

#[test]
fn a_manager_that_reads_nothing_holds_up_nothing() {
    let home = Home::new();
    let manager = Manager::new(&home);
    fill(&Manager::place(&home));
    let instance = start_with(&home, Manager::place(&home), &["echo"]);
    for _ in 0..3 {
        instance.admin(&["restart"]).expect(0);
    }
    // When it reads again it gets the current state, although nothing happens.
    let said = std::iter::repeat_with(|| manager.hears()).find(|said| said != "STATUS=full").unwrap();
    assert_eq!(said, format!("READY=1\nSTATUS=serving on {}, generation 4", instance.address));
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

/// A supervisor that gets this socket, once or several times, as a service manager would pass it.
fn passing(home: &Home, socket: impl Into<OwnedFd>, numbers: &[u32], arguments: &[&str]) -> Command {
    passing_by(home, "", socket, numbers, arguments)
}

/// Like [`passing`], but run by another program, which becomes the supervisor.
fn passing_by(home: &Home, by: &str, socket: impl Into<OwnedFd>, numbers: &[u32], arguments: &[&str]) -> Command {
    let passed: String = numbers.iter().map(|number| format!("exec {number}<&0; ")).collect();
    let count = numbers.len();
    let script = format!("{passed}exec 0< /dev/null; LISTEN_PID=$$ LISTEN_FDS={count} exec {by} \"$0\" \"$@\"");
    let mut command = home.program("sh");
    command.args(["-c", &script, SUPERVISOR]).args(arguments).stdin(Stdio::from(socket.into()));
    if !arguments.contains(&"--name") {
        command.args(["--name", home.name()]);
    }
    command
}

pub fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

#[test]
fn a_socket_that_was_passed_is_served_on_and_outlives_the_supervisor_with_its_queue() {
    let home = Home::new();
    let listener = listener();
    let directory = home.directory().join("www");
    fs::create_dir(&directory).unwrap();
    fs::write(directory.join("name"), "it").unwrap();
    let arguments = ["http", directory.to_str().unwrap()];
    let start = || home.start_by(passing(&home, listener.try_clone().unwrap(), &[3], &arguments));
    let instance = start();
    assert_eq!(instance.address, listener.local_addr().unwrap());
    instance.err.wait_for(", socket passed by the service manager)");
    assert_eq!(instance.client().get("/name").body, b"it");
    #[cfg(target_os = "linux")]
    crate::process::assert_nothing_leaks(&instance);
    instance.admin(&["restart"]).expect(0);
    assert_eq!(instance.client().get("/name").body, b"it");
    instance.admin(&["stop", "--grace", HUGE]).expect(0);
    assert_eq!(instance.wait(), 0);
    // The client waits, and is not refused.
    let mut waiting = Client::connect(listener.local_addr().unwrap());
    waiting.send("GET /name HTTP/1.1\r\nHost: x\r\n\r\n");
    let next = start();
    assert_eq!(waiting.header().0.status, 200);
    drop(waiting);
    next.admin(&["stop", "--grace", HUGE]).expect(0);
    assert_eq!(next.wait(), 0);
}

#[test]
fn of_two_supervisors_on_one_socket_either_can_be_stopped_and_the_other_one_serves() {
    let home = Home::new();
    let listener = listener();
    let start = |name: &str| {
        let name = format!("{}-{name}", home.name());
        home.start_by(passing(&home, listener.try_clone().unwrap(), &[3], &["echo", "--name", &name]))
    };
    let mut stays = start("first");
    for round in 0..5 {
        let one = start(&format!("next-{round}"));
        let (stops, stays_now) = if round % 2 == 0 { (one, stays) } else { (stays, one) };
        // Clients of both: a client cannot choose.
        for _ in 0..10 {
            stops.client().greet();
        }
        stops.admin(&["stop", "--grace", HUGE]).expect(0);
        assert_eq!(stops.wait(), 0);
        for _ in 0..10 {
            stays_now.client().greet();
        }
        stays = stays_now;
    }
}

#[test]
fn sockets_that_cannot_be_served_on_are_refused_with_the_reason() {
    let home = Home::new();
    // What was passed is not right, or does not fit to the settings.
    let refused = |code, socket: OwnedFd, numbers: &[u32], arguments: &[&str], reason: &str| {
        let ended = home.run(passing(&home, socket, numbers, arguments)).expect(code);
        ended.says(reason);
        assert_eq!(ended.err.lines().count(), 1, "{ended}");
    };
    let which = "descriptor 3, which the service manager passed, is";
    refused(2, listener().into(), &[3, 4], &["echo"], "the service manager passed 2 sockets (");
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap().into();
    refused(1, datagrams, &[3], &["echo"], &format!("{which} a datagram socket"));
    let unix = UnixListener::bind(home.directory().join("unix")).unwrap().into();
    refused(2, unix, &[3], &["echo"], "passed a Unix socket");
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let connection = TcpStream::connect(address).unwrap().into();
    refused(1, connection, &[3], &["echo"], &format!("{which} a connection"));
    refused(1, fs::File::open("/dev/null").unwrap().into(), &[3], &["echo"], &format!("{which} no TCP or Unix socket"));
    let other = format!("127.0.0.1:{}", free_port());
    let reason = format!("\"listen\" is {other}, but the service manager passed a socket on {address}");
    refused(2, listener.try_clone().unwrap().into(), &[3], &["echo", "--listen", &other], &reason);
    // All that has left the listener unchanged.
    let same = address.to_string();
    let instance = home.start_by(passing(&home, listener, &[3], &["echo", "--listen", &same]));
    instance.client().greet();
}

/// In a network of its own, as with PrivateNetwork=, the server cannot connect to its own port.
#[test]
#[cfg(target_os = "linux")]
fn clients_are_told_though_nothing_can_connect_to_the_socket_from_where_the_server_is() {
    let home = Home::new();
    if !can_run(&["unshare", "-n", "true"]) {
        return;
    }
    let command = passing_by(&home, "unshare -n", listener(), &[3], &["echo"]);
    let instance = home.start_by(command);
    let mut client = instance.client();
    client.greet();
    instance.admin(&["stop", "--grace", HUGE, "--no-wait"]).expect(0);
    client.assert_told();
    drop(client);
    assert_eq!(instance.wait(), 0);
}

#[test]
fn a_socket_that_was_passed_to_another_process_is_left_alone() {
    let home = Home::new();
    let mut command = home.supervisor(&["echo"]);
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "1");
    let instance = home.start_by(command);
    instance.assert_serves();
    assert!(!instance.err.so_far().contains("passed"), "{}", instance.err.so_far());
}

#[test]
fn systemd_socket_activate_starts_it_for_the_first_client_who_gets_an_answer() {
    const ACTIVATE: &str = "systemd-socket-activate";
    if !is_installed(ACTIVATE) {
        return;
    }
    let home = Home::new();
    let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
    let mut command = home.program(ACTIVATE);
    // It passes no other variables.
    command.arg("-E").arg(format!("MASTERCONTROL_DIR={}", home.sockets().display()));
    command.args(["-l", &address.to_string(), SUPERVISOR, "echo", "--name", home.name()]).stderr(Stdio::piped());
    let process = home.spawn(command);
    process.err.wait_for("Listening on");
    // It delays the start until a client connects, and then becomes the supervisor.
    let mut client = Client::connect(address);
    client.greet();
    process.err.wait_for("socket passed by the service manager");
    let stop = ["--name", home.name(), "stop", "--grace", HUGE];
    let mut stop_command = home.admin_command(&stop);
    stop_command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let stop = home.spawn(stop_command);
    client.assert_told();
    drop(client);
    stop.end().expect(0).says("1 notified, 1 disconnected");
    assert_eq!(process.wait(), 0);
}

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("deploy").join(file)
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if !is_installed("systemd-analyze") {
        return;
    }
    let home = Home::new();
    let mut command = home.program("systemd-analyze");
    command.args(["verify", "--man=no"]);
    for unit in
        ["mastercontrol-http.service", "mastercontrol-http.socket", "mastercontrol@.service", "mastercontrol@.socket"]
    {
        // The command checks whether the programs exist.
        let text = fs::read_to_string(deploy(unit)).unwrap();
        let text = text.replace("/usr/local/bin/supervisor", SUPERVISOR).replace("/usr/local/bin/admin-cli", ADMIN_CLI);
        assert!(!text.contains("/usr/local"), "{unit}");
        let copy = home.directory().join(unit);
        fs::write(&copy, text).unwrap();
        command.arg(copy);
    }
    let ended = home.run(command).expect(0);
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("", ""));
}

/// The number after this text in a file, which contains it once.
fn number_after(file: &str, before: &str) -> u64 {
    let text = fs::read_to_string(deploy(file)).unwrap();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let found: Vec<_> = lines.filter_map(|line| Some(line.split_once(before)?.1)).collect();
    assert_eq!(found.len(), 1, "{before:?} in {file}: {found:?}");
    found[0].chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

/// The supervisor does not repeat the first start of a program (see `ready.rs`), and by default systemd gives up after
/// five starts within ten seconds: a program that waits for its database at boot would stay down.
#[test]
fn systemd_tries_for_as_long_as_it_takes() {
    for service in ["mastercontrol-http.service", "mastercontrol@.service"] {
        let text = fs::read_to_string(deploy(service)).unwrap();
        let unit = text.split("\n[Service]\n").next().unwrap();
        assert!(unit.contains("\nStartLimitIntervalSec=0\n") && text.contains("\nRestart=on-failure\n"), "{service}");
    }
}

#[test]
fn whoever_stops_it_has_more_patience_than_it_needs() {
    // The second after the deadline, in which the process ends no matter what hangs, and one to tidy up.
    const MORE: u64 = 2;
    let service = "mastercontrol-http.service";
    assert!(number_after(service, "--grace ") + MORE <= number_after(service, "TimeoutStopSec="));
    // The watchdog must act first, because it reports why and has its own exit code.
    assert!(number_after(service, "WatchdogSec=") > 10);
    const CONTAINERS_PATIENCE: u64 = 10;
    assert!(number_after("Containerfile", "CMD [\"--grace\", \"") + MORE <= CONTAINERS_PATIENCE);
}

#[test]
fn the_kubernetes_manifest_is_yaml_and_its_times_fit_into_each_other() {
    let program = "import json,sys,yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let home = Home::new();
    let mut command = home.program("python3");
    if !can_run(&["python3", "-c", "import yaml"]) {
        return;
    }
    command.args(["-c", program]).arg(deploy("kubernetes.yaml"));
    let documents = home.run(command).expect(0).json();
    let kinds: Vec<_> =
        documents.as_array().unwrap().iter().map(|document| document["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["Deployment", "Service", "ConfigMap"]);
    let pod = &documents[0]["spec"]["template"];
    assert_eq!(pod["metadata"]["labels"], documents[1]["spec"]["selector"]);
    let container = &pod["spec"]["containers"][0];
    let seconds = |value: &Value| value.as_str().unwrap().parse::<u64>().unwrap();
    let arguments = &container["args"];
    assert_eq!((arguments[0].as_str(), arguments[2].as_str()), (Some("--delay"), Some("--grace")));
    let needed = seconds(&arguments[1]) + seconds(&arguments[3]) + 1;
    let patience = pod["spec"]["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(needed < patience, "{needed} s, but only {patience} s");
    // The probes use the port of the image's health endpoint.
    let port = &container["ports"][1];
    assert_eq!(port["containerPort"], number_after("Containerfile", "\"--health\", \"0.0.0.0:"));
    assert_eq!(pod["metadata"]["annotations"]["prometheus.io/port"], port["containerPort"].to_string());
    let probes = ["readinessProbe", "livenessProbe"].map(|probe| &container[probe]["httpGet"]);
    assert!(probes.iter().all(|probe| probe["port"] == port["name"]), "{probes:?}");
    let text = fs::read_to_string(deploy("kubernetes.yaml")).unwrap();
    assert!(
        text.contains(&format!("{needed} s  Less than terminationGracePeriodSeconds")),
        "its comment adds up wrong"
    );
    // The program accepts the arguments that it is given.
    let arguments: Vec<_> = container["args"].as_array().unwrap().iter().map(|it| it.as_str().unwrap()).collect();
    let health = format!("127.0.0.1:{}", free_port());
    let options = [&arguments[..], &["--name", home.name(), "--health", &health]].concat();
    let instance = home.start(&[&["echo"], &options[..]].concat());
    for probe in probes {
        let path = probe["path"].as_str().unwrap();
        eventually(path, || Client::connect(health.parse().unwrap()).get(path).status == 200);
    }
    eventually("it is in its log, as JSON", || instance.err.so_far().contains("\"event\":\"listening\""));
    instance.assert_serves();
}
