//! `signal`

use mastercontrol::Exit;
use mastercontrol::client::Patience;
use mastercontrol::protocol::{Answer, Request};

use crate::args::{SendSignal, Target};
use crate::ask::ask;
use crate::failure::Failure;

pub(crate) fn signal(target: &Target, json: bool, signal: &SendSignal) -> Result<Exit, Failure> {
    let request = Request::Signal { signal: signal.signal };
    ask(target, json, request, Patience::short(), |answer| match answer {
        Answer::Signaled { .. } => Some(("signal sent to the program".into(), Exit::Done)),
        _ => None,
    })
}
