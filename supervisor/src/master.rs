//! Master control: the one thread that owns all state. It waits for an [`Event`] and does what the state says.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use worker::Handle;

use crate::event::{Event, Trigger};
use crate::log::{Level, Log};
use crate::protocol::{Answer, ErrorCode, MAX_NAMED, Progress, Request, Response, State as StateName};
use crate::protocol::{Drain, Refusal, Status};
use crate::tron::Tron;
use crate::{Error, Report, plain, text};

/// How often those who wait for a stop hear how it goes.
const COUNTDOWN: Duration = Duration::from_secs(1);

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
pub(crate) struct Master {
    settings: Settings,
    state: State,
}

/// What the server is doing. What belongs to a state only is inside it.
#[derive(Debug)]
enum State {
    Serving { server: Handle },
    Draining { server: Handle, stop: Stop },
    Stopped(End),
}

/// A stop under way.
#[derive(Debug)]
struct Stop {
    by: Trigger,
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
    pub(crate) fn new(settings: Settings, server: Handle) -> Master {
        Master { settings, state: State::Serving { server } }
    }

    /// Handles events until the server has stopped.
    pub(crate) fn run(mut self, events: &Receiver<Event>) -> End {
        loop {
            let event = match self.next_tick() {
                None => events.recv().ok(),
                Some(at) => match events.recv_timeout(at.saturating_duration_since(Instant::now())) {
                    Ok(event) => Some(event),
                    Err(RecvTimeoutError::Timeout) => Some(Event::Tick),
                    Err(RecvTimeoutError::Disconnected) => None,
                },
            };
            // The server thread holds a sender, and sends `ServerFinished` before it lets go of it.
            let event = event.unwrap_or(Event::ServerFinished);
            self.state = self.settings.handle(self.state, event, Instant::now());
            if let State::Stopped(end) = self.state {
                return end;
            }
        }
    }

    fn next_tick(&self) -> Option<Instant> {
        match &self.state {
            State::Serving { .. } | State::Stopped(_) => None,
            State::Draining { stop, .. } => Some(stop.countdown),
        }
    }
}

impl Settings {
    fn handle(&self, state: State, event: Event, now: Instant) -> State {
        match (state, event) {
            (State::Serving { server }, Event::Stop { by, grace }) => {
                self.begin_stop(server, by, grace.unwrap_or(self.grace), Vec::new(), now)
            }
            (State::Serving { server }, Event::Request { request, by, reply }) => match request {
                Request::Ping {} => answer(&reply, self.pong(), State::Serving { server }),
                Request::Status {} => answer(&reply, self.status(&server, None, now), State::Serving { server }),
                Request::Stop { grace_ms, wait } => {
                    let grace = grace_ms.map_or(self.grace, Duration::from_millis);
                    let (now_answered, waiting) = if wait { (None, vec![reply]) } else { (Some(reply), Vec::new()) };
                    let state = self.begin_stop(server, by, grace, waiting, now);
                    answer_stopping(now_answered, state, now)
                }
            },
            (State::Serving { server }, Event::ServerFinished) => self.end(server, None),
            (state @ State::Serving { .. }, Event::Tick) => state,

            (State::Draining { server, mut stop }, Event::Stop { by, grace }) => {
                let grace = match by {
                    // Whoever asks at the console a second time does not want to wait.
                    Trigger::Console | Trigger::Signal { .. } => Duration::ZERO,
                    Trigger::Admin { .. } | Trigger::Code => grace.unwrap_or(self.grace),
                };
                self.shorten(&server, &mut stop, &by, grace, now);
                State::Draining { server, stop }
            }
            (State::Draining { server, mut stop }, Event::Request { request, by, reply }) => match request {
                Request::Ping {} => answer(&reply, self.pong(), State::Draining { server, stop }),
                Request::Status {} => {
                    let status = self.status(&server, Some(stop.drain(&server, now)), now);
                    answer(&reply, status, State::Draining { server, stop })
                }
                Request::Stop { grace_ms, wait } => {
                    let grace = grace_ms.map_or(self.grace, Duration::from_millis);
                    self.shorten(&server, &mut stop, &by, grace, now);
                    if wait {
                        let progress = Progress::Draining(stop.drain(&server, now));
                        // A client that has gone away meanwhile is dropped at the next line.
                        let _ = reply.send(Response::Progress(progress));
                        stop.waiting.push(reply);
                        return State::Draining { server, stop };
                    }
                    answer_stopping(Some(reply), State::Draining { server, stop }, now)
                }
            },
            (State::Draining { server, stop }, Event::ServerFinished) => self.end(server, Some(stop)),
            (State::Draining { server, mut stop }, Event::Tick) => {
                let drain = stop.tell_waiting(&server, now);
                stop.countdown = now + COUNTDOWN;
                if drain.left > 0 {
                    let left = clients(drain.left);
                    let to_go = seconds(stop.deadline.saturating_duration_since(now));
                    let fields = [("left", drain.left.into()), ("remaining_ms", drain.remaining_ms.into())];
                    self.log.line(Level::Info, "draining", format!("{left} left, {to_go} to go"), fields);
                }
                State::Draining { server, stop }
            }

            // Nobody calls this any more; what is asked of a server that has stopped gets no answer.
            (state @ State::Stopped(_), Event::Stop { .. })
            | (state @ State::Stopped(_), Event::Request { .. })
            | (state @ State::Stopped(_), Event::ServerFinished)
            | (state @ State::Stopped(_), Event::Tick) => state,
        }
    }

    fn begin_stop(
        &self,
        server: Handle,
        by: Trigger,
        grace: Duration,
        waiting: Vec<Sender<Response>>,
        now: Instant,
    ) -> State {
        let deadline = later(now, grace);
        let tron = self.last_resort.then(|| {
            let stopper = server.stopper();
            Tron::watch(self.log, deadline, move || what_hangs(&stopper.connections()))
        });
        let tron = tron.and_then(|tron| match tron {
            Ok(tron) => Some(tron),
            Err(error) => {
                let message = format!("no thread to watch over the deadline: {}", text::Reason(&error));
                self.log.line(Level::Warning, "no_last_resort", message, []);
                None
            }
        });
        // A second from now, and not at once: most clients leave before.
        let mut stop = Stop { by, deadline, countdown: now + COUNTDOWN, waiting, tron };
        // Counted before, since some leave at once.
        let left = server.counts().now;
        server.stop(grace);
        let message = format!("{}: stopping, {} connected, grace period {}", stop.by, clients(left), seconds(grace));
        let fields =
            [("by", stop.by.to_string().into()), ("connected", left.into()), ("grace_ms", milliseconds(grace).into())];
        self.log.line(Level::Info, "stopping", message, fields);
        stop.tell_waiting(&server, now);
        State::Draining { server, stop }
    }

    /// Moves the deadline of a stop under way, but only towards now: two who ask get the shorter of both.
    fn shorten(&self, server: &Handle, stop: &mut Stop, by: &Trigger, grace: Duration, now: Instant) {
        let deadline = later(now, grace);
        if deadline >= stop.deadline {
            return;
        }
        stop.deadline = deadline;
        if let Some(tron) = &stop.tron {
            tron.deadline_moved(deadline);
        }
        let left = clients(server.counts().now);
        server.stop(grace);
        let message = if grace.is_zero() {
            format!("{by}: closing {left} by force")
        } else {
            format!("{by}: the grace period ends in {}, {left} left", seconds(grace))
        };
        let fields = [("by", by.to_string().into()), ("grace_ms", milliseconds(grace).into())];
        self.log.line(Level::Info, "deadline_moved", message, fields);
        stop.tell_waiting(server, now);
    }

    /// The server thread is done.
    fn end(&self, server: Handle, stop: Option<Stop>) -> State {
        let joined = server.join();
        let (by, waiting) = match stop {
            Some(stop) => (Some(stop.by), stop.waiting), // Drops Tron.
            None => (None, Vec::new()),
        };
        let result = match (joined, by) {
            (Ok(drain), by) => Ok(Report { by, drain }),
            (Err(error), _) => Err(Error::Server(error)),
        };
        match &result {
            Ok(report) => self.log_report(report),
            Err(error) => self.log.line(Level::Error, "failed", error, []),
        }
        State::Stopped(End { result, waiting })
    }

    fn log_report(&self, report: &Report) {
        let drain = &report.drain;
        for connection in &drain.forced {
            let stuck = drain.stuck.iter().any(|stuck| stuck.id == connection.id);
            let connection = plain::connection(connection, stuck);
            let message = format!("closed by force: {}", text::describe(&connection));
            let fields = [("id", connection.id.into()), ("peer", connection.peer.to_string().into())];
            self.log.line(Level::Warning, "forced", message, fields);
        }
        let fields = [
            ("told", drain.told.into()),
            ("left", drain.left.into()),
            ("closed", drain.closed.into()),
            ("forced", drain.forced.len().into()),
            ("stuck", drain.stuck.len().into()),
            ("took_ms", milliseconds(drain.took).into()),
        ];
        self.log.line(Level::Info, "stopped", text::summary(&plain::report(report)), fields);
    }

    fn pong(&self) -> Answer {
        Answer::Pong { name: self.name.clone(), pid: std::process::id(), version: crate::VERSION.into() }
    }

    fn status(&self, server: &Handle, drain: Option<Drain>, now: Instant) -> Answer {
        Answer::Status(Status {
            name: self.name.clone(),
            kind: self.kind.clone(),
            state: if drain.is_some() { StateName::Draining } else { StateName::Serving },
            pid: std::process::id(),
            address: server.address(),
            uptime_ms: milliseconds(now.saturating_duration_since(self.started)),
            connections: plain::counts(server.counts()),
            drain,
            version: crate::VERSION.into(),
        })
    }
}

impl Stop {
    fn drain(&self, server: &Handle, now: Instant) -> Drain {
        let connections = server.connections();
        Drain {
            by: self.by.to_string(),
            left: connections.len(),
            remaining_ms: milliseconds(self.deadline.saturating_duration_since(now)),
            connections: connections.iter().take(MAX_NAMED).map(|it| plain::connection(it, false)).collect(),
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

fn answer(reply: &Sender<Response>, answer: Answer, state: State) -> State {
    // A client that has gone away meanwhile needs no answer.
    let _ = reply.send(Response::Answer(answer));
    state
}

/// Answers somebody who does not want to wait for the end of the stop.
fn answer_stopping(reply: Option<Sender<Response>>, state: State, now: Instant) -> State {
    match (reply, &state) {
        (Some(reply), State::Draining { server, stop }) => {
            let drain = stop.drain(server, now);
            answer(&reply, Answer::Stopping(drain), state)
        }
        (Some(_) | None, State::Serving { .. } | State::Draining { .. } | State::Stopped(_)) => state,
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

fn later(now: Instant, grace: Duration) -> Instant {
    // Longer than the clock can count is as good as for ever.
    now.checked_add(grace).unwrap_or(now + Duration::from_secs(u32::MAX.into()))
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn clients(number: usize) -> impl fmt::Display {
    text::Count(number, "client")
}

/// Seconds for people, rounded to tenths.
fn seconds(duration: Duration) -> impl fmt::Display {
    text::Seconds(duration)
}
