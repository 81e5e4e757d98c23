//! Three supervisors behind HAProxy: restarted one after the other by `examples/haproxy/rolling-restart.sh`, and
//! stopped.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;

use load::{Load, Mode};

use crate::quoted::VERIFIED_STOP;
use crate::readme::{project, shell};
use crate::support::{Client, Home, Process, eventually, free_port, is_installed, write_script};

const NAMES: [&str; 3] = ["web1", "web2", "web3"];

/// How long the load balancer may take to notice whether a server is ready, in seconds.
const DELAY: &str = "1";

/// Three supervisors of file servers with the file `1k`, behind HAProxy.
struct Balanced {
    home: Home,
    supervisors: Process,
    haproxy: Process,
    /// The address of HAProxy.
    address: SocketAddr,
    /// The script that starts a supervisor by its name.
    start: String,
    body: String,
}

impl Balanced {
    /// None: HAProxy is not installed, which is reported.
    fn start() -> Option<Balanced> {
        if !is_installed("haproxy") {
            return None;
        }
        let home = Home::new();
        let files = home.directory().join("files");
        fs::create_dir(&files).unwrap();
        let body = "x".repeat(1024);
        fs::write(files.join("1k"), &body).unwrap();

        // The example's ports are replaced by free ones. For that many connections it would need descriptors that not
        // every user has.
        let mut config = fs::read_to_string(project().join("examples/haproxy/haproxy.cfg")).unwrap();
        config = config.replace("maxconn 4096", "maxconn 64");
        let front = free_port();
        config = config.replace("127.0.0.1:8080", &format!("127.0.0.1:{front}"));
        let mut start = "#!/bin/sh\ncase $1 in\n".to_owned();
        for (number, name) in NAMES.iter().enumerate() {
            let (port, health) = (free_port(), free_port());
            let number = number + 1;
            config = config.replace(&format!(":808{number} port 908{number}"), &format!(":{port} port {health}"));
            writeln!(start, "{name}) set -- --name {name} --listen {port} --health {health} ;;").unwrap();
        }
        writeln!(start, "esac\nexec supervisor http {} \"$@\"", files.display()).unwrap();
        let (config_file, start_file) = (home.directory().join("haproxy.cfg"), home.directory().join("start"));
        fs::write(&config_file, config).unwrap();
        write_script(&start_file, &start);
        let start = start_file.to_str().unwrap().to_owned();

        let script: String = NAMES.iter().map(|name| format!("sh {start} {name} & ")).collect();
        let mut supervisors = shell(&home, &format!("{script}wait"));
        supervisors.stderr(Stdio::null());
        let supervisors = home.spawn(supervisors);
        eventually("all are there", || NAMES.iter().all(|name| home.admin(&["--name", name, "ping"]).code == 0));
        let mut haproxy = home.program("haproxy");
        haproxy.arg("-f").arg(&config_file).stdout(Stdio::null()).stderr(Stdio::null());
        let haproxy = home.spawn(haproxy);
        let address = ([127, 0, 0, 1], front).into();
        eventually("the load balancer has found one", || {
            Client::try_connect(address).is_ok_and(|mut client| client.get("/1k").status == 200)
        });
        Some(Balanced { home, supervisors, haproxy, address, start, body })
    }

    fn end(self) {
        self.haproxy.kill();
        self.home.admin(&["stop", "--all"]).expect(0);
        eventually("all have ended", || self.home.admin(&["list"]).err.contains("no supervisor"));
    }
}

#[test]
fn a_rolling_restart_behind_haproxy_loses_no_request() {
    let Some(balanced) = Balanced::start() else { return };
    let Balanced { home, start, body, .. } = &balanced;
    let pid = |name| home.admin(&["--name", name, "status", "--json"]).json()["pid"].clone();
    let before = NAMES.map(pid);
    let load = Load::new(balanced.address, "/1k", body.as_str(), Mode::OnePerConnection).begin();
    let script = format!("DELAY={DELAY} examples/haproxy/rolling-restart.sh {start} {}", NAMES.join(" "));
    let mut rolling = shell(home, &script);
    // The supervisors that it starts outlive it, with its stdout and stderr.
    rolling.stdout(Stdio::null()).stderr(Stdio::null());
    assert_eq!(home.spawn(rolling).wait(), 0);
    let report = load.end();
    assert_eq!(report.lost(), 0, "{report}");
    eprintln!("{report}");
    let after = NAMES.map(pid);
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    assert_eq!(balanced.supervisors.wait(), 0);
    balanced.end();
}

#[test]
fn a_delayed_stop_behind_haproxy_is_verified_and_none_is_lost() {
    let Some(balanced) = Balanced::start() else { return };
    let url = format!("http://{}/1k", balanced.address);
    let shown =
        VERIFIED_STOP.replace("--delay 5", &format!("--delay {DELAY}")).replace("http://balancer.example/", &url);
    let line: Vec<_> = shown.split(' ').skip(1).collect();
    balanced.home.admin(&line).expect(0).says("stopped in ").says("none lost");
    balanced.end();
}
