//! The HTTP endpoint of `--health`, and `admin-cli metrics`, which reports the same without a port.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

#[cfg(unix)]
use serde_json::Value;
use serde_json::json;

#[cfg(unix)]
use crate::support::can_run;
use crate::support::{Client, HUGE, Home, Instance, eventually, free_port};

/// A health endpoint's address.
#[derive(Clone, Copy)]
struct Health(SocketAddr);

impl Health {
    fn new() -> Health {
        Health(([127, 0, 0, 1], free_port()).into())
    }

    /// The value for `--health`.
    fn option(self) -> String {
        self.0.to_string()
    }

    /// Starts a supervisor with this endpoint and these arguments, and waits until it is ready, a moment after it
    /// listens.
    fn start(self, home: &Home, arguments: &[&str]) -> Instance {
        let instance = home.start(&[arguments, &["--health", &self.option()]].concat());
        self.eventually_ready(200, "ready");
        instance
    }

    fn client(self) -> Client {
        Client::connect(self.0)
    }

    /// The status and the text of an answer.
    fn get(self, path: &str) -> (u16, String) {
        let answer = self.client().get(path);
        (answer.status, String::from_utf8(answer.body).unwrap())
    }

    /// The same, when it does not matter whether the endpoint exists or has room.
    fn try_get(self, path: &str) -> Option<(u16, String)> {
        let mut client = Client::try_connect(self.0).ok()?;
        client.0.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).ok()?;
        let answer = client.try_rest().ok()?;
        let (header, text) = answer.split_once("\r\n\r\n")?;
        Some((header.split(' ').nth(1)?.parse().unwrap(), text.to_owned()))
    }

    /// Waits until its readiness is reported like this.
    fn eventually_ready(self, status: u16, text: &str) {
        eventually(text, || self.try_get("/ready") == Some((status, format!("{text}\n"))));
    }

    fn assert_port_is_free(self) {
        TcpListener::bind(self.0).unwrap_or_else(|error| panic!("{} is not free: {error}", self.0));
    }
}

/// One line of metrics: name, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

/// Reads Prometheus' text format, and accepts only what is beyond doubt: each metric with its help, its type and then
/// its samples, named correctly.
fn parse(text: &str) -> Vec<Sample> {
    let is_name = |name: &str| {
        name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.chars().all(|letter| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_')
    };
    assert!(text.ends_with('\n') && !text.contains('\r'), "{text}");
    let (mut metrics, mut samples) = (BTreeSet::new(), Vec::new());
    let (mut helped, mut metric, mut sampled) = (None, None, true);
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(is_name(name) && name.starts_with("mastercontrol_") && help.ends_with('.'), "{line}");
            assert!(sampled && metrics.insert(name), "{name} is there twice, or the one before it has no sample");
            (helped, sampled) = (Some(name), false);
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(helped.take(), Some(name), "{line}");
            assert_eq!(kind, if name.ends_with("_total") { "counter" } else { "gauge" }, "{line}");
            metric = Some(name);
        } else {
            let (rest, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?} is no sample"));
            let (name, labels) = rest.split_once('{').unwrap_or((rest, "}"));
            assert_eq!(Some(name), metric, "{line}");
            let labels = labels.strip_suffix('}').unwrap().split_terminator(',').map(|label| {
                let (label, value) = label.split_once('=').unwrap();
                let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
                assert!(is_name(label) && !value.contains(['"', '\\']), "{line}");
                (label.to_owned(), value.to_owned())
            });
            let sample: Sample = (name.to_owned(), labels.collect(), value.parse().unwrap());
            assert!(sample.2.is_finite() && value.starts_with(|first: char| first.is_ascii_digit()), "{line}");
            assert!(samples.iter().all(|other: &Sample| (&other.0, &other.1) != (&sample.0, &sample.1)), "{line}");
            samples.push(sample);
            sampled = true;
        }
    }
    assert!(sampled && helped.is_none() && !samples.is_empty(), "{text}");
    samples
}

/// The value of a metric that has no labels.
#[track_caller]
fn value(text: &str, name: &str) -> f64 {
    let samples = parse(text);
    let sample = samples.iter().find(|sample| sample.0 == format!("mastercontrol_{name}"));
    sample.unwrap_or_else(|| panic!("no {name} in {text}")).2
}

/// Its state according to its metrics.
fn state(text: &str) -> String {
    let is_it = |sample: &Sample| sample.0 == "mastercontrol_state" && sample.2 == 1.0;
    parse(text).into_iter().find(is_it).unwrap().1["state"].clone()
}

#[test]
fn three_things_are_answered_and_nothing_else() {
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["echo", "--grace", HUGE]);
    assert_eq!(health.get("/ready"), (200, "ready\n".into()));
    assert_eq!(health.get("/live"), (200, "alive\n".into()));
    assert_eq!(health.get("/metrics").0, 200);
    // The paths that probes of other systems use.
    assert_eq!(health.get("/readyz"), (200, "ready\n".into()));
    for path in ["/livez", "/healthz"] {
        assert_eq!(health.get(path), (200, "alive\n".into()), "{path}");
    }
    for path in ["/", "/stop", "/ready/", "/status", "/../ready/x", "/READY"] {
        assert_eq!(health.get(path).0, 404, "{path}");
    }
    let mut client = health.client();
    for method in ["POST", "PUT", "DELETE"] {
        client.send(format!("{method} /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nstop"));
        let (answer, length) = client.header();
        assert_eq!(answer.status, 405, "{method}");
        std::io::Read::read_exact(&mut client.0, &mut vec![0; length]).unwrap();
    }
    let mut asking = health.client();
    asking.send("OPTIONS /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let methods = asking.rest();
    assert!(methods.starts_with("HTTP/1.1 204 ") && methods.contains("Allow: GET, HEAD, OPTIONS"), "{methods}");
    client.send("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    let (head, length) = client.header();
    assert!(head.status == 200 && length > 1000, "{head:?}");
    // No body was sent.
    assert_eq!(client.get("/live").body, b"alive\n");
    // None of these is a client of the server, and none has changed anything.
    let status = instance.status();
    assert_eq!((&status["connections"]["total"], &status["state"]), (&0.into(), &"serving".into()));
    assert_eq!(status["health"], health.option());
    instance.admin(&["status"]).expect(0).says(&health.option());
    instance.err.wait_for(&format!("health on {}", health.0));
}

#[test]
fn during_a_drain_it_is_alive_and_not_ready_and_the_port_is_free_when_that_ends() {
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["echo", "--grace", HUGE]);
    let mut client = instance.client();
    client.greet();
    // Clients that send nothing, or half a request, must not disturb the others.
    let mut half = health.client();
    half.send("GET /rea");
    let (silent, mut kept) = (health.client(), health.client());
    assert_eq!(kept.get("/live").status, 200);
    let stop = instance.admin_begins(&["stop"]);
    client.assert_told();
    let (status, text) = health.get("/ready");
    assert!(status == 503 && text.starts_with("not ready: draining, ") && text.ends_with(" s to go\n"), "{text}");
    assert_eq!(health.get("/live"), (200, "alive\n".into()));
    let metrics = health.get("/metrics").1;
    assert_eq!((state(&metrics).as_str(), value(&metrics, "ready")), ("draining", 0.0));
    assert_eq!((value(&metrics, "drain_connections"), value(&metrics, "connections_notified_total")), (1.0, 1.0));
    assert!(value(&metrics, "drain_remaining_seconds") > 100.0);
    drop(client);
    stop.end().expect(0);
    health.assert_port_is_free();
    assert_eq!(instance.wait(), 0);
    drop((half, silent, kept));
}

#[test]
fn who_is_taken_out_by_hand_is_not_ready_until_it_is_put_back() {
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["echo"]);
    instance.admin(&["drain"]).expect(0);
    assert_eq!(health.get("/ready"), (503, "not ready: by request\n".into()));
    instance.admin(&["resume"]).expect(0);
    assert_eq!(health.get("/ready"), (200, "ready\n".into()));
}

#[test]
fn during_a_restart_it_is_ready_all_the_time() {
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["http", ".", "--grace", HUGE]);
    let (asked, done) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                assert_eq!(health.get("/ready"), (200, "ready\n".into()));
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..5 {
            instance.admin(&["restart"]).expect(0);
            let so_far = asked.load(Ordering::Relaxed);
            eventually("a client asks", || asked.load(Ordering::Relaxed) > so_far || asking.is_finished());
        }
        done.store(true, Ordering::Relaxed);
    });
    let metrics = health.get("/metrics").1;
    assert_eq!((value(&metrics, "generation"), value(&metrics, "restarts_total")), (6.0, 5.0));
}

#[test]
fn its_address_cannot_be_changed_by_a_restart() {
    let home = Home::new();
    let (health, file) = (Health::new(), home.directory().join("server.json"));
    let configure = |health: Health| std::fs::write(&file, json!({ "health": health.option() }).to_string()).unwrap();
    configure(health);
    let instance = home.start(&["echo", "--config", file.to_str().unwrap()]);
    health.eventually_ready(200, "ready");
    configure(Health::new());
    instance.admin(&["restart"]).expect(1).says("\"health\" from ");
    assert_eq!(health.get("/ready").0, 200);
    configure(health);
    instance.admin(&["restart"]).expect(0);
}

#[test]
fn a_port_that_is_taken_is_no_start_and_nothing_is_left_behind() {
    let home = Home::new();
    let (taken, port) = (TcpListener::bind(("127.0.0.1", free_port())).unwrap(), free_port().to_string());
    let address = taken.local_addr().unwrap();
    let ended = home.run(home.supervisor(&["echo", "--listen", &port, "--health", &address.to_string()])).expect(1);
    assert_eq!(ended.err.lines().count(), 1, "{ended}");
    ended.says(&format!("port {} is taken by ", address.port()));
    if cfg!(target_os = "linux") {
        ended.says("(pid ");
    }
    // Its own server has that port.
    for server in [port.clone(), format!("0.0.0.0:{port}")] {
        let ended = home.run(home.supervisor(&["echo", "--listen", &server, "--health", &port])).expect(2);
        ended.says("choose another port for \"health\"");
    }
    home.admin(&["--name", home.name(), "ping"]).expect(3);
    drop(taken);
    home.start(&["echo", "--listen", &port, "--health", &address.to_string()]).assert_serves();
}

/// More clients than are served at the same time. Not many more: some systems give a process only 256 descriptors.
const CROWD: usize = 64 + 16;

/// Connects more clients than are served at the same time. Returns whether those that ask do so before they are closed for
/// their silence, for which a busy machine may be too slow.
fn ask_among_many() -> bool {
    const PATIENCE: Duration = Duration::from_secs(5);
    let home = Home::new();
    let health = Health::new();
    let _instance = health.start(&home, &["echo", "--grace", HUGE]);
    let began = Instant::now();
    let mut kept: Vec<_> = (0..CROWD).map(|_| health.client()).collect();
    // Some of the last that connected. The ones before have made room.
    for client in kept.iter_mut().rev().take(40) {
        let sent = client.0.write_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n");
        if began.elapsed() > PATIENCE {
            return false;
        }
        sent.unwrap();
        assert_eq!(client.answer().status, 200);
    }
    for _ in 0..64 {
        assert_eq!(health.get("/live"), (200, "alive\n".into()));
    }
    true
}

#[test]
fn clients_that_keep_their_connections_or_say_nothing_leave_room_for_those_that_ask() {
    eventually("clients ask in time", ask_among_many);
}

/// Connects more clients with half a request than are served at the same time. Returns whether those that ask get their
/// answers before the others are closed for that, for which a busy machine may be too slow.
fn ask_among_slow() -> bool {
    const PATIENCE: Duration = Duration::from_secs(5);
    let home = Home::new();
    let health = Health::new();
    let _instance = health.start(&home, &["echo", "--grace", HUGE]);
    let began = Instant::now();
    let connect = |_| {
        let mut client = health.client();
        let _ = client.0.write_all(b"GET /live HT"); // It may have been closed already.
        client
    };
    let _slow: Vec<_> = (0..CROWD).map(connect).collect();
    for _ in 0..20 {
        eventually("there is room", || health.try_get("/live") == Some((200, "alive\n".into())));
    }
    began.elapsed() < PATIENCE
}

#[test]
fn clients_with_half_a_request_leave_room_for_those_that_ask() {
    eventually("clients ask in time", ask_among_slow);
}

#[test]
fn silent_broken_and_huge_requests_do_not_hold_it_up() {
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["echo", "--grace", HUGE]);
    // More than are served at the same time.
    let silent: Vec<_> = (0..100).map(|_| Client::try_connect(health.0)).collect();
    health.eventually_ready(200, "ready");
    let huge = "x".repeat(200_000);
    for (request, status) in [
        ("\0\u{1}\u{2}\r\n\r\n".to_owned(), "400"),
        ("{\"v\":1,\"request\":\"stop\"}\n\r\n\r\n".into(), "400"),
        (format!("GET /{huge} HTTP/1.1\r\n\r\n"), "414"),
        (format!("GET /ready HTTP/1.1\r\nX: {huge}\r\n\r\n"), "431"),
        (format!("POST /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{huge}"), "405"),
        ("GET /re".into(), "408"),
    ] {
        let mut answer = String::new();
        // The silent clients are closed one by one, and until then there may be no room.
        eventually("there is room", || {
            let mut client = health.client();
            // A request that is too long is not read completely.
            let _ = client.0.write_all(request.as_bytes());
            answer = client.try_rest().unwrap_or_default();
            !answer.starts_with("HTTP/1.1 503 ")
        });
        let start = &request[..request.len().min(50)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{start:?}: {answer:?}");
    }
    health.eventually_ready(200, "ready");
    assert_eq!(instance.status()["connections"]["total"], 0);
    instance.client().greet();
    instance.admin(&["stop"]).expect(0);
    health.assert_port_is_free();
    let heard = silent.into_iter().flatten().filter_map(|mut client| client.try_rest().ok());
    // They made room for each other, and none was refused.
    assert_eq!(heard.filter(|answer| answer.starts_with("HTTP/1.1 503 ")).count(), 0);
}

#[test]
fn admin_cli_prints_the_metrics_of_the_endpoint() {
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["echo"]);
    let mut client = instance.client();
    client.greet();
    let names = |text: &str| -> Vec<_> { parse(text).into_iter().map(|(name, labels, _)| (name, labels)).collect() };
    let printed = instance.admin(&["metrics"]).expect(0).out;
    assert_eq!(names(&printed), names(&health.get("/metrics").1));
    assert_eq!((value(&printed, "connections"), value(&printed, "ready")), (1.0, 1.0));
    let info = parse(&printed).into_iter().find(|(name, ..)| name == "mastercontrol_info").unwrap().1;
    assert_eq!((info["name"].as_str(), info["kind"].as_str()), (instance.name.as_str(), "echo"));
    assert_eq!(instance.admin(&["metrics", "--json"]).expect(0).json()["result"], "status");
}

/// Prometheus' own library understands the text as it is meant. The text is the same on Windows, where Python is not
/// available.
#[cfg(unix)]
#[test]
fn prometheus_reads_the_metrics_as_they_are_meant() {
    const PROGRAM: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families
families = list(text_string_to_metric_families(open(sys.argv[1]).read()))
print(json.dumps([[s.name, s.labels, s.value, f.type] for f in families for s in f.samples]))
";
    // The system's packages belong to its own Python, which may not be the first one.
    let has_it = |python: &&str| can_run(&[python, "-c", "import prometheus_client"]);
    let Some(python) = ["python3", "/usr/bin/python3"].into_iter().find(has_it) else { return };
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["echo"]);
    instance.client().greet();
    let mut client = health.client();
    client.send("GET /metrics HTTP/1.0\r\n\r\n");
    let answer = client.rest();
    assert!(answer.contains("\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    let text = answer.split_once("\r\n\r\n").unwrap().1;
    let file = home.directory().join("metrics");
    std::fs::write(&file, text).unwrap();
    let mut python = home.program(python);
    python.args(["-c", PROGRAM]).arg(file);
    let understood = home.run(python).expect(0).json();
    let meant: Vec<Value> = parse(text)
        .into_iter()
        .map(|(name, labels, value)| {
            let kind = if name.ends_with("_total") { "counter" } else { "gauge" };
            json!([name, labels, value, kind])
        })
        .collect();
    assert_eq!(understood, Value::from(meant));
}

#[cfg(target_os = "linux")]
mod of_a_program {
    use super::*;
    use std::fs;

    /// Is ready when the file `go` exists, and ends after a SIGTERM when it does not.
    const PROGRAM: &str = "
import os, signal, socket, sys, time
go, ending = sys.argv[1], []
signal.signal(signal.SIGTERM, lambda *_: ending.append(True))
while not os.path.exists(go) and not ending:
    time.sleep(0.01)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])
print('ready as', os.getpid(), flush=True)
while not ending or os.path.exists(go):
    time.sleep(0.01)
";

    #[test]
    fn through_its_whole_life_the_endpoint_says_whether_it_is_ready() {
        let home = Home::new();
        let (health, go) = (Health::new(), home.directory().join("go"));
        let options = ["--health", &health.option(), "--ready", "notify", "--ready-within", HUGE, "--grace", HUGE];
        let program = ["python3", "-c", PROGRAM, go.to_str().unwrap()];
        let process = home.spawn(home.exec_command(&options, &program));
        let metrics = || health.get("/metrics").1;
        health.eventually_ready(503, "not ready: starting");
        assert_eq!((health.get("/live").0, state(&metrics()).as_str()), (200, "starting"));
        // Long before the log says where it listens.
        assert_eq!(process.err.so_far(), "");
        fs::write(&go, "").unwrap();
        health.eventually_ready(200, "ready");
        let log = process.err.wait_for("running (pid ");
        assert!(log.contains(&format!("health on {}", health.0)), "{log}");

        // The next one is not ready until the file exists again.
        fs::remove_file(&go).unwrap();
        let first = process.out.wait_for("ready as ").rsplit(' ').next().unwrap().parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(first), nix::sys::signal::Signal::SIGKILL).unwrap();
        health.eventually_ready(503, "not ready: waiting, trying now");
        let text = metrics();
        assert_eq!((state(&text).as_str(), value(&text, "crashes_total")), ("waiting", 1.0));
        assert!(!text.contains("connections"), "it knows nothing of a program's connections: {text}");
        fs::write(&go, "").unwrap();
        health.eventually_ready(200, "ready");
        assert_eq!(value(&metrics(), "generation"), 2.0);

        process.signal(nix::sys::signal::Signal::SIGTERM);
        eventually("it is being stopped", || health.get("/ready").1.starts_with("not ready: draining, "));
        assert_eq!((health.get("/live").0, state(&metrics()).as_str()), (200, "draining"));
        fs::remove_file(&go).unwrap();
        assert_eq!(process.wait(), 0);
        health.assert_port_is_free();
    }

    #[test]
    fn a_program_that_cannot_be_started_leaves_the_endpoints_port_free() {
        let home = Home::new();
        let health = Health::new();
        home.run(home.exec_command(&["--health", &health.option()], &["/no/such/program"])).expect(127);
        health.assert_port_is_free();
    }
}

#[cfg(target_os = "linux")]
#[test]
fn who_asks_a_master_control_that_hangs_hears_that_it_is_not_alive() {
    let home = Home::new();
    let health = Health::new();
    let instance = health.start(&home, &["echo"]);
    assert_eq!(health.get("/live").0, 200);
    let hanging = crate::process::Hanging::new(instance.pid);
    // All at the same time, because the process ends when there is no answer for long.
    let answers = thread::scope(|scope| {
        let asking = ["/live", "/ready", "/metrics"].map(|path| scope.spawn(move || health.try_get(path)));
        asking.map(|asking| asking.join().ok().flatten())
    });
    // The last resort ends it because a question got no answer.
    hanging.wait();
    for answer in answers {
        assert_eq!(answer, Some((503, "master control does not answer\n".into())));
    }
    assert_eq!(instance.into_process().wait(), 10);
    health.assert_port_is_free();
}
