//! The supervisor, as its guardian knows it: what it orders, and what is reported to it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::child::guardian::line::{Lines, Order, Report};

/// The other end of stdin.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) socket: UnixStream,
    lines: Lines,
    /// Its end has been seen.
    pub(super) gone: bool,
}

impl Supervisor {
    /// Stdin is the socket to it.
    pub(super) fn on_stdin() -> io::Result<Supervisor> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Supervisor { socket, lines: Lines::default(), gone: false })
    }

    pub(super) fn tell(&mut self, report: &Report) {
        // If it is gone, its end of the socket says so.
        let _ = writeln!(self.socket, "{report}");
    }

    /// Takes what is there.
    pub(super) fn listen(&mut self) {
        let mut piece = [0; 1024];
        match self.socket.read(&mut piece) {
            Ok(length @ 1..) => self.lines.push(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => self.gone = true,
        }
    }

    /// What it has said and has not been dealt with.
    pub(super) fn requests(&mut self) -> Vec<Order> {
        // It has the very same program, so it says nothing else.
        self.lines.take().iter().filter_map(|line| Order::parse(line)).collect()
    }
}
