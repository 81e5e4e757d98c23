//! The other end of the admin socket: asks a supervisor for something.

mod connect;
mod conversation;
mod error;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use worker::deadline_after;

use crate::instance::InstancePaths;
use crate::protocol::{Answer, ErrorCode, Progress, Request, Response, Status};
use crate::text::milliseconds;
use crate::version::VERSION;

use connect::{connect, is_suspended};
use conversation::Conversation;
pub use error::AskError;

/// How long to check whether a supervisor is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How long to wait for a supervisor.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until its first response.
    pub first: Duration,
    /// Until the result, however much it sends before. None: forever.
    pub whole: Option<Duration>,
}

impl Patience {
    /// For requests that are answered at once.
    pub fn short() -> Patience {
        let limit = Duration::from_secs(5);
        Patience { first: limit, whole: Some(limit) }
    }

    /// Whether the time for the whole is over before an answer would be late.
    fn gives_up_first(self) -> bool {
        self.whole.is_some_and(|whole| whole < self.first)
    }
}

/// Sends a request and returns the answer. `progress` is given what arrives before that.
///
/// # Errors
/// When there is no answer in time, or none that is understood.
pub fn ask(
    paths: &InstancePaths,
    request: Request,
    patience: Patience,
    mut progress: impl FnMut(Progress),
) -> Result<Answer, AskError> {
    listen(paths, request, patience, |response| {
        match response {
            Response::Entry(_) => {}
            Response::Progress(event) => progress(event),
            Response::Answer(answer) => return ControlFlow::Break(answer),
        }
        ControlFlow::Continue(())
    })
}

/// Sends a request, and gives `hear` each line of the answer until that breaks off. Returns what it breaks off with.
///
/// # Errors
/// When the answer does not come in time, ends before, or is not understood; and when the supervisor does not
/// understand the request, if that is because it has another version.
pub fn listen<T>(
    paths: &InstancePaths,
    request: Request,
    patience: Patience,
    hear: impl FnMut(Response) -> ControlFlow<T>,
) -> Result<T, AskError> {
    listen_to(paths, request, patience, hear).map(|(heard, _)| heard)
}

/// The status of a supervisor, and its process id here, which may be another one than it has in its container. None: it
/// cannot be seen from here.
///
/// # Errors
/// When there is no answer in time, or none that is understood.
pub fn status(paths: &InstancePaths, patience: Patience) -> Result<(Status, Option<u32>), AskError> {
    let (answer, pid) = listen_to(paths, Request::Status {}, patience, |response| match response {
        Response::Answer(answer) => ControlFlow::Break(answer),
        Response::Entry(_) | Response::Progress(_) => ControlFlow::Continue(()),
    })?;
    match answer {
        Answer::Status(status) => {
            let pid = if cfg!(target_os = "linux") { pid } else { Some(status.pid) };
            Ok((*status, pid))
        }
        Answer::Error(refusal) => Err(AskError::Refused(refusal)),
        other => Err(AskError::unexpected(&other)),
    }
}

/// What is heard, and the process at the other end, where the system tells.
fn listen_to<T>(
    paths: &InstancePaths,
    request: Request,
    patience: Patience,
    mut hear: impl FnMut(Response) -> ControlFlow<T>,
) -> Result<(T, Option<u32>), AskError> {
    let mut is_understood = true;
    let heard = listen_once(paths, request, patience, |response| {
        if let Response::Answer(Answer::Error(refusal)) = &response {
            is_understood = !matches!(refusal.code, ErrorCode::BadRequest | ErrorCode::UnsupportedVersion);
        }
        hear(response)
    });
    if is_understood && !matches!(heard, Err(AskError::UnexpectedResponse(_))) {
        return heard;
    }
    let version = listen_once(paths, Request::Ping {}, Patience::short(), |response| match response {
        Response::Answer(Answer::Pong { version, .. }) => ControlFlow::Break(Some(version)),
        Response::Answer(_) | Response::Entry(_) | Response::Progress(_) => ControlFlow::Break(None),
    });
    match version {
        Ok((Some(version), _)) if version != VERSION => Err(AskError::OtherVersion(version)),
        Ok(_) | Err(_) => heard,
    }
}

/// A pause that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseOver {
    /// How long it has lasted.
    pub took: Duration,
    /// Why it ended before `during` returned. None: it did not.
    pub early: Option<String>,
}

/// Pauses, and runs `during` when nothing is under way any more. The pause ends when that returns, or when this process
/// ends, for whatever reason. Returns the result of `during`, and how long the pause has lasted, with the reason if it
/// ended early.
///
/// # Errors
/// When it cannot be paused: then `during` is not done.
pub fn pause<T>(
    paths: &InstancePaths,
    max: Option<Duration>,
    mut progress: impl FnMut(Progress),
    during: impl FnOnce() -> T,
) -> Result<(T, Result<PauseOver, AskError>), AskError> {
    let first = Instant::now() + Patience::short().first;
    let max_ms = max.map(milliseconds);
    let mut conversation = Conversation::begin(paths, &Request::Pause { max_ms, hold: true }, first)?;
    let mut next = conversation.next(Some(first))?;
    loop {
        match next {
            Response::Progress(Progress::Paused { is_quiet: true, .. }) => break,
            Response::Progress(event) => progress(event),
            Response::Entry(_) => {}
            Response::Answer(Answer::Error(refusal)) => return Err(AskError::Refused(refusal)),
            Response::Answer(answer) => return Err(AskError::unexpected(&answer)),
        }
        next = conversation.next(None)?;
    }
    let result = during();
    conversation.resume();
    let last = Instant::now() + Patience::short().first;
    let over = conversation.next(Some(last)).and_then(|response| match response {
        Response::Answer(Answer::Resumed { took_ms, early }) => {
            Ok(PauseOver { took: Duration::from_millis(took_ms), early })
        }
        other => Err(AskError::unexpected(&other)),
    });
    Ok((result, over))
}

fn listen_once<T>(
    paths: &InstancePaths,
    request: Request,
    patience: Patience,
    mut hear: impl FnMut(Response) -> ControlFlow<T>,
) -> Result<(T, Option<u32>), AskError> {
    let began = Instant::now();
    let end = patience.whole.and_then(|limit| began.checked_add(limit)); // None: for ever, or longer than that.
    let first = deadline_after(began, patience.first);
    let first = end.map_or(first, |end| end.min(first));
    let (mut asked, mut spoken) = (false, false);
    let mut supervisor = None;
    let heard = Conversation::begin(paths, &request, first).and_then(|mut conversation| {
        asked = true;
        supervisor = conversation.supervisor;
        let mut response = conversation.next(Some(first))?;
        loop {
            spoken = true;
            if let ControlFlow::Break(heard) = hear(response) {
                return Ok(heard);
            }
            response = conversation.next(end)?;
        }
    });
    match heard {
        // It was ending at that moment.
        Err(AskError::Io(_) | AskError::Disconnected) if !spoken && is_gone(paths) => Err(AskError::NotRunning),
        Err(AskError::NoResponse) if let Some(pid) = supervisor.filter(|&pid| is_suspended(pid)) => {
            Err(AskError::Suspended { pid })
        }
        Err(AskError::NoResponse) if spoken || asked && patience.gives_up_first() => Err(AskError::GaveUp),
        heard => heard.map(|heard| (heard, supervisor)),
    }
}

/// Whether no supervisor is there any more.
fn is_gone(paths: &InstancePaths) -> bool {
    matches!(connect(paths, Instant::now() + LOOK), Err(AskError::NotRunning))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_more_time_than_the_clock_can_count_hears_at_once_that_nobody_is_there() {
        let paths =
            InstancePaths::of(&"nobody-has-this-name".parse().expect("it is a name")).expect("there is a directory");
        let patience = Patience { first: Duration::MAX, whole: Some(Duration::MAX) };
        let asked = ask(&paths, Request::Ping {}, patience, |_| {});
        assert!(matches!(asked, Err(AskError::NotRunning)), "{asked:?}");
    }
}
