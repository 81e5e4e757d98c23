//! What a deploy costs the clients under other supervisors and servers.
//!
//! The load is the same for all: 16 connections with 400 requests per second, each of which takes the program 20 ms.
//! Four deploys of a version that works are counted together, and then one of a version that exits at its start. Where
//! the peer runs any program, the program is the same: Node's HTTP server, which on SIGTERM and SIGINT answers the
//! requests it has begun, as `examples/server.js` does. gunicorn and puma have their own application, which does the
//! same.
//!
//! Peers are searched for in `target/peers`, then in `PATH`; a peer that is not installed is left out:
//!
//! ```text
//! python3 -m venv target/peers && target/peers/bin/pip install gunicorn supervisor
//! npm install --prefix target/peers pm2
//! apt-get install haproxy nodejs puma systemd
//! ```
//!
//! systemd needs root: it runs in namespaces of its own. `MASTERCONTROL_PEERS=systemd,pm2` measures only the peers
//! whose names contain one of these words.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use load::{Load, Mode, Report};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::{ADMIN_CLI, Directory, Running, SUPERVISOR, free_port, write};

const DEPLOYS: u32 = 4;
const CONNECTIONS: usize = 16;
const PACE: Duration = Duration::from_millis(40);
/// From the end of one deploy to the start of the next: late losses are still counted for the first.
const BETWEEN: Duration = Duration::from_secs(1);
/// How long answered requests are counted after a version that does not work.
const AFTER_BROKEN: Duration = Duration::from_secs(3);
/// How long a new version may take to answer.
const LIMIT: Duration = Duration::from_secs(20);

const VERSION: &str = "version";
const BROKEN: &str = "broken";

const NODE: &str = r#"
const fs = require('fs'), http = require('http'), net = require('net');
const version = fs.readFileSync('version', 'utf8');
if (version === 'broken') { console.error('no database'); process.exit(1); }
let ending = false;
const server = http.createServer((request, response) => {
  if (request.url === '/version') return response.end(version);
  setTimeout(() => {
    if (ending) response.setHeader('Connection', 'close');
    response.end('hello');
  }, 20);
});
const { LISTEN_FDS, FD, PORT } = process.env;
const where = LISTEN_FDS ? { fd: 3 } : FD ? { fd: Number(FD) } : { port: Number(PORT), host: '127.0.0.1' };
server.listen(where, () => process.send && process.send('ready'));
for (const signal of ['SIGTERM', 'SIGINT']) {
  process.on(signal, () => {
    ending = true;
    net.Server.prototype.close.call(server, () => process.exit(0));
    setTimeout(() => server.closeIdleConnections(), 1000);
  });
}
"#;

const WSGI: &str = r#"
import time
version = open("version").read()
if version == "broken":
    raise SystemExit("no database")
def app(environ, start_response):
    body = version.encode()
    if environ["PATH_INFO"] != "/version":
        time.sleep(0.02)
        body = b"hello"
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"#;

const RACK: &str = r#"
version = File.read("version")
abort "no database" if version == "broken"
run lambda { |environment|
  is_version = environment["PATH_INFO"] == "/version"
  sleep 0.02 unless is_version
  body = is_version ? version : "hello"
  [200, { "Content-Length" => body.bytesize.to_s }, [body]]
}
"#;

/// The directory and the port of one peer.
struct Site {
    directory: Directory,
    port: u16,
}

impl Site {
    fn new(name: &str) -> Site {
        let site = Site { directory: Directory::new(name), port: free_port() };
        site.write("server.js", NODE);
        site.write("application.py", WSGI);
        site.write("config.ru", RACK);
        site.write(VERSION, "0");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.0.join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        write(&self.path(name), text);
    }

    /// A command in the peer's directory, without output.
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.directory.0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.env("PYTHONDONTWRITEBYTECODE", "1").env("PM2_HOME", self.path("pm2"));
        command.env("MASTERCONTROL_DIR", self.path("run"));
        command
    }

    /// The version that it reports in its answer.
    fn version(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(1))).ok()?;
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    fn wait_for(&self, version: &str) -> bool {
        let limit = Instant::now() + LIMIT;
        while self.version().as_deref() != Some(version) {
            if Instant::now() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(20));
        }
        true
    }
}

/// A running peer. Its deploy says whether it succeeded, as far as the peer reports that.
struct Peer {
    running: Running,
    deploy: Box<dyn FnMut() -> Option<bool>>,
}

type Start = fn(&Site) -> Option<Peer>;

const PEERS: [(&str, Start); 12] = [
    ("`supervisor exec --listen`, `admin-cli restart`", ours),
    ("`supervisor exec --relay http`, `admin-cli restart`", ours_with_a_relay),
    ("systemd, `systemctl restart`", systemd),
    ("systemd with a socket unit, `systemctl restart`", systemd_with_a_socket),
    ("supervisord, `supervisorctl restart`", supervisord),
    ("supervisord with a socket of its own (`fcgi-program`)", supervisord_with_a_socket),
    ("pm2, `pm2 restart`", pm2),
    ("pm2 in cluster mode, `pm2 reload`", pm2_cluster),
    ("HAProxy before two processes, one after the other", haproxy),
    ("gunicorn, SIGHUP", gunicorn),
    ("puma in cluster mode, SIGUSR1 (phased)", puma_phased),
    ("puma, SIGUSR2 (hot)", puma_hot),
];

pub fn run() {
    let mut table = Vec::new();
    let wanted = std::env::var("MASTERCONTROL_PEERS").unwrap_or_default();
    for (name, start) in PEERS {
        if !wanted.split(',').any(|word| name.contains(word)) {
            continue;
        }
        println!("{name}");
        let results = [Mode::OnePerConnection, Mode::KeptAlive].map(|mode| measure(start, mode));
        let [Some(single), Some(kept)] = results else {
            table.push(format!("| {name} | not installed, or did not start | | | |"));
            continue;
        };
        table.push(format!(
            "| {name} | {} / {} | {:.0?} / {:.0?} | {:.0} % / {:.0} % | {} |",
            single.good.lost(),
            kept.good.lost(),
            single.good.slowest,
            kept.good.slowest,
            single.after_broken,
            kept.after_broken,
            single.reported,
        ));
    }
    println!("400 requests a second; the first figure of two: one request a connection, the second: kept alive");
    println!("| | lost in {DEPLOYS} deploys | slowest answer | answered after a broken version | reported |");
    println!("| --- | --- | --- | --- | --- |");
    table.iter().for_each(|line| println!("{line}"));
}

struct Measured {
    good: Report,
    /// In percent of the requests that were due.
    after_broken: f64,
    reported: &'static str,
}

fn measure(start: Start, mode: Mode) -> Option<Measured> {
    let site = Site::new("comparison");
    let mut peer = start(&site)?;
    if !site.wait_for("0") {
        return None;
    }
    let load = || Load::new(peer.running.address, "/", "hello", mode).connections(CONNECTIONS).pace(PACE);
    let good = load().begin();
    thread::sleep(BETWEEN);
    for version in 1..=DEPLOYS {
        site.write(VERSION, version.to_string());
        (peer.deploy)();
        assert!(site.wait_for(&version.to_string()), "version {version} never answered");
        thread::sleep(BETWEEN);
    }
    let good = good.end();
    let broken = load().patience(AFTER_BROKEN).begin();
    thread::sleep(BETWEEN);
    site.write(VERSION, BROKEN);
    let reported = match (peer.deploy)() {
        None => "cannot",
        Some(true) => "no",
        Some(false) => "yes",
    };
    let before = broken.answered();
    thread::sleep(AFTER_BROKEN);
    let answered = broken.answered() - before;
    let all = AFTER_BROKEN.as_secs_f64() / PACE.as_secs_f64() * CONNECTIONS as f64;
    println!("  {good}\n  broken: {}", broken.end());
    Some(Measured { good, after_broken: (100.0 * answered as f64 / all).min(100.0), reported })
}

/// A program in `target/peers` or in `PATH`.
fn find(program: &str) -> Option<PathBuf> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers");
    let own = [peers.join("bin"), peers.join("node_modules/.bin")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = own.into_iter().chain(std::env::split_paths(&path)).chain([PathBuf::from("/usr/sbin")]);
    all.map(|directory| directory.join(program)).find(|path| path.exists())
}

fn succeeds(mut command: Command) -> Option<bool> {
    Some(command.status().is_ok_and(|status| status.success()))
}

fn ours(site: &Site) -> Option<Peer> {
    // The program does not report when it is ready. It listens on a socket that is not its own, so only an answer can
    // show that it is.
    ours_by(site, &["--ready", &format!("http=http://127.0.0.1:{}/version", site.port)])
}

fn ours_with_a_relay(site: &Site) -> Option<Peer> {
    ours_by(site, &["--relay", "http"])
}

fn ours_by(site: &Site, options: &[&str]) -> Option<Peer> {
    let node = find("node")?;
    let mut command = site.command(Path::new(SUPERVISOR));
    command.args(["exec", "--name", "app", "--listen", &site.port.to_string(), "--grace", "10"]);
    command.args(options).arg("--").arg(node).arg("server.js");
    let running = Running::peer(&mut command, site.port)?;
    let directory = site.path("run");
    let deploy = move || {
        let mut command = Command::new(ADMIN_CLI);
        command.env("MASTERCONTROL_DIR", &directory).args(["--name", "app", "restart"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        succeeds(command)
    };
    Some(Peer { running, deploy: Box::new(deploy) })
}

fn systemd(site: &Site) -> Option<Peer> {
    fs::create_dir(site.path("units")).ok()?;
    let environment = format!("Environment=PORT={}", site.port);
    systemd_by(site, &environment)
}

fn systemd_with_a_socket(site: &Site) -> Option<Peer> {
    fs::create_dir(site.path("units")).ok()?;
    let socket = format!("[Unit]\nDefaultDependencies=no\n[Socket]\nListenStream=127.0.0.1:{}\n", site.port);
    site.write("units/app.socket", socket);
    systemd_by(site, "")
}

/// A systemd of its own, in its own namespaces, for which it needs root.
fn systemd_by(site: &Site, environment: &str) -> Option<Peer> {
    let (node, directory) = (find("node")?, site.directory.0.display().to_string());
    let unit = format!(
        "[Unit]\nDefaultDependencies=no\nStartLimitIntervalSec=0\n[Service]\nWorkingDirectory={directory}\nExecStart={} server.js\n\
         Restart=on-failure\nTimeoutStopSec=10\n{environment}\n",
        node.display()
    );
    site.write("units/app.service", unit);
    let first = if environment.is_empty() { "app.socket" } else { "app.service" };
    site.write(
        "prepare",
        format!("printf '[Unit]\\nDefaultDependencies=no\\nWants={first}\\n' > /run/units/mini.target\n"),
    );
    let boot = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.ci/boot-systemd");
    let running = Running::peer(site.command(&boot).arg("."), site.port)?;
    let child = running.child.id();
    let init = fs::read_to_string(format!("/proc/{child}/task/{child}/children")).ok()?;
    let init = init.split_whitespace().next()?.to_owned();
    let deploy = move || {
        let mut command = Command::new("nsenter");
        command.args(["-t", &init, "-m", "-p", "-u", "-i", "-C", "systemctl", "restart", "app.service"]);
        succeeds(command_without_output(command))
    };
    Some(Peer { running, deploy: Box::new(deploy) })
}

fn supervisord(site: &Site) -> Option<Peer> {
    let section = format!("[program:app]\nenvironment=PORT=\"{}\"\n", site.port);
    supervisord_by(site, &section)
}

fn supervisord_with_a_socket(site: &Site) -> Option<Peer> {
    let section = format!("[fcgi-program:app]\nsocket=tcp://127.0.0.1:{}\nenvironment=FD=\"0\"\n", site.port);
    supervisord_by(site, &section)
}

fn supervisord_by(site: &Site, section: &str) -> Option<Peer> {
    let (node, control) = (find("node")?, find("supervisorctl")?);
    let directory = site.directory.0.display().to_string();
    let configuration = format!(
        "[unix_http_server]\nfile={directory}/s.sock\n[supervisorctl]\nserverurl=unix://{directory}/s.sock\n\
         [rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\
         [supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={directory}/s.pid\n\
         {section}command={} server.js\ndirectory={directory}\nstdout_logfile=NONE\nstderr_logfile=NONE\n",
        node.display()
    );
    site.write("supervisord.conf", configuration);
    let running = Running::peer(site.command(&find("supervisord")?).args(["-n", "-c", "supervisord.conf"]), site.port)?;
    let configuration = site.path("supervisord.conf");
    let deploy = move || {
        let mut command = Command::new(&control);
        command.arg("-c").arg(&configuration).args(["restart", "app"]).stdout(Stdio::null()).stderr(Stdio::null());
        succeeds(command)
    };
    Some(Peer { running, deploy: Box::new(deploy) })
}

fn pm2(site: &Site) -> Option<Peer> {
    pm2_by(site, "exec_mode: 'fork'", "restart")
}

fn pm2_cluster(site: &Site) -> Option<Peer> {
    pm2_by(site, "exec_mode: 'cluster', instances: 2", "reload")
}

fn pm2_by(site: &Site, mode: &str, deploy: &'static str) -> Option<Peer> {
    let pm2 = find("pm2")?;
    let settings = format!(
        "module.exports = {{ apps: [{{ name: 'app', script: 'server.js', {mode}, wait_ready: true, kill_timeout: 10000,
         env: {{ PORT: '{}' }} }}] }};",
        site.port
    );
    site.write("ecosystem.config.js", settings);
    let mut command = site.command(&find("pm2-runtime")?);
    let running = Running::peer(command.args(["start", "ecosystem.config.js"]), site.port)?;
    let (directory, home) = (site.directory.0.clone(), site.path("pm2"));
    let deploy = move || {
        let mut command = Command::new(&pm2);
        command.args([deploy, "app"]).env("PM2_HOME", &home).current_dir(&directory);
        succeeds(command_without_output(command))
    };
    Some(Peer { running, deploy: Box::new(deploy) })
}

fn command_without_output(mut command: Command) -> Command {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// The two processes behind HAProxy, and the way to take one out.
struct Backends {
    directory: PathBuf,
    node: PathBuf,
    ports: [u16; 2],
    children: Vec<Child>,
}

impl Backends {
    fn start(&self, index: usize) -> Child {
        let mut command = Command::new(&self.node);
        command.arg("server.js").current_dir(&self.directory).env("PORT", self.ports[index].to_string());
        command_without_output(command).spawn().unwrap()
    }

    fn command(&self, command: &str) -> String {
        let mut socket = UnixStream::connect(self.directory.join("h.sock")).unwrap();
        writeln!(socket, "{command}").unwrap();
        let mut answer = String::new();
        let _ = socket.read_to_string(&mut answer);
        answer
    }

    fn set(&self, index: usize, state: &str) {
        self.command(&format!("set server app/s{index} state {state}"));
    }

    /// Whether HAProxy's checks have found it up: the sixth field is its state, and 2 means running.
    fn is_up(&self, index: usize) -> bool {
        let name = format!("s{index}");
        let servers = self.command("show servers state app");
        let mut fields = servers.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        fields.any(|fields| fields.get(3) == Some(&&*name) && fields.get(5) == Some(&"2"))
    }

    /// As a careful script would do it: one after the other, and stopping if one did not come back.
    fn deploy(&mut self) -> bool {
        for index in 0..2 {
            self.set(index, "drain");
            kill(Pid::from_raw(i32::try_from(self.children[index].id()).unwrap()), Signal::SIGTERM).unwrap();
            self.children[index].wait().unwrap();
            self.children[index] = self.start(index);
            while TcpStream::connect(("127.0.0.1", self.ports[index])).is_err() {
                if let Ok(Some(_)) = self.children[index].try_wait() {
                    return false;
                }
                thread::sleep(Duration::from_millis(10));
            }
            self.set(index, "ready");
            while !self.is_up(index) {
                thread::sleep(Duration::from_millis(10));
            }
        }
        true
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn haproxy(site: &Site) -> Option<Peer> {
    let (haproxy, node) = (find("haproxy")?, find("node")?);
    let ports = [free_port(), free_port()];
    let directory = site.directory.0.clone();
    let configuration = format!(
        "global\n stats socket {}/h.sock level admin\ndefaults\n mode http\n timeout connect 1s\n timeout client 30s\n \
         timeout server 30s\n retries 3\n option redispatch\nlisten app\n bind 127.0.0.1:{}\n \
         server s0 127.0.0.1:{} check inter 200ms\n server s1 127.0.0.1:{} check inter 200ms\n",
        directory.display(),
        site.port,
        ports[0],
        ports[1]
    );
    site.write("haproxy.cfg", configuration);
    let mut backends = Backends { directory, node, ports, children: Vec::new() };
    backends.children = (0..2).map(|index| backends.start(index)).collect();
    let running = Running::peer(site.command(&haproxy).args(["-f", "haproxy.cfg"]), site.port)?;
    Some(Peer { running, deploy: Box::new(move || Some(backends.deploy())) })
}

/// A deploy by a signal, which reports nothing.
fn by_signal(running: Running, signal: Signal) -> Option<Peer> {
    let pid = Pid::from_raw(i32::try_from(running.child.id()).unwrap());
    let deploy = move || {
        let _ = kill(pid, signal);
        None
    };
    Some(Peer { running, deploy: Box::new(deploy) })
}

fn gunicorn(site: &Site) -> Option<Peer> {
    let mut command = site.command(&find("gunicorn")?);
    command.args(["-b", &format!("127.0.0.1:{}", site.port), "-w", "2", "-k", "gthread", "--threads", "8"]);
    by_signal(Running::peer(command.arg("application:app"), site.port)?, Signal::SIGHUP)
}

fn puma_phased(site: &Site) -> Option<Peer> {
    puma(site, "workers 2\npreload_app! false\n", Signal::SIGUSR1)
}

fn puma_hot(site: &Site) -> Option<Peer> {
    puma(site, "", Signal::SIGUSR2)
}

fn puma(site: &Site, more: &str, signal: Signal) -> Option<Peer> {
    let configuration =
        format!("bind 'tcp://127.0.0.1:{}'\nthreads 16, 16\nenvironment 'production'\n{more}", site.port);
    site.write("puma.rb", configuration);
    let mut command = site.command(&find("puma")?);
    by_signal(Running::peer(command.args(["-C", "puma.rb", "config.ru"]), site.port)?, signal)
}
