//! One client, as its handler sees it: a buffered stream that knows its message boundaries.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::handover;
use crate::port::Shared;
use crate::registry::{Entry, Held};
use crate::socket;

/// How much a connection reads at once, in bytes, and the size of its buffer until [`Connection::read_more`] needs
/// more.
const CHUNK: usize = 8 * 1024;

/// The largest buffer that a thread keeps for the connections that it serves, in bytes.
const KEPT: usize = 64 * 1024;

/// How many messages of one client are served before others get a turn. With `--cfg parking`, for tests, a handler is
/// called for each message.
const TURN: u32 = if cfg!(parking) { 1 } else { 32 };

/// Windows never wakes a read that is already blocked. So a read checks at least this often whether its connection has
/// been closed.
const LOOK_UP: Duration = Duration::from_millis(250);

/// A client's connection, as its [`Handler`](crate::Handler) sees it.
///
/// Ask for each message with [`next_message`](Connection::next_message), then read it and answer it with the
/// methods of [`Read`], [`BufRead`] and [`Write`]. Writes are not buffered.
#[derive(Debug)]
pub struct Connection {
    port: Arc<Shared>,
    entry: Arc<Entry>,
    pub(crate) held: Held,
    /// `buffer[start..end]` holds the bytes that were received and not consumed yet.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    read_deadline: Option<Instant>,
    /// Whether the message under way is the last one, unless others have arrived already.
    last: bool,
    /// How many messages of this turn have been served.
    served: u32,
    /// Whether the socket may have input that no further event announces.
    unsure: bool,
    /// Whether the client has closed its side, as far as is known. Bytes that it sent before may still be unread.
    pub(crate) closing: bool,
    pub(crate) course: Course,
}

/// What becomes of the connection when its handler returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Course {
    /// There may be another message: if the handler returns now, it wants to close the connection.
    Open,
    /// It waits for the next message.
    Waits,
    /// Its next message is at hand, but others get a turn first.
    Yields,
    /// The handler answered without reading its input to the end.
    Abandoned,
    /// The client closed its side, or is gone.
    ClientLeft,
    /// It has to leave: its client is notified, if there is a notice.
    Leaves,
}

thread_local! {
    /// The buffer of the connection that this thread serves: a waiting connection has none.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Connection {
    /// Gives this thread's buffer to a connection that the thread has taken.
    pub(crate) fn open(port: Arc<Shared>, entry: Arc<Entry>, mut held: Held) -> Connection {
        let mut buffer = BUFFER.take();
        let rest = std::mem::take(&mut held.rest);
        if buffer.len() < CHUNK.max(rest.len()) {
            buffer.resize(CHUNK.max(rest.len()), 0);
        }
        buffer[..rest.len()].copy_from_slice(&rest);
        Connection {
            port,
            entry,
            held,
            buffer,
            start: 0,
            end: rest.len(),
            read_deadline: None,
            last: false,
            served: 0,
            unsure: false,
            closing: false,
            course: Course::Open,
        }
    }

    /// Gives the buffer back to the thread, and its unconsumed bytes to the connection.
    pub(crate) fn put_away(mut self) -> Held {
        if self.start < self.end {
            self.held.rest = self.buffer[self.start..self.end].to_vec();
        }
        if self.buffer.len() <= KEPT {
            BUFFER.set(self.buffer);
        }
        self.held
    }

    /// Whether its handler is to be called although the client has sent nothing: true only once.
    pub(crate) fn takes_the_word(&mut self) -> bool {
        std::mem::take(&mut self.held.speaks)
    }

    /// Whether there is a message to serve. If so, its first bytes have arrived.
    ///
    /// Returns false when there is none at the moment, or none will follow: the client is quiet or has disconnected, or
    /// the server is stopping. The handler then returns. It is called again for the next message; at the end the server
    /// notifies the client and closes the connection.
    ///
    /// Any read deadline is cleared.
    pub fn next_message(&mut self) -> bool {
        if self.course != Course::Open {
            return false;
        }
        self.read_deadline = None;
        let has_begun = self.served == 0 && self.start < self.end;
        let next = if has_begun {
            // Its bytes have already been received: a stop that begins at this moment comes after it.
            true
        } else if self.last || self.must_leave() {
            self.has_last_message()
        } else if self.start == self.end {
            self.has_message()
        } else if self.served >= TURN || self.port.pausing.is_paused() {
            self.course = Course::Yields;
            false
        } else {
            true
        };
        self.served += 1;
        // Set only now: a message that arrives during a drain is the last one, however long it was awaited.
        self.last = self.is_draining();
        next
    }

    fn must_leave(&self) -> bool {
        // A client that has just been served may be about to send its next message.
        let active = if self.served > 0 { Some(Instant::now()) } else { self.held.idle_since };
        handover::must_leave(&self.port, &self.entry, &self.held, active)
    }

    fn has_message(&mut self) -> bool {
        if (self.unsure || self.closing) && !self.port.pausing.is_paused() {
            match self.receive_at_once() {
                Ok(Some(1..)) => return true,
                Ok(Some(0)) | Err(_) => {
                    self.course = Course::ClientLeft;
                    return false;
                }
                Ok(None) => {}
            }
        }
        self.course = Course::Waits;
        false
    }

    /// The server is stopping. A protocol with a notice notifies its client now. One without a notice still answers a
    /// message that has already arrived.
    fn has_last_message(&mut self) -> bool {
        if self.held.generation.notice.is_none()
            && (self.start < self.end || matches!(self.receive_at_once(), Ok(Some(1..))))
        {
            return true;
        }
        self.course = Course::Leaves;
        false
    }

    /// Whether the server is stopping, or this connection is going to be closed. A handler whose protocol can say so in
    /// an answer should do so now.
    pub fn is_draining(&self) -> bool {
        self.entry.leave.load(Ordering::SeqCst)
            || self.held.generation.is_draining()
                && self.held.generation.turn(self.entry.id).is_none()
                && !handover::can_move(&self.port, &self.entry, &self.held)
    }

    /// Whether the client should reconnect for its next message, because this connection ends, or because the port is
    /// [out of rotation](crate::Port::set_in_rotation). A handler whose protocol can say so in an answer should do so
    /// now.
    pub fn is_last_answer(&self) -> bool {
        self.is_draining() || !self.port.in_rotation.load(Ordering::Relaxed)
    }

    /// The client's address.
    pub fn peer(&self) -> SocketAddr {
        self.entry.peer
    }

    /// The number of this connection, counted from 1 in the order of arrival.
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// The bytes that were received and not consumed yet. Empty only if everything was consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// Sends the buffered bytes back to the client without copying them, and consumes them.
    ///
    /// # Errors
    /// What the socket says.
    pub fn send_back(&mut self) -> io::Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let sent = self.write_all(&buffer[self.start..self.end]);
        self.buffer = buffer;
        self.start = self.end;
        sent
    }

    /// Receives more of the message under way and appends it to the buffer, which grows without limit: limiting it is
    /// up to the caller. Returns the number of bytes received, 0 when the client has closed its side.
    ///
    /// While it waits for the client, the connection has a thread to itself.
    ///
    /// # Errors
    /// What the socket says, [`ErrorKind::TimedOut`] when the read deadline has passed, and
    /// [`ErrorKind::ConnectionAborted`] when the connection was closed by force, or because its place was needed.
    pub fn read_more(&mut self) -> io::Result<usize> {
        if Engine::POLLS {
            if let Some(length) = self.receive_at_once()? {
                return Ok(length);
            }
        }
        self.make_room();
        self.port.engine.unwatch(&self.held.socket, &mut self.held.watch);
        loop {
            let remaining = match self.read_deadline {
                None => None,
                Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                    Some(remaining) if !remaining.is_zero() => Some(remaining),
                    _ => return Err(ErrorKind::TimedOut.into()),
                },
            };
            let limit =
                if cfg!(windows) { Some(remaining.map_or(LOOK_UP, |limit| limit.min(LOOK_UP))) } else { remaining };
            // Set each time: the engine may have set another one since.
            self.held.socket.set_read_timeout(limit)?;
            let (socket, room) = (self.held.socket.clone(), &mut self.buffer[self.end..]);
            let received = self.entry.while_blocked(&self.port.engine, || (&*socket).read(room));
            match received.ok_or(ErrorKind::ConnectionAborted)? {
                Err(error) if error.kind() == ErrorKind::Interrupted || is_timeout(&error) => {}
                received => return received.map(|length| self.received(length)),
            }
        }
    }

    /// Closes the connection when it has been idle for this long. None lets it wait for ever. Initially it is
    /// [`Handler::idle_timeout`](crate::Handler::idle_timeout).
    pub fn set_idle_timeout(&mut self, limit: Option<Duration>) {
        self.held.idle_timeout = limit;
    }

    /// The time by which the message under way must have been read. Cleared by the next
    /// [`next_message`](Connection::next_message).
    pub fn set_read_deadline(&mut self, deadline: Option<Instant>) {
        self.read_deadline = deadline;
    }

    /// How long a write waits for a client that reads nothing at all. None, the initial value, waits for ever, or until
    /// the deadline of a drain.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidInput`] for a zero duration.
    pub fn set_write_timeout(&mut self, limit: Option<Duration>) -> io::Result<()> {
        if limit.is_some_and(|limit| limit.is_zero()) {
            return Err(io::Error::new(ErrorKind::InvalidInput, "a write timeout cannot be zero"));
        }
        self.held.write_timeout = limit;
        Ok(())
    }

    /// Declares that the handler will not read the rest of the client's input, because it has already answered. After
    /// the handler returns, the client gets a moment to read that answer: it would be lost if the socket were closed
    /// with unread input.
    pub fn abandon_input(&mut self) {
        if self.course == Course::Open {
            self.course = Course::Abandoned;
        }
    }

    /// Sends `start` and then up to `length` bytes of a file from its current position. With the feature `http` on
    /// Linux, the file is not copied through this process. Returns how many bytes of the file were sent: fewer if it is
    /// shorter.
    ///
    /// # Errors
    /// What the file or the socket says, and [`ErrorKind::ConnectionAborted`] when the connection was closed by force, or
    /// because its place was needed.
    pub fn send_file(&mut self, mut start: &[u8], file: &File, length: u64) -> io::Result<u64> {
        while !start.is_empty() {
            let sent = self.send(start, true)?;
            start = &start[sent..];
        }
        let mut total = 0;
        if Engine::POLLS {
            total = socket::send_file_at_once(&self.held.socket, file, length)?;
            self.entry.sent.fetch_add(total, Ordering::Relaxed);
        }
        while total < length {
            let sent = self.send_waiting(|stream| socket::send_file(stream, file, length - total))?;
            if sent == 0 {
                break;
            }
            self.entry.sent.fetch_add(sent, Ordering::Relaxed);
            total += sent;
        }
        Ok(total)
    }

    /// Sends some of these bytes, without waiting if there is room for any.
    fn send(&mut self, bytes: &[u8], more: bool) -> io::Result<usize> {
        let mut sent = 0;
        if Engine::POLLS {
            sent = socket::send_at_once(&self.held.socket, bytes, more)?;
        }
        if sent == 0 && !bytes.is_empty() {
            sent = self.send_waiting(|mut stream| match more {
                true => socket::send_more_follows(stream, bytes),
                false => stream.write(bytes),
            })?;
        }
        self.entry.sent.fetch_add(sent as u64, Ordering::Relaxed);
        Ok(sent)
    }

    /// Sends with a call that may wait for a client that does not read.
    fn send_waiting<T>(&mut self, call: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
        if self.held.applied_write_timeout != self.held.write_timeout {
            self.held.socket.set_write_timeout(self.held.write_timeout)?;
            self.held.applied_write_timeout = self.held.write_timeout;
        }
        let socket = &self.held.socket;
        let sent = self.entry.while_blocked(&self.port.engine, || call(socket));
        sent.ok_or(ErrorKind::ConnectionAborted)?
    }

    /// Appends what has arrived to the buffer. None: nothing has.
    pub(crate) fn receive_at_once(&mut self) -> io::Result<Option<usize>> {
        self.make_room();
        let room = self.buffer.len() - self.end;
        loop {
            match socket::receive_at_once(&self.held.socket, &mut self.buffer[self.end..]) {
                Ok(length) => {
                    // If it filled the buffer, there may be more, which no further event announces.
                    self.unsure = length == room;
                    return Ok(Some(self.received(length)));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.unsure = false;
                    return Ok(None);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn received(&mut self, length: usize) -> usize {
        self.closing |= length == 0;
        self.end += length;
        self.entry.received.fetch_add(length as u64, Ordering::Relaxed);
        length
    }

    /// Makes room behind the buffered bytes.
    fn make_room(&mut self) {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end > self.buffer.len() / 2 {
                self.buffer.resize(self.buffer.len() * 2, 0);
            }
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
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
        self.send(bytes, false)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
