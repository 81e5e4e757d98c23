//! When the connections of one loop are looked at even if nothing has happened to them.

use std::collections::BTreeSet;
use std::time::Instant;

use super::slab::Key;

#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Instant, Key)>);

impl Timers {
    /// Schedules a connection. If its time is postponed, the old timer stays: one early look costs less than moving the
    /// timer with each message.
    pub(super) fn set(&mut self, key: Key, scheduled: &mut Option<Instant>, due: Option<Instant>) {
        let Some(due) = due else { return };
        if scheduled.is_none_or(|scheduled| due < scheduled) {
            self.forget(key, scheduled);
            self.0.insert((due, key));
            *scheduled = Some(due);
        }
    }

    pub(super) fn forget(&mut self, key: Key, scheduled: &mut Option<Instant>) {
        if let Some(scheduled) = scheduled.take() {
            self.0.remove(&(scheduled, key));
        }
    }

    pub(super) fn first(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    /// Takes out the connections that are due.
    pub(super) fn due(&mut self, now: Instant) -> Vec<Key> {
        let mut due = Vec::new();
        while let Some((_, key)) = self.0.first().copied().filter(|(at, _)| *at <= now) {
            self.0.pop_first();
            due.push(key);
        }
        due
    }
}
