//! `ping`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Request};

use crate::args::Target;
use crate::ask::ask;
use crate::failure::Failure;

pub(crate) fn ping(target: &Target, json: bool) -> Result<Exit, Failure> {
    ask(target, json, Request::Ping {}, Patience::short(), |answer| match answer {
        Answer::Pong { name, pid, version } => {
            Some((format!("{name} is running (pid {pid}, version {version})"), Exit::Done))
        }
        _ => None,
    })
}
