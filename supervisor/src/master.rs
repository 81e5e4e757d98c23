//! Master control: the one thread that owns all state. It waits for an [`Event`] and does what the state says.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use worker::{Handle, deadline_after};

use crate::event::{Event, Trigger};
use crate::log::{Level, Log};
use crate::protocol::{self, Answer, Drain, ErrorCode, MAX_NAMED, Progress, Refusal, Request, Response, Status};
use crate::text::milliseconds;
use crate::tron::Tron;
use crate::{Error, Report, plain, text};

/// How often those who wait for a stop hear how it goes.
const COUNTDOWN: Duration = Duration::from_secs(1);

/// A SIGHUP within this time after another signal is no second request.
const TOGETHER: Duration = Duration::from_millis(500);

/// What does not change as long as the supervisor lives.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) grace: Duration,
    pub(crate) log: Log,
    /// Whether a stop that overruns ends the process.
    pub(crate) last_resort: bool,
    pub(crate) started: Instant,
}

/// Runs on the thread `master-control`.
#[derive(Debug)]
pub(crate) struct Master(Settings);

/// What the server is doing. What belongs to a state only is inside it.
#[derive(Debug)]
enum State {
    Serving { server: Handle },
    Draining { server: Handle, stop: Stop },
}

/// A stop under way.
#[derive(Debug)]
struct Stop {
    by: Trigger,
    began: Instant,
    deadline: Instant,
    /// When the next countdown line is due.
    countdown: Instant,
    waiting: Vec<Sender<Response>>,
    /// Calls the watch off when the stop is over. None where nothing shall end the process.
    tron: Option<Tron>,
}

/// The end of the server, and those who have not heard of it yet.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) result: Result<Report, Error>,
    waiting: Vec<Sender<Response>>,
}

impl Master {
    pub(crate) fn new(settings: Settings) -> Master {
        Master(settings)
    }

    /// Handles events until the server has stopped.
    pub(crate) fn run(&self, server: Handle, events: &Receiver<Event>) -> End {
        let mut state = State::Serving { server };
        loop {
            let event = match state.next_tick() {
                None => events.recv().ok(),
                Some(at) => match events.recv_timeout(at.saturating_duration_since(Instant::now())) {
                    Ok(event) => Some(event),
                    Err(RecvTimeoutError::Timeout) => Some(Event::Tick),
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            // The server thread holds a sender, and sends `ServerFinished` before it lets go of it.
            let event = event.unwrap_or(Event::ServerFinished);
            match self.handle(state, event, Instant::now()) {
                ControlFlow::Continue(next) => state = next,
                ControlFlow::Break(end) => return end,
            }
        }
    }

    fn handle(&self, state: State, event: Event, now: Instant) -> ControlFlow<End, State> {
        ControlFlow::Continue(match (state, event) {
            (State::Serving { server }, Event::Stop { by, grace }) => {
                let stop = self.begin_stop(&server, by, grace.unwrap_or(self.0.grace), now);
                State::Draining { server, stop }
            }
            (State::Draining { server, stop }, Event::Stop { by, .. }) if stop.comes_with(&by, now) => {
                State::Draining { server, stop }
            }
            (State::Draining { server, mut stop }, Event::Stop { by, grace }) => {
                let grace = match by {
                    // Whoever asks at the console a second time does not want to wait.
                    Trigger::Console | Trigger::Signal { .. } => Duration::ZERO,
                    Trigger::Admin { .. } | Trigger::Code => grace.unwrap_or(self.0.grace),
                };
                self.shorten(&server, &mut stop, &by, grace, now);
                State::Draining { server, stop }
            }

            (State::Serving { server }, Event::Request { request: Request::Stop { grace_ms, wait }, by, reply }) => {
                let mut stop = self.begin_stop(&server, by, self.grace(grace_ms), now);
                stop.attend(reply, wait, &server, now);
                State::Draining { server, stop }
            }
            (
                State::Draining { server, mut stop },
                Event::Request { request: Request::Stop { grace_ms, wait }, by, reply },
            ) => {
                self.shorten(&server, &mut stop, &by, self.grace(grace_ms), now);
                stop.attend(reply, wait, &server, now);
                State::Draining { server, stop }
            }
            (
                state @ (State::Serving { .. } | State::Draining { .. }),
                Event::Request { request: request @ (Request::Ping {} | Request::Status {}), reply, .. },
            ) => {
                let answer = if request == (Request::Ping {}) { self.pong() } else { self.status(&state, now) };
                // A client that has gone away meanwhile needs no answer.
                let _ = reply.send(Response::Answer(answer));
                state
            }

            (State::Serving { server }, Event::ServerFinished) => return ControlFlow::Break(self.end(server, None)),
            (State::Draining { server, stop }, Event::ServerFinished) => {
                return ControlFlow::Break(self.end(server, Some(stop)));
            }

            (state @ State::Serving { .. }, Event::Tick) => state,
            (State::Draining { server, mut stop }, Event::Tick) => {
                self.count_down(&server, &mut stop, now);
                State::Draining { server, stop }
            }
        })
    }

    fn grace(&self, asked_ms: Option<u64>) -> Duration {
        asked_ms.map_or(self.0.grace, Duration::from_millis)
    }

    fn begin_stop(&self, server: &Handle, by: Trigger, grace: Duration, now: Instant) -> Stop {
        let deadline = deadline_after(now, grace);
        let tron = if self.0.last_resort { self.watch(server, deadline) } else { None };
        // Counted before, since some leave at once.
        let left = server.counts().now;
        server.stop_by(deadline);
        let message = format!("{by}: stopping, {} connected, grace period {}", clients(left), seconds(grace));
        let fields =
            [("by", by.to_string().into()), ("connected", left.into()), ("grace_ms", milliseconds(grace).into())];
        self.0.log.line(Level::Info, "stopping", message, fields);
        // The countdown begins a second from now, and not at once: most clients leave before.
        Stop { by, began: now, deadline, countdown: now + COUNTDOWN, waiting: Vec::new(), tron }
    }

    fn watch(&self, server: &Handle, deadline: Instant) -> Option<Tron> {
        let stopper = server.stopper();
        let tron = Tron::watch(self.0.log, deadline, move || what_hangs(&stopper.connections()));
        tron.inspect_err(|error| {
            let message = format!("no thread to watch over the deadline: {}", text::Reason(error));
            self.0.log.line(Level::Warning, "no_last_resort", message, []);
        })
        .ok()
    }

    fn count_down(&self, server: &Handle, stop: &mut Stop, now: Instant) {
        stop.countdown = now + COUNTDOWN;
        let drain = stop.tell_waiting(server, now);
        if drain.open > 0 {
            let fields = [("open", drain.open.into()), ("remaining_ms", drain.remaining_ms.into())];
            self.0.log.line(Level::Info, "draining", text::countdown(&drain), fields);
        }
    }

    /// Moves the deadline of a stop under way, but only towards now: two who ask get the shorter of both.
    fn shorten(&self, server: &Handle, stop: &mut Stop, by: &Trigger, grace: Duration, now: Instant) {
        let deadline = deadline_after(now, grace);
        if deadline >= stop.deadline {
            return;
        }
        stop.deadline = deadline;
        if let Some(tron) = &stop.tron {
            tron.deadline_moved(deadline);
        }
        let left = clients(server.counts().now);
        server.stop_by(deadline);
        let message = if grace.is_zero() {
            format!("{by}: closing {left} by force")
        } else {
            format!("{by}: the grace period ends in {}, {left} still connected", seconds(grace))
        };
        let fields = [("by", by.to_string().into()), ("grace_ms", milliseconds(grace).into())];
        self.0.log.line(Level::Info, "deadline_moved", message, fields);
        stop.tell_waiting(server, now);
    }

    /// The server thread is done.
    fn end(&self, server: Handle, stop: Option<Stop>) -> End {
        let joined = server.join();
        let (by, waiting) = match stop {
            Some(stop) => (Some(stop.by), stop.waiting), // Drops Tron.
            None => (None, Vec::new()),
        };
        let result = match joined {
            Ok(drain) => Ok(Report { by, drain }),
            Err(error) => Err(Error::Server(error)),
        };
        match &result {
            Ok(report) => self.log_report(&plain::report(report)),
            Err(error) => self.0.log.line(Level::Error, "failed", error, []),
        }
        End { result, waiting }
    }

    fn log_report(&self, report: &protocol::Report) {
        for connection in &report.connections {
            let message = format!("closed by force: {}", text::describe_forced(connection));
            let fields = [("id", connection.id.into()), ("peer", connection.peer.to_string().into())];
            self.0.log.line(Level::Warning, "forced", message, fields);
        }
        let fields = [
            ("told", report.told.into()),
            ("left", report.left.into()),
            ("closed", report.closed.into()),
            ("forced", report.forced.into()),
            ("stuck", report.stuck.into()),
            ("took_ms", report.took_ms.into()),
        ];
        self.0.log.line(Level::Info, "stopped", text::summary(report), fields);
    }

    fn pong(&self) -> Answer {
        Answer::Pong { name: self.0.name.clone(), pid: std::process::id(), version: crate::VERSION.into() }
    }

    fn status(&self, state: &State, now: Instant) -> Answer {
        let (server, state, drain) = match state {
            State::Serving { server } => (server, protocol::State::Serving, None),
            State::Draining { server, stop } => (server, protocol::State::Draining, Some(stop.drain(server, now))),
        };
        Answer::Status(Status {
            name: self.0.name.clone(),
            kind: self.0.kind.clone(),
            state,
            pid: std::process::id(),
            address: server.address(),
            uptime_ms: milliseconds(now.saturating_duration_since(self.0.started)),
            connections: plain::counts(server.counts()),
            drain,
            version: crate::VERSION.into(),
        })
    }
}

impl State {
    /// When there is something to do, although nothing happens.
    fn next_tick(&self) -> Option<Instant> {
        match self {
            State::Serving { .. } => None,
            State::Draining { stop, .. } => Some(stop.countdown),
        }
    }
}

impl Stop {
    /// Whether this belongs to the signal that began the stop: service managers and terminals send a SIGHUP along with
    /// another signal.
    fn comes_with(&self, by: &Trigger, now: Instant) -> bool {
        match (&self.by, by) {
            (Trigger::Signal { name: first, .. }, Trigger::Signal { name: second, .. }) => {
                *first != "SIGHUP" && *second == "SIGHUP" && now.saturating_duration_since(self.began) < TOGETHER
            }
            _ => false,
        }
    }

    fn drain(&self, server: &Handle, now: Instant) -> Drain {
        let connections = server.connections();
        Drain {
            by: self.by.to_string(),
            open: connections.len(),
            remaining_ms: milliseconds(self.deadline.saturating_duration_since(now)),
            connections: connections.iter().take(MAX_NAMED).map(|it| plain::connection(it, false)).collect(),
        }
    }

    /// Tells somebody who asked for a stop how it goes, now and, if wanted, until its end.
    fn attend(&mut self, reply: Sender<Response>, wait: bool, server: &Handle, now: Instant) {
        let drain = self.drain(server, now);
        if !wait {
            // A client that has gone away meanwhile needs no answer.
            let _ = reply.send(Response::Answer(Answer::Stopping(drain)));
        } else if reply.send(Response::Progress(Progress::Draining(drain))).is_ok() {
            self.waiting.push(reply);
        }
    }

    /// Tells those who wait how it goes, and drops those who have gone away.
    fn tell_waiting(&mut self, server: &Handle, now: Instant) -> Drain {
        let drain = self.drain(server, now);
        self.waiting.retain(|reply| reply.send(Response::Progress(Progress::Draining(drain.clone()))).is_ok());
        drain
    }
}

impl End {
    /// Those who asked for a stop in the last moment get the same answer as the others.
    pub(crate) fn adopt(&mut self, events: Receiver<Event>) {
        for event in events.try_iter() {
            if let Event::Request { request: Request::Stop { .. }, reply, .. } = event {
                self.waiting.push(reply);
            }
        }
    }

    /// Answers those who waited for the end, once the port and the name are free.
    pub(crate) fn tell_waiting(&mut self) {
        let answer = match &self.result {
            Ok(report) => Answer::Stopped { report: plain::report(report) },
            Err(error) => Answer::Error(Refusal { code: ErrorCode::Failed, message: error.to_string() }),
        };
        for reply in self.waiting.drain(..) {
            // One that has gone away meanwhile needs no answer.
            let _ = reply.send(Response::Answer(answer.clone()));
        }
    }
}

fn what_hangs(connections: &[worker::ConnectionInfo]) -> String {
    if connections.is_empty() {
        return "no connection is left, but the server thread or master control does not end".into();
    }
    let named: Vec<_> =
        connections.iter().take(MAX_NAMED).map(|it| text::describe(&plain::connection(it, true))).collect();
    let more = connections.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join("; "))
}

fn clients(number: usize) -> impl fmt::Display {
    text::Count(number, "client")
}

/// Seconds for people, rounded to tenths.
fn seconds(duration: Duration) -> impl fmt::Display {
    text::Seconds(duration)
}
