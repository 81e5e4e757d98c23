//! The pause: clients and requests wait until it is over.

use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use worker::deadline_after;

use crate::event::Trigger;
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{self, Answer, ErrorCode, Progress, Response};
use crate::server::Builder;
use crate::text::{Seconds, limit_ms, milliseconds};

use super::reply::Reply;

/// A request to pause.
#[derive(Debug)]
pub(super) struct PauseRequest {
    pub(super) by: Trigger,
    /// The pause ends by itself after this time.
    pub(super) max: Option<Duration>,
    /// The client whose connection holds the pause. None: the pause continues after its client was answered.
    pub(super) holder: Option<u64>,
    pub(super) reply: Sender<Response>,
}

/// Whether the port is paused.
#[derive(Debug, Default)]
pub(super) struct Pausing {
    /// How many pauses there have been.
    number: u64,
    pause: Option<Pause>,
}

#[derive(Debug)]
struct Pause {
    by: String,
    since: Instant,
    until: Option<Instant>,
    holder: Option<u64>,
    /// How many requests were under way when it was asked for.
    under_way: usize,
    /// No request is under way any more.
    is_quiet: bool,
    /// The client that hears when the pause begins and, if it holds the pause, when it ends.
    reply: Option<Reply>,
}

/// Why a pause is over.
#[derive(Debug)]
pub(super) enum Over {
    /// Its holder released it, or is gone.
    Released,
    /// Its time is up.
    Expired,
    Resumed(String),
    Stopped(String),
}

impl Pausing {
    pub(super) fn begin(&mut self, request: PauseRequest, builder: &dyn Builder, log: &Journal, now: Instant) {
        let PauseRequest { by, max, holder, reply } = request;
        let reply = Reply::new(reply, true);
        if let Some(Pause { by, .. }) = &self.pause {
            let message = format!("it is paused already, by {by}; `admin-cli resume` ends that");
            return reply.refuse(ErrorCode::Failed, message);
        }
        self.number += 1;
        let under_way = match builder.pause(self.number) {
            Ok(under_way) => under_way,
            Err(why) => return reply.refuse(ErrorCode::Failed, why),
        };
        let at_most = max.map(|max| format!(" for at most {}", Seconds(max))).unwrap_or_default();
        let message = format!("{by}: paused{at_most}");
        let fields = [("by", by.to_string().into()), ("max_ms", max.and_then(limit_ms).into())];
        log.line(Level::Info, "paused", message, fields);
        let until = max.map(|max| deadline_after(now, max));
        let (by, reply) = (by.to_string(), Some(reply));
        let pause = Pause { by, since: now, until, holder, under_way, is_quiet: false, reply };
        pause.report(under_way, now);
        self.pause = Some(pause);
    }

    /// No request is under way any more in the pause with this number.
    pub(super) fn is_quiet(&mut self, number: u64, now: Instant) {
        let Some(pause) = self.pause.as_mut().filter(|_| number == self.number) else { return };
        pause.is_quiet = true;
        if pause.holder.is_some() {
            pause.report(0, now);
        } else if let Some(reply) = pause.reply.take() {
            reply.answer(Answer::Paused { remaining_ms: pause.remaining_ms(now) });
        }
    }

    pub(super) fn is_held_by(&self, holder: u64) -> bool {
        self.pause.as_ref().is_some_and(|pause| pause.holder == Some(holder))
    }

    /// When it expires.
    pub(super) fn due(&self) -> Option<Instant> {
        self.pause.as_ref()?.until
    }

    /// Ends the pause: whatever has waited is served. Returns whether there was one.
    pub(super) fn end(&mut self, over: &Over, builder: &dyn Builder, log: &Journal, now: Instant) -> bool {
        let Some(Pause { since, holder, under_way, is_quiet, reply, .. }) = self.pause.take() else { return false };
        builder.resume();
        let took = now.saturating_duration_since(since);
        let (level, early) = match over {
            Over::Released => (Level::Info, None),
            Over::Expired => (Level::Warning, Some("its time was up".to_owned())),
            Over::Resumed(by) => (Level::Info, Some(format!("{by} ended it"))),
            Over::Stopped(by) => (Level::Info, Some(format!("{by} stops the server"))),
        };
        let why = early.as_ref().map(|early| format!(": {early}")).unwrap_or_default();
        let message = format!("the pause is over after {}{why}", Seconds(took));
        log.line(level, "resumed", message, [("took_ms", milliseconds(took).into()), ("early", early.clone().into())]);
        let Some(reply) = reply else { return true };
        match (is_quiet, early) {
            (true, early) if holder.is_some() => {
                reply.answer(Answer::Resumed { took_ms: milliseconds(took), early });
            }
            (_, early) => {
                let why = early.unwrap_or_else(|| "it was released".into());
                let before = if under_way > 0 { "the requests under way were answered" } else { "it had begun" };
                let message = format!("the pause ended before {before}: {why}");
                reply.refuse(ErrorCode::Failed, message);
            }
        }
        true
    }

    pub(super) fn status(&self, now: Instant) -> Option<protocol::Pause> {
        let pause = self.pause.as_ref()?;
        let paused_ms = milliseconds(now.saturating_duration_since(pause.since));
        Some(protocol::Pause { by: pause.by.clone(), paused_ms, remaining_ms: pause.remaining_ms(now) })
    }
}

impl Pause {
    fn remaining_ms(&self, now: Instant) -> Option<u64> {
        self.until.and_then(|until| limit_ms(until.saturating_duration_since(now)))
    }

    fn report(&self, under_way: usize, now: Instant) {
        if let Some(reply) = &self.reply {
            // If it is quiet at once, the answer says so, or a later report.
            let is_quiet = self.is_quiet;
            reply.report(Progress::Paused { under_way, is_quiet, remaining_ms: self.remaining_ms(now) });
        }
    }
}
