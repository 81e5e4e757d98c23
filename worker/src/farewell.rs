//! The end of a connection before it is closed: it sends its last bytes, then waits until the client closes, too.
//!
//! A socket that is closed with unread input is reset, and a reset can destroy what the client has not read yet. So the
//! connection is half-closed after its last bytes, and further input is read and discarded. A notice, a refusal and the
//! end of an answer whose request was not read are all handled this way. None of them needs a thread: each proceeds
//! step by step, whenever the socket is ready.

use std::io::{self, ErrorKind, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::report::Outcome;
use crate::socket;

/// How long a client that was answered, but whose input was not read to the end, gets to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// How long a refused client gets to read the reason.
const REFUSAL: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Farewell {
    bytes: Box<[u8]>,
    sent: usize,
    /// Whether these bytes are the notice.
    is_notice: bool,
    half_closed: bool,
    /// When it is closed even if the client has not closed. None: when the drain says so.
    pub(crate) until: Option<Instant>,
}

/// How far a farewell is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// There may be more to read, but other connections get a turn first.
    Again,
    /// There is no room in the send buffer.
    AwaitsRoom,
    /// The client has to close its side.
    AwaitsClose,
    Done(Outcome),
}

impl Farewell {
    fn new(bytes: &[u8], is_notice: bool, limit: Option<Duration>) -> Farewell {
        let until = limit.map(|limit| Instant::now() + limit);
        Farewell { bytes: bytes.into(), sent: 0, is_notice, half_closed: false, until }
    }

    pub(crate) fn notice(notice: &[u8]) -> Farewell {
        Farewell::new(notice, true, None)
    }

    pub(crate) fn refusal(refusal: &[u8]) -> Farewell {
        Farewell::new(refusal, false, Some(REFUSAL))
    }

    pub(crate) fn linger() -> Farewell {
        Farewell::new(&[], false, Some(LINGER))
    }

    /// Does what can be done without waiting. `notified` is called when the notice has been written.
    pub(crate) fn step(&mut self, stream: &TcpStream, notified: impl FnOnce()) -> Step {
        if self.until.is_some_and(|until| until <= Instant::now()) {
            return Step::Done(Outcome::Closed);
        }
        while self.sent < self.bytes.len() {
            match socket::send_at_once(stream, &self.bytes[self.sent..], true) {
                Ok(0) => return Step::AwaitsRoom,
                Ok(sent) => self.sent += sent,
                Err(_) => return Step::Done(Outcome::Disconnected),
            }
        }
        self.half_close(stream, notified);
        self.discard(stream)
    }

    /// Writes the last bytes where no event says that there is room: waits for the client to read, but no longer than
    /// `until`, if set.
    #[cfg_attr(all(feature = "epoll", target_os = "linux"), allow(dead_code))]
    pub(crate) fn write_all(&mut self, mut stream: &TcpStream) -> io::Result<()> {
        let limit =
            self.until.map(|until| until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)));
        stream.set_write_timeout(limit)?;
        stream.write_all(&self.bytes[self.sent..])?;
        self.sent = self.bytes.len();
        Ok(())
    }

    fn half_close(&mut self, stream: &TcpStream, notified: impl FnOnce()) {
        if !self.half_closed {
            self.half_closed = true;
            if self.is_notice {
                notified();
            }
            let _ = stream.shutdown(Shutdown::Write); // It fails only where the client is gone already.
        }
    }

    fn discard(&self, stream: &TcpStream) -> Step {
        let outcome = if self.is_notice { Outcome::Disconnected } else { Outcome::Closed };
        let mut rest = [0; 4096];
        // A client that keeps sending must not occupy this thread.
        for _ in 0..64 {
            match socket::receive_at_once(stream, &mut rest) {
                Ok(0) => return Step::Done(outcome),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Step::AwaitsClose,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Step::Done(outcome),
            }
        }
        Step::Again
    }
}
