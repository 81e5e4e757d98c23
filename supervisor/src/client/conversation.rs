//! One request to a supervisor and its answer, line by line.

use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::sync::Arc;
#[cfg(windows)]
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
#[cfg(windows)]
use std::thread;
use std::time::Instant;

use interprocess::local_socket::Stream;

use super::connect::{check_user, connect, supervisor};
use super::error::AskError;
#[cfg(unix)]
use crate::deadline::DeadlineReader;
use crate::instance::InstancePaths;
use crate::protocol::{self, LineError, Request, Response};

/// How many lines are read ahead of the caller.
#[cfg(windows)]
const UNHEARD: usize = 100;

/// A request and its answer.
pub(super) struct Conversation {
    stream: Arc<Stream>,
    lines: Lines,
    /// Why the request could not be sent. A supervisor that refuses this client may hang up without reading it: its
    /// answer is here even then.
    unasked: Option<io::Error>,
    /// The process at the other end, where the system tells.
    pub(super) supervisor: Option<u32>,
}

impl Conversation {
    /// Connects, at most until `end`, and sends the request.
    pub(super) fn begin(paths: &InstancePaths, request: &Request, end: Instant) -> Result<Conversation, AskError> {
        let stream = Arc::new(connect(paths, end)?);
        check_user(&stream, paths)?;
        let supervisor = supervisor(&stream);
        let unasked = protocol::write_request(&mut &*stream, request).err();
        let lines = Lines::of(stream.clone()).map_err(AskError::Io)?;
        Ok(Conversation { stream, lines, unasked, supervisor })
    }

    /// The next response. If there is none until `end`: [`AskError::NoResponse`].
    pub(super) fn next(&mut self, end: Option<Instant>) -> Result<Response, AskError> {
        self.lines.next(end).map_err(|error| match (error, self.unasked.take()) {
            (AskError::Disconnected, Some(unasked)) => AskError::Io(unasked),
            (error, _) => error,
        })
    }

    /// Ends the pause that this connection holds.
    pub(super) fn resume(&self) {
        // If this fails, the supervisor sees that the connection ends.
        let _ = (&*self.stream).write_all(b"\n");
    }
}

/// Reads the next response that this version knows.
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

/// The lines that a supervisor sends.
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

/// The lines that a supervisor sends. A pipe has no read timeout, so a thread of its own reads. When the time is up,
/// that thread is left behind.
#[cfg(windows)]
struct Lines(Receiver<Result<Response, AskError>>);

#[cfg(windows)]
impl Lines {
    fn of(stream: Arc<Stream>) -> io::Result<Lines> {
        // When this many lines are unread, no more are read, and the supervisor notices.
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
