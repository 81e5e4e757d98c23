//! The seam between master control and what it supervises.

pub(crate) mod deadline;
pub(crate) mod handlers;
pub(crate) mod program_end;
pub(crate) mod quiet;

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use worker::{Closed, ConnectionInfo, Counts, DrainReport, ServerError};

use crate::protocol::{self, ProgramConnection};
use crate::settings::Settings;
use crate::text::Reason;

use deadline::Deadline;
use program_end::ProgramEnd;

/// How long it may take to build a server. Then the restart has failed.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(30);

/// Why the clients of a program cannot be held.
pub(crate) const CANNOT_PAUSE: &str = "the program accepts its clients itself, so they cannot be held: start it with \
                                       --relay http or --relay tcp, which can hold them";

/// Makes generations of the server.
pub(crate) trait Builder: fmt::Debug + Send {
    /// Begins to build a server. [`Event::Built`](crate::event::Event::Built) with this number is sent when it is
    /// ready.
    fn build(&mut self, build: u64);

    /// Begins to look whether the server that is built next could be built at all, before the one that it replaces is
    /// stopped for it. [`Event::Prepared`](crate::event::Event::Prepared) with this number says so. For servers that do
    /// not overlap; what is found is what the build with this number uses.
    fn prepare(&mut self, build: u64);

    /// Whether the next server can be built beside the one that it replaces. Otherwise that one has to be gone first.
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

    /// Whether clients shall come here. If not, they are asked to connect anew elsewhere, where the protocol can say
    /// so.
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
    /// been told to stop and has to notify the clients in the accept queue first. A build under way is handed over as
    /// it is, if it has to be waited for, and has to be gone by this deadline. A further call moves the deadline.
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

    /// From now on it gets the clients, to prove itself, while the one before is still there. Where both accept from
    /// one socket, it gets its share anyway.
    fn serve_on_trial(&self) {}

    /// It gets the clients again: the one that had to prove itself beside it is withdrawn.
    fn serve_again(&self) {}

    /// Lets its clients go until the deadline, since another one takes its place: spread over this time, as far as it
    /// knows them.
    fn retire_by(&self, deadline: Deadline, spread: Duration);

    /// Lets its clients go until the deadline, and those that wait in the queue: spread over this time, as far as it
    /// knows them.
    fn stop_by(&self, deadline: Deadline, spread: Duration);

    /// Moves the deadline until which it lets its clients go.
    fn move_deadline(&self, deadline: Deadline);

    /// Its clients. None: they are a program's, and only that knows them.
    fn clients(&self) -> Option<&dyn Clients>;

    /// Looks at the connections of a program from outside, as it accepts them itself. To be called on a thread of its
    /// own: a system may have very many of them. None: its clients are known, or the system does not show them.
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

    /// What has shown that it is ready, for people. None: nothing had to, or it ended, or has to end, before anything
    /// did.
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

    /// Gives up what hangs of it, for this reason: it fails, and lets its clients go without that. A program is asked
    /// to end before it is killed.
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
