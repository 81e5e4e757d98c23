//! Whether new clients may be sent here, and the stop that is put off until nobody sends any.

use super::*;
use crate::protocol::Delay;

/// No new clients are to be sent here. Those that come are served all the same.
#[derive(Debug)]
pub(super) struct Unready {
    stop: Option<Delayed>,
}

/// A stop that is put off.
#[derive(Debug)]
struct Delayed {
    at: Instant,
    by: Trigger,
    /// The end of the grace period.
    deadline: Instant,
    /// When those who wait hear again how long it takes.
    countdown: Instant,
    waiting: Vec<Reply>,
}

impl Unready {
    /// When there is something to do, although nothing happens.
    pub(super) fn next(&self) -> Option<Instant> {
        self.stop.as_ref().map(|stop| stop.at.min(stop.countdown))
    }

    pub(super) fn delay(&self, now: Instant) -> Option<Delay> {
        self.stop.as_ref().map(|stop| stop.delay(now))
    }

    /// By when a stop that was put off is to be over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stop.as_ref().map(|stop| stop.deadline)
    }
}

impl Delayed {
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
        serves && self.unready.is_none()
    }

    pub(super) fn drain(&mut self, by: &Trigger) {
        let message = format!("{by}: no new clients are to be sent here");
        self.identity.log.line(Level::Info, "not_ready", message, [("by", by.to_string().into())]);
        self.unready.get_or_insert(Unready { stop: None });
    }

    pub(super) fn on_resume(&mut self, state: &State, by: &Trigger) -> Answer {
        if let State::Draining { .. } = state {
            let message = "the stop has begun already, and cannot be called off".into();
            return Answer::Error(Refusal { code: ErrorCode::Stopping, message });
        }
        self.resume(by);
        Answer::Readiness { ready: self.is_ready(state) }
    }

    fn resume(&mut self, by: &Trigger) {
        let Some(Unready { stop }) = self.unready.take() else { return };
        let what = if stop.is_some() { "the stop is called off, " } else { "" };
        let message = format!("{by}: {what}new clients may be sent here again");
        self.identity.log.line(Level::Info, "ready", message, [("by", by.to_string().into())]);
        for reply in stop.into_iter().flat_map(|stop| stop.waiting) {
            let message = format!("{by} has called off the stop");
            let _ = reply.to.send(Response::Answer(Answer::Error(Refusal { code: ErrorCode::CalledOff, message })));
        }
    }

    /// Puts a stop off. Of several the earliest counts, and the shortest deadline. A server that is being stopped
    /// already is to be gone by the time that this one would be over.
    pub(super) fn on_delayed_stop(
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
        let stop = Delayed { at, by, deadline, countdown: now + COUNTDOWN, waiting: Vec::new() };
        let unready = self.unready.get_or_insert(Unready { stop: None });
        let stop = match unready.stop.take() {
            Some(mut other) => {
                let deadline = other.deadline.min(stop.deadline);
                let waiting = std::mem::take(&mut other.waiting);
                let earlier = if other.at <= stop.at { other } else { stop };
                Delayed { deadline, waiting, ..earlier }
            }
            None => stop,
        };
        let stop = unready.stop.insert(stop);
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

    /// Begins the stop that was put off, when it is time.
    pub(super) fn hurry_delayed(&mut self, state: State, now: Instant) -> State {
        let Some(stop) = self.unready.as_mut().and_then(|unready| unready.stop.as_mut()) else { return state };
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

    /// A stop begins, be it this one or another: those who wait for the one that was put off.
    pub(super) fn take_delayed(&mut self) -> Vec<Reply> {
        let stop = self.unready.as_mut().and_then(|unready| unready.stop.take());
        stop.map(|stop| stop.waiting).unwrap_or_default()
    }
}
