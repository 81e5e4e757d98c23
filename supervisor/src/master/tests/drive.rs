//! Drives master control from event to event, and checks after each that everything is as it should be.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use super::super::state::State;
use super::super::{End, Identity, Master};
use super::world::{PretendedBuilder, PretendedHandle, Shared, lock};
use crate::event::{Event, Trigger};
use crate::host::{Manager, Notify};
use crate::journal::Journal;
use crate::listen::{Address, Bound};
use crate::log::Log;
use crate::protocol::{self, Answer, Progress, Request, Response, Status};
use crate::restart::{RestartMode, RestartPolicy};
use crate::server::{BuildError, Built};
use crate::settings::Settings;

/// What may happen from outside.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// A client asks for something.
    Ask(Request),
    Stop(Trigger),
    Restart(Trigger),
    /// A client asks for a pause, and holds it if it has a number.
    Pause {
        max_ms: Option<u64>,
        holder: Option<u64>,
    },
    HolderGone(u64),
    Connect,
    Disconnect,
    /// The oldest build is done.
    Built,
    /// The oldest build has failed.
    NotBuilt,
    /// The next event of a generation arrives.
    Deliver,
    Crash,
    /// The generation that serves beside the current one crashes.
    NextCrashes,
    Hang,
    /// The check of the current generation fails.
    Unhealthy,
    /// The listening socket fails for good.
    PortFails,
    Wait {
        ms: u64,
    },
}

/// A client that asked for something.
pub(super) struct Asker {
    request: Request,
    heard: Receiver<Response>,
    /// It has heard that its restart begins.
    begun: bool,
    answer: Option<Answer>,
}

impl Asker {
    fn wants_restart(&self) -> bool {
        matches!(self.request, Request::Restart { .. })
    }
}

pub(super) struct Drive {
    pub(super) world: Shared,
    pub(super) master: Master,
    /// None: it has ended.
    pub(super) state: Option<State>,
    pub(super) end: Option<End>,
    pub(super) now: Instant,
    /// How long a new generation serves beside the one that it replaces.
    pub(super) overlap: Duration,
    askers: Vec<Asker>,
    /// What the clients that asked for a pause hear.
    pauses: Vec<Receiver<Response>>,
    /// The highest generation number that a client has heard of.
    generation: u64,
    /// What the service manager was told, and what it believes as a result.
    said: Receiver<String>,
    known: Known,
}

/// What a service manager believes.
#[derive(Debug, Default, PartialEq, Eq)]
enum Known {
    #[default]
    Nothing,
    Ready,
    Reloading,
    Stopping,
}

impl Drive {
    /// The first generation serves.
    pub(super) fn new() -> Drive {
        Drive::serving(None, true)
    }

    pub(super) fn serving(check_every: Option<Duration>, overlaps: bool) -> Drive {
        let mut drive = Drive::starting(check_every, overlaps);
        drive.take(Step::Built);
        drive
    }

    /// The first generation is being built.
    pub(super) fn starting(check_every: Option<Duration>, overlaps: bool) -> Drive {
        let world = Shared::default();
        let now = Instant::now();
        let identity = Identity {
            name: "test".into(),
            kind: "test".into(),
            addresses: vec![Address::Tcp(([127, 0, 0, 1], 1).into())],
            program: None,
            has_clients: true,
            health: None,
            log: Journal::new(Log::silent()),
            started: now,
        };
        let builder = PretendedBuilder::new(&world, overlaps);
        let (line, said) = mpsc::channel();
        let line =
            Box::new(move |message: &str, _: Option<&Bound>| line.send(message.to_owned()).map_err(io::Error::other));
        let notify = Notify::new(line, check_every.map(|every| every * 5), now);
        let manager = Manager::of_notify(notify, identity.log.clone());
        let mut master = Master::new(identity, builder, settings(check_every), None, manager, None);
        let state = Some(master.start(now));
        let known = Known::Nothing;
        let overlap = Duration::ZERO;
        let mut drive = Drive {
            world,
            master,
            state,
            end: None,
            now,
            overlap,
            askers: Vec::new(),
            pauses: Vec::new(),
            generation: 1,
            said,
            known,
        };
        drive.look();
        drive
    }

    pub(super) fn take(&mut self, step: Step) {
        match step {
            Step::Ask(request) => self.ask(request),
            Step::Stop(by) => self.send(Event::Stop { by, grace: None }),
            Step::Restart(by) => self.send(Event::Restart { by, grace: None }),
            Step::Pause { max_ms, holder } => {
                let (by, max) = (Trigger::Code, max_ms.map(Duration::from_millis));
                let (reply, heard) = mpsc::channel();
                self.pauses.push(heard);
                self.send(Event::Pause { by, max, holder, reply });
            }
            Step::HolderGone(holder) => self.send(Event::HolderGone { holder }),
            Step::Connect => {
                if let Some(generation) = lock(&self.world).target() {
                    generation.clients += 1;
                }
            }
            Step::Disconnect => {
                let mut world = lock(&self.world);
                if let Some(generation) = world.generations.iter_mut().find(|generation| generation.clients > 0) {
                    generation.clients -= 1;
                }
            }
            Step::Built => {
                if self.prepared(Ok(())) {
                    return;
                }
                let Some(build) = lock(&self.world).building.pop_front() else { return };
                let settings = self.master.settings.clone();
                let (generation, overlap) = (PretendedHandle::new(&self.world, build), self.overlap);
                let built = Ok(Built { generation, settings, overlap, program: None });
                self.send(Event::Built { build, built });
            }
            Step::NotBuilt => {
                if self.prepared(Err("it could not be built".into())) {
                    return;
                }
                let Some(build) = lock(&self.world).building.pop_front() else { return };
                self.send(Event::Built { build, built: Err("it does not want to".into()) });
            }
            Step::Deliver => {
                let event = lock(&self.world).events.pop_front();
                if let Some(event) = event {
                    self.send(event);
                }
            }
            Step::Crash => {
                let mut world = lock(&self.world);
                if let Some(build) = world.fail_target(self.now) {
                    world.exits(build, "crashed");
                }
            }
            Step::NextCrashes => {
                let mut world = lock(&self.world);
                if let Some(build) = world.fail_next(self.now) {
                    world.exits(build, "crashed");
                }
            }
            Step::Hang => {
                if let Some(generation) = lock(&self.world).target() {
                    generation.hangs = true;
                }
            }
            Step::Unhealthy => {
                let current = self.state.as_ref().and_then(State::current);
                if let Some(build) = current.map(|current| current.build) {
                    self.send(Event::Unhealthy { build, reason: "it does not answer".into(), wrote: Vec::new() });
                }
            }
            Step::PortFails => {
                let mut world = lock(&self.world);
                if world.fail_target(self.now).is_some() {
                    world.events.push_back(Event::PortFailed { reason: "the listening socket failed".into() });
                }
            }
            Step::Wait { ms } => self.wait(Duration::from_millis(ms)),
        }
    }

    /// Delivers the result of a preparation, if one is under way.
    fn prepared(&mut self, prepared: Result<(), BuildError>) -> bool {
        let Some(build) = lock(&self.world).preparing.pop_front() else { return false };
        self.send(Event::Prepared { build, prepared });
        true
    }

    fn ask(&mut self, request: Request) {
        let (reply, heard) = mpsc::channel();
        if self.state.is_some() {
            self.askers.push(Asker { request: request.clone(), heard, begun: false, answer: None });
            self.send(Event::Request { request, by: Trigger::Code, reply });
        }
    }

    pub(super) fn send(&mut self, event: Event) {
        let Some(state) = self.state.take() else { return };
        match self.master.handle(state, event, self.now) {
            ControlFlow::Continue(state) => self.state = Some(state),
            ControlFlow::Break(end) => self.end = Some(end),
        }
        lock(&self.world).settle(self.now);
        self.look();
    }

    /// Lets time pass, with a tick whenever one is due.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.state.as_ref().and_then(|state| self.master.next_tick(state)).filter(|&at| at <= end)
        {
            self.now = self.now.max(at);
            lock(&self.world).settle(self.now);
            self.send(Event::Tick);
            if let Some(state) = &self.state {
                let next = self.master.next_tick(state);
                assert!(next.is_none_or(|next| next > self.now), "it would never sleep: {next:?} in {state:?}");
            }
        }
        self.now = end;
        lock(&self.world).settle(self.now);
    }

    /// Completes all builds and delivers all events, until nothing happens any more.
    pub(super) fn settle(&mut self) {
        for _ in 0..100 {
            self.take(Step::Built);
            self.take(Step::Deliver);
        }
    }

    /// The answer to each client, in short, in the order of their requests.
    pub(super) fn answers(&self) -> Vec<String> {
        let text = |asker: &Asker| match &asker.answer {
            Some(Answer::Restarted { generation, .. }) => format!("restarted {generation}"),
            Some(Answer::Error(refusal)) => format!("{:?}", refusal.code),
            Some(answer) => format!("{answer:?}"),
            None => "nothing yet".into(),
        };
        self.askers.iter().map(text).collect()
    }

    /// What the client that last asked for a pause has heard.
    pub(super) fn heard_of_pause(&self) -> Vec<Response> {
        self.pauses.last().map(|heard| heard.try_iter().collect()).unwrap_or_default()
    }

    /// Checks that everything is as it should be.
    fn look(&mut self) {
        self.look_at_the_world();
        self.hear_the_manager();
        self.hear_the_askers();
    }

    fn look_at_the_world(&self) {
        let world = lock(&self.world);
        assert!(world.has_one_target(), "{world:?}");
        let ends = matches!(self.state, None | Some(State::Draining(_)));
        assert_eq!(world.closed, ends, "the listening socket is closed when it ends, and not before");
        if self.end.is_some() {
            let mut alive = world.generations.iter().filter(|generation| !generation.finished && !generation.dropped);
            assert!(alive.next().is_none(), "it has ended before its generations: {world:?}");
        }
    }

    /// Checks that each client gets one answer, that restarts are answered in order, and that only one restart is under
    /// way at a time.
    fn hear_the_askers(&mut self) {
        let (mut unanswered, mut under_way) = (false, 0);
        for asker in &mut self.askers {
            for response in asker.heard.try_iter() {
                assert!(asker.answer.is_none(), "{response:?} after the answer {:?}", asker.answer);
                match response {
                    Response::Progress(Progress::Restarting { ahead: 0 }) => asker.begun = true,
                    Response::Progress(_) => {}
                    Response::Answer(answer) => {
                        if let Answer::Restarted { generation, .. } = &answer {
                            assert!(!unanswered, "answered before a client that asked before");
                            assert!(*generation > self.generation, "{generation} after {}", self.generation);
                            self.generation = *generation;
                        }
                        if let Answer::Status(status) = &answer {
                            check(status);
                        }
                        asker.answer = Some(answer);
                    }
                    Response::Entry(entry) => panic!("nobody asked for {entry:?}"),
                }
            }
            unanswered |= asker.wants_restart() && asker.answer.is_none();
            under_way += usize::from(asker.begun && asker.answer.is_none());
        }
        assert!(under_way <= 1, "restarts overlap: {:?}", self.answers());
    }

    /// Believes what the service manager is told, and checks that it is true.
    fn hear_the_manager(&mut self) {
        let is_awaited = self.master.readiness.awaited_by_manager().is_some();
        for message in self.said.try_iter() {
            for line in message.lines() {
                let known = &self.known;
                self.known = match line.split_once('=').unwrap() {
                    ("READY", "1") if [Known::Nothing, Known::Reloading].contains(known) => Known::Ready,
                    ("RELOADING", "1") if *known == Known::Ready => Known::Reloading,
                    ("STOPPING", "1") if *known != Known::Stopping => Known::Stopping,
                    ("EXTEND_TIMEOUT_USEC", _) if *known != Known::Ready || is_awaited => continue,
                    ("MONOTONIC_USEC", _) if *known == Known::Reloading => continue,
                    ("STATUS" | "WATCHDOG", _) => continue,
                    _ => panic!("{line} to one that knows {known:?}"),
                };
            }
        }
        let expected = match &self.state {
            Some(_) if self.master.readiness.is_bound_to_stop() => Known::Stopping,
            Some(State::Starting(_)) => Known::Nothing,
            Some(State::Serving(_) | State::Waiting(_)) => Known::Ready,
            Some(State::Rebuilding(rebuilding)) if rebuilding.cause.restart().is_none() => Known::Ready,
            Some(
                State::Rebuilding(_)
                | State::Replacing(_)
                | State::Preparing(_)
                | State::Proving(_)
                | State::Emptying(_)
                | State::Retiring(_),
            ) => Known::Reloading,
            Some(State::Draining(_)) | None => Known::Stopping,
        };
        assert_eq!(self.known, expected, "{:?}", self.state);
    }

    /// Stops it, and checks that each client was answered, and got the answer to its request.
    pub(super) fn finish(mut self) {
        self.ask(Request::Stop { grace_ms: Some(0), spread_ms: None, delay_ms: None, wait: true });
        for _ in 0..200 {
            self.take(Step::Deliver);
        }
        // In a stop, the watchdog deals with a generation that hangs.
        for generation in &mut lock(&self.world).generations {
            generation.hangs = false;
        }
        lock(&self.world).settle(self.now);
        for _ in 0..200 {
            self.take(Step::Deliver);
        }
        let mut end = self.end.take().expect("it does not end");
        end.answer();
        self.look();
        for Asker { request, answer, .. } in &self.askers {
            let answer = answer.as_ref().unwrap_or_else(|| panic!("{request:?} was not answered"));
            let fits = match request {
                Request::Ping {} => matches!(answer, Answer::Pong { .. }),
                Request::Status {} => matches!(answer, Answer::Status(_)),
                Request::Connections {} => matches!(answer, Answer::Connections { .. }),
                Request::Close { .. } => matches!(answer, Answer::Error(_)),
                Request::Grace { .. } => matches!(answer, Answer::Moved { .. } | Answer::Error(_)),
                Request::Signal { .. } => matches!(answer, Answer::Error(_)),
                Request::Drain {} => matches!(answer, Answer::Readiness { ready: false, .. }),
                Request::Resume {} => matches!(answer, Answer::Readiness { .. } | Answer::Error(_)),
                Request::Stop { wait: true, .. } => matches!(answer, Answer::Stopped { .. } | Answer::Error(_)),
                Request::Stop { wait: false, .. } => {
                    matches!(answer, Answer::Stopping(_) | Answer::Delayed(_) | Answer::Error(_))
                }
                Request::Restart { wait: true, .. } => matches!(answer, Answer::Restarted { .. } | Answer::Error(_)),
                Request::Restart { wait: false, .. } => matches!(answer, Answer::Restarting { .. } | Answer::Error(_)),
                Request::Events { .. } | Request::Pause { .. } => false,
            };
            assert!(fits, "{request:?} was answered with {answer:?}");
        }
    }
}

/// Checks that a status is consistent.
fn check(status: &Status) {
    let may_be_ready = [protocol::State::Serving, protocol::State::Restarting].contains(&status.state);
    assert!(!status.ready || may_be_ready && status.delay.is_none(), "{status:?}");
    let drain = status.drain.as_ref();
    match status.state {
        protocol::State::Starting => assert!(status.next_try_ms.is_none() && drain.is_none()),
        // A generation that crashed may still drain.
        protocol::State::Serving | protocol::State::Restarting => {
            assert!(status.next_try_ms.is_none() && drain.is_none_or(|drain| drain.generation.is_some()));
        }
        protocol::State::Waiting => assert!(status.next_try_ms.is_some() && status.last_end.is_some()),
        protocol::State::Draining => assert!(drain.is_some_and(|drain| drain.generation.is_none())),
        protocol::State::Other(ref word) => panic!("{word} is no state of ours"),
    }
}

fn settings(check_every: Option<Duration>) -> Settings {
    Settings {
        grace: Duration::from_secs(2),
        delay: Duration::ZERO,
        spread: Duration::ZERO,
        max_connections: 1,
        restart: RestartPolicy { mode: RestartMode::OnFailure, ..RestartPolicy::default() },
        check_every,
        log: Log::silent(),
        parts: Vec::new(),
    }
}
