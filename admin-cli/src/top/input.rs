//! What can happen to `top`, and the effects that it can request.

use std::time::{Duration, Instant};

use mastercontrol::protocol::{Connection, Entry, Status};

/// A key that was pressed.
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
    /// Ctrl-C: the terminal does not turn it into a signal.
    Interrupt,
}

/// Everything that can happen.
#[derive(Debug)]
pub(super) enum Input {
    Key(Key),
    /// The terminal has another size, or must be redrawn for another reason.
    Redraw,
    /// A request to end the program.
    Quit,
    /// The supervisors of this user.
    Listed(Result<Vec<Instance>, String>),
    /// The supervisor that is being watched, or why it does not answer.
    Looked(Result<Look, String>),
    /// A journal begins: that of a supervisor started meanwhile has nothing to do with the previous one.
    Begun(String),
    /// An event of the supervisor.
    Happened(Entry),
    /// The result of a command.
    Done(Result<String, String>),
}

/// An action to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    Quit,
    /// List the supervisors.
    List,
    /// Watch the supervisor with this name.
    Watch(String),
    /// Send it a command.
    Command(Command),
}

/// A command to the supervisor that is being watched.
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
    /// None: only its program knows its connections.
    pub(super) connections: Option<Vec<Connection>>,
}

/// The index that a key moves to in a list of this length.
pub(super) fn moved(key: Key, index: usize, length: usize) -> usize {
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
