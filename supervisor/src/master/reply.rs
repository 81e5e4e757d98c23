//! Where the answer to a request goes.

use std::sync::mpsc::Sender;

use crate::protocol::{Answer, ErrorCode, Progress, Refusal, Response};

/// A client that waits for an answer. If it has disconnected meanwhile, it needs none.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    to: Sender<Response>,
    /// Whether the client waits for the end of what it asked for.
    pub(super) wait: bool,
}

impl Reply {
    pub(super) fn new(to: Sender<Response>, wait: bool) -> Reply {
        Reply { to, wait }
    }

    /// Reports progress. Returns whether the client is still there to hear it.
    pub(super) fn report(&self, progress: Progress) -> bool {
        self.to.send(Response::Progress(progress)).is_ok()
    }

    pub(super) fn answer(self, answer: Answer) {
        let _ = self.to.send(Response::Answer(answer));
    }

    pub(super) fn refuse(self, code: ErrorCode, message: String) {
        self.answer(Answer::Error(Refusal { code, message }));
    }
}
