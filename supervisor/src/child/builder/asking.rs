//! Asks a program whether it works: over its sockets, or through a command that runs in the program's environment.

#[cfg(unix)]
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;
#[cfg(unix)]
use std::time::Instant;

#[cfg(unix)]
use worker::deadline_after;

use super::Children;
use crate::child::family_sockets::FamilySockets;
#[cfg(unix)]
use crate::child::observed::Step;
use crate::child::probe::{self, Outcome, Probe};
use crate::child::program::Program;
#[cfg(unix)]
use crate::child::ready::Ready;
#[cfg(unix)]
use crate::server::BuildError;
#[cfg(unix)]
use crate::server::program_end::ProgramEnd;
#[cfg(unix)]
use crate::text::Seconds;

impl Children {
    /// Asks a program for an answer.
    #[cfg_attr(windows, allow(unused_variables))]
    pub(super) fn ask(&self, program: &Program, sockets: &FamilySockets, probe: &Probe, limit: Duration) -> Outcome {
        if let Probe::Connect(address) = probe
            && sockets.are_only_passed_at(address)
        {
            return Outcome::Failed(format!(
                "the queue of {address} answers for it, since the supervisor holds that socket"
            ));
        }
        // If it is the only one, it need not be determined which generation has accepted a connection.
        let is_alone = self.sockets.last_ones().filter(|running| running.is_left()).count() <= 1;
        let sockets = &if is_alone { sockets.unshared() } else { sockets.clone() };
        match probe {
            Probe::Connect(address) => probe::connect(address, sockets),
            Probe::Port(port) => probe::connect_to_port(*port, sockets),
            Probe::PrivatePort => Outcome::Failed("only a program behind a relay has a private port".into()),
            Probe::Http(url) => probe::http(url, sockets, limit),
            #[cfg(unix)]
            Probe::Exec(command) => match self.run(program, command, limit) {
                Ok(()) => Outcome::Answered(format!("`{command}` succeeded")),
                Err(error) => Outcome::Failed(error.to_string()),
            },
        }
    }

    /// Runs a shell command in the program's environment. It is guarded like the program.
    #[cfg(unix)]
    fn run(&self, program: &Program, command: &str, limit: Duration) -> Result<(), BuildError> {
        let end = deadline_after(Instant::now(), limit);
        let shell = Program {
            program: "sh".into(),
            // Its output on stdout has no reader.
            args: vec!["-c".into(), format!("exec > /dev/null\n{command}").into()],
            ready: Ready::After(limit),
            check: None,
            ..program.clone()
        };
        let started = self.host.start(0, &shell, Vec::new(), self.log.clone())?;
        self.sockets.keep(&started.running);
        let why = loop {
            match started.steps.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(Step::Ended(ProgramEnd::Exited(0))) => break None,
                Ok(Step::Ended(end)) => break Some(end.of("the command").to_string()),
                Ok(Step::CannotStart(why)) => break Some(why.to_string()),
                Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected) => break Some("the command ended".into()),
                Ok(Step::Stopping) => break Some("the server is being stopped".into()),
                Ok(Step::Started | Step::Ready) => {}
                Err(RecvTimeoutError::Timeout) => {
                    break Some(format!("the command did not end within {}", Seconds(limit)));
                }
            }
        };
        started.running.end();
        let ended = started.ended(&shell, why.clone().unwrap_or_default().into());
        if why.is_none() { Ok(()) } else { Err(ended) }
    }
}
