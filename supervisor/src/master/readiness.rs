//! Whether new clients may be sent here, and the scheduled stop.

use std::time::{Duration, Instant};

use worker::deadline_after;

use crate::event::Trigger;
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{Answer, Delay, ErrorCode, Progress, Undone};
use crate::server::deadline::Deadline;
use crate::settings::Settings;
use crate::text::{self, Seconds, limit_ms};

use super::reply::Reply;
use super::requests::StopRequest;
use super::stop::COUNTDOWN;

/// Whether the supervisor is ready for new clients. Clients that connect are served in any case.
#[derive(Debug)]
pub(super) enum Readiness {
    Ready,
    NotReady,
    /// Not ready, and a stop follows.
    Scheduled(ScheduledStop),
}

/// A scheduled stop.
#[derive(Debug)]
pub(super) struct ScheduledStop {
    since: Instant,
    at: Instant,
    by: Trigger,
    /// Whether a service manager may wait for it.
    is_awaited: bool,
    /// Whether a drain was requested, too.
    is_drain: bool,
    /// The end of the grace period.
    deadline: Deadline,
    /// The spread. None: as the settings say at that time.
    spread: Option<Duration>,
    /// When waiting clients are next told how long it will take.
    countdown: Instant,
    waiting: Vec<Reply>,
}

impl Readiness {
    pub(super) fn is_ready(&self) -> bool {
        matches!(self, Readiness::Ready)
    }

    /// Whether each client should reconnect for its next message. Not before a stop with a spread: the active clients
    /// would all come back at once.
    pub(super) fn lets_clients_go(&self, settings: &Settings) -> bool {
        match self {
            Readiness::Ready => false,
            Readiness::NotReady => true,
            Readiness::Scheduled(stop) => stop.spread.unwrap_or(settings.spread).is_zero(),
        }
    }

    /// When to act even if no event arrives.
    pub(super) fn due(&self) -> Option<Instant> {
        self.scheduled().map(|stop| stop.at.min(stop.countdown))
    }

    pub(super) fn delay(&self, now: Instant) -> Option<Delay> {
        self.scheduled().map(|stop| stop.delay(now))
    }

    /// Since when a stop is scheduled.
    pub(super) fn scheduled_since(&self) -> Option<Instant> {
        self.scheduled().map(|stop| stop.since)
    }

    /// The deadline of a scheduled stop that a service manager may wait for. On Unix it requests a stop by signal.
    pub(super) fn awaited_by_manager(&self) -> Option<Instant> {
        self.scheduled().filter(|stop| stop.is_awaited).map(|stop| stop.deadline.at())
    }

    /// Whether a stop is scheduled that cannot be cancelled: the service manager of Windows has asked for it, and a
    /// service that is stopping never runs again.
    pub(super) fn is_bound_to_stop(&self) -> bool {
        cfg!(windows) && self.awaited_by_manager().is_some()
    }

    /// The deadline of the scheduled stop.
    pub(super) fn deadline(&self) -> Option<Deadline> {
        self.scheduled().map(|stop| stop.deadline)
    }

    fn scheduled(&self) -> Option<&ScheduledStop> {
        match self {
            Readiness::Scheduled(stop) => Some(stop),
            Readiness::Ready | Readiness::NotReady => None,
        }
    }

    /// Reports not ready for new clients.
    pub(super) fn revoke(&mut self, by: &Trigger, log: &Journal) {
        let message = format!("{by}: not ready for new clients");
        log.line(Level::Info, "not_ready", message, [("by", by.to_string().into())]);
        match self {
            Readiness::Ready => *self = Readiness::NotReady,
            Readiness::NotReady => {}
            Readiness::Scheduled(stop) => stop.is_drain = true,
        }
    }

    /// Reports ready for new clients again, which cancels a scheduled stop. Returns what was undone.
    pub(super) fn restore(&mut self, by: &Trigger, log: &Journal) -> Vec<Undone> {
        let (undone, waiting) = match std::mem::replace(self, Readiness::Ready) {
            Readiness::Ready => return Vec::new(),
            Readiness::NotReady => (vec![Undone::Drain], Vec::new()),
            Readiness::Scheduled(stop) if stop.is_drain => (vec![Undone::Stop, Undone::Drain], stop.waiting),
            Readiness::Scheduled(stop) => (vec![Undone::Stop], stop.waiting),
        };
        let words: Vec<_> = undone.iter().map(text::undone).collect();
        let message = format!("{by}: {}, ready for new clients again", text::listed(&words, "and"));
        log.line(Level::Info, "ready", message, [("by", by.to_string().into())]);
        for reply in waiting {
            reply.refuse(ErrorCode::Cancelled, format!("{by} cancelled the stop"));
        }
        undone
    }

    /// Schedules a stop with this deadline. Of several, the earliest begins, with the nearest deadline.
    pub(super) fn schedule(
        &mut self,
        stop: StopRequest,
        delay: Duration,
        deadline: Deadline,
        log: &Journal,
        now: Instant,
    ) {
        let StopRequest { by, grace: _, spread, reply } = stop;
        let asked = by.to_string();
        let at = deadline_after(now, delay);
        let (countdown, waiting) = (now + COUNTDOWN, Vec::new());
        let is_awaited = match by {
            Trigger::ServiceManager(_) => true,
            Trigger::Signal { .. } => cfg!(unix),
            Trigger::Console | Trigger::ConsoleEvent(_) | Trigger::Admin { .. } | Trigger::Code | Trigger::Check => {
                false
            }
        };
        let stop =
            ScheduledStop { since: now, at, by, is_awaited, is_drain: false, deadline, spread, countdown, waiting };
        let mut stop = match std::mem::replace(self, Readiness::NotReady) {
            Readiness::Scheduled(other) => other.merge(stop),
            Readiness::NotReady => ScheduledStop { is_drain: true, ..stop },
            Readiness::Ready => stop,
        };
        // Possibly the delay of an earlier stop.
        let delay = stop.delay(now).remaining_ms;
        let remaining = delay.map(|ms| Seconds(Duration::from_millis(ms)));
        let message = format!("{asked}: {}, not ready for new clients", text::scheduled(remaining));
        let fields = [("by", asked.into()), ("delay_ms", delay.into())];
        log.line(Level::Info, "delayed", message, fields);
        match reply {
            Some(reply) if !reply.wait => reply.answer(Answer::Delayed(stop.delay(now))),
            reply => stop.waiting.extend(reply),
        }
        stop.report(now);
        *self = Readiness::Scheduled(stop);
    }

    /// Returns the scheduled stop if it is due. Otherwise tells waiting clients how long it will take.
    pub(super) fn begins(&mut self, now: Instant) -> Option<StopRequest> {
        let Readiness::Scheduled(stop) = self else { return None };
        if stop.at <= now {
            let grace = Some(stop.deadline.remaining(now));
            return Some(StopRequest { by: stop.by.clone(), grace, spread: stop.spread, reply: None });
        }
        if stop.countdown <= now {
            stop.countdown = now + COUNTDOWN;
            stop.report(now);
        }
        None
    }

    /// A stop begins, this one or another: returns the clients that wait for the scheduled one.
    pub(super) fn take_waiting(&mut self) -> Vec<Reply> {
        match std::mem::replace(self, Readiness::NotReady) {
            Readiness::Scheduled(stop) => stop.waiting,
            Readiness::Ready | Readiness::NotReady => Vec::new(),
        }
    }
}

impl ScheduledStop {
    fn delay(&self, now: Instant) -> Delay {
        Delay { by: self.by.to_string(), remaining_ms: limit_ms(self.at.saturating_duration_since(now)) }
    }

    /// Reports to waiting clients, and drops those that have disconnected.
    fn report(&mut self, now: Instant) {
        let delay = self.delay(now);
        self.waiting.retain(|reply| reply.report(Progress::Delayed(delay.clone())));
    }

    /// The earlier of the two, with the nearer deadline.
    fn merge(mut self, later: ScheduledStop) -> ScheduledStop {
        let deadline = self.deadline.min(later.deadline);
        let waiting = std::mem::take(&mut self.waiting);
        let (since, is_drain) = (self.since, self.is_drain);
        let is_awaited = self.is_awaited || later.is_awaited;
        let earlier = if self.at <= later.at { self } else { later };
        ScheduledStop { since, is_awaited, is_drain, deadline, waiting, ..earlier }
    }
}
