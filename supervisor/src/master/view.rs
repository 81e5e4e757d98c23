//! What the service manager is to know of the state.

use super::*;
use crate::host::{Phase, View};

impl Master {
    /// Tells the service manager what has changed, if there is one.
    pub(super) fn tell_manager(&mut self, state: &State, now: Instant) {
        if self.manager.listens() {
            let view = self.view(state);
            self.manager.tell(view, now);
        }
    }

    fn view(&self, state: &State) -> View {
        let address = match &self.identity.addresses[..] {
            [] => self.identity.program.clone().unwrap_or_default(),
            addresses => listen::in_words(addresses),
        };
        let serving = |running: &Running| format!("serving on {address}, generation {}", running.generation);
        // What is done about a crash is no restart that anybody waits for.
        let phase = |restart: &Option<Restart>, build| match restart {
            Some(_) => Phase::Restarting { build },
            None => Phase::Ready,
        };
        let deadline_of = |generation: u64| {
            let old = self.old.iter().find(|old| old.running.generation == generation);
            old.map(|old| old.deadline)
        };
        match state {
            State::Starting { since } => {
                let deadline = Some(self.build_limit(*since));
                View { phase: Phase::Starting, status: self.not_serving("starting"), deadline }
            }
            State::Opening { current, .. } if current.generation == 1 => {
                View { phase: Phase::Ready, status: serving(current), deadline: None }
            }
            State::Serving { current, check: _ } => {
                View { phase: Phase::Ready, status: serving(current), deadline: None }
            }
            State::Building { current: Current::Serves(current), restart, since } => {
                let status = format!("{}; restarting", serving(current));
                let deadline = restart.as_ref().map(|_| self.build_limit(*since));
                View { phase: phase(restart, self.builds), status, deadline }
            }
            State::Emptying { generation, restart: _, countdown: _ } => {
                let status = format!("restarting; generation {generation} makes way");
                View { phase: Phase::Restarting { build: self.builds }, status, deadline: deadline_of(*generation) }
            }
            State::Building { current: Current::Crashed { .. } | Current::Emptied(..), restart, since } => {
                let deadline = restart.as_ref().map(|_| self.build_limit(*since));
                View { phase: phase(restart, self.builds), status: self.not_serving("starting"), deadline }
            }
            State::Opening { current, replaced, restart, .. } => {
                let deadline = match replaced {
                    Some(Replaced::Draining(generation)) if restart.is_some() => deadline_of(*generation),
                    Some(_) | None => None,
                };
                let status = format!("generation {} is about to serve on {address}", current.generation);
                View { phase: phase(restart, current.build), status, deadline }
            }
            State::Retiring { current, replaced, .. } => {
                let status = format!("{}; generation {replaced} lets its clients go", serving(current));
                let phase = Phase::Restarting { build: current.build };
                View { phase, status, deadline: deadline_of(*replaced) }
            }
            State::Waiting { until: _ } => {
                View { phase: Phase::Ready, status: self.not_serving("waiting to start"), deadline: None }
            }
            State::Draining { stop, .. } => {
                let status = match &stop.why {
                    Why::Asked(by) => format!("{by}: stopping"),
                    Why::Failed(error) => format!("stopping: {error}"),
                };
                View { phase: Phase::Stopping, status, deadline: Some(stop.deadline) }
            }
        }
    }

    /// There is no generation that serves.
    fn not_serving(&self, what: &str) -> String {
        let why = self.last_end.as_ref().map(|end| format!(": {}", end.reason)).unwrap_or_default();
        format!("{what} generation {}{why}", self.generations + 1)
    }
}
