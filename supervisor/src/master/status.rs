//! What others can see of the state: status, readiness, the service manager's view.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use worker::deadline_after;

use crate::host::{Phase, View};
use crate::journal::Journal;
use crate::listen::{self, Address};
use crate::protocol::{
    self, Answer, ConnectionState, ErrorCode, MAX_NAMED, ProgramConnection, Progress, Refusal, Status,
};
use crate::server::{Builder, Clients, Failure, Look};
use crate::text::{Reason, milliseconds};
use crate::version::VERSION;
use crate::wire;

use super::drains::Drains;
use super::live::Live;
use super::pause::Pausing;
use super::readiness::Readiness;
use super::reply::Reply;
use super::restarts::Restart;
use super::state::{
    Cause, Emptying, Preparing, Proving, Rebuilding, Replacing, Retiring, Serving, Starting, State, Waiting,
};
use super::stop::Why;

/// What does not change as long as the supervisor lives, except for the program.
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) name: String,
    pub(crate) kind: String,
    /// Empty: the program binds its own.
    pub(crate) addresses: Vec<Address>,
    /// The program that is the server, for people. None: the server consists of handlers.
    pub(crate) program: Option<String>,
    /// Whether its connections are known. If a program accepts them itself, only that program knows them.
    pub(crate) has_clients: bool,
    /// The address of the health endpoint.
    pub(crate) health: Option<SocketAddr>,
    pub(crate) log: Journal,
    pub(crate) started: Instant,
}

/// What has happened so far.
#[derive(Debug)]
pub(super) struct Record {
    /// The number of the last generation.
    pub(super) generations: u64,
    /// The number of the last build. Not each becomes a generation.
    pub(super) builds: u64,
    /// How many restarts that were requested have been completed.
    pub(super) restarts: usize,
    /// How many times the server has ended by itself.
    pub(super) crashes: usize,
    /// The last of these ends.
    last_end: Option<LastEnd>,
    /// What it is doing, for others, and since when.
    doing: (protocol::State, Instant),
}

#[derive(Debug)]
struct LastEnd {
    generation: u64,
    reason: String,
    wrote: Vec<String>,
    at: Instant,
}

impl Record {
    pub(super) fn new(now: Instant) -> Record {
        let doing = (protocol::State::Starting, now);
        Record { generations: 0, builds: 0, restarts: 0, crashes: 0, last_end: None, doing }
    }

    /// This generation has ended by itself, or could not be started.
    pub(super) fn ended(&mut self, generation: u64, failure: &Failure, now: Instant) {
        let (reason, wrote) = (failure.reason.clone(), failure.wrote.clone());
        self.last_end = Some(LastEnd { generation, reason, wrote, at: now });
    }

    /// Notes what it is doing now.
    pub(super) fn note(&mut self, state: &State, now: Instant) {
        let doing = doing(state);
        if self.doing.0 != doing {
            self.doing = (doing, now);
        }
    }
}

/// All that can be reported, at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Snapshot<'a> {
    pub(super) identity: &'a Identity,
    pub(super) record: &'a Record,
    pub(super) state: &'a State,
    pub(super) drains: &'a Drains,
    pub(super) readiness: &'a Readiness,
    pub(super) pausing: &'a Pausing,
    pub(super) builder: &'a dyn Builder,
    pub(super) now: Instant,
}

impl<'a> Snapshot<'a> {
    /// All generations, oldest first.
    pub(super) fn live(self) -> impl Iterator<Item = &'a Live> {
        self.drains.live().chain(self.state.serving())
    }

    /// The clients of each generation, and those that no generation has.
    pub(super) fn clients(self) -> impl Iterator<Item = (Option<u64>, &'a dyn Clients)> {
        let of_one = |live: &'a Live| Some((Some(live.number), live.generation.clients()?));
        self.live().filter_map(of_one).chain(self.builder.held().map(|held| (None, held)))
    }

    /// Whether it is ready for new clients.
    pub(super) fn is_ready(self) -> bool {
        let serves = match self.state {
            State::Serving(_) | State::Replacing(_) | State::Preparing(_) | State::Proving(_) | State::Retiring(_) => {
                true
            }
            State::Starting(_) | State::Emptying(_) | State::Rebuilding(_) | State::Waiting(_) | State::Draining(_) => {
                false
            }
        };
        serves && self.readiness.is_ready()
    }

    /// Lists all connections that are open.
    pub(super) fn list_connections(self, reply: Reply) {
        if !self.identity.has_clients {
            return self.look_at_connections(reply);
        }
        let connections = self.clients().flat_map(|(generation, clients)| {
            let connections = clients.connections().into_iter();
            connections.map(move |connection| wire::connection(&connection, generation, false))
        });
        let connections: Vec<_> = connections.collect();
        for some in connections.chunks(MAX_NAMED) {
            reply.report(Progress::Connections { connections: some.to_vec() });
        }
        reply.answer(Answer::Connections { open: connections.len() });
    }

    /// Lists the connections that programs accept themselves. This takes a thread: the system may have very many.
    fn look_at_connections(self, reply: Reply) {
        let addresses = &self.identity.addresses;
        if !addresses.is_empty() && addresses.iter().all(|address| address.tcp().is_none()) {
            let message = "connections are not available: those of Unix sockets cannot be seen".into();
            return reply.refuse(ErrorCode::NoConnection, message);
        }
        let looks: Vec<_> = self.live().map(|live| Some((live.number, live.generation.look()?))).collect();
        let Some(looks) = looks.into_iter().collect::<Option<Vec<_>>>() else {
            let message = "connections are not available: this system does not show those of the program".into();
            return reply.refuse(ErrorCode::NoConnection, message);
        };
        let thread = thread::Builder::new().name("connections".into()).spawn({
            let reply = reply.clone();
            move || reply_with(reply, looks)
        });
        if let Err(error) = thread {
            let message = format!("the system does not give a thread for that: {}", Reason(&error));
            reply.refuse(ErrorCode::Failed, message);
        }
    }

    pub(super) fn pong(self) -> Answer {
        Answer::Pong { name: self.identity.name.clone(), pid: std::process::id(), version: VERSION.into() }
    }

    pub(super) fn status(self) -> Status {
        let Snapshot { identity, record, state, drains, readiness, pausing, builder: _, now } = self;
        let ms_since = |at: Instant| milliseconds(now.saturating_duration_since(at));
        let drain = match state {
            State::Draining(draining) => Some(draining.drain(drains, now)),
            State::Starting(_)
            | State::Serving(_)
            | State::Replacing(_)
            | State::Preparing(_)
            | State::Proving(_)
            | State::Emptying(_)
            | State::Rebuilding(_)
            | State::Retiring(_)
            | State::Waiting(_) => drains.first().map(|old| old.drain(now)),
        };
        Status {
            name: identity.name.clone(),
            kind: identity.kind.clone(),
            state: doing(state),
            state_ms: ms_since(record.doing.1),
            ready: self.is_ready(),
            unavailable: None,
            says: state.current().and_then(|current| current.generation.says()),
            evidence: state.current().and_then(|current| current.generation.evidence()),
            pid: std::process::id(),
            address: identity.addresses.iter().find_map(Address::tcp),
            addresses: identity.addresses.iter().map(Address::to_string).collect(),
            program: identity.program.clone(),
            program_pid: state.current().and_then(|current| current.generation.pid()),
            health: identity.health,
            uptime_ms: ms_since(identity.started),
            generation: state.current().map_or(record.generations, |current| current.number),
            restarts: record.restarts,
            crashes: record.crashes,
            connections: identity.has_clients.then(|| wire::counts(drains.counts(state.serving()))),
            relay: self.relay(),
            drain,
            last_end: record.last_end.as_ref().map(|end| protocol::LastEnd {
                generation: end.generation,
                reason: end.reason.clone(),
                last_output: end.wrote.clone(),
                ago_ms: ms_since(end.at),
            }),
            delay: readiness.delay(now),
            pause: pausing.status(now),
            next_try_ms: self.next_try().map(|at| milliseconds(at.saturating_duration_since(now))),
            version: VERSION.into(),
        }
    }

    fn relay(self) -> Option<protocol::Relay> {
        let upstream = self.state.current().and_then(|current| current.generation.upstream());
        Some(protocol::Relay { upstream, ..self.builder.relay()? })
    }

    /// When the server is started again, if it is not running.
    fn next_try(self) -> Option<Instant> {
        match self.state {
            State::Waiting(Waiting { until }) => Some(*until),
            State::Rebuilding(Rebuilding { cause: Cause::Emptied { .. }, .. }) => None,
            State::Rebuilding(_) => Some(self.now),
            State::Starting(_)
            | State::Serving(_)
            | State::Replacing(_)
            | State::Preparing(_)
            | State::Proving(_)
            | State::Emptying(_)
            | State::Retiring(_)
            | State::Draining(_) => None,
        }
    }

    /// What the service manager should know.
    pub(super) fn view(self) -> View {
        let builds = self.record.builds;
        // Recovery from a crash is not a restart that a client waits for.
        let phase = |restart: Option<&Restart>, build| match restart {
            Some(_) => Phase::Restarting { build },
            None => Phase::Ready,
        };
        let drained_by = |generation: u64| self.drains.of(generation).map(|old| self.drains.gone_by(old.deadline));
        let (phase, status, deadline) = match self.state {
            State::Starting(Starting { since }) => {
                (Phase::Starting, self.not_serving("starting"), Some(self.built_by(*since)))
            }
            State::Serving(Serving { current, check: _ }) => (Phase::Ready, self.serving(current), None),
            State::Replacing(Replacing { current, restart: _, since })
            | State::Preparing(Preparing { current, restart: _, since }) => {
                let status = format!("{}; restarting", self.serving(current));
                (Phase::Restarting { build: builds }, status, Some(self.built_by(*since)))
            }
            State::Proving(Proving { current, next, until, .. }) => {
                let status = format!("{}; generation {} has to prove itself", self.serving(current), next.number);
                (Phase::Restarting { build: builds }, status, Some(*until))
            }
            State::Emptying(Emptying { generation, .. }) => {
                let status = format!("restarting; generation {generation} is draining");
                (Phase::Restarting { build: builds }, status, drained_by(*generation))
            }
            State::Rebuilding(Rebuilding { cause, since }) => {
                let deadline = cause.restart().map(|_| self.built_by(*since));
                (phase(cause.restart(), builds), self.not_serving("starting"), deadline)
            }
            State::Retiring(Retiring { current, replaced, .. }) => {
                let status = format!("{}; generation {replaced} is draining", self.serving(current));
                (Phase::Restarting { build: current.build }, status, drained_by(*replaced))
            }
            State::Waiting(_) => (Phase::Ready, self.not_serving("waiting to start"), None),
            State::Draining(draining) => {
                let status = match &draining.why {
                    Why::Requested(by) => format!("{by}: stopping"),
                    Why::Failed(error) => format!("stopping: {error}"),
                };
                (Phase::Stopping, status, Some(self.drains.gone_by(draining.deadline.at())))
            }
        };
        // A stop that the manager asked for may be postponed, so the manager has to wait longer.
        let awaited = self.readiness.awaited_by_manager();
        let phase = if self.readiness.is_bound_to_stop() { Phase::Stopping } else { phase };
        View { phase, status, deadline: deadline.max(awaited) }
    }

    /// By when the build that began at `since` has to be ready.
    fn built_by(self, since: Instant) -> Instant {
        deadline_after(since, self.builder.limit())
    }

    fn serving(self, current: &Live) -> String {
        format!("serving on {}, generation {}", self.identity.place(), current.number)
    }

    /// There is no generation that serves.
    fn not_serving(self, what: &str) -> String {
        let why = self.record.last_end.as_ref().map(|end| format!(": {}", end.reason)).unwrap_or_default();
        format!("{what} generation {}{why}", self.record.generations + 1)
    }
}

impl Identity {
    /// Whether the server is a program.
    pub(super) fn has_program(&self) -> bool {
        self.program.is_some()
    }

    /// Why no connection can be closed, if so.
    pub(super) fn no_clients(&self) -> Option<Refusal> {
        let message = "the connection cannot be closed: without --relay only the program has it".into();
        (!self.has_clients).then_some(Refusal { code: ErrorCode::NoConnection, message })
    }

    /// Where it serves, for people.
    fn place(&self) -> String {
        match (&self.addresses[..], &self.program) {
            ([], program) => program.clone().unwrap_or_default(),
            (addresses, _) => listen::in_words(addresses),
        }
    }
}

/// Lists the connections of these generations. Clients that wait to be accepted are seen with each of them.
fn reply_with(reply: Reply, looks: Vec<(u64, Look)>) {
    let mut connections: Vec<ProgramConnection> = Vec::new();
    for (number, look) in looks {
        let seen = match look() {
            Ok(seen) => seen,
            Err(error) => {
                let message = format!("connections are not available: {}", Reason(&error));
                return reply.refuse(ErrorCode::NoConnection, message);
            }
        };
        for seen in seen {
            if seen.state != ConnectionState::Waiting {
                connections.push(ProgramConnection { generation: Some(number), ..seen });
            } else if !connections.iter().any(|it| (it.peer, it.address) == (seen.peer, seen.address)) {
                connections.push(seen);
            }
        }
    }
    for some in connections.chunks(MAX_NAMED) {
        reply.report(Progress::ProgramConnections { connections: some.to_vec() });
    }
    reply.answer(Answer::Connections { open: connections.len() });
}

/// What it is doing, for others.
fn doing(state: &State) -> protocol::State {
    match state {
        State::Starting(_) => protocol::State::Starting,
        State::Serving(_) => protocol::State::Serving,
        State::Replacing(_)
        | State::Preparing(_)
        | State::Proving(_)
        | State::Emptying(_)
        | State::Rebuilding(Rebuilding { cause: Cause::Emptied { .. }, .. })
        | State::Retiring(_) => protocol::State::Restarting,
        State::Rebuilding(Rebuilding {
            cause: Cause::Policy | Cause::Request { .. } | Cause::Crash { .. }, ..
        })
        | State::Waiting(_) => protocol::State::Waiting,
        State::Draining(_) => protocol::State::Draining,
    }
}
