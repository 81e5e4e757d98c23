//! Runs programs without master control, with the calls that it would make and the events that it would receive. For
//! this package's own tests, which need an executable that has the hidden stages.

use std::io;
use std::path::Path;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::builder::{Children, Front};
use super::guardian::supervisor_side::Socket;
use super::program::Program;
use crate::event::{Event, EventSender};
use crate::journal::Journal;
use crate::log::Log;
use crate::restart::RestartPolicy;
use crate::server::deadline::Deadline;
use crate::server::program_end::ProgramEnd;
use crate::server::{BuildError, Builder, Ended, Generation};
use crate::settings::Settings;

/// Starts programs.
#[derive(Debug)]
pub struct Driven {
    children: Children,
    events: Receiver<Event>,
}

/// A program that is ready.
#[derive(Debug)]
pub struct One(Box<dyn Generation>);

/// An event that master control would receive.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Heard {
    Built(u64, Result<One, String>),
    Failed(u64, String),
    Finished(u64),
    Other(String),
}

impl Driven {
    /// `own` is the executable with the hidden stages.
    pub fn new(own: &Path, program: Program, sockets: Vec<Socket>) -> io::Result<Driven> {
        let (sender, events) = mpsc::channel();
        let settings = Settings {
            grace: Duration::ZERO,
            delay: Duration::ZERO,
            spread: Duration::ZERO,
            max_connections: 0,
            restart: RestartPolicy::default(),
            check_every: None,
            log: Log::silent(),
            parts: Vec::new(),
        };
        let factory = Box::new(move |_: &mut Settings| Ok(program.clone()));
        let mut children = {
            let log = Journal::new(Log::silent());
            Children::new(factory, Front::Sockets(sockets), settings, log, EventSender::new(sender, None))?
        };
        children.host.own = own.into();
        Ok(Driven { children, events })
    }

    /// Starts a program, without waiting for it.
    pub fn build(&mut self, build: u64) {
        self.children.build(build);
    }

    /// Starts a program and waits until it is ready.
    pub fn build_here(&self, build: u64) -> Result<One, BuildError> {
        let (built, running) = self.children.make(build)?;
        running.start_reporting(&self.children.events);
        Ok(One(built.generation))
    }

    /// How long a build may take.
    pub fn limit(&self) -> Duration {
        self.children.limit()
    }

    /// Whether the next program can start while the last one runs.
    pub fn overlaps(&self) -> bool {
        self.children.overlaps()
    }

    /// Keeps orphans from staying zombies.
    pub fn reap_orphans(&self) -> io::Result<()> {
        self.children.reap_orphans()
    }

    /// Starts no more programs. One that is being started has this long to end.
    pub fn close(&mut self, grace: Duration) {
        self.children.close(Deadline::after(Instant::now(), grace));
    }

    /// The next event within this time.
    pub fn next(&self, within: Duration) -> Option<Heard> {
        Some(match self.events.recv_timeout(within).ok()? {
            Event::Built { build, built } => {
                Heard::Built(build, built.map(|built| One(built.generation)).map_err(|error| error.to_string()))
            }
            Event::Exited { build, failure } => Heard::Failed(build, failure.reason),
            Event::Finished { build } => Heard::Finished(build),
            other => Heard::Other(format!("{other:?}")),
        })
    }
}

impl One {
    /// Retires it: another one replaces it.
    pub fn retire(&self, grace: Duration) {
        self.0.retire_by(Deadline::after(Instant::now(), grace), Duration::ZERO);
    }

    /// Stops it.
    pub fn stop(&self, grace: Duration) {
        self.0.stop_by(Deadline::after(Instant::now(), grace), Duration::ZERO);
    }

    /// Gives it up.
    pub fn give_up(&mut self, why: &str) {
        self.0.give_up(why);
    }

    /// Passes on a signal. Returns whether the program gets it.
    pub fn signal(&self, signal: i32) -> bool {
        self.0.signal(signal)
    }

    /// How its program ended, and how many processes had to be killed.
    pub fn end(self) -> (Option<ProgramEnd>, usize) {
        let Ended { program, killed, .. } = self.0.end().unwrap_or_default();
        (program, killed)
    }
}
