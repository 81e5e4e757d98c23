//! The sockets that programs get, and the programs that are not completely gone and may still have these sockets.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

#[cfg(unix)]
use super::guardian::supervisor_side::Socket;
use super::process::Running;
#[cfg(target_os = "linux")]
use super::queue::Watch;
#[cfg(windows)]
use super::windows::Socket;
#[cfg(target_os = "linux")]
use crate::journal::Journal;
use crate::server::deadline::Deadline;
use crate::server::{BuildError, lacking};
use crate::sync::lock;

/// The sockets, until they are closed, and the programs. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Sockets(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// The sockets; once they are closed, when all programs have to be gone.
    sockets: Result<Vec<Socket>, Deadline>,
    /// The builds that have begun to start a program, and whose results have not arrived yet.
    starting: Vec<u64>,
    /// All programs that are not gone.
    programs: Vec<Weak<Running>>,
}

impl State {
    fn alive(&self) -> impl Iterator<Item = Arc<Running>> {
        self.programs.iter().filter_map(Weak::upgrade)
    }
}

impl Sockets {
    pub(super) fn new(sockets: Vec<Socket>) -> Sockets {
        Sockets(Arc::new(Mutex::new(State { sockets: Ok(sockets), starting: Vec::new(), programs: Vec::new() })))
    }

    /// The sockets for the program of this build, which counts as starting from now on.
    ///
    /// # Errors
    /// When they have been closed, or what the system says.
    pub(super) fn for_build(&self, build: u64) -> Result<Vec<Socket>, BuildError> {
        let mut state = self.state();
        if state.sockets.is_ok() && !state.starting.contains(&build) {
            state.starting.push(build);
        }
        let sockets = state.sockets.as_deref().map_err(|_| "the server is being stopped")?;
        let sockets = sockets.iter().map(Socket::try_clone).collect::<io::Result<Vec<_>>>();
        sockets.map_err(|error| lacking("the listening sockets", &error))
    }

    /// Whether a build has begun to start a program, and its result has not arrived yet.
    pub(super) fn are_awaited(&self) -> bool {
        !self.state().starting.is_empty()
    }

    /// Notes that the result of this build has arrived.
    pub(super) fn note_built(&self, build: u64) {
        self.state().starting.retain(|&starting| starting != build);
    }

    /// Remembers a program that was started. If no more programs may run, it has to end.
    pub(super) fn keep(&self, program: &Arc<Running>) {
        let mut state = self.state();
        if let Err(deadline) = state.sockets {
            program.stop_building(deadline);
        }
        state.programs.retain(|running| running.strong_count() > 0);
        state.programs.push(Arc::downgrade(program));
    }

    /// The programs that are not completely gone. They may still have the address that the next one binds.
    pub(super) fn last_ones(&self) -> impl Iterator<Item = Arc<Running>> {
        self.state().alive().collect::<Vec<_>>().into_iter()
    }

    /// Watches whether a program accepts from the sockets that it got, if it got any.
    #[cfg(target_os = "linux")]
    pub(super) fn watch(&self, program: &Running, log: &Journal) -> Result<(), BuildError> {
        let lacking = |error| lacking("what it takes to watch its sockets", &error);
        // Held until the program has its watch, so that they cannot be closed before.
        let state = self.state();
        // During a stop there are none.
        let sockets = state.sockets.iter().flatten().map(|socket| socket.socket.try_clone()).collect::<io::Result<_>>();
        let queues = Watch::begin(sockets.map_err(lacking)?, log.clone()).map_err(lacking)?;
        program.watch(queues);
        Ok(())
    }

    /// Closes them. From now on all programs that are not ready have to end, and all programs have to be gone at this
    /// time.
    pub(super) fn close(&self, deadline: Deadline) {
        let mut state = self.state();
        state.sockets = Err(deadline);
        for running in state.alive() {
            running.stop_building(deadline);
            #[cfg(target_os = "linux")]
            running.unwatch();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_build_that_starts_a_program_is_awaited_and_none_starts_one_after_the_end() {
        let sockets = Sockets::new(Vec::new());
        assert!(!sockets.are_awaited());
        sockets.for_build(1).unwrap();
        // It has tried another private port.
        sockets.for_build(1).unwrap();
        sockets.for_build(2).unwrap();
        sockets.note_built(1);
        assert!(sockets.are_awaited());
        sockets.note_built(2);
        assert!(!sockets.are_awaited());
        sockets.close(Deadline::after(std::time::Instant::now(), std::time::Duration::ZERO));
        assert_eq!(sockets.for_build(3).unwrap_err().to_string(), "the server is being stopped");
        assert!(!sockets.are_awaited());
    }
}
