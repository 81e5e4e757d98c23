//! A running supervisor: waited for, or controlled from code.

use std::any::Any;
use std::net::SocketAddr;
use std::panic;
use std::sync::mpsc::{Receiver, RecvError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::Error;
use crate::event::{Event, EventSender, Trigger};
use crate::listen::Address;
use crate::report::Report;
use crate::triggers::signals::Signals;

/// A running supervisor. Dropping this leaves it running.
#[derive(Debug)]
#[must_use = "it says how the server ends; dropping it leaves the server running"]
pub struct Handle<L = SocketAddr> {
    pub(crate) control: Control,
    /// What the server listens on: one address, or what a program got.
    pub(crate) listens_on: L,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) course: Course,
}

#[derive(Debug)]
pub(crate) enum Course {
    Underway(Underway),
    /// It was stopped before the server was ready.
    Ended(Report),
}

impl Handle<SocketAddr> {
    /// The address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.listens_on
    }
}

impl Handle<Vec<Address>> {
    /// The addresses of the sockets that the program got.
    pub fn addresses(&self) -> &[Address] {
        &self.listens_on
    }
}

impl<L> Handle<L> {
    /// The address of the health endpoint, if there is one.
    pub fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// A handle that stops or restarts the server from any thread.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until the server has stopped, whatever caused that, and returns what became of its connections.
    ///
    /// # Errors
    /// When the server failed instead of being stopped, and is not started again.
    pub fn wait(self) -> Result<Report, Error> {
        match self.course {
            Course::Underway(underway) => underway.wait(),
            Course::Ended(report) => Ok(report),
        }
    }
}

/// Stops or restarts a server from any thread, even a handler's own, because it only asks and does not wait.
#[derive(Debug, Clone)]
pub struct Control {
    pub(crate) events: EventSender,
}

impl Control {
    /// Requests a stop, in which clients get this long to disconnect. A stop that is under way can be shortened, but
    /// not extended.
    pub fn stop(&self, grace: Duration) {
        // An error means that the server has stopped already.
        let _ = self.events.send(Event::Stop { by: Trigger::Code, grace: Some(grace) });
    }

    /// Requests a restart: a new generation of the server takes over, and clients of the old one get this long to
    /// disconnect. If it fails, that is logged, and the old generation keeps serving.
    pub fn restart(&self, grace: Duration) {
        // An error means that the server has stopped already.
        let _ = self.events.send(Event::Restart { by: Trigger::Code, grace: Some(grace) });
    }
}

/// Master control, until it has ended.
#[derive(Debug)]
pub(crate) struct Underway {
    pub(crate) reported: Receiver<(Result<Report, Error>, Remains)>,
    pub(crate) thread: JoinHandle<()>,
}

impl Underway {
    /// Waits for the report, but not for the thread that has made it, which has nothing more to do.
    pub(crate) fn wait(self) -> Result<Report, Error> {
        match self.reported.recv() {
            Ok((end, _remains)) => end,
            Err(RecvError) => match self.thread.join() {
                // Master control does not panic. If it did, the panic would reach the caller.
                Err(panic) => panic::resume_unwind(panic),
                Ok(()) => unreachable!("it ends with its report"),
            },
        }
    }
}

/// Everything that is not needed after the report. Dropping it ends threads. The receiver of the report drops it: if
/// master control did, each of these threads could run first in a process that is about to exit.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) _signals: Option<Signals>,
    pub(crate) _threads: Box<dyn Any + Send>,
}
