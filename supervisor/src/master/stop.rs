//! The stop of the supervisor: all generations drain, and those who wait for that hear how it goes.

use std::fmt;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use worker::deadline_after;

use crate::error::Error;
use crate::event::{Event, Trigger};
use crate::protocol::{Answer, Drain, ErrorCode, Progress, Refusal};
use crate::report::Report;
use crate::server::Ended;
use crate::server::deadline::Deadline;
use crate::watchdog::Watchdog;

use super::drains::Drains;
use super::reply::Reply;
use super::requests::{self, Command, StopRequest};

/// How often those who wait for a drain hear how it goes.
pub(super) const COUNTDOWN: Duration = Duration::from_secs(1);

/// How long at most a drain goes without a line in the log.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// When those who wait for a drain hear how it goes: each second. In the log that would be a line a second for as long
/// as the drain lasts, so there the pauses double.
#[derive(Debug, Clone, Copy)]
pub(super) struct Countdown {
    pub(super) next: Instant,
    /// When it is logged next, and how long after that again.
    log: Instant,
    pause: Duration,
}

impl Countdown {
    /// It begins a second from now, and not at once: most clients disconnect before.
    pub(super) fn new(now: Instant) -> Countdown {
        Countdown { next: now + COUNTDOWN, log: now, pause: COUNTDOWN }
    }

    /// The next one comes a second from now. Returns whether this one is logged, too.
    pub(super) fn step(&mut self, now: Instant) -> bool {
        self.next = now + COUNTDOWN;
        let is_logged = self.log <= now;
        if is_logged {
            // As exact as the steps are.
            self.log = now + self.pause - COUNTDOWN / 2;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        is_logged
    }
}

/// A plain request to stop within this time after the first one is the same decision, which has arrived twice: a
/// service manager sends a SIGHUP along with its signal, and `timeout` signals its child and then the group.
pub(super) const TOGETHER: Duration = Duration::from_millis(500);

/// A stop under way.
#[derive(Debug)]
pub(super) struct Draining {
    pub(super) why: Why,
    began: Instant,
    /// When it was requested first. None: it was not.
    requested: Option<Instant>,
    pub(super) deadline: Deadline,
    /// Over which time clients are let go.
    spread: Duration,
    pub(super) countdown: Countdown,
    /// What became of generations that are gone.
    ended: Ended,
    waiting: Vec<Reply>,
    /// What ends the process if the stop overruns its deadline.
    watchdog: Option<Watchdog>,
}

/// Why the supervisor ends.
#[derive(Debug)]
pub(super) enum Why {
    Requested(Trigger),
    Failed(Error),
}

/// The end of the supervisor, and the clients that have not heard of it yet.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) result: Result<Report, Error>,
    waiting: Vec<Reply>,
}

impl Draining {
    /// All these are about to drain, which is watched from now on.
    pub(super) fn begin(
        why: Why,
        deadline: Deadline,
        spread: Duration,
        drains: &Drains,
        watchdog: Option<Watchdog>,
        now: Instant,
    ) -> Draining {
        if let Some(watchdog) = &watchdog {
            watchdog.watch_stop(drains.gone_by(deadline.at()), drains.what_hangs());
        }
        let requested = match &why {
            Why::Requested(_) => Some(now),
            Why::Failed(_) => None,
        };
        let (countdown, ended, waiting) = (Countdown::new(now), Ended::default(), Vec::new());
        Draining { why, began: now, requested, deadline, spread, countdown, ended, waiting, watchdog }
    }

    /// One more request to stop. It moves the deadline only towards now: of two that ask for a stop, both get the
    /// nearer one. `usual` is the grace period of the settings.
    pub(super) fn sooner(&mut self, request: StopRequest, usual: Duration, drains: &mut Drains, now: Instant) {
        if let Some(grace) = self.demanded(&request, usual, now)
            && deadline_after(now, grace) < self.deadline.at()
        {
            self.move_deadline(&request.by, grace, drains, now);
        }
        if let Some(spread) = request.spread.filter(|spread| *spread < self.spread) {
            self.spread = spread;
            drains.stop_by(self.deadline, spread);
        }
        if let Some(reply) = request.reply {
            self.attend(reply, drains, now);
        }
    }

    /// The grace period that a further request demands. None: it is the same decision as the first one.
    fn demanded(&mut self, request: &StopRequest, usual: Duration, now: Instant) -> Option<Duration> {
        let first = self.requested;
        self.requested = first.or(Some(now));
        if request.is_plain() && first.is_some_and(|first| now.saturating_duration_since(first) < TOGETHER) {
            return None;
        }
        Some(match &request.by {
            Trigger::ConsoleEvent(_) | Trigger::Console | Trigger::Signal { .. } => match request.by.limit() {
                // When its window is closed, the system does not wait much longer.
                Some(limit) => limit,
                // A second request at the console demands the end.
                None if first.is_some() => Duration::ZERO,
                None => usual,
            },
            Trigger::ServiceManager(_) | Trigger::Admin { .. } | Trigger::Code | Trigger::Check => {
                request.grace.unwrap_or(usual)
            }
        })
    }

    /// Clients get this long from now.
    pub(super) fn move_deadline(&mut self, by: &Trigger, grace: Duration, drains: &mut Drains, now: Instant) {
        self.deadline = Deadline::after(now, grace);
        if let Some(watchdog) = &self.watchdog {
            watchdog.deadline_moved(drains.gone_by(self.deadline.at()));
        }
        let open = drains.stop_by(self.deadline, self.spread);
        drains.log_moved(by, grace, open);
        self.report(drains, now);
    }

    pub(super) fn drain(&self, drains: &Drains, now: Instant) -> Drain {
        drains.drain(self.why.to_string(), self.deadline.at(), now)
    }

    /// Reports progress to this client, now and, if it wants that, until the end.
    pub(super) fn attend(&mut self, reply: Reply, drains: &Drains, now: Instant) {
        let drain = self.drain(drains, now);
        if !reply.wait {
            reply.answer(Answer::Stopping(drain));
        } else if reply.report(Progress::Draining(drain)) {
            self.waiting.push(reply);
        }
    }

    pub(super) fn count_down(&mut self, drains: &Drains, now: Instant) {
        let is_logged = self.countdown.step(now);
        let drain = self.report(drains, now);
        if is_logged {
            drains.log_countdown(&drain);
        }
    }

    /// Reports to those who wait how it goes, and drops those that have disconnected.
    fn report(&mut self, drains: &Drains, now: Instant) -> Drain {
        let drain = self.drain(drains, now);
        self.waiting.retain(|reply| reply.report(Progress::Draining(drain.clone())));
        drain
    }

    /// A generation is gone.
    pub(super) fn add(&mut self, ended: Ended) {
        self.ended.add(ended);
    }

    /// All are gone.
    pub(super) fn end(self, now: Instant) -> End {
        let mut ended = self.ended;
        ended.drain.took = now.saturating_duration_since(self.began);
        let result = match self.why {
            Why::Requested(by) => {
                let Ended { drain, program, killed, held_up_by } = ended;
                Ok(Report { by, drain, program, killed, held_up_by })
            }
            Why::Failed(Error::Ended { reason, program: None }) => Err(Error::Ended { reason, program: ended.program }),
            Why::Failed(error) => Err(error),
        };
        End { result, waiting: self.waiting }
    }
}

/// What asked for it.
impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Requested(by) => by.fmt(formatter),
            Why::Failed(_) => formatter.write_str("its failure"),
        }
    }
}

impl End {
    /// Requests of the last moment: those to stop get the same answer as the others.
    pub(crate) fn adopt(&mut self, events: Receiver<Event>) {
        for event in events.try_iter() {
            match event {
                Event::Request { request, by, reply } => match requests::decode(request, by, reply) {
                    Some(Command::Stop(stop, _)) => self.waiting.extend(stop.reply),
                    Some(Command::Restart(restart)) => restart.cancel(),
                    // It hears nothing, which is an answer, too.
                    Some(Command::Ask { .. }) | None => {}
                },
                // A generation that was built in the last moment is dropped.
                Event::Stop { .. }
                | Event::Restart { .. }
                | Event::Pause { .. }
                | Event::Quiet { .. }
                | Event::HolderGone { .. }
                | Event::Prepared { .. }
                | Event::Built { .. }
                | Event::PortFailed { .. }
                | Event::Exited { .. }
                | Event::Finished { .. }
                | Event::Checked { .. }
                | Event::Unhealthy { .. }
                | Event::Signal { .. }
                | Event::Tick => {}
            }
        }
    }

    /// Answers those who waited for the end, once the port and the name are free.
    pub(crate) fn answer(&mut self) {
        let answer = match &self.result {
            Ok(report) => Answer::Stopped { report: report.wire() },
            Err(error) => Answer::Error(Refusal { code: ErrorCode::Failed, message: error.to_string() }),
        };
        for reply in self.waiting.drain(..) {
            reply.answer(answer.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_long_drain_hears_of_it_each_second_and_the_log_each_minute() {
        let began = Instant::now();
        let mut countdown = Countdown::new(began);
        // Each a little late, as ticks are.
        let logged: Vec<u64> = (1..=600)
            .filter(|&second| {
                let now = countdown.next + Duration::from_millis(1);
                assert_eq!(now.duration_since(began).as_secs(), second);
                countdown.step(now)
            })
            .collect();
        assert_eq!(logged[..6], [1, 2, 4, 8, 16, 32]);
        assert!(logged.len() < 20 && logged.windows(2).all(|pair| pair[1] - pair[0] <= 60), "{logged:?}");
    }
}
