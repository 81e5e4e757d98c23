//! `events`

use std::io::{self, IsTerminal};
use std::ops::ControlFlow;

use mastercontrol::Exit;
use mastercontrol::client::{self, AskError, Patience};
use mastercontrol::protocol::{Answer, Progress, Request, Response};
use mastercontrol::text::{self, Clock};

use crate::args::{Events, Target};
use crate::failure::Failure;
use crate::output::{self, Unwritten};
use crate::target::choose;

pub(crate) fn events(target: &Target, json: bool, events: &Events) -> Result<Exit, Failure> {
    let chosen = choose(target)?;
    let whom = &chosen.label;
    let request = Request::Events { since: events.since, follow: events.follow };
    // No limit on how long it follows, or on how long the reader of its output takes.
    let patience = Patience { whole: None, ..Patience::short() };
    let mut last = events.since;
    // A supervisor lets a client go that stops reading. So past events are all read before the first one is printed: the
    // reader of the output may be a person with a pager.
    let mut past = Vec::new();
    let heard = client::listen(&chosen.paths, request, patience, |response| {
        if let Response::Entry(entry) = &response {
            last = Some(entry.seq);
        }
        let answer = if let Response::Answer(answer) = &response { Some(answer.clone()) } else { None };
        if !events.follow {
            past.push(response);
        } else if let Err(error) = show(&response, json, whom, events) {
            return ControlFlow::Break(Err(error));
        }
        answer.map_or(ControlFlow::Continue(()), |answer| ControlFlow::Break(Ok(answer)))
    });
    let shown = past.iter().try_for_each(|response| show(response, json, whom, events));
    let heard = shown.map_or_else(|error| Ok(Err(error)), |()| heard);
    match (heard, last) {
        (Ok(Ok(Answer::Error(refusal))), _) => Err(Failure::refused(whom, &refusal)),
        // If the reader of its output has gone away, as `head` does, that is not a failure.
        (Ok(Err(error)), _) if error.kind() != io::ErrorKind::BrokenPipe => Err(Unwritten(error).into()),
        (Ok(_), _) => Ok(Exit::Done),
        (Err(AskError::Disconnected), Some(last)) => {
            let message =
                format!("{whom}: it disconnected before the final response; read the rest with --since {last}");
            Err(Failure::new(Exit::NoAnswer, message))
        }
        (Err(error), _) => Err(Failure::asking(whom, &error)),
    }
}

/// Local times for people, UTC for programs.
fn clock() -> Clock {
    if io::stdout().is_terminal() { Clock::Local } else { Clock::Utc }
}

fn show(response: &Response, json: bool, whom: &str, events: &Events) -> io::Result<()> {
    match response {
        // Reported like every other failure.
        Response::Answer(Answer::Error(_)) => {}
        // As received.
        response if json => return output::try_data(&serde_json::to_string(response)?),
        Response::Entry(entry) => return output::try_data(&format!("{} {}", entry.seq, text::entry(entry, clock()))),
        Response::Progress(Progress::Journal { began, next, missed }) => {
            if events.since.is_some_and(|since| since >= *next) {
                output::message(&format!("{whom} was started again at {began}, and counts its events from 1"));
            }
            if *missed > 0 {
                output::message(&format!("missed {missed} events before {next}"));
            }
        }
        Response::Answer(_) if events.follow => output::message(&format!("{whom} has ended")),
        Response::Progress(_) | Response::Answer(_) => {}
    }
    Ok(())
}
