//! A program that runs, as the supervisor knows it: by what its guardian says.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::Signal;
use worker::{ConnectionInfo, Counts, ServerError};

use super::family::Family;
use super::line::{Lines, Order, Report};
use super::ready::NotifySocket;
use super::{BuildError, CannotStart, EndedEarly};
use crate::event::{Event, Post};
use crate::journal::Journal;
use crate::log::Level;
use crate::server::{Closer, Ended, Opener, ProgramEnd, Server, SignalName};

/// How long to wait until a guardian takes an order. It always does, unless somebody has suspended it.
const ORDER: Duration = Duration::from_millis(100);

/// What whoever builds a program hears of it.
#[derive(Debug)]
pub(super) enum Step {
    Started,
    CannotStart(CannotStart),
    Ready,
    Ended(ProgramEnd),
    /// Nothing of it is left.
    Gone,
}

/// What is known of a program. A thread named `child` writes it down, until nothing of the program is left.
#[derive(Debug)]
pub(super) struct Running {
    build: u64,
    /// Its guardian's process id.
    guardian: u32,
    control: UnixStream,
    family: Family,
    log: Journal,
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
    pub(super) fn start(
        build: u64,
        guardian: process::Child,
        control: UnixStream,
        notify: Option<NotifySocket>,
        family: Family,
        log: Journal,
        steps: Sender<Step>,
    ) -> io::Result<Arc<Running>> {
        control.set_write_timeout(Some(ORDER))?;
        let socket = control.try_clone()?;
        let facts = Facts {
            listener: Listener::Builder(steps),
            asked: false,
            given_up: None,
            program: None,
            end: None,
            killed: 0,
            gone: false,
        };
        let running =
            Arc::new(Running { build, guardian: guardian.id(), control, family, log, facts: Mutex::new(facts) });
        let writer = running.clone();
        thread::Builder::new().name("child".into()).spawn(move || {
            let told = writer.follow(socket, notify.as_ref());
            writer.family.wait(guardian);
            if !told {
                writer.unguarded();
            }
            // Its socket goes before anybody hears that it is gone.
            drop(notify);
            writer.is_gone();
        })?;
        Ok(running)
    }

    /// Hears what the guardian and the program say, until the guardian ends. Returns whether that said before that nothing is
    /// left.
    fn follow(&self, mut control: UnixStream, notify: Option<&NotifySocket>) -> bool {
        let mut lines = Lines::default();
        let mut piece = [0; 1024];
        let mut told = false;
        loop {
            let mut happened = vec![PollFd::new(control.as_fd(), PollFlags::POLLIN)];
            happened.extend(notify.map(|notify| PollFd::new(notify.as_fd(), PollFlags::POLLIN)));
            match poll(&mut happened, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(_) => return told,
            }
            let guardian_speaks = happened[0].any().unwrap_or(false);
            drop(happened);
            if notify.is_some_and(NotifySocket::listen) {
                self.facts().tell_builder(Step::Ready);
            }
            if !guardian_speaks {
                continue;
            }
            match control.read(&mut piece) {
                Ok(length @ 1..) => lines.push(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(0) | Err(_) => return told,
            }
            // It has the very same program, so it says nothing else.
            for report in lines.take().iter().filter_map(|line| Report::parse(line)) {
                told |= matches!(report, Report::Gone { .. });
                self.hear(report);
            }
        }
    }

    fn hear(&self, report: Report) {
        let mut facts = self.facts();
        match report {
            Report::Started(pid) => {
                facts.program = Some(pid);
                facts.tell_builder(Step::Started);
            }
            Report::CannotStart { code, message } => {
                facts.tell_builder(Step::CannotStart(CannotStart { code, message }));
            }
            Report::Suspended { pid, signal } => {
                // The log may have to wait for its reader, and nobody else shall.
                drop(facts);
                let signal = SignalName(signal).to_string();
                let message =
                    format!("the program (pid {pid}) was suspended by {signal}; `kill -CONT {pid}` continues it");
                let fields = [("program", pid.into()), ("signal", signal.into())];
                self.log.line(Level::Warning, "suspended", message, fields);
            }
            Report::Ended(end) => facts.ended(self.build, end),
            // The guardian ends now, and then it is really gone.
            Report::Gone { killed } => facts.killed = killed,
        }
    }

    /// The guardian has ended, and has not said that nothing is left. Kills what is left.
    fn unguarded(&self) {
        let program = self.facts().program;
        let killed = self.family.kill_leftovers(self.guardian, program);
        let mut facts = self.facts();
        facts.killed = killed;
        if facts.end.is_none() {
            facts.killed += usize::from(program.is_some());
            facts.ended(self.build, ProgramEnd::Unguarded);
        }
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
        self.stop(Signal::KILL.as_raw(), Duration::ZERO);
    }

    pub(super) fn kill_unless_ready(&self) {
        let mut facts = self.facts();
        if matches!(facts.listener, Listener::Builder(_)) {
            facts.asked = true;
            drop(facts);
            self.stop(Signal::KILL.as_raw(), Duration::ZERO);
        }
    }

    fn stop(&self, signal: i32, within: Duration) {
        self.order(Order::Stop { signal, within });
    }

    fn order(&self, order: Order) {
        // A guardian that is gone has nothing more to do.
        let _ = (&self.control).write_all(format!("{order}\n").as_bytes());
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
    stop_signal: i32,
    post: Post,
}

impl Child {
    pub(super) fn new(running: Arc<Running>, stop_signal: i32, post: Post) -> Child {
        Child { running, stop_signal, post }
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
        self.running.stop(self.stop_signal, rounded_up(deadline.saturating_duration_since(Instant::now())));
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
        self.running.stop(Signal::KILL.as_raw(), Duration::ZERO);
    }

    fn signal(&self, signal: i32) {
        self.running.order(Order::Signal(signal));
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

/// Whole milliseconds, which the order has, and not less than this.
fn rounded_up(time: Duration) -> Duration {
    if time.is_zero() { time } else { time.saturating_add(Duration::from_micros(999)) }
}
