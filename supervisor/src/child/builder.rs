//! Builds generations that are programs.

mod asking;

use std::fmt;
use std::io;
#[cfg(target_os = "linux")]
use std::net::Ipv4Addr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use worker::{deadline_after, panic_message};

use super::check::{self, Shown};
use super::generation::Child;
#[cfg(unix)]
use super::guardian::supervisor_side::{Host, Socket};
#[cfg(target_os = "linux")]
use super::listeners::is_listened_on;
use super::looks::Looks;
#[cfg(target_os = "linux")]
use super::private_port;
use super::probe::Probe;
use super::process::Running;
#[cfg(target_os = "linux")]
use super::program::EndedEarly;
use super::program::{Program, ProgramFactory};
#[cfg(target_os = "linux")]
use super::relayed::{Connections, KILLED_AFTER, Relayed};
#[cfg(target_os = "linux")]
use super::relaying::Relaying;
use super::sockets::Sockets;
#[cfg(target_os = "linux")]
use super::started::LostPort;
use super::started::Started;
#[cfg(windows)]
use super::windows::{Host, Socket};
use crate::event::{Event, EventSender};
use crate::journal::Journal;
#[cfg(target_os = "linux")]
use crate::log::Level;
#[cfg(target_os = "linux")]
use crate::protocol;
use crate::server::deadline::Deadline;
use crate::server::{BUILD_LIMIT, BuildError, Builder, Built, Generation, lacking};
#[cfg(target_os = "linux")]
use crate::server::{CANNOT_PAUSE, Clients};
use crate::settings::Settings;
use crate::sync::lock;
use crate::text::milliseconds;

/// How long to wait for the end of what the last program has left behind: its guardian gives those processes a second.
const LAST: Duration = Duration::from_secs(5);

/// How long a command that probes the last program gets to end, or to be gone once it is killed. Its answer no longer
/// matters.
const COMMAND: Duration = Duration::from_secs(1);

/// Where the clients of programs come from.
#[derive(Debug)]
pub(crate) enum Front {
    /// From these sockets, which each program gets: the next program can start while the last one runs. Without any
    /// sockets, each program binds its address itself, and two programs do not overlap.
    Sockets(Vec<Socket>),
    /// From a relay. Each program has a port of its own.
    #[cfg(target_os = "linux")]
    Relay(Relaying),
}

/// Starts programs, each on a thread named `builder`, which waits until the program is ready.
#[derive(Clone)]
pub(crate) struct Children {
    factory: Arc<Mutex<ProgramFactory>>,
    settings: Settings,
    log: Journal,
    sockets: Sockets,
    overlaps: bool,
    #[cfg(target_os = "linux")]
    relaying: Option<Arc<Relaying>>,
    pub(super) host: Host,
    pub(super) events: EventSender,
    /// How long the program that was started last may take to become ready, in milliseconds.
    ready_within: Arc<AtomicU64>,
    /// The program that was found to be startable, and its build.
    prepared: Arc<Mutex<Option<Prepared>>>,
}

/// A program that can be started, as far as that can be known in advance.
#[derive(Debug)]
struct Prepared {
    build: u64,
    program: Program,
    settings: Settings,
}

/// A generation, and what is known of its program.
type Made = (Box<dyn Generation>, Arc<Running>);

/// How many private ports to try if other processes take them.
#[cfg(target_os = "linux")]
const TRIES: usize = 5;

impl Children {
    /// Starts programs whose clients come from this front.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn new(
        factory: ProgramFactory,
        front: Front,
        settings: Settings,
        log: Journal,
        events: EventSender,
    ) -> io::Result<Children> {
        #[cfg(target_os = "linux")]
        let (sockets, relaying) = match front {
            Front::Sockets(sockets) => (sockets, None),
            Front::Relay(relaying) => (Vec::new(), Some(Arc::new(relaying))),
        };
        #[cfg(not(target_os = "linux"))]
        let Front::Sockets(sockets) = front;
        #[cfg(target_os = "linux")]
        let overlaps = !sockets.is_empty() || relaying.is_some();
        #[cfg(not(target_os = "linux"))]
        let overlaps = !sockets.is_empty();
        Ok(Children {
            factory: Arc::new(Mutex::new(factory)),
            settings,
            log,
            overlaps,
            #[cfg(target_os = "linux")]
            relaying,
            sockets: Sockets::new(sockets),
            host: Host::new()?,
            events,
            ready_within: Arc::default(),
            prepared: Arc::default(),
        })
    }

    /// Determines the program of this build, and checks that it can be started, as far as that can be known in advance.
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

    /// Starts a program, and waits until it is ready or has to end already. It reports nothing to master control until
    /// `start_reporting` is called.
    ///
    /// # Errors
    /// What the factory says, why the program was not ready, or [`CannotStart`].
    pub(super) fn make(&self, build: u64) -> Result<(Built, Arc<Running>), BuildError> {
        let prepared = lock(&self.prepared).take().filter(|prepared| prepared.build == build);
        let Prepared { program, mut settings, build: _ } = prepared.map_or_else(|| self.look(build), Ok)?;
        self.ready_within.store(milliseconds(program.longest_start()), Ordering::Relaxed);
        settings.parts.extend(program.parts());
        let (overlap, shown) = (program.overlap, Some(program.to_string()));
        let log = self.log.with(settings.log);
        #[cfg(target_os = "linux")]
        let made = match &self.relaying {
            None => self.make_unrelayed(build, &program, log),
            Some(relaying) => self.make_relayed(build, &program, &settings, log, relaying),
        };
        #[cfg(not(target_os = "linux"))]
        let made = self.make_unrelayed(build, &program, log);
        let (generation, running) = made?;
        Ok((Built { generation, settings, overlap, program: shown }, running))
    }

    /// Makes a program that gets its clients from our sockets, or binds its own.
    fn make_unrelayed(&self, build: u64, program: &Program, log: Journal) -> Result<Made, BuildError> {
        let started = self.start(build, program, log.clone())?;
        let ask = |probe: &Probe, limit| self.ask(program, &started.sockets, probe, limit);
        let limit = deadline_after(Instant::now(), program.longest_start());
        let ready = started.wait_until_ready(program, build, None, limit, &log, ask).and_then(|evidence| {
            started.running.is_ready(program.may_have_ended(build))?;
            self.check(build, program, &started)?;
            #[cfg(target_os = "linux")]
            self.sockets.watch(&started.running, &self.log)?;
            Ok(evidence)
        });
        match ready {
            Ok(evidence) => {
                let child = Child::new(
                    started.running.clone(),
                    evidence,
                    Looks::new(started.sockets.clone()),
                    self.events.clone(),
                );
                Ok((Box::new(child), started.running))
            }
            Err(error) => Err(started.give_up(program, error)),
        }
    }

    /// Makes a program that gets its clients from a relay, on a private port. If another process takes that port before
    /// the program can, the program gets another one.
    #[cfg(target_os = "linux")]
    fn make_relayed(
        &self,
        build: u64,
        template: &Program,
        settings: &Settings,
        log: Journal,
        relaying: &Arc<Relaying>,
    ) -> Result<Made, BuildError> {
        let mut tries = 0;
        loop {
            tries += 1;
            let port = private_port::choose().map_err(|error| lacking("a private port", &error))?;
            let program = template.at_port(port);
            let started = self.start(build, &program, log.clone())?;
            let ask = |probe: &Probe, limit| self.ask(&program, &started.sockets, probe, limit);
            let limit = deadline_after(Instant::now(), program.longest_start());
            let ready = started.wait_until_ready(&program, build, Some(port), limit, &log, ask).and_then(|evidence| {
                let address = match evidence {
                    // It has ended, or has to end.
                    None => (Ipv4Addr::LOCALHOST, port).into(),
                    Some(_) => started.wait_until_it_listens(&program, port, limit)?,
                };
                let (running, upstream) = (started.running.clone(), relaying.upstream(address));
                let connections = Connections::new(running, upstream, settings.grace);
                let connections = connections.map_err(|error| lacking("a thread to drain it", &error))?;
                let generation = Relayed::new(
                    Child::new(
                        started.running.clone(),
                        evidence,
                        Looks::new(started.sockets.clone()),
                        self.events.clone(),
                    ),
                    connections.clone(),
                    relaying.clone(),
                    log.clone(),
                );
                started.running.is_ready_with(move || connections.program_has_ended())?;
                self.check(build, &program, &started)?;
                Ok(generation)
            });
            let error = match ready {
                Ok(generation) => return Ok((Box::new(generation), started.running)),
                Err(error) => error,
            };
            let (lost, early) = (error.is::<LostPort>(), error.is::<EndedEarly>());
            let error = started.give_up(&program, error);
            // It may have ended because it could not bind the port.
            if tries == TRIES || !(lost || early && is_listened_on(port)) {
                return Err(error);
            }
            let message =
                format!("another process took the private port {port} before the program; trying another one");
            log.line(Level::Warning, "port_lost", message, [("port", port.into())]);
        }
    }

    /// Starts a program. If no more programs may run, it has to end.
    fn start(&self, build: u64, program: &Program, log: Journal) -> Result<Started, BuildError> {
        let sockets = self.sockets.for_build(build)?;
        if !self.overlaps {
            // A command that still asks the last program would be waited for, too.
            let soon = Deadline::after(Instant::now(), COMMAND);
            self.sockets.last_ones().for_each(|running| running.stop_building(soon));
            if !self.sockets.last_ones().all(|running| running.wait_until_gone(LAST)) {
                return Err("the processes that the previous program left behind do not end".into());
            }
        }
        let started = self.host.start(build, program, sockets, log)?;
        self.sockets.keep(&started.running);
        Ok(started)
    }

    /// Starts to check a program that serves, on a thread named `check`, if a check is configured.
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
                    // Without master control nothing can be done about it.
                    let _ = children.events.send(Event::Unhealthy { build, reason, wrote });
                }
            };
            check::run(&check, program.overlap, &beats, ask, heard);
        });
        thread.map(drop).map_err(|error| lacking("a thread to check it", &error))
    }

    /// Keeps orphans from staying zombies and guardians from staying suspended. From now on, no other code in this
    /// process may start a child.
    ///
    /// # Errors
    /// What the system says.
    #[cfg(unix)]
    pub(crate) fn reap_orphans(&self) -> io::Result<()> {
        self.host.reap_orphans()
    }
}

impl Builder for Children {
    fn build(&mut self, build: u64) {
        #[cfg(target_os = "linux")]
        if let Some(relaying) = &self.relaying {
            relaying.begin();
        }
        let children = self.clone();
        let thread = thread::Builder::new().name("builder".into()).spawn(move || {
            let events = &children.events;
            // Without master control it cannot be reported, and what was built is dropped.
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

    /// The time that its settings allow, plus some to start and end it.
    fn limit(&self) -> Duration {
        Duration::from_millis(self.ready_within.load(Ordering::Relaxed)).saturating_add(BUILD_LIMIT)
    }

    /// A program that was started may have begun things that it has to finish.
    fn awaits_builds(&self) -> bool {
        self.sockets.are_awaited()
    }

    fn note_built(&mut self, build: u64) {
        self.sockets.note_built(build);
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    #[cfg(target_os = "linux")]
    fn after_deadline(&self) -> Duration {
        if self.relaying.is_some() { KILLED_AFTER } else { Duration::ZERO }
    }

    #[cfg(target_os = "linux")]
    fn relay(&self) -> Option<protocol::Relay> {
        self.relaying.as_ref().map(|relaying| relaying.status())
    }

    #[cfg(target_os = "linux")]
    fn held(&self) -> Option<&dyn Clients> {
        self.relaying.as_ref().map(|relaying| relaying.held())
    }

    #[cfg(target_os = "linux")]
    fn set_in_rotation(&self, in_rotation: bool) {
        if let Some(relaying) = &self.relaying {
            relaying.set_in_rotation(in_rotation);
        }
    }

    #[cfg(target_os = "linux")]
    fn pause(&self, pause: u64) -> Result<usize, String> {
        let relaying = self.relaying.as_ref().ok_or(CANNOT_PAUSE)?;
        relaying.pause(pause, &self.events)
    }

    #[cfg(target_os = "linux")]
    fn resume(&self) {
        if let Some(relaying) = &self.relaying {
            relaying.resume();
        }
    }

    fn close(&mut self, deadline: Deadline) {
        self.sockets.close(deadline);
        #[cfg(target_os = "linux")]
        if let Some(relaying) = &self.relaying {
            relaying.close();
        }
    }

    /// A command may still ask a program that has ended meanwhile.
    fn end(&mut self) {
        let kill = Deadline::after(Instant::now(), Duration::ZERO);
        self.sockets.last_ones().for_each(|running| running.stop_building(kill));
        for command in self.sockets.last_ones().filter(|running| running.has_builder()) {
            command.wait_until_gone(COMMAND);
        }
    }
}

impl fmt::Debug for Children {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Children").field("sockets", &self.sockets).finish_non_exhaustive()
    }
}
