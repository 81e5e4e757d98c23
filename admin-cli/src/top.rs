//! `top`: the display, and the loop around it, which waits only for inputs.

mod feeds;
mod input;
mod list;
mod model;
#[cfg(test)]
mod tests;
mod view;
mod watching;

use std::io::{self, IsTerminal};
use std::panic;
use std::process;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use mastercontrol::Exit;
use mastercontrol::text::Reason;
use ratatui::DefaultTerminal;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;

use crate::failure::Failure;
use crate::found::{Chosen, named};
use feeds::Feed;
use input::{Effect, Input};
use model::Model;
use view::View;

/// How often it is redrawn although nothing happens, because the times shown change.
const TICK: Duration = Duration::from_secs(1);

/// Shows one supervisor, or the list of all, until the user quits.
pub(crate) fn run(chosen: Option<Chosen>) -> Result<Exit, Failure> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        let message = "top needs a terminal; `status`, `connections` and `events --follow` print what it shows";
        return Err(Failure::new(Exit::Usage, message));
    }
    let failed = |error: io::Error| Failure::new(Exit::Failed, format!("the terminal failed: {}", Reason(&error)));
    let mut terminal = Terminal::take().map_err(failed)?;
    let done = show(&mut terminal.0, chosen);
    drop(terminal);
    done.map_err(failed).map(|()| Exit::Done)
}

fn show(terminal: &mut DefaultTerminal, chosen: Option<Chosen>) -> io::Result<()> {
    let (inputs, arrive) = mpsc::channel();
    feeds::signals(inputs.clone())?;
    feeds::keys(inputs.clone());
    let mut model = Model::new(chosen.as_ref().map(|chosen| chosen.label.clone()));
    let mut screens = 0;
    let mut feed = match &chosen {
        Some(chosen) => Feed::watch(screens, inputs.clone(), chosen),
        None => Feed::list(screens, inputs.clone()),
    };
    let view = View { colours: std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) };
    loop {
        terminal.draw(|frame| view.draw(frame, &model, Instant::now()))?;
        let first = match arrive.recv_timeout(TICK) {
            Ok(first) => first,
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => continue,
        };
        // Drawn once for many inputs, not for each.
        for (number, input) in std::iter::once(first).chain(arrive.try_iter()) {
            if !feed.is_for(number) {
                continue;
            }
            let effect = model.update(input);
            if matches!(effect, Some(Effect::Watch(_) | Effect::List)) {
                screens += 1;
            }
            match effect {
                None => {}
                Some(Effect::Quit) => return Ok(()),
                Some(Effect::List) => feed = Feed::list(screens, inputs.clone()),
                Some(Effect::Watch(name)) => {
                    match name.parse().map_err(drop).and_then(|name| named(&name).map_err(drop)) {
                        Ok(chosen) => feed = Feed::watch(screens, inputs.clone(), &chosen),
                        Err(()) => drop(model.update(Input::Looked(Err("it cannot be found any more".into())))),
                    }
                }
                Some(Effect::Command(command)) => feed.command(command),
            }
        }
    }
}

/// The terminal; dropping this restores it.
struct Terminal(DefaultTerminal);

impl Terminal {
    fn take() -> io::Result<Terminal> {
        let terminal = ratatui::try_init()?;
        // ratatui's own hook restores the terminal. A panic of any thread then ends the program, because anything it
        // still drew would end up in the shell.
        let hook = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            let _ = execute!(io::stdout(), Show);
            hook(panic);
            process::exit(Exit::Failed as i32);
        }));
        Ok(Terminal(terminal))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A terminal that is gone has nothing to restore.
        let _ = self.0.show_cursor();
        let _ = ratatui::try_restore();
    }
}
