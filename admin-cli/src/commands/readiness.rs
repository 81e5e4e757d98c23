//! `drain` and `resume`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Request};
use mastercontrol::text;

use crate::args::Target;
use crate::ask::ask;
use crate::failure::Failure;

/// Requests that it be ready or not.
pub(crate) fn readiness(target: &Target, json: bool, request: Request) -> Result<Exit, Failure> {
    ask(target, json, request, Patience::short(), |answer| match answer {
        Answer::Readiness { ready, undone } => {
            let not = if *ready { "" } else { "not " };
            let undone = undone.iter().map(|undone| format!("; {}", text::undone(undone))).collect::<String>();
            Some((format!("{not}ready for new clients{undone}"), Exit::Done))
        }
        _ => None,
    })
}
