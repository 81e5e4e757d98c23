//! What `top` shows, and how a key or a message changes it. Nothing here waits or asks a supervisor for anything: every
//! action is returned as an [`Effect`].

use std::time::Duration;

use mastercontrol::text::Seconds;

use super::input::{Command, Effect, Input, Key};
use super::list::List;
use super::watching::{STEP, Watching};

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Model {
    pub(super) screen: Screen,
    pub(super) dialog: Dialog,
    /// The result of a command, until the next key.
    pub(super) said: Option<Result<String, String>>,
    /// Whether Escape leads from a supervisor back to the list.
    has_list: bool,
}

#[derive(Debug)]
pub(super) enum Screen {
    List(List),
    One(Box<Watching>),
}

/// What the next key applies to, if not to the screen.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Dialog {
    None,
    Help,
    /// Asks for confirmation of a command.
    Confirm(Command),
}

impl Model {
    /// Shows the list of all supervisors, or one of them.
    pub(super) fn new(name: Option<String>) -> Model {
        let has_list = name.is_none();
        let screen = match name {
            Some(name) => Screen::One(Box::new(Watching::new(name))),
            None => Screen::List(List::default()),
        };
        Model { screen, dialog: Dialog::None, said: None, has_list }
    }

    /// Updates what is shown, and returns the action to be carried out.
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
            // It was in transit when the screen changed.
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

    /// Only `y` confirms. Enter does not, because it may have been meant for something else.
    fn confirm(&mut self, command: Command, key: Key) -> Option<Effect> {
        match (command, key) {
            (command, Key::Char('y' | 'Y')) => Some(Effect::Command(command)),
            // The same key again moves the deadline further.
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

    /// The question asked before a command is sent.
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
