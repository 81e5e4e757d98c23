//! The admin thread on Unix: it waits for clients, for its end, and on Linux for the socket to vanish.

use std::convert::Infallible;
use std::io::{self, PipeReader, PipeWriter};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Receiver;
use std::time::Duration;

use interprocess::local_socket::Listener;
use interprocess::local_socket::traits::Listener as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

#[cfg(target_os = "linux")]
use super::linux::Watch;
use super::server::Acceptor;
use crate::instance::InstancePaths;
use crate::log::Level;
use crate::text::Reason;

/// How long to wait before trying again when the system is out of descriptors.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(100);

/// Closing this end of the pipe ends the thread `admin`.
#[derive(Debug)]
pub(super) struct ShutdownHandle(PipeWriter);

pub(super) struct ShutdownSignal {
    closed: PipeReader,
    pub(super) watch: Watch,
}

impl ShutdownHandle {
    pub(super) fn new(paths: &InstancePaths) -> io::Result<(ShutdownHandle, ShutdownSignal)> {
        let (closed, shutdown) = io::pipe()?;
        Ok((ShutdownHandle(shutdown), ShutdownSignal { closed, watch: Watch::new(paths)? }))
    }

    pub(super) fn close(self, gone: &Receiver<Infallible>) {
        drop(self.0);
        let _ = gone.recv();
    }
}

fn as_fd(listener: &Listener) -> BorrowedFd<'_> {
    match listener {
        Listener::UdSocket(listener) => listener.as_fd(),
    }
}

impl Acceptor {
    /// Runs on the thread `admin`.
    pub(super) fn serve(mut self) {
        loop {
            let closed = PollFd::new(self.signal.closed.as_fd(), PollFlags::POLLIN);
            let client = PollFd::new(as_fd(&self.listener), PollFlags::POLLIN);
            let mut sources: Vec<_> = [closed, client].into();
            sources.extend(self.signal.watch.as_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            match poll(&mut sources, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return self.give_up(&error.into()),
            }
            let [closed, client, watch] = [0, 1, 2].map(|at| sources.get(at).and_then(PollFd::any) == Some(true));
            if closed {
                return;
            }
            if client {
                match self.listener.accept() {
                    Ok(client) => self.server.handle_client(client),
                    // Nothing says when there will be a descriptor again.
                    Err(_) if self.is_closed_within(EXHAUSTED_WAIT) => return,
                    Err(_) => {}
                }
            }
            if watch && self.signal.watch.saw_something_go() && !self.is_in_place() && !self.move_in_again() {
                return;
            }
        }
    }

    fn is_closed_within(&self, limit: Duration) -> bool {
        let mut closed = [PollFd::new(self.signal.closed.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::ZERO);
        poll(&mut closed, limit).is_ok_and(|ready| ready > 0)
    }

    pub(super) fn give_up(&self, error: &io::Error) {
        let message = format!("the admin socket is gone ({}); Enter and signals still work", Reason(error));
        self.server.log.line(Level::Error, "admin_socket_lost", message, []);
    }
}

/// Elsewhere nothing tells that the socket's file was deleted.
#[cfg(not(target_os = "linux"))]
pub(super) struct Watch;

#[cfg(not(target_os = "linux"))]
impl Watch {
    fn new(_place: &InstancePaths) -> io::Result<Watch> {
        Ok(Watch)
    }

    fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn saw_something_go(&self) -> bool {
        false
    }
}

#[cfg(not(target_os = "linux"))]
impl Acceptor {
    fn is_in_place(&self) -> bool {
        true
    }

    fn move_in_again(&mut self) -> bool {
        true
    }
}
