//! The drains of generations that no longer serve.

use std::time::{Duration, Instant};

use serde_json::json;
use worker::{ConnectionInfo, Counts, DrainReport, deadline_after};

use crate::event::Trigger;
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{Drain, MAX_NAMED};
use crate::server::deadline::Deadline;
use crate::server::{Ended, Failure, Watcher};
use crate::text::{self, Count, Seconds, limit_ms};
use crate::watchdog::OVERRUN;
use crate::wire;

use super::gone::Gone;
use super::live::Live;

/// A generation that no longer accepts connections.
#[derive(Debug)]
pub(super) struct Old {
    pub(super) live: Live,
    /// What requested its end.
    by: String,
    began: Instant,
    pub(super) deadline: Instant,
    overrun: Overrun,
}

/// What is done about a generation that overruns its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Overrun {
    /// Whatever hangs in it is given up.
    GiveUp,
    /// It has been given up, and is left behind if it still does not end.
    LeaveBehind,
    /// In a stop, the watchdog deals with it.
    Watchdog,
}

/// All draining generations, oldest first.
#[derive(Debug)]
pub(super) struct Drains {
    old: Vec<Old>,
    /// The counts of generations that are gone.
    past: Counts,
    /// How long after its deadline a generation may take to end before it is overdue.
    after_deadline: Duration,
    log: Journal,
}

impl Old {
    pub(super) fn drain(&self, now: Instant) -> Drain {
        drain_of([&self.live], Some(self.live.number), self.by.clone(), self.deadline, now)
    }

    /// When to act on an overrun, if the generation may take this long after its deadline.
    fn overdue_at(&self, after_deadline: Duration) -> Option<Instant> {
        match self.overrun {
            Overrun::GiveUp => Some(self.deadline + after_deadline + OVERRUN),
            Overrun::LeaveBehind => Some(self.deadline + OVERRUN),
            Overrun::Watchdog => None,
        }
    }
}

impl Drains {
    pub(super) fn new(after_deadline: Duration, log: Journal) -> Drains {
        Drains { old: Vec::new(), past: Counts::default(), after_deadline, log }
    }

    /// By when a generation with this drain deadline is gone, unless something hangs.
    pub(super) fn gone_by(&self, deadline: Instant) -> Instant {
        deadline + self.after_deadline
    }

    pub(super) fn is_empty(&self) -> bool {
        self.old.is_empty()
    }

    /// Adds a generation that drains from now on.
    pub(super) fn push(&mut self, live: Live, by: String, deadline: Instant, now: Instant) {
        self.old.push(Old { live, by, began: now, deadline, overrun: Overrun::GiveUp });
    }

    /// Drains this generation, because another one replaces it.
    pub(super) fn retire(&mut self, live: Live, by: &Trigger, grace: Duration, spread: Duration, now: Instant) {
        let (generation, open, deadline) = (live.number, live.open(), Deadline::after(now, grace));
        live.generation.retire_by(deadline, spread);
        self.push(live, by.to_string(), deadline.at(), now);
        let message = format!(
            "generation {generation} draining: {}grace period {}{}",
            connected(open),
            Seconds(grace),
            over(spread)
        );
        let fields = [
            ("generation", generation.into()),
            ("connected", open.into()),
            ("grace_ms", limit_ms(grace).into()),
            ("spread_ms", limit_ms(spread).into()),
        ];
        self.log.line(Level::Info, "retiring", message, fields);
    }

    /// Stops this generation, which was built too late: a stop is under way.
    pub(super) fn discard(&mut self, live: Live, by: String, deadline: Deadline, now: Instant) {
        live.generation.stop_by(deadline, Duration::ZERO);
        self.old.push(Old { live, by, began: now, deadline: deadline.at(), overrun: Overrun::Watchdog });
    }

    /// Drains this generation, which has failed.
    pub(super) fn crash(&mut self, live: Live, failure: &Failure, grace: Duration, now: Instant) {
        let (level, event) = if failure.clean { (Level::Info, "ended") } else { (Level::Error, "crashed") };
        let message = format!("generation {} {event}: {}", live.number, failure.reason);
        let fields = [
            ("generation", live.number.into()),
            ("reason", failure.reason.as_str().into()),
            ("last_output", json!(failure.wrote)),
        ];
        self.log.line(level, event, message, fields);
        self.push(live, "its failure".into(), deadline_after(now, grace), now);
    }

    /// The drain of this generation, if it is not over.
    pub(super) fn of(&self, generation: u64) -> Option<&Old> {
        self.old.iter().find(|old| old.live.number == generation)
    }

    pub(super) fn first(&self) -> Option<&Old> {
        self.old.first()
    }

    pub(super) fn live(&self) -> impl Iterator<Item = &Live> {
        self.old.iter().map(|old| &old.live)
    }

    /// How many connections are open. None: only programs know.
    pub(super) fn open(&self) -> Option<usize> {
        self.live().filter_map(Live::open).reduce(|some, more| some + more)
    }

    /// The connection counts of all generations, including those that serve.
    pub(super) fn counts<'a>(&'a self, serving: impl Iterator<Item = &'a Live>) -> Counts {
        let mut counts = self.past;
        self.live().chain(serving).for_each(|live| add(&mut counts, live.counts()));
        counts
    }

    /// All drains as one.
    pub(super) fn drain(&self, by: String, deadline: Instant, now: Instant) -> Drain {
        drain_of(self.live(), None, by, deadline, now)
    }

    pub(super) fn each(&self, now: Instant) -> Vec<Drain> {
        self.old.iter().map(|old| old.drain(now)).collect()
    }

    /// Moves the deadline of all old generations to this long from now.
    pub(super) fn move_deadline(&mut self, by: &Trigger, grace: Duration, now: Instant) {
        let deadline = Deadline::after(now, grace);
        for old in &mut self.old {
            old.deadline = deadline.at();
            if old.overrun == Overrun::LeaveBehind {
                old.overrun = Overrun::GiveUp;
            }
            old.live.generation.move_deadline(deadline);
        }
        self.log_moved(by, grace, self.open());
    }

    /// The supervisor ends: stops all generations, even those with a later deadline. Returns how many connections were
    /// open before, because some end at once.
    pub(super) fn stop_by(&mut self, deadline: Deadline, spread: Duration) -> Option<usize> {
        let open = self.open();
        for old in &mut self.old {
            (old.deadline, old.overrun) = (deadline.at(), Overrun::Watchdog);
            old.live.generation.stop_by(deadline, spread);
        }
        open
    }

    /// Describes what hangs, at any time and on any thread.
    pub(super) fn what_hangs(&self) -> impl Fn() -> String + Send + Sync + 'static {
        let watchers = self.live().map(watcher).collect::<Vec<_>>();
        move || hangs(watchers.iter().map(|watcher| watcher.as_ref().map(|connections| connections())))
    }

    /// When to act on the next overrun.
    pub(super) fn due(&self) -> Option<Instant> {
        self.old.iter().filter_map(|old| old.overdue_at(self.after_deadline)).min()
    }

    /// This generation reports that it is finished.
    pub(super) fn finished(&mut self, build: u64, now: Instant) -> Option<Gone> {
        let Old { live, by, began, .. } = self.remove(|old| old.live.build == build)?;
        add(&mut self.past, Counts { now: 0, ..live.counts() });
        // Its failure has been logged before.
        let ended = live.generation.end();
        let mut ended = ended.unwrap_or_else(|error| Ended { drain: error.drain, ..Ended::default() });
        ended.drain.took = now.saturating_duration_since(began);
        Some(Gone { generation: live.number, by, ended, hangs: None })
    }

    /// Gives up whatever hangs in overdue generations. Returns one that still does not end, and is left behind.
    pub(super) fn give_up_overdue(&mut self, now: Instant) -> Option<Gone> {
        let after_deadline = self.after_deadline;
        let is_overdue = |old: &Old| old.overdue_at(after_deadline).is_some_and(|at| at <= now);
        for old in self.old.iter_mut().filter(|old| old.overrun == Overrun::GiveUp && is_overdue(old)) {
            old.live.generation.give_up("it has overrun its deadline");
            (old.overrun, old.deadline) = (Overrun::LeaveBehind, now);
        }
        let Old { live, by, .. } = self.remove(is_overdue)?;
        add(&mut self.past, Counts { now: 0, ..live.counts() });
        let connections = watcher(&live).map(|connections| connections());
        let stuck = connections.clone().unwrap_or_default();
        let drain = DrainReport { forced: stuck.clone(), stuck, ..DrainReport::default() };
        let ended = Ended { drain, ..Ended::default() };
        Some(Gone { generation: live.number, by, ended, hangs: Some(hangs([connections])) })
    }

    fn remove(&mut self, is_meant: impl Fn(&Old) -> bool) -> Option<Old> {
        let at = self.old.iter().position(is_meant)?;
        Some(self.old.remove(at))
    }

    pub(super) fn log_stop(&self, by: &Trigger, open: Option<usize>, grace: Duration, spread: Duration) {
        let most = if by.limit() == Some(grace) { ", the longest that the system leaves" } else { "" };
        let key = by.key().filter(|_| open != Some(0) && !grace.is_zero());
        let force = key.map(|key| format!("; press {key} again to force")).unwrap_or_default();
        let (connected, over) = (connected(open), over(spread));
        let message = format!("{by}: stopping, {connected}grace period {}{most}{over}{force}", Seconds(grace));
        let fields = [
            ("by", by.to_string().into()),
            ("connected", open.into()),
            ("grace_ms", limit_ms(grace).into()),
            ("spread_ms", limit_ms(spread).into()),
        ];
        self.log.line(Level::Info, "stopping", message, fields);
    }

    pub(super) fn log_moved(&self, by: &Trigger, grace: Duration, open: Option<usize>) {
        let open = open.map(|open| Count(open, "client"));
        let still = open.map(|open| format!(", {open} still connected")).unwrap_or_default();
        let message = match (open, limit_ms(grace)) {
            (Some(open), Some(0)) => format!("{by}: closing {open} now"),
            (None, Some(0)) => format!("{by}: killing the remaining processes of the program"),
            (_, Some(_)) => format!("{by}: the grace period ends in {}{still}", Seconds(grace)),
            (_, None) => format!("{by}: the grace period has no end any more{still}"),
        };
        let fields = [("by", by.to_string().into()), ("grace_ms", limit_ms(grace).into())];
        self.log.line(Level::Info, "deadline_moved", message, fields);
    }

    /// Logs the progress of a drain, if there is something to wait for.
    pub(super) fn log_countdown(&self, drain: &Drain) {
        if drain.open > 0 {
            let fields = [("open", drain.open.into()), ("remaining_ms", drain.remaining_ms.into())];
            self.log.line(Level::Info, "draining", text::countdown(drain), fields);
        }
    }
}

/// How many clients there are, if known, as the beginning of a message.
fn connected(open: Option<usize>) -> String {
    open.map(|open| format!("{}, ", Count(open, "client"))).unwrap_or_default()
}

/// The spread, if there is one, as a part of a message.
fn over(spread: Duration) -> String {
    if spread.is_zero() { String::new() } else { format!(", spread over {}", Seconds(spread)) }
}

fn drain_of<'a>(
    all: impl IntoIterator<Item = &'a Live>,
    generation: Option<u64>,
    by: String,
    deadline: Instant,
    now: Instant,
) -> Drain {
    let (mut connections, mut program_connections) = (Vec::new(), Vec::new());
    for live in all {
        connections.extend(live.connections());
        program_connections.extend(live.seen());
    }
    let open = connections.len() + program_connections.len();
    connections.truncate(MAX_NAMED);
    program_connections.truncate(MAX_NAMED);
    let remaining_ms = limit_ms(deadline.saturating_duration_since(now));
    Drain { generation, by, open, remaining_ms, connections, program_connections }
}

/// Lists the connections that may hang. None for a program: there, a process hangs.
fn watcher(live: &Live) -> Option<Watcher> {
    let clients = live.generation.clients().filter(|_| live.program.is_none());
    clients.map(|clients| clients.watcher())
}

/// Describes what hangs in generations that do not end, by their connections if these are known.
fn hangs(generations: impl IntoIterator<Item = Option<Vec<ConnectionInfo>>>) -> String {
    let Some(connections) = generations.into_iter().collect::<Option<Vec<_>>>() else {
        return "a process of the program does not end although it was killed".into();
    };
    let connections: Vec<_> = connections.into_iter().flatten().collect();
    if connections.is_empty() {
        return "no connection remains, but a server thread does not end".into();
    }
    let named: Vec<_> =
        connections.iter().take(MAX_NAMED).map(|it| text::describe(&wire::connection(it, None, true))).collect();
    let more = connections.len() - named.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{}{more}", named.join("; "))
}

fn add(counts: &mut Counts, more: Counts) {
    let Counts { now, total, refused, notified, disconnected, closed, forced } = more;
    counts.now += now;
    counts.total += total;
    counts.refused += refused;
    counts.notified += notified;
    counts.disconnected += disconnected;
    counts.closed += closed;
    counts.forced += forced;
}
