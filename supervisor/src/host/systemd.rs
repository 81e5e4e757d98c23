//! Reports to a service manager such as systemd.
//!
//! The manager sets environment variables to request reports, as specified by sd_notify(3) and sd_watchdog_enabled(3).
//! Each report is one datagram. A report that cannot be sent delays nothing: it is sent again at the next event or, if
//! the manager had no room for it, after a moment.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use super::pidfd;
use super::store::{self, Errand, Store};
use super::view::{MARGIN, Phase, View};
use crate::listen::Bound;

/// The environment variables that the service manager sets for this process alone: a program that this process starts
/// must not get them ([`std::process::Command::env_remove`]).
pub const VARIABLES: [&str; 8] = [
    store::VARIABLE,
    "LISTEN_FDNAMES",
    "LISTEN_FDS",
    "LISTEN_PID",
    pidfd::VARIABLE,
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// The shortest time between two keep-alive messages. A manager that asks for more of them is misbehaving.
const SHORTEST_BEAT: Duration = Duration::from_millis(1);

/// How many more times a keep-alive message that cannot be sent is tried before the manager considers this process
/// hung.
const TRIES: u32 = 5;

/// The longest status, in characters. Systemd ignores messages of more than 4096 bytes completely.
const LONGEST_STATUS: usize = 400;

/// Sends a datagram, with a descriptor if there is one, without waiting.
pub(crate) type Line = Box<dyn FnMut(&str, Option<&Bound>) -> io::Result<()> + Send>;

/// The interval at which the manager expects keep-alive messages, and when the next one is due.
#[derive(Debug)]
struct KeepAlive {
    every: Duration,
    next: Instant,
}

/// The connection to a service manager that wants reports, and what it has been told.
pub(crate) struct Notify {
    line: Line,
    told: Option<View>,
    keep_alive: Option<KeepAlive>,
    /// None: the manager keeps no listeners for the next supervisor.
    store: Option<Store>,
    /// Requests that have not been sent yet.
    errands: VecDeque<Errand>,
}

impl Notify {
    /// The manager that the environment names, if it names one.
    pub(super) fn from_environment() -> Option<io::Result<Notify>> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty())?;
        let limit = watchdog_limit(|name| std::env::var(name).ok());
        let store = Store::from_environment();
        Some(system::line(&socket).map(|line| Notify { store, ..Notify::new(line, limit, Instant::now()) }))
    }

    /// A manager that is reached through this line, and that ends the process when it has not heard from it within the
    /// limit.
    pub(crate) fn new(line: Line, limit: Option<Duration>, now: Instant) -> Notify {
        let keep_alive = limit.map(|limit| {
            let every = (limit / 2).max(SHORTEST_BEAT);
            KeepAlive { every, next: now + every }
        });
        Notify { line, told: None, keep_alive, store: None, errands: VecDeque::new() }
    }

    pub(super) fn store(&mut self) -> Option<&mut Store> {
        self.store.as_mut()
    }

    /// Sends this request to the manager along with the next report.
    pub(super) fn ask_later(&mut self, errand: Errand) {
        self.errands.push_back(errand);
    }

    /// Sends the requests that have not been sent yet. A request that cannot be sent is sent again with the next
    /// report.
    pub(super) fn ask(&mut self) -> io::Result<()> {
        while let Some(errand) = self.errands.front() {
            (self.line)(&errand.message(), errand.listener())?;
            errand.note_sent();
            self.errands.pop_front();
        }
        Ok(())
    }

    /// When the next keep-alive message is due.
    pub(super) fn next_beat(&self) -> Option<Instant> {
        self.keep_alive.as_ref().map(|keep_alive| keep_alive.next)
    }

    /// Sends a keep-alive message if one is due. One that cannot be sent is tried again before the manager misses it.
    pub(super) fn beat(&mut self, now: Instant) -> io::Result<()> {
        let Some(keep_alive) = self.keep_alive.as_mut().filter(|keep_alive| keep_alive.next <= now) else {
            return Ok(());
        };
        let sent = (self.line)("WATCHDOG=1", None);
        keep_alive.next = now + if sent.is_ok() { keep_alive.every } else { keep_alive.every / TRIES };
        sent
    }

    /// Reports the changes. A report that cannot be sent is sent again with the next change.
    pub(super) fn tell(&mut self, mut view: View, now: Instant) -> io::Result<()> {
        let line = |letter: char| if letter.is_control() { ' ' } else { letter };
        view.status = view.status.chars().take(LONGEST_STATUS).map(line).collect();
        let told = self.told.as_ref();
        let phase = told.map(|told| told.phase);
        let mut news = Vec::new();
        if phase != Some(view.phase) {
            match view.phase {
                Phase::Starting => {}
                Phase::Ready => news.push("READY=1".to_owned()),
                Phase::Restarting { .. } => {
                    news.push(format!("RELOADING=1\nMONOTONIC_USEC={}", system::monotonic_usec()));
                }
                Phase::Stopping => news.push("STOPPING=1".to_owned()),
            }
        }
        if told.is_none_or(|told| told.status != view.status) {
            news.push(format!("STATUS={}", view.status));
        }
        if let Some(deadline) = view.deadline
            && told.is_none_or(|told| told.deadline != view.deadline)
        {
            let left = deadline.saturating_duration_since(now).saturating_add(MARGIN);
            news.push(format!("EXTEND_TIMEOUT_USEC={}", left.as_micros()));
        }
        // Any other phase ends before a restart begins.
        let is_next =
            matches!((phase, view.phase), (Some(Phase::Starting | Phase::Restarting { .. }), Phase::Restarting { .. }));
        let over = if is_next && phase != Some(view.phase) { (self.line)("READY=1", None) } else { Ok(()) };
        if !news.is_empty() {
            (self.line)(&news.join("\n"), None)?;
        }
        self.told = Some(view);
        over
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Notify").field("told", &self.told).field("keep_alive", &self.keep_alive).finish()
    }
}

/// How long this process may be silent, according to the environment.
fn watchdog_limit(variable: impl Fn(&str) -> Option<String>) -> Option<Duration> {
    let is_meant = variable("WATCHDOG_PID").is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let limit = variable("WATCHDOG_USEC").and_then(|limit| limit.parse().ok()).map(Duration::from_micros);
    limit.filter(|limit| is_meant && !limit.is_zero())
}

#[cfg(unix)]
mod system {
    use super::{Line, io};
    use nix::time::{ClockId, clock_gettime};
    use rustix::io::Errno;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};
    use std::ffi::OsStr;
    use std::io::IoSlice;
    use std::mem::MaybeUninit;
    use std::os::fd::AsFd;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::UnixDatagram;

    use crate::text::Reason;

    pub(super) fn line(socket: &OsStr) -> io::Result<Line> {
        let address = address(socket).map_err(|error| at(socket, &error))?;
        let socket = socket.to_owned();
        // If there is no descriptor for it now, it is made with a later message.
        let mut line = unbound().ok();
        Ok(Box::new(move |message, listener| {
            let line = match &mut line {
                Some(line) => line,
                none => none.insert(unbound().map_err(|error| lacking(&socket, error))?),
            };
            let descriptors = listener.map(|listener| [listener.socket.as_fd()]);
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut passed = SendAncillaryBuffer::new(&mut space);
            if let Some(descriptors) = &descriptors {
                passed.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            let text = [IoSlice::new(message.as_bytes())];
            let sent = sendmsg_addr(line, &address, &text, &mut passed, SendFlags::empty());
            sent.map(drop).map_err(|error| at(&socket, &error.into()))
        }))
    }

    /// Why there is no socket. What the system lacks now it may have soon, so the caller tries again then, as if the
    /// manager's queue were full.
    fn lacking(socket: &OsStr, error: io::Error) -> io::Error {
        let passes = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM].map(Some);
        let kind =
            if passes.contains(&Errno::from_io_error(&error)) { io::ErrorKind::WouldBlock } else { error.kind() };
        io::Error::new(kind, at(socket, &error))
    }

    /// Not connected: the manager may be restarted, with a new socket at the same path.
    fn unbound() -> io::Result<UnixDatagram> {
        let line = UnixDatagram::unbound()?;
        line.set_nonblocking(true)?;
        Ok(line)
    }

    /// This error, with the socket that it is about.
    fn at(socket: &OsStr, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("NOTIFY_SOCKET {}: {}", socket.display(), Reason(error)))
    }

    fn address(socket: &OsStr) -> io::Result<SocketAddrUnix> {
        match socket.as_bytes() {
            #[cfg(target_os = "linux")]
            [b'@', name @ ..] => Ok(SocketAddrUnix::new_abstract_name(name)?),
            [b'/', ..] => Ok(SocketAddrUnix::new(socket)?),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it is neither an absolute path nor an abstract name")),
        }
    }

    /// The time of the clock that the manager uses for comparison.
    pub(super) fn monotonic_usec() -> i128 {
        // The clock always exists; without it this would be a time in the distant past.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or((0, 0), |now| (now.tv_sec(), now.tv_nsec()));
        i128::from(now.0) * 1_000_000 + i128::from(now.1) / 1000
    }
}

/// On Windows no service manager uses this protocol: see `windows_service.rs`.
#[cfg(windows)]
mod system {
    use super::{Line, io};

    pub(super) fn line(_socket: &std::ffi::OsStr) -> io::Result<Line> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn monotonic_usec() -> i128 {
        0
    }
}
