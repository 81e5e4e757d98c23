//! Warns of a program that does not accept the connections that wait on the sockets that it was passed.

use std::io::{self, PipeReader, PipeWriter};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::listeners::waiting_at;
use crate::journal::Journal;
use crate::log::Level;
use crate::sync::lock;

/// How long a connection may wait.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many times to look at the waiting connections: while an old generation ends, it may accept some of them.
const LOOKS: usize = 12;

/// Watches the queues of a program's sockets until connections are seen to be accepted.
#[derive(Debug)]
pub(super) struct Watch {
    /// Dropped when the program has to end, or has ended.
    end: PipeWriter,
    listeners: Arc<Mutex<Vec<(SocketAddr, TcpListener)>>>,
}

impl Watch {
    /// Starts watching, on a thread named `queues`. None: there is nothing to watch.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn begin(sockets: Vec<OwnedFd>, log: Journal) -> io::Result<Option<Watch>> {
        let listeners = sockets.into_iter().map(TcpListener::from);
        // A Unix socket has no such address, and the system does not show the connections that wait on it.
        let listeners = listeners.filter_map(|listener| Some((listener.local_addr().ok()?, listener)));
        let listeners: Vec<_> = listeners.collect();
        if listeners.is_empty() {
            return Ok(None);
        }
        let (until, end) = io::pipe()?;
        let listeners = Arc::new(Mutex::new(listeners));
        let queues = Queues { listeners: listeners.clone(), log, until };
        thread::Builder::new().name("queues".into()).spawn(move || queues.watch())?;
        Ok(Some(Watch { end, listeners }))
    }

    /// Ends the watch and closes its sockets. Its thread may still be examining the waiting connections, which can take
    /// a second on a machine with many connections; no stop waits for that.
    pub(super) fn end(self) {
        drop(self.end);
        lock(&self.listeners).clear();
    }
}

#[derive(Debug)]
struct Queues {
    /// Locked only during a wait, which ends when the pipe is closed.
    listeners: Arc<Mutex<Vec<(SocketAddr, TcpListener)>>>,
    log: Journal,
    /// Closed when the program has to end, or has ended.
    until: PipeReader,
}

impl Queues {
    fn watch(&self) {
        for _ in 0..LOOKS {
            let Some(address) = self.first_client() else { return };
            let waiting = waiting_at(address);
            if self.is_over_within(PATIENCE) {
                return;
            }
            let still = waiting_at(address);
            if !waiting.is_disjoint(&still) {
                let port = address.port();
                let message = format!(
                    "no process accepts from port {port}: does the program take passed sockets? If it binds a port itself, add \
                     --relay http or --relay tcp, and let it bind the port in PORT"
                );
                let fields = [("address", address.to_string().into()), ("waiting", still.len().into())];
                self.log.line(Level::Warning, "not_accepted", message, fields);
                return;
            }
        }
    }

    /// The address on which a client waits. None: the program has to end, or has ended.
    fn first_client(&self) -> Option<SocketAddr> {
        let listeners = lock(&self.listeners);
        loop {
            let mut wanted = vec![PollFd::new(self.until.as_fd(), PollFlags::POLLIN)];
            wanted.extend(listeners.iter().map(|(_, listener)| PollFd::new(listener.as_fd(), PollFlags::POLLIN)));
            match poll(&mut wanted, PollTimeout::NONE) {
                Ok(_) => {}
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
            }
            if wanted[0].any().unwrap_or(true) {
                return None;
            }
            let ready = wanted[1..].iter().position(|wanted| wanted.any().unwrap_or(false))?;
            return Some(listeners[ready].0);
        }
    }

    /// Whether the program has to end, or ends, before this time has passed.
    fn is_over_within(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let mut wanted = [PollFd::new(self.until.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return true,
            }
        }
    }
}
