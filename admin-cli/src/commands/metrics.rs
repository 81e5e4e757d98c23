//! `metrics`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::metrics::text;
use mastercontrol::protocol::{Answer, Request};

use crate::args::Target;
use crate::ask::ask;
use crate::failure::Failure;

pub(crate) fn metrics(target: &Target, json: bool) -> Result<Exit, Failure> {
    ask(target, json, Request::Status {}, Patience::short(), |answer| match answer {
        Answer::Status(status) => Some((text(status).trim_end().into(), Exit::Done)),
        _ => None,
    })
}
