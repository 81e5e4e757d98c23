//! A connection whose messages are observed, and the progress of the message under way.

use std::time::Instant;

use super::http::{BodyReader, Request};
use super::pending::Pending;

#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Input that has not been processed yet: a part of a head, or requests that were sent ahead.
    pub(super) input: Pending,
    /// Whether `input` may already contain a whole head.
    pub(super) is_unseen: bool,
    /// When a head that has begun has to be complete.
    pub(super) head_until: Option<Instant>,
    /// Whether there has been a request on this connection.
    pub(super) has_served: bool,
    pub(super) stage: Stage,
}

#[derive(Debug, Default)]
pub(super) enum Stage {
    #[default]
    Between,
    UnderWay(UnderWay),
}

/// A request whose head was received, and whose answer is not complete.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) request: Request,
    /// The body of the request.
    pub(super) body: BodyReader,
    /// Whether there is a connection to the program for it. Otherwise it waits to be sent.
    pub(super) is_sent: bool,
    /// What was sent, if it may be sent again: the connection to the program had been kept alive, and may already have
    /// been closed.
    pub(super) copy: Option<Vec<u8>>,
    pub(super) answer: Answering,
    /// When the answer has to have begun.
    pub(super) answer_until: Option<Instant>,
}

/// The progress of the answer.
#[derive(Debug)]
pub(super) enum Answering {
    /// This much of its head has arrived.
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
    /// Continue at once, as its state now requires.
    Go,
    /// Nothing, until something happens.
    Wait,
}
