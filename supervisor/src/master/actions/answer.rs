//! Requests that are answered at once, in every state; and the pause.

use std::time::{Duration, Instant};

use crate::event::Trigger;
use crate::log::Level;
use crate::master::Master;
use crate::master::closing;
use crate::master::pause::{Over, PauseRequest};
use crate::master::reply::Reply;
use crate::master::requests::Ask;
use crate::master::state::State;
use crate::protocol::{Answer, ErrorCode, Refusal, Undone};
use crate::server::program_end::SignalName;

impl Master {
    pub(in crate::master) fn pause(&mut self, state: &State, request: PauseRequest, now: Instant) {
        match state {
            State::Draining(_) => {
                let message = "the server is being stopped, and cannot be paused".into();
                Reply::new(request.reply, true).refuse(ErrorCode::Stopping, message);
            }
            State::Starting(_)
            | State::Serving(_)
            | State::Replacing(_)
            | State::Preparing(_)
            | State::Proving(_)
            | State::Emptying(_)
            | State::Rebuilding(_)
            | State::Retiring(_)
            | State::Waiting(_) => self.pausing.begin(request, self.builder.as_ref(), &self.identity.log, now),
        }
    }

    /// Returns whether there was a pause.
    pub(in crate::master) fn end_pause(&mut self, over: &Over, now: Instant) -> bool {
        self.pausing.end(over, self.builder.as_ref(), &self.identity.log, now)
    }

    pub(in crate::master) fn answer(&mut self, state: &mut State, what: Ask, by: &Trigger, reply: Reply, now: Instant) {
        match what {
            Ask::Ping => reply.answer(self.look(state, now).pong()),
            Ask::Status => self.answer_status(state, reply, now),
            Ask::Connections => self.look(state, now).list_connections(reply),
            Ask::Close { id, grace } => {
                let grace = grace.unwrap_or(self.settings.grace);
                match self.identity.no_clients() {
                    None => closing::close(self.look(state, now).clients(), id, grace, by, reply, &self.identity.log),
                    Some(refusal) => reply.answer(Answer::Error(refusal)),
                }
            }
            Ask::Grace(grace) => reply.answer(self.move_deadline(state, by, grace, now)),
            Ask::Signal(signal) => self.send_signal(state, signal, by, reply),
            Ask::NotReady => {
                self.readiness.revoke(by, &self.identity.log);
                reply.answer(Answer::Readiness { ready: false, undone: Vec::new() });
            }
            Ask::Ready => match state {
                State::Draining(_) => {
                    reply.refuse(ErrorCode::Stopping, "the stop has begun already, and cannot be cancelled".into());
                }
                _ if self.readiness.is_bound_to_stop() => {
                    let message = format!(
                        "the service manager has asked for this stop, and Windows lets no service take that back: let it \
                         stop (admin-cli stop --delay 0 does not wait), and start it again (net start {})",
                        self.identity.name
                    );
                    reply.refuse(ErrorCode::Stopping, message);
                }
                state => {
                    let is_resumed = self.end_pause(&Over::Resumed(by.to_string()), now);
                    let restored = self.readiness.restore(by, &self.identity.log);
                    let undone = is_resumed.then_some(Undone::Pause).into_iter().chain(restored).collect();
                    reply.answer(Answer::Readiness { ready: self.look(state, now).is_ready(), undone });
                }
            },
        }
    }

    /// Answers with the status, after asking a ready generation whether it has something to serve.
    fn answer_status(&self, state: &State, reply: Reply, now: Instant) {
        let mut status = Box::new(self.look(state, now).status());
        match state.current() {
            Some(current) if status.ready => current.generation.available(Box::new(move |available| {
                if let Err(why) = available {
                    (status.ready, status.unavailable) = (false, Some(why));
                }
                reply.answer(Answer::Status(status));
            })),
            Some(_) | None => reply.answer(Answer::Status(status)),
        }
    }

    fn send_signal(&self, state: &State, signal: i32, by: &Trigger, reply: Reply) {
        if !self.identity.has_program() {
            let message = "there is no program to signal: this server is a part of the supervisor".into();
            return reply.refuse(ErrorCode::Failed, message);
        }
        let Some(name) = SignalName(signal).known() else {
            return reply.refuse(ErrorCode::BadRequest, format!("this system has no signal {signal}"));
        };
        let Some(current) = state.current() else {
            return reply.refuse(ErrorCode::Failed, "no program is serving at the moment".into());
        };
        if !current.generation.signal(signal) {
            let message =
                format!("cannot send {name}: the guardian of the program does not read; is it held by a debugger?");
            return reply.refuse(ErrorCode::Failed, message);
        }
        let message = format!("{by}: sent {name} to the program");
        let fields = [("by", by.to_string().into()), ("signal", signal.into())];
        self.identity.log.line(Level::Info, "signaled", message, fields);
        reply.answer(Answer::Signaled { signal });
    }

    /// Moves the deadline of the drain under way to this long from now: of the stop, or else of all old generations.
    fn move_deadline(&mut self, state: &mut State, by: &Trigger, grace: Duration, now: Instant) -> Answer {
        if let State::Draining(draining) = state {
            draining.move_deadline(by, grace, &mut self.drains, now);
            self.builder.close(draining.deadline);
            return Answer::Moved { drains: vec![draining.drain(&self.drains, now)] };
        }
        if self.drains.is_empty() {
            let message = "no drain is in progress, so there is no deadline to move".into();
            return Answer::Error(Refusal { code: ErrorCode::NotDraining, message });
        }
        self.drains.move_deadline(by, grace, now);
        if let Some((replaced, restart)) = state.awaits_old() {
            self.report_drain(replaced, restart, now);
        }
        Answer::Moved { drains: self.drains.each(now) }
    }
}
