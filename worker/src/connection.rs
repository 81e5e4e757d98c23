//! One client: a buffered stream that knows its message boundaries.

use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::drain;
use crate::registry::{Entry, Outcome};
use crate::server::Shared;
use crate::socket;
use crate::turn::Phase;

/// What a connection reads at once, in bytes: also the size of its buffer until [`Connection::read_more`] needs more.
const CHUNK: usize = 8 * 1024;

/// How long a client that was answered, but whose input was not read to its end, gets to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// Windows never wakes a read that is blocked already, nor always a write. What closes a connection does not wait for
/// that, see [`Blocked`](crate::blocked::Blocked), but a thread whose client never closes shall end some day. So a read
/// without a limit of its own looks up from time to time. (Nowhere else does a thread wake up for nothing.)
const LOOK_UP: Duration = Duration::from_secs(30);

/// A client's connection, as its [`Handler`](crate::Handler) sees it.
///
/// Wait for each message with [`next_message`](Connection::next_message), then read it and answer it with the
/// methods of [`Read`], [`BufRead`] and [`Write`]. Writes are not buffered.
#[derive(Debug)]
pub struct Connection {
    entry: Arc<Entry>,
    shared: Arc<Shared>,
    /// What was received and not consumed yet is `buffer[start..end]`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    idle_timeout: Option<Duration>,
    read_deadline: Option<Instant>,
    /// The read timeout that the socket has now.
    applied: Option<Duration>,
    /// Whether the message under way is the last one, unless others have arrived already.
    last: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Messages may come and go.
    Open,
    /// The handler answered without reading its input to the end.
    Abandoned,
    /// The client closed its side, or is gone.
    ClientLeft,
    /// The server is quitting and this connection has to tell its client.
    MustTell,
    /// The server is quitting and the drain has told the client.
    Told,
}

/// What a read waits for. On Windows the drain cannot wake it, so it has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The next message, which the drain may cut short.
    ForMessage,
    /// The rest of a message, or the client's leaving.
    ForMore,
}

impl Connection {
    pub(crate) fn new(entry: Arc<Entry>, shared: Arc<Shared>) -> Connection {
        // Small answers are whole messages: they go out at once. A failure means that the client is gone already.
        let _ = entry.stream.set_nodelay(true);
        Connection {
            entry,
            shared,
            buffer: vec![0; CHUNK],
            start: 0,
            end: 0,
            idle_timeout: None,
            read_deadline: None,
            applied: None,
            last: false,
            state: State::Open,
        }
    }

    /// Waits for the first byte of the next message. The connection is idle meanwhile, and only then.
    ///
    /// Returns false when there is none to serve: the client has left, it was quiet for longer than the idle timeout,
    /// or the server is quitting. The handler then returns; the server tells the client and closes the connection.
    ///
    /// Any read deadline is lifted.
    pub fn next_message(&mut self) -> bool {
        if self.state != State::Open {
            return false;
        }
        self.read_deadline = None;
        let told_to_leave = self.shared.leave.is_set() || self.entry.leave.is_set();
        let at_hand = self.start < self.end && !self.last && !told_to_leave;
        let next = at_hand || self.wait_for_message();
        // Only now: a message that comes during a drain is the last one, however long it was awaited.
        self.last = self.is_draining();
        next
    }

    fn wait_for_message(&mut self) -> bool {
        if self.last || self.entry.turn.rest(|| self.has_to_leave()) == Phase::Leaving {
            return self.serve_what_has_arrived();
        }
        let received = self.receive(self.idle_timeout, Wait::ForMessage);
        match (self.entry.turn.wake(), received) {
            (Phase::Leaving, received) if self.shared.notice.is_some() => {
                self.state = if matches!(received, Ok(0)) { State::ClientLeft } else { State::Told };
                false
            }
            (_, Ok(1..)) => true,
            // The idle timeout. Nothing is owed, so it is closed.
            (Phase::Busy | Phase::Idle, Err(error)) if is_timeout(&error) => false,
            (Phase::Busy | Phase::Idle, _) => {
                self.state = State::ClientLeft;
                false
            }
            (Phase::Leaving, _) => {
                self.state = State::MustTell;
                false
            }
        }
    }

    /// Whether it leaves at this boundary.
    fn has_to_leave(&self) -> bool {
        let awaited = || drain::awaited_until(&self.entry, self.shared.notice.as_deref());
        self.entry.leave.is_set() || self.shared.leave.is_set() && awaited().is_none_or(|until| until <= Instant::now())
    }

    /// The server is quitting. A protocol that has a notice tells its client now. One that has none still answers a
    /// message that is here already.
    fn serve_what_has_arrived(&mut self) -> bool {
        if self.shared.notice.is_none() {
            if self.start < self.end {
                return true;
            }
            let stream = &self.entry.stream;
            let received = stream.set_nonblocking(true).and_then(|()| {
                let received = (&*stream).read(&mut self.buffer);
                stream.set_nonblocking(false)?;
                received
            });
            if let Ok(length @ 1..) = received {
                self.entry.received.fetch_add(length as u64, Ordering::Relaxed);
                (self.start, self.end) = (0, length);
                return true;
            }
        }
        self.state = State::MustTell;
        false
    }

    /// Whether the server is quitting, or this connection is to be closed. A handler whose protocol can say so in an
    /// answer says it now.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.is_set() || self.entry.leave.is_set()
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.entry.peer
    }

    /// The number of this connection, counted from 1 in the order of arrival.
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// What was received and not consumed yet. Empty only if everything was consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Receives more of the message under way and appends it to what is buffered, however much that is: the limit is
    /// the caller's. Returns the number of bytes received, 0 when the client has closed its side.
    ///
    /// # Errors
    /// What the socket says, and [`ErrorKind::TimedOut`] when the read deadline has passed.
    pub fn read_more(&mut self) -> io::Result<usize> {
        let limit = match self.read_deadline {
            None => None,
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => Some(left),
                _ => return Err(ErrorKind::TimedOut.into()),
            },
        };
        match self.receive(limit, Wait::ForMore) {
            Err(error) if is_timeout(&error) => Err(ErrorKind::TimedOut.into()),
            received => received,
        }
    }

    /// Closes the connection when it has been idle for this long. None, as at the start, lets it wait for ever.
    pub fn set_idle_timeout(&mut self, limit: Option<Duration>) {
        self.idle_timeout = limit;
    }

    /// The time by which the message under way must have been read. Lifted by the next
    /// [`next_message`](Connection::next_message).
    pub fn set_read_deadline(&mut self, deadline: Option<Instant>) {
        self.read_deadline = deadline;
    }

    /// How long a write waits for a client that reads nothing at all. None, as at the start, waits for ever, or until
    /// the deadline of a drain.
    ///
    /// # Errors
    /// What the socket says, and [`ErrorKind::InvalidInput`] for a zero duration.
    pub fn set_write_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        self.entry.stream.set_write_timeout(limit)
    }

    /// Says that the handler will not read the rest of the client's input, since it has answered it already. After the
    /// handler returns, the client gets a moment to read that answer: it would be lost if the socket were closed with
    /// unread input.
    pub fn abandon_input(&mut self) {
        if self.state == State::Open {
            self.state = State::Abandoned;
        }
    }

    /// Sends `start` and then up to `length` bytes of a file from its current position: with the feature `http`, on
    /// Linux without copying them through this process. Returns how many bytes of the file were sent: fewer if it is
    /// shorter.
    ///
    /// # Errors
    /// What the file or the socket says.
    pub fn send_file(&mut self, mut start: &[u8], file: &File, length: u64) -> io::Result<u64> {
        while !start.is_empty() {
            let sent = write_with(&self.entry, |stream| socket::send_more_follows(stream, start))?;
            self.entry.sent.fetch_add(sent as u64, Ordering::Relaxed);
            start = &start[sent..];
        }
        let mut total = 0;
        while total < length {
            let sent = write_with(&self.entry, |stream| socket::send_file(stream, file, length - total))?;
            if sent == 0 {
                break;
            }
            self.entry.sent.fetch_add(sent, Ordering::Relaxed);
            total += sent;
        }
        Ok(total)
    }

    /// Ends the connection after its handler has returned, and says how it ended.
    pub(crate) fn finish(mut self, served: &io::Result<()>) -> Outcome {
        if self.state == State::Open && self.start < self.end {
            self.state = State::Abandoned;
        }
        let outcome = match self.state {
            State::Open => match served {
                Err(error) if is_gone(error) => Outcome::Disconnected,
                Ok(()) | Err(_) => Outcome::Closed,
            },
            State::Abandoned => {
                let _ = self.entry.stream.shutdown(Shutdown::Write);
                self.discard_until_closed(Some(LINGER));
                Outcome::Closed
            }
            State::ClientLeft => Outcome::Disconnected,
            State::MustTell => match &self.shared.notice {
                None => Outcome::Closed,
                Some(notice) => match write_with(&self.entry, |mut stream| stream.write_all(notice)) {
                    Ok(()) => {
                        drain::told(&self.shared.registry, &self.entry);
                        self.discard_until_closed(None)
                    }
                    Err(_) => Outcome::Disconnected,
                },
            },
            State::Told => self.discard_until_closed(None),
        };
        if self.entry.forced.load(Ordering::SeqCst) { Outcome::Forced } else { outcome }
    }

    /// Reads and discards until the client closes, the connection is closed by force, or the time is up.
    fn discard_until_closed(&mut self, limit: Option<Duration>) -> Outcome {
        let end = limit.map(|limit| Instant::now() + limit);
        loop {
            self.start = 0;
            self.end = 0;
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Outcome::Closed;
            }
            match self.receive(left, Wait::ForMore) {
                Ok(0) => return Outcome::Disconnected,
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(_) => return Outcome::Disconnected,
            }
        }
    }

    /// Receives once, behind what is buffered. It waits no longer than `limit`.
    fn receive(&mut self, limit: Option<Duration>, wait: Wait) -> io::Result<usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end > self.buffer.len() / 2 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
        self.limit_read(limit)?;
        let length = read_within(&self.entry, &mut self.buffer[self.end..], limit, wait)?;
        self.end += length;
        self.entry.received.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }

    /// Sets the socket's read timeout, if it has another one now.
    fn limit_read(&mut self, limit: Option<Duration>) -> io::Result<()> {
        let timeout = if cfg!(windows) { Some(limit.unwrap_or(LOOK_UP)) } else { limit };
        if self.applied != timeout {
            self.entry.stream.set_read_timeout(timeout)?;
            self.applied = timeout;
        }
        Ok(())
    }
}

#[cfg(not(windows))]
fn read_within(entry: &Entry, buffer: &mut [u8], _limit: Option<Duration>, _wait: Wait) -> io::Result<usize> {
    loop {
        match (&entry.stream).read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// Waits without reading anything: what has arrived stays where whoever closes this connection can see it.
#[cfg(windows)]
fn read_within(entry: &Entry, buffer: &mut [u8], limit: Option<Duration>, wait: Wait) -> io::Result<usize> {
    loop {
        if !entry.blocked.wait() {
            return Ok(0);
        }
        // Looked at only now. Who tells an idle connection from here on finds that its thread waits.
        let told = wait == Wait::ForMessage && entry.turn.phase() == Phase::Leaving;
        let silent = if told {
            socket::is_silent(&entry.stream)
        } else {
            entry.stream.peek(&mut [0]).is_err_and(|error| is_timeout(&error))
        };
        if !entry.blocked.back() {
            return Ok(0);
        }
        if !silent {
            return (&entry.stream).read(buffer);
        }
        if told || limit.is_some() {
            return Err(ErrorKind::TimedOut.into());
        }
    }
}

/// Sends by this call, which may wait for a client that does not read.
#[cfg(not(windows))]
fn write_with<T>(entry: &Entry, send: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
    send(&entry.stream)
}

#[cfg(windows)]
fn write_with<T>(entry: &Entry, send: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
    if !entry.blocked.wait() {
        return Err(ErrorKind::ConnectionAborted.into());
    }
    let sent = send(&entry.stream);
    if entry.blocked.back() { sent } else { Err(ErrorKind::ConnectionAborted.into()) }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn is_gone(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

impl Read for Connection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Connection {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.start == self.end {
            self.read_more()?;
        }
        Ok(self.buffered())
    }

    fn consume(&mut self, length: usize) {
        self.start = self.end.min(self.start + length);
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = write_with(&self.entry, |mut stream| stream.write(bytes))?;
        self.entry.sent.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }

    fn write_vectored(&mut self, parts: &[io::IoSlice<'_>]) -> io::Result<usize> {
        let length = write_with(&self.entry, |mut stream| stream.write_vectored(parts))?;
        self.entry.sent.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
