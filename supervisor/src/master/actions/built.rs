//! The next generation is ready, and serves.

use std::time::Instant;

use serde_json::json;
use worker::deadline_after;

use crate::log::Level;
use crate::master::Master;
use crate::master::changes;
use crate::master::live::Live;
use crate::master::restarts::Restart;
use crate::master::spread;
use crate::master::state::{Cause, Check, Proving, Rebuilding, Replacing, Retiring, Serving, State};
use crate::master::stop::{Countdown, Draining};
use crate::protocol::Progress;
use crate::server::Built;
use crate::settings::Settings;
use crate::text::{Seconds, limit_ms};

impl Master {
    pub(in crate::master) fn serve_first(&mut self, build: u64, built: Built, now: Instant) -> State {
        let (current, settings) = self.arrive(build, built, now);
        let current = self.serve(current, settings);
        if let Some(announcement) = self.announcement.take() {
            announcement.make();
        }
        self.next(current, now)
    }

    pub(in crate::master) fn replace(&mut self, replacing: Replacing, build: u64, built: Built, now: Instant) -> State {
        let Replacing { current, restart, since: _ } = replacing;
        let overlap = built.overlap;
        let (next, settings) = self.arrive(build, built, now);
        if overlap.is_zero() {
            return self.hand_over(current, next, settings, restart, now);
        }
        let (number, old) = (next.number, current.number);
        next.generation.serve_on_trial();
        let message = format!("generation {number} serves beside generation {old} for {}", Seconds(overlap));
        let fields = [("generation", number.into()), ("overlap_ms", limit_ms(overlap).into())];
        self.identity.log.line(Level::Info, "overlapping", message, fields);
        State::Proving(Proving { current, next, settings, restart, until: deadline_after(now, overlap) })
    }

    /// The next generation has served beside the current one for the required time. It has proved nothing if its check
    /// was not answered.
    pub(in crate::master) fn proved(&mut self, proving: Proving, now: Instant) -> State {
        if let Some(failure) = proving.next.generation.unproved() {
            return self.withdraw(proving, failure, now);
        }
        let Proving { current, next, settings, restart, until: _ } = proving;
        self.hand_over(current, next, settings, restart, now)
    }

    /// Replaces the current generation with the next one.
    fn hand_over(&mut self, old: Live, next: Live, settings: Settings, restart: Restart, now: Instant) -> State {
        let (replaced, grace) = (old.number, restart.grace.unwrap_or(self.settings.grace));
        let spread = spread::within(grace, restart.spread, &self.settings);
        let current = self.serve(next, settings);
        self.drains.retire(old, &restart.by, grace, spread, now);
        restart.report(Progress::Serving { generation: current.number });
        self.report_drain(replaced, &restart, now);
        State::Retiring(Retiring { current, replaced, restart, countdown: Countdown::new(now) })
    }

    pub(in crate::master) fn serve_again(
        &mut self,
        rebuilding: Rebuilding,
        build: u64,
        built: Built,
        now: Instant,
    ) -> State {
        let (current, settings) = self.arrive(build, built, now);
        let current = self.serve(current, settings);
        match rebuilding.cause {
            Cause::Policy => self.next(current, now),
            Cause::Request { restart, until: _ } | Cause::Crash { restart, ran: _ } => {
                self.restarted(current, restart, None, now)
            }
            Cause::Emptied { restart, replaced, report } => {
                self.restarted(current, restart, Some((replaced, report)), now)
            }
        }
    }

    /// A generation is ready: it gets a number. Its settings take effect when it serves.
    fn arrive(&mut self, build: u64, built: Built, now: Instant) -> (Live, Settings) {
        let Built { generation, settings, overlap: _, program } = built;
        let is_known = self.record.generations > 0 && !settings.parts.is_empty();
        let changes = is_known.then(|| changes::between(&self.settings.parts, &settings.parts));
        self.record.generations += 1;
        let live = Live { build, number: self.record.generations, generation, since: now, changes, program };
        if let Some(evidence) = live.generation.evidence() {
            let message = format!("generation {} is ready: {evidence}{}", live.number, live.changed());
            let fields =
                [("generation", live.number.into()), ("evidence", evidence.into()), ("changes", json!(live.changes))];
            self.identity.log.line(Level::Info, "ready", message, fields);
        }
        (live, settings)
    }

    /// Makes this generation serve, with its settings.
    pub(in crate::master) fn serve(&mut self, live: Live, settings: Settings) -> Live {
        live.generation.serve();
        self.settings = settings;
        if live.program.is_some() {
            self.identity.program.clone_from(&live.program);
        }
        // A generation with evidence was logged when it became ready; for the first one, the announcement says more.
        if live.generation.evidence().is_none() && live.number > 1 {
            let message = format!("generation {} is serving{}", live.number, live.changed());
            let fields = [("generation", live.number.into()), ("changes", json!(live.changes))];
            self.identity.log.line(Level::Info, "serving", message, fields);
        }
        live
    }

    /// A generation was built too late, and its end has to be awaited.
    pub(in crate::master) fn discard(&mut self, draining: Draining, build: u64, built: Built, now: Instant) -> State {
        let Built { generation, program, .. } = built;
        let number = self.record.generations + 1;
        let live = Live { build, number, generation, since: now, changes: None, program };
        self.drains.discard(live, draining.why.to_string(), draining.deadline, now);
        State::Draining(draining)
    }

    pub(in crate::master) fn serving(&self, current: Live, now: Instant) -> State {
        let check = self.settings.check_every.map_or(Check::Never, |every| Check::At(deadline_after(now, every)));
        State::Serving(Serving { current, check })
    }
}
