//! The stop of the supervisor: all generations drain, and waiting clients get progress reports.

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

/// How often waiting clients get a progress report of a drain.
pub(super) const COUNTDOWN: Duration = Duration::from_secs(1);

/// The longest time between two log lines of a drain.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// When progress of a drain is reported: to waiting clients each second. In the log that would be a line a second for
/// as long as the drain lasts, so there the intervals double.
#[derive(Debug, Clone, Copy)]
pub(super) struct Countdown {
    pub(super) next: Instant,
    /// When the next report is logged, and the interval after that.
    log: Instant,
    pause: Duration,
}

impl Countdown {
    /// Begins a second from now, and not at once: most clients disconnect before.
    pub(super) fn new(now: Instant) -> Countdown {
        Countdown { next: now + COUNTDOWN, log: now, pause: COUNTDOWN }
    }

    /// Schedules the next report a second from now. Returns whether this one is logged, too.
    pub(super) fn step(&mut self, now: Instant) -> bool {
        self.next = now + COUNTDOWN;
        let is_logged = self.log <= now;
        if is_logged {
            // Half a step of tolerance, because steps are not exact.
            self.log = now + self.pause - COUNTDOWN / 2;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
        is_logged
    }
}

/// A plain stop request within this time after the first one is the same decision, arriving twice: a service manager
/// sends a SIGHUP along with its signal, and `timeout` signals its child and then the group.
pub(super) const TOGETHER: Duration = Duration::from_millis(500);

/// A stop under way.
#[derive(Debug)]
pub(super) struct Draining {
    pub(super) why: Why,
    began: Instant,
    /// When it was first requested. None: it was not.
    requested: Option<Instant>,
    pub(super) deadline: Deadline,
    /// The time over which clients are let go.
    spread: Duration,
    pub(super) countdown: Countdown,
    /// What became of the generations that are gone.
    ended: Ended,
    waiting: Vec<Reply>,
    /// Ends the process if the stop overruns its deadline.
    watchdog: Option<Watchdog>,
}

/// Why the supervisor ends.
#[derive(Debug)]
pub(super) enum Why {
    Requested(Trigger),
    Failed(Error),
}

/// The end of the supervisor, and the clients that have not been told yet.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) result: Result<Report, Error>,
    waiting: Vec<Reply>,
}

impl Draining {
    /// Begins to drain all of these, watched by the watchdog from now on.
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

    /// Handles a further stop request. It can only shorten the stop: if two requests ask for one, both get the nearer
    /// deadline. `usual` is the grace period of the settings.
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
            self.keep_informed(reply, drains, now);
        }
    }

    /// The grace period that a further request demands. None: it is the same decision as the first request.
    fn demanded(&mut self, request: &StopRequest, usual: Duration, now: Instant) -> Option<Duration> {
        let first = self.requested;
        self.requested = first.or(Some(now));
        if request.is_plain() && first.is_some_and(|first| now.saturating_duration_since(first) < TOGETHER) {
            return None;
        }
        Some(match &request.by {
            Trigger::ConsoleEvent(_) | Trigger::Console | Trigger::Signal { .. } => match request.by.limit() {
                // When the console window is closed, the system does not wait much longer.
                Some(limit) => limit,
                // A second such request demands an immediate end.
                None if first.is_some() => Duration::ZERO,
                None => usual,
            },
            Trigger::ServiceManager(_) | Trigger::Admin { .. } | Trigger::Code | Trigger::Check => {
                request.grace.unwrap_or(usual)
            }
        })
    }

    /// Moves the deadline to this long from now.
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

    /// Reports progress to this client: now and, if it waits, until the end.
    pub(super) fn keep_informed(&mut self, reply: Reply, drains: &Drains, now: Instant) {
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

    /// Reports progress to waiting clients, and drops those that have disconnected.
    fn report(&mut self, drains: &Drains, now: Instant) -> Drain {
        let drain = self.drain(drains, now);
        self.waiting.retain(|reply| reply.report(Progress::Draining(drain.clone())));
        drain
    }

    /// A generation is gone.
    pub(super) fn add(&mut self, ended: Ended) {
        self.ended.add(ended);
    }

    /// All generations are gone.
    pub(super) fn end(self, now: Instant) -> End {
        let mut ended = self.ended;
        ended.drain.took = now.saturating_duration_since(self.began);
        let result = match self.why {
            Why::Requested(by) => {
                let Ended { drain, program, killed, held_up_by } = ended;
                Ok(Report { by, drain, program, killed, held_up_by })
            }
            Why::Failed(error) => Err(error),
        };
        End { result, waiting: self.waiting }
    }
}

/// What asked for the stop.
impl fmt::Display for Why {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::Requested(by) => by.fmt(formatter),
            Why::Failed(_) => formatter.write_str("its failure"),
        }
    }
}

impl End {
    /// Handles requests of the last moment: clients that asked for a stop get the same answer as the others.
    pub(crate) fn adopt(&mut self, events: Receiver<Event>) {
        for event in events.try_iter() {
            match event {
                Event::Request { request, by, reply } => match requests::decode(request, by, reply) {
                    Some(Command::Stop(stop, _)) => self.waiting.extend(stop.reply),
                    Some(Command::Restart(restart)) => restart.cancel(),
                    // These get no answer, which is an answer, too.
                    Some(Command::Ask { .. }) | None => {}
                },
                // A generation that was built at the last moment is dropped.
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

    /// Answers the clients that waited for the end, once the port and the name are free.
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
        // Each step is a little late, as ticks are.
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
