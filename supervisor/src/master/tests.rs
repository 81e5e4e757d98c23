//! Master control through long random sequences of events, with servers that only pretend and a clock of its own.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};

use proptest::prelude::*;

use super::*;
use crate::Log;
use crate::event::ConsoleEvent;
use crate::host::Notify;
use crate::restart::{RestartMode, RestartPolicy};
use crate::server::{Closer, Opener};
use worker::{ConnectionInfo, ServerError};

/// What is outside of master control: servers, builds, and the events that they are going to send.
#[derive(Debug, Default)]
struct World {
    servers: Vec<Pretended>,
    /// Builds that have begun and are not done.
    building: VecDeque<u64>,
    events: VecDeque<Event>,
    closed: bool,
    /// Nothing can connect, so nobody who accepts can be woken.
    unreachable: bool,
}

#[derive(Debug)]
struct Pretended {
    build: u64,
    accepting: bool,
    /// Does nothing that it is told to, until it is given up.
    hangs: bool,
    clients: usize,
    /// When its clients have to be gone. None: it serves.
    deadline: Option<Instant>,
    finished: bool,
    /// Nobody has a hand on it any more.
    dropped: bool,
}

type Shared = Arc<Mutex<World>>;

fn lock(world: &Shared) -> MutexGuard<'_, World> {
    world.lock().unwrap()
}

impl World {
    fn of(&mut self, build: u64) -> &mut Pretended {
        self.servers.iter_mut().find(|server| server.build == build).unwrap()
    }

    fn open(&mut self, build: u64) {
        let server = self.of(build);
        if !server.accepting && server.deadline.is_none() {
            server.accepting = true;
            self.events.push_back(Event::Accepting { build });
        }
    }

    fn let_go(&mut self, build: u64, deadline: Instant) {
        let server = self.of(build);
        server.deadline = Some(deadline);
        server.accepting = server.accepting && server.hangs;
    }

    /// Says of those that are done that they are.
    fn settle(&mut self, now: Instant) {
        for server in &mut self.servers {
            let over = server.deadline.is_some_and(|deadline| server.clients == 0 || deadline <= now);
            if over && !server.hangs && !server.finished {
                (server.finished, server.clients) = (true, 0);
                self.events.push_back(Event::Finished { build: server.build });
            }
        }
    }
}

#[derive(Debug)]
struct PretendedBuilder {
    world: Shared,
    overlaps: bool,
}

impl Builder for PretendedBuilder {
    fn build(&mut self, build: u64) {
        let mut world = lock(&self.world);
        let runs = |server: &Pretended| server.accepting && !server.hangs && !server.finished;
        assert!(self.overlaps || !world.servers.iter().any(runs), "the last one is in the way: {world:?}");
        world.building.push_back(build);
    }

    fn overlaps(&self) -> bool {
        self.overlaps
    }

    fn close(&mut self) {
        lock(&self.world).closed = true;
    }
}

#[derive(Debug)]
struct Hand {
    world: Shared,
    build: u64,
}

impl Hand {
    fn new(world: &Shared, build: u64) -> Box<Hand> {
        let server = Pretended {
            build,
            accepting: false,
            hangs: false,
            clients: 0,
            deadline: None,
            finished: false,
            dropped: false,
        };
        lock(world).servers.push(server);
        Box::new(Hand { world: world.clone(), build })
    }
}

impl Server for Hand {
    fn opener(&self) -> Opener {
        let (world, build) = (self.world.clone(), self.build);
        Box::new(move |_| lock(&world).open(build))
    }

    fn retire_by(&self, deadline: Instant, successor: Opener) -> io::Result<()> {
        if lock(&self.world).unreachable && lock(&self.world).of(self.build).accepting {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        lock(&self.world).let_go(self.build, deadline);
        let hangs = lock(&self.world).of(self.build).hangs;
        if !hangs {
            successor(None);
        }
        Ok(())
    }

    fn stop_by(&self, deadline: Instant) {
        lock(&self.world).let_go(self.build, deadline);
    }

    fn move_deadline(&self, deadline: Instant) {
        lock(&self.world).let_go(self.build, deadline);
    }

    fn counts(&self) -> Counts {
        Counts { now: lock(&self.world).of(self.build).clients, ..Counts::default() }
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

    fn check(&self, _limit: Duration) {
        let mut world = lock(&self.world);
        let accepting = !world.of(self.build).hangs;
        world.events.push_back(Event::Checked { build: self.build, accepting });
    }

    fn give_up(&mut self, why: &str) {
        let mut world = lock(&self.world);
        let server = world.of(self.build);
        (server.hangs, server.accepting) = (false, false);
        // The real one has a grace period of its own; the test's clock does not know it.
        server.deadline.get_or_insert_with(Instant::now);
        let reason = why.to_owned();
        world.events.push_back(Event::Exited { build: self.build, reason, clean: false });
    }

    fn signal(&self, _signal: i32) {}

    fn end(self: Box<Self>) -> Result<Ended, ServerError> {
        assert!(lock(&self.world).of(self.build).finished, "it was asked for its end before that came");
        Ok(Ended::default())
    }
}

impl Drop for Hand {
    fn drop(&mut self) {
        let mut world = lock(&self.world);
        let server = world.of(self.build);
        (server.dropped, server.accepting) = (true, false);
    }
}

/// What may happen from outside.
#[derive(Debug, Clone)]
enum Step {
    /// Somebody asks for something, and waits for the answer or not.
    AskStop {
        grace: Option<u64>,
        delay: u64,
        wait: bool,
    },
    AskGrace {
        grace: u64,
    },
    AskDrain,
    AskResume,
    AskConnections,
    AskRestart {
        grace: Option<u64>,
        wait: bool,
    },
    AskStatus,
    SignalStop,
    SignalRestart,
    Client,
    ClientLeaves,
    /// The oldest build is done, well or not.
    BuildDone {
        well: bool,
    },
    /// The next event of a server arrives.
    Deliver,
    Crash,
    Hang,
    Unreachable(bool),
    Wait {
        ms: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let grace = || prop::option::of(0..3000_u64);
    prop_oneof![
        1 => (grace(), any::<bool>()).prop_map(|(grace, wait)| Step::AskStop { grace, delay: 0, wait }),
        1 => (grace(), 1..20_000_u64, any::<bool>())
            .prop_map(|(grace, delay, wait)| Step::AskStop { grace, delay, wait }),
        3 => (0..5000_u64).prop_map(|grace| Step::AskGrace { grace }),
        2 => Just(Step::AskDrain),
        3 => Just(Step::AskResume),
        1 => Just(Step::AskConnections),
        8 => (grace(), any::<bool>()).prop_map(|(grace, wait)| Step::AskRestart { grace, wait }),
        3 => Just(Step::AskStatus),
        1 => Just(Step::SignalStop),
        2 => Just(Step::SignalRestart),
        6 => Just(Step::Client),
        6 => Just(Step::ClientLeaves),
        10 => any::<bool>().prop_map(|well| Step::BuildDone { well }),
        20 => Just(Step::Deliver),
        2 => Just(Step::Crash),
        1 => Just(Step::Hang),
        1 => any::<bool>().prop_map(Step::Unreachable),
        8 => (0..3000_u64).prop_map(|ms| Step::Wait { ms }),
        1 => (0..60_000_u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

/// Somebody who asked for a restart or a stop.
struct Asker {
    restart: bool,
    heard: Receiver<Response>,
    answer: Option<Answer>,
}

struct Drive {
    world: Shared,
    master: Master,
    /// None: it has ended.
    state: Option<State>,
    end: Option<End>,
    now: Instant,
    askers: Vec<Asker>,
    /// The largest generation that somebody was told of.
    generation: u64,
    /// What the service manager was told, and what it knows by that.
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
    fn new(check_every: Option<Duration>) -> Drive {
        Drive::with(check_every, true)
    }

    /// The first server takes connections.
    fn with(check_every: Option<Duration>, overlaps: bool) -> Drive {
        let mut drive = Drive::starting(check_every, overlaps);
        drive.take(Step::BuildDone { well: true });
        drive.take(Step::Deliver);
        drive
    }

    /// The first server is being built.
    fn starting(check_every: Option<Duration>, overlaps: bool) -> Drive {
        let world = Shared::default();
        let now = Instant::now();
        let identity = Identity {
            name: "test".into(),
            kind: "test".into(),
            addresses: vec![Address::Tcp(([127, 0, 0, 1], 1).into())],
            program: None,
            health: None,
            log: Journal::new(Log::silent()),
            started: now,
        };
        let builder = Box::new(PretendedBuilder { world: world.clone(), overlaps });
        let (line, said) = mpsc::channel();
        let line = Box::new(move |message: &str| line.send(message.to_owned()).map_err(io::Error::other));
        let manager =
            Manager::of_notify(Notify::new(line, check_every.map(|every| every * 5), now), Journal::new(Log::silent()));
        let mut master = Master::new(identity, builder, settings(check_every), None, manager, None);
        let state = Some(master.start(now));
        let known = Known::Nothing;
        let mut drive = Drive { world, master, state, end: None, now, askers: Vec::new(), generation: 1, said, known };
        drive.look();
        drive
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::AskStop { grace, delay, wait } => {
                self.ask(Request::Stop { grace_ms: grace, delay_ms: delay, wait }, false);
            }
            Step::AskGrace { grace } => self.ask(Request::Grace { grace_ms: grace }, false),
            Step::AskDrain => self.ask(Request::Drain {}, false),
            Step::AskResume => self.ask(Request::Resume {}, false),
            Step::AskConnections => self.ask(Request::Connections {}, false),
            Step::AskRestart { grace, wait } => self.ask(Request::Restart { grace_ms: grace, wait }, true),
            Step::AskStatus => self.ask_status(),
            Step::SignalStop => {
                let by = Trigger::Signal { name: "SIGTERM", sender: None };
                self.send(Event::Stop { by, grace: None });
            }
            Step::SignalRestart => {
                let by = Trigger::Signal { name: "SIGHUP", sender: None };
                self.send(Event::Restart { by, grace: None });
            }
            Step::Client => {
                if let Some(server) = lock(&self.world).servers.iter_mut().find(|server| server.accepting) {
                    server.clients += 1;
                }
            }
            Step::ClientLeaves => {
                if let Some(server) = lock(&self.world).servers.iter_mut().find(|server| server.clients > 0) {
                    server.clients -= 1;
                }
            }
            Step::BuildDone { well } => {
                let Some(build) = lock(&self.world).building.pop_front() else { return };
                let built = match well {
                    true => Ok(Built { server: Hand::new(&self.world, build), settings: self.master.settings.clone() }),
                    false => Err("it does not want to".into()),
                };
                self.send(Event::Built { build, built });
            }
            Step::Deliver => {
                let event = lock(&self.world).events.pop_front();
                if let Some(event) = event {
                    self.send(event);
                }
            }
            Step::Crash => {
                let mut world = lock(&self.world);
                let now = self.now;
                let failing = world.servers.iter_mut().find(|server| server.accepting && !server.hangs);
                let Some(server) = failing else { return };
                server.accepting = false;
                server.deadline = Some(now + Duration::from_millis(500));
                let event = Event::Exited { build: server.build, reason: "crashed".into(), clean: false };
                world.events.push_back(event);
            }
            Step::Hang => {
                if let Some(server) = lock(&self.world).servers.iter_mut().find(|server| server.accepting) {
                    server.hangs = true;
                }
            }
            Step::Unreachable(unreachable) => lock(&self.world).unreachable = unreachable,
            Step::Wait { ms } => self.wait(Duration::from_millis(ms)),
        }
    }

    fn ask(&mut self, request: Request, restart: bool) {
        let (reply, heard) = mpsc::channel();
        if self.state.is_some() {
            self.askers.push(Asker { restart, heard, answer: None });
            self.send(Event::Request { request, by: Trigger::Code, reply });
        }
    }

    fn ask_status(&mut self) {
        let (reply, heard) = mpsc::channel();
        if self.state.is_none() {
            return;
        }
        self.send(Event::Request { request: Request::Status {}, by: Trigger::Code, reply });
        let Response::Answer(Answer::Status(status)) = heard.recv().unwrap() else { panic!("no status") };
        let may_be_ready = [protocol::State::Serving, protocol::State::Restarting].contains(&status.state);
        assert!(!status.ready || may_be_ready && status.delay.is_none(), "{status:?}");
        match status.state {
            protocol::State::Starting => assert!(status.next_try_ms.is_none() && status.drain.is_none()),
            // A generation that crashed may still let its clients go.
            protocol::State::Serving | protocol::State::Restarting => {
                assert!(status.next_try_ms.is_none() && status.drain.is_none_or(|drain| drain.generation.is_some()));
            }
            protocol::State::Waiting => assert!(status.next_try_ms.is_some() && status.last_end.is_some()),
            protocol::State::Draining => assert!(status.drain.is_some_and(|drain| drain.generation.is_none())),
            protocol::State::Other(word) => panic!("{word} is no state of ours"),
        }
    }

    fn send(&mut self, event: Event) {
        let Some(state) = self.state.take() else { return };
        match self.master.handle(state, event, self.now) {
            ControlFlow::Continue(state) => self.state = Some(state),
            ControlFlow::Break(end) => self.end = Some(end),
        }
        lock(&self.world).settle(self.now);
        self.look();
    }

    /// Lets the time pass, with a tick whenever one is due.
    fn wait(&mut self, time: Duration) {
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

    /// Looks whether everything is as it has to be.
    fn look(&mut self) {
        let world = lock(&self.world);
        let accepting = world.servers.iter().filter(|server| server.accepting && !server.hangs).count();
        assert!(accepting <= 1, "several servers accept: {world:?}");
        let ends = matches!(self.state, None | Some(State::Draining { .. }));
        assert_eq!(world.closed, ends, "the listening socket is closed when it ends, and not before");
        if self.end.is_some() {
            let mut left = world.servers.iter().filter(|server| !server.finished && !server.dropped);
            assert!(left.next().is_none(), "it has ended before its servers: {world:?}");
        }
        drop(world);
        self.listen();
        let mut unanswered = false;
        for asker in &mut self.askers {
            for response in asker.heard.try_iter() {
                assert!(asker.answer.is_none(), "{response:?} after the answer {:?}", asker.answer);
                if let Response::Answer(answer) = response {
                    if let Answer::Restarted { generation, .. } = &answer {
                        assert!(asker.restart && !unanswered, "answered before somebody who came before");
                        assert!(*generation > self.generation, "generation {generation} after {}", self.generation);
                        self.generation = *generation;
                    }
                    asker.answer = Some(answer);
                }
            }
            unanswered |= asker.restart && asker.answer.is_none();
        }
    }

    /// Believes what the service manager is told, and looks whether that is how it is.
    fn listen(&mut self) {
        for message in self.said.try_iter() {
            for line in message.lines() {
                let known = &self.known;
                self.known = match line.split_once('=').unwrap() {
                    ("READY", "1") if [Known::Nothing, Known::Reloading].contains(known) => Known::Ready,
                    ("RELOADING", "1") if *known == Known::Ready => Known::Reloading,
                    ("STOPPING", "1") if *known != Known::Stopping => Known::Stopping,
                    ("EXTEND_TIMEOUT_USEC", _) if *known != Known::Ready => continue,
                    ("MONOTONIC_USEC", _) if *known == Known::Reloading => continue,
                    ("STATUS" | "WATCHDOG", _) => continue,
                    _ => panic!("{line} to one who knows {known:?}"),
                };
            }
        }
        let expected = match &self.state {
            Some(State::Starting { .. }) => Known::Nothing,
            Some(State::Serving { .. } | State::Waiting { .. }) => Known::Ready,
            Some(State::Building { restart, .. } | State::Opening { restart, .. }) => match restart {
                Some(_) => Known::Reloading,
                None => Known::Ready,
            },
            Some(State::Emptying { .. } | State::Retiring { .. }) => Known::Reloading,
            Some(State::Draining { .. }) | None => Known::Stopping,
        };
        assert_eq!(self.known, expected, "{:?}", self.state);
    }

    /// Stops it, and sees to it that each has been answered.
    fn finish(mut self) {
        self.ask(Request::Stop { grace_ms: Some(0), delay_ms: 0, wait: true }, false);
        for _ in 0..200 {
            self.take(Step::Deliver);
        }
        // A server that hangs in a stop is a matter for the watchdog.
        for server in &mut lock(&self.world).servers {
            server.hangs = false;
        }
        lock(&self.world).settle(self.now);
        for _ in 0..200 {
            self.take(Step::Deliver);
        }
        let mut end = self.end.take().expect("it does not end");
        end.tell_waiting();
        self.look();
        for asker in &self.askers {
            let answer = asker.answer.as_ref().expect("somebody was not answered");
            match answer {
                Answer::Restarted { .. } | Answer::Restarting { .. } => assert!(asker.restart),
                Answer::Stopped { .. }
                | Answer::Stopping(_)
                | Answer::Delayed(_)
                | Answer::Moved { .. }
                | Answer::Readiness { .. }
                | Answer::Closed { .. }
                | Answer::Connections { .. } => assert!(!asker.restart),
                Answer::Error(_) => {}
                Answer::Pong { .. } | Answer::Status(_) | Answer::Events { .. } => panic!("{answer:?}"),
            }
        }
    }
}

fn settings(check_every: Option<Duration>) -> Settings {
    Settings {
        grace: Duration::from_secs(2),
        max_connections: 1,
        restart: RestartPolicy { mode: RestartMode::OnFailure, ..RestartPolicy::default() },
        check_every,
        log: Log::silent(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_it_stays_in_order_and_everybody_is_answered(
        steps in prop::collection::vec(step(), 1..200),
        checked: bool,
        overlaps: bool,
        started in prop::bool::weighted(0.8),
    ) {
        let mut drive = Drive::starting(checked.then_some(Duration::from_secs(1)), overlaps);
        if started {
            drive.take(Step::BuildDone { well: true });
        }
        for step in steps {
            drive.take(step);
        }
        drive.finish();
    }
}

/// What an asker was told in the end.
fn answers(drive: &Drive) -> Vec<String> {
    let text = |asker: &Asker| match &asker.answer {
        Some(Answer::Restarted { generation, .. }) => format!("restarted {generation}"),
        Some(Answer::Error(refusal)) => format!("{:?}", refusal.code),
        other => format!("{other:?}"),
    };
    drive.askers.iter().map(text).collect()
}

fn restart() -> Step {
    Step::AskRestart { grace: None, wait: true }
}

/// Builds what is to be built, and delivers what there is to say, until nothing happens any more.
fn settle(drive: &mut Drive) {
    for _ in 0..100 {
        drive.take(Step::BuildDone { well: true });
        drive.take(Step::Deliver);
    }
}

#[test]
fn restarts_that_are_asked_for_together_are_carried_out_one_after_the_other() {
    let mut drive = Drive::new(None);
    (0..20).for_each(|_| drive.take(restart()));
    assert_eq!(lock(&drive.world).building.len(), 1, "they overlap");
    settle(&mut drive);
    let expected: Vec<_> = (2..=21).map(|generation| format!("restarted {generation}")).collect();
    assert_eq!(answers(&drive), expected);
    drive.finish();
}

#[test]
fn a_stop_before_the_first_server_is_ready_ends_it() {
    let mut drive = Drive::starting(None, true);
    drive.take(Step::SignalStop);
    assert!(drive.end.take().unwrap().result.is_ok());
}

#[test]
fn a_restart_before_the_first_server_is_ready_waits_for_it() {
    let mut drive = Drive::starting(None, true);
    drive.take(restart());
    settle(&mut drive);
    assert_eq!(answers(&drive), ["restarted 2"]);
    drive.finish();
}

#[test]
fn a_first_server_that_is_never_ready_is_the_end() {
    let mut drive = Drive::starting(None, true);
    drive.take(restart());
    drive.wait(crate::server::BUILD_LIMIT);
    assert_eq!(answers(&drive), ["Stopping"]);
    let error = drive.end.take().unwrap().result.unwrap_err();
    assert_eq!(error.to_string(), "the server was not ready within 30 s");
}

#[test]
fn a_restart_is_complete_when_the_last_client_of_the_old_generation_has_left() {
    let mut drive = Drive::new(None);
    settle(&mut drive);
    drive.take(Step::Client);
    drive.take(restart());
    settle(&mut drive);
    assert_eq!(answers(&drive), ["None"]);
    drive.take(Step::ClientLeaves);
    drive.wait(Duration::ZERO);
    settle(&mut drive);
    assert_eq!(answers(&drive), ["restarted 2"]);
    drive.finish();
}

#[test]
fn a_stop_during_a_restart_wins() {
    let mut drive = Drive::new(None);
    drive.take(restart());
    drive.take(restart());
    drive.take(Step::SignalStop);
    assert_eq!(answers(&drive), ["Stopping", "Stopping"]);
    // What was built all the same is stopped, too, before it ends.
    settle(&mut drive);
    assert!(drive.end.is_some());
    drive.finish();
}

#[test]
fn a_scheduled_stop_begins_when_it_is_due_unless_it_is_cancelled() {
    let delayed = || Step::AskStop { grace: None, delay: 5000, wait: true };
    let mut drive = Drive::new(None);
    drive.take(Step::Client);
    drive.take(delayed());
    drive.wait(Duration::from_secs(4));
    assert!(matches!(drive.state, Some(State::Serving { .. })));
    drive.take(Step::AskResume);
    assert_eq!(answers(&drive), ["Cancelled", "Some(Readiness { ready: true })"]);
    drive.take(delayed());
    // The earliest counts.
    drive.take(Step::AskStop { grace: None, delay: 100_000, wait: true });
    drive.wait(Duration::from_secs(5));
    assert!(matches!(drive.state, Some(State::Draining { .. })));
    drive.finish();
}

#[test]
fn of_several_stops_the_shortest_deadline_counts_also_if_one_was_put_off() {
    // Clients of a scheduled stop have until then, and two seconds more.
    let scheduled = || Step::AskStop { grace: Some(2000), delay: 3000, wait: true };
    let others = [
        // By when it is over.
        (Step::AskStop { grace: Some(0), delay: 4000, wait: true }, 4),
        (Step::AskStop { grace: Some(60_000), delay: 1000, wait: true }, 5),
        (Step::AskStop { grace: Some(60_000), delay: 0, wait: true }, 5),
        (Step::AskStop { grace: Some(1000), delay: 0, wait: true }, 1),
    ];
    for (other, seconds) in others {
        let mut drive = Drive::new(None);
        drive.take(Step::Client);
        drive.take(scheduled());
        drive.take(other);
        for second in 1..=seconds {
            assert!(drive.end.is_none(), "over before second {second} of {seconds}");
            drive.wait(Duration::from_secs(1));
            drive.take(Step::Deliver);
        }
        assert!(drive.end.is_some(), "not over after {seconds} s");
        drive.finish();
    }
}

#[test]
fn when_its_window_is_closed_clients_have_no_longer_than_the_system_leaves() {
    let closed = || Event::Stop { by: Trigger::ConsoleEvent(ConsoleEvent::Close), grace: None };
    let ctrl_c = || Event::Stop { by: Trigger::ConsoleEvent(ConsoleEvent::CtrlC), grace: None };
    let deadline = |drive: &Drive| match &drive.state {
        Some(State::Draining { stop, .. }) => stop.deadline.saturating_duration_since(drive.now).as_secs(),
        other => panic!("{other:?}"),
    };
    for (grace, events, expected) in [
        (2, vec![ctrl_c()], 2),
        (60, vec![ctrl_c()], 60),
        (2, vec![closed()], 2),
        (60, vec![closed()], 4),
        (60, vec![ctrl_c(), closed()], 4),
        (2, vec![ctrl_c(), closed()], 2),
        // Whoever asks a second time does not want to wait.
        (60, vec![ctrl_c(), ctrl_c()], 0),
        (60, vec![closed(), ctrl_c()], 0),
    ] {
        let mut drive = Drive::new(None);
        drive.master.settings.grace = Duration::from_secs(grace);
        drive.take(Step::Client);
        let shown = format!("{events:?}");
        events.into_iter().for_each(|event| drive.send(event));
        assert_eq!(deadline(&drive), expected, "{shown}");
        drive.finish();
    }
}

#[test]
fn who_moves_the_deadline_of_a_drain_moves_it_both_ways() {
    let mut drive = Drive::new(None);
    drive.take(Step::AskGrace { grace: 1000 });
    assert_eq!(answers(&drive), ["NotDraining"]);
    drive.take(Step::Client);
    drive.take(restart());
    settle(&mut drive);
    // The old generation had two seconds.
    drive.take(Step::AskGrace { grace: 10_000 });
    drive.wait(Duration::from_secs(9));
    settle(&mut drive);
    assert_eq!(answers(&drive)[1], "None");
    drive.take(Step::AskGrace { grace: 500 });
    drive.wait(Duration::from_secs(1));
    settle(&mut drive);
    assert_eq!(answers(&drive)[1], "restarted 2");
    drive.take(Step::Client);
    drive.take(Step::SignalStop);
    drive.take(Step::AskGrace { grace: 10_000 });
    drive.wait(Duration::from_secs(9));
    drive.take(Step::Deliver);
    assert!(drive.end.is_none());
    drive.take(Step::AskGrace { grace: 0 });
    drive.wait(Duration::ZERO);
    drive.take(Step::Deliver);
    assert!(drive.end.is_some());
    drive.finish();
}

#[test]
fn a_server_that_cannot_be_built_leaves_the_old_one_serving() {
    let mut drive = Drive::new(None);
    settle(&mut drive);
    drive.take(restart());
    drive.take(Step::BuildDone { well: false });
    assert_eq!(answers(&drive), ["Failed"]);
    assert!(lock(&drive.world).of(1).accepting);
    // One that is never ready, too.
    drive.take(restart());
    drive.wait(crate::server::BUILD_LIMIT);
    drive.take(Step::BuildDone { well: true });
    assert_eq!(answers(&drive), ["Failed", "Failed"]);
    assert!(lock(&drive.world).of(1).accepting && lock(&drive.world).of(3).dropped);
    drive.finish();
}

#[test]
fn an_old_server_that_hangs_does_not_keep_the_new_one_from_accepting() {
    let mut drive = Drive::new(None);
    settle(&mut drive);
    drive.take(Step::Hang);
    drive.take(restart());
    settle(&mut drive);
    assert!(!lock(&drive.world).of(2).accepting);
    drive.wait(OPEN_LIMIT);
    settle(&mut drive);
    assert!(lock(&drive.world).of(2).accepting);
    assert_eq!(answers(&drive), ["restarted 2"], "{:?}", drive.state);
    drive.finish();
}

#[test]
fn a_server_that_replaces_none_has_no_old_one_to_wait_for() {
    let mut drive = Drive::starting(None, true);
    drive.take(Step::BuildDone { well: true });
    // As if the process were suspended before it has heard that its server takes connections.
    assert!(matches!(drive.state, Some(State::Opening { .. })), "{:?}", drive.state);
    assert_eq!(drive.state.as_ref().and_then(|state| drive.master.next_tick(state)), None);
    drive.finish();
}

#[test]
fn a_crash_during_a_restart_is_the_answer_to_it() {
    let mut drive = Drive::new(None);
    settle(&mut drive);
    drive.take(Step::Client);
    drive.take(restart());
    settle(&mut drive);
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    assert_eq!(answers(&drive), ["Failed"]);
    assert!(matches!(drive.state, Some(State::Waiting { .. })));
    drive.wait(Duration::from_secs(1));
    settle(&mut drive);
    assert!(matches!(&drive.state, Some(State::Serving { current, .. }) if current.generation == 3));
    drive.finish();
}

#[test]
fn who_tries_by_hand_while_it_waits_uses_up_no_tries() {
    let mut drive = Drive::new(None);
    settle(&mut drive);
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    for _ in 0..20 {
        drive.take(restart());
        drive.take(Step::BuildDone { well: false });
        assert!(matches!(drive.state, Some(State::Waiting { .. })));
    }
    drive.take(restart());
    settle(&mut drive);
    assert_eq!(answers(&drive).last().unwrap(), "restarted 2");
    drive.finish();
}

#[test]
fn a_server_that_cannot_be_woken_goes_on() {
    let mut drive = Drive::new(None);
    settle(&mut drive);
    drive.take(Step::Unreachable(true));
    drive.take(restart());
    settle(&mut drive);
    assert_eq!(answers(&drive), ["Failed"]);
    assert!(lock(&drive.world).of(1).accepting && lock(&drive.world).of(2).finished);
    drive.take(Step::Unreachable(false));
    drive.take(restart());
    settle(&mut drive);
    assert_eq!(answers(&drive), ["Failed", "restarted 2"]);
    drive.finish();
}

#[test]
fn a_build_that_fails_after_a_crash_is_tried_again_until_that_is_too_often() {
    let mut drive = Drive::new(None);
    settle(&mut drive);
    drive.take(Step::Crash);
    drive.take(Step::Deliver);
    let mut tries = 0;
    while drive.end.is_none() {
        drive.wait(Duration::from_millis(100));
        let building = !lock(&drive.world).building.is_empty();
        tries += usize::from(building);
        drive.take(Step::BuildDone { well: false });
        lock(&drive.world).settle(drive.now);
        drive.take(Step::Deliver);
    }
    assert_eq!(tries, 5);
    let error = drive.end.unwrap().result.unwrap_err();
    assert!(matches!(error, Error::CrashedTooOften { times: 6, .. }), "{error}");
}

#[test]
fn a_server_that_cannot_run_beside_the_next_one_is_gone_before_that_is_built() {
    let mut drive = Drive::with(None, false);
    settle(&mut drive);
    drive.take(Step::Client);
    drive.take(restart());
    settle(&mut drive);
    assert!(matches!(drive.state, Some(State::Emptying { .. })));
    drive.take(Step::ClientLeaves);
    drive.wait(Duration::ZERO);
    settle(&mut drive);
    assert_eq!(answers(&drive), ["restarted 2"]);
    // One that cannot be built then is tried again.
    drive.take(restart());
    drive.take(Step::Deliver);
    drive.take(Step::BuildDone { well: false });
    assert_eq!(answers(&drive), ["restarted 2", "Failed"]);
    drive.wait(Duration::from_secs(1));
    settle(&mut drive);
    assert!(matches!(&drive.state, Some(State::Serving { current, .. }) if current.generation == 3));
    drive.finish();
}
