//! The other end of the admin socket: asks a supervisor for something.

use std::fmt;
use std::io::{self, BufReader};
use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use interprocess::local_socket::Stream;
use interprocess::local_socket::traits::Stream as _;

use crate::VERSION;
use crate::instance::Place;
use crate::protocol::{self, Answer, ErrorCode, LineError, Progress, Request, Response};
use crate::text::Reason;

/// How long to look whether a supervisor is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How many lines are read ahead of whoever hears them.
const UNHEARD: usize = 100;

/// Why a supervisor did not answer.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens there.
    NotRunning,
    /// The system does not let this user in.
    NotPermitted(io::Error),
    /// It did not say anything in time.
    Silent,
    /// It did not come to an end in time; it goes on.
    GaveUp,
    /// It ended the conversation without a result.
    HungUp,
    /// It said something that is not of the protocol.
    NotUnderstood(String),
    /// It does not understand this program, or this program does not understand it, and it has another version.
    OtherVersion(String),
    /// The connection failed.
    Io(io::Error),
}

impl fmt::Display for AskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::NotRunning => write!(formatter, "nobody listens there"),
            AskError::NotPermitted(error) => write!(formatter, "not permitted: {}", Reason(error)),
            AskError::Silent => write!(formatter, "it does not answer"),
            AskError::GaveUp => write!(formatter, "gave up waiting; it goes on"),
            AskError::HungUp => write!(formatter, "it went away without an answer"),
            AskError::NotUnderstood(line) => write!(formatter, "it answered something unknown: {line}"),
            AskError::OtherVersion(theirs) if is_older(theirs, VERSION) => write!(
                formatter,
                "the supervisor is older ({theirs}) than this program ({VERSION}), and does not know what was asked \
                 for: stop it, by a signal if need be, and start the newer one"
            ),
            AskError::OtherVersion(theirs) => write!(
                formatter,
                "the supervisor is newer ({theirs}) than this program ({VERSION}), and they do not understand each \
                 other: use the program of that version"
            ),
            AskError::Io(error) => write!(formatter, "the connection failed: {}", Reason(error)),
        }
    }
}

impl std::error::Error for AskError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            AskError::NotPermitted(error) | AskError::Io(error) => Some(error),
            AskError::NotRunning
            | AskError::Silent
            | AskError::GaveUp
            | AskError::HungUp
            | AskError::NotUnderstood(_)
            | AskError::OtherVersion(_) => None,
        }
    }
}

/// How long to wait for a supervisor.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Until its first word.
    pub first: Duration,
    /// Until the result, however much it says before. None: for ever.
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

/// Asks for something and returns the answer. `progress` hears what is said before.
///
/// # Errors
/// When there is no answer in time, or none that is understood.
pub fn ask(
    place: &Place,
    request: Request,
    patience: Patience,
    progress: impl FnMut(Progress),
) -> Result<Answer, AskError> {
    let answer = ask_once(place, request, patience, progress);
    let is_understood = match &answer {
        Ok(Answer::Error(refusal)) => !matches!(refusal.code, ErrorCode::BadRequest | ErrorCode::UnsupportedVersion),
        Err(AskError::NotUnderstood(_)) => false,
        Ok(_) | Err(_) => true,
    };
    if is_understood {
        return answer;
    }
    match ask_once(place, Request::Ping {}, Patience::short(), |_| {}) {
        Ok(Answer::Pong { version, .. }) if version != VERSION => Err(AskError::OtherVersion(version)),
        _ => answer,
    }
}

/// Whether a version such as `0.9.1` comes before another one.
fn is_older(version: &str, than: &str) -> bool {
    let numbers =
        |version: &str| -> Vec<u64> { version.split(['.', '-']).map_while(|part| part.parse().ok()).collect() };
    numbers(version) < numbers(than)
}

fn ask_once(
    place: &Place,
    request: Request,
    patience: Patience,
    mut progress: impl FnMut(Progress),
) -> Result<Answer, AskError> {
    listen(place, request, patience, |response| {
        match response {
            Response::Entry(_) => {}
            Response::Progress(event) => progress(event),
            Response::Answer(answer) => return ControlFlow::Break(answer),
        }
        ControlFlow::Continue(())
    })
}

/// Asks for something, and has `hear` hear each line of the answer until it breaks off. What it breaks off with is
/// returned.
///
/// # Errors
/// When the answer does not come in time, or ends before.
pub fn listen<T>(
    place: &Place,
    request: Request,
    patience: Patience,
    mut hear: impl FnMut(Response) -> ControlFlow<T>,
) -> Result<T, AskError> {
    let began = Instant::now();
    // A pipe on Windows has no read timeout, and to connect may block anywhere: a thread of its own does both. When
    // the time is up it is left behind.
    let responses = converse(place.clone(), request).map_err(AskError::Io)?;
    let mut spoken = false;
    loop {
        let whole = patience.whole.map(|limit| limit.saturating_sub(began.elapsed()));
        let first = (!spoken).then(|| patience.first.saturating_sub(began.elapsed()));
        let response = match [whole, first].into_iter().flatten().min() {
            Some(limit) => responses.recv_timeout(limit),
            None => responses.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match response {
            Ok(Ok(response)) => {
                if let ControlFlow::Break(heard) = hear(response) {
                    return Ok(heard);
                }
            }
            Ok(Err(AskError::Io(_))) | Err(RecvTimeoutError::Disconnected | RecvTimeoutError::Timeout)
                if !spoken && is_gone(place) =>
            {
                return Err(AskError::NotRunning);
            }
            Ok(Err(error)) => return Err(error),
            Err(RecvTimeoutError::Disconnected) => return Err(AskError::HungUp),
            Err(RecvTimeoutError::Timeout) if spoken || patience.gives_up_first() => return Err(AskError::GaveUp),
            Err(RecvTimeoutError::Timeout) => return Err(AskError::Silent),
        }
        spoken = true;
    }
}

/// Whether a supervisor that said no word was ending in that moment. To connect to one that hangs may block, so a thread of
/// its own does.
fn is_gone(place: &Place) -> bool {
    let (tell, told) = mpsc::channel();
    let place = place.clone();
    let looks = thread::Builder::new().name("look".into()).spawn(move || {
        let _ = tell.send(matches!(connect(&place), Err(AskError::NotRunning))); // Nobody waits any more.
    });
    looks.is_ok() && told.recv_timeout(LOOK) == Ok(true)
}

/// Connects, asks, and passes on what is answered until the supervisor hangs up.
fn converse(place: Place, request: Request) -> io::Result<Receiver<Result<Response, AskError>>> {
    // When as much as that has not been heard, no more is read, and the supervisor sees that.
    let (heard, responses) = mpsc::sync_channel(UNHEARD);
    thread::Builder::new().name("conversation".into()).spawn(move || {
        let outcome = (|| {
            let stream = connect(&place)?;
            // One that refuses this client may hang up without hearing the request: its answer is here all the same.
            let asked = protocol::write_request(&mut &stream, &request).map_err(AskError::Io);
            let mut input = BufReader::new(&stream);
            loop {
                let line = match protocol::read_line(&mut input) {
                    Ok(line) => line,
                    Err(LineError::Closed) => return asked,
                    Err(LineError::Io(error)) => return Err(AskError::Io(error)),
                    Err(LineError::TooLong) => return Err(AskError::NotUnderstood("a line without an end".into())),
                };
                let response = protocol::parse_response(&line).map_err(|error| {
                    let is_cut_off = error.is_eof();
                    let line = || format!("{} ({error})", String::from_utf8_lossy(&line));
                    if is_cut_off { AskError::HungUp } else { AskError::NotUnderstood(line()) }
                })?;
                if response.is_some_and(|response| heard.send(Ok(response)).is_err()) {
                    return Ok(()); // Nobody waits any more.
                }
            }
        })();
        if let Err(error) = outcome {
            let _ = heard.send(Err(error)); // Nobody waits any more.
        }
    })?;
    Ok(responses)
}

fn connect(place: &Place) -> Result<Stream, AskError> {
    use io::ErrorKind::{ConnectionRefused, InvalidInput, NotADirectory, NotFound, PermissionDenied};
    place.socket_name().and_then(Stream::connect).map_err(|error| match error.kind() {
        // A socket with that path cannot exist, so nobody listens there.
        NotFound | ConnectionRefused | NotADirectory | InvalidInput => AskError::NotRunning,
        PermissionDenied => AskError::NotPermitted(error),
        _ => AskError::Io(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (older, newer) in [("0.1.0", "0.2.0"), ("0.9.1", "0.10.0"), ("0.1.9", "1.0.0"), ("0.1.0", "0.1.1-rc.1")] {
            assert!(is_older(older, newer) && !is_older(newer, older) && !is_older(older, older), "{older} {newer}");
        }
    }
}
