//! A program that has been started: until it is ready, or given up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use worker::deadline_after;

use super::output::Output;
use super::process::{Running, Step};
use super::program::{CannotStart, EndedEarly, LastWords, Program};
use super::ready::{self, Ready};
use crate::server::BuildError;
use crate::text::Seconds;

/// How often to look whether an address answers. Nothing announces that.
const KNOCK: Duration = Duration::from_millis(100);

/// How long to wait for the end of a program that was not ready and has been killed.
const KILLED: Duration = Duration::from_secs(5);

/// A program that may not be ready yet.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) running: Arc<Running>,
    pub(super) output: Option<Output>,
    pub(super) steps: Receiver<Step>,
}

impl Started {
    pub(super) fn wait_until_ready(&self, program: &Program) -> Result<(), BuildError> {
        let limit = deadline_after(Instant::now(), program.ready_within);
        // When it is ready without a word.
        let mut enough: Option<Instant> = None;
        let mut knocks = false;
        loop {
            let until = enough.unwrap_or(limit);
            let until = if knocks { until.min(Instant::now() + KNOCK) } else { until };
            match self.steps.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Step::Started) => match &program.ready {
                    Ready::AtOnce => return Ok(()),
                    Ready::After(time) => enough = Some(deadline_after(Instant::now(), *time)),
                    Ready::Connect(_) => knocks = true,
                    #[cfg(unix)]
                    Ready::Notify => {}
                },
                Ok(Step::Ready) => return Ok(()),
                Ok(Step::CannotStart(why)) => return Err(Box::new(why)),
                Ok(Step::Ended(end)) => return Err(EndedEarly::of(end)),
                // It has said before how it ended.
                Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected) => return Err("it ended".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            match &program.ready {
                Ready::Connect(address) if knocks && ready::answers(address) => return Ok(()),
                _ if enough.is_some_and(|enough| enough <= Instant::now()) => return Ok(()),
                _ if enough.is_none() && limit <= Instant::now() => {
                    return Err(format!("it was not ready within {}", Seconds(program.ready_within)).into());
                }
                _ => {}
            }
        }
    }

    /// Ends it, and adds to the reason what it wrote.
    pub(super) fn give_up(self, why: BuildError) -> BuildError {
        self.running.kill();
        let until = Instant::now() + KILLED;
        while !matches!(
            self.steps.recv_timeout(until.saturating_duration_since(Instant::now())),
            Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)
        ) {}
        // What cannot be started has written nothing of its own.
        if why.is::<CannotStart>() {
            return why;
        }
        let wrote = self.output.map(|output| output.last_lines()).unwrap_or_default();
        match why.downcast() {
            Ok(early) => Box::new(EndedEarly { wrote, ..*early }),
            Err(why) => format!("{why}{}", LastWords(&wrote)).into(),
        }
    }
}
