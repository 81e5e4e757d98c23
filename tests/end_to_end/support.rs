//! Supervisors and admin clients under a watchdog, and clients for their servers.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

pub const SUPERVISOR: &str = env!("CARGO_BIN_EXE_supervisor-under-test");
pub const ADMIN_CLI: &str = env!("CARGO_BIN_EXE_admin-cli-under-test");

/// A grace period that no test can wait for: a stop that takes it whole is ended by the watchdog.
pub const HUGE: &str = "600";

/// How long anything may take that should happen at once, on a machine that is busy with other work. A process that has
/// ended does not disappear while the system writes data to a disk that one of its threads waits for.
pub const LIMIT: Duration = Duration::from_secs(100);

/// How long a whole test may take. The longest one has hundreds of rounds, and some machines are busy.
const WATCHDOG: Duration = Duration::from_secs(480);

/// Waits until a condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Waits until the load has got this many more answers, or has lost a request.
pub fn some_more(load: &load::Running, more: u64) {
    let next = load.answered() + more;
    eventually("the load continues", || load.answered() >= next || load.lost() > 0);
}

/// The address that a supervisor announces in its first line.
pub fn announced(line: &str) -> Option<SocketAddr> {
    let place = line.split("listening on ").nth(1)?.split([' ', ',']).next()?;
    place.trim_start_matches("http://").trim_end_matches('/').parse().ok()
}

/// A port that no other process takes meanwhile: below the range that the system gives to clients, and each only once.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static SHARE: LazyLock<(u16, fs::File)> = LazyLock::new(share_of_the_ports);
    loop {
        let port = SHARE.0 + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// How many ports one run of the tests has.
const PORTS: u16 = 440;

/// The first port of this run, and the file that it has locked: other runs at the same time have other ports.
fn share_of_the_ports() -> (u16, fs::File) {
    // Below the range from which the relay chooses the private ports of programs.
    let mut free = (10_000..19_500).step_by(PORTS.into()).filter_map(|first| {
        let path = std::env::temp_dir().join(format!("mastercontrol-tests-{first}.lock"));
        // Another user's file can be read, which is enough to lock it, unless that user's umask prevents that.
        let file = fs::File::open(&path).or_else(|_| fs::File::create(&path)).ok()?;
        file.try_lock().ok()?;
        Some((first, file))
    });
    free.next().expect("twenty runs at the same time are enough")
}

/// Writes a program that is a script. A separate process does it: a file that this process has open for writing is open
/// for a moment in each process that another thread starts, and a file that is open for writing cannot be run.
#[cfg(unix)]
pub fn write_script(path: &Path, text: &str) {
    let mut writer = command("sh");
    writer.args(["-c", "cat > \"$1\" && chmod 755 \"$1\"", "-"]).arg(path).stdin(Stdio::piped());
    let mut writer = start(&mut writer).unwrap();
    writer.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

/// A program that starts from a known state, with nothing on stdin, however the tests are run: under `nohup`, by a
/// service manager, in the background of a script. Everything else is as after a login.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    #[cfg(unix)]
    inherited::reset();
    let mut command = Command::new(program);
    if cfg!(unix) {
        command.env_clear().env("PATH", path()).env("LANG", "C.UTF-8").env("TERM", "xterm");
    } else {
        // Windows and Wine need much of their environment.
        command.env_remove("NO_COLOR");
    }
    command.stdin(Stdio::null());
    command
}

/// The directories with programs. Those that this user cannot enter are left out: there, a program that does not exist
/// may look like one that is not permitted.
fn path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let entered = std::env::split_paths(&path).filter(|directory| directory.join(".").exists());
    std::env::join_paths(entered).unwrap()
}

/// Whether a program is installed that not every machine has. If not, says so, because a test is skipped.
#[cfg(unix)]
pub fn is_installed(program: &str) -> bool {
    let found = std::env::split_paths(&path()).any(|directory| directory.join(program).is_file());
    if !found {
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// Whether a command succeeds that does not succeed on every machine. If not, says so, because a test is skipped.
#[cfg(unix)]
pub fn can_run(line: &[&str]) -> bool {
    let mut command = command(line[0]);
    command.args(&line[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    let can = start(&mut command).is_ok_and(|mut child| child.wait().unwrap().success());
    if !can {
        eprintln!("skipped: `{}` is not possible here", line.join(" "));
    }
    can
}

/// As many clients as a test wants, or fewer where the system gives few descriptors: a test must not take those of the
/// tests beside it.
pub fn crowd(wanted: usize) -> usize {
    #[cfg(unix)]
    let wanted = wanted.min(inherited::descriptors() / 8);
    wanted
}

/// State that a program inherits and no `Command` can set: it is set for the tests themselves.
#[cfg(unix)]
mod inherited {
    use std::sync::{Arc, Once};

    use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
    use nix::sys::signal::{SigSet, SigmaskHow, Signal};
    use nix::sys::stat::{Mode, umask};

    /// Enough for the clients of all tests that run side by side.
    const DESCRIPTORS: rlim_t = 4096;

    /// How many descriptors there are.
    pub fn descriptors() -> usize {
        reset();
        usize::try_from(getrlimit(Resource::RLIMIT_NOFILE).unwrap().0).unwrap()
    }

    pub fn reset() {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            umask(Mode::from_bits_truncate(0o022));
            let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
            // Raising the hard limit takes privileges.
            if soft < DESCRIPTORS && setrlimit(Resource::RLIMIT_NOFILE, DESCRIPTORS, hard.max(DESCRIPTORS)).is_err() {
                setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
            }
            // An ignored signal is also ignored in each program that is started. A signal with a handler is not, and
            // this handler does as little.
            for signal in ignored().filter(|signal| !signal_hook::consts::FORBIDDEN.contains(signal)) {
                // The C library keeps some of them for itself.
                let _ = signal_hook::flag::register(signal, Arc::default());
            }
        });
        // A handler would interrupt the waits of a test's thread. The main thread is left to be interrupted.
        own_mask().thread_set_mask().unwrap();
    }

    /// The signals that the threads of tests block: all but those that their own faults raise.
    fn own_mask() -> SigSet {
        let faults = [Signal::SIGABRT, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL, Signal::SIGSEGV];
        faults.into_iter().fold(SigSet::all(), |mut mask, fault| {
            mask.remove(fault);
            mask
        })
    }

    /// Starts a program with an empty mask: threads have their own masks, and a program inherits that of the thread
    /// that starts it.
    pub fn with_no_mask<T>(start: impl FnOnce() -> T) -> T {
        reset();
        let mask = SigSet::empty().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap();
        let started = start();
        mask.thread_set_mask().unwrap();
        started
    }

    /// The signals that are ignored.
    fn ignored() -> impl Iterator<Item = i32> {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.map_or(0, |mask| u64::from_str_radix(mask.trim(), 16).unwrap());
        // Std ignores SIGPIPE itself, but does not pass that on to children.
        (1..=64).filter(move |signal| (mask >> (signal - 1)) & 1 == 1 && *signal != signal_hook::consts::SIGPIPE)
    }
}

/// Starts a program. On a very busy machine Wine sometimes fails to, with an internal error of its own.
fn start(command: &mut Command) -> io::Result<Child> {
    const ERROR_INTERNAL_ERROR: i32 = 1359;
    let mut tries = 0;
    loop {
        #[cfg(unix)]
        let started = inherited::with_no_mask(|| command.spawn());
        #[cfg(windows)]
        let started = command.spawn();
        match started {
            Err(error) if cfg!(windows) && error.raw_os_error() == Some(ERROR_INTERNAL_ERROR) && tries < 10 => {
                tries += 1
            }
            started => return started,
        }
    }
}

type Children = Arc<Mutex<Vec<Arc<Mutex<Child>>>>>;

/// A test's own name and directory, and a watchdog over all that it starts.
#[derive(Clone)]
pub struct Home(Arc<Inside>);

struct Inside {
    name: String,
    directory: PathBuf,
    children: Children,
    _alive: Sender<()>,
}

impl Home {
    pub fn new() -> Home {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("e2e-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        // Short, because the path of a socket has at most 107 bytes.
        let directory = if cfg!(unix) { Path::new("/tmp").join(&name) } else { std::env::temp_dir().join(&name) };
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir(&directory).unwrap();
        let children = Children::default();
        let _alive = watch(children.clone());
        Home(Arc::new(Inside { name, directory, children, _alive }))
    }

    /// The name of the test's instance.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// A name for one more instance of the test. (On Windows all users share the names of pipes.)
    pub fn another(&self, name: &str) -> String {
        format!("{}-{name}", self.name())
    }

    /// A directory that is removed after the test. It contains the programs' own directory.
    pub fn directory(&self) -> &Path {
        &self.0.directory
    }

    /// The directory with sockets and locks.
    pub fn sockets(&self) -> PathBuf {
        self.directory().join("mastercontrol")
    }

    /// The admin socket of the test's instance.
    #[cfg(unix)]
    pub fn socket(&self) -> PathBuf {
        self.sockets().join(format!("{}.sock", self.name()))
    }

    /// One of the programs, with nothing on stdin.
    pub fn program(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = command(program);
        if cfg!(unix) {
            command.env("MASTERCONTROL_DIR", self.sockets()).env("HOME", self.directory());
            // For processes to be found by, and for what README.md says.
            command.env("XDG_RUNTIME_DIR", self.directory());
        } else {
            command.env("LOCALAPPDATA", self.directory());
        }
        command
    }

    /// A supervisor with these arguments, a port and the test's name.
    pub fn supervisor(&self, arguments: &[&str]) -> Command {
        self.supervisor_by(&[], arguments)
    }

    /// Like [`Home::supervisor`], but run by another program such as `nohup`.
    pub fn supervisor_by(&self, by: &[&str], arguments: &[&str]) -> Command {
        let line: Vec<&str> = by.iter().copied().chain([SUPERVISOR]).chain(arguments.iter().copied()).collect();
        let mut command = self.program(line[0]);
        command.args(&line[1..]);
        if !arguments.contains(&"--listen") {
            command.arg("--listen").arg(format!("127.0.0.1:{}", free_port()));
        }
        if !arguments.contains(&"--name") {
            command.args(["--name", self.name()]);
        }
        command
    }

    /// Starts a supervisor and waits until it listens.
    pub fn start(&self, arguments: &[&str]) -> Instance {
        self.start_by(self.supervisor(arguments))
    }

    /// Starts a supervisor by this command and waits until it listens.
    pub fn start_by(&self, mut command: Command) -> Instance {
        command.stderr(Stdio::piped());
        let name = command.get_args().skip_while(|&argument| argument != "--name").nth(1);
        let name = name.map_or(self.name().to_owned(), |name| name.to_str().unwrap().to_owned());
        let process = self.spawn(command);
        let line = process.wait_for("listening on ");
        let address = announced(&line).unwrap();
        Instance { address, process, name, home: self.clone(), released: false }
    }

    /// `supervisor exec` with the test's name, these options and this program.
    pub fn exec_command(&self, options: &[&str], program: &[&str]) -> Command {
        let mut command = self.program(SUPERVISOR);
        command.args(["exec", "--name", self.name()]).args(options).arg("--").args(program);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Starts a supervisor of a program and waits until the program is ready. Its address is the first one of
    /// `--listen`; if there is none, or it has no port, the test has to fill in the address.
    pub fn exec(&self, options: &[&str], program: &[&str]) -> Instance {
        self.exec_by(self.exec_command(options, program))
    }

    /// Like [`Home::exec`], by this command.
    pub fn exec_by(&self, command: Command) -> Instance {
        let process = self.spawn(command);
        // The program writes to the same stderr, and may say there where it listens.
        let line = process.wait_for(&format!(" (pid {}", process.pid));
        let address = announced(&line).unwrap_or_else(|| ([0, 0, 0, 0], 0).into());
        let name = self.name().to_owned();
        Instance { address, process, name, home: self.clone(), released: false }
    }

    /// All running processes that the test has started, directly or indirectly, whatever group, session or parent they
    /// have by now: process ids and command lines. (The directory is in the environment of all of them.)
    #[cfg(target_os = "linux")]
    pub fn processes(&self) -> Vec<(u32, String)> {
        let mark = format!("XDG_RUNTIME_DIR={}", self.directory().display());
        let all = fs::read_dir("/proc").unwrap().flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter_map(|pid| {
            // A process that ends meanwhile is left out.
            let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
            let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
            let is_ours = environment.split(|&byte| byte == 0).any(|variable| variable == mark.as_bytes());
            is_ours.then(|| (pid, String::from_utf8_lossy(&line).trim_end_matches('\0').replace('\0', " ")))
        })
        .collect()
    }

    pub fn spawn(&self, mut command: Command) -> Process {
        let mut child = start(&mut command).unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let process = Process {
            pid: child.id(),
            out: Text::collect(child.stdout.take()),
            err: Text::collect(child.stderr.take()),
            stdin: Arc::new(Mutex::new(child.stdin.take())),
            child: Arc::new(Mutex::new(child)),
        };
        lock(&self.0.children).push(process.child.clone());
        process
    }

    /// Runs a program to its end.
    pub fn run(&self, mut command: Command) -> Ended {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.spawn(command).end()
    }

    /// Runs `admin-cli`, without a target of its own.
    pub fn admin(&self, arguments: &[&str]) -> Ended {
        self.run(self.admin_command(arguments))
    }

    pub fn admin_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(ADMIN_CLI);
        command.args(arguments);
        command
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        kill_all(&self.children);
        // A program that is not the test's own child may still be ending, and tidying up at the same time.
        let end = Instant::now() + Duration::from_secs(2);
        while self.directory.exists() && fs::remove_dir_all(&self.directory).is_err() && Instant::now() < end {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

/// How often supervisors are killed, unless `KILLS` says otherwise.
pub const USUAL_KILLS: u32 = 300;

/// Ends everything that a test has started, and names the test, if it takes too long: a hanging test reports nothing by
/// itself. Without its programs most tests fail at once; if even that does not help, all tests end here.
fn watch(children: Children) -> Sender<()> {
    let (alive, ended) = mpsc::channel::<()>();
    let test = thread::current().name().unwrap_or("?").to_owned();
    thread::spawn(move || {
        // More rounds than usual take longer.
        let asked = |name| std::env::var(name).ok().and_then(|rounds| rounds.parse().ok());
        let rounds = asked("RESTARTS").unwrap_or(1) * asked("KILLS").unwrap_or(USUAL_KILLS).div_ceil(USUAL_KILLS);
        if ended.recv_timeout(WATCHDOG * rounds) == Err(RecvTimeoutError::Timeout) {
            eprintln!("watchdog: {test} takes too long, its programs are killed");
            kill_all(&children);
            if ended.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout) {
                eprintln!("watchdog: {test} hangs");
                std::process::abort();
            }
        }
    });
    alive
}

/// Locks even a poisoned mutex: a test that failed with the lock held still has to be tidied up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn kill_all(children: &Children) {
    for child in lock(children).iter() {
        let mut child = lock(child);
        // A process that has been waited for is not killed: another one may have its number by now.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// The output of a program so far.
#[derive(Clone, Default)]
pub struct Text(Arc<(Mutex<Written>, Condvar)>);

#[derive(Default)]
struct Written {
    text: String,
    ended: bool,
    reader: Reader,
}

/// How a program's output is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reader {
    /// As fast as it arrives.
    #[default]
    Eager,
    /// A few hundred kilobytes a second.
    Slow,
    /// Not at all, until that is changed.
    Stalled,
}

impl Text {
    fn collect(source: Option<impl Read + Send + 'static>) -> Text {
        let text = Text::default();
        let writer = text.clone();
        thread::spawn(move || {
            let mut part = [0; 4096];
            let mut source = source;
            while let Some(read) = source.as_mut().map(|source| source.read(&mut part)) {
                match read {
                    Ok(0) => break,
                    Ok(length) => {
                        if writer.reader() == Reader::Slow {
                            thread::sleep(Duration::from_millis(10));
                        }
                        writer.change(|written| written.text.push_str(&String::from_utf8_lossy(&part[..length])));
                    }
                    Err(error) => {
                        writer.change(|written| written.text.push_str(&format!("[cannot read the rest: {error}]")));
                        break;
                    }
                }
            }
            writer.change(|written| written.ended = true);
        });
        text
    }

    /// Reads in this way from now on.
    #[cfg(target_os = "linux")]
    pub fn read_by(&self, reader: Reader) {
        self.change(|written| written.reader = reader);
    }

    /// How to read, as soon as it is not stalled.
    fn reader(&self) -> Reader {
        let written = self.0.0.lock().unwrap();
        self.0.1.wait_while(written, |written| written.reader == Reader::Stalled).unwrap().reader
    }

    fn change(&self, change: impl FnOnce(&mut Written)) {
        change(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
    }

    /// Waits until there is a whole line with this in it, and returns the first one.
    pub fn wait_for(&self, part: &str) -> String {
        self.find(part).unwrap_or_else(|missing| panic!("{missing}"))
    }

    /// Like [`Text::wait_for`], but says what is missing.
    fn find(&self, part: &str) -> Result<String, String> {
        let end = Instant::now() + LIMIT;
        let mut written = self.0.0.lock().unwrap();
        loop {
            let found = written.text.split_inclusive('\n').find(|line| line.ends_with('\n') && line.contains(part));
            if let Some(line) = found {
                return Ok(line.trim_end().to_owned());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || written.ended {
                return Err(format!("no line with {part:?} in:\n{}", written.text));
            }
            written = self.0.1.wait_timeout(written, left).unwrap().0;
        }
    }

    /// The output so far.
    pub fn so_far(&self) -> String {
        self.0.0.lock().unwrap().text.clone()
    }

    /// Everything, up to the end.
    pub fn whole(&self) -> String {
        let written = self.0.0.lock().unwrap();
        let (written, _) = self.0.1.wait_timeout_while(written, LIMIT, |written| !written.ended).unwrap();
        assert!(written.ended, "a process keeps the output open:\n{}\n{}", written.text, what_hangs());
        written.text.clone()
    }
}

/// What the threads of all processes wait for, where the system reports that.
fn what_hangs() -> String {
    let mut ps = command("ps");
    ps.args(["-eLo", "pid,ppid,tid,stat,wchan:32,comm,args"]).stdout(Stdio::piped());
    let all = start(&mut ps).and_then(Child::wait_with_output);
    let all = all.map(|ps| String::from_utf8_lossy(&ps.stdout).into_owned()).unwrap_or_default();
    // Those in brackets belong to the kernel.
    all.lines().filter(|line| !line.ends_with(']')).collect::<Vec<_>>().join("\n")
}

/// A program that was started.
#[derive(Clone)]
pub struct Process {
    pub pid: u32,
    pub out: Text,
    pub err: Text,
    pub stdin: Arc<Mutex<Option<ChildStdin>>>,
    child: Arc<Mutex<Child>>,
}

/// A program that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Process {
    pub fn is_running(&self) -> bool {
        self.status().is_none()
    }

    fn status(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().unwrap()
    }

    /// Waits until there is a whole line with this in it on stderr, and returns the first one.
    fn wait_for(&self, part: &str) -> String {
        self.err.find(part).unwrap_or_else(|missing| match self.status() {
            Some(status) => panic!("{missing}\nit has ended with {}", code(status)),
            None => panic!("{missing}\nit has not ended\n{}", what_hangs()),
        })
    }

    /// Waits for the end and returns the exit code.
    pub fn wait(&self) -> i32 {
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = self.status() {
                return code(status);
            }
            if Instant::now() > end {
                let hangs = what_hangs();
                self.kill();
                panic!("the program did not end; it wrote:\n{}{}\n{hangs}", self.out.so_far(), self.err.so_far());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn end(&self) -> Ended {
        Ended { code: self.wait(), out: self.out.whole(), err: self.err.whole() }
    }

    pub fn kill(&self) {
        let mut child = lock(&self.child);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[cfg(unix)]
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        assert!(self.try_signal(signal), "it has ended already");
    }

    /// Sends a signal ten times a second. One that is a decision of its own, half a second after the first, closes the
    /// remaining connections, or kills the program.
    #[cfg(unix)]
    pub fn signal_until_it_ends(&self, signal: nix::sys::signal::Signal) {
        let end = Instant::now() + LIMIT;
        while self.try_signal(signal) {
            assert!(Instant::now() < end, "no {signal} ends it:\n{}", self.err.so_far());
            let next = Instant::now() + Duration::from_millis(100);
            while self.is_running() && Instant::now() < next {
                thread::sleep(Duration::from_millis(2));
            }
        }
    }

    /// Sends a signal. Returns false if the process has already ended.
    #[cfg(unix)]
    pub fn try_signal(&self, signal: nix::sys::signal::Signal) -> bool {
        // The lock keeps the number from being reused by another test.
        let mut child = lock(&self.child);
        let runs = child.try_wait().unwrap().is_none();
        if runs {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(self.pid.try_into().unwrap()), signal).unwrap();
        }
        runs
    }

    /// Writes to the program's stdin, which has to be a pipe.
    pub fn write(&self, text: &str) {
        self.stdin.lock().unwrap().as_mut().unwrap().write_all(text.as_bytes()).unwrap();
    }
}

#[cfg(unix)]
fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| -status.signal().unwrap())
}

#[cfg(windows)]
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap()
}

impl Ended {
    #[track_caller]
    pub fn expect(self, code: i32) -> Ended {
        assert_eq!(self.code, code, "{self}");
        self
    }

    /// The one line of JSON on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    #[track_caller]
    pub fn says(&self, part: &str) -> &Ended {
        assert!(self.out.contains(part) || self.err.contains(part), "nothing about {part:?}: {self}");
        self
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "exit code {}\nstdout:\n{}\nstderr:\n{}", self.code, self.out, self.err)
    }
}

/// A running supervisor. At the end of the test it is stopped, and must have left nothing behind.
pub struct Instance {
    pub process: Process,
    pub address: SocketAddr,
    pub name: String,
    home: Home,
    /// Whether the test takes care of its end itself.
    released: bool,
}

impl std::ops::Deref for Instance {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl Instance {
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Runs `admin-cli` for this instance.
    pub fn admin(&self, arguments: &[&str]) -> Ended {
        self.home.run(self.admin_command(arguments))
    }

    /// Starts `admin-cli` for this instance, and does not wait for it.
    #[must_use = "it still runs, which others may not expect"]
    pub fn admin_begins(&self, arguments: &[&str]) -> Process {
        let mut command = self.admin_command(arguments);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        self.home.spawn(command)
    }

    fn admin_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.home.admin_command(&["--name", &self.name]);
        command.args(arguments);
        command
    }

    /// The output of `admin-cli status --json`.
    pub fn status(&self) -> Value {
        self.admin(&["status", "--json"]).expect(0).json()
    }

    /// Waits until a stop with one client has taken a second: by then a request to stop is a new decision.
    #[cfg(unix)]
    pub fn wait_for_countdown(&self) {
        self.err.wait_for("1 client still connected");
    }

    pub fn assert_serves(&self) {
        self.admin(&["ping"]).expect(0);
        let mut client = self.client();
        client.send("still there?\n");
        let mut answer = [0; 1];
        client.0.read_exact(&mut answer).unwrap();
    }

    /// Waits for the end, checks whether anything is left, and returns the exit code.
    pub fn wait(&self) -> i32 {
        let code = self.process.wait();
        let left: Vec<_> = ["sock", "lock"]
            .iter()
            .map(|suffix| self.home.sockets().join(format!("{}.{suffix}", self.name)))
            .filter(|file| file.exists())
            .collect();
        assert!(left.is_empty(), "{left:?} is left behind by one that ended with code {code}:\n{}", self.err.so_far());
        code
    }

    /// Stops it without waiting for its clients.
    #[cfg(unix)]
    fn stop(&self) {
        self.signal_until_it_ends(nix::sys::signal::Signal::SIGTERM);
    }

    #[cfg(windows)]
    fn stop(&self) {
        if self.is_running() {
            self.admin(&["stop", "--now"]);
        }
    }

    /// Kills the process without giving it a chance to tidy up.
    pub fn kill(mut self) {
        self.released = true;
        self.process.kill();
    }

    /// Only the process: anything that it leaves behind may belong to another one by now.
    pub fn into_process(mut self) -> Process {
        self.released = true;
        self.process.clone()
    }

    /// Asserts that another server can have the port.
    #[track_caller]
    pub fn assert_port_is_free(&self) {
        TcpListener::bind(self.address).unwrap_or_else(|error| panic!("{} is not free: {error}", self.address));
    }

    /// Its log, up to its end.
    pub fn log(&self) -> String {
        self.err.whole()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A failed test reports why; its programs end with its home.
        if self.released || thread::panicking() {
            return;
        }
        self.stop();
        self.wait();
    }
}

/// An answer of an HTTP server.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Whether it announces that the connection ends with it.
    pub is_last: bool,
    pub body: Vec<u8>,
}

/// A client of a server.
#[derive(Debug)]
pub struct Client(pub TcpStream);

impl Client {
    pub fn connect(address: SocketAddr) -> Client {
        Client::try_connect(address).unwrap()
    }

    pub fn try_connect(address: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        Ok(Client(stream))
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).unwrap();
    }

    /// Asserts that the next bytes are these.
    #[track_caller]
    pub fn expect(&mut self, expected: &str) {
        let mut received = vec![0; expected.len()];
        self.0.read_exact(&mut received).unwrap();
        assert_eq!(String::from_utf8_lossy(&received), expected);
    }

    /// Gets an answer from an echo server, and so makes sure that the server has this client.
    pub fn greet(&mut self) {
        self.send("hello\n");
        self.expect("hello\n");
    }

    /// Reads up to the end, which must not be a reset.
    pub fn rest(&mut self) -> String {
        self.try_rest().unwrap()
    }

    pub fn try_rest(&mut self) -> io::Result<String> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).inspect_err(|error| {
            assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "the connection never ended");
        })?;
        Ok(String::from_utf8(rest).unwrap())
    }

    /// Requests a file from an HTTP server, on a connection that is to be kept.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        self.answer()
    }

    /// Reads an answer of an HTTP server.
    #[track_caller]
    pub fn answer(&mut self) -> Answer {
        let (mut answer, length) = self.header();
        answer.body = vec![0; length];
        self.0.read_exact(&mut answer.body).unwrap();
        answer
    }

    /// Reads the header of an answer, and no further. Also returns the length of its body.
    #[track_caller]
    pub fn header(&mut self) -> (Answer, usize) {
        let mut header = Vec::new();
        while !header.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {header:?}"));
            header.extend(byte);
        }
        let header = String::from_utf8(header).unwrap().to_lowercase();
        let status = header.split(' ').nth(1).unwrap().parse().unwrap();
        let length = header.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap().parse().unwrap();
        (Answer { status, is_last: header.contains("\r\nconnection: close\r\n"), body: Vec::new() }, length)
    }

    /// Asserts that the last thing that the server sends is `SHUTDOWN`, once.
    #[track_caller]
    pub fn assert_told(&mut self) {
        assert_eq!(self.rest(), "SHUTDOWN\n");
    }
}
