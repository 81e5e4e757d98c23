//! Requested restarts: the one under way, and those that wait for it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::event::Trigger;
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{Answer, ErrorCode, Progress, Refusal, Report};
use crate::text::{Count, milliseconds};

use super::live::Live;
use super::reply::Reply;

/// A requested restart.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) by: Trigger,
    /// How long the clients of the old generation get to disconnect. None: as the settings say.
    pub(super) grace: Option<Duration>,
    /// The spread. None: as the settings say.
    pub(super) spread: Option<Duration>,
    /// When the outage may have begun: the old generation had to go first, and was asked to.
    pub(super) down_since: Option<Instant>,
    /// None: no client waits for an answer, or it has been answered.
    reply: Option<Reply>,
}

impl Restart {
    pub(super) fn new(by: Trigger, grace: Option<Duration>, reply: Option<Reply>) -> Restart {
        Restart { by, grace, spread: None, down_since: None, reply }
    }

    /// The same restart with this spread.
    pub(super) fn over(self, spread: Option<Duration>) -> Restart {
        Restart { spread, ..self }
    }

    /// The restart is accepted, with this many others before it. A client that does not wait gets that as its answer.
    pub(super) fn accepted(mut self, ahead: usize) -> Restart {
        if let Some(reply) = self.reply.take_if(|reply| !reply.wait) {
            reply.answer(Answer::Restarting { ahead });
        }
        self.report(Progress::Restarting { ahead });
        self
    }

    pub(super) fn report(&self, progress: Progress) {
        if let Some(reply) = &self.reply {
            reply.report(progress);
        }
    }

    /// The new generation serves, and the one that it replaced is gone.
    pub(super) fn done(self, current: &Live, replaced: Option<(u64, Report)>, now: Instant) {
        let (replaced, report) = replaced.unzip();
        let down_ms = self.outage(current, now).map(milliseconds);
        if let Some(reply) = self.reply {
            let (generation, changes, evidence) =
                (current.number, current.changes.clone(), current.generation.evidence());
            reply.answer(Answer::Restarted { generation, replaced, report, changes, evidence, down_ms });
        }
    }

    /// The longest the outage can have lasted for clients. None: there was none, or its end is not known.
    pub(super) fn outage(&self, current: &Live, now: Instant) -> Option<Duration> {
        self.down_since
            .filter(|_| current.generation.is_known_to_serve())
            .map(|since| now.saturating_duration_since(since))
    }

    pub(super) fn failed(self, message: String) {
        self.refuse(Refusal { code: ErrorCode::Failed, message });
    }

    /// Cancels the restart, because the supervisor ends.
    pub(super) fn cancel(self) {
        let message = "cannot restart: the server is being stopped".into();
        self.refuse(Refusal { code: ErrorCode::Stopping, message });
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        if let Some(reply) = self.reply {
            reply.answer(Answer::Error(refusal));
        }
    }
}

/// Queued restarts, in order.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Restart>,
    log: Journal,
}

impl Queue {
    pub(super) fn new(log: Journal) -> Queue {
        Queue { waiting: VecDeque::new(), log }
    }

    pub(super) fn push(&mut self, restart: Restart) {
        self.waiting.push_back(restart.accepted(self.waiting.len() + 1));
    }

    pub(super) fn pop(&mut self) -> Option<Restart> {
        self.waiting.pop_front()
    }

    /// Begins this restart.
    pub(super) fn begin(&self, restart: Restart) -> Restart {
        let message = format!("{}: restarting", restart.by);
        self.log.line(Level::Info, "restarting", message, [("by", restart.by.to_string().into())]);
        for (before, waiting) in self.waiting.iter().enumerate() {
            waiting.report(Progress::Restarting { ahead: before + 1 });
        }
        restart.accepted(0)
    }

    /// Cancels this restart, if there is one, and all queued ones.
    pub(super) fn cancel(&mut self, restart: Option<Restart>) {
        let cancelled: Vec<_> = restart.into_iter().chain(self.waiting.drain(..)).collect();
        if !cancelled.is_empty() {
            let message = format!("the server is being stopped: {} cancelled", Count(cancelled.len(), "restart"));
            self.log.line(Level::Warning, "no_restart", message, [("restarts", cancelled.len().into())]);
        }
        cancelled.into_iter().for_each(Restart::cancel);
    }
}
