//! Programs under measurement, and what the system reports about them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The release builds of this run.
pub const SUPERVISOR: &str = env!("CARGO_BIN_EXE_supervisor-under-test");
pub const ADMIN_CLI: &str = env!("CARGO_BIN_EXE_admin-cli-under-test");

/// A directory of this run, removed at the end.
pub struct Directory(pub PathBuf);

impl Directory {
    pub fn new(name: &str) -> Directory {
        use std::os::unix::fs::DirBuilderExt;
        let path = std::env::temp_dir().join(format!("mc-bench-{}-{name}", std::process::id()));
        fs::DirBuilder::new().mode(0o755).create(&path).unwrap();
        Directory(path)
    }

    /// A directory with a greeting and files of 1 KiB and 1 MiB, as a path and as an argument.
    pub fn files(&self) -> (PathBuf, String) {
        let files = self.0.join("files");
        fs::create_dir(&files).unwrap();
        write(&files.join("hello"), crate::clients::GREETING);
        write(&files.join("1k"), vec![b'x'; 1024]);
        write(&files.join("1m"), vec![b'x'; 1024 * 1024]);
        let argument = files.to_str().unwrap().to_owned();
        (files, argument)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server that runs in its own process, and its child processes.
pub struct Running {
    pub child: Child,
    pub address: SocketAddr,
    _directory: Option<Directory>,
}

impl Running {
    /// A supervisor on a free port, with its admin socket in a directory of its own.
    pub fn supervisor(arguments: &[&str]) -> Running {
        Running::supervisor_of(arguments, &[])
    }

    /// The same for a supervisor of a program.
    pub fn supervisor_of(arguments: &[&str], program: &[&str]) -> Running {
        let directory = Directory::new(&format!("run-{}", free_port()));
        let mut child = Command::new(SUPERVISOR)
            .args(arguments)
            .args(["--listen", "127.0.0.1:0", "--grace", "60"])
            .args(program)
            .env("MASTERCONTROL_DIR", directory.0.join("mastercontrol"))
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        let ready = log.by_ref().map(Result::unwrap).find(|line| line.contains("listening on ")).unwrap();
        let address = ready.split("listening on ").nth(1).unwrap().split(' ').next().unwrap();
        let address = address.trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
        std::thread::spawn(move || log.for_each(drop));
        Running { child, address, _directory: Some(directory) }
    }

    /// The admin socket of the supervisor with this name.
    pub fn socket(&self, name: &str) -> PathBuf {
        let directory = self._directory.as_ref().expect("a peer has no admin socket");
        directory.0.join(format!("mastercontrol/{name}.sock"))
    }

    /// A peer that listens on `port`; waits until it does.
    pub fn peer(command: &mut Command, port: u16) -> Option<Running> {
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()?;
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let running = Running { child, address, _directory: None };
        let limit = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            if Instant::now() > limit {
                return None;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(running)
    }

    pub fn admin(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(ADMIN_CLI);
        command.args(arguments).stdout(Stdio::null());
        if let Some(directory) = &self._directory {
            command.env("MASTERCONTROL_DIR", directory.0.join("mastercontrol"));
        }
        command
    }

    /// Sends it a signal, and waits until the process has ended.
    pub fn end(&mut self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
        self.child.wait().unwrap();
    }

    fn family(&self) -> Vec<u32> {
        let parent = self.child.id();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        std::iter::once(parent).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect()
    }

    /// User and system time of the process and its children so far.
    pub fn cpu(&self) -> Duration {
        let ticks: u64 = self.family().iter().map(|pid| ticks(*pid)).sum();
        Duration::from_millis(ticks * 10) // 100 ticks a second, as on every Linux for decades.
    }

    /// The same for the process alone.
    pub fn own_cpu(&self) -> Duration {
        Duration::from_millis(ticks(self.child.id()) * 10)
    }

    /// The resident memory of the process and its children, in bytes.
    pub fn resident(&self) -> u64 {
        self.family().into_iter().map(resident).sum()
    }

    /// The same for the process alone.
    pub fn own_resident(&self) -> u64 {
        resident(self.child.id())
    }

    /// The number of descriptors of the process alone.
    pub fn own_descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    /// How often threads of the process and its children gave up the processor, voluntarily or not.
    pub fn context_switches(&self) -> u64 {
        let tasks = self.family().into_iter().flat_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).unwrap());
        let status = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok());
        status
            .map(|status| field(&status, "voluntary_ctxt_switches:") + field(&status, "nonvoluntary_ctxt_switches:"))
            .sum()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // After it has ended, its process ids may belong to other processes.
        if let Ok(None) = self.child.try_wait() {
            for pid in self.family().into_iter().rev() {
                let _ = kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL);
            }
            let _ = self.child.wait();
        }
    }
}

fn resident(pid: u32) -> u64 {
    field(&fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default(), "VmRSS:") * 1024
}

fn ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // After the name, which may contain anything: fields 14 and 15 of proc(5) are the 12th and 13th here.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    fields.get(11..13).map_or(0, |times| times.iter().map(|time| time.parse::<u64>().unwrap()).sum())
}

/// The number after this name in a file of proc(5), without its unit.
pub fn field(status: &str, name: &str) -> u64 {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    value.map_or(0, |value| value.parse().unwrap())
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

pub fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]).any(|directory| directory.join(program).exists())
}

pub fn write(path: &Path, text: impl AsRef<[u8]>) {
    fs::write(path, text).unwrap();
}
