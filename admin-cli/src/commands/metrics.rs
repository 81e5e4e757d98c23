//! `metrics`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::metrics::text;
use mastercontrol::protocol::{Answer, Request};

use crate::args::Target;
use crate::ask::ask;
use crate::failure::Failure;

pub(crate) fn metrics(target: &Target, json: bool) -> Result<Exit, Failure> {
    if target.all && !json {
        let message = "metrics is for one supervisor: those of several have the same names, and cannot be one text";
        return Err(Failure::new(Exit::Usage, message));
    }
    ask(target, json, Request::Status {}, Patience::short(), |answer| match answer {
        Answer::Status(status) => Some((text(status).trim_end().into(), Exit::Done)),
        _ => None,
    })
}
