//! Programs on Unix.
//!
//! Between the supervisor and the program stands a guardian, a process of this same executable, one for each
//! generation. It starts a launcher, of this same executable, too, which becomes the program. So nothing has to run
//! between `fork` and `exec`, where only unsafe code can be, and there is always somebody who cleans up: the guardian
//! when the supervisor is killed, and the supervisor when the guardian is.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::Signal;

use super::family::Family;
use super::line::{Lines, Order, Report};
use super::notify::{self, NotifySocket};
use super::output::Output;
use super::running::Running;
use super::stage::{self, Stage};
use super::{BuildError, CannotStart, Children, Program, Ready, Started, guardian, lacking, launcher};
use crate::journal::Journal;
use crate::log::Level;
use crate::server::SignalName;

/// The variable by which all processes of a generation can be found: it has the process id of their guardian.
pub(super) const MARK: &str = "MASTERCONTROL_GUARDIAN";

/// How long to wait until a guardian takes an order. It always does, unless somebody has suspended it.
const ORDER: Duration = Duration::from_millis(100);

/// If this process was started as a guardian or as a launcher, it is one, and then ends with this code. A program that
/// supervises programs calls this first of all, before it has a second thread.
pub fn hidden_stage() -> Option<ExitCode> {
    let mut line = std::env::args_os().skip(1);
    let run = match line.next()?.to_str()? {
        stage::GUARD => guardian::run,
        stage::LAUNCH => launcher::run,
        _ => return None,
    };
    Some(Stage::parse(line).map_or_else(
        || {
            stage::complain("@guard and @launch are for the supervisor's own use");
            ExitCode::from(crate::Exit::Usage)
        },
        |stage| run(&stage),
    ))
}

/// A listening socket for programs.
#[derive(Debug)]
pub struct Socket {
    /// Its name for the program, without a colon. May be empty.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

/// What this process is to the programs that it starts.
#[derive(Debug, Clone)]
pub(super) struct Host {
    family: Family,
    /// This executable.
    pub(super) own: OsString,
}

impl Host {
    /// From now on this process gets what is left of a guardian that was killed.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new() -> io::Result<Host> {
        let family = Family::default();
        family.adopt()?;
        Ok(Host { family, own: stage::own()? })
    }
}

/// Where requests to a guardian go.
#[derive(Debug)]
pub(super) struct Control {
    guardian: UnixStream,
    stop_signal: i32,
}

impl Control {
    /// Asks the program to end, and kills what is left of it at the end of this time. A further one only moves that.
    pub(super) fn stop(&self, within: Duration) {
        // Whole milliseconds, which the order has, and not less than this.
        let within = if within.is_zero() { within } else { within.saturating_add(Duration::from_micros(999)) };
        self.order(Order::Stop { signal: self.stop_signal, within });
    }

    pub(super) fn kill(&self) {
        self.order(Order::Stop { signal: Signal::KILL.as_raw(), within: Duration::ZERO });
    }

    pub(super) fn signal(&self, signal: i32) {
        self.order(Order::Signal(signal));
    }

    fn order(&self, order: Order) {
        // A guardian that is gone has nothing more to do.
        let _ = (&self.guardian).write_all(format!("{order}\n").as_bytes());
    }
}

impl Children {
    /// Sees to it that no orphan stays a zombie and no guardian suspended. From now on nobody else in this process may
    /// start a child process.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn reap_orphans(&self) -> io::Result<()> {
        self.host.family.reap_orphans()
    }

    pub(super) fn start(&self, build: u64, program: &Program, log: Journal) -> Result<Started, BuildError> {
        let lacking = |what| move |error: io::Error| lacking(what, &error);
        let notify = match program.ready {
            Ready::Notify => Some(NotifySocket::new().map_err(lacking("a socket on which it says that it is ready"))?),
            Ready::AtOnce | Ready::After(_) | Ready::Connect(_) => None,
        };
        let (control, its_control) = UnixStream::pair().map_err(lacking("a socket for its guardian"))?;
        let (output, stderr) = Output::of(program).map_err(lacking("a pipe for what it writes"))?;
        let mut command = self.command(program)?;
        command.process_group(0).stdin(Stdio::from(OwnedFd::from(its_control)));
        if let Some(stderr) = stderr {
            command.stderr(stderr);
        }
        for variable in crate::host::VARIABLES {
            command.env_remove(variable);
        }
        if let Some(notify) = &notify {
            command.env(notify::NOTIFY_SOCKET, notify.path());
        }
        let family = self.host.family.clone();
        let guardian = family.spawn(&mut command).map_err(lacking("a process for its guardian"))?;
        // It has our copies of the guardian's descriptors.
        drop(command);
        let heard = "what it takes to hear of the program";
        control.set_write_timeout(Some(ORDER)).map_err(lacking(heard))?;
        let socket = control.try_clone().map_err(lacking(heard))?;
        let control = Control { guardian: control, stop_signal: program.stop_signal };
        let (steps, received) = mpsc::channel();
        let running = Running::start(build, control, steps, move |running| {
            let told = follow(running, socket, notify.as_ref(), &log);
            let number = guardian.id();
            family.wait(guardian);
            if !told {
                running.guardian_lost(family.kill_leftovers(number, running.program()));
            }
            // Its socket goes before anybody hears that it is gone.
            drop(notify);
        });
        Ok(self.started(running.map_err(lacking(heard))?, output, received))
    }

    /// The guardian's command line, with the sockets.
    fn command(&self, program: &Program) -> Result<Command, BuildError> {
        let sockets = self.sockets();
        let sockets = sockets.sockets.as_ref().ok_or("the server is being stopped")?;
        let names: Vec<_> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        let stage = Stage {
            sockets: sockets.len(),
            names: names.join(":").into(),
            program: program.program.clone(),
            args: program.args.clone(),
        };
        let mapping = |(child_fd, socket): (i32, &Socket)| {
            socket.socket.try_clone().map(|parent_fd| FdMapping { parent_fd, child_fd })
        };
        let mappings = (stage::FIRST..).zip(sockets).map(mapping).collect::<io::Result<Vec<_>>>();
        let mut command = stage.command(OsStr::new(&self.host.own), stage::GUARD);
        command.arg0("supervisor");
        command.fd_mappings(mappings.map_err(|error| lacking("the listening sockets", &error))?)?;
        Ok(command)
    }
}

/// Hears what the guardian and the program say, until the guardian ends. Returns whether that said before that nothing
/// is left.
fn follow(running: &Running, mut guardian: UnixStream, notify: Option<&NotifySocket>, log: &Journal) -> bool {
    let mut lines = Lines::default();
    let mut piece = [0; 1024];
    let mut told = false;
    loop {
        let mut happened = vec![PollFd::new(guardian.as_fd(), PollFlags::POLLIN)];
        happened.extend(notify.map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut happened, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return told,
        }
        let guardian_speaks = happened[0].any().unwrap_or(false);
        drop(happened);
        if notify.is_some_and(NotifySocket::listen) {
            running.says_ready();
        }
        if !guardian_speaks {
            continue;
        }
        match guardian.read(&mut piece) {
            Ok(length @ 1..) => lines.push(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return told,
        }
        // It has the very same program, so it says nothing else.
        for report in lines.take().iter().filter_map(|line| Report::parse(line)) {
            match report {
                Report::Started(pid) => running.has_started(pid),
                Report::CannotStart { code, message } => running.cannot_start(CannotStart { code, message }),
                Report::Suspended { pid, signal } => {
                    let signal = SignalName(signal).to_string();
                    let message =
                        format!("the program (pid {pid}) was suspended by {signal}; `kill -CONT {pid}` continues it");
                    let fields = [("program", pid.into()), ("signal", signal.into())];
                    log.line(Level::Warning, "suspended", message, fields);
                }
                Report::Ended(end) => running.has_ended(end),
                // The guardian ends now, and then it is really gone.
                Report::Gone { killed } => {
                    running.all_exited(killed);
                    told = true;
                }
            }
        }
    }
}
