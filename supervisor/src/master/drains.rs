//! Servers that let their clients go: all of them in a stop, the old one in a restart.

use std::io;

use super::*;
use crate::protocol::{Drain, MAX_NAMED};
use crate::server::Opener;
use serde_json::json;
use worker::ConnectionInfo;

/// A SIGHUP within this time after another signal is no second request.
const TOGETHER: Duration = Duration::from_millis(500);

/// A generation of the server.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) build: u64,
    pub(super) generation: u64,
    pub(super) server: Box<dyn Server>,
    pub(super) since: Instant,
}

/// A generation that takes no connections any more.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) running: Running,
    /// What asked for its end.
    by: String,
    began: Instant,
    pub(super) deadline: Instant,
    /// Whether it has overrun its deadline already.
    hurried: bool,
}

/// A stop under way.
#[derive(Debug)]
pub(super) struct Stop {
    pub(super) why: Why,
    began: Instant,
    pub(super) deadline: Instant,
    /// When the next countdown line is due.
    pub(super) countdown: Instant,
    waiting: Vec<Sender<Response>>,
}

/// Why the supervisor ends.
#[derive(Debug)]
pub(super) enum Why {
    Asked(Trigger),
    Failed(Error),
}

impl Old {
    pub(super) fn new(running: Running, by: String, grace: Duration, now: Instant) -> Old {
        Old { running, by, began: now, deadline: deadline_after(now, grace), hurried: false }
    }

    pub(super) fn drain(&self, now: Instant) -> Drain {
        let generation = Some(self.running.generation);
        drain_of([&self.running], generation, self.by.clone(), self.deadline, now)
    }

    /// When it should have said that it is done.
    pub(super) fn overdue_at(&self) -> Instant {
        self.deadline + OVERRUN
    }
}

impl Master {
    /// The generation makes way for another one. Given back if it cannot be told to.
    pub(super) fn retire(
        &self,
        running: Running,
        by: String,
        grace: Duration,
        successor: Opener,
        now: Instant,
    ) -> Result<Old, (Running, io::Error)> {
        let connected = running.server.counts().now;
        let old = Old::new(running, by, grace, now);
        if let Err(error) = old.running.server.retire_by(old.deadline, successor) {
            return Err((old.running, error));
        }
        let generation = old.running.generation;
        let message =
            format!("generation {generation} makes way: {}grace period {}", self.connected(connected), seconds(grace));
        let fields = [
            ("generation", generation.into()),
            ("connected", connected.into()),
            ("grace_ms", milliseconds(grace).into()),
        ];
        self.identity.log.line(Level::Info, "retiring", message, fields);
        Ok(old)
    }

    /// How many clients there are. Of a program's nobody knows.
    fn connected(&self, clients: usize) -> String {
        match &self.identity.program {
            None => format!("{} connected, ", super::clients(clients)),
            Some(_) => String::new(),
        }
    }

    /// Tells how the drain of an old generation goes.
    pub(super) fn count_down_old(&self, generation: u64, restart: &Restart, now: Instant) {
        let Some(old) = self.old.iter().find(|old| old.running.generation == generation) else { return };
        let drain = old.drain(now);
        self.log_countdown(&drain);
        restart.tell(Progress::Draining(drain));
    }

    fn log_countdown(&self, drain: &Drain) {
        if drain.open > 0 {
            let fields = [("open", drain.open.into()), ("remaining_ms", drain.remaining_ms.into())];
            self.identity.log.line(Level::Info, "draining", text::countdown(drain), fields);
        }
    }

    /// Somebody wants one connection closed.
    pub(super) fn on_close(
        &self,
        state: &State,
        by: &Trigger,
        id: u64,
        grace: Option<Duration>,
        reply: Sender<Response>,
    ) {
        let log = self.identity.log.clone();
        let grace = grace.unwrap_or(self.settings.grace);
        for running in self.all(state) {
            let generation = Some(running.generation);
            let (log, to) = (log.clone(), reply.clone());
            let done = move |closed: &worker::Closed| {
                let outcome = wire::outcome(closed);
                let fields = [("id", id.into()), ("outcome", json!(outcome))];
                log.line(Level::Info, "connection_closed", text::describe_closed(id, &outcome), fields);
                let _ = to.send(Response::Answer(Answer::Closed { id, outcome }));
            };
            match running.server.close(id, grace, Box::new(done)) {
                Ok(None) => {}
                Ok(Some(connection)) => {
                    let connection = wire::connection(&connection, generation, false);
                    let message =
                        format!("{by}: closing {}, which has {} to leave", text::describe(&connection), seconds(grace));
                    let fields = [("by", by.to_string().into()), ("id", id.into())];
                    self.identity.log.line(Level::Info, "closing_connection", message, fields);
                    let _ = reply.send(Response::Progress(Progress::Closing { connection }));
                    return;
                }
                Err(error) => {
                    let message = format!("the system does not give a thread for that: {}", text::Reason(&error));
                    let refusal = Refusal { code: ErrorCode::Failed, message };
                    let _ = reply.send(Response::Answer(Answer::Error(refusal)));
                    return;
                }
            }
        }
        let refusal = self.identity.program.as_deref().map(own_affair);
        let none = || Refusal { code: ErrorCode::NoConnection, message: format!("there is no connection {id}") };
        let _ = reply.send(Response::Answer(Answer::Error(refusal.unwrap_or_else(none))));
    }

    /// An old generation is done.
    pub(super) fn old_is_gone(&mut self, old: Old, now: Instant) -> protocol::Report {
        let generation = old.running.generation;
        let mut ended = self.ended(old.running);
        if ended.program.is_some() {
            // A program does not know when it was asked.
            ended.drain.took = now.saturating_duration_since(old.began);
        }
        let report = wire::report(&old.by, &ended);
        self.log_report(Some(generation), &report);
        report
    }

    /// Goes on when an old generation is gone: with the restart that waited for that, if there is one.
    pub(super) fn after_old(&mut self, state: State, generation: u64, report: protocol::Report, now: Instant) -> State {
        match state {
            State::Opening { current, settings, replaced: Some(Replaced::Draining(replaced)), restart, limit }
                if replaced == generation =>
            {
                let replaced = Some(Replaced::Gone(generation, report));
                State::Opening { current, settings, replaced, restart, limit }
            }
            State::Retiring { current, replaced, restart, countdown: _ } if replaced == generation => {
                self.restarts += 1;
                restart.done(current.generation, Some((generation, report)), now);
                self.next(current, now)
            }
            // The way is free for the next one.
            State::Emptying { generation: awaited, restart, countdown: _ } if awaited == generation => {
                self.begin_build();
                let current = Current::Emptied(generation, report);
                State::Building { current, restart: Some(restart), since: now }
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

    /// Gives up what hangs of old generations that have overrun their deadline, and then themselves.
    pub(super) fn enforce_deadlines(&mut self, mut state: State, now: Instant) -> State {
        while let Some(at) = self.old.iter().position(|old| old.overdue_at() <= now) {
            let mut old = self.old.remove(at);
            if !old.hurried {
                old.running.server.give_up("it has overrun its deadline");
                old.hurried = true;
                old.deadline = now;
                self.old.push(old);
                continue;
            }
            add(&mut self.past, Counts { now: 0, ..old.running.server.counts() });
            let connections = old.running.server.connections();
            let drain = DrainReport { forced: connections.clone(), stuck: connections, ..DrainReport::default() };
            let ended = Ended { drain, ..Ended::default() };
            let (generation, report) = (old.running.generation, wire::report(&old.by, &ended));
            let hangs = what_hangs(&ended.drain.stuck, self.identity.program.is_some());
            let message = format!("generation {generation} hangs and is left behind: {hangs}");
            self.identity.log.line(Level::Error, "left_behind", message, [("generation", generation.into())]);
            state = self.after_old(state, generation, report, now);
        }
        state
    }

    /// Begins to stop these servers, and the old ones.
    pub(super) fn begin_stop(
        &mut self,
        mut servers: Vec<Running>,
        why: Why,
        grace: Duration,
        now: Instant,
    ) -> (Vec<Running>, Stop) {
        // First: the last server closes the socket then, and nobody can connect to it any more.
        self.builder.close();
        servers.extend(self.old.drain(..).map(|old| old.running));
        let deadline = deadline_after(now, grace);
        if let Some(watchdog) = &self.watchdog {
            let watchers: Vec<_> = servers.iter().map(|running| running.server.watcher()).collect();
            let is_program = self.identity.program.is_some();
            watchdog.watch_stop(deadline, move || {
                let connections: Vec<_> = watchers.iter().flat_map(|connections| connections()).collect();
                what_hangs(&connections, is_program)
            });
        }
        // Counted before, since some leave at once.
        let left = open(&servers);
        for running in &servers {
            running.server.stop_by(deadline);
        }
        if let Why::Asked(by) = &why {
            let most = if by.limit() == Some(grace) { ", the longest that the system leaves" } else { "" };
            let message = format!("{by}: stopping, {}grace period {}{most}", self.connected(left), seconds(grace));
            let fields =
                [("by", by.to_string().into()), ("connected", left.into()), ("grace_ms", milliseconds(grace).into())];
            self.identity.log.line(Level::Info, "stopping", message, fields);
        }
        // The countdown begins a second from now, and not at once: most clients leave before.
        let mut stop = Stop { why, began: now, deadline, countdown: now + COUNTDOWN, waiting: Vec::new() };
        for reply in self.take_scheduled_stop() {
            stop.attend(reply, &servers, now);
        }
        (servers, stop)
    }

    pub(super) fn count_down(&self, servers: &[Running], stop: &mut Stop, now: Instant) {
        stop.countdown = now + COUNTDOWN;
        let drain = stop.tell_waiting(servers, now);
        self.log_countdown(&drain);
    }

    /// Moves the deadline of a stop under way, but only towards now: of two who ask for a stop, both get the shorter
    /// one.
    pub(super) fn shorten(
        &self,
        servers: &[Running],
        stop: &mut Stop,
        by: &Trigger,
        grace: Option<Duration>,
        now: Instant,
    ) {
        let grace = match by {
            // Whoever asks at the console a second time does not want to wait.
            Trigger::Console | Trigger::Signal { .. } => Duration::ZERO,
            // When its window is closed, the system does not wait much longer.
            Trigger::ConsoleEvent(_) => by.limit().unwrap_or_default(),
            Trigger::ServiceManager(_) | Trigger::Admin { .. } | Trigger::Code => grace.unwrap_or(self.settings.grace),
        };
        if deadline_after(now, grace) < stop.deadline {
            self.set_deadline(servers, stop, by, grace, now);
        }
    }

    /// Gives the clients this long from now, in a stop under way.
    fn set_deadline(&self, servers: &[Running], stop: &mut Stop, by: &Trigger, grace: Duration, now: Instant) {
        let deadline = deadline_after(now, grace);
        stop.deadline = deadline;
        if let Some(watchdog) = &self.watchdog {
            watchdog.deadline_moved(deadline);
        }
        let left = open(servers);
        for running in servers {
            running.server.stop_by(deadline);
        }
        self.log_moved(by, grace, left);
        stop.tell_waiting(servers, now);
    }

    fn log_moved(&self, by: &Trigger, grace: Duration, left: usize) {
        let left = clients(left);
        let message = match (&self.identity.program, grace.is_zero()) {
            (None, true) => format!("{by}: closing {left} now"),
            (None, false) => format!("{by}: the grace period ends in {}, {left} still connected", seconds(grace)),
            (Some(_), true) => format!("{by}: killing what is left of the program"),
            (Some(_), false) => format!("{by}: the grace period ends in {}", seconds(grace)),
        };
        let fields = [("by", by.to_string().into()), ("grace_ms", milliseconds(grace).into())];
        self.identity.log.line(Level::Info, "deadline_moved", message, fields);
    }

    /// Somebody gives the clients this long from now, in the drain under way: that of a stop, or else those of old
    /// generations.
    pub(super) fn on_grace(&mut self, state: State, by: &Trigger, grace: Duration, now: Instant) -> (State, Answer) {
        match state {
            State::Draining { servers, ended, mut stop } => {
                self.set_deadline(&servers, &mut stop, by, grace, now);
                let drains = vec![stop.drain(&servers, now)];
                (State::Draining { servers, ended, stop }, Answer::Moved { drains })
            }
            state if self.old.is_empty() => {
                let message = "there is no drain whose deadline could be moved".into();
                (state, Answer::Error(Refusal { code: ErrorCode::NotDraining, message }))
            }
            state => {
                let deadline = deadline_after(now, grace);
                for old in &mut self.old {
                    (old.deadline, old.hurried) = (deadline, false);
                    old.running.server.move_deadline(deadline);
                }
                self.log_moved(by, grace, open(self.old.iter().map(|old| &old.running)));
                let drains: Vec<_> = self.old.iter().map(|old| old.drain(now)).collect();
                if let Some((replaced, restart)) = state.awaits_old()
                    && let Some(drain) = drains.iter().find(|drain| drain.generation == Some(replaced))
                {
                    restart.tell(Progress::Draining(drain.clone()));
                }
                (state, Answer::Moved { drains })
            }
        }
    }

    /// A server is done: what became of its connections.
    pub(super) fn ended(&mut self, running: Running) -> Ended {
        add(&mut self.past, Counts { now: 0, ..running.server.counts() });
        // That it failed has been said before.
        running.server.end().unwrap_or_else(|error| Ended { drain: error.drain, ..Ended::default() })
    }

    /// The last server is done.
    pub(super) fn end(&self, stop: Stop, mut ended: Ended, now: Instant) -> End {
        ended.drain.took = now.saturating_duration_since(stop.began);
        let result = match stop.why {
            Why::Asked(by) => {
                self.log_report(None, &wire::report(&by.to_string(), &ended));
                let Ended { drain, program, killed } = ended;
                Ok(Report { by, drain, program, killed })
            }
            Why::Failed(Error::Ended { reason, program: None }) => Err(Error::Ended { reason, program: ended.program }),
            Why::Failed(error) => Err(error),
        };
        End { result, waiting: stop.waiting }
    }

    /// Of an old generation, or of the stop.
    fn log_report(&self, generation: Option<u64>, report: &protocol::Report) {
        for connection in &report.connections {
            let message = format!("forced: {}", text::describe_forced(connection));
            let fields = [("id", connection.id.into()), ("peer", connection.peer.to_string().into())];
            self.identity.log.line(Level::Warning, "forced", message, fields);
        }
        let (event, what) = match generation {
            None => ("stopped", String::new()),
            Some(generation) => ("retired", format!("generation {generation} ")),
        };
        let fields = [
            ("generation", generation.into()),
            ("notified", report.notified.into()),
            ("disconnected", report.disconnected.into()),
            ("closed", report.closed.into()),
            ("forced", report.forced.into()),
            ("stuck", report.stuck.into()),
            ("took_ms", report.took_ms.into()),
        ];
        self.identity.log.line(Level::Info, event, format!("{what}{}", text::summary(report)), fields);
    }
}

impl Stop {
    /// Whether this belongs to the signal that began the stop: service managers and terminals send a SIGHUP along with
    /// another signal.
    pub(super) fn comes_with(&self, by: &Trigger, now: Instant) -> bool {
        match (&self.why, by) {
            (Why::Asked(Trigger::Signal { name: first, .. }), Trigger::Signal { name: second, .. }) => {
                *first != "SIGHUP" && *second == "SIGHUP" && now.saturating_duration_since(self.began) < TOGETHER
            }
            _ => false,
        }
    }

    pub(super) fn drain(&self, servers: &[Running], now: Instant) -> Drain {
        let by = match &self.why {
            Why::Asked(by) => by.to_string(),
            Why::Failed(_) => "its failure".into(),
        };
        drain_of(servers, None, by, self.deadline, now)
    }

    /// Tells somebody who asked for a stop how it goes, now and, if wanted, until its end.
    pub(super) fn attend(&mut self, reply: Reply, servers: &[Running], now: Instant) {
        let drain = self.drain(servers, now);
        if !reply.wait {
            // A client that has gone away meanwhile needs no answer.
            let _ = reply.to.send(Response::Answer(Answer::Stopping(drain)));
        } else if reply.to.send(Response::Progress(Progress::Draining(drain))).is_ok() {
            self.waiting.push(reply.to);
        }
    }

    /// Tells those who wait how it goes, and drops those who have gone away.
    fn tell_waiting(&mut self, servers: &[Running], now: Instant) -> Drain {
        let drain = self.drain(servers, now);
        self.waiting.retain(|reply| reply.send(Response::Progress(Progress::Draining(drain.clone()))).is_ok());
        drain
    }
}

fn drain_of<'a>(
    servers: impl IntoIterator<Item = &'a Running>,
    generation: Option<u64>,
    by: String,
    deadline: Instant,
    now: Instant,
) -> Drain {
    let mut connections = connections(servers);
    let open = connections.len();
    connections.truncate(MAX_NAMED);
    let remaining_ms = milliseconds(deadline.saturating_duration_since(now));
    Drain { generation, by, open, remaining_ms, connections }
}

/// What these serve now, oldest first.
pub(super) fn connections<'a>(servers: impl IntoIterator<Item = &'a Running>) -> Vec<protocol::Connection> {
    let of = |running: &Running| {
        let generation = Some(running.generation);
        let connections = running.server.connections();
        connections.into_iter().map(move |it| wire::connection(&it, generation, false))
    };
    servers.into_iter().flat_map(of).collect()
}

/// How many connections these have.
fn open<'a>(servers: impl IntoIterator<Item = &'a Running>) -> usize {
    servers.into_iter().map(|running| running.server.counts().now).sum()
}

/// Of a program's connections nobody else knows.
pub(super) fn own_affair(program: &str) -> Refusal {
    Refusal { code: ErrorCode::NoConnection, message: format!("the connections of {program} are its own affair") }
}

fn what_hangs(connections: &[ConnectionInfo], is_program: bool) -> String {
    if is_program {
        return "something of the program does not end, although it was killed".into();
    }
    if connections.is_empty() {
        return "no connection is left, but a server thread does not end".into();
    }
    let named: Vec<_> =
        connections.iter().take(MAX_NAMED).map(|it| text::describe(&wire::connection(it, None, true))).collect();
    let more = connections.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join("; "))
}
