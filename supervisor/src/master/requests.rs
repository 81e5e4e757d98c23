//! Restarts that somebody asked for, and what that one hears of them.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use crate::event::Trigger;
use crate::protocol::{Answer, ErrorCode, Progress, Refusal, Report, Response};
use crate::text::milliseconds;

/// Where the answer to a request goes.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) to: Sender<Response>,
    /// Whether the client waits for the end of what it asked for.
    pub(super) wait: bool,
}

/// A restart that was asked for.
#[derive(Debug)]
pub(super) struct Restart {
    pub(super) by: Trigger,
    /// How long the clients of the old generation get to leave. None: as the settings say.
    pub(super) grace: Option<Duration>,
    /// Since when nothing serves, if the old generation had to go first.
    pub(super) down_since: Option<Instant>,
    /// None: nobody waits for an answer, or not any more.
    reply: Option<Reply>,
}

impl Restart {
    pub(super) fn new(by: Trigger, grace: Option<Duration>, reply: Option<Reply>) -> Restart {
        Restart { by, grace, down_since: None, reply }
    }

    /// So many others come before it. For somebody who does not wait that is the answer.
    pub(super) fn accepted(mut self, ahead: usize) -> Restart {
        if let Some(reply) = self.reply.take_if(|reply| !reply.wait) {
            // A client that has gone away meanwhile needs no answer; the same everywhere below.
            let _ = reply.to.send(Response::Answer(Answer::Restarting { ahead }));
        }
        self.tell(Progress::Restarting { ahead });
        self
    }

    pub(super) fn tell(&self, progress: Progress) {
        if let Some(reply) = &self.reply {
            let _ = reply.to.send(Response::Progress(progress));
        }
    }

    /// The new generation serves, and the one that it replaced is gone.
    pub(super) fn done(self, generation: u64, replaced: Option<(u64, Report)>, now: Instant) {
        let (replaced, report) = replaced.unzip();
        let down_ms = self.down_since.map(|since| milliseconds(now.saturating_duration_since(since)));
        self.answer(Answer::Restarted { generation, replaced, report, down_ms });
    }

    pub(super) fn failed(self, message: String) {
        self.refuse(Refusal { code: ErrorCode::Failed, message });
    }

    pub(super) fn refuse(self, refusal: Refusal) {
        self.answer(Answer::Error(refusal));
    }

    fn answer(self, answer: Answer) {
        if let Some(reply) = self.reply {
            let _ = reply.to.send(Response::Answer(answer));
        }
    }
}
