//! A server that is a child process: any program.
//!
//! What is the same everywhere is here and in `running.rs`: how a program is built, what it takes to be ready, and what
//! master control hears of it. `unix.rs` and `windows.rs` have the rest: how it is started, asked to end and killed,
//! and how one knows that nothing of it is left.

#[cfg(unix)]
#[doc(hidden)]
pub mod driven;
#[cfg(unix)]
mod family;
#[cfg(unix)]
mod guardian;
#[cfg(unix)]
mod launcher;
#[cfg(unix)]
mod line;
#[cfg(unix)]
mod notify;
mod output;
#[cfg(target_os = "linux")]
mod proc;
#[cfg(unix)]
mod processes;
mod ready;
mod running;
#[cfg(unix)]
mod stage;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::error::Error;
use std::ffi::OsString;
use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use worker::{deadline_after, panic_message};

use crate::event::{Event, EventSender};
use crate::journal::Journal;
use crate::server::BuildError;
use crate::server::{BUILD_LIMIT, Builder, Built, ProgramEnd, Settings};
use crate::text::{Reason, Seconds, milliseconds};

pub use ready::Ready;
#[cfg(unix)]
pub use unix::{Socket, hidden_stage};
#[cfg(windows)]
pub use windows::Socket;

use output::Output;
use running::{Child, Running, Step};
#[cfg(unix)]
use unix::{Host, MARK};
#[cfg(windows)]
use windows::Host;

/// The shell's exit code for a program that is not found.
const NOT_FOUND: u8 = 127;

/// The shell's exit code for one that cannot be run.
const NOT_RUN: u8 = 126;

/// How often to look whether an address answers. Nothing announces that.
const KNOCK: Duration = Duration::from_millis(100);

/// How long to wait for the end of a program that was not ready and has been killed.
const KILLED: Duration = Duration::from_secs(5);

/// Whether a process with this command line is a guardian.
#[cfg(target_os = "linux")]
pub(crate) fn is_guardian(line: &[String]) -> bool {
    line.get(1).is_some_and(|stage| stage == stage::GUARD)
}

/// What to run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path, or a name to be looked for.
    pub program: OsString,
    /// What it is told.
    pub args: Vec<OsString>,
    /// What asks it to end.
    #[cfg(unix)]
    pub stop_signal: i32,
    /// What shows that it is ready.
    pub ready: Ready,
    /// How long that may take.
    pub ready_within: Duration,
}

/// A program that cannot be started at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotStart {
    /// The shell's exit code for this: 127 if it is not found, 126 if it cannot be run.
    pub code: u8,
    /// Which program, and why.
    pub message: String,
}

impl fmt::Display for CannotStart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for CannotStart {}

/// A program that ended before it was ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedEarly {
    /// How it ended.
    pub end: ProgramEnd,
    /// The last lines that it wrote to stderr.
    pub wrote: Vec<String>,
}

impl EndedEarly {
    fn of(end: ProgramEnd) -> BuildError {
        Box::new(EndedEarly { end, wrote: Vec::new() })
    }
}

impl fmt::Display for EndedEarly {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} before it was ready{}", self.end, LastWords(&self.wrote))
    }
}

impl Error for EndedEarly {}

/// What a program wrote before it was given up, after the reason for that.
struct LastWords<'a>(&'a [String]);

impl fmt::Display for LastWords<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => Ok(()),
            lines => write!(formatter, "; the last that it wrote: {}", lines.join(" | ")),
        }
    }
}

/// Says what the program of a generation is, and may change its settings.
pub(crate) type ProgramFactory = Box<dyn FnMut(&mut Settings) -> Result<Program, BuildError> + Send>;

/// Starts programs, each on a thread named `builder`, since that waits until the program is ready.
#[derive(Clone)]
pub(crate) struct Children {
    factory: Arc<Mutex<ProgramFactory>>,
    settings: Settings,
    log: Journal,
    sockets: Arc<Mutex<Sockets>>,
    overlaps: bool,
    host: Host,
    events: EventSender,
    /// How long the last program that was to be started may take to be ready, in milliseconds.
    ready_within: Arc<AtomicU64>,
    /// How many builds are under way.
    under_way: Arc<AtomicUsize>,
}

#[derive(Debug)]
struct Sockets {
    /// None: it has been closed.
    sockets: Option<Vec<Socket>>,
    /// All that are not gone.
    programs: Vec<Weak<Running>>,
}

impl Sockets {
    fn alive(&self) -> impl Iterator<Item = Arc<Running>> {
        self.programs.iter().filter_map(Weak::upgrade)
    }
}

impl Children {
    /// Programs that get these sockets, on which the next one can start while the last one runs. Without any, they do
    /// not overlap.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(
        factory: ProgramFactory,
        sockets: Vec<Socket>,
        settings: Settings,
        log: Journal,
        events: EventSender,
    ) -> io::Result<Children> {
        Ok(Children {
            factory: Arc::new(Mutex::new(factory)),
            settings,
            log,
            overlaps: !sockets.is_empty(),
            sockets: Arc::new(Mutex::new(Sockets { sockets: Some(sockets), programs: Vec::new() })),
            host: Host::new()?,
            events,
            ready_within: Arc::default(),
            under_way: Arc::default(),
        })
    }

    /// Starts a program, and waits until it is ready. It says nothing to master control until it is told to.
    ///
    /// # Errors
    /// What the factory says, why the program was not ready, or [`CannotStart`].
    fn make(&self, build: u64) -> Result<(Built, Arc<Running>), BuildError> {
        let mut settings = self.settings.clone();
        let made = panic::catch_unwind(AssertUnwindSafe(|| lock(&self.factory)(&mut settings)));
        let program =
            made.unwrap_or_else(|panic| Err(format!("building it panicked: {}", panic_message(&*panic)).into()))?;
        self.ready_within.store(milliseconds(program.ready_within), Ordering::Relaxed);
        let somebody_serves = self.sockets().alive().any(|running| running.serves());
        let allowed = |end| program.may_have_ended(end, build, somebody_serves);
        let started = self.start(build, &program, self.log.with(settings.log))?;
        let ready = started.wait_until_ready(&program).and_then(|()| started.running.is_ready(allowed));
        match ready {
            Ok(()) => {
                let server = Child::new(started.running.clone(), self.events.clone());
                Ok((Built { server: Box::new(server), settings }, started.running))
            }
            Err(error) => Err(started.give_up(error)),
        }
    }

    /// One that has been started. If there shall be none any more, it is killed.
    fn started(&self, running: Arc<Running>, output: Option<Output>, steps: Receiver<Step>) -> Started {
        let mut sockets = self.sockets();
        if sockets.sockets.is_none() {
            running.kill();
        }
        sockets.programs.retain(|running| running.strong_count() > 0);
        sockets.programs.push(Arc::downgrade(&running));
        Started { running, output, steps }
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        lock(&self.sockets)
    }
}

impl Builder for Children {
    fn build(&mut self, build: u64) {
        let children = self.clone();
        self.under_way.fetch_add(1, Ordering::SeqCst);
        let thread = thread::Builder::new().name("builder".into()).spawn(move || {
            let events = &children.events;
            // Without master control there is nobody to tell, and what was built is dropped.
            let made = children.make(build);
            // Before it is told: whoever hears of it may look.
            children.under_way.fetch_sub(1, Ordering::SeqCst);
            let _ = match made {
                Ok((built, running)) => {
                    let sent = events.send(Event::Built { build, built: Ok(built) });
                    running.start_reporting(events);
                    sent
                }
                Err(error) => events.send(Event::Built { build, built: Err(error) }),
            };
        });
        if let Err(error) = thread {
            self.under_way.fetch_sub(1, Ordering::SeqCst);
            let built = Err(lacking("a thread to build it", &error));
            let _ = self.events.send(Event::Built { build, built });
        }
    }

    /// As long as its settings give it, and some more to start and end it.
    fn limit(&self) -> Duration {
        Duration::from_millis(self.ready_within.load(Ordering::Relaxed)).saturating_add(BUILD_LIMIT)
    }

    fn is_building(&self) -> bool {
        self.under_way.load(Ordering::SeqCst) > 0
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    fn close(&mut self) {
        let mut sockets = self.sockets();
        sockets.sockets.take();
        // Nobody needs what is not ready yet.
        for running in sockets.alive() {
            running.kill_unless_ready();
        }
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Children").field("stock", &self.sockets).finish_non_exhaustive()
    }
}

/// A program that may not be ready yet.
#[derive(Debug)]
struct Started {
    running: Arc<Running>,
    output: Option<Output>,
    steps: Receiver<Step>,
}

impl Program {
    /// Whether it does not matter that it has ended so before it was looked at. Nobody shall make way for it then; but
    /// where nobody serves, it is no different from ending a moment later: the end of the first one is passed on, and
    /// one that has ended well has done its work.
    fn may_have_ended(&self, end: ProgramEnd, build: u64, somebody_serves: bool) -> bool {
        let is_done = !somebody_serves && end == ProgramEnd::Exited(0);
        self.ready == Ready::AtOnce && (build == 1 || is_done)
    }
}

impl fmt::Display for Program {
    /// As it might be typed.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.program.display())?;
        self.args.iter().try_for_each(|argument| write!(formatter, " {}", argument.display()))
    }
}

impl Started {
    fn wait_until_ready(&self, program: &Program) -> Result<(), BuildError> {
        let limit = deadline_after(Instant::now(), program.ready_within);
        // When it is ready without a word.
        let mut enough: Option<Instant> = None;
        let mut knocks = false;
        loop {
            let until = enough.unwrap_or(limit);
            let until = if knocks { until.min(Instant::now() + KNOCK) } else { until };
            match self.steps.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Step::Started) => match &program.ready {
                    Ready::AtOnce => return Ok(()),
                    Ready::After(time) => enough = Some(deadline_after(Instant::now(), *time)),
                    Ready::Connect(_) => knocks = true,
                    #[cfg(unix)]
                    Ready::Notify => {}
                },
                Ok(Step::Ready) => return Ok(()),
                Ok(Step::CannotStart(why)) => return Err(Box::new(why)),
                Ok(Step::Ended(end)) => return Err(EndedEarly::of(end)),
                // It has said before how it ended.
                Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected) => return Err("it ended".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            match &program.ready {
                Ready::Connect(address) if knocks && ready::answers(address) => return Ok(()),
                _ if enough.is_some_and(|enough| enough <= Instant::now()) => return Ok(()),
                _ if enough.is_none() && limit <= Instant::now() => {
                    return Err(format!("it was not ready within {}", Seconds(program.ready_within)).into());
                }
                _ => {}
            }
        }
    }

    /// Ends it, and adds to the reason what it wrote.
    fn give_up(self, why: BuildError) -> BuildError {
        self.running.kill();
        let until = Instant::now() + KILLED;
        while !matches!(
            self.steps.recv_timeout(until.saturating_duration_since(Instant::now())),
            Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)
        ) {}
        // What cannot be started has written nothing of its own.
        if why.is::<CannotStart>() {
            return why;
        }
        let wrote = self.output.map(|output| output.last_lines()).unwrap_or_default();
        match why.downcast() {
            Ok(early) => Box::new(EndedEarly { wrote, ..*early }),
            Err(why) => format!("{why}{}", LastWords(&wrote)).into(),
        }
    }
}

fn lacking(what: &str, error: &io::Error) -> BuildError {
    format!("the system does not give {what}: {}", Reason(error)).into()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // After a panic in the factory, the next try begins as if nothing had been.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fast_end_is_a_failure_where_somebody_would_have_made_way_or_it_was_to_be_ready() {
        let program = |ready| Program {
            program: "p".into(),
            args: Vec::new(),
            #[cfg(unix)]
            stop_signal: 15,
            ready,
            ready_within: Duration::ZERO,
        };
        let (clean, badly) = (ProgramEnd::Exited(0), ProgramEnd::Exited(3));
        for (end, build, somebody_serves, may) in [
            (clean, 1, false, true),
            (badly, 1, false, true),
            (clean, 2, true, false),
            (badly, 2, true, false),
            (clean, 2, false, true),
            (badly, 2, false, false),
        ] {
            let at_once = program(Ready::AtOnce).may_have_ended(end, build, somebody_serves);
            assert_eq!(at_once, may, "{end}, {build}, {somebody_serves}");
            assert!(!program(Ready::After(Duration::ZERO)).may_have_ended(end, build, somebody_serves));
        }
    }
}
