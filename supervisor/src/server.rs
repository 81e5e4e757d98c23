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

/// How long building a server may take. After that, the restart has failed.
pub(crate) const BUILD_LIMIT: Duration = Duration::from_secs(30);

/// Why the clients of a program cannot be held.
pub(crate) const CANNOT_PAUSE: &str = "the program accepts its clients itself, so they cannot be held: start it with \
                                       --relay http or --relay tcp, which can hold them";

/// Makes generations of the server.
pub(crate) trait Builder: fmt::Debug + Send {
    /// Begins to build a server. [`Event::Built`](crate::event::Event::Built) with this number is sent when it is
    /// ready.
    fn build(&mut self, build: u64);

    /// Begins to check whether the next server can be built at all, before the one that it replaces is stopped for it.
    /// [`Event::Prepared`](crate::event::Event::Prepared) with this number has the result. For servers that do not
    /// overlap. The build with this number uses what was found.
    fn prepare(&mut self, build: u64);

    /// Whether the next server can be built beside the one that it replaces. Otherwise that one has to be gone first.
    fn overlaps(&self) -> bool;

    /// How long building one may take.
    fn limit(&self) -> Duration {
        BUILD_LIMIT
    }

    /// Whether a build under way has begun something that must end before the supervisor does.
    fn awaits_builds(&self) -> bool {
        false
    }

    /// Notes that the build with this number is over: its result has arrived.
    fn note_built(&mut self, _build: u64) {}

    /// How long after the deadline of its drain a generation may take to end before it is overdue.
    fn after_deadline(&self) -> Duration {
        Duration::ZERO
    }

    /// The relay between the clients and the programs, if there is one.
    fn relay(&self) -> Option<protocol::Relay> {
        None
    }

    /// The clients that no generation has, if there can be any.
    fn held(&self) -> Option<&dyn Clients> {
        None
    }

    /// Whether clients should come here. If not, they are asked to reconnect elsewhere, where the protocol can say so.
    fn set_in_rotation(&self, _in_rotation: bool) {}

    /// Pauses: new clients and requests wait instead of reaching a server. Returns how many requests are under way.
    /// [`Event::Quiet`](crate::event::Event::Quiet) with this number is sent when none is any more.
    ///
    /// # Errors
    /// Why that is not possible.
    fn pause(&self, _pause: u64) -> Result<usize, String> {
        Err(CANNOT_PAUSE.into())
    }

    /// Ends a pause: what has waited is served.
    fn resume(&self) {}

    /// Builds no more generations, and closes the listening socket. A serving generation that was told to stop, and
    /// first has to notify the clients in the accept queue, closes it itself. A build under way that must be waited for
    /// is handed over as it is, and must be gone by this deadline. A further call moves that.
    fn close(&mut self, deadline: Deadline);

    /// Kills what is left besides the generations, all of which have ended, and waits for it. The last call.
    fn end(&mut self) {}
}

/// Why a server could not be built.
pub type BuildError = Box<dyn Error + Send + Sync>;

/// The error for a server that could not be built for lack of something.
pub(crate) fn lacking(what: &str, error: &io::Error) -> BuildError {
    format!("the system does not give {what}: {}", Reason(error)).into()
}

/// A generation that is ready, but gets no clients yet.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) generation: Box<dyn Generation>,
    pub(crate) settings: Settings,
    /// How long it serves beside the one that it replaces, and can still be withdrawn.
    pub(crate) overlap: Duration,
    /// The program that it runs, for people. None: it consists of handlers.
    pub(crate) program: Option<String>,
}

/// A callback for how a connection ended.
pub(crate) type Closer = Box<dyn FnOnce(&Closed) + Send>;

/// A callback for whether there is something to serve, or why not.
pub(crate) type Availability = Box<dyn FnOnce(Result<(), String>) + Send>;

/// One run of the server. It reports what happens to it as events. If dropped before its end, it is stopped at once.
pub(crate) trait Generation: fmt::Debug + Send {
    /// Gets the clients from now on, in place of the generation before.
    fn serve(&self);

    /// Gets the clients from now on, to prove itself, while the generation before is still there. Where both accept
    /// from one socket, it gets its share anyway.
    fn serve_on_trial(&self) {}

    /// Gets the clients again, because the generation that had to prove itself beside it is withdrawn.
    fn serve_again(&self) {}

    /// Lets its clients go until the deadline, because another generation replaces it: spread over this time, as far as
    /// it knows them.
    fn retire_by(&self, deadline: Deadline, spread: Duration);

    /// Lets its clients go until the deadline, including those in the queue: spread over this time, as far as it knows
    /// them.
    fn stop_by(&self, deadline: Deadline, spread: Duration);

    /// Moves the deadline of its drain.
    fn move_deadline(&self, deadline: Deadline);

    /// Its clients. None: they are a program's, and only that program knows them.
    fn clients(&self) -> Option<&dyn Clients>;

    /// Looks at a program's connections from outside, because the program accepts them itself. Run the result on a
    /// thread of its own: a system may have very many. None: its clients are known, or the system does not show them.
    fn look(&self) -> Option<Look> {
        None
    }

    /// The connections that the last look of its drain has shown.
    fn seen(&self) -> Vec<ProgramConnection> {
        Vec::new()
    }

    /// The address of the program to which its connections are relayed. None: they are not relayed.
    fn upstream(&self) -> Option<SocketAddr> {
        None
    }

    /// The evidence that it is ready, for people. None: none was needed, or it ended, or has to end, before there was
    /// any.
    fn evidence(&self) -> Option<String> {
        None
    }

    /// Whether that evidence shows that it accepts connections, and not merely that it runs.
    fn is_known_to_serve(&self) -> bool {
        true
    }

    /// Why it has not proved itself although it is ready. None: it has, or does not have to.
    fn unproved(&self) -> Option<Failure> {
        None
    }

    /// The process id of its program. None: it has no program, or that has ended.
    fn pid(&self) -> Option<u32> {
        None
    }

    /// What it says about itself, for people. None: nothing.
    fn says(&self) -> Option<String> {
        None
    }

    /// Begins to check whether it accepts connections, within this limit.
    /// [`Event::Checked`](crate::event::Event::Checked) has the result.
    fn check(&self, limit: Duration);

    /// Begins to check whether it has something to serve, and tells `done`. This may ask a disk, so it may take long.
    /// Those who ask at the same time may get the same result.
    fn available(&self, done: Availability);

    /// Whether clients should come to it: a program may be told.
    fn set_in_rotation(&self, _in_rotation: bool) {}

    /// Gives up whatever hangs in it, for this reason: it fails, and lets its clients go without waiting for that. A
    /// program is asked to end before it is killed.
    fn give_up(&mut self, why: &str);

    /// Passes on a signal that asks nothing of the supervisor, without waiting. Returns whether the server gets it.
    #[cfg_attr(windows, allow(dead_code))]
    fn signal(&self, signal: i32) -> bool;

    /// What became of it. For use after it has reported that it is finished.
    fn end(self: Box<Self>) -> Result<Ended, ServerError>;
}

/// The clients of a generation.
pub(crate) trait Clients {
    /// How many connections there are and were.
    fn counts(&self) -> Counts;

    /// The connections that are open now, oldest first.
    fn connections(&self) -> Vec<ConnectionInfo>;

    /// The same list, for another thread.
    fn watcher(&self) -> Watcher;

    /// Begins to end one of them: its client is notified, and has this long to disconnect. `done` gets the outcome.
    /// None: there is no such connection.
    ///
    /// # Errors
    /// What the system does not give.
    fn close(&self, id: u64, grace: Duration, done: Closer) -> io::Result<Option<ConnectionInfo>>;
}

/// Begins to end one of these connections by `close`, which waits for its end. `done` gets the outcome. None: there
/// is no such connection.
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

/// Lists the connections of a generation on any thread.
pub(crate) type Watcher = Box<dyn Fn() -> Vec<ConnectionInfo> + Send + Sync>;

/// Why a generation ended by itself, or cannot take over.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) reason: String,
    /// It ended by itself, with an exit code that is a success.
    pub(crate) clean: bool,
    /// How its program ended. None: it has none, or the program did not end by itself.
    pub(crate) program: Option<ProgramEnd>,
    /// The last lines that a program wrote to stderr.
    pub(crate) wrote: Vec<String>,
}

impl Failure {
    /// Any failure that is not a program's own end.
    pub(crate) fn because(reason: String, wrote: Vec<String>) -> Failure {
        Failure { reason, clean: false, program: None, wrote }
    }
}

/// What became of a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ended {
    /// What became of its connections, as far as it knows them.
    pub(crate) drain: DrainReport,
    /// How its program ended. None: it has none, or that is unknown.
    pub(crate) program: Option<ProgramEnd>,
    /// How many of its processes had to be killed.
    pub(crate) killed: usize,
    /// The connections that it had at the last look of its drain.
    pub(crate) held_up_by: Vec<ProgramConnection>,
}

impl Ended {
    /// Adds what became of another server. If several had a program, the last one counts.
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
