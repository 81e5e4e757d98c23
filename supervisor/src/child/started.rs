//! A program that has been started: until it is ready, or given up.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use worker::deadline_after;

use super::evidence::Evidence;
use super::family_sockets::FamilySockets;
use super::process::{Running, Step};
use super::program::{CannotStart, EndedEarly, Obstacle, Program};
use super::ready::{self, Ready};
use crate::holder::holder_of;
use crate::listen::Address;
use crate::server::BuildError;
use crate::text::{LastWords, Seconds};

/// How long to wait before the first look whether a program is ready, and between two at most. Nothing announces that.
const LOOKS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// How long to wait for the end of a program that was not ready and has been killed.
const KILLED: Duration = Duration::from_secs(5);

/// When to look whether a program is ready: soon, and then less and less often.
#[derive(Debug)]
struct Looks {
    next: Instant,
    pause: Duration,
}

impl Looks {
    fn new() -> Looks {
        Looks { next: Instant::now(), pause: LOOKS.0 }
    }

    /// Whether it is time for a look. If so, the next one comes later.
    fn is_due(&mut self, now: Instant) -> bool {
        if now < self.next {
            return false;
        }
        self.next = now + self.pause;
        self.pause = (self.pause * 2).min(LOOKS.1);
        true
    }
}

/// A program that may not be ready yet.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) running: Arc<Running>,
    pub(super) steps: Receiver<Step>,
    pub(super) sockets: FamilySockets,
}

impl Started {
    /// What has shown that it is ready, or that it has to end already.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn wait_until_ready(&self, program: &Program, build: u64) -> Result<Evidence, BuildError> {
        let limit = deadline_after(Instant::now(), program.ready_within);
        let mut since: Option<Instant> = None;
        let mut looks = Looks::new();
        loop {
            let enough = program.ready.enough().zip(since).map(|(time, since)| (time, deadline_after(since, time)));
            let until = enough.map_or(limit, |(_, at)| at);
            let until = if since.is_some() && program.ready.is_looked_for() { until.min(looks.next) } else { until };
            match self.steps.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Step::Started) => since = Some(Instant::now()),
                Ok(Step::Stopping) => return Ok(Evidence::Started),
                Ok(Step::Ready) => return Ok(Evidence::Notified),
                Ok(Step::CannotStart(why)) => return Err(Box::new(why)),
                Ok(Step::Ended(_)) if program.may_have_ended(build) => return Ok(Evidence::Started),
                Ok(Step::Ended(end)) => return Err(EndedEarly::of(end)),
                // It has said before how it ended.
                Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected) => return Err("it ended".into()),
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            if since.is_some()
                && looks.is_due(now)
                && let Some(evidence) = self.look(&program.ready)
            {
                return Ok(evidence);
            }
            match enough {
                Some((time, at)) if at <= now => return Ok(Evidence::Ran(time)),
                None if limit <= now => {
                    return Err(format!("it was not ready within {}", Seconds(program.ready_within)).into());
                }
                Some(_) | None => {}
            }
        }
    }

    /// Looks whether it is ready, where that is not announced.
    fn look(&self, ready: &Ready) -> Option<Evidence> {
        match ready {
            Ready::Auto => self.sockets.own().map(Evidence::Listens),
            Ready::Connect(address) => {
                ready::answers(address, &self.sockets).then(|| Evidence::Answers(address.to_string()))
            }
            Ready::After(_) => None,
            #[cfg(unix)]
            Ready::Notify => None,
        }
    }

    /// Which other process listens where the program should, if one does.
    fn obstacle(&self, ready: &Ready) -> Option<String> {
        let Ready::Connect(address) = ready else { return None };
        if self.sockets.listen_at(address) == Some(true) {
            return None;
        }
        let holder = holder_of(address)?;
        Some(match address {
            Address::Tcp(address) => format!("port {} is taken by {holder}", address.port()),
            #[cfg(unix)]
            Address::Unix(path) => format!("{} is taken by {holder}", path.display()),
        })
    }

    /// Ends it, and adds to the reason what can be known of that, and what it wrote.
    pub(super) fn give_up(self, program: &Program, why: BuildError) -> BuildError {
        let obstacle = self.obstacle(&program.ready);
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
        let wrote = self.running.last_lines();
        match why.downcast() {
            Ok(early) => Box::new(EndedEarly { obstacle, wrote, ..*early }),
            Err(why) => format!("{why}{}{}", Obstacle(&obstacle), LastWords(&wrote)).into(),
        }
    }
}
