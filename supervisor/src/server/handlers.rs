//! A server that is a thread of this process: `worker`'s.

use std::fmt;
use std::io;
use std::net::TcpListener;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use worker::{Closed, ConnectionInfo, Counts, DrainReport, Handle, Handler, Ids, ServerError, Stopper, panic_message};

use super::{BuildError, Builder, Built, Clients, Closer, Ended, Generation, Opener, Watcher, lacking};
use crate::event::{Event, EventSender};
use crate::journal::Journal;
use crate::log::Level;
use crate::settings::Settings;
use crate::sync::lock;
use crate::text::{Reason, Seconds};

/// Makes the handler of a generation, and may change its settings.
pub(crate) type Factory = Box<dyn FnMut(&mut Settings) -> Result<Arc<dyn Handler>, BuildError> + Send>;

/// Builds servers on a thread named `builder`, since nobody knows what the factory does.
#[derive(Clone)]
pub(crate) struct ThreadBuilder {
    factory: Arc<Mutex<Factory>>,
    /// None: it has been closed.
    listener: Arc<Mutex<Option<TcpListener>>>,
    /// Whether others accept from it, too.
    shared_listener: bool,
    settings: Settings,
    log: Journal,
    ids: Ids,
    events: EventSender,
}

impl ThreadBuilder {
    pub(crate) fn new(
        factory: Factory,
        listener: TcpListener,
        shared_listener: bool,
        settings: Settings,
        log: Journal,
        events: EventSender,
    ) -> ThreadBuilder {
        let listener = Arc::new(Mutex::new(Some(listener)));
        let factory = Arc::new(Mutex::new(factory));
        ThreadBuilder { factory, listener, shared_listener, settings, log, ids: Ids::default(), events }
    }

    /// Has the factory make a server. Nobody knows what that does.
    fn make(&self, build: u64) -> Result<(worker::Server, Settings), BuildError> {
        let mut settings = self.settings.clone();
        let mut factory = match self.factory.try_lock() {
            Ok(factory) => factory,
            // After a panic in the factory, the next try begins as if nothing had been.
            Err(TryLockError::Poisoned(factory)) => factory.into_inner(),
            Err(TryLockError::WouldBlock) => return Err("what was to be built before hangs, and is in the way".into()),
        };
        let made = panic::catch_unwind(AssertUnwindSafe(|| {
            let handler = factory(&mut settings)?;
            Ok::<_, BuildError>(worker::Server::new(handler))
        }));
        let (events, log) = (self.events.clone(), self.log.with(settings.log));
        let server =
            made.unwrap_or_else(|panic| Err(format!("building it panicked: {}", panic_message(&*panic)).into()))?;
        let server = server
            .max_connections(settings.max_connections)
            .grace_on_failure(settings.grace)
            .shared_listener(self.shared_listener)
            .ids(self.ids.clone())
            .observer(move |event| observe(&log, &events, build, event));
        Ok((server, settings))
    }

    /// Starts the server, which has to wait until it may take connections.
    fn start(
        &self,
        build: u64,
        server: worker::Server,
        settings: Settings,
        listener: Option<&TcpListener>,
    ) -> Result<Built, BuildError> {
        let listener = listener.ok_or("the server is being stopped")?;
        let listener = listener.try_clone().map_err(|error| lacking("the listening socket", &error))?;
        let handle = server.start_closed(listener).map_err(|error| lacking("the server thread", &error))?;
        let generation = Box::new(Thread { build, handle: Some(handle), events: self.events.clone() });
        Ok(Built { generation, settings })
    }
}

impl Builder for ThreadBuilder {
    fn build(&mut self, build: u64) {
        let builder = self.clone();
        let thread = thread::Builder::new().name("builder".into()).spawn(move || {
            let made = builder.make(build);
            // Until it is sent: who closes the listener hears of each clone of it.
            let listener = lock(&builder.listener);
            let built = made.and_then(|(server, settings)| builder.start(build, server, settings, listener.as_ref()));
            // Without master control there is nobody to tell, and what was built is dropped.
            let _ = builder.events.send(Event::Built { build, built });
        });
        if let Err(error) = thread {
            let built = Err(lacking("a thread to build it", &error));
            let _ = self.events.send(Event::Built { build, built });
        }
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn close(&mut self) {
        lock(&self.listener).take();
    }
}

impl fmt::Debug for ThreadBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ThreadBuilder").field("listener", &self.listener).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Thread {
    build: u64,
    /// None: its end has been heard.
    handle: Option<Handle>,
    events: EventSender,
}

impl Thread {
    fn stopper(&self) -> &Stopper {
        // It is taken only by `end`, which consumes this.
        self.handle.as_deref().expect("a server that has not ended has a handle")
    }
}

impl Generation for Thread {
    fn opener(&self) -> Opener {
        let stopper = self.stopper().clone();
        Box::new(move |no_client| stopper.open(no_client))
    }

    fn retire_by(&self, deadline: Instant, successor: Opener) -> io::Result<()> {
        self.stopper().retire_by(deadline, successor)
    }

    fn stop_by(&self, deadline: Instant) {
        self.stopper().stop_by(deadline);
    }

    fn move_deadline(&self, deadline: Instant) {
        self.stopper().move_deadline(deadline);
    }

    fn clients(&self) -> Option<&dyn Clients> {
        Some(self.stopper())
    }

    fn check(&self, limit: Duration) {
        let (stopper, events, build) = (self.stopper().clone(), self.events.clone(), self.build);
        let thread = thread::Builder::new().name("check".into()).spawn(move || {
            // Without a descriptor to connect with nothing is known, least of all that it hangs.
            let accepting = stopper.is_accepting(limit).unwrap_or(true);
            let _ = events.send(Event::Checked { build, accepting });
        });
        if thread.is_err() {
            let _ = self.events.send(Event::Checked { build: self.build, accepting: true });
        }
    }

    fn give_up(&mut self, why: &str) {
        // Without a thread there is nothing that could let its clients go; whoever waits for that tries again.
        let _ = self.handle.as_mut().map(|handle| handle.abandon_thread(why));
    }

    fn signal(&self, _signal: i32) {
        // It is this process that got it, and a handler has no use for it.
    }

    fn end(mut self: Box<Self>) -> Result<Ended, ServerError> {
        let drain = self.handle.take().map_or_else(|| Ok(DrainReport::default()), Handle::join)?;
        Ok(Ended { drain, ..Ended::default() })
    }
}

impl Clients for Stopper {
    fn counts(&self) -> Counts {
        Stopper::counts(self)
    }

    fn connections(&self) -> Vec<ConnectionInfo> {
        Stopper::connections(self)
    }

    fn watcher(&self) -> Watcher {
        let stopper = self.clone();
        Box::new(move || stopper.connections())
    }

    fn close(&self, id: u64, grace: Duration, done: Closer) -> io::Result<Option<ConnectionInfo>> {
        let Some(connection) = self.connections().into_iter().find(|connection| connection.id == id) else {
            return Ok(None);
        };
        let (stopper, was) = (self.clone(), connection.clone());
        thread::Builder::new().name("close".into()).spawn(move || {
            // If it has disconnected meanwhile, that is what was wanted.
            let gone = || Closed { connection: was, outcome: worker::Outcome::Disconnected, stuck: false };
            done(&stopper.close(id, grace).unwrap_or_else(gone));
        })?;
        Ok(Some(connection))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(handle) = &self.handle {
            // One that cannot be woken goes on: nobody can connect to it either.
            let _ = handle.retire_by(Instant::now(), |_| {});
            handle.open(None);
        }
    }
}

/// Logs what happens in the server, and tells master control what concerns it.
fn observe(log: &Journal, events: &EventSender, build: u64, event: &worker::Event<'_>) {
    // Without master control there is nobody to tell.
    let tell = |event| drop(events.send(event));
    match event {
        worker::Event::Accepting => tell(Event::Accepting { build }),
        worker::Event::Failed { failure } => {
            tell(Event::Exited { build, reason: failure.to_string(), clean: false });
        }
        worker::Event::Finished => tell(Event::Finished { build }),
        worker::Event::Exhausted { error } => {
            let message = format!("cannot take a connection: {}; waiting until there is room again", Reason(error));
            log.line(Level::Warning, "exhausted", message, []);
        }
        worker::Event::Panicked { id, peer, message } => {
            let fields = [("id", (*id).into()), ("peer", peer.to_string().into())];
            let message = format!("the handler of connection {id} from {peer} panicked: {message}");
            log.line(Level::Error, "handler_panicked", message, fields);
        }
        worker::Event::Refused { peer } => {
            let fields = [("peer", peer.to_string().into())];
            log.line(Level::Detail, "refused", format!("{peer} refused: too many connections"), fields);
        }
        worker::Event::Connected { id, peer } if log.tells(Level::Detail) => {
            let fields = [("id", (*id).into()), ("peer", peer.to_string().into())];
            log.line(Level::Detail, "connected", format!("connection {id} from {peer}"), fields);
        }
        worker::Event::Ended { connection, outcome, error } if log.tells(Level::Detail) => {
            let how = match outcome {
                worker::Outcome::Disconnected => "disconnected",
                worker::Outcome::Closed => "closed",
                worker::Outcome::Forced => "forced",
            };
            let why = error.map(|error| format!(": {}", Reason(error))).unwrap_or_default();
            let ConnectionInfo { id, peer, age, received, sent, .. } = connection;
            let message = format!(
                "connection {id} from {peer} {how} after {}{why}, {received} bytes in, {sent} out",
                Seconds(*age)
            );
            let fields = [
                ("id", (*id).into()),
                ("peer", peer.to_string().into()),
                ("outcome", how.into()),
                ("received", (*received).into()),
                ("sent", (*sent).into()),
            ];
            log.line(Level::Detail, "ended", message, fields);
        }
        _ => {}
    }
}
