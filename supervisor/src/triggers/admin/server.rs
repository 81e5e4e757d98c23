//! Accepts the clients of the admin socket, and has each of them answered.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use interprocess::local_socket::Stream;

use super::conversation::{Answers, Asked, Time, converse};
use super::place::Place;
use super::slots::Slots;
#[cfg(unix)]
use super::unix::{ShutdownHandle, ShutdownSignal};
#[cfg(windows)]
use super::windows::{ShutdownHandle, ShutdownSignal};
use crate::event::EventSender;
use crate::instance::{InstanceLock, InstancePaths};
use crate::journal::Journal;

/// How long the end of the supervisor waits for answers that are being written.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The admin socket, served by a thread named `admin` until it is closed.
#[derive(Debug)]
pub(crate) struct Admin {
    shutdown: ShutdownHandle,
    /// Receives nothing; it is disconnected when socket and name are free.
    gone: Receiver<Infallible>,
    answers: Arc<Answers>,
}

impl Admin {
    /// Listens on the socket of a claimed place. Clients can connect when this returns. If it fails, the caller still
    /// has the lock, and with it the name.
    pub(crate) fn start(
        paths: InstancePaths,
        lock: Arc<InstanceLock>,
        events: EventSender,
        log: Journal,
    ) -> io::Result<Admin> {
        let answers = Arc::new(Answers::default());
        let (shutdown, signal) = ShutdownHandle::new(&paths)?;
        let server =
            AdminServer { answers: answers.clone(), slots: Slots::default(), last_asked: Cell::new(None), events, log };
        let (going, gone) = mpsc::channel();
        let acceptor = Acceptor { signal, place: Place::take(paths, lock)?, _going: going, server };
        thread::Builder::new().name("admin".into()).spawn(move || acceptor.serve())?;
        Ok(Admin { shutdown, gone, answers })
    }

    /// Removes the socket and releases the name. Clients that wait for an answer still get it.
    pub(crate) fn close(self) -> LastAnswers {
        self.shutdown.close(&self.gone);
        LastAnswers(self.answers)
    }
}

/// Answers still on their way to clients after the admin socket was closed.
#[derive(Debug)]
pub(crate) struct LastAnswers(Arc<Answers>);

impl LastAnswers {
    /// Waits until all have been written, but only briefly: a client that does not read loses its answer.
    pub(crate) fn wait(&self) {
        self.0.wait(LAST_ANSWERS);
    }
}

/// The state of the thread `admin`. At its end the fields are dropped in this order.
pub(super) struct Acceptor {
    // Dropped before the end is reported: the process may end then, and would have to wait for its watch to close.
    pub(super) signal: ShutdownSignal,
    pub(super) place: Place,
    // From here on socket and name are free.
    _going: Sender<Infallible>,
    pub(super) server: AdminServer,
}

/// Handles clients, each on a thread named `admin-client`.
pub(super) struct AdminServer {
    answers: Arc<Answers>,
    pub(super) slots: Slots,
    /// Whether the last client had no thread, and sent its request in time.
    last_asked: Cell<Option<Asked>>,
    events: EventSender,
    pub(super) log: Journal,
}

impl AdminServer {
    pub(super) fn handle_client(&self, client: Stream) {
        // Shared with a thread that may fail to start.
        let client = Arc::new(client);
        let (answers, events, log) = (self.answers.clone(), self.events.clone(), self.log.clone());
        let (theirs, slot) = (client.clone(), self.slots.take(client.clone()));
        let thread = thread::Builder::new().name("admin-client".into()).spawn(move || {
            converse(&theirs, Some(slot), &answers, &events, &log, Time::Own);
        });
        if thread.is_ok() {
            self.last_asked.set(None);
        } else {
            // A program that uses up all threads must not lock out its administrator. But this thread has other clients
            // to accept.
            let time = Time::borrowed(self.last_asked.get());
            let asked = converse(&client, None, &self.answers, &self.events, &self.log, time);
            self.last_asked.set(Some(asked));
        }
    }
}
