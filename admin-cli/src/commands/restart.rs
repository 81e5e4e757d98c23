//! `restart`

use std::time::Duration;

use mastercontrol::Exit;
use mastercontrol::protocol::{Answer, Request};
use mastercontrol::text::{Seconds, change as describe_change, describe_restart, milliseconds};

use crate::args::{Restart, Target};
use crate::ask::{Asked, ask_those, in_progress, patience};
use crate::describe::describe_report;
use crate::failure::Failure;
use crate::verify::verified;

pub(crate) fn restart(target: &Target, json: bool, restart: &Restart) -> Result<Exit, Failure> {
    let (grace_ms, spread_ms) = (restart.grace.map(milliseconds), restart.spread.map(milliseconds));
    let request = Request::Restart { grace_ms, spread_ms, wait: !restart.wait.no_wait };
    let asked = Asked::by(target)?;
    let show = |answer: &Answer| match answer {
        Answer::Restarting { ahead } => Some(in_progress(describe_restart(*ahead), &restart.wait)),
        Answer::Restarted { generation, replaced, report, changes, evidence, down_ms } => {
            let state = evidence.as_ref().map_or_else(|| "serving".into(), |evidence| format!("ready: {evidence}"));
            let mut text = format!("restarted: generation {generation} is {state}");
            match changes.as_deref() {
                None => {}
                Some([]) => text += "\n  same command, directory and settings",
                Some(changes) => {
                    text.extend(changes.iter().map(|change| format!("\n  changed: {}", describe_change(change))));
                }
            }
            if let (Some(replaced), Some(report)) = (replaced, report) {
                text = format!("{text}\n  generation {replaced} {}", describe_report(report));
            }
            if let Some(down_ms) = down_ms {
                text = format!("{text}\n  the outage lasted at most {}", Seconds(Duration::from_millis(*down_ms)));
            }
            Some((text, report.as_ref().map_or(Exit::Done, Exit::from)))
        }
        _ => None,
    };
    verified(&restart.verify, json, "restart", || ask_those(&asked, json, request, patience(&restart.wait), show))
}
