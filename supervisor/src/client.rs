//! The other end of the admin socket: asks a supervisor for something.

use std::fmt;
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::ops::ControlFlow;
use std::sync::Arc;
#[cfg(windows)]
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
#[cfg(windows)]
use std::thread;
use std::time::{Duration, Instant};

use interprocess::local_socket::Stream;
use worker::deadline_after;

#[cfg(unix)]
use crate::deadline::DeadlineReader;
use crate::instance::InstancePaths;
use crate::protocol::{self, Answer, ErrorCode, LineError, Progress, Refusal, Request, Response};
use crate::text::{Reason, milliseconds};
use crate::version::VERSION;

/// How long to look whether a supervisor is still there.
const LOOK: Duration = Duration::from_secs(1);

/// How many lines are read ahead of the caller.
#[cfg(windows)]
const UNHEARD: usize = 100;

/// What Windows says of a pipe that takes no client now: `ERROR_PIPE_BUSY`.
#[cfg(windows)]
const PIPE_BUSY: i32 = 231;

/// How often to look whether a pipe takes a client.
#[cfg(windows)]
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Why a supervisor did not answer.
#[derive(Debug)]
pub enum AskError {
    /// Nothing listens there.
    NotRunning,
    /// The system does not let this user in.
    NotPermitted(io::Error),
    /// It did not say anything in time.
    NoResponse,
    /// It did not say anything in time, since its process is suspended.
    Suspended {
        /// The process id.
        pid: u32,
    },
    /// It did not end in time, and is still in progress.
    GaveUp,
    /// It refuses, and says why.
    Refused(Refusal),
    /// It ended the conversation without a result.
    Disconnected,
    /// It said something that is not of the protocol.
    UnexpectedResponse(String),
    /// It does not understand this program, or this program does not understand it, and it has another version.
    OtherVersion(String),
    /// The connection failed.
    Io(io::Error),
}

impl fmt::Display for AskError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AskError::NotRunning => write!(formatter, "nothing listens there"),
            AskError::NotPermitted(error) => write!(formatter, "not permitted: {}", Reason(error)),
            AskError::NoResponse => write!(formatter, "it does not answer"),
            AskError::Suspended { pid } => {
                write!(formatter, "it does not answer, since it is suspended; `kill -CONT {pid}` continues it")
            }
            AskError::GaveUp => write!(formatter, "timed out waiting; the request is still in progress"),
            AskError::Refused(refusal) => formatter.write_str(&refusal.message),
            AskError::Disconnected => write!(formatter, "it disconnected without an answer"),
            AskError::UnexpectedResponse(line) => write!(formatter, "unexpected response: {line}"),
            AskError::OtherVersion(theirs) if is_older(theirs, VERSION) => write!(
                formatter,
                "the supervisor is older ({theirs}) than this program ({VERSION}), and does not know this request: stop it, by a signal if need be, and start the newer one"
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
            | AskError::NoResponse
            | AskError::Suspended { .. }
            | AskError::GaveUp
            | AskError::Refused(_)
            | AskError::Disconnected
            | AskError::UnexpectedResponse(_)
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

/// Asks for something, and has `hear` hear each line of the answer until it breaks off. What it breaks off with is
/// returned.
///
/// # Errors
/// When the answer does not come in time, ends before, or is not understood; and when the supervisor does not
/// understand the request, if that is because it has another version.
pub fn listen<T>(
    paths: &InstancePaths,
    request: Request,
    patience: Patience,
    mut hear: impl FnMut(Response) -> ControlFlow<T>,
) -> Result<T, AskError> {
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
        Ok(Some(version)) if version != VERSION => Err(AskError::OtherVersion(version)),
        Ok(_) | Err(_) => heard,
    }
}

/// A pause that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PauseOver {
    /// How long it has lasted.
    pub took: Duration,
    /// Why it was over before what was done meanwhile. None: it was not.
    pub early: Option<String>,
}

/// Pauses, and does `during` when nothing is under way any more. The pause is over when that returns, and also with this
/// process, however it ends. Returns what `during` has, and how long the pause has lasted, with the reason if it was over
/// before.
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
            Response::Answer(answer) => return Err(AskError::UnexpectedResponse(format!("{answer:?}"))),
        }
        next = conversation.next(None)?;
    }
    let result = during();
    // If it cannot be told, it sees that the connection ends.
    let _ = (&*conversation.stream).write_all(b"\n");
    let last = Instant::now() + Patience::short().first;
    let over = conversation.next(Some(last)).and_then(|response| match response {
        Response::Answer(Answer::Resumed { took_ms, early }) => {
            Ok(PauseOver { took: Duration::from_millis(took_ms), early })
        }
        other => Err(AskError::UnexpectedResponse(format!("{other:?}"))),
    });
    Ok((result, over))
}

/// Whether a version such as `0.9.1` comes before another one.
fn is_older(version: &str, than: &str) -> bool {
    let numbers =
        |version: &str| -> Vec<u64> { version.split(['.', '-']).map_while(|part| part.parse().ok()).collect() };
    numbers(version) < numbers(than)
}

fn listen_once<T>(
    paths: &InstancePaths,
    request: Request,
    patience: Patience,
    mut hear: impl FnMut(Response) -> ControlFlow<T>,
) -> Result<T, AskError> {
    let began = Instant::now();
    let end = patience.whole.and_then(|limit| began.checked_add(limit)); // None: for ever, or longer than that.
    let first = deadline_after(began, patience.first);
    let (mut asked, mut spoken) = (false, false);
    let mut supervisor = None;
    let heard = Conversation::begin(paths, &request, first).and_then(|mut conversation| {
        asked = true;
        supervisor = conversation.supervisor;
        let mut response = conversation.next(Some(end.map_or(first, |end| end.min(first))))?;
        loop {
            spoken = true;
            if let ControlFlow::Break(heard) = hear(response) {
                return Ok(heard);
            }
            response = conversation.next(end)?;
        }
    });
    match heard {
        // It was ending in that moment.
        Err(AskError::Io(_) | AskError::Disconnected) if !spoken && is_gone(paths) => Err(AskError::NotRunning),
        Err(AskError::NoResponse) if let Some(pid) = supervisor.filter(|&pid| is_suspended(pid)) => {
            Err(AskError::Suspended { pid })
        }
        Err(AskError::NoResponse) if spoken || asked && patience.gives_up_first() => Err(AskError::GaveUp),
        heard => heard,
    }
}

/// Whether no supervisor is there any more.
fn is_gone(paths: &InstancePaths) -> bool {
    matches!(connect(paths, Instant::now() + LOOK), Err(AskError::NotRunning))
}

/// A request, and what is answered.
struct Conversation {
    stream: Arc<Stream>,
    lines: Lines,
    /// Why the request could not be sent. One that refuses this client may hang up without hearing it: its answer is
    /// here even then.
    unasked: Option<io::Error>,
    /// The process at the other end, where the system tells.
    supervisor: Option<u32>,
}

impl Conversation {
    /// Connects, until `end` at the longest, and asks.
    fn begin(paths: &InstancePaths, request: &Request, end: Instant) -> Result<Conversation, AskError> {
        let stream = Arc::new(connect(paths, end)?);
        let supervisor = supervisor(&stream);
        let unasked = protocol::write_request(&mut &*stream, request).err();
        let lines = Lines::of(stream.clone()).map_err(AskError::Io)?;
        Ok(Conversation { stream, lines, unasked, supervisor })
    }

    /// What is answered next. None comes until `end`: [`AskError::NoResponse`].
    fn next(&mut self, end: Option<Instant>) -> Result<Response, AskError> {
        self.lines.next(end).map_err(|error| match (error, self.unasked.take()) {
            (AskError::Disconnected, Some(unasked)) => AskError::Io(unasked),
            (error, _) => error,
        })
    }
}

/// The process that listens there. None: it cannot be seen from here.
#[cfg(target_os = "linux")]
fn supervisor(stream: &Stream) -> Option<u32> {
    use nix::sys::socket::{getsockopt, sockopt};
    let Stream::UdSocket(stream) = stream;
    let credentials = getsockopt(stream, sockopt::PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|&pid| pid > 0)
}

#[cfg(not(target_os = "linux"))]
fn supervisor(_stream: &Stream) -> Option<u32> {
    None
}

/// Whether a process is suspended: by Ctrl-Z, a signal or a debugger.
#[cfg(target_os = "linux")]
fn is_suspended(pid: u32) -> bool {
    // The state stands behind the name, which is in parentheses and may have some itself.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
}

#[cfg(not(target_os = "linux"))]
fn is_suspended(_pid: u32) -> bool {
    false
}

/// Reads the next response that is known to this version.
fn read_response(input: &mut impl BufRead) -> Result<Response, AskError> {
    loop {
        let line = protocol::read_line(input).map_err(|error| match error {
            LineError::Closed => AskError::Disconnected,
            LineError::TooLong => AskError::UnexpectedResponse("a line without an end".into()),
            LineError::Io(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                AskError::NoResponse
            }
            LineError::Io(error) => AskError::Io(error),
        })?;
        let response = protocol::parse_response(&line).map_err(|error| {
            let line = || format!("{} ({error})", String::from_utf8_lossy(&line));
            if error.is_eof() { AskError::Disconnected } else { AskError::UnexpectedResponse(line()) }
        })?;
        if let Some(response) = response {
            return Ok(response);
        }
    }
}

/// Connects to a supervisor. One that hangs, and whose queue is full, is waited for until the time is up.
fn connect(paths: &InstancePaths, end: Instant) -> Result<Stream, AskError> {
    use ErrorKind::{ConnectionRefused, InvalidInput, NotADirectory, NotFound, PermissionDenied, TimedOut, WouldBlock};
    connect_until(paths, end).map_err(|error| match error.kind() {
        // A socket with that path cannot exist, so no process listens there.
        NotFound | ConnectionRefused | NotADirectory | InvalidInput => AskError::NotRunning,
        PermissionDenied => AskError::NotPermitted(error),
        WouldBlock | TimedOut => AskError::NoResponse,
        _ => AskError::Io(error),
    })
}

/// The library's way does not wait here if the queue is full.
#[cfg(target_os = "linux")]
fn connect_until(paths: &InstancePaths, end: Instant) -> io::Result<Stream> {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

    let address = UnixAddr::new(paths.client_path()?)?;
    let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // It is the limit of `connect`, too. No time at all would be for ever.
        stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) => return Ok(Stream::UdSocket(stream.into())),
            // It was suspended meanwhile, by Ctrl-Z, say.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn connect_until(paths: &InstancePaths, end: Instant) -> io::Result<Stream> {
    use interprocess::ConnectWaitMode;
    use interprocess::local_socket::{ConnectOptions, GenericFilePath, ToFsName};

    let wait_mode = ConnectWaitMode::Timeout(end.saturating_duration_since(Instant::now()));
    let name = paths.client_path()?.to_fs_name::<GenericFilePath>()?;
    ConnectOptions::new().name(name).wait_mode(wait_mode).connect_sync()
}

/// The owner of the pipe is unknown. The library's way lets a service at its other end act in the name of the user who
/// connects, who may be an administrator. Here it can only see which user that is.
#[cfg(windows)]
fn connect_until(paths: &InstancePaths, end: Instant) -> io::Result<Stream> {
    use std::fs::OpenOptions;
    use std::os::windows::fs::OpenOptionsExt;
    use std::os::windows::io::OwnedHandle;

    use interprocess::os::windows::named_pipe::local_socket::Stream as Pipe;
    use winsafe::co::{FILE_FLAG, FILE_SECURITY};

    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(FILE_FLAG::OVERLAPPED.raw());
    options.security_qos_flags(FILE_SECURITY::IDENTIFICATION.raw());
    loop {
        match options.open(paths.client_path()?) {
            Ok(pipe) => return Ok(Stream::NamedPipe(Pipe::try_from(OwnedHandle::from(pipe))?)),
            // All its instances have clients, and it has not come to make the next one.
            Err(error) if error.raw_os_error() == Some(PIPE_BUSY) => {
                if Instant::now() >= end {
                    return Err(ErrorKind::TimedOut.into());
                }
                thread::sleep(LOOK_EVERY);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What a supervisor says, line by line.
#[cfg(unix)]
struct Lines(BufReader<DeadlineReader<Arc<Stream>>>);

#[cfg(unix)]
impl Lines {
    fn of(stream: Arc<Stream>) -> io::Result<Lines> {
        Ok(Lines(BufReader::new(DeadlineReader { stream, end: None })))
    }

    fn next(&mut self, end: Option<Instant>) -> Result<Response, AskError> {
        self.0.get_mut().end = end;
        read_response(&mut self.0)
    }
}

/// What a supervisor says, line by line. A pipe has no read timeout, so a thread of its own reads. When the time is up
/// it is left behind.
#[cfg(windows)]
struct Lines(Receiver<Result<Response, AskError>>);

#[cfg(windows)]
impl Lines {
    fn of(stream: Arc<Stream>) -> io::Result<Lines> {
        // When as much as that has not been heard, no more is read, and the supervisor sees that.
        let (heard, lines) = mpsc::sync_channel(UNHEARD);
        thread::Builder::new().name("conversation".into()).spawn(move || {
            let mut input = BufReader::new(&*stream);
            loop {
                let response = read_response(&mut input);
                let is_last = response.is_err();
                if heard.send(response).is_err() || is_last {
                    return; // The caller has gone, or this was the last answer.
                }
            }
        })?;
        Ok(Lines(lines))
    }

    fn next(&mut self, end: Option<Instant>) -> Result<Response, AskError> {
        let response = match end {
            Some(end) => self.0.recv_timeout(end.saturating_duration_since(Instant::now())),
            None => self.0.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        response.unwrap_or_else(|error| match error {
            RecvTimeoutError::Timeout => Err(AskError::NoResponse),
            RecvTimeoutError::Disconnected => Err(AskError::Disconnected),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn who_has_more_time_than_the_clock_can_count_hears_at_once_that_nobody_is_there() {
        let paths =
            InstancePaths::of(&"nobody-has-this-name".parse().expect("it is a name")).expect("there is a directory");
        let patience = Patience { first: Duration::MAX, whole: Some(Duration::MAX) };
        let asked = ask(&paths, Request::Ping {}, patience, |_| {});
        assert!(matches!(asked, Err(AskError::NotRunning)), "{asked:?}");
    }

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (older, newer) in [("0.1.0", "0.2.0"), ("0.9.1", "0.10.0"), ("0.1.9", "1.0.0"), ("0.1.0", "0.1.1-rc.1")] {
            assert!(is_older(older, newer) && !is_older(newer, older) && !is_older(older, older), "{older} {newer}");
        }
    }

    #[cfg(windows)]
    #[test]
    fn a_pipe_whose_owner_takes_no_client_is_waited_for_and_not_for_ever() {
        use interprocess::local_socket::{ListenerOptions, traits::Listener as _};

        let paths = InstancePaths::of(&format!("takes-no-client-{}", std::process::id()).parse().unwrap()).unwrap();
        assert!(matches!(connect(&paths, Instant::now() + LOOK), Err(AskError::NotRunning)));
        let listener = ListenerOptions::new().name(paths.socket_name().unwrap()).create_sync().unwrap();
        // It takes the one place that there is.
        let _first = connect(&paths, Instant::now() + LOOK).unwrap();
        let (heard, hears) = mpsc::channel();
        let asks = paths.clone();
        thread::spawn(move || heard.send(connect(&asks, Instant::now() + LOOK).map(drop)));
        assert!(matches!(hears.recv_timeout(30 * LOOK).unwrap(), Err(AskError::NoResponse)));
        thread::spawn(move || [listener.accept(), listener.accept()].map(Result::unwrap));
        connect(&paths, Instant::now() + 30 * LOOK).unwrap();
    }
}
