//! A connection whose messages are observed, and how far the one is that is under way.

use std::time::Instant;

use super::http::{BodyReader, Request};
use super::pending::Pending;

#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// What the client has sent and nothing was made of yet: a part of a head, or requests that were sent ahead.
    pub(super) input: Pending,
    /// Whether a whole head may be there already.
    pub(super) is_unseen: bool,
    /// Until when the head has to be complete that has begun.
    pub(super) head_until: Option<Instant>,
    /// Whether there was a request on this connection.
    pub(super) has_served: bool,
    pub(super) stage: Stage,
}

#[derive(Debug, Default)]
pub(super) enum Stage {
    #[default]
    Between,
    UnderWay(UnderWay),
}

/// A request whose head was received, and which is not answered to the end.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) request: Request,
    /// The body of the request.
    pub(super) body: BodyReader,
    /// Whether there is a connection to the program for it. Otherwise it waits to be sent.
    pub(super) is_sent: bool,
    /// What was sent, if it may be sent once more: the connection had been kept alive, and may have been closed when it
    /// was sent.
    pub(super) copy: Option<Vec<u8>>,
    pub(super) answer: Answering,
    /// Until when the answer has to begin.
    pub(super) answer_until: Option<Instant>,
}

/// How far the answer is.
#[derive(Debug)]
pub(super) enum Answering {
    /// So much of its head has come.
    Head(Pending),
    Body {
        reader: BodyReader,
        keeps_upstream: bool,
        keeps_client: bool,
    },
    /// It ends when the program closes.
    UntilClose,
}

/// What is done next with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// What has to be done depends on what it is now.
    Go,
    /// Nothing, until something happens.
    Wait,
}
