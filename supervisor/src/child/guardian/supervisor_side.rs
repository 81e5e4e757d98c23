//! The supervisor's end: starts guardians, asks them to end their programs, and receives their reports.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;
use rustix::io::Errno as Io;
use rustix::net::{SendFlags, getsockname, send};
use serde_json::json;

use super::family::Family;
use super::line::{Lines, Order, Report};
use super::notify::{self, NotifySocket, Sender, Word};
#[cfg(target_os = "linux")]
use super::proc;
use super::stage::{self, Stage};
use crate::child::check::CheckKind;
use crate::child::family_sockets::FamilySockets;
use crate::child::output::Output;
use crate::child::process::{Control, Running};
use crate::child::program::{CannotStart, Program};
use crate::child::ready::Ready;
use crate::child::started::Started;
use crate::child::stop_signals::StopSignals;
use crate::descriptors;
use crate::journal::Journal;
use crate::log::Level;
use crate::server::program_end::SignalName;
use crate::server::{BuildError, lacking};

/// The interval, in microseconds, at which a checked program has to say that it works; see `sd_watchdog_enabled(3)`.
const WATCHDOG_USEC: &str = "WATCHDOG_USEC";

/// A guardian that is gone must not end this process by a SIGPIPE. Apple's systems have no such flag; Rust programs ignore
/// the signal.
#[cfg(target_vendor = "apple")]
const NO_SIGPIPE: SendFlags = SendFlags::empty();
#[cfg(not(target_vendor = "apple"))]
const NO_SIGPIPE: SendFlags = SendFlags::NOSIGNAL;

/// A listening socket for programs.
#[derive(Debug)]
pub struct Socket {
    /// Its name for the program, without a colon. May be empty.
    pub name: String,
    /// The socket.
    pub socket: OwnedFd,
}

impl Socket {
    pub(in crate::child) fn try_clone(&self) -> io::Result<Socket> {
        Ok(Socket { name: self.name.clone(), socket: self.socket.try_clone()? })
    }
}

/// None: it is not a TCP socket.
fn port_of(socket: &OwnedFd) -> Option<u16> {
    SocketAddr::try_from(getsockname(socket).ok()?).ok().map(|address| address.port())
}

/// This process, as the parent of the programs that it starts.
#[derive(Debug, Clone)]
pub(in crate::child) struct Host {
    family: Family,
    /// This executable.
    pub(in crate::child) own: OsString,
}

impl Host {
    /// From now on, this process adopts the children of a guardian that was killed.
    ///
    /// # Errors
    /// What the system says.
    pub(in crate::child) fn new() -> io::Result<Host> {
        let family = Family::default();
        family.adopt()?;
        Ok(Host { family, own: stage::own()? })
    }

    /// Keeps orphans from staying zombies and guardians from staying suspended. From now on, no other code in this
    /// process may start a child.
    ///
    /// # Errors
    /// What the system says.
    pub(in crate::child) fn reap_orphans(&self) -> io::Result<()> {
        self.family.reap_orphans()
    }

    /// Starts a program with these sockets.
    pub(in crate::child) fn start(
        &self,
        build: u64,
        program: &Program,
        sockets: Vec<Socket>,
        log: Journal,
    ) -> Result<Started, BuildError> {
        let lacking = |what| move |error: io::Error| lacking(what, &error);
        let is_heard = program.ready == Ready::Notify || is_checked_by_notify(program);
        let notify = is_heard.then(NotifySocket::new).transpose();
        let notify = notify.map_err(lacking("a socket on which it says how it does"))?;
        let passed =
            sockets.iter().filter_map(|Socket { socket, .. }| Some((fstat(socket).ok()?.st_ino, port_of(socket))));
        let passed = passed.collect();
        let (control, its_control) = UnixStream::pair().map_err(lacking("a socket for its guardian"))?;
        let (output, stderr) = Output::new(log.stderr()).map_err(lacking("a pipe for what it writes"))?;
        let mut command = self.command(program, sockets)?;
        command.process_group(0).stdin(Stdio::from(OwnedFd::from(its_control))).stderr(stderr);
        for variable in crate::host::VARIABLES {
            command.env_remove(variable);
        }
        let mark = format!("{:016x}", notify::random());
        command.env(stage::MARK, &mark);
        command.env(stage::ENVIRONMENT, json!(program.environment).to_string());
        if let Some(soft) = descriptors::of_programs() {
            command.env(stage::DESCRIPTORS, soft.to_string());
        }
        if let Some(notify) = &notify {
            command.env(notify::NOTIFY_SOCKET, notify.path());
        }
        if let Some(check) = program.check.as_ref().filter(|_| is_checked_by_notify(program)) {
            command.env(WATCHDOG_USEC, check.every.as_micros().to_string());
        }
        let heard = "what it takes to hear of the program";
        let socket = control.try_clone().map_err(lacking(heard))?;
        let control = Box::new(Guardian::new(control, program.stop.clone(), log.clone()));
        let (steps, received) = mpsc::channel();
        let (spawned, guardian) = mpsc::channel::<Child>();
        let family = self.family.clone();
        // This precedes the guardian: without this thread nothing would wait for the guardian's end.
        let running = Running::start(build, program, control, log.clone(), output, steps, move |running| {
            // Or there is no guardian.
            let Ok(guardian) = guardian.recv() else { return };
            let told = follow(running, guardian.id(), socket, notify.as_ref(), &log);
            family.wait(guardian);
            if !told {
                running.guardian_lost(family.kill_leftovers(&mark, running.program()));
            }
            // Its socket is removed before its end is reported.
            drop(notify);
        });
        let running = running.map_err(lacking(heard))?;
        let guardian = self.family.spawn(&mut command).map_err(lacking("a process for its guardian"))?;
        let sockets = FamilySockets::new(guardian.id(), passed);
        // The thread waits for this.
        let _ = spawned.send(guardian);
        Ok(Started { running, steps: received, sockets })
    }

    /// The guardian's command line, with the sockets.
    fn command(&self, program: &Program, sockets: Vec<Socket>) -> Result<Command, BuildError> {
        let names: Vec<_> = sockets.iter().map(|socket| socket.name.as_str()).collect();
        let stage = Stage {
            sockets: sockets.len(),
            names: names.join(":").into(),
            directory: program.directory.clone().unwrap_or_default().into_os_string(),
            program: program.program.clone(),
            args: program.args.clone(),
        };
        let mapping = |(child_fd, socket): (i32, Socket)| FdMapping { parent_fd: socket.socket, child_fd };
        let mappings = (stage::FIRST..).zip(sockets).map(mapping).collect();
        #[cfg(target_os = "linux")]
        let first = stage::DEPUTY;
        #[cfg(not(target_os = "linux"))]
        let first = stage::GUARD;
        let mut command = stage.command(OsStr::new(&self.own), first);
        command.arg0("supervisor");
        command.fd_mappings(mappings)?;
        Ok(command)
    }
}

/// Sends orders to a guardian, without waiting. A guardian that is held, as by a debugger, reads none. The socket has room
/// for a few hundred.
#[derive(Debug)]
struct Guardian {
    guardian: UnixStream,
    signals: StopSignals,
    log: Journal,
    /// Whether the last signal was dropped, so the log says that already.
    drops: AtomicBool,
}

impl Control for Guardian {
    fn stop(&self, within: Duration) {
        // The order has whole milliseconds: round up.
        let within = if within.is_zero() { within } else { within.saturating_add(Duration::from_micros(999)) };
        self.order(&Order::Stop { signals: self.signals.clone(), within });
    }

    fn signal(&self, signal: i32) -> bool {
        let sent = self.has_room_for_signals() && self.order(&Order::Signal(signal));
        if !self.drops.swap(!sent, Ordering::Relaxed) && !sent {
            let message = format!(
                "{} and further signals are not passed on: the guardian of the program does not read; is it held by a \
                 debugger?",
                SignalName(signal)
            );
            self.log.line(Level::Warning, "signals_dropped", message, [("signal", signal.into())]);
        }
        sent
    }

    fn tell(&self, signal: i32) {
        self.order(&Order::Signal(signal));
    }
}

impl Guardian {
    fn new(guardian: UnixStream, signals: StopSignals, log: Journal) -> Guardian {
        Guardian { guardian, signals, log, drops: AtomicBool::new(false) }
    }

    /// A socket is reported as writable while a good part of its buffer is free (on Linux three quarters). That part is
    /// for other orders: however many signals come, a stop finds room.
    fn has_room_for_signals(&self) -> bool {
        let mut room = [PollFd::new(self.guardian.as_fd(), PollFlags::POLLOUT)];
        poll(&mut room, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Returns whether the guardian will get it, or is gone: then there is nothing left to do.
    fn order(&self, order: &Order) -> bool {
        let sent = send(&self.guardian, format!("{order}\n").as_bytes(), SendFlags::DONTWAIT | NO_SIGPIPE);
        matches!(sent, Ok(_) | Err(Io::PIPE | Io::CONNRESET))
    }
}

/// Whether the program has to say that it works.
fn is_checked_by_notify(program: &Program) -> bool {
    program.check.as_ref().is_some_and(|check| check.how == CheckKind::Notify)
}

/// Whether a message was sent by a process of the program. A process that cannot be seen from here must at least belong
/// to the same user.
#[cfg(target_os = "linux")]
fn is_of_program(sender: Sender, root: u32, running: &Running) -> bool {
    let Sender { pid, user } = sender;
    if pid == 0 { running.program().and_then(proc::user) == Some(user) } else { proc::descendants(root).contains(&pid) }
}

/// The system does not name the sender.
#[cfg(not(target_os = "linux"))]
fn is_of_program(_: Sender, _root: u32, _running: &Running) -> bool {
    true
}

fn warn_of_stranger(Sender { pid, user }: Sender, log: &Journal) {
    let message = format!(
        "a message on NOTIFY_SOCKET was ignored: pid {pid} is no process of the program; further ones are ignored \
         without a warning"
    );
    log.line(Level::Warning, "notify_ignored", message, [("pid", pid.into()), ("user", user.into())]);
}

/// Receives the messages of the guardian and the program until the guardian ends. Returns whether the guardian had
/// reported before that nothing is left.
fn follow(
    running: &Running,
    root: u32,
    mut guardian: UnixStream,
    notify: Option<&NotifySocket>,
    log: &Journal,
) -> bool {
    let mut lines = Lines::default();
    let mut piece = [0; 1024];
    let mut told = false;
    // Any user may write there, and must not be able to fill the log.
    let warned = Cell::new(false);
    let counts = |sender: Sender| {
        let counts = is_of_program(sender, root, running);
        if !counts && !warned.replace(true) {
            warn_of_stranger(sender, log);
        }
        counts
    };
    loop {
        let mut happened = vec![PollFd::new(guardian.as_fd(), PollFlags::POLLIN)];
        happened.extend(notify.map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN)));
        match poll(&mut happened, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return told,
        }
        let guardian_speaks = happened[0].any().unwrap_or(false);
        drop(happened);
        for word in notify.map(|notify| notify.listen(counts)).unwrap_or_default() {
            match word {
                Word::Ready => running.says_ready(),
                Word::Status(status) => running.says_status(status),
                Word::Beat(beat) => running.says_beat(beat),
                Word::Stopping => running.says_stopping(),
            }
        }
        if !guardian_speaks {
            continue;
        }
        match guardian.read(&mut piece) {
            Ok(length @ 1..) => lines.push(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => return told,
        }
        // The guardian runs the same executable, so it sends nothing else.
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
                // The guardian ends now. Only then is everything really gone.
                Report::Gone { killed } => {
                    running.all_exited(killed);
                    told = true;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread;

    use super::*;
    use crate::journal::Next;
    use crate::log::Log;

    #[test]
    fn a_guardian_that_does_not_read_holds_nothing_up_and_gets_other_orders_though_signals_are_dropped() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let log = Journal::new(Log::silent());
        let guardian = Guardian::new(ours, StopSignals::one(15), log.clone());
        let (done, over) = mpsc::channel();
        thread::spawn(move || {
            let sent = (0..10_000).filter(|_| guardian.signal(28)).count();
            guardian.tell(10);
            (1..=50).for_each(|seconds| guardian.stop(Duration::from_secs(seconds)));
            done.send(sent).unwrap();
        });
        let sent = over.recv_timeout(Duration::from_secs(60)).expect("no order waits for the guardian");
        let mut orders = String::new();
        theirs.read_to_string(&mut orders).unwrap();
        let orders: Vec<_> = orders.lines().map(|line| Order::parse(line).unwrap()).collect();
        let (signals, others) = orders.split_at(sent);
        assert!((1..10_000).contains(&sent) && signals.iter().all(|order| *order == Order::Signal(28)), "{sent}");
        let (told, stops) = others.split_first().unwrap();
        assert_eq!(*told, Order::Signal(10));
        let seconds = stops.iter().map(|order| match order {
            Order::Stop { within, .. } => within.as_secs(),
            Order::Signal(signal) => panic!("signal {signal}"),
        });
        assert!(seconds.eq(1..=50), "{stops:?}");
        let mut reader = log.read(None);
        let entries = std::iter::from_fn(|| match reader.next() {
            Next::End { .. } => None,
            Next::Entries(lines) => Some(lines),
            Next::Position { .. } | Next::Look => Some(String::new()),
        });
        assert_eq!(entries.collect::<String>().matches("signals_dropped").count(), 1);
    }
}
