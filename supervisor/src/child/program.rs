//! What to run, and why it did not run.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::check::Check;
#[cfg(target_os = "linux")]
use super::probe::with_port;
use super::ready::Ready;
use super::rotation::RotationSignals;
#[cfg(unix)]
use super::stop_signals::StopSignals;
use crate::server::program_end::ProgramEnd;
use crate::server::{BuildError, Ended};
use crate::settings::Settings;

/// The shell's exit code for a program that is not found.
pub(super) const NOT_FOUND: u8 = 127;

/// Why a program is not found, in human-readable form. A command line in quotes is one word, and is taken for the name
/// of a program.
pub(super) fn not_found(program: &OsStr) -> &'static str {
    if program.to_string_lossy().contains(char::is_whitespace) {
        "not found; if this is a program with its arguments, write each as a word of its own, without quotes around them"
    } else {
        "not found"
    }
}

/// The shell's exit code for a program that cannot be run.
pub(super) const NOT_RUN: u8 = 126;

/// Determines the program of a generation, and may change its settings.
pub(crate) type ProgramFactory = Box<dyn FnMut(&mut Settings) -> Result<Program, BuildError> + Send>;

/// What to run, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its path, or a name to search for. A relative path is resolved against the directory in which it starts.
    pub program: OsString,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// The directory in which it starts: the one that has this path at that time. None: that of the supervisor.
    pub directory: Option<PathBuf>,
    /// Environment variables that are added to those of the supervisor, and override them.
    pub environment: Vec<(String, String)>,
    /// The signals that ask it to end.
    #[cfg(unix)]
    pub stop: StopSignals,
    /// The signals that tell it that it is taken out of rotation, and that it is put back.
    pub rotation: RotationSignals,
    /// The exit codes, besides 0, that are not a failure. A code above 128 also stands for a signal, as in a shell.
    pub success: Vec<i32>,
    /// What shows that it is ready.
    pub ready: Ready,
    /// How long that may take.
    pub ready_within: Duration,
    /// How long it serves beside the program that it replaces, if it can. If it exits or fails its check in that time,
    /// it is withdrawn.
    pub overlap: Duration,
    /// Whether and how it is checked while it serves. A program that fails the check is replaced.
    pub check: Option<Check>,
}

impl Program {
    /// A copy with this private port in its arguments, its variables, and the conditions for being ready and working.
    #[cfg(target_os = "linux")]
    pub(super) fn at_port(&self, port: u16) -> Program {
        // Its own variables take precedence over the default `HOST`, but not over `PORT`.
        let host = ("HOST".to_owned(), "127.0.0.1".to_owned());
        let own = self.environment.iter().map(|(name, value)| (name.clone(), with_port(value, port)));
        let environment = [host].into_iter().chain(own).chain([("PORT".to_owned(), port.to_string())]).collect();
        Program {
            args: self.args.iter().map(|argument| argument_with_port(argument, port)).collect(),
            environment,
            ready: self.ready.at_port(port),
            check: self.check.as_ref().map(|check| Check { how: check.how.at_port(port), ..check.clone() }),
            ..self.clone()
        }
    }

    /// The longest time until it is ready. A time that it has to run may be longer than the default for all others.
    pub(super) fn longest_start(&self) -> Duration {
        self.ready_within.max(self.ready.enough().unwrap_or_default())
    }

    /// Whether an exit before readiness is treated like one just after it. That is so for the first program, whose exit
    /// code is passed on, unless a readiness condition was given.
    pub(super) fn may_have_ended(&self, build: u64) -> bool {
        self.ready == Ready::Auto && build == 1
    }
}

/// An argument with `{port}` replaced by the private port. An argument that is not valid text stays as it is.
#[cfg(target_os = "linux")]
fn argument_with_port(argument: &OsStr, port: u16) -> OsString {
    argument.to_str().map_or_else(|| argument.to_owned(), |text| with_port(text, port).into())
}

impl fmt::Display for Program {
    /// As it might be typed in a shell.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.program.display())?;
        self.args.iter().try_for_each(|argument| write!(formatter, " {}", argument.display()))
    }
}

/// A program that cannot be started at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CannotStart {
    /// The shell's exit code for this: 127 if it is not found, 126 if it cannot be run.
    pub code: u8,
    /// Which program, and why.
    pub message: String,
}

impl fmt::Display for CannotStart {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for CannotStart {}

/// A program that ended before it was ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedEarly {
    /// How it ended.
    pub end: ProgramEnd,
    /// Its exit code means success.
    pub clean: bool,
    /// What kept it from becoming ready, if that can be seen.
    pub obstacle: Option<String>,
    /// The last lines that it wrote to stderr.
    pub wrote: Vec<String>,
}

impl EndedEarly {
    pub(super) fn of(end: ProgramEnd) -> BuildError {
        Box::new(EndedEarly { end, clean: false, obstacle: None, wrote: Vec::new() })
    }
}

impl fmt::Display for EndedEarly {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} before it was ready{}", self.end, Obstacle(&self.obstacle))
    }
}

impl Error for EndedEarly {}

/// A program that did not become ready, in time or for another reason, and was ended.
#[derive(Debug)]
pub(super) struct NeverReady {
    pub(super) why: BuildError,
    pub(super) wrote: Vec<String>,
    /// How it ended. None: unknown.
    pub(super) end: Option<ProgramEnd>,
    /// How many of its processes had to be killed.
    pub(super) killed: usize,
}

impl fmt::Display for NeverReady {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(formatter)
    }
}

impl Error for NeverReady {}

/// The last lines on stderr of the program that could not be started. They have been written to our stderr already;
/// they are for users who do not see it.
pub(crate) fn last_output(error: &BuildError) -> &[String] {
    let early = error.downcast_ref::<EndedEarly>().map(|early| &early.wrote);
    early.or_else(|| error.downcast_ref::<NeverReady>().map(|never| &never.wrote)).map_or(&[], Vec::as_slice)
}

/// Whether the error is about a program that was started: its text calls that program "it".
pub(crate) fn was_started(error: &BuildError) -> bool {
    error.is::<EndedEarly>() || error.is::<NeverReady>()
}

/// How the program that could not be started ended, if it had to be ended.
pub(crate) fn ended(error: &BuildError) -> Ended {
    let never = error.downcast_ref::<NeverReady>();
    never.map_or_else(Ended::default, |never| Ended { program: never.end, killed: never.killed, ..Ended::default() })
}

/// What kept a program from becoming ready, to be appended to how it ended.
pub(super) struct Obstacle<'a>(pub(super) &'a Option<String>);

impl fmt::Display for Obstacle<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|obstacle| write!(formatter, ": {obstacle}"))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::child::check::CheckKind;
    use crate::child::probe::Probe;
    use crate::child::process::unguarded;

    #[test]
    fn a_program_may_have_to_run_longer_than_others_may_take_to_become_ready() {
        let [short, default, long] = [5, 30, 90].map(Duration::from_secs);
        let limit = |ready| Program { ready, ready_within: default, ..unguarded::program() }.longest_start();
        let all = [Ready::Notify, Ready::After(short), Ready::After(long)].map(limit);
        assert_eq!(all, [default, default, long]);
    }

    #[test]
    fn the_private_port_is_in_arguments_variables_and_conditions() {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let template = Program {
            program: "server".into(),
            args: ["--port", "{port}", "--url=http://127.0.0.1:{port}/{port}", "{PORT}"].map(Into::into).into(),
            directory: None,
            environment: vec![variable("BIND", "0.0.0.0:{port}"), variable("HOST", "::"), variable("PORT", "80")],
            stop: StopSignals::one(15),
            rotation: RotationSignals::default(),
            success: Vec::new(),
            ready: Ready::Auto,
            ready_within: Duration::from_secs(1),
            overlap: Duration::ZERO,
            check: Some(Check {
                how: CheckKind::Probe(Probe::Exec("curl localhost:{port}".into())),
                every: Duration::from_secs(1),
                timeout: Duration::from_secs(1),
                failures: 1,
            }),
        };
        let program = template.at_port(21873);
        assert_eq!(program.args, ["--port", "21873", "--url=http://127.0.0.1:21873/21873", "{PORT}"]);
        assert_eq!(
            program.environment,
            [
                variable("HOST", "127.0.0.1"),
                variable("BIND", "0.0.0.0:21873"),
                variable("HOST", "::"),
                variable("PORT", "80"),
                variable("PORT", "21873"),
            ]
        );
        assert_eq!(program.ready, Ready::Port(21873));
        assert_eq!(program.check.unwrap().how, CheckKind::Probe(Probe::Exec("curl localhost:21873".into())));
        for (ready, at_port) in [
            (Ready::Probe(Probe::PrivatePort), Ready::Probe(Probe::Port(1))),
            (
                Ready::Probe(Probe::Http("http://127.0.0.1:{port}/health".parse().unwrap())),
                Ready::Probe(Probe::Http("http://127.0.0.1:1/health".parse().unwrap())),
            ),
            (Ready::Notify, Ready::Notify),
        ] {
            assert_eq!(ready.at_port(1), at_port);
        }
    }
}
