//! The supervisor, as its guardian knows it: its orders, and the reports to it.

use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::child::guardian::line::{Lines, Order, Report};

/// The other end of stdin.
#[derive(Debug)]
pub(super) struct Supervisor {
    pub(super) socket: UnixStream,
    lines: Lines,
    /// It has closed its end.
    pub(super) gone: bool,
}

impl Supervisor {
    /// The supervisor at the other end of stdin, which is a socket.
    pub(super) fn on_stdin() -> io::Result<Supervisor> {
        let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        Ok(Supervisor { socket, lines: Lines::default(), gone: false })
    }

    pub(super) fn tell(&mut self, report: &Report) {
        // If it is gone, reading the socket shows that.
        let _ = writeln!(self.socket, "{report}");
    }

    /// Reads what has arrived.
    pub(super) fn listen(&mut self) {
        let mut piece = [0; 1024];
        match self.socket.read(&mut piece) {
            Ok(length @ 1..) => self.lines.push(&piece[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(0) | Err(_) => self.gone = true,
        }
    }

    /// Takes the orders that have arrived.
    pub(super) fn requests(&mut self) -> Vec<Order> {
        // The supervisor runs the same executable, so it sends nothing else.
        self.lines.take().iter().filter_map(|line| Order::parse(line)).collect()
    }
}
