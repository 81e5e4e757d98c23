//! Whether new clients may be sent here, and the scheduled stop.

use super::*;
use crate::protocol::Delay;

/// No new clients are to be sent here. Those that come are served all the same.
#[derive(Debug)]
pub(super) struct NotReady {
    stop: Option<ScheduledStop>,
}

/// A scheduled stop.
#[derive(Debug)]
struct ScheduledStop {
    at: Instant,
    by: Trigger,
    /// The end of the grace period.
    deadline: Instant,
    /// When those who wait hear again how long it takes.
    countdown: Instant,
    waiting: Vec<Reply>,
}

impl NotReady {
    /// When there is something to do, although nothing happens.
    pub(super) fn next(&self) -> Option<Instant> {
        self.stop.as_ref().map(|stop| stop.at.min(stop.countdown))
    }

    pub(super) fn delay(&self, now: Instant) -> Option<Delay> {
        self.stop.as_ref().map(|stop| stop.delay(now))
    }

    /// By when a scheduled stop is to be over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stop.as_ref().map(|stop| stop.deadline)
    }
}

impl ScheduledStop {
    fn delay(&self, now: Instant) -> Delay {
        Delay { by: self.by.to_string(), remaining_ms: milliseconds(self.at.saturating_duration_since(now)) }
    }

    /// Tells those who wait, and drops those who have gone away.
    fn tell_waiting(&mut self, now: Instant) {
        let delay = self.delay(now);
        self.waiting.retain(|reply| reply.to.send(Response::Progress(Progress::Delayed(delay.clone()))).is_ok());
    }
}

impl Master {
    /// Whether new clients may be sent here.
    pub(super) fn is_ready(&self, state: &State) -> bool {
        let serves = match state {
            State::Serving { .. }
            | State::Building { current: Current::Serves(_), .. }
            | State::Opening { replaced: Some(_), .. }
            | State::Retiring { .. } => true,
            State::Opening { current, replaced: None, .. } => current.generation == 1,
            State::Starting { .. }
            | State::Emptying { .. }
            | State::Building { current: Current::Crashed { .. } | Current::Emptied(..), .. }
            | State::Waiting { .. }
            | State::Draining { .. } => false,
        };
        serves && self.not_ready.is_none()
    }

    pub(super) fn drain(&mut self, by: &Trigger) {
        let message = format!("{by}: no new clients are to be sent here");
        self.identity.log.line(Level::Info, "not_ready", message, [("by", by.to_string().into())]);
        self.not_ready.get_or_insert(NotReady { stop: None });
    }

    pub(super) fn on_resume(&mut self, state: &State, by: &Trigger) -> Answer {
        if let State::Draining { .. } = state {
            let message = "the stop has begun already, and cannot be cancelled".into();
            return Answer::Error(Refusal { code: ErrorCode::Stopping, message });
        }
        self.resume(by);
        Answer::Readiness { ready: self.is_ready(state) }
    }

    fn resume(&mut self, by: &Trigger) {
        let Some(NotReady { stop }) = self.not_ready.take() else { return };
        let what = if stop.is_some() { "the stop is cancelled, " } else { "" };
        let message = format!("{by}: {what}new clients may be sent here again");
        self.identity.log.line(Level::Info, "ready", message, [("by", by.to_string().into())]);
        for reply in stop.into_iter().flat_map(|stop| stop.waiting) {
            let message = format!("{by} cancelled the stop");
            let _ = reply.to.send(Response::Answer(Answer::Error(Refusal { code: ErrorCode::Cancelled, message })));
        }
    }

    /// Schedules a stop. Of several the earliest counts, and the shortest deadline. A server that is being stopped
    /// already is to be gone by the time that this one would be over.
    pub(super) fn on_scheduled_stop(
        &mut self,
        state: State,
        by: Trigger,
        grace: Option<Duration>,
        delay: Duration,
        reply: Reply,
        now: Instant,
    ) -> State {
        let whole = grace.unwrap_or(self.settings.grace).saturating_add(delay);
        if let State::Draining { .. } = state {
            return self.on_stop(state, by, Some(whole), Some(reply), now);
        }
        let asked = by.to_string();
        let (at, deadline) = (deadline_after(now, delay), deadline_after(now, whole));
        let stop = ScheduledStop { at, by, deadline, countdown: now + COUNTDOWN, waiting: Vec::new() };
        let not_ready = self.not_ready.get_or_insert(NotReady { stop: None });
        let stop = match not_ready.stop.take() {
            Some(mut other) => {
                let deadline = other.deadline.min(stop.deadline);
                let waiting = std::mem::take(&mut other.waiting);
                let earlier = if other.at <= stop.at { other } else { stop };
                ScheduledStop { deadline, waiting, ..earlier }
            }
            None => stop,
        };
        let stop = not_ready.stop.insert(stop);
        // Which may be an earlier one.
        let delay = stop.at.saturating_duration_since(now);
        let message = format!("{asked}: stopping in {}, no new clients are to be sent here", Seconds(delay));
        let fields = [("by", asked.into()), ("delay_ms", milliseconds(delay).into())];
        self.identity.log.line(Level::Info, "delayed", message, fields);
        if reply.wait {
            stop.waiting.push(reply);
        } else {
            let _ = reply.to.send(Response::Answer(Answer::Delayed(stop.delay(now))));
        }
        stop.tell_waiting(now);
        state
    }

    /// Begins the scheduled stop, when it is time.
    pub(super) fn start_due_stop(&mut self, state: State, now: Instant) -> State {
        let Some(stop) = self.not_ready.as_mut().and_then(|not_ready| not_ready.stop.as_mut()) else { return state };
        if stop.at <= now {
            let (by, grace) = (stop.by.clone(), stop.deadline.saturating_duration_since(now));
            return self.on_stop(state, by, Some(grace), None, now);
        }
        if stop.countdown <= now {
            stop.countdown = now + COUNTDOWN;
            stop.tell_waiting(now);
        }
        state
    }

    /// A stop begins, be it this one or another: those who wait for the scheduled one.
    pub(super) fn take_scheduled_stop(&mut self) -> Vec<Reply> {
        let stop = self.not_ready.as_mut().and_then(|not_ready| not_ready.stop.take());
        stop.map(|stop| stop.waiting).unwrap_or_default()
    }
}
