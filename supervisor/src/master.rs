//! Master control: the one thread that owns all state. It waits for an [`Event`] and does what the state says.

mod drains;
mod readiness;
mod requests;
#[cfg(test)]
mod tests;
mod view;

use std::collections::VecDeque;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use worker::{Counts, DrainReport, deadline_after};

use crate::event::{Event, Trigger};
use crate::host::Manager;
use crate::journal::Journal;
use crate::listen::{self, Address};
use crate::log::Level;
use crate::protocol::{self, Answer, ErrorCode, Progress, Refusal, Request, Response, Status};
use crate::restart::{self, Decision, History};
use crate::server::BuildError;
use crate::server::{Builder, Built, Ended, Server, Settings};
use crate::text::{Count, Seconds, milliseconds};
use crate::watchdog::{OVERRUN, Watchdog};
use crate::{Announcement, Error, Report, text, wire};

use drains::{Old, Running, Stop, Why};
use readiness::NotReady;
use requests::{Reply, Restart};

/// How often those who wait for a drain hear how it goes.
const COUNTDOWN: Duration = Duration::from_secs(1);

/// How long a new server waits until the old one accepts nothing any more. Then it accepts all the same: the old one
/// hangs.
const OPEN_LIMIT: Duration = Duration::from_secs(5);

/// How long a server that is looked at may take to accept a connection, at most and at least.
const CHECK_LIMIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(1));

/// What does not change as long as the supervisor lives.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// None: a program looks after that itself.
    pub(crate) addresses: Vec<Address>,
    /// The program that is the server, for people.
    pub(crate) program: Option<String>,
    /// The address of the health endpoint.
    pub(crate) health: Option<SocketAddr>,
    pub(crate) log: Journal,
    pub(crate) started: Instant,
}

/// Runs on the thread `master-control`.
#[derive(Debug)]
pub(crate) struct Master {
    identity: Identity,
    builder: Box<dyn Builder>,
    /// None where nothing shall end the process.
    watchdog: Option<Watchdog>,
    manager: Manager,
    /// What is said when the first generation is ready.
    announcement: Option<Announcement>,
    /// Those of the generation that takes connections.
    settings: Settings,
    /// The number of the last generation.
    generations: u64,
    /// The number of the last build. Not each becomes a generation.
    builds: u64,
    /// Servers that take no connections any more, and whose clients have not all left.
    old: Vec<Old>,
    /// Restarts that were asked for while another one was under way, in order.
    queue: VecDeque<Restart>,
    history: History,
    /// Somebody does not want new clients to be sent here.
    not_ready: Option<NotReady>,
    last_end: Option<LastEnd>,
    /// Counted in generations that are gone.
    past: Counts,
    /// How many restarts that somebody asked for have been completed.
    restarts: usize,
    /// How many times the server has ended by itself.
    crashes: usize,
    /// What it has been doing, for others, and since when.
    doing: (protocol::State, Instant),
}

/// The last time that the server ended by itself.
#[derive(Debug)]
struct LastEnd {
    generation: u64,
    reason: String,
    at: Instant,
}

/// What the server is doing. What belongs to a state only is inside it.
#[derive(Debug)]
enum State {
    /// The first generation is being built, since this time.
    Starting { since: Instant },
    /// The current generation takes connections.
    Serving { current: Running, check: Check },
    /// The current generation makes way for a restart, and the next one can be built only when it is gone.
    Emptying { generation: u64, restart: Restart, countdown: Instant },
    /// The next generation is being built since this time, beside the current one if there is one.
    Building { current: Current, restart: Option<Restart>, since: Instant },
    /// The next generation has been built, and takes connections as soon as the one that it replaces takes none.
    Opening {
        current: Running,
        settings: Settings,
        replaced: Option<Replaced>,
        restart: Option<Restart>,
        limit: Instant,
    },
    /// The current generation takes connections, and the restart is complete when the one that it replaced is gone.
    Retiring { current: Running, replaced: u64, restart: Restart, countdown: Instant },
    /// The server has ended by itself and is started again at this time.
    Waiting { until: Instant },
    /// All servers let their clients go, and then the supervisor ends.
    Draining { servers: Vec<Running>, ended: Ended, stop: Stop },
}

/// What there is while the next generation is being built.
#[derive(Debug)]
enum Current {
    /// A generation that takes connections.
    Serves(Running),
    /// None, since the server has ended by itself. If somebody asked for this build, the next one was to begin at this
    /// time.
    Crashed { until: Option<Instant> },
    /// None, since this one had to make way first.
    Emptied(u64, protocol::Report),
}

/// Whether the server is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    Never,
    At(Instant),
    UnderWay,
}

/// The generation that another one replaces.
#[derive(Debug)]
enum Replaced {
    /// It is in [`Master::old`].
    Draining(u64),
    Gone(u64, protocol::Report),
}

/// Why a server ended by itself.
#[derive(Debug)]
struct Failure {
    reason: String,
    /// It ended with exit status 0.
    clean: bool,
}

/// The end of the server, and those who have not heard of it yet.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) result: Result<Report, Error>,
    waiting: Vec<Sender<Response>>,
}

impl Master {
    /// Master control over servers that `builder` makes.
    pub(crate) fn new(
        identity: Identity,
        builder: Box<dyn Builder>,
        settings: Settings,
        watchdog: Option<Watchdog>,
        manager: Manager,
        announcement: Option<Announcement>,
    ) -> Master {
        let doing = (protocol::State::Starting, identity.started);
        Master {
            identity,
            builder,
            watchdog,
            manager,
            announcement,
            settings,
            generations: 0,
            builds: 0,
            old: Vec::new(),
            queue: VecDeque::new(),
            history: History::default(),
            not_ready: None,
            last_end: None,
            past: Counts::default(),
            restarts: 0,
            crashes: 0,
            doing,
        }
    }

    /// Starts the server, and handles events until it has stopped.
    pub(crate) fn run(mut self, events: &Receiver<Event>) -> End {
        let mut state = self.start(Instant::now());
        loop {
            let event = match self.next_tick(&state) {
                None => events.recv().map_err(RecvTimeoutError::from),
                Some(at) => events.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let event = match event {
                Ok(event) => event,
                // The builder holds a sender, so it is never disconnected.
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    if let Some(watchdog) = &self.watchdog {
                        watchdog.event_queued();
                    }
                    Event::Tick
                }
            };
            let next = self.handle(state, event, Instant::now());
            if let Some(watchdog) = &self.watchdog {
                watchdog.event_done();
            }
            match next {
                ControlFlow::Continue(next) => state = next,
                ControlFlow::Break(end) => return end,
            }
        }
    }

    fn start(&mut self, now: Instant) -> State {
        self.begin_build();
        let state = State::Starting { since: now };
        self.tell_manager(&state, now);
        state
    }

    fn handle(&mut self, state: State, event: Event, now: Instant) -> ControlFlow<End, State> {
        self.manager.beat(now);
        let state = match event {
            Event::Stop { by, grace } => self.on_stop(state, by, grace, None, now),
            Event::Restart { by, grace } => self.on_restart(state, Restart::new(by, grace, None), now),
            Event::Request { request, by, reply } => match request {
                Request::Ping {} => answer(state, &reply, self.pong()),
                Request::Status {} => {
                    let status = self.status(&state, now);
                    answer(state, &reply, status)
                }
                Request::Connections {} => {
                    let connections = self.connections(&state);
                    for some in connections.chunks(protocol::MAX_NAMED) {
                        // A client that has gone away meanwhile needs no answer; the same everywhere.
                        let _ = reply.send(Response::Progress(Progress::Connections { connections: some.to_vec() }));
                    }
                    let open = connections.len();
                    let refusal = self.identity.program.as_deref().map(drains::own_affair);
                    answer(state, &reply, refusal.map_or(Answer::Connections { open }, Answer::Error))
                }
                Request::Close { id, grace_ms } => {
                    self.on_close(&state, &by, id, grace_ms.map(Duration::from_millis), reply);
                    state
                }
                Request::Grace { grace_ms } => {
                    let (state, moved) = self.on_grace(state, &by, Duration::from_millis(grace_ms), now);
                    answer(state, &reply, moved)
                }
                Request::Drain {} => {
                    self.drain(&by);
                    answer(state, &reply, Answer::Readiness { ready: false })
                }
                Request::Resume {} => {
                    let resumed = self.on_resume(&state, &by);
                    answer(state, &reply, resumed)
                }
                Request::Stop { grace_ms, delay_ms, wait } => {
                    let (grace, delay) = (grace_ms.map(Duration::from_millis), Duration::from_millis(delay_ms));
                    let reply = Reply { to: reply, wait };
                    if delay.is_zero() {
                        self.on_stop(state, by, grace, Some(reply), now)
                    } else {
                        self.on_scheduled_stop(state, by, grace, delay, reply, now)
                    }
                }
                Request::Restart { grace_ms, wait } => {
                    let grace = grace_ms.map(Duration::from_millis);
                    self.on_restart(state, Restart::new(by, grace, Some(Reply { to: reply, wait })), now)
                }
                // The admin socket answers that by itself.
                Request::Events { .. } => state,
            },
            Event::Built { build, built } => self.on_built(state, build, built, now),
            Event::Accepting { build } => self.on_accepting(state, build, now),
            Event::Exited { build, reason, clean } => self.on_failed(state, build, Failure { reason, clean }, now),
            Event::Signal { signal } => {
                if let Some(current) = state.current() {
                    current.server.signal(signal);
                }
                state
            }
            Event::Finished { build } => self.on_finished(state, build, now),
            Event::Checked { build, accepting } => self.on_checked(state, build, accepting, now),
            Event::Tick => self.on_tick(state, now),
        };
        let (doing, _) = state.doing(now);
        if self.doing.0 != doing {
            self.doing = (doing, now);
        }
        self.tell_manager(&state, now);
        match state {
            State::Draining { servers, ended, stop } if servers.is_empty() && !self.builder.is_building() => {
                ControlFlow::Break(self.end(stop, ended, now))
            }
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. }
            | State::Draining { .. } => ControlFlow::Continue(state),
        }
    }

    fn on_stop(
        &mut self,
        state: State,
        by: Trigger,
        grace: Option<Duration>,
        reply: Option<Reply>,
        now: Instant,
    ) -> State {
        let (servers, restart) = match state {
            State::Draining { servers, ended, mut stop } => {
                if !stop.comes_with(&by, now) {
                    self.shorten(&servers, &mut stop, &by, grace, now);
                }
                if let Some(reply) = reply {
                    stop.attend(reply, &servers, now);
                }
                return State::Draining { servers, ended, stop };
            }
            State::Starting { since: _ } => (Vec::new(), None),
            State::Serving { current, check: _ } => (vec![current], None),
            State::Building { current: Current::Serves(current), restart, since: _ } => (vec![current], restart),
            State::Building { current: Current::Crashed { .. } | Current::Emptied(..), restart, since: _ } => {
                (Vec::new(), restart)
            }
            State::Emptying { generation: _, restart, countdown: _ } => (Vec::new(), Some(restart)),
            State::Opening { current, restart, .. } => (vec![current], restart),
            State::Retiring { current, restart, .. } => (vec![current], Some(restart)),
            State::Waiting { until: _ } => (Vec::new(), None),
        };
        self.cancel_restarts(restart);
        let scheduled = self.not_ready.as_ref().and_then(NotReady::deadline);
        let until_then = scheduled.map(|deadline| deadline.saturating_duration_since(now));
        let limits = [Some(grace.unwrap_or(self.settings.grace)), by.limit(), until_then];
        let grace = limits.into_iter().flatten().min().unwrap_or_default();
        let (servers, mut stop) = self.begin_stop(servers, Why::Asked(by), grace, now);
        if let Some(reply) = reply {
            stop.attend(reply, &servers, now);
        }
        State::Draining { servers, ended: Ended::default(), stop }
    }

    fn on_restart(&mut self, state: State, restart: Restart, now: Instant) -> State {
        match state {
            State::Serving { current, check: _ } => self.begin_restart(Current::Serves(current), restart, now),
            State::Waiting { until } => self.begin_restart(Current::Crashed { until: Some(until) }, restart, now),
            State::Starting { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. } => {
                self.queue.push_back(restart.accepted(self.queue.len() + 1));
                state
            }
            State::Draining { .. } => {
                self.cancel_restarts(Some(restart));
                state
            }
        }
    }

    fn on_built(&mut self, state: State, build: u64, built: Result<Built, BuildError>, now: Instant) -> State {
        match (state, built) {
            (State::Starting { since: _ }, Ok(built)) if build == self.builds => {
                if let Some(announcement) = self.announcement.take() {
                    announcement.make();
                }
                // They hold from the beginning: it may end before it is heard that it takes connections.
                self.settings = built.settings.clone();
                built.server.opener()(None);
                self.opening(build, built, None, None, now)
            }
            (State::Starting { since: _ }, Err(source)) if build == self.builds => self.not_started(source, now),
            (State::Building { current: Current::Serves(current), restart, .. }, Ok(built)) if build == self.builds => {
                self.replace(current, build, built, restart, now)
            }
            (State::Building { current: Current::Crashed { .. }, restart, .. }, Ok(built)) if build == self.builds => {
                built.server.opener()(None);
                self.opening(build, built, None, restart, now)
            }
            (State::Building { current: Current::Emptied(generation, report), restart, .. }, Ok(built))
                if build == self.builds =>
            {
                built.server.opener()(None);
                self.opening(build, built, Some(Replaced::Gone(generation, report)), restart, now)
            }
            (State::Building { current, restart, since: _ }, Err(reason)) if build == self.builds => {
                self.restart_failed(current, restart, reason.to_string(), now)
            }
            (State::Draining { mut servers, ended, stop }, Ok(built)) => {
                // It has the listening socket, so its end has to be awaited. It must not touch the queue, which another
                // one empties: it would take the connection that wakes that one.
                discard(&*built.server);
                servers.push(Running { build, generation: self.generations + 1, server: built.server, since: now });
                State::Draining { servers, ended, stop }
            }
            // It comes too late, and is dropped.
            (
                state @ (State::Starting { .. }
                | State::Serving { .. }
                | State::Emptying { .. }
                | State::Building { .. }
                | State::Opening { .. }
                | State::Retiring { .. }
                | State::Waiting { .. }),
                _,
            )
            | (state @ State::Draining { .. }, Err(_)) => state,
        }
    }

    fn on_accepting(&mut self, state: State, build: u64, now: Instant) -> State {
        match state {
            State::Opening { current, settings, replaced, restart, limit: _ } if current.build == build => {
                self.settings = settings;
                // Of the first one the announcement has said more.
                if current.generation > 1 {
                    let message = format!("generation {} takes connections", current.generation);
                    let fields = [("generation", current.generation.into())];
                    self.identity.log.line(Level::Info, "serving", message, fields);
                }
                match (restart, replaced) {
                    (Some(restart), Some(Replaced::Draining(replaced))) => {
                        restart.tell(Progress::Serving { generation: current.generation });
                        if let Some(old) = self.old.iter().find(|old| old.running.generation == replaced) {
                            restart.tell(Progress::Draining(old.drain(now)));
                        }
                        State::Retiring { current, replaced, restart, countdown: now + COUNTDOWN }
                    }
                    (Some(restart), Some(Replaced::Gone(replaced, report))) => {
                        self.restarts += 1;
                        restart.done(current.generation, Some((replaced, report)), now);
                        self.next(current, now)
                    }
                    (Some(restart), None) => {
                        self.restarts += 1;
                        restart.done(current.generation, None, now);
                        self.next(current, now)
                    }
                    (None, _) => self.next(current, now),
                }
            }
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. }
            | State::Draining { .. } => state,
        }
    }

    fn on_failed(&mut self, state: State, build: u64, failure: Failure, now: Instant) -> State {
        match state {
            State::Serving { current, check: _ } if current.build == build => self.crashed(current, None, failure, now),
            State::Opening { current, restart, .. } if current.build == build => {
                self.crashed(current, restart, failure, now)
            }
            State::Retiring { current, restart, .. } if current.build == build => {
                self.crashed(current, Some(restart), failure, now)
            }
            // The next one is on its way already.
            State::Building { current: Current::Serves(current), restart, since } if current.build == build => {
                self.note_crash(current, &failure, now);
                State::Building { current: Current::Crashed { until: None }, restart, since }
            }
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. }
            | State::Draining { .. } => {
                let message = format!("a server failed that was let go already: {}", failure.reason);
                self.identity.log.line(Level::Warning, "old_failed", message, []);
                state
            }
        }
    }

    fn on_finished(&mut self, state: State, build: u64, now: Instant) -> State {
        if let Some(at) = self.old.iter().position(|old| old.running.build == build) {
            let old = self.old.remove(at);
            let generation = old.running.generation;
            let report = self.old_is_gone(old, now);
            return self.after_old(state, generation, report, now);
        }
        match state {
            State::Draining { mut servers, mut ended, stop } => {
                if let Some(at) = servers.iter().position(|running| running.build == build) {
                    ended.add(self.ended(servers.remove(at)));
                }
                State::Draining { servers, ended, stop }
            }
            // One that came too late and was dropped. The current generation is none of these: it says that it has
            // failed before it says that it is done.
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. } => state,
        }
    }

    fn on_checked(&mut self, state: State, build: u64, accepting: bool, now: Instant) -> State {
        match state {
            State::Serving { mut current, check: _ } if current.build == build => {
                if !accepting {
                    // It says that it has failed, and the rest follows.
                    current.server.give_up("it takes no connections");
                }
                self.serving(current, now)
            }
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. }
            | State::Draining { .. } => state,
        }
    }

    fn on_tick(&mut self, state: State, now: Instant) -> State {
        let state = self.enforce_deadlines(state, now);
        let state = self.start_due_stop(state, now);
        match state {
            State::Serving { current, check: Check::At(at) } if at <= now => {
                let every = self.settings.check_every.unwrap_or(CHECK_LIMIT.0);
                current.server.check(every.clamp(CHECK_LIMIT.1, CHECK_LIMIT.0));
                State::Serving { current, check: Check::UnderWay }
            }
            State::Starting { since } if self.build_limit(since) <= now => {
                let reason = format!("the server was not ready within {}", Seconds(self.builder.limit()));
                self.not_started(reason.into(), now)
            }
            State::Building { current, restart, since } if self.build_limit(since) <= now => {
                // What is built after all comes too late.
                self.builds += 1;
                let reason = format!("the new server was not ready within {}", Seconds(self.builder.limit()));
                self.restart_failed(current, restart, reason, now)
            }
            State::Opening { current, settings, replaced: replaced @ Some(_), restart, limit } if limit <= now => {
                let message = "the old server does not stop to accept; the new one accepts beside it";
                self.identity.log.line(Level::Warning, "old_hangs", message, []);
                current.server.opener()(None);
                State::Opening { current, settings, replaced, restart, limit: now + OPEN_LIMIT }
            }
            State::Emptying { generation, restart, countdown } if countdown <= now => {
                self.count_down_old(generation, &restart, now);
                State::Emptying { generation, restart, countdown: now + COUNTDOWN }
            }
            State::Retiring { current, replaced, restart, countdown } if countdown <= now => {
                self.count_down_old(replaced, &restart, now);
                State::Retiring { current, replaced, restart, countdown: now + COUNTDOWN }
            }
            State::Waiting { until } if until <= now => self.try_again(now),
            State::Draining { servers, ended, mut stop } if stop.countdown <= now => {
                self.count_down(&servers, &mut stop, now);
                State::Draining { servers, ended, stop }
            }
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. }
            | State::Draining { .. } => state,
        }
    }

    /// When there is something to do, although nothing happens.
    fn next_tick(&self, state: &State) -> Option<Instant> {
        let own = match state {
            State::Serving { check: Check::At(at), .. } => Some(*at),
            State::Serving { check: Check::Never | Check::UnderWay, .. } => None,
            State::Starting { since } | State::Building { since, .. } => Some(self.build_limit(*since)),
            State::Opening { replaced: Some(_), limit, .. } => Some(*limit),
            // It was opened when it was built.
            State::Opening { replaced: None, .. } => None,
            State::Emptying { countdown, .. } | State::Retiring { countdown, .. } => Some(*countdown),
            State::Waiting { until } => Some(*until),
            State::Draining { stop, .. } => Some(stop.countdown),
        };
        let old = self.old.iter().map(Old::overdue_at);
        let scheduled = self.not_ready.as_ref().and_then(NotReady::next);
        own.into_iter().chain(old).chain(scheduled).chain(self.manager.next_beat()).min()
    }

    /// The current generation takes connections, and nothing else goes on.
    fn serving(&self, current: Running, now: Instant) -> State {
        let check = self.settings.check_every.map_or(Check::Never, |every| Check::At(deadline_after(now, every)));
        State::Serving { current, check }
    }

    /// A restart is over: the next one, if others wait.
    fn next(&mut self, current: Running, now: Instant) -> State {
        match self.queue.pop_front() {
            Some(restart) => self.begin_restart(Current::Serves(current), restart, now),
            None => self.serving(current, now),
        }
    }

    fn begin_restart(&mut self, current: Current, restart: Restart, now: Instant) -> State {
        let message = format!("{}: restarting", restart.by);
        self.identity.log.line(Level::Info, "restarting", message, [("by", restart.by.to_string().into())]);
        for (before, waiting) in self.queue.iter().enumerate() {
            waiting.tell(Progress::Restarting { ahead: before + 1 });
        }
        let mut restart = restart.accepted(0);
        let current = match current {
            Current::Serves(current) if !self.builder.overlaps() => {
                let grace = restart.grace.unwrap_or(self.settings.grace);
                let generation = current.generation;
                match self.retire(current, restart.by.to_string(), grace, Box::new(|_| {}), now) {
                    Ok(old) => {
                        restart.tell(Progress::Draining(old.drain(now)));
                        self.old.push(old);
                        restart.down_since = Some(now);
                        return State::Emptying { generation, restart, countdown: now + COUNTDOWN };
                    }
                    // It goes on, and so the next one cannot start.
                    Err((current, error)) => {
                        let current = Current::Serves(current);
                        return self.restart_failed(current, Some(restart), text::Reason(&error).to_string(), now);
                    }
                }
            }
            current => current,
        };
        self.begin_build();
        State::Building { current, restart: Some(restart), since: now }
    }

    /// When what is being built since then has to be ready. How long that may take may turn out only while it is being
    /// built.
    fn build_limit(&self, since: Instant) -> Instant {
        deadline_after(since, self.builder.limit())
    }

    /// The time has come to start the server again.
    fn try_again(&mut self, now: Instant) -> State {
        self.begin_build();
        State::Building { current: Current::Crashed { until: None }, restart: None, since: now }
    }

    fn begin_build(&mut self) {
        self.builds += 1;
        self.builder.build(self.builds);
    }

    /// The next generation is ready. The current one makes way for it.
    fn replace(&mut self, current: Running, build: u64, built: Built, restart: Option<Restart>, now: Instant) -> State {
        let (by, grace) = match &restart {
            Some(restart) => (restart.by.to_string(), restart.grace),
            None => ("nobody".into(), None),
        };
        let generation = current.generation;
        match self.retire(current, by, grace.unwrap_or(self.settings.grace), built.server.opener(), now) {
            Ok(old) => self.old.push(old),
            Err((current, error)) => {
                discard(&*built.server);
                let address = listen::in_words(&self.identity.addresses);
                let reason =
                    format!("nothing can connect to {address} and wake the old server: {}", text::Reason(&error));
                return self.restart_failed(Current::Serves(current), restart, reason, now);
            }
        }
        self.opening(build, built, Some(Replaced::Draining(generation)), restart, now)
    }

    /// The next generation is about to take connections.
    fn opening(
        &mut self,
        build: u64,
        built: Built,
        replaced: Option<Replaced>,
        restart: Option<Restart>,
        now: Instant,
    ) -> State {
        let Built { server, settings } = built;
        self.generations += 1;
        let current = Running { build, generation: self.generations, server, since: now };
        State::Opening { current, settings, replaced, restart, limit: now + OPEN_LIMIT }
    }

    /// There is no first generation, so nobody has ever been served.
    fn not_started(&mut self, source: BuildError, now: Instant) -> State {
        self.give_up(Error::Build { source }, now)
    }

    /// There is no next generation. The current one goes on, if there is one.
    fn restart_failed(&mut self, current: Current, restart: Option<Restart>, reason: String, now: Instant) -> State {
        let message = match &current {
            Current::Serves(current) => {
                format!("the restart failed, generation {} goes on: {reason}", current.generation)
            }
            Current::Crashed { .. } | Current::Emptied(..) => format!("the server could not be started: {reason}"),
        };
        self.identity.log.line(Level::Error, "restart_failed", &message, []);
        if let Some(restart) = restart {
            restart.failed(message);
        }
        match current {
            Current::Serves(current) => self.next(current, now),
            // Whoever tries by hand uses up none of the tries of the policy.
            Current::Crashed { until: Some(until) } => match self.queue.pop_front() {
                Some(restart) => self.begin_restart(Current::Crashed { until: Some(until) }, restart, now),
                None if until <= now => self.try_again(now),
                None => State::Waiting { until },
            },
            Current::Crashed { until: None } | Current::Emptied(..) => {
                let failure = Failure { reason: format!("it could not be started: {reason}"), clean: false };
                self.recover(self.generations + 1, failure, Duration::ZERO, now)
            }
        }
    }

    /// The current generation has failed.
    fn crashed(&mut self, current: Running, restart: Option<Restart>, failure: Failure, now: Instant) -> State {
        let (generation, ran) = (current.generation, now.saturating_duration_since(current.since));
        self.note_crash(current, &failure, now);
        if let Some(restart) = restart {
            restart.failed(format!("the restart failed, generation {generation} crashed: {}", failure.reason));
        }
        self.recover(generation, failure, ran, now)
    }

    /// A generation that has failed lets its clients go, and is done when it says so.
    fn note_crash(&mut self, current: Running, failure: &Failure, now: Instant) {
        let Failure { reason, clean } = failure;
        self.crashes += 1;
        let (level, event, what) =
            if *clean { (Level::Info, "ended", "ended") } else { (Level::Error, "crashed", "crashed") };
        let message = format!("generation {} {what}: {reason}", current.generation);
        let fields = [("generation", current.generation.into()), ("reason", reason.as_str().into())];
        self.identity.log.line(level, event, message, fields);
        self.last_end = Some(LastEnd { generation: current.generation, reason: reason.clone(), at: now });
        self.old.push(Old::new(current, "its failure".into(), self.settings.grace, now));
    }

    /// No generation takes connections: the restart policy says what now.
    fn recover(&mut self, generation: u64, failure: Failure, ran: Duration, now: Instant) -> State {
        let Failure { reason, clean } = failure;
        let history = std::mem::take(&mut self.history);
        let ended = restart::Ended { failed: !clean, ran };
        let (history, decision) = restart::decide(&self.settings.restart, history, ended, now, chance());
        self.history = history;
        let error = match decision {
            Decision::Wait(wait) => {
                self.last_end = Some(LastEnd { generation, reason, at: now });
                if let Some(restart) = self.queue.pop_front() {
                    return self.begin_restart(Current::Crashed { until: Some(now + wait) }, restart, now);
                }
                let message = format!("starting generation {} in {}", self.generations + 1, Seconds(wait));
                let fields = [("wait_ms", milliseconds(wait).into())];
                self.identity.log.line(Level::Info, "waiting", message, fields);
                return State::Waiting { until: now + wait };
            }
            Decision::GiveUp(times) => Error::CrashedTooOften { times, period: self.settings.restart.period, reason },
            Decision::End => Error::Ended { reason, program: None },
        };
        self.identity.log.line(if clean { Level::Info } else { Level::Error }, "gave_up", &error, []);
        self.give_up(error, now)
    }

    /// There is no server, and there will be none.
    fn give_up(&mut self, error: Error, now: Instant) -> State {
        self.cancel_restarts(None);
        let grace = self.settings.grace;
        let (servers, stop) = self.begin_stop(Vec::new(), Why::Failed(error), grace, now);
        State::Draining { servers, ended: Ended::default(), stop }
    }

    /// There will be no restart any more, neither this one nor those that wait.
    fn cancel_restarts(&mut self, restart: Option<Restart>) {
        let cancelled: Vec<_> = restart.into_iter().chain(self.queue.drain(..)).collect();
        if !cancelled.is_empty() {
            let message = format!("the server is being stopped: {} cancelled", Count(cancelled.len(), "restart"));
            self.identity.log.line(Level::Warning, "no_restart", message, [("restarts", cancelled.len().into())]);
        }
        cancelled.into_iter().for_each(|restart| restart.refuse(stopping()));
    }

    /// All servers that have clients: those of the current generation last.
    fn all<'a>(&'a self, state: &'a State) -> impl Iterator<Item = &'a Running> {
        let draining = match state {
            State::Draining { servers, .. } => &servers[..],
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. } => &[],
        };
        self.old.iter().map(|old| &old.running).chain(draining).chain(state.current())
    }

    fn connections(&self, state: &State) -> Vec<protocol::Connection> {
        drains::connections(self.all(state))
    }

    fn pong(&self) -> Answer {
        Answer::Pong { name: self.identity.name.clone(), pid: std::process::id(), version: crate::VERSION.into() }
    }

    fn status(&self, state: &State, now: Instant) -> Answer {
        let (doing, next_try) = state.doing(now);
        let drain = match state {
            State::Draining { servers, stop, .. } => Some(stop.drain(servers, now)),
            State::Starting { .. }
            | State::Serving { .. }
            | State::Emptying { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Retiring { .. }
            | State::Waiting { .. } => self.old.first().map(|old| old.drain(now)),
        };
        let mut counts = self.past;
        for running in self.all(state) {
            add(&mut counts, running.server.counts());
        }
        Answer::Status(Box::new(Status {
            name: self.identity.name.clone(),
            kind: self.identity.kind.clone(),
            state: doing,
            state_ms: milliseconds(now.saturating_duration_since(self.doing.1)),
            ready: self.is_ready(state),
            pid: std::process::id(),
            address: self.identity.addresses.iter().find_map(Address::tcp),
            addresses: self.identity.addresses.iter().map(Address::to_string).collect(),
            program: self.identity.program.clone(),
            health: self.identity.health,
            uptime_ms: milliseconds(now.saturating_duration_since(self.identity.started)),
            generation: state.current().map_or(self.generations, |running| running.generation),
            restarts: self.restarts,
            crashes: self.crashes,
            connections: self.identity.program.is_none().then(|| wire::counts(counts)),
            drain,
            last_end: self.last_end.as_ref().map(|end| protocol::LastEnd {
                generation: end.generation,
                reason: end.reason.clone(),
                ago_ms: milliseconds(now.saturating_duration_since(end.at)),
            }),
            delay: self.not_ready.as_ref().and_then(|not_ready| not_ready.delay(now)),
            next_try_ms: next_try.map(|at| milliseconds(at.saturating_duration_since(now))),
            version: crate::VERSION.into(),
        }))
    }
}

fn answer(state: State, reply: &Sender<Response>, answer: Answer) -> State {
    // A client that has gone away meanwhile needs no answer.
    let _ = reply.send(Response::Answer(answer));
    state
}

/// Has a server end that never took connections. It has the listening socket, but must not touch the queue: another one
/// may be emptying it, and this one would take the connection that wakes that one.
fn discard(server: &dyn Server) {
    // One that takes no connections need not be woken, so this does not fail.
    let _ = server.retire_by(Instant::now(), Box::new(|_| {}));
    server.opener()(None);
}

fn add(counts: &mut Counts, more: Counts) {
    let Counts { now, total, refused, notified, disconnected, closed, forced } = more;
    counts.now += now;
    counts.total += total;
    counts.refused += refused;
    counts.notified += notified;
    counts.disconnected += disconnected;
    counts.closed += closed;
    counts.forced += forced;
}

fn stopping() -> Refusal {
    Refusal { code: ErrorCode::Stopping, message: "there is no restart, since the server is being stopped".into() }
}

/// A random number from 0 to 1, as good as it has to be for spreading restarts.
fn chance() -> f64 {
    f64::from(RandomState::new().build_hasher().finish() as u32) / f64::from(u32::MAX)
}

impl State {
    /// What it is doing, for others, and when the server is started again.
    fn doing(&self, now: Instant) -> (protocol::State, Option<Instant>) {
        match self {
            State::Starting { .. } => (protocol::State::Starting, None),
            State::Serving { .. } => (protocol::State::Serving, None),
            // It has been announced, and whoever connects is served in a moment.
            State::Opening { current, .. } if current.generation == 1 => (protocol::State::Serving, None),
            State::Emptying { .. }
            | State::Building { current: Current::Serves(_) | Current::Emptied(..), .. }
            | State::Opening { .. }
            | State::Retiring { .. } => (protocol::State::Restarting, None),
            State::Building { current: Current::Crashed { .. }, .. } => (protocol::State::Waiting, Some(now)),
            State::Waiting { until } => (protocol::State::Waiting, Some(*until)),
            State::Draining { .. } => (protocol::State::Draining, None),
        }
    }

    /// The old generation, and the restart that is complete when that is gone.
    fn awaits_old(&self) -> Option<(u64, &Restart)> {
        match self {
            State::Emptying { generation: replaced, restart, .. } | State::Retiring { replaced, restart, .. } => {
                Some((*replaced, restart))
            }
            State::Opening { replaced: Some(Replaced::Draining(replaced)), restart: Some(restart), .. } => {
                Some((*replaced, restart))
            }
            State::Starting { .. }
            | State::Serving { .. }
            | State::Building { .. }
            | State::Opening { .. }
            | State::Waiting { .. }
            | State::Draining { .. } => None,
        }
    }

    /// The generation that takes connections, or is about to.
    fn current(&self) -> Option<&Running> {
        match self {
            State::Serving { current, .. }
            | State::Building { current: Current::Serves(current), .. }
            | State::Opening { current, .. }
            | State::Retiring { current, .. } => Some(current),
            State::Starting { .. }
            | State::Emptying { .. }
            | State::Building { current: Current::Crashed { .. } | Current::Emptied(..), .. }
            | State::Waiting { .. }
            | State::Draining { .. } => None,
        }
    }
}

impl End {
    /// Those who asked for a stop in the last moment get the same answer as the others. A server that was built in the
    /// last moment is ended.
    pub(crate) fn adopt(&mut self, events: Receiver<Event>) {
        for event in events.try_iter() {
            match event {
                Event::Request { request: Request::Stop { .. }, reply, .. } => self.waiting.push(reply),
                Event::Request { request: Request::Restart { .. }, reply, .. } => {
                    let _ = reply.send(Response::Answer(Answer::Error(stopping())));
                }
                Event::Built { built: Ok(built), .. } => {
                    // It has the listening socket. The port is free when it has ended.
                    discard(&*built.server);
                    let _ = built.server.end();
                }
                Event::Request {
                    request:
                        Request::Ping {}
                        | Request::Status {}
                        | Request::Connections {}
                        | Request::Close { .. }
                        | Request::Grace { .. }
                        | Request::Drain {}
                        | Request::Resume {}
                        | Request::Events { .. },
                    ..
                }
                | Event::Stop { .. }
                | Event::Restart { .. }
                | Event::Built { built: Err(_), .. }
                | Event::Accepting { .. }
                | Event::Exited { .. }
                | Event::Finished { .. }
                | Event::Checked { .. }
                | Event::Signal { .. }
                | Event::Tick => {}
            }
        }
    }

    /// Answers those who waited for the end, once the port and the name are free.
    pub(crate) fn tell_waiting(&mut self) {
        let answer = match &self.result {
            Ok(report) => Answer::Stopped { report: report.wire() },
            Err(error) => Answer::Error(Refusal { code: ErrorCode::Failed, message: error.to_string() }),
        };
        for reply in self.waiting.drain(..) {
            // One that has gone away meanwhile needs no answer.
            let _ = reply.send(Response::Answer(answer.clone()));
        }
    }
}

fn clients(number: usize) -> impl fmt::Display {
    Count(number, "client")
}

/// Seconds for people, rounded to tenths.
fn seconds(duration: Duration) -> impl fmt::Display {
    Seconds(duration)
}
