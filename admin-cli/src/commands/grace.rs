//! `grace`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Request};
use mastercontrol::text::milliseconds;

use crate::args::{Grace, Target};
use crate::ask::ask;
use crate::describe::describe_drain;
use crate::failure::Failure;

pub(crate) fn grace(target: &Target, json: bool, grace: &Grace) -> Result<Exit, Failure> {
    let request = Request::Grace { grace_ms: milliseconds(grace.grace) };
    ask(target, json, request, Patience::short(), |answer| match answer {
        Answer::Moved { drains } => {
            let lines: Vec<_> = drains.iter().map(describe_drain).collect();
            Some((lines.join("\n"), Exit::Done))
        }
        _ => None,
    })
}
