//! A pseudo-terminal: the test is the person in front of it.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use nix::fcntl::OFlag;
use nix::pty::{grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use nix::unistd::Pid;

use crate::support::{Home, Instance, Process, SUPERVISOR, eventually, free_port};

/// The person's end. Dropping it closes the terminal.
pub struct Pty {
    person: File,
    screen: RefCell<String>,
}

pub const ENTER: &str = "\r";
pub const CTRL_C: &str = "\x03";
pub const CTRL_D: &str = "\x04";
pub const CTRL_S: &str = "\x13";
pub const CTRL_Z: &str = "\x1a";

impl Pty {
    /// A new terminal, and the end that belongs to a program.
    pub fn open() -> (Pty, File) {
        // Not inherited by the programs that other tests start meanwhile: they would keep the terminal open.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
        let person = posix_openpt(flags).unwrap();
        grantpt(&person).unwrap();
        unlockpt(&person).unwrap();
        let name = ptsname_r(&person).unwrap();
        let program =
            OpenOptions::new().read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits()).open(name).unwrap();
        // Ctrl-C and Ctrl-Z first send their signal and then discard output on its way to the screen, which could
        // include the prompt that the shell has shown meanwhile.
        let mut settings = tcgetattr(&program).unwrap();
        settings.local_flags.insert(LocalFlags::NOFLSH);
        tcsetattr(&program, SetArg::TCSANOW, &settings).unwrap();
        (Pty { person: OwnedFd::from(person).into(), screen: RefCell::default() }, program)
    }

    pub fn press(&self, keys: &str) {
        (&self.person).write_all(keys.as_bytes()).unwrap();
    }

    /// Everything that has been shown so far.
    pub fn screen(&self) -> String {
        let mut part = [0; 4096];
        loop {
            match (&self.person).read(&mut part) {
                Ok(length @ 1..) => self.screen.borrow_mut().push_str(&String::from_utf8_lossy(&part[..length])),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nothing more for now or, with EIO, for ever.
                Ok(0) | Err(_) => return self.screen.borrow().clone(),
            }
        }
    }
}

impl Home {
    /// Starts a supervisor with a terminal as its stdin, in a session of its own.
    pub fn start_on_terminal(&self, arguments: &[&str]) -> (Instance, Pty) {
        let (pty, terminal) = Pty::open();
        let mut command = self.supervisor_by(&["setsid", "--ctty"], arguments);
        command.stdin(terminal);
        (self.start_by(command), pty)
    }
}

/// An interactive shell with job control, in a terminal of its own.
pub struct Shell {
    pub pty: Pty,
    _process: Process,
    home: Home,
    prompts: RefCell<usize>,
}

const PROMPT: &str = "ready> ";

impl Shell {
    pub fn start(home: &Home) -> Shell {
        let (pty, terminal) = Pty::open();
        let mut command: Command = home.program("setsid");
        command.args(["--ctty", "bash", "--norc", "--noprofile", "-i"]);
        command.env("PS1", PROMPT).env("TERM", "dumb").env("HISTFILE", "/dev/null");
        command.stdin(terminal.try_clone().unwrap()).stdout(terminal.try_clone().unwrap()).stderr(terminal);
        let shell = Shell { pty, _process: home.spawn(command), home: home.clone(), prompts: RefCell::new(0) };
        shell.wait_for_prompt();
        shell
    }

    /// Waits until the shell asks for the next command.
    pub fn wait_for_prompt(&self) {
        *self.prompts.borrow_mut() += 1;
        let wanted = *self.prompts.borrow();
        eventually("the shell shows its prompt", || self.pty.screen().matches(PROMPT).count() >= wanted);
    }

    /// Types a command, and waits for the next prompt.
    pub fn run(&self, command: &str) {
        self.begin(command);
        self.wait_for_prompt();
    }

    /// Types a command that keeps the terminal.
    pub fn begin(&self, command: &str) {
        self.pty.press(command);
        self.pty.press(ENTER);
    }

    /// The command line of a supervisor that logs into a file, and its job.
    pub fn supervisor(&self, arguments: &str) -> (String, Job) {
        let log = self.home.directory().join("log").display().to_string();
        let (name, port) = (self.home.name(), free_port());
        let line = format!("{SUPERVISOR} {arguments} --name {name} --listen 127.0.0.1:{port} 2>{log}");
        (line, Job { log, home: self.home.clone() })
    }

    /// The same for a supervisor of a program, with these options before it.
    pub fn exec(&self, options: &str, program: &str) -> (String, Job) {
        let log = self.home.directory().join("log").display().to_string();
        let line = format!("{SUPERVISOR} exec --name {} {options} -- {program} 2>{log}", self.home.name());
        (line, Job { log, home: self.home.clone() })
    }
}

/// A supervisor that a shell runs.
pub struct Job {
    log: String,
    home: Home,
}

impl Job {
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn wait_for(&self, part: &str) {
        eventually(&format!("the log says {part:?}"), || self.log().contains(part));
    }

    /// Its process id, once it listens.
    pub fn pid(&self) -> u32 {
        self.wait_for("listening on ");
        let log = self.log();
        log.split("(pid ").nth(1).unwrap().split(')').next().unwrap().parse().unwrap()
    }

    /// Asserts that it answers.
    pub fn assert_serves(&self) {
        self.home.admin(&["--name", self.home.name(), "ping"]).expect(0);
    }
}

impl Drop for Job {
    /// It may still run after a failed test, because it is not the test's own child.
    fn drop(&mut self) {
        let log = self.log();
        let pid = log.split("(pid ").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok());
        let Some(pid) = pid else { return };
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if line.contains(self.home.name()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// A field of `/proc/PID/stat`, counted as proc(5) does.
pub fn stat(pid: u32, field: usize) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name of the program, field 2, may contain anything.
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    after_name.split(' ').nth(field - 3).unwrap_or_default().to_owned()
}

/// Whether the process is in the foreground of its terminal.
pub fn is_in_foreground(pid: u32) -> bool {
    let (group, foreground) = (stat(pid, 5), stat(pid, 8));
    !group.is_empty() && group == foreground
}

/// Whether the process is stopped, as by Ctrl-Z.
pub fn is_stopped(pid: u32) -> bool {
    stat(pid, 3) == "T"
}
