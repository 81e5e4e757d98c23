//! Builds generations that are programs.

use std::fmt;
use std::io;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
#[cfg(unix)]
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::thread;
use std::time::Duration;
#[cfg(unix)]
use std::time::Instant;

#[cfg(unix)]
use worker::deadline_after;
use worker::panic_message;

use super::check::{self, Shown};
use super::family_sockets::FamilySockets;

#[cfg(unix)]
use super::guardian::supervisor_side::{Host, Socket};
use super::probe::{self, Outcome, Probe};
#[cfg(unix)]
use super::process::Step;
use super::process::{Child, Running};
use super::program::{Program, ProgramFactory};
#[cfg(target_os = "linux")]
use super::queue::Watch;
#[cfg(unix)]
use super::ready::Ready;
use super::started::Started;
#[cfg(windows)]
use super::windows::{Host, Socket};
use crate::event::{Event, EventSender};
use crate::journal::Journal;
#[cfg(unix)]
use crate::server::ProgramEnd;
use crate::server::{BUILD_LIMIT, BuildError, Builder, Built, lacking};
use crate::settings::Settings;
use crate::sync::lock;
#[cfg(unix)]
use crate::text::Seconds;
use crate::text::milliseconds;

/// How long to wait for the end of what the last program has left behind: its guardian gives that a second.
const LAST: Duration = Duration::from_secs(5);

/// Starts programs, each on a thread named `builder`, since that waits until the program is ready.
#[derive(Clone)]
pub(crate) struct Children {
    factory: Arc<Mutex<ProgramFactory>>,
    settings: Settings,
    log: Journal,
    sockets: Arc<Mutex<Sockets>>,
    overlaps: bool,
    pub(super) host: Host,
    pub(super) events: EventSender,
    /// How long the last program that was to be started may take to be ready, in milliseconds.
    ready_within: Arc<AtomicU64>,
    /// What was found to be startable, and for which build.
    prepared: Arc<Mutex<Option<Prepared>>>,
}

/// A program that can be started, as far as that is known beforehand.
#[derive(Debug)]
struct Prepared {
    build: u64,
    program: Program,
    settings: Settings,
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
            prepared: Arc::default(),
        })
    }

    /// What the program of this build is, and that it can be started, as far as that is known beforehand.
    ///
    /// # Errors
    /// What the factory says, or [`CannotStart`](super::program::CannotStart).
    fn look(&self, build: u64) -> Result<Prepared, BuildError> {
        let mut settings = self.settings.clone();
        let made = panic::catch_unwind(AssertUnwindSafe(|| lock(&self.factory)(&mut settings)));
        let program =
            made.unwrap_or_else(|panic| Err(format!("building it panicked: {}", panic_message(&*panic)).into()))?;
        program.check()?;
        Ok(Prepared { build, program, settings })
    }

    /// Starts a program, and waits until it is ready, or has to end already. It says nothing to master control until it is
    /// told to.
    ///
    /// # Errors
    /// What the factory says, why the program was not ready, or [`CannotStart`].
    pub(super) fn make(&self, build: u64) -> Result<(Built, Arc<Running>), BuildError> {
        let prepared = lock(&self.prepared).take().filter(|prepared| prepared.build == build);
        let Prepared { program, mut settings, build: _ } = prepared.map_or_else(|| self.look(build), Ok)?;
        self.ready_within.store(milliseconds(program.ready_within), Ordering::Relaxed);
        settings.parts.extend(program.parts());
        let started = self.start(build, &program, self.log.with(settings.log))?;
        let ask = |probe: &Probe, limit| self.ask(&program, &started.sockets, probe, limit);
        let ready = started.wait_until_ready(&program, build, ask).and_then(|evidence| {
            started.running.is_ready(program.may_have_ended(build))?;
            self.check(build, &program, &started)?;
            #[cfg(target_os = "linux")]
            self.watch(&started)?;
            Ok(evidence)
        });
        match ready {
            Ok(evidence) => {
                let child = Child::new(started.running.clone(), evidence, self.events.clone());
                let (generation, shown) = (Box::new(child), Some(program.to_string()));
                let built = Built { generation, settings, overlap: program.overlap, program: shown };
                Ok((built, started.running))
            }
            Err(error) => Err(started.give_up(&program, error)),
        }
    }

    /// Starts a program. If there shall be none any more, it has to end.
    fn start(&self, build: u64, program: &Program, log: Journal) -> Result<Started, BuildError> {
        let sockets = self
            .sockets()
            .sockets
            .as_deref()
            .ok_or("the server is being stopped")?
            .iter()
            .map(Socket::try_clone)
            .collect::<io::Result<Vec<_>>>();
        let sockets = sockets.map_err(|error| lacking("the listening sockets", &error))?;
        if !self.overlaps && !self.last_ones().all(|running| running.wait_until_gone(LAST)) {
            return Err("the processes that the previous program left behind do not end".into());
        }
        let started = self.host.start(build, program, sockets, log)?;
        self.keep(&started);
        Ok(started)
    }

    /// Checks a program that serves, on a thread named `check`, if it is to be checked.
    fn check(&self, build: u64, program: &Program, started: &Started) -> Result<(), BuildError> {
        let Some(check) = program.check.clone() else { return Ok(()) };
        let (children, program, sockets) = (self.clone(), program.clone(), started.sockets.clone());
        let (running, beats) = (started.running.clone(), started.running.check(&check.how));
        let thread = thread::Builder::new().name("check".into()).spawn(move || {
            let ask = |probe: &Probe, limit| children.ask(&program, &sockets, probe, limit);
            let heard = |shown| match shown {
                Shown::Works => running.works(),
                Shown::Fails(reason) => {
                    let wrote = running.lines_so_far();
                    // Without master control nothing is to be done about it.
                    let _ = children.events.send(Event::Unhealthy { build, reason, wrote });
                }
            };
            check::run(&check, program.overlap, &beats, ask, heard);
        });
        thread.map(drop).map_err(|error| lacking("a thread to check it", &error))
    }

    /// Watches whether it takes the sockets that it got, if it got some.
    #[cfg(target_os = "linux")]
    fn watch(&self, started: &Started) -> Result<(), BuildError> {
        let lacking = |error| lacking("what it takes to watch its sockets", &error);
        let sockets = self.sockets();
        // There are none any more in a stop.
        let sockets =
            sockets.sockets.iter().flatten().map(|socket| socket.socket.try_clone()).collect::<io::Result<_>>();
        let queues = Watch::begin(sockets.map_err(lacking)?, self.log.clone()).map_err(lacking)?;
        started.running.watch(queues);
        Ok(())
    }

    /// Asks a program for an answer.
    #[cfg_attr(windows, allow(unused_variables))]
    fn ask(&self, program: &Program, sockets: &FamilySockets, probe: &Probe, limit: Duration) -> Outcome {
        match probe {
            Probe::Connect(address) => probe::connect(address, sockets),
            Probe::Http(url) => probe::http(url, sockets, limit),
            #[cfg(unix)]
            Probe::Exec(command) => match self.run(program, command, limit) {
                Ok(()) => Outcome::Answered(format!("`{command}` succeeded")),
                Err(error) => Outcome::Failed(error.to_string()),
            },
        }
    }

    /// Runs a command of the shell where the program runs. It is guarded as that is.
    #[cfg(unix)]
    fn run(&self, program: &Program, command: &str, limit: Duration) -> Result<(), BuildError> {
        let end = deadline_after(Instant::now(), limit);
        let shell = Program {
            program: "sh".into(),
            // What it writes to stdout is of no use to anybody.
            args: vec!["-c".into(), format!("exec > /dev/null\n{command}").into()],
            ready: Ready::After(limit),
            check: None,
            ..program.clone()
        };
        let started = self.host.start(0, &shell, Vec::new(), self.log.clone())?;
        self.keep(&started);
        let why = loop {
            match started.steps.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Step::Ended(ProgramEnd::Exited(0))) => break None,
                Ok(Step::Ended(end)) => break Some(end.to_string()),
                Ok(Step::CannotStart(why)) => break Some(why.to_string()),
                Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected) => break Some("it ended".into()),
                Ok(Step::Stopping) => break Some("the server is being stopped".into()),
                Ok(Step::Started | Step::Ready) => {}
                Err(RecvTimeoutError::Timeout) => break Some(format!("it did not end within {}", Seconds(limit))),
            }
        };
        let ended = started.give_up(&shell, why.clone().unwrap_or_default().into());
        if why.is_none() { Ok(()) } else { Err(ended) }
    }

    /// Remembers a program that was started. If there shall be none any more, it is killed.
    fn keep(&self, started: &Started) {
        let mut sockets = self.sockets();
        if sockets.sockets.is_none() {
            started.running.stop_building();
        }
        sockets.programs.retain(|running| running.strong_count() > 0);
        sockets.programs.push(Arc::downgrade(&started.running));
    }

    /// Sees to it that no orphan stays a zombie and no guardian suspended. From now on nobody else in this process may
    /// start a child process.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(unix)]
    pub(crate) fn reap_orphans(&self) -> io::Result<()> {
        self.host.reap_orphans()
    }

    /// The programs of which something is left. They may still have the address that the next one binds.
    fn last_ones(&self) -> impl Iterator<Item = Arc<Running>> {
        self.sockets().alive().collect::<Vec<_>>().into_iter()
    }

    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        lock(&self.sockets)
    }
}

impl Builder for Children {
    fn build(&mut self, build: u64) {
        let children = self.clone();
        let thread = thread::Builder::new().name("builder".into()).spawn(move || {
            let events = &children.events;
            // Without master control there is nobody to tell, and what was built is dropped.
            match children.make(build) {
                Ok((built, running)) => {
                    let _ = events.send(Event::Built { build, built: Ok(built) });
                    running.start_reporting(events);
                }
                Err(error) => drop(events.send(Event::Built { build, built: Err(error) })),
            }
        });
        if let Err(error) = thread {
            let built = Err(lacking("a thread to build it", &error));
            let _ = self.events.send(Event::Built { build, built });
        }
    }

    fn prepare(&mut self, build: u64) {
        let children = self.clone();
        let thread = thread::Builder::new().name("builder".into()).spawn(move || {
            let prepared = children.look(build).map(|prepared| drop(lock(&children.prepared).replace(prepared)));
            let _ = children.events.send(Event::Prepared { build, prepared });
        });
        if let Err(error) = thread {
            let prepared = Err(lacking("a thread to prepare it", &error));
            let _ = self.events.send(Event::Prepared { build, prepared });
        }
    }

    /// As long as its settings give it, and some more to start and end it.
    fn limit(&self) -> Duration {
        Duration::from_millis(self.ready_within.load(Ordering::Relaxed)).saturating_add(BUILD_LIMIT)
    }

    /// It may have begun to do things that it has to end.
    fn awaits_builds(&self) -> bool {
        true
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    fn close(&mut self) {
        let mut sockets = self.sockets();
        sockets.sockets.take();
        for running in sockets.alive() {
            running.stop_building();
            #[cfg(target_os = "linux")]
            running.unwatch();
        }
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Children").field("stock", &self.sockets).finish_non_exhaustive()
    }
}
