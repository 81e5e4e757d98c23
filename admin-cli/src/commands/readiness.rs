//! `drain` and `resume`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Request};

use crate::args::Target;
use crate::ask::ask;
use crate::failure::Failure;

/// Asks for it to be ready or not.
pub(crate) fn readiness(target: &Target, json: bool, request: Request) -> Result<Exit, Failure> {
    ask(target, json, request, Patience::short(), |answer| match answer {
        Answer::Readiness { ready: true } => Some(("ready for new clients".into(), Exit::Done)),
        Answer::Readiness { ready: false } => Some(("not ready for new clients".into(), Exit::Done)),
        _ => None,
    })
}
