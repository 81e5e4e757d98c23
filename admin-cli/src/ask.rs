//! A request to the selected supervisors, and what becomes of it.

use mastercontrol::Exit;
use mastercontrol::client::{self, AskError, Patience};
use mastercontrol::protocol::{Answer, Progress, Request};
use serde_json::json;

use crate::args::{Target, Wait};
use crate::failure::Failure;
use crate::found::Chosen;
use crate::live::LiveLine;
use crate::output;
use crate::target::{self, choose};

/// How long to wait for the end of the requested action.
pub(crate) fn patience(wait: &Wait) -> Patience {
    Patience { whole: wait.timeout, ..Patience::short() }
}

/// How an answer is shown that arrives before the end of the requested action, and its exit code. A supervisor that is
/// out of threads gives this answer even to a client that wants to wait.
pub(crate) fn in_progress(text: String, wait: &Wait) -> (String, Exit) {
    if wait.no_wait {
        return (text, Exit::Done);
    }
    (format!("{text}\nnot waiting for the end: the supervisor is out of threads"), Exit::GaveUp)
}

/// Which supervisors are asked.
#[derive(Debug)]
pub(crate) enum Asked {
    One(Chosen),
    All { supervisors: Vec<Chosen>, keep_going: bool },
}

impl Asked {
    pub(crate) fn by(target: &Target) -> Result<Asked, Failure> {
        Ok(match target.all {
            false => Asked::One(choose(target)?),
            true => Asked::All { supervisors: target::all()?, keep_going: target.keep_going },
        })
    }
}

/// Asks, and writes the answer as formatted by `show`, or as JSON. `show` returns None for an answer to another
/// question.
pub(crate) fn ask(
    target: &Target,
    json: bool,
    request: Request,
    patience: Patience,
    show: impl Fn(&Answer) -> Option<(String, Exit)>,
) -> Result<Exit, Failure> {
    ask_those(&Asked::by(target)?, json, request, patience, show)
}

/// The same for supervisors that have been found already.
pub(crate) fn ask_those(
    asked: &Asked,
    json: bool,
    request: Request,
    patience: Patience,
    show: impl Fn(&Answer) -> Option<(String, Exit)>,
) -> Result<Exit, Failure> {
    let (supervisors, keep_going) = match asked {
        Asked::One(chosen) => {
            let (answer, text, exit) = ask_one(chosen, json, request, patience, show)?;
            // As received, with fields in the order of the specification.
            output::data(&if json { serde_json::to_string(&answer).unwrap_or_default() } else { text })?;
            return Ok(exit);
        }
        Asked::All { supervisors, keep_going } => (supervisors, *keep_going),
    };
    let names_itself = matches!(request, Request::Ping {} | Request::Status {});
    let mut whole = Exit::Done;
    for chosen in supervisors {
        let exit = match ask_one(chosen, json, request.clone(), patience, &show) {
            Ok((answer, text, exit)) => {
                let name = &chosen.label;
                output::data(&match json {
                    true => json!({ "name": name, "answer": answer }).to_string(),
                    false if names_itself => text,
                    false => format!("{name}: {text}"),
                })?;
                exit
            }
            Err(failure) => {
                let exit = failure.tell_of(&chosen.label, json);
                if !keep_going {
                    return Ok(exit);
                }
                exit
            }
        };
        whole = together(whole, exit);
    }
    Ok(whole)
}

/// The exit code for several supervisors, of which the first ones had the exit code `before`: that of the first failure.
/// If all did what they were asked for, that of the first that says more than this.
fn together(before: Exit, next: Exit) -> Exit {
    let is_done = |exit| matches!(exit, Exit::Done | Exit::Forced | Exit::Overrun | Exit::Lost);
    if before == Exit::Done || is_done(before) && !is_done(next) { next } else { before }
}

/// The answer, the text that `show` makes of it, and the exit code.
fn ask_one(
    chosen: &Chosen,
    json: bool,
    request: Request,
    patience: Patience,
    show: impl Fn(&Answer) -> Option<(String, Exit)>,
) -> Result<(Answer, String, Exit), Failure> {
    let answer = converse(chosen, json, request, patience)?;
    match show(&answer) {
        Some((text, exit)) => Ok((answer, text, exit)),
        None => Err(not_understood(chosen, &answer)),
    }
}

/// Asks, and shows the progress meanwhile unless `quiet`.
pub(crate) fn converse(chosen: &Chosen, quiet: bool, request: Request, patience: Patience) -> Result<Answer, Failure> {
    let live = LiveLine::new();
    answer(chosen, request, patience, |progress| {
        if !quiet {
            live.show(&progress);
        }
    })
}

/// Asks. No answer, or a refusal, is a failure.
pub(crate) fn answer(
    chosen: &Chosen,
    request: Request,
    patience: Patience,
    progress: impl FnMut(Progress),
) -> Result<Answer, Failure> {
    let answer = client::ask(&chosen.paths, request, patience, progress);
    match answer.map_err(|error| Failure::asking(&chosen.label, &error))? {
        Answer::Error(refusal) => Err(Failure::refused(&chosen.label, &refusal)),
        answer => Ok(answer),
    }
}

/// An answer to another question.
pub(crate) fn not_understood(chosen: &Chosen, answer: &Answer) -> Failure {
    Failure::asking(&chosen.label, &AskError::unexpected(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_exit_codes_the_first_failure_counts_and_then_the_first_that_is_not_plainly_done() {
        let whole = |exits: &[Exit]| exits.iter().copied().fold(Exit::Done, together);
        assert_eq!(whole(&[Exit::Done, Exit::Done]), Exit::Done);
        assert_eq!(whole(&[Exit::Done, Exit::Overrun, Exit::Forced, Exit::Done]), Exit::Overrun);
        for done in [Exit::Done, Exit::Forced, Exit::Overrun, Exit::Lost] {
            assert_eq!(whole(&[done, Exit::NoAnswer, Exit::Failed, done]), Exit::NoAnswer);
            assert_eq!(whole(&[Exit::GaveUp, done, Exit::Failed]), Exit::GaveUp);
        }
    }
}
