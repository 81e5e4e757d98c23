//! `pause`

use std::ffi::OsString;
use std::io::ErrorKind;
use std::process::{Command, ExitCode};
use std::time::Duration;

use mastercontrol::client::{self, Patience, PauseOver};
use mastercontrol::protocol::{Answer, Request};
use mastercontrol::text::{Reason, Seconds, milliseconds};
use mastercontrol::{Exit, ProgramEnd};

use crate::args::{Pause, Target};
use crate::ask::ask;
use crate::failure::Failure;
use crate::live::LiveLine;
use crate::output;
use crate::target::choose;

/// How long a pause lasts by default if no client holds it.
const MAX: Duration = Duration::from_secs(30);

pub(crate) fn pause(target: &Target, json: bool, pause: &Pause) -> Result<ExitCode, Failure> {
    if !pause.command.is_empty() {
        if json {
            return Err(Failure::new(Exit::Usage, "the output is that of the command: leave out --json"));
        }
        return pause_for(target, &pause.command, pause.max);
    }
    let max = pause.max.unwrap_or(MAX);
    let patience = Patience { whole: None, ..Patience::short() };
    let request = Request::Pause { max_ms: Some(milliseconds(max)), hold: false };
    let done = ask(target, json, request, patience, |answer| match answer {
        Answer::Paused { remaining_ms } => {
            let most = remaining_ms.map(|ms| format!(" for at most {}", Seconds(Duration::from_millis(ms))));
            Some((format!("paused{}; `admin-cli resume` ends that", most.unwrap_or_default()), Exit::Done))
        }
        _ => None,
    });
    done.map(ExitCode::from)
}

/// Runs a command during a pause. Its exit code becomes that of this program.
fn pause_for(target: &Target, command: &[OsString], max: Option<Duration>) -> Result<ExitCode, Failure> {
    if target.all {
        return Err(Failure::new(
            Exit::Usage,
            "--all has no command: pause one supervisor, and the next one in that command",
        ));
    }
    let chosen = choose(target)?;
    let live = LiveLine::new();
    let during = || {
        live.clear();
        run(command)
    };
    let paused = client::pause(&chosen.paths, max, |progress| live.show(&progress), during);
    drop(live);
    let (code, over) = paused.map_err(|error| Failure::asking(&chosen.label, &error))?;
    output::message(&match over {
        Ok(PauseOver { took, early: None }) => format!("admin-cli: {} was paused for {}", chosen.label, Seconds(took)),
        Ok(PauseOver { took, early: Some(why) }) => {
            let took = Seconds(took);
            format!("admin-cli: {}: the pause ended after {took}, before the command finished: {why}", chosen.label)
        }
        Err(error) => format!("admin-cli: {}: {error}", chosen.label),
    });
    Ok(code)
}

/// The exit code as a shell reports it.
#[allow(clippy::disallowed_methods, reason = "that is for tests, which start children from a known state")]
fn run(command: &[OsString]) -> ExitCode {
    let [program, arguments @ ..] = command else { return ExitCode::SUCCESS };
    match Command::new(program).args(arguments).status() {
        // Windows has larger codes, and none of them means success.
        Ok(status) => ExitCode::from(u8::try_from(ProgramEnd::from(status).code()).unwrap_or(u8::MAX)),
        Err(error) => {
            output::message(&format!("admin-cli: {}: {}", program.display(), Reason(&error)));
            ExitCode::from(if error.kind() == ErrorKind::NotFound { 127 } else { 126 })
        }
    }
}
