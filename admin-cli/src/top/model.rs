//! What `top` shows, and what a key or a message makes of it. Nothing here waits, or asks a supervisor for anything: what
//! is to be done is an [`Effect`].

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use mastercontrol::protocol::{Connection, Drain, Entry, Status};
use mastercontrol::text::{Age, Seconds, milliseconds};

use crate::describe::holds_up;

/// How many looks the history has.
pub(super) const HISTORY: usize = 240;

/// How many events are kept.
const EVENTS: usize = 200;

/// How far a key moves the deadline.
const STEP: Duration = Duration::from_secs(10);

/// What is pressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Escape,
    /// Ctrl-C: the terminal makes no signal of it.
    Interrupt,
}

/// All that can happen.
#[derive(Debug)]
pub(super) enum Input {
    Key(Key),
    /// The terminal has another size, or is to be drawn for another reason.
    Redraw,
    /// The program is asked to end.
    Quit,
    /// The supervisors of this user.
    Listed(Result<Vec<Instance>, String>),
    /// The supervisor that is watched, or why it does not answer.
    Looked(Result<Look, String>),
    /// A journal begins: that of a supervisor that was started meanwhile has nothing to do with the one before.
    Begun(String),
    /// An event of the supervisor.
    Happened(Entry),
    /// What became of a command.
    Done(Result<String, String>),
}

/// What has to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// To look for supervisors.
    List,
    /// To watch the supervisor with this name.
    Watch(String),
    /// To give it a command.
    Command(Command),
}

/// A command to the supervisor that is watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    Close { id: u64 },
    Grace(Duration),
    Restart,
    Stop,
}

/// A supervisor in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Instance {
    pub(super) name: String,
    /// Kind, address, process id and state.
    pub(super) cells: [String; 4],
}

/// A supervisor at one moment.
#[derive(Debug)]
pub(super) struct Look {
    pub(super) at: Instant,
    pub(super) status: Box<Status>,
    /// None: only its program knows them.
    pub(super) connections: Option<Vec<Connection>>,
}

/// All that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) screen: Screen,
    pub(super) dialog: Dialog,
    /// What became of a command, until the next key.
    pub(super) said: Option<Result<String, String>>,
    /// Whether Escape leads from a supervisor to the list.
    has_list: bool,
}

#[derive(Debug)]
pub(super) enum Screen {
    List(List),
    One(Box<Watching>),
}

/// What the next key is about, if not the screen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dialog {
    None,
    Help,
    /// Whether that is really wanted.
    Confirm(Command),
}

/// The list of supervisors.
#[derive(Debug, Default)]
pub(super) struct List {
    /// None: it has not been looked for any.
    pub(super) instances: Option<Result<Vec<Instance>, String>>,
    pub(super) selected: usize,
}

/// One supervisor.
#[derive(Debug)]
pub(super) struct Watching {
    pub(super) name: String,
    pub(super) look: Option<Look>,
    /// Why it does not answer any more.
    pub(super) lost: Option<String>,
    pub(super) history: History,
    pub(super) order: Order,
    /// The connection that a command is about.
    pub(super) selected: Option<u64>,
    pub(super) events: VecDeque<Entry>,
    /// When its journal began.
    journal: Option<String>,
    /// How long the drain in progress had at most, as far as that was seen: its bar is full then.
    whole: Option<(Option<u64>, u64)>,
}

/// How things have gone, a value for each look, the oldest first.
#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) open: VecDeque<u64>,
    /// New connections in a second.
    pub(super) rate: VecDeque<u64>,
}

/// In which order connections are shown.
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
        // Of those that are equal, the oldest first.
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

impl Model {
    /// The list of all, or one of them.
    pub(super) fn new(name: Option<String>) -> Model {
        let has_list = name.is_none();
        let screen = match name {
            Some(name) => Screen::One(Box::new(Watching::new(name))),
            None => Screen::List(List::default()),
        };
        Model { screen, dialog: Dialog::None, said: None, has_list }
    }

    /// What it shows from now on, and what has to be done.
    pub(super) fn update(&mut self, input: Input) -> Option<Effect> {
        match (input, &mut self.screen) {
            (Input::Key(key), _) => return self.key(key),
            (Input::Quit, _) => return Some(Effect::Quit),
            (Input::Done(done), _) => self.said = Some(done),
            (Input::Listed(instances), Screen::List(list)) => list.update(instances),
            (Input::Looked(Ok(look)), Screen::One(one)) => one.update(look),
            (Input::Looked(Err(why)), Screen::One(one)) => one.lost = Some(why),
            (Input::Begun(began), Screen::One(one)) => one.begin_journal(began),
            (Input::Happened(entry), Screen::One(one)) => one.add(entry),
            // It was on its way when the screen changed.
            (Input::Listed(_) | Input::Looked(_) | Input::Begun(_) | Input::Happened(_) | Input::Redraw, _) => {}
        }
        None
    }

    fn key(&mut self, key: Key) -> Option<Effect> {
        if key == Key::Interrupt {
            return Some(Effect::Quit);
        }
        self.said = None;
        match std::mem::replace(&mut self.dialog, Dialog::None) {
            Dialog::Confirm(command) => self.confirm(command, key),
            // Any key closes it.
            Dialog::Help => None,
            Dialog::None => match (&mut self.screen, key) {
                (_, Key::Char('?')) => {
                    self.dialog = Dialog::Help;
                    None
                }
                (_, Key::Char('q')) => Some(Effect::Quit),
                (Screen::List(list), Key::Enter) => {
                    let name = list.name()?.to_owned();
                    self.screen = Screen::One(Box::new(Watching::new(name.clone())));
                    Some(Effect::Watch(name))
                }
                (Screen::List(list), key) => {
                    list.key(key);
                    None
                }
                (Screen::One(_), Key::Escape) if self.has_list => {
                    self.screen = Screen::List(List::default());
                    Some(Effect::List)
                }
                (Screen::One(one), key) => {
                    match one.key(key) {
                        Some(Ok(command)) => self.dialog = Dialog::Confirm(command),
                        Some(Err(why)) => self.said = Some(Err(why.into())),
                        None => {}
                    }
                    None
                }
            },
        }
    }

    /// Nothing but `y` confirms, and Enter does not: it may have been meant for something else.
    fn confirm(&mut self, command: Command, key: Key) -> Option<Effect> {
        match (command, key) {
            (command, Key::Char('y' | 'Y')) => Some(Effect::Command(command)),
            // The same key once more moves it further.
            (Command::Grace(grace), Key::Char('+' | '=')) => {
                self.dialog = Dialog::Confirm(Command::Grace(grace.saturating_add(STEP)));
                None
            }
            (Command::Grace(grace), Key::Char('-')) => {
                self.dialog = Dialog::Confirm(Command::Grace(grace.saturating_sub(STEP)));
                None
            }
            _ => None,
        }
    }

    /// What is asked before a command is given.
    pub(super) fn question(&self, command: &Command) -> String {
        let Screen::One(one) = &self.screen else { return String::new() };
        let name = &one.name;
        match command {
            Command::Close { id } => match one.connection(*id) {
                Some(connection) => format!("Notify connection {id} from {}, and close it?", connection.peer),
                None => format!("Notify connection {id}, and close it?"),
            },
            Command::Grace(Duration::ZERO) => "Close the remaining connections now?".into(),
            Command::Grace(grace) => format!("Move the deadline of the drain to {} from now?", Seconds(*grace)),
            Command::Restart => format!("Restart the server of {name}?"),
            Command::Stop => format!("Stop {name}?"),
        }
    }
}

impl List {
    fn update(&mut self, instances: Result<Vec<Instance>, String>) {
        // The same one stays selected, wherever it is now.
        let name = self.name().map(str::to_owned);
        let position = |name: &str| instances.as_ref().ok()?.iter().position(|instance| instance.name == name);
        let length = instances.as_ref().map_or(0, Vec::len);
        let kept = name.as_deref().and_then(position);
        self.selected = kept.unwrap_or_else(|| self.selected.min(length.saturating_sub(1)));
        self.instances = Some(instances);
    }

    pub(super) fn all(&self) -> &[Instance] {
        match &self.instances {
            Some(Ok(instances)) => instances,
            Some(Err(_)) | None => &[],
        }
    }

    fn name(&self) -> Option<&str> {
        self.all().get(self.selected).map(|instance| instance.name.as_str())
    }

    fn key(&mut self, key: Key) {
        self.selected = moved(key, self.selected, self.all().len());
    }
}

/// The time of a drain that remains.
pub(super) struct Remaining {
    /// Which part of all of it, from 0 to 1.
    pub(super) part: f64,
    /// None: the drain has no deadline.
    pub(super) ms: Option<u64>,
}

impl Watching {
    fn new(name: String) -> Watching {
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

    fn update(&mut self, mut look: Look) {
        if let Some(connections) = &mut look.connections {
            self.order.sort(connections);
        }
        self.history.add(self.look.as_ref(), &look);
        self.whole = look.status.drain.as_ref().map(|drain| {
            let seen = self.whole.filter(|&(generation, _)| generation == drain.generation).map_or(0, |(_, seen)| seen);
            (drain.generation, seen.max(drain.remaining_ms.unwrap_or(0)))
        });
        let connections = look.connections.as_deref().unwrap_or_default();
        // The one below takes the place of one that is gone.
        let index = self.index().unwrap_or(0).min(connections.len().saturating_sub(1));
        let is_there = |id: &u64| connections.iter().any(|connection| connection.id == *id);
        self.selected = self.selected.filter(is_there).or_else(|| connections.get(index).map(|it| it.id));
        (self.look, self.lost) = (Some(look), None);
    }

    fn begin_journal(&mut self, began: String) {
        if self.journal.as_ref() != Some(&began) {
            self.events.clear();
            self.journal = Some(began);
        }
    }

    fn add(&mut self, entry: Entry) {
        self.events.push_back(entry);
        if self.events.len() > EVENTS {
            self.events.pop_front();
        }
    }

    /// A command that has to be confirmed, or why there is none for this key.
    fn key(&mut self, key: Key) -> Option<Result<Command, &'static str>> {
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
        // In whole seconds, as it is shown.
        Ok(Command::Grace(to(Duration::from_secs(remaining.div_ceil(1000)))))
    }

    pub(super) fn connections(&self) -> &[Connection] {
        self.look.as_ref().and_then(|look| look.connections.as_deref()).unwrap_or_default()
    }

    fn connection(&self, id: u64) -> Option<&Connection> {
        self.connections().iter().find(|connection| connection.id == id)
    }

    /// Where the selected connection is.
    pub(super) fn index(&self) -> Option<usize> {
        self.connections().iter().position(|connection| Some(connection.id) == self.selected)
    }

    pub(super) fn drain(&self) -> Option<&Drain> {
        self.look.as_ref()?.status.drain.as_ref()
    }

    /// How much of the time of the drain remains.
    pub(super) fn remaining(&self, now: Instant) -> Option<Remaining> {
        let (look, drain) = (self.look.as_ref()?, self.drain()?);
        let since = milliseconds(now.saturating_duration_since(look.at));
        let ms = drain.remaining_ms.map(|ms| ms.saturating_sub(since));
        let whole = self.whole.map_or(0, |(_, whole)| whole).max(1);
        Some(Remaining { part: ms.map_or(1.0, |ms| ms as f64 / whole as f64), ms })
    }

    /// What is to be said of its answers. None: they come.
    pub(super) fn trouble(&self, now: Instant) -> Option<String> {
        let old = |look: &Look| {
            let age = now.saturating_duration_since(look.at);
            (age >= Duration::from_secs(3))
                .then(|| format!("no answer for {}", Age(Duration::from_secs(age.as_secs()))))
        };
        self.lost.clone().or_else(|| self.look.as_ref().and_then(old))
    }
}

impl History {
    fn add(&mut self, before: Option<&Look>, look: &Look) {
        let Some(counts) = look.status.connections else { return };
        let rate = before.and_then(|before| {
            let earlier = before.status.connections?;
            let time = look.at.saturating_duration_since(before.at).as_secs_f64();
            // One that was started again counts from 0.
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

/// Where a key leads in a list of this length.
fn moved(key: Key, index: usize, length: usize) -> usize {
    const PAGE: usize = 10;
    let to = match key {
        Key::Up => index.saturating_sub(1),
        Key::Down => index + 1,
        Key::PageUp => index.saturating_sub(PAGE),
        Key::PageDown => index + PAGE,
        Key::Home => 0,
        Key::End => length,
        Key::Char(_) | Key::Enter | Key::Escape | Key::Interrupt => index,
    };
    to.min(length.saturating_sub(1))
}
