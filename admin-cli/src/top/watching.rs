//! One supervisor that is being watched: what is known about it, and what a key does there.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mastercontrol::protocol::{Connection, Drain, Entry};
use mastercontrol::text::{Age, milliseconds};

use super::input::{Command, Key, Look, moved};
use crate::describe::holds_up;

/// How many looks the history keeps.
pub(super) const HISTORY: usize = 240;

/// How many events are kept.
const EVENTS: usize = 200;

/// How far one key press moves the deadline.
pub(super) const STEP: Duration = Duration::from_secs(10);

/// One supervisor.
#[derive(Debug)]
pub(super) struct Watching {
    pub(super) name: String,
    pub(super) look: Option<Look>,
    /// Why it no longer answers.
    pub(super) lost: Option<String>,
    pub(super) history: History,
    pub(super) order: Order,
    /// The connection that commands apply to.
    pub(super) selected: Option<u64>,
    pub(super) events: VecDeque<Entry>,
    /// When its journal began.
    journal: Option<String>,
    /// The longest time that the drain in progress was seen to have: its bar is full at this.
    whole: Option<(Option<u64>, u64)>,
}

/// The remaining time of a drain.
pub(super) struct Remaining {
    /// The fraction of the whole time, from 0 to 1.
    pub(super) part: f64,
    /// None: the drain has no deadline.
    pub(super) ms: Option<u64>,
}

impl Watching {
    pub(super) fn new(name: String) -> Watching {
        Watching {
            name,
            look: None,
            lost: None,
            history: History::default(),
            order: Order::HoldsUp,
            selected: None,
            events: VecDeque::new(),
            journal: None,
            whole: None,
        }
    }

    pub(super) fn update(&mut self, mut look: Look) {
        if let Some(connections) = &mut look.connections {
            self.order.sort(connections);
        }
        self.history.add(self.look.as_ref(), &look);
        self.whole = look.status.drain.as_ref().map(|drain| {
            let seen = self.whole.filter(|&(generation, _)| generation == drain.generation).map_or(0, |(_, seen)| seen);
            (drain.generation, seen.max(drain.remaining_ms.unwrap_or(0)))
        });
        let connections = look.connections.as_deref().unwrap_or_default();
        // The one below replaces one that is gone.
        let index = self.index().unwrap_or(0).min(connections.len().saturating_sub(1));
        let is_there = |id: &u64| connections.iter().any(|connection| connection.id == *id);
        self.selected = self.selected.filter(is_there).or_else(|| connections.get(index).map(|it| it.id));
        (self.look, self.lost) = (Some(look), None);
    }

    pub(super) fn begin_journal(&mut self, began: String) {
        if self.journal.as_ref() != Some(&began) {
            self.events.clear();
            self.journal = Some(began);
        }
    }

    pub(super) fn add(&mut self, entry: Entry) {
        self.events.push_back(entry);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// A command that must be confirmed, or why there is none for this key.
    pub(super) fn key(&mut self, key: Key) -> Option<Result<Command, &'static str>> {
        match key {
            Key::Char('o') => {
                self.order = self.order.next();
                if let Some(connections) = self.look.as_mut().and_then(|look| look.connections.as_mut()) {
                    self.order.sort(connections);
                }
                None
            }
            Key::Char('k') => {
                Some(self.selected.map(|id| Command::Close { id }).ok_or("there is no connection to close"))
            }
            Key::Char('+' | '=') => Some(self.moved_deadline(|remaining| remaining.saturating_add(STEP))),
            Key::Char('-') => Some(self.moved_deadline(|remaining| remaining.saturating_sub(STEP))),
            Key::Char('r') => Some(Ok(Command::Restart)),
            Key::Char('s') => Some(Ok(Command::Stop)),
            Key::Char(_) | Key::Enter | Key::Escape | Key::Interrupt => None,
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Home | Key::End => {
                let index = moved(key, self.index().unwrap_or(0), self.connections().len());
                self.selected = self.connections().get(index).map(|connection| connection.id);
                None
            }
        }
    }

    fn moved_deadline(&self, to: impl Fn(Duration) -> Duration) -> Result<Command, &'static str> {
        let drain = self.drain().ok_or("no drain is in progress, so there is no deadline to move")?;
        let remaining = drain.remaining_ms.ok_or("this drain has no deadline to move; `admin-cli grace` sets one")?;
        // In whole seconds, as displayed.
        Ok(Command::Grace(to(Duration::from_secs(remaining.div_ceil(1000)))))
    }

    pub(super) fn connections(&self) -> &[Connection] {
        self.look.as_ref().and_then(|look| look.connections.as_deref()).unwrap_or_default()
    }

    pub(super) fn connection(&self, id: u64) -> Option<&Connection> {
        self.connections().iter().find(|connection| connection.id == id)
    }

    /// The index of the selected connection.
    pub(super) fn index(&self) -> Option<usize> {
        self.connections().iter().position(|connection| Some(connection.id) == self.selected)
    }

    pub(super) fn drain(&self) -> Option<&Drain> {
        self.look.as_ref()?.status.drain.as_ref()
    }

    /// The remaining time of the drain.
    pub(super) fn remaining(&self, now: Instant) -> Option<Remaining> {
        let (look, drain) = (self.look.as_ref()?, self.drain()?);
        let since = milliseconds(now.saturating_duration_since(look.at));
        let ms = drain.remaining_ms.map(|ms| ms.saturating_sub(since));
        let whole = self.whole.map_or(0, |(_, whole)| whole).max(1);
        Some(Remaining { part: ms.map_or(1.0, |ms| ms as f64 / whole as f64), ms })
    }

    /// A problem with its answers. None: they arrive.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let old = |look: &Look| {
            let age = now.saturating_duration_since(look.at);
            (age >= Duration::from_secs(3))
                .then(|| format!("no answer for {}", Age(Duration::from_secs(age.as_secs()))))
        };
        self.lost.clone().or_else(|| self.look.as_ref().and_then(old))
    }
}

/// The history, one value per look, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) open: VecDeque<u64>,
    /// New connections per second.
    pub(super) rate: VecDeque<u64>,
}

impl History {
    fn add(&mut self, before: Option<&Look>, look: &Look) {
        let Some(counts) = look.status.connections else { return };
        let rate = before.and_then(|before| {
            let earlier = before.status.connections?;
            let time = look.at.saturating_duration_since(before.at).as_secs_f64();
            // A restarted supervisor counts from 0.
            let new = counts.total.checked_sub(earlier.total)?;
            (time > 0.0).then(|| (new as f64 / time).round() as u64)
        });
        push(&mut self.open, counts.now as u64);
        push(&mut self.rate, rate.unwrap_or(0));
    }
}

fn push(values: &mut VecDeque<u64>, value: u64) {
    values.push_back(value);
    if values.len() > HISTORY {
        values.pop_front();
    }
}

/// The order in which connections are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    HoldsUp,
    Age,
    Received,
    Sent,
    Peer,
}

impl Order {
    pub(super) fn name(self) -> &'static str {
        match self {
            Order::HoldsUp => "what holds up a drain first",
            Order::Age => "oldest first",
            Order::Received => "most received first",
            Order::Sent => "most sent first",
            Order::Peer => "by address",
        }
    }

    fn next(self) -> Order {
        match self {
            Order::HoldsUp => Order::Age,
            Order::Age => Order::Received,
            Order::Received => Order::Sent,
            Order::Sent => Order::Peer,
            Order::Peer => Order::HoldsUp,
        }
    }

    fn sort(self, connections: &mut [Connection]) {
        // Among equals, the oldest first.
        connections.sort_by_key(|connection| Reverse(connection.age_ms));
        match self {
            Order::HoldsUp => connections.sort_by_key(|connection| holds_up(&connection.activity)),
            Order::Age => {}
            Order::Received => connections.sort_by_key(|connection| Reverse(connection.received)),
            Order::Sent => connections.sort_by_key(|connection| Reverse(connection.sent)),
            Order::Peer => connections.sort_by_key(|connection| connection.peer),
        }
    }
}
