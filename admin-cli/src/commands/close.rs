//! `close`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Outcome, Request};
use mastercontrol::text::{describe_closed, milliseconds};

use crate::args::{Close, Target, grace_of};
use crate::ask::ask;
use crate::failure::Failure;

pub(crate) fn close(target: &Target, json: bool, close: &Close) -> Result<Exit, Failure> {
    if target.all {
        return Err(Failure::new(Exit::Usage, "close is for one supervisor: each counts its own connections"));
    }
    let grace_ms = grace_of(close.grace, close.now).map(milliseconds);
    let request = Request::Close { id: close.id, grace_ms };
    ask(target, json, request, Patience { whole: None, ..Patience::short() }, |answer| match answer {
        Answer::Closed { id, outcome } => {
            let exit = match outcome {
                Outcome::Disconnected | Outcome::Closed | Outcome::Other(_) => Exit::Done,
                Outcome::Forced => Exit::Forced,
                Outcome::Stuck => Exit::Overrun,
            };
            Some((describe_closed(*id, outcome), exit))
        }
        _ => None,
    })
}
