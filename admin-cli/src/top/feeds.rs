//! The sources of `top`'s inputs: threads that may wait as long as they like.

use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol::client::{self, AskError, Patience};
use mastercontrol::instance::InstancePaths;
use mastercontrol::protocol::{Answer, Connection, Progress, Request, Response};
use mastercontrol::text::{change, describe_closed, milliseconds};
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::input::{Command, Input, Instance, Key, Look};
use crate::describe::{describe_drain, describe_report};
use crate::found::{Chosen, find};

/// How often to look.
const EVERY: Duration = Duration::from_secs(1);

/// After this time a follower of the events asks again, so that one that is no longer needed ends even if nothing
/// happens.
const ASK_AGAIN: Duration = Duration::from_secs(20);

/// Inputs in transit, each with the number of the screen that it is for. None: for any screen.
pub(super) type Inputs = Sender<(Option<u64>, Input)>;

/// A subscription to one supervisor or to the list. Dropping it ends its threads.
#[derive(Debug)]
pub(super) struct Feed {
    number: u64,
    inputs: Inputs,
    /// Makes it look at once.
    wake: Sender<()>,
    paths: Option<InstancePaths>,
    _alive: Arc<()>,
}

impl Feed {
    /// Lists the supervisors of this user repeatedly.
    pub(super) fn list(number: u64, inputs: Inputs) -> Feed {
        let (wake, woken) = mpsc::channel();
        let looks = inputs.clone();
        spawn("list", move || {
            repeat(&woken, || {
                let found = find().map(|found| found.iter().map(instance).collect()).map_err(|failure| failure.message);
                looks.send((Some(number), Input::Listed(found))).is_ok()
            });
        });
        Feed { number, inputs, wake, paths: None, _alive: Arc::new(()) }
    }

    /// Looks at one supervisor repeatedly, and follows its events.
    pub(super) fn watch(number: u64, inputs: Inputs, chosen: &Chosen) -> Feed {
        let (wake, woken) = mpsc::channel();
        let alive = Arc::new(());
        let (looks, paths) = (inputs.clone(), chosen.paths.clone());
        spawn("look", move || {
            repeat(&woken, || {
                looks.send((Some(number), Input::Looked(look(&paths).map_err(|error| why(&error))))).is_ok()
            });
        });
        let (events, paths, needed) = (inputs.clone(), chosen.paths.clone(), Arc::downgrade(&alive));
        spawn("events", move || follow(&paths, &needed, |input| events.send((Some(number), input)).is_ok()));
        Feed { number, inputs, wake, paths: Some(chosen.paths.clone()), _alive: alive }
    }

    /// Whether an input is for the screen of this feed.
    pub(super) fn is_for(&self, number: Option<u64>) -> bool {
        number.is_none_or(|number| number == self.number)
    }

    /// Sends a command to the supervisor that is being watched.
    pub(super) fn command(&self, command: Command) {
        let Some(paths) = self.paths.clone() else { return };
        let (inputs, number, wake) = (self.inputs.clone(), self.number, self.wake.clone());
        spawn("command", move || {
            let done = carry_out(&paths, &command);
            // The screen may have changed meanwhile, or the program may be ending.
            let _ = inputs.send((Some(number), Input::Done(done)));
            let _ = wake.send(());
        });
    }
}

/// Spawns a detached thread. If the system has none, the screen shows for how long there has been no answer.
fn spawn(name: &str, run: impl FnOnce() + Send + 'static) {
    let _ = thread::Builder::new().name(name.into()).spawn(run);
}

/// Looks at regular intervals, and when woken, until it is no longer needed.
fn repeat(woken: &Receiver<()>, mut look: impl FnMut() -> bool) {
    while look() {
        if woken.recv_timeout(EVERY) == Err(RecvTimeoutError::Disconnected) {
            return;
        }
    }
}

fn instance(found: &crate::found::Found) -> Instance {
    let [name, kind, address, pid, state] = found.row();
    Instance { name, cells: [kind, address, pid, state] }
}

fn why(error: &AskError) -> String {
    match error {
        AskError::NotRunning => "it is not running any more".into(),
        error => error.to_string(),
    }
}

fn look(paths: &InstancePaths) -> Result<Look, AskError> {
    let status = match client::ask(paths, Request::Status {}, Patience::short(), |_| {})? {
        Answer::Status(status) => status,
        answer => return Err(unexpected(answer)),
    };
    if status.connections.is_none() {
        // Its program accepts the connections. Looking for them every second would cost too much.
        return Ok(Look { at: Instant::now(), status, connections: None });
    }
    let mut connections: Vec<Connection> = Vec::new();
    let answer = client::ask(paths, Request::Connections {}, Patience::short(), |progress| {
        if let Progress::Connections { connections: more } = progress {
            connections.extend(more);
        }
    })?;
    let connections = match answer {
        Answer::Connections { .. } => Some(connections),
        answer => return Err(unexpected(answer)),
    };
    Ok(Look { at: Instant::now(), status, connections })
}

/// A refusal, or the answer to another question.
fn unexpected(answer: Answer) -> AskError {
    match answer {
        Answer::Error(refusal) => AskError::Refused(refusal),
        answer => AskError::unexpected(&answer),
    }
}

/// Follows the events as long as they are needed, also across restarts of the supervisor.
fn follow(paths: &InstancePaths, needed: &Weak<()>, mut send: impl FnMut(Input) -> bool) {
    // The number of the last event, and when the journal began that it belongs to.
    let (mut last, mut journal) = (None, None);
    while needed.strong_count() > 0 {
        let patience = Patience { whole: Some(ASK_AGAIN), ..Patience::short() };
        let heard = client::listen(paths, Request::Events { since: last, follow: true }, patience, |response| {
            let input = match response {
                Response::Entry(entry) => {
                    last = Some(entry.seq);
                    Input::Happened(entry)
                }
                Response::Progress(Progress::Journal { began, .. }) => {
                    let is_another = journal.replace(began.clone()).is_some_and(|before| before != began);
                    // The number says nothing about this journal, whose first events may have been left out.
                    if is_another && last.take().is_some() {
                        return ControlFlow::Break(Next::AskAgain);
                    }
                    Input::Begun(began)
                }
                Response::Progress(_) => return ControlFlow::Continue(()),
                Response::Answer(_) => return ControlFlow::Break(Next::Wait),
            };
            if send(input) { ControlFlow::Continue(()) } else { ControlFlow::Break(Next::Wait) }
        });
        if !matches!(heard, Ok(Next::AskAgain) | Err(AskError::GaveUp)) {
            thread::sleep(EVERY);
        }
    }
}

/// What a follower does when it has heard enough.
enum Next {
    AskAgain,
    Wait,
}

/// The result of a command, or why it was not carried out.
fn carry_out(paths: &InstancePaths, command: &Command) -> Result<String, String> {
    let request = match command {
        Command::Close { id } => Request::Close { id: *id, grace_ms: None },
        Command::Grace(grace) => Request::Grace { grace_ms: milliseconds(*grace) },
        Command::Restart => Request::Restart { grace_ms: None, spread_ms: None, wait: true },
        Command::Stop => Request::Stop { grace_ms: None, spread_ms: None, delay_ms: None, wait: true },
    };
    let patience = Patience { whole: None, ..Patience::short() };
    match client::ask(paths, request, patience, |_| {}).map_err(|error| why(&error))? {
        Answer::Closed { id, outcome } => Ok(describe_closed(id, &outcome)),
        Answer::Moved { drains } => Ok(drains.first().map(describe_drain).unwrap_or_default()),
        Answer::Restarted { generation, changes, .. } => {
            let changes: Vec<_> = changes.iter().flatten().map(change).collect();
            let changed = if changes.is_empty() { String::new() } else { format!("; changed: {}", changes.join(", ")) };
            Ok(format!("restarted: generation {generation} is serving{changed}"))
        }
        Answer::Stopped { report } => Ok(describe_report(&report)),
        // It has no thread left to wait with.
        Answer::Restarting { .. } => Ok("restarting".into()),
        Answer::Stopping(drain) => Ok(describe_drain(&drain)),
        answer => Err(unexpected(answer).to_string()),
    }
}

/// Reads keys until the terminal is gone.
pub(super) fn keys(inputs: Inputs) {
    spawn("keys", move || {
        loop {
            let input = match event::read() {
                Ok(Event::Key(key)) => match understand(key) {
                    Some(key) => Input::Key(key),
                    None => continue,
                },
                Ok(Event::Resize(..)) => Input::Redraw,
                Ok(_) => continue,
                // The terminal is gone.
                Err(_) => Input::Quit,
            };
            let is_last = matches!(input, Input::Quit);
            if inputs.send((None, input)).is_err() || is_last {
                return;
            }
        }
    });
}

fn understand(key: KeyEvent) -> Option<Key> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    Some(match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Interrupt,
        KeyCode::Char(_) if key.modifiers.intersects(KeyModifiers::CONTROL | KeyModifiers::ALT) => return None,
        KeyCode::Char(letter) => Key::Char(letter),
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::PageUp => Key::PageUp,
        KeyCode::PageDown => Key::PageDown,
        KeyCode::Home => Key::Home,
        KeyCode::End => Key::End,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        _ => return None,
    })
}

/// Signals that end the program, after the terminal has been restored.
#[cfg(unix)]
pub(super) fn signals(inputs: Inputs) -> io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
    let mut signals = signal_hook::iterator::Signals::new([SIGHUP, SIGINT, SIGQUIT, SIGTERM])?;
    spawn("signals", move || {
        for _ in signals.forever() {
            if inputs.send((None, Input::Quit)).is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// On Windows the console is gone when it ends programs.
#[cfg(windows)]
pub(super) fn signals(_inputs: Inputs) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;
    use std::io::{BufRead, BufReader, Write};
    use std::os::unix::fs::DirBuilderExt;
    use std::os::unix::net::UnixListener;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_first_events_of_a_supervisor_that_was_started_again_are_followed_however_many_it_has() {
        let directory = std::env::temp_dir().join(format!("mastercontrol-top-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&directory).unwrap();
        let socket = directory.join("x.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let serve = move |began: &str, events: u64| {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = String::new();
            BufReader::new(&client).read_line(&mut request).unwrap();
            let request: Value = serde_json::from_str(&request).unwrap();
            let next = request["since"].as_u64().unwrap_or(0) + 1;
            writeln!(client, "{}", json!({ "event": "journal", "began": began, "next": next, "missed": 0 })).unwrap();
            for seq in next..=events {
                let entry = json!({ "seq": seq, "time": began, "level": "info", "event": "x", "message": began });
                // It may have heard enough.
                let _ = writeln!(client, "{entry}");
            }
        };
        let supervisors = thread::spawn(move || {
            serve("first", 2);
            serve("second", 4);
            serve("second", 4);
        });
        let (mut alive, mut heard) = (Some(Arc::new(())), Vec::new());
        let needed = Arc::downgrade(alive.as_ref().unwrap());
        follow(&InstancePaths::at(&socket).unwrap(), &needed, |input| {
            match input {
                Input::Begun(began) => heard.push((began, 0)),
                Input::Happened(entry) => heard.push((entry.message, entry.seq)),
                other => panic!("{other:?}"),
            }
            let is_last = heard.last() == Some(&("second".into(), 4));
            if is_last {
                alive = None;
            }
            !is_last
        });
        let heard: Vec<_> = heard.iter().map(|(began, seq)| (began.as_str(), *seq)).collect();
        let second = (0..=4).map(|seq| ("second", seq));
        assert_eq!(heard, (0..=2).map(|seq| ("first", seq)).chain(second).collect::<Vec<_>>());
        supervisors.join().unwrap();
        fs::remove_dir_all(&directory).unwrap();
    }
}
