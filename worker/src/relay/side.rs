//! One socket of a pair. It is registered once, edge-triggered, and remembers what was reported until that is used up.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

#[derive(Debug)]
pub(super) struct Side {
    socket: OwnedFd,
    watched: Watched,
    /// There may be something to read.
    pub(super) readable: bool,
    /// A read that fills only a part of the buffer does not mean that nothing is left: the end of the stream, or
    /// out-of-band bytes, may follow.
    thorough: bool,
    /// An event has reported that it was reset, or is closed in both directions.
    gone: bool,
    /// There may be room for something to send.
    pub(super) writable: bool,
    /// Nothing more will be received.
    pub(super) heard_all: bool,
    /// Nothing more can be sent: its half is closed, or it is broken.
    pub(super) said_all: bool,
    /// It was reset, or failed.
    pub(super) broken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watched {
    No,
    ForInput,
    ForBoth,
}

/// The result of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Bytes(usize),
    Nothing,
    End,
    Broken,
}

/// What a read would find first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Peeked {
    Bytes,
    Nothing,
    /// The other side has closed its half, or the connection is broken.
    End,
}

impl Side {
    /// A socket that does not block and is not registered.
    pub(super) fn new(socket: OwnedFd) -> Side {
        Side {
            socket,
            watched: Watched::No,
            readable: true,
            thorough: false,
            gone: false,
            writable: true,
            heard_all: false,
            said_all: false,
            broken: false,
        }
    }

    /// Has its events reported under this name, if they are not yet, including room to send where that is awaited.
    ///
    /// # Errors
    /// When the system lacks memory.
    pub(super) fn watch(&mut self, epoll: &OwnedFd, name: u64) -> Result<(), Errno> {
        let awaits_room = !self.writable && !self.said_all;
        let (wanted, room) = if awaits_room || self.watched == Watched::ForBoth {
            (Watched::ForBoth, EventFlags::OUT)
        } else {
            (Watched::ForInput, EventFlags::empty())
        };
        if wanted == self.watched {
            return Ok(());
        }
        let flags = EventFlags::IN | EventFlags::PRI | EventFlags::RDHUP | EventFlags::ET | room;
        let data = EventData::new_u64(name);
        match self.watched {
            Watched::No => epoll::add(epoll, &self.socket, data, flags)?,
            Watched::ForInput | Watched::ForBoth => epoll::modify(epoll, &self.socket, data, flags)?,
        }
        self.watched = wanted;
        Ok(())
    }

    /// Remembers what an event says.
    pub(super) fn hear(&mut self, flags: EventFlags) {
        let last = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR | EventFlags::PRI;
        if flags.intersects(EventFlags::IN | last) {
            self.readable = true;
        }
        self.thorough |= flags.intersects(last);
        self.gone |= flags.intersects(EventFlags::HUP | EventFlags::ERR);
        if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
            self.writable = true;
        }
    }

    /// Whether an event has reported that it was reset, or closed in both directions. There may be bytes to read before
    /// that.
    pub(super) fn is_gone(&self) -> bool {
        self.gone
    }

    /// What a read would find. It is left there.
    pub(super) fn peek(&mut self) -> Peeked {
        loop {
            match recv(&self.socket, &mut [0; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
                Ok((_, 0)) => return Peeked::End,
                Ok(_) => return Peeked::Bytes,
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return Peeked::Nothing;
                }
                Err(Errno::INTR) => {}
                Err(_) => return Peeked::End,
            }
        }
    }

    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Read {
        let length = buffer.len();
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::DONTWAIT) {
                Ok((_, 0)) => {
                    self.readable = false;
                    self.heard_all = true;
                    return if self.broken { Read::Broken } else { Read::End };
                }
                Ok((_, read)) => {
                    self.readable = read == length || self.thorough;
                    return Read::Bytes(read);
                }
                Err(Errno::AGAIN) => {
                    self.readable = false;
                    return Read::Nothing;
                }
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.readable = false;
                    self.fail();
                    self.heard_all = true;
                    return Read::Broken;
                }
            }
        }
    }

    /// Sends what the socket takes without waiting; bytes that can never be sent count as sent. With `more`, more
    /// follow at once.
    pub(super) fn write(&mut self, bytes: &[u8], more: bool) -> usize {
        let more = if more { SendFlags::MORE } else { SendFlags::empty() };
        let mut sent = 0;
        while sent < bytes.len() && self.writable && !self.said_all {
            match send(&self.socket, &bytes[sent..], SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more) {
                Ok(length) => sent += length,
                Err(Errno::AGAIN) => self.writable = false,
                Err(Errno::INTR) => {}
                Err(_) => self.fail(),
            }
        }
        if self.said_all { bytes.len() } else { sent }
    }

    fn fail(&mut self) {
        self.broken = true;
        self.said_all = true;
        // What it had received before can still be read, and then its end.
        self.thorough = true;
        self.readable = !self.heard_all;
    }

    /// Has the system acknowledge now what was received, and not up to 40 ms later. The other side may wait for that
    /// before it sends the rest of a message (Nagle's algorithm).
    pub(super) fn acknowledge(&self) {
        let _ = sockopt::set_tcp_quickack(&self.socket, true); // At worst it is said later.
    }

    /// The other side will read the end after what was sent.
    pub(super) fn half_close(&mut self) {
        if !self.said_all {
            self.said_all = true;
            let _ = shutdown(&self.socket, Shutdown::Write); // It fails only where the other side is gone already.
        }
    }

    /// The error that an attempt to connect has ended with. None: it is connected, or still under way.
    pub(super) fn failure(&self) -> Option<Errno> {
        sockopt::socket_error(&self.socket).unwrap_or_else(Err).err()
    }

    /// Resets it: the other side sees that this is no regular end. What was not sent is lost.
    pub(super) fn reset(self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Closes it when nothing is under way; the other side reads the end. The system keeps a connection that we close
    /// first, and its port, for a minute, but not this one, unless the other side is very quick.
    pub(super) fn close_idle(mut self) {
        if self.heard_all && !self.broken {
            return; // The other side has closed first, and keeps it.
        }
        // The end arrives first, and a program that has read the end does not see the reset that follows.
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
        self.half_close();
    }
}
