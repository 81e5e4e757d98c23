//! Answers of the relay itself: one plain line, and the connection ends.

use super::http::Method;
use super::message::{Exchange, Stage};
use super::pair::{Course, Pair};
use super::parting;
use super::tally::Fate;
use super::tools::Tools;
use crate::report::Outcome;

/// Why a request is not answered by the program.
#[derive(Debug, Clone, Copy)]
pub(super) enum Why {
    /// It is not a valid request, or one that is not passed on: the status, and what is wrong with it.
    Refused { status: u16, reason: &'static str },
    /// Its head was not completed in time.
    TooSlow,
    /// No generation serves.
    Unserved,
    /// There are too many clients.
    TooMany,
    /// The program does not accept connections.
    Unreachable,
    /// The program closed the connection without answering.
    Unanswered,
    /// The program did not answer in time.
    AnswerTooLate,
}

impl Why {
    fn status(self) -> (&'static str, Fate) {
        match self {
            Why::Refused { status: 431, .. } => ("431 Request Header Fields Too Large", Fate::Rejected),
            Why::Refused { status: 501, .. } => ("501 Not Implemented", Fate::Rejected),
            Why::Refused { status: 505, .. } => ("505 HTTP Version Not Supported", Fate::Rejected),
            Why::Refused { .. } => ("400 Bad Request", Fate::Rejected),
            Why::TooSlow => ("408 Request Timeout", Fate::Rejected),
            Why::Unserved | Why::TooMany => ("503 Service Unavailable", Fate::Unavailable),
            Why::Unreachable | Why::Unanswered => ("502 Bad Gateway", Fate::BadGateway),
            Why::AnswerTooLate => ("504 Gateway Timeout", Fate::GatewayTimeout),
        }
    }

    fn line(self) -> String {
        match self {
            Why::Refused { reason, .. } => format!("This request is not passed on: {reason}"),
            Why::TooSlow => "The request did not come to its end in time".into(),
            Why::Unserved => "The server is not available now, try again later".into(),
            Why::TooMany => "Too many connections, try again later".into(),
            Why::Unreachable => "The server does not accept connections now, try again later".into(),
            Why::Unanswered => "The server has closed the connection without an answer".into(),
            Why::AnswerTooLate => "The server did not answer in time".into(),
        }
    }

    fn answer(self, has_body: bool) -> String {
        let (status, _) = self.status();
        let line = self.line();
        let retry = if matches!(self, Why::Unserved | Why::TooMany) { "Retry-After: 1\r\n" } else { "" };
        let length = line.len() + 1;
        let mut answer = format!(
            "HTTP/1.1 {status}\r\nConnection: close\r\n{retry}Content-Type: text/plain; charset=utf-8\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        if has_body {
            answer.push_str(&line);
            answer.push('\n');
        }
        answer
    }
}

/// Answers in place of the program, and lets the client go.
pub(super) fn refuse(pair: &mut Pair, tools: &Tools, why: Why) {
    tools.count(why.status().1);
    let is_head = match &pair.course {
        Course::Messages(Exchange { stage: Stage::UnderWay(way), .. }) => way.request.method == Method::Head,
        Course::Messages(_) | Course::Bytes(_) | Course::Parting(_) => false,
    };
    let answer = why.answer(!is_head);
    pair.end_hold(tools);
    // The request to the program is not complete, or its answer is not wanted any more.
    pair.reset_link();
    pair.sent += answer.len() as u64;
    pair.to_client.send(answer.as_bytes(), false, &mut pair.client);
    parting::begin(pair, Outcome::Closed);
}
