//! The seam between master control and what it supervises.

pub(crate) mod handlers;
pub(crate) mod quiet;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::process::ExitStatus;
use std::thread;
use std::time::{Duration, Instant};

use worker::{Closed, ConnectionInfo, Counts, DrainReport, ServerError, deadline_after};

use crate::protocol::{self, ProgramConnection};
use crate::settings::Settings;
use crate::text::Reason;

/// How long it may take to build a server. Then the restart has failed.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(30);

/// Why the clients of a program cannot be held.
pub(crate) const CANNOT_PAUSE: &str = "the program accepts its clients itself, so they cannot be held: start it with \
                                       --relay http or --relay tcp, which can hold them";

/// The least that a program gets from the request to end to its end by force, if that request comes late.
pub(crate) const MOMENT: Duration = Duration::from_millis(500);

/// A deadline that is found to be over by more than this was not seen, because this process stood still: suspended by a
/// signal, with its container, or with the whole system.
pub(crate) const STOOD_STILL: Duration = Duration::from_secs(1);

/// The moment that a program has left when its deadline is found to be over because this process stood still: the program
/// did so, too, most likely, and has to do what it was asked to do meanwhile. It is given once.
#[derive(Debug, Default)]
pub(crate) struct LastMoment {
    is_given: bool,
}

impl LastMoment {
    /// The later deadline. None: this one counts.
    pub(crate) fn instead_of(&mut self, deadline: Instant, now: Instant) -> Option<Instant> {
        if self.is_given || now.saturating_duration_since(deadline) <= STOOD_STILL {
            return None;
        }
        self.is_given = true;
        Some(now + MOMENT)
    }
}

/// The end of a grace period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Deadline {
    at: Instant,
    /// Zero: there is none, and all ends at once.
    grace: Duration,
}

impl Deadline {
    /// The end of one that begins then.
    pub(crate) fn after(begin: Instant, grace: Duration) -> Deadline {
        Deadline { at: deadline_after(begin, grace), grace }
    }

    pub(crate) fn at(self) -> Instant {
        self.at
    }

    /// That of a grace period which is longer by this time. Where there is none, this gives none.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(crate) fn later(self, by: Duration) -> Deadline {
        if self.grace.is_zero() {
            self
        } else {
            Deadline { at: deadline_after(self.at, by), grace: self.grace.saturating_add(by) }
        }
    }

    /// The earlier one of both.
    pub(crate) fn min(self, other: Deadline) -> Deadline {
        if other.at < self.at { other } else { self }
    }

    /// How long from now. If this process was held up and comes too late, there is a moment left: it is not the fault of
    /// those that hear of it only now.
    pub(crate) fn remaining(self, now: Instant) -> Duration {
        self.at.saturating_duration_since(now).max(self.grace.min(MOMENT))
    }
}

/// Makes generations of the server.
pub(crate) trait Builder: fmt::Debug + Send {
    /// Begins to build a server. [`Event::Built`](crate::event::Event::Built) with this number is sent when it is
    /// ready.
    fn build(&mut self, build: u64);

    /// Begins to look whether the server that is built next could be built at all, before the one that it replaces is
    /// stopped for it. [`Event::Prepared`](crate::event::Event::Prepared) with this number says so. For servers that do
    /// not overlap; what is found is what the build with this number uses.
    fn prepare(&mut self, build: u64);

    /// Whether the next server can be built beside the one that it replaces. Else that has to be gone before.
    fn overlaps(&self) -> bool;

    /// How long it may take to build one.
    fn limit(&self) -> Duration {
        BUILD_LIMIT
    }

    /// Whether what is being built has to be waited for before the supervisor ends.
    fn awaits_builds(&self) -> bool {
        false
    }

    /// How long after the deadline of its drain a generation may take to end, without being overdue.
    fn after_deadline(&self) -> Duration {
        Duration::ZERO
    }

    /// What relays the clients to the programs, if something does.
    fn relay(&self) -> Option<protocol::Relay> {
        None
    }

    /// The clients that no generation has, if there can be any.
    fn held(&self) -> Option<&dyn Clients> {
        None
    }

    /// Whether clients shall come here. If not, they are asked to connect anew elsewhere, where the protocol can say so.
    fn set_in_rotation(&self, _in_rotation: bool) {}

    /// No client and no request reaches a server from now on: they wait. Returns how many requests are under way.
    /// [`Event::Quiet`](crate::event::Event::Quiet) with this number is sent when none is any more.
    ///
    /// # Errors
    /// Why that is not possible.
    fn pause(&self, _pause: u64) -> Result<usize, String> {
        Err(CANNOT_PAUSE.into())
    }

    /// Ends a pause: what has waited is served.
    fn resume(&self) {}

    /// No generation is built any more, and the listening socket is closed: by the generation that serves, if that has
    /// been told to stop and has to notify the clients in the accept queue first. A build under way is handed over
    /// as it is, if it has to be waited for, and until this deadline it has to be gone. A further call says
    /// when the deadline has moved.
    fn close(&mut self, deadline: Deadline);
}

/// Why a server could not be built.
pub type BuildError = Box<dyn Error + Send + Sync>;

/// That a server could not be built for lack of something.
pub(crate) fn lacking(what: &str, error: &io::Error) -> BuildError {
    format!("the system does not give {what}: {}", Reason(error)).into()
}

/// A generation that is ready, and gets no clients yet.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) generation: Box<dyn Generation>,
    pub(crate) settings: Settings,
    /// How long it serves beside the one that it replaces, and can be withdrawn.
    pub(crate) overlap: Duration,
    /// The program that it is, for people. None: it is one of handlers.
    pub(crate) program: Option<String>,
}

/// Hears how a connection ended.
pub(crate) type Closer = Box<dyn FnOnce(&Closed) + Send>;

/// Hears whether there is something to serve, or why not.
pub(crate) type Availability = Box<dyn FnOnce(io::Result<()>) + Send>;

/// One run of the server. It reports what happens to it by events. Dropped before its end, it is stopped at once.
pub(crate) trait Generation: fmt::Debug + Send {
    /// From now on it gets the clients, in place of the one that got them before.
    fn serve(&self);

    /// From now on it gets the clients, to prove itself, while the one before is still there. Where both accept from one
    /// socket, it gets its share anyway.
    fn serve_on_trial(&self) {}

    /// It gets the clients again: the one that had to prove itself beside it is withdrawn.
    fn serve_again(&self) {}

    /// Lets its clients go until the deadline, since another one takes its place: spread over this time, as far as it knows
    /// them.
    fn retire_by(&self, deadline: Deadline, spread: Duration);

    /// Lets its clients go until the deadline, and those that wait in the queue: spread over this time, as far as it knows
    /// them.
    fn stop_by(&self, deadline: Deadline, spread: Duration);

    /// Moves the deadline until which it lets its clients go.
    fn move_deadline(&self, deadline: Deadline);

    /// Its clients. None: they are a program's, and only that knows them.
    fn clients(&self) -> Option<&dyn Clients>;

    /// Looks at the connections of a program from outside, as it accepts them itself. To be called on a thread of its own:
    /// a system may have very many of them. None: its clients are known, or the system does not show them.
    fn look(&self) -> Option<Look> {
        None
    }

    /// What the last look of its drain has shown.
    fn seen(&self) -> Vec<ProgramConnection> {
        Vec::new()
    }

    /// Where the program listens to which its connections are relayed. None: they are not.
    fn upstream(&self) -> Option<SocketAddr> {
        None
    }

    /// What has shown that it is ready, for people. None: nothing had to.
    fn evidence(&self) -> Option<String> {
        None
    }

    /// Whether that shows that it takes connections, and not merely that it runs.
    fn is_known_to_serve(&self) -> bool {
        true
    }

    /// Why it has not proved itself although it is ready. None: it has, or does not have to.
    fn unproved(&self) -> Option<Failure> {
        None
    }

    /// The process id of the program that it is. None: it is none, or that has ended.
    fn pid(&self) -> Option<u32> {
        None
    }

    /// What it says of itself, for people. None: nothing.
    fn says(&self) -> Option<String> {
        None
    }

    /// Begins to look whether it takes connections, for which it has this long.
    /// [`Event::Checked`](crate::event::Event::Checked) has the result.
    fn check(&self, limit: Duration);

    /// Begins to look whether it has something to serve; `done` hears that. A disk may be asked, so it may take long.
    fn available(&self, done: Availability);

    /// Whether clients shall come to it: a program may be told.
    fn set_in_rotation(&self, _in_rotation: bool) {}

    /// Gives up what hangs of it, for this reason: it fails, and lets its clients go without that. A program is asked to end
    /// before it is killed.
    fn give_up(&mut self, why: &str);

    /// Passes on a signal that asks nothing of the supervisor.
    #[cfg_attr(windows, allow(dead_code))]
    fn signal(&self, signal: i32);

    /// What became of it, after it reported that it is finished.
    fn end(self: Box<Self>) -> Result<Ended, ServerError>;
}

/// The clients of a generation.
pub(crate) trait Clients {
    /// How many connections there are and were.
    fn counts(&self) -> Counts;

    /// The connections that are open now, oldest first.
    fn connections(&self) -> Vec<ConnectionInfo>;

    /// The same, for another thread.
    fn watcher(&self) -> Watcher;

    /// Begins to end one of them, whose client is notified and has this long to disconnect; `done` hears how it went.
    /// None: there is no such connection.
    ///
    /// # Errors
    /// What the system does not give.
    fn close(&self, id: u64, grace: Duration, done: Closer) -> io::Result<Option<ConnectionInfo>>;
}

/// Begins to end one of these connections by `close`, which waits for that; `done` hears how it went. None: there is no
/// such connection.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn close_on_a_thread(
    connections: Vec<ConnectionInfo>,
    id: u64,
    close: impl FnOnce() -> Option<Closed> + Send + 'static,
    done: Closer,
) -> io::Result<Option<ConnectionInfo>> {
    let Some(connection) = connections.into_iter().find(|connection| connection.id == id) else {
        return Ok(None);
    };
    let was = connection.clone();
    thread::Builder::new().name("close".into()).spawn(move || {
        // If it has disconnected meanwhile, that is what was wanted.
        let gone = || Closed { connection: was, outcome: worker::Outcome::Disconnected, stuck: false };
        done(&close().unwrap_or_else(gone));
    })?;
    Ok(Some(connection))
}

/// Looks at the connections of a program.
pub(crate) type Look = Box<dyn FnOnce() -> io::Result<Vec<ProgramConnection>> + Send>;

/// Lists the connections of a generation, from any thread.
pub(crate) type Watcher = Box<dyn Fn() -> Vec<ConnectionInfo> + Send + Sync>;

/// Why a generation ended by itself, or cannot take over.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    /// It ended with exit status 0.
    pub(crate) clean: bool,
    /// The last lines that a program wrote to stderr.
    pub(crate) wrote: Vec<String>,
}

/// What became of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    /// What became of its connections, as far as it knows them.
    pub(crate) drain: DrainReport,
    /// How its program ended. None: it has none, or it is not known.
    pub(crate) program: Option<ProgramEnd>,
    /// How many of its processes had to be killed.
    pub(crate) killed: usize,
    /// The connections that it had at the last look of its drain.
    pub(crate) held_up_by: Vec<ProgramConnection>,
}

impl Ended {
    /// Of several servers. If several had a program, the last one counts.
    pub(crate) fn add(&mut self, other: Ended) {
        let Ended { drain, program, killed, held_up_by } = other;
        self.drain.notified += drain.notified;
        self.drain.disconnected += drain.disconnected;
        self.drain.closed += drain.closed;
        self.drain.forced.extend(drain.forced);
        self.drain.stuck.extend(drain.stuck);
        self.program = program.or(self.program);
        self.killed += killed;
        self.held_up_by.extend(held_up_by);
    }
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramEnd {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal of this number.
    Signaled(i32),
    /// It was killed because its guardian was, the process between it and the supervisor.
    Unguarded,
    /// On Windows: it was killed by its supervisor.
    #[cfg(windows)]
    Killed,
}

/// The exit code of a program that Ctrl-C or Ctrl-Break has ended: `STATUS_CONTROL_C_EXIT`.
#[cfg(windows)]
const CONSOLE_EVENT: i32 = 0xc000_013a_u32.cast_signed();

impl From<ExitStatus> for ProgramEnd {
    fn from(status: ExitStatus) -> ProgramEnd {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return ProgramEnd::Signaled(signal);
        }
        // One that has ended has a code if no signal has ended it.
        ProgramEnd::Exited(status.code().unwrap_or(1))
    }
}

impl ProgramEnd {
    /// Whether that is no failure: with exit code 0, or one of these.
    pub fn is_success(self, codes: &[i32]) -> bool {
        self == ProgramEnd::Exited(0) || (self != ProgramEnd::Unguarded && codes.contains(&self.code()))
    }

    /// The exit code by which a shell tells of that.
    pub fn code(self) -> i32 {
        match self {
            ProgramEnd::Exited(code) => code,
            ProgramEnd::Signaled(signal) => 128_i32.saturating_add(signal),
            ProgramEnd::Unguarded => 128 + 9, // SIGKILL
            #[cfg(windows)]
            ProgramEnd::Killed => 1,
        }
    }
}

impl fmt::Display for ProgramEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(windows)]
            ProgramEnd::Exited(CONSOLE_EVENT) => write!(formatter, "it was ended by a console event"),
            // As these codes are found in tables: a crash, for one.
            #[cfg(windows)]
            ProgramEnd::Exited(code @ ..0) => write!(formatter, "it exited with code {code:#X}"),
            ProgramEnd::Exited(code) => write!(formatter, "it exited with code {code}"),
            ProgramEnd::Signaled(signal) => write!(formatter, "it was killed by {}", SignalName(*signal)),
            ProgramEnd::Unguarded => write!(formatter, "it was killed along with its guardian"),
            #[cfg(windows)]
            ProgramEnd::Killed => write!(formatter, "it was killed"),
        }
    }
}

/// A signal for people: its name, or its number if it has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignalName(pub(crate) i32);

impl SignalName {
    /// None: there is no such signal here.
    pub(crate) fn known(self) -> Option<String> {
        #[cfg(unix)]
        if let Ok(signal) = nix::sys::signal::Signal::try_from(self.0) {
            return Some(signal.as_str().to_owned());
        }
        #[cfg(target_os = "linux")]
        if (nix::libc::SIGRTMIN()..=nix::libc::SIGRTMAX()).contains(&self.0) {
            return Some(format!("SIGRTMIN+{}", self.0 - nix::libc::SIGRTMIN()));
        }
        None
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(name) => formatter.write_str(&name),
            None => write!(formatter, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hears_of_a_deadline_too_late_has_a_moment_unless_there_was_no_grace_period() {
        let begin = Instant::now();
        let (second, late) = (Duration::from_secs(1), begin + Duration::from_secs(100));
        let long = Deadline::after(begin, 5 * second);
        assert_eq!([long.remaining(begin + second), long.remaining(late)], [4 * second, MOMENT]);
        let short = Deadline::after(begin, MOMENT / 10);
        assert_eq!([short.remaining(begin), short.remaining(late)], [MOMENT / 10; 2]);
        let none = Deadline::after(begin, Duration::ZERO);
        assert_eq!([none.remaining(begin), none.later(second).remaining(begin)], [Duration::ZERO; 2]);
    }

    #[test]
    fn a_deadline_that_was_missed_in_a_standstill_is_put_off_once() {
        let (now, millisecond) = (Instant::now(), Duration::from_millis(1));
        let mut last = LastMoment::default();
        assert_eq!([now + STOOD_STILL, now, now - STOOD_STILL].map(|at| last.instead_of(at, now)), [None; 3]);
        assert_eq!(last.instead_of(now - STOOD_STILL - millisecond, now), Some(now + MOMENT));
        assert_eq!(last.instead_of(now - STOOD_STILL - millisecond, now), None);
    }

    #[test]
    fn the_end_of_a_program_is_told_in_words_and_as_a_shell_does() {
        assert_eq!(
            (ProgramEnd::Exited(3).to_string().as_str(), ProgramEnd::Exited(3).code()),
            ("it exited with code 3", 3)
        );
        assert_eq!(ProgramEnd::Signaled(99_999).to_string(), "it was killed by signal 99999");
        assert_eq!(ProgramEnd::Signaled(9).code(), 137);
        assert_eq!(ProgramEnd::Unguarded.code(), 137);
        #[cfg(unix)]
        assert_eq!(ProgramEnd::Signaled(11).to_string(), "it was killed by SIGSEGV");
        #[cfg(windows)]
        assert_eq!(ProgramEnd::Exited(-1_073_741_819).to_string(), "it exited with code 0xC0000005");
    }
}
