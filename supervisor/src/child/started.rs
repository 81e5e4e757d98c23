//! A program that has been started, until it is ready or given up.

use std::error::Error;
use std::fmt;
#[cfg(target_os = "linux")]
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use worker::deadline_after;

use super::evidence::Evidence;
use super::family_sockets::FamilySockets;
use super::observed::Step;
use super::probe::{Outcome, Probe};
use super::process::{Running, UNWANTED};
use super::program::{CannotStart, EndedEarly, NeverReady, Obstacle, Program};
#[cfg(target_os = "linux")]
use super::ready::LOOKS;
use super::ready::Ready;
use crate::holder::holder_of;
use crate::journal::Journal;
use crate::listen::Address;
use crate::log::Level;
use crate::server::BuildError;
use crate::text::Seconds;

/// How long a program that is not ready yet may take to answer. A stop has to wait for that.
const ANSWER: Duration = Duration::from_secs(1);

/// How long a command that probes it may take. A stop ends the command.
#[cfg(unix)]
const COMMAND: Duration = Duration::from_secs(10);

/// After this time the log says why a program is not ready yet. That is long before the end of `--ready-within`, so a
/// user can correct the cause at once.
const DELAY: Duration = Duration::from_secs(5);

/// How long to wait for the end of a program that has been killed.
const KILLED: Duration = Duration::from_secs(5);

/// The times at which to look whether a program is ready: soon, and then less and less often.
#[derive(Debug)]
struct Looks {
    next: Instant,
    pause: Duration,
    longest: Duration,
}

impl Looks {
    fn new((pause, longest): (Duration, Duration)) -> Looks {
        Looks { next: Instant::now(), pause, longest }
    }

    fn is_due(&self) -> bool {
        self.next <= Instant::now()
    }

    /// Schedules the next look, after a longer pause each time.
    fn done(&mut self) {
        self.next = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(self.longest);
    }
}

/// Another process listens on a private port. The program may get another one.
#[derive(Debug)]
pub(super) struct LostPort(u16);

impl fmt::Display for LostPort {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "another process listens on its private port {}", self.0)
    }
}

impl Error for LostPort {}

/// A program that may not be ready yet.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) running: Arc<Running>,
    pub(super) steps: Receiver<Step>,
    pub(super) sockets: FamilySockets,
}

impl Started {
    /// Waits until it is ready, and returns the evidence. None: there is no evidence and nothing more to wait for,
    /// because it has ended already or has to end. `ask` probes it. It is given up when another process listens on its
    /// private port, and at the limit.
    ///
    /// # Errors
    /// Why it is not.
    pub(super) fn wait_until_ready(
        &self,
        program: &Program,
        build: u64,
        private_port: Option<u16>,
        limit: Instant,
        log: &Journal,
        ask: impl Fn(&Probe, Duration) -> Outcome,
    ) -> Result<Option<Evidence>, BuildError> {
        let mut since: Option<Instant> = None;
        let mut looks = program.ready.looks().map(Looks::new);
        let mut failure = None;
        let mut is_delayed = false;
        loop {
            let enough = program.ready.enough().zip(since).map(|(time, since)| (time, deadline_after(since, time)));
            let until = enough.map_or(limit, |(_, at)| at);
            let until = since.and(looks.as_ref()).map_or(until, |looks| until.min(looks.next));
            match self.steps.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Step::Started) => since = Some(Instant::now()),
                Ok(Step::Stopping) => return Ok(None),
                Ok(Step::Ready) if program.ready.is_announced() => return Ok(Some(Evidence::Notified)),
                Ok(Step::Ready) => {}
                Ok(Step::CannotStart(why)) => return Err(Box::new(why)),
                Ok(Step::Ended(_)) if program.may_have_ended(build) => return Ok(None),
                Ok(Step::Ended(end)) => return Err(EndedEarly::of(end)),
                // A message before this one has said how it ended.
                Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected) => return Err("it ended".into()),
                // Checked only if nothing has happened: a look may have taken longer than the remaining time.
                Err(RecvTimeoutError::Timeout) => match enough {
                    Some((time, at)) if at <= Instant::now() => return Ok(Some(Evidence::Ran(time))),
                    None if limit <= Instant::now() => return Err(self.late(program, failure)),
                    Some(_) | None => {}
                },
            }
            if since.is_none() {
                continue;
            }
            if let Some(looks) = looks.as_mut().filter(|looks| looks.is_due()) {
                if let Some(port) = private_port
                    && self.sockets.have_lost(port)
                {
                    return Err(Box::new(LostPort(port)));
                }
                match self.look(&program.ready, &ask) {
                    Some(Ok(evidence)) => return Ok(Some(evidence)),
                    Some(Err(reason)) => failure = Some(reason),
                    None => {}
                }
                if !is_delayed && since.is_some_and(|since| since.elapsed() >= DELAY) {
                    is_delayed = true;
                    self.report_delay(&program.ready, failure.as_deref(), log);
                }
                looks.done();
            }
        }
    }

    /// Looks whether it is ready, where that is not announced. If it is not, there may be a reason.
    fn look(&self, ready: &Ready, ask: impl Fn(&Probe, Duration) -> Outcome) -> Option<Result<Evidence, String>> {
        match ready {
            Ready::Auto => self.sockets.own().map(|address| Ok(Evidence::Listens(address))),
            Ready::Probe(probe) => {
                let limit = match probe {
                    #[cfg(unix)]
                    Probe::Exec(_) => COMMAND,
                    Probe::Connect(_) | Probe::Port(_) | Probe::PrivatePort | Probe::Http(_) => ANSWER,
                };
                match ask(probe, limit) {
                    Outcome::Answered(how) => Some(Ok(Evidence::Answered(how))),
                    Outcome::Failed(reason) | Outcome::Unclear(reason) => Some(Err(reason)),
                    Outcome::OfAnother => None,
                }
            }
            Ready::Port(port) => match self.sockets.at_port(*port) {
                Some(address) => Some(Ok(Evidence::Listens(address.to_string()))),
                None => Some(Err(self.does_not_listen(*port))),
            },
            Ready::After(_) => None,
            #[cfg(unix)]
            Ready::Notify => None,
        }
    }

    /// Waits until the program is seen to listen on its private port, within the same limit as everything else. Returns
    /// the address to connect to, even if the program has to end already.
    ///
    /// # Errors
    /// If it does not.
    #[cfg(target_os = "linux")]
    pub(super) fn wait_until_it_listens(
        &self,
        program: &Program,
        port: u16,
        limit: Instant,
    ) -> Result<SocketAddr, BuildError> {
        let mut looks = Looks::new(LOOKS);
        loop {
            if let Some(address) = self.sockets.at_port(port) {
                return Ok(address);
            }
            if self.sockets.have_lost(port) {
                return Err(Box::new(LostPort(port)));
            }
            looks.done();
            match self.steps.recv_timeout(looks.next.saturating_duration_since(Instant::now())) {
                Ok(Step::Stopping) => return Ok((Ipv4Addr::LOCALHOST, port).into()),
                Ok(Step::Ended(end)) => return Err(EndedEarly::of(end)),
                Ok(Step::CannotStart(why)) => return Err(Box::new(why)),
                Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected) => return Err("it ended".into()),
                Err(RecvTimeoutError::Timeout) if limit <= Instant::now() => {
                    return Err(not_ready_in_time(program, Some(self.does_not_listen(port))));
                }
                Ok(Step::Started | Step::Ready) | Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn does_not_listen(&self, port: u16) -> String {
        // It may have begun to listen there at this very moment.
        let is_elsewhere = |address: &String| !address.ends_with(&format!(":{port}"));
        let elsewhere = self.sockets.own().filter(is_elsewhere);
        let elsewhere = elsewhere.map(|address| format!(", but on {address}")).unwrap_or_default();
        format!(
            "it does not listen on its private port {port}{elsewhere}; let it take the port from PORT in its environment, \
             or from {{port}} on its command line"
        )
    }

    fn report_delay(&self, ready: &Ready, failure: Option<&str>, log: &Journal) {
        let obstacle = self.obstacle(ready);
        let Some(reason) = obstacle.as_deref().or(failure) else { return };
        let message = format!("the program is not ready after {}: {reason}", Seconds(DELAY));
        log.line(Level::Info, "not_ready_yet", message, [("reason", reason.into())]);
    }

    fn late(&self, program: &Program, failure: Option<String>) -> BuildError {
        let silent = || match program.ready {
            #[cfg(unix)]
            Ready::Notify => Some("it did not send READY=1".to_owned()),
            Ready::Auto | Ready::After(_) | Ready::Port(_) | Ready::Probe(_) => None,
        };
        not_ready_in_time(program, self.obstacle(&program.ready).or(failure).or_else(silent))
    }

    /// The other process that listens where the program should, if there is one.
    fn obstacle(&self, ready: &Ready) -> Option<String> {
        let Ready::Probe(probe) = ready else { return None };
        let address = probe.address()?;
        // A socket of ours is not an obstacle, whether the program still has it or has ended.
        if self.sockets.is_passed_at(&address) || self.sockets.listen_at(&address) == Some(true) {
            return None;
        }
        let holder = holder_of(&address)?;
        Some(match address {
            Address::Tcp(address) => format!("port {} is taken by {holder}", address.port()),
            #[cfg(unix)]
            Address::Unix(path) => format!("{} is taken by {holder}", path.display()),
        })
    }

    /// Ends it, and adds to the reason what can be found out and what it wrote.
    pub(super) fn give_up(self, program: &Program, why: BuildError) -> BuildError {
        self.running.end_because(&why.to_string());
        self.ended(program, why)
    }

    /// The same for a program that has already been asked to end.
    pub(super) fn ended(self, program: &Program, why: BuildError) -> BuildError {
        let obstacle = if why.is::<EndedEarly>() { self.obstacle(&program.ready) } else { None };
        let until = Instant::now() + UNWANTED + KILLED;
        while !matches!(
            self.steps.recv_timeout(until.saturating_duration_since(Instant::now())),
            Ok(Step::Gone) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)
        ) {}
        // A program that cannot be started has written nothing of its own.
        if why.is::<CannotStart>() {
            return why;
        }
        let wrote = self.running.last_lines();
        match why.downcast::<EndedEarly>() {
            Ok(early) => {
                let clean = early.end.is_success(&program.success);
                Box::new(EndedEarly { clean, obstacle, wrote, ..*early })
            }
            Err(why) => {
                let (end, killed) = self.running.became();
                Box::new(NeverReady { why, wrote, end, killed })
            }
        }
    }
}

fn not_ready_in_time(program: &Program, why: Option<String>) -> BuildError {
    format!("it was not ready within {}{}", Seconds(program.longest_start()), Obstacle(&why)).into()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use super::super::private_port;
    use super::super::process::unguarded;
    use super::*;

    #[test]
    fn ready_1_shows_nothing_if_something_else_has_to_show_that_the_program_is_ready() {
        let http = || Ready::Probe(Probe::Http("http://a/".parse().unwrap()));
        let answers = Evidence::Answered("it answers".into());
        let (ran, soon) = (Evidence::Ran(Duration::ZERO), Duration::ZERO);
        for (ready, evidence) in [
            (Ready::Notify, Evidence::Notified),
            (Ready::Auto, Evidence::Notified),
            (http(), answers),
            (Ready::After(soon), ran),
        ] {
            let (running, steps, _lives) = unguarded::running(unguarded::Control::default());
            running.says_ready();
            running.has_started(1);
            let sockets = FamilySockets::new(std::process::id(), HashMap::new());
            let started = Started { running, steps, sockets };
            let program = Program { ready, ..unguarded::program() };
            let limit = Instant::now() + Duration::from_secs(600);
            let ask = |_: &Probe, _| Outcome::Answered("it answers".into());
            let log = Journal::new(crate::log::Log::silent());
            let shown = started.wait_until_ready(&program, 2, None, limit, &log, ask);
            assert_eq!(shown.unwrap(), Some(evidence), "{:?}", program.ready);
        }
    }

    #[test]
    fn the_time_to_become_ready_is_not_given_a_second_time_to_listen_on_the_private_port() {
        let (running, steps, _lives) = unguarded::running(unguarded::Control::default());
        let sockets = FamilySockets::new(std::process::id(), HashMap::new());
        let started = Started { running, steps, sockets };
        let program = Program { ready_within: Duration::from_secs(600), ..unguarded::program() };
        let error = started.wait_until_it_listens(&program, private_port::choose().unwrap(), Instant::now());
        let error = error.unwrap_err().to_string();
        assert!(error.contains("let it take the port from PORT"), "{error}");
    }
}
