//! `stop`

use mastercontrol::Exit;
use mastercontrol::protocol::{Answer, Request};
use mastercontrol::text::milliseconds;

use crate::args::{Stop, Target, grace_of};
use crate::ask::{Asked, ask_those, in_progress, patience};
use crate::describe::{describe_delay, describe_drain, describe_report};
use crate::failure::Failure;
use crate::verify::verified;

pub(crate) fn stop(target: &Target, json: bool, stop: &Stop) -> Result<Exit, Failure> {
    let grace_ms = grace_of(stop.grace, stop.now).map(milliseconds);
    let (spread_ms, delay_ms) = (stop.spread.map(milliseconds), stop.delay.map(milliseconds));
    let request = Request::Stop { grace_ms, spread_ms, delay_ms, wait: !stop.wait.no_wait };
    let asked = Asked::by(target)?;
    let show = |answer: &Answer| match answer {
        Answer::Stopping(drain) => Some(in_progress(describe_drain(drain), &stop.wait)),
        Answer::Delayed(delay) => Some(in_progress(describe_delay(delay), &stop.wait)),
        Answer::Stopped { report } => Some((describe_report(report), Exit::from(report))),
        _ => None,
    };
    verified(&stop.verify, json, "stop", || ask_those(&asked, json, request, patience(&stop.wait), show))
}
