//! A program that runs, as the supervisor knows it: by what its guardian says.

use std::io;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use worker::{ConnectionInfo, Counts, ServerError};

#[cfg(unix)]
use super::unix::Control;
#[cfg(windows)]
use super::windows::Control;
use super::{BuildError, CannotStart, EndedEarly};
use crate::event::{Event, Post};
use crate::server::{Closer, Ended, Opener, ProgramEnd, Server};

/// What whoever builds a program hears of it.
#[derive(Debug)]
pub(super) enum Step {
    Started,
    #[cfg_attr(windows, allow(dead_code))]
    CannotStart(CannotStart),
    #[cfg_attr(windows, allow(dead_code))]
    Ready,
    Ended(ProgramEnd),
    /// Nothing of it is left.
    Gone,
}

/// What is known of a program. A thread named `child` writes it down, until nothing of the program is left.
#[derive(Debug)]
pub(super) struct Running {
    build: u64,
    control: Control,
    facts: Mutex<Facts>,
}

#[derive(Debug)]
struct Facts {
    listener: Listener,
    /// Somebody wants its end, so that this is no failure.
    asked: bool,
    /// Why it was given up.
    given_up: Option<String>,
    program: Option<u32>,
    end: Option<ProgramEnd>,
    killed: usize,
    gone: bool,
}

/// Who hears of it.
#[derive(Debug)]
enum Listener {
    Builder(Sender<Step>),
    /// Nobody yet: first master control has to know that there is a server.
    Later(Vec<Event>),
    MasterControl(Post),
}

impl Running {
    /// `guard` tells what happens to it, and returns when nothing of it is left.
    pub(super) fn start(
        build: u64,
        control: Control,
        steps: Sender<Step>,
        guard: impl FnOnce(&Running) + Send + 'static,
    ) -> io::Result<Arc<Running>> {
        let facts = Facts {
            listener: Listener::Builder(steps),
            asked: false,
            given_up: None,
            program: None,
            end: None,
            killed: 0,
            gone: false,
        };
        let running = Arc::new(Running { build, control, facts: Mutex::new(facts) });
        let writer = running.clone();
        thread::Builder::new().name("child".into()).spawn(move || {
            guard(&writer);
            writer.is_gone();
        })?;
        Ok(running)
    }

    pub(super) fn has_started(&self, pid: u32) {
        let mut facts = self.facts();
        facts.program = Some(pid);
        facts.tell_builder(Step::Started);
    }

    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn cannot_start(&self, why: CannotStart) {
        self.facts().tell_builder(Step::CannotStart(why));
    }

    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn says_ready(&self) {
        self.facts().tell_builder(Step::Ready);
    }

    /// The program itself has ended. Others that it started may be left.
    pub(super) fn has_ended(&self, end: ProgramEnd) {
        self.facts().ended(self.build, end);
    }

    /// So many had to be killed.
    pub(super) fn has_left_nothing(&self, killed: usize) {
        self.facts().killed = killed;
    }

    /// Its guardian has ended, and has not said that nothing is left. So many others had to be killed then.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn was_unguarded(&self, killed: usize) {
        let mut facts = self.facts();
        facts.killed = killed;
        if facts.end.is_none() {
            facts.killed += usize::from(facts.program.is_some());
            facts.ended(self.build, ProgramEnd::Unguarded);
        }
    }

    /// Its process id, if it has started.
    #[cfg_attr(windows, allow(dead_code))]
    pub(super) fn program(&self) -> Option<u32> {
        self.facts().program
    }

    fn is_gone(&self) {
        let mut facts = self.facts();
        facts.gone = true;
        facts.tell_builder(Step::Gone);
        facts.tell(Event::Finished { build: self.build });
    }

    /// From now on its end is a failure, of which master control hears as soon as it may: also of one that has been, if
    /// that is `allowed`.
    ///
    /// # Errors
    /// When it has ended already.
    pub(super) fn is_ready(&self, allowed: impl Fn(ProgramEnd) -> bool) -> Result<(), BuildError> {
        let mut facts = self.facts();
        match facts.end {
            Some(end) if !allowed(end) => Err(EndedEarly::of(end)),
            _ if facts.asked => Err("the server is being stopped".into()),
            end => {
                facts.listener = Listener::Later(Vec::new());
                if let Some(end) = end {
                    facts.fail(self.build, end);
                }
                if facts.gone {
                    facts.tell(Event::Finished { build: self.build });
                }
                Ok(())
            }
        }
    }

    /// Master control knows that it is there, and hears all from now on, and what has happened meanwhile.
    pub(super) fn speak(&self, post: &Post) {
        let mut facts = self.facts();
        if let Listener::Later(events) = &mut facts.listener {
            let events = std::mem::take(events);
            facts.listener = Listener::MasterControl(post.clone());
            for event in events {
                facts.tell(event);
            }
        }
    }

    /// Whether it is the server at this moment.
    pub(super) fn serves(&self) -> bool {
        let facts = self.facts();
        let is_ready = !matches!(facts.listener, Listener::Builder(_));
        is_ready && !facts.asked && facts.end.is_none()
    }

    /// Ends it now. That is no failure.
    pub(super) fn kill(&self) {
        self.facts().asked = true;
        self.control.kill();
    }

    pub(super) fn kill_unless_ready(&self) {
        let mut facts = self.facts();
        if matches!(facts.listener, Listener::Builder(_)) {
            facts.asked = true;
            drop(facts);
            self.control.kill();
        }
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        // Each change is a few assignments that cannot panic.
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Facts {
    fn tell_builder(&self, step: Step) {
        if let Listener::Builder(steps) = &self.listener {
            // It has given up already.
            let _ = steps.send(step);
        }
    }

    fn ended(&mut self, build: u64, end: ProgramEnd) {
        self.end = Some(end);
        self.tell_builder(Step::Ended(end));
        self.fail(build, end);
    }

    fn fail(&mut self, build: u64, end: ProgramEnd) {
        if !self.asked {
            let reason = self.given_up.take().unwrap_or_else(|| end.to_string());
            let well = end == ProgramEnd::Exited(0);
            self.tell(Event::Failed { build, reason, well });
        }
    }

    fn tell(&mut self, event: Event) {
        match &mut self.listener {
            Listener::Builder(_) => {}
            Listener::Later(events) => events.push(event),
            // Without master control there is nobody to tell.
            Listener::MasterControl(post) => drop(post.send(event)),
        }
    }
}

/// A program that is ready.
#[derive(Debug)]
pub(super) struct Child {
    running: Arc<Running>,
    post: Post,
}

impl Child {
    pub(super) fn new(running: Arc<Running>, post: Post) -> Child {
        Child { running, post }
    }
}

impl Server for Child {
    /// It takes connections already, if it has somewhere to take them from.
    fn opener(&self) -> Opener {
        let (post, build) = (self.post.clone(), self.running.build);
        // Without master control there is nobody to tell.
        Box::new(move |_| drop(post.send(Event::Accepting { build })))
    }

    /// It takes connections until it heeds the signal. Until then both do.
    fn retire_by(&self, deadline: Instant, successor: Opener) -> io::Result<()> {
        successor(None);
        self.stop_by(deadline);
        Ok(())
    }

    fn stop_by(&self, deadline: Instant) {
        self.running.facts().asked = true;
        self.running.control.stop(deadline.saturating_duration_since(Instant::now()));
    }

    /// The signal is sent once.
    fn move_deadline(&self, deadline: Instant) {
        self.stop_by(deadline);
    }

    /// They are the program's own affair.
    fn counts(&self) -> Counts {
        Counts::default()
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        Vec::new()
    }

    fn close(&self, _id: u64, _grace: Duration, _done: Closer) -> io::Result<Option<ConnectionInfo>> {
        Ok(None)
    }

    fn watcher(&self) -> Box<dyn Fn() -> Vec<ConnectionInfo> + Send + Sync> {
        Box::new(Vec::new)
    }

    /// The queue of its socket takes connections, whatever the program does; so there is nothing to be found this way.
    fn check(&self, _limit: Duration) {
        let _ = self.post.send(Event::Checked { build: self.running.build, accepting: true });
    }

    fn give_up(&mut self, why: &str) {
        self.running.facts().given_up = Some(why.to_owned());
        self.running.control.kill();
    }

    fn signal(&self, signal: i32) {
        self.running.control.signal(signal);
    }

    fn end(self: Box<Self>) -> Result<Ended, ServerError> {
        let facts = self.running.facts();
        Ok(Ended { program: facts.end, killed: facts.killed, ..Ended::default() })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.running.facts().gone {
            self.running.kill();
        }
    }
}
