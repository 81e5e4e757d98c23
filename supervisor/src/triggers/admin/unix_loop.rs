//! The admin thread on Unix: it waits for clients, for its end, and on Linux for the socket to vanish.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::{Duration, Instant};

use interprocess::local_socket::Listener;
use interprocess::local_socket::traits::Listener as _;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::server::Acceptor;
use crate::log::Level;
use crate::text::Reason;

/// How long to wait before trying again when the system is out of descriptors. A client that is disconnected for that
/// reason has usually returned its descriptor by then.
const EXHAUSTED_WAIT: Duration = Duration::from_millis(20);

/// How long to wait before trying again to recreate what is missing: the first wait, the wait that is worth a line in
/// the log, and the longest. The wait doubles each time. While a directory is being deleted, the first tries fail.
const FIRST_RETRY: Duration = Duration::from_millis(20);
const LOGGED_RETRY: Duration = Duration::from_millis(160);
const LAST_RETRY: Duration = Duration::from_millis(5120);

fn as_fd(listener: &Listener) -> BorrowedFd<'_> {
    match listener {
        Listener::UdSocket(listener) => listener.as_fd(),
    }
}

/// When to try again to recreate what is missing, or to watch it, and how long that wait is.
#[derive(Debug, Clone, Copy)]
struct Retry {
    at: Instant,
    wait: Duration,
}

impl Retry {
    fn after(failed: Option<Retry>) -> Retry {
        let wait = failed.map_or(FIRST_RETRY, |failed| (failed.wait * 2).min(LAST_RETRY));
        Retry { at: Instant::now() + wait, wait }
    }

    fn is_due(&self) -> bool {
        self.at <= Instant::now()
    }
}

impl Acceptor {
    /// Runs on the thread `admin`.
    pub(super) fn serve(mut self) {
        let mut unwatched = self.watch(None);
        // Nothing has announced what happened before.
        let mut retry = self.look_after_place(None);
        loop {
            if !self.signal.watch.sees_all() {
                unwatched.get_or_insert_with(|| Retry::after(None));
            }
            let closed = PollFd::new(self.signal.closed.as_fd(), PollFlags::POLLIN);
            let client = PollFd::new(as_fd(&self.place.listener), PollFlags::POLLIN);
            let mut sources: Vec<_> = [closed, client].into();
            sources.extend(self.signal.watch.as_fd().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
            let next = [retry, unwatched].into_iter().flatten().map(|retry| retry.at).min();
            let limit = next.map_or(PollTimeout::NONE, timeout_until);
            let polled = poll(&mut sources, limit);
            let [closed, client, watch] = [0, 1, 2].map(|at| sources.get(at).and_then(PollFd::any) == Some(true));
            match polled {
                Ok(_) if closed => return,
                Ok(_) | Err(Errno::EINTR) => {}
                // The system is out of memory, and nothing announces when it has some again.
                Err(_) => {
                    thread::sleep(EXHAUSTED_WAIT);
                    continue;
                }
            }
            if client {
                match self.place.listener.accept() {
                    Ok(client) => self.server.handle_client(client),
                    Err(error) => {
                        if is_exhaustion(&error) {
                            self.server.slots.make_room();
                        }
                        // Nothing announces when there is a descriptor again.
                        if self.is_closed_within(EXHAUSTED_WAIT) {
                            return;
                        }
                    }
                }
            }
            let seen = watch && self.signal.watch.saw_something_go();
            let is_due = |retry: Option<Retry>| retry.is_some_and(|retry| retry.is_due());
            if seen || is_due(retry) || is_due(unwatched) {
                // First, so that nothing is deleted unseen between the look and the watch.
                unwatched = self.watch(unwatched);
                retry = self.look_after_place(retry);
            }
        }
    }

    /// Watches the place. If the system gives no watch, the place is looked at each time that this is tried again: only
    /// that then shows that the socket was deleted.
    fn watch(&mut self, failed: Option<Retry>) -> Option<Retry> {
        if self.signal.watch.sees_all() {
            return None;
        }
        let error = self.signal.watch.look_at(&self.place.paths).err()?;
        let retry = Retry::after(failed);
        if retry.wait == LOGGED_RETRY && self.place.is_whole() {
            let message = format!(
                "cannot watch the admin socket ({}): if it is deleted, it is restored after some seconds and not at \
                 once; raise the limit on inotify instances or on descriptors",
                Reason(&error)
            );
            self.server.log.line(Level::Warning, "admin_socket_unwatched", message, []);
        }
        Some(retry)
    }

    fn is_closed_within(&self, limit: Duration) -> bool {
        let mut closed = [PollFd::new(self.signal.closed.as_fd(), PollFlags::POLLIN)];
        poll(&mut closed, timeout_until(Instant::now() + limit)).is_ok_and(|ready| ready > 0)
    }

    /// Recreates what is missing. If that fails, it is tried again: a directory may reappear, and descriptors may
    /// become free.
    fn look_after_place(&mut self, failed: Option<Retry>) -> Option<Retry> {
        if failed.is_none() && self.place.is_whole() {
            return None;
        }
        match self.place.restore(&mut self.signal.watch) {
            Ok(()) => {
                let path = self.place.paths.socket.display();
                let message = format!("the admin socket was deleted, and has been restored: {path}");
                self.server.log.line(Level::Warning, "admin_socket_restored", message, []);
                None
            }
            Err(error) => {
                let retry = Retry::after(failed);
                if retry.wait == LOGGED_RETRY {
                    let reason = Reason(&error);
                    let message = format!("the admin socket is gone ({reason}); trying again, signals still work");
                    self.server.log.line(Level::Error, "admin_socket_lost", message, []);
                }
                Some(retry)
            }
        }
    }
}

/// Whether there may be a descriptor or memory for one more client when one of ours is returned.
fn is_exhaustion(error: &io::Error) -> bool {
    let number = error.raw_os_error().map(Errno::from_raw);
    matches!(number, Some(Errno::EMFILE | Errno::ENFILE | Errno::ENOBUFS | Errno::ENOMEM))
}

/// A timeout that lasts at least until then: rounded up.
fn timeout_until(end: Instant) -> PollTimeout {
    let left = end.saturating_duration_since(Instant::now());
    PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX)
}
