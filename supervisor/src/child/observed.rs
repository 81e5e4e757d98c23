//! The state of a running program, and the recipient of its events: first its builder, then master control.

use std::fmt;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use worker::{DrainReport, deadline_after};

use super::check::Beat;
use super::program::{CannotStart, EndedEarly, Program};
#[cfg(target_os = "linux")]
use super::queue::Watch;
use crate::event::{Event, EventSender};
use crate::server::deadline::Deadline;
use crate::server::program_end::ProgramEnd;
use crate::server::{BuildError, Failure};

/// An event of a program, as its builder receives it.
#[derive(Debug)]
pub(super) enum Step {
    Started,
    #[cfg_attr(windows, allow(dead_code))]
    CannotStart(CannotStart),
    #[cfg_attr(windows, allow(dead_code))]
    Ready,
    /// It has to end, and the builder has nothing more to do with it.
    Stopping,
    Ended(ProgramEnd),
    /// Nothing of it is left.
    Gone,
}

/// The state of a program.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) listener: Listener,
    /// The exit codes, besides 0, that are not a failure.
    pub(super) success: Vec<i32>,
    /// When it is killed, if it was asked to end. Then its end is not a failure.
    pub(super) asked: Option<Instant>,
    /// Why it was given up.
    pub(super) given_up: Option<String>,
    pub(super) program: Option<u32>,
    pub(super) end: Option<ProgramEnd>,
    /// Its last lines on stderr when it ended.
    pub(super) wrote: Vec<String>,
    pub(super) killed: usize,
    pub(super) gone: bool,
    pub(super) said: Said,
    /// Passes what it says to its check, until it ends or has to end.
    pub(super) checked: Option<Sender<Beat>>,
    /// The check that it has not passed yet, in human-readable form.
    pub(super) unproved: Option<String>,
    #[cfg(target_os = "linux")]
    pub(super) queues: Option<Watch>,
    /// How its connections are told that it has ended, if they are relayed.
    pub(super) connections: Option<AtItsEnd>,
    /// How its connections ended. None: they are relayed, and have not ended.
    pub(super) drained: Option<DrainReport>,
}

/// Done once, when the program has ended.
pub(super) struct AtItsEnd(pub(super) Box<dyn FnOnce() + Send>);

impl fmt::Debug for AtItsEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("AtItsEnd")
    }
}

/// What a program has said about itself.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) status: Option<String>,
    pub(super) stopping: bool,
}

/// The recipient of its events.
#[derive(Debug)]
pub(super) enum Listener {
    Builder(Sender<Step>),
    /// None yet: master control has to know about the server first.
    Later(Vec<Event>),
    MasterControl(EventSender),
}

impl Observed {
    /// For a program that is about to be started; its builder receives the events.
    pub(super) fn new(program: &Program, steps: Sender<Step>) -> Observed {
        Observed {
            listener: Listener::Builder(steps),
            success: program.success.clone(),
            asked: None,
            given_up: None,
            program: None,
            end: None,
            wrote: Vec::new(),
            killed: 0,
            gone: false,
            said: Said::default(),
            checked: None,
            unproved: None,
            #[cfg(target_os = "linux")]
            queues: None,
            connections: None,
            drained: Some(DrainReport::default()),
        }
    }

    /// From now on its end is a failure, unless it was asked to end. So is an end that has already happened, if it
    /// `may_have_ended`.
    pub(super) fn is_ready(&mut self, build: u64, may_have_ended: bool) -> Result<(), BuildError> {
        match self.end {
            Some(end) if self.asked.is_none() && !may_have_ended => Err(EndedEarly::of(end)),
            end => {
                self.listener = Listener::Later(Vec::new());
                if let Some(end) = end {
                    let wrote = std::mem::take(&mut self.wrote);
                    self.fail(build, end, wrote);
                }
                self.finish(build);
                Ok(())
            }
        }
    }

    /// Reports its end if nothing of it is left and its connections have ended.
    pub(super) fn finish(&mut self, build: u64) {
        if self.gone && self.drained.is_some() {
            self.tell(Event::Finished { build });
        }
    }

    /// Records that it is asked to end and has this long. From now on its end is not a failure.
    pub(super) fn ask(&mut self, within: Duration) {
        self.asked = Some(deadline_after(Instant::now(), within));
        self.checked = None;
    }

    pub(super) fn is_killed_by(&self, deadline: Deadline) -> bool {
        self.asked.is_some_and(|asked| asked <= deadline.at())
    }

    pub(super) fn has_builder(&self) -> bool {
        matches!(self.listener, Listener::Builder(_))
    }

    pub(super) fn tell_builder(&self, step: Step) {
        if let Listener::Builder(steps) = &self.listener {
            // The builder may have given up already.
            let _ = steps.send(step);
        }
    }

    pub(super) fn ended(&mut self, build: u64, end: ProgramEnd, wrote: Vec<String>) {
        // A guardian may be killed after its program has ended.
        if self.end.is_some() {
            return;
        }
        self.end = Some(end);
        self.checked = None;
        self.tell_builder(Step::Ended(end));
        self.wrote.clone_from(&wrote);
        self.fail(build, end, wrote);
    }

    fn fail(&mut self, build: u64, end: ProgramEnd, wrote: Vec<String>) {
        if self.asked.is_none() {
            let failure = match self.given_up.take() {
                Some(reason) => Failure::because(reason, wrote),
                None => {
                    Failure { reason: end.to_string(), clean: end.is_success(&self.success), program: Some(end), wrote }
                }
            };
            self.tell(Event::Exited { build, failure });
        }
    }

    pub(super) fn tell(&mut self, event: Event) {
        match &mut self.listener {
            Listener::Builder(_) => {}
            Listener::Later(events) => events.push(event),
            // Without master control it cannot be reported.
            Listener::MasterControl(events) => drop(events.send(event)),
        }
    }
}
