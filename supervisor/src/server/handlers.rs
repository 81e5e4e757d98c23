//! Generations of a server whose connections are served by handlers in this process: `worker`'s, on one port.

use std::fmt;
use std::io;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use worker::{ConnectionInfo, Counts, Handle, Handler, Ids, Port, ServerError, Stopper, panic_message};

use super::quiet::await_quiet;
use super::{
    Availability, BuildError, Builder, Built, Clients, Closer, Deadline, Ended, Failure, Generation, Watcher,
    close_on_a_thread, lacking,
};
use crate::event::{Event, EventSender};
use crate::journal::Journal;
use crate::log::Level;
use crate::settings::Settings;
use crate::sync::lock;
use crate::text::{Reason, Seconds};

/// How long a look at what is to be served may take. Those that ask do not wait much longer.
const LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Makes the handler of a generation, and may change its settings.
pub(crate) type Factory = Box<dyn FnMut(&mut Settings) -> Result<Arc<dyn Handler>, BuildError> + Send>;

/// Builds generations on a thread named `builder`, because the factory may do anything.
#[derive(Clone)]
pub(crate) struct HandlerBuilder {
    factory: Arc<Mutex<Factory>>,
    port: Arc<Port>,
    settings: Settings,
    log: Journal,
    ids: Ids,
    events: EventSender,
}

impl HandlerBuilder {
    pub(crate) fn new(
        factory: Factory,
        port: Arc<Port>,
        settings: Settings,
        log: Journal,
        events: EventSender,
    ) -> HandlerBuilder {
        HandlerBuilder { factory: Arc::new(Mutex::new(factory)), port, settings, log, ids: Ids::default(), events }
    }

    /// Has the factory, which may do anything, build a server.
    fn make(&self, build: u64) -> Result<(worker::Server, Settings), BuildError> {
        let mut settings = self.settings.clone();
        let mut factory = match self.factory.try_lock() {
            Ok(factory) => factory,
            // After a panic in the factory, the next try begins as if nothing had happened.
            Err(TryLockError::Poisoned(factory)) => factory.into_inner(),
            Err(TryLockError::WouldBlock) => return Err("a previous build is still running".into()),
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
            .ids(self.ids.clone())
            .observer(move |event| observe(&log, &events, build, event));
        Ok((server, settings))
    }

    /// Starts a server that gets no clients yet.
    fn start(&self, build: u64, server: worker::Server, settings: Settings) -> Result<Built, BuildError> {
        let handle = server.build(&self.port).map_err(|error| lacking("the server thread", &error))?;
        let unless_ended = StopOnDrop(handle.stopper());
        let generation = Box::new(HandlerGeneration {
            build,
            handle,
            unless_ended,
            events: self.events.clone(),
            look: Arc::default(),
        });
        Ok(Built { generation, settings, overlap: Duration::ZERO, program: None })
    }
}

impl Builder for HandlerBuilder {
    fn build(&mut self, build: u64) {
        let builder = self.clone();
        let thread = thread::Builder::new().name("builder".into()).spawn(move || {
            let made = builder.make(build);
            let built = made.and_then(|(server, settings)| builder.start(build, server, settings));
            // Without master control the result cannot be reported, and is dropped.
            let _ = builder.events.send(Event::Built { build, built });
        });
        if let Err(error) = thread {
            let built = Err(lacking("a thread to build it", &error));
            let _ = self.events.send(Event::Built { build, built });
        }
    }

    /// The last generation serves until the next one has been built.
    fn prepare(&mut self, build: u64) {
        let _ = self.events.send(Event::Prepared { build, prepared: Ok(()) });
    }

    fn overlaps(&self) -> bool {
        true
    }

    fn set_in_rotation(&self, in_rotation: bool) {
        self.port.set_in_rotation(in_rotation);
    }

    fn pause(&self, pause: u64) -> Result<usize, String> {
        await_quiet(self.port.pause(), pause, &self.events).inspect_err(|_| self.port.resume())
    }

    fn resume(&self) {
        self.port.resume();
    }

    fn close(&mut self, _: Deadline) {
        self.port.close();
    }
}

impl fmt::Debug for HandlerBuilder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HandlerBuilder").field("port", &self.port).finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct HandlerGeneration {
    build: u64,
    handle: Handle,
    unless_ended: StopOnDrop,
    events: EventSender,
    look: Arc<Mutex<Look>>,
}

/// The look at what is to be served. There is one at a time, so a disk that does not answer blocks no more threads.
#[derive(Default)]
enum Look {
    #[default]
    Over,
    /// It is under way, and all callers that ask meanwhile get its result.
    UnderWay(Vec<Availability>),
    /// It has not ended in time.
    Overdue,
}

impl fmt::Debug for Look {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Look").finish_non_exhaustive()
    }
}

impl HandlerGeneration {
    fn stopper(&self) -> &Stopper {
        &self.unless_ended.0
    }
}

/// Stops a generation at once if it is dropped before its end. After that there is nothing to stop.
#[derive(Debug)]
struct StopOnDrop(Stopper);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop_by(Instant::now());
    }
}

impl Generation for HandlerGeneration {
    fn serve(&self) {
        self.stopper().serve();
    }

    fn retire_by(&self, deadline: Deadline, spread: Duration) {
        self.stopper().retire_over(spread, deadline.at());
    }

    fn stop_by(&self, deadline: Deadline, spread: Duration) {
        self.stopper().stop_over(spread, deadline.at());
    }

    fn move_deadline(&self, deadline: Deadline) {
        self.stopper().move_deadline(deadline.at());
    }

    fn clients(&self) -> Option<&dyn Clients> {
        Some(self.stopper())
    }

    fn check(&self, limit: Duration) {
        let (stopper, events, build) = (self.stopper().clone(), self.events.clone(), self.build);
        let thread = thread::Builder::new().name("check".into()).spawn(move || {
            let accepting = stopper.is_accepting(limit);
            let _ = events.send(Event::Checked { build, accepting });
        });
        if thread.is_err() {
            // Nothing is known, least of all that it hangs.
            let _ = self.events.send(Event::Checked { build: self.build, accepting: true });
        }
    }

    fn available(&self, done: Availability) {
        let mut look = lock(&self.look);
        match &mut *look {
            Look::Over => *look = Look::UnderWay(vec![done]),
            Look::UnderWay(waiting) => return waiting.push(done),
            Look::Overdue => {
                drop(look);
                return done(overdue());
            }
        }
        drop(look);
        let (stopper, look) = (self.stopper().clone(), self.look.clone());
        let thread = thread::Builder::new().name("check".into()).spawn(move || look_within_limit(stopper, &look));
        if thread.is_err() {
            // Nothing is known, least of all that something is missing.
            end_look(&self.look, Look::Over, &Ok(()));
        }
    }

    fn give_up(&mut self, why: &str) {
        self.stopper().give_up(why);
    }

    /// This process got the signal, and a handler has no use for it.
    fn signal(&self, _signal: i32) -> bool {
        true
    }

    fn end(self: Box<Self>) -> Result<Ended, ServerError> {
        let drain = self.handle.join()?;
        Ok(Ended { drain, ..Ended::default() })
    }
}

/// Looks whether there is something to serve. A disk may not answer at all, and callers want to hear that, too.
fn look_within_limit(stopper: Stopper, look: &Mutex<Look>) {
    let (tell, told) = mpsc::channel();
    let looks = move || {
        let available = panic::catch_unwind(AssertUnwindSafe(|| stopper.available()));
        let available = available.unwrap_or_else(|panic| Err(io::Error::other(panic_message(&*panic))));
        let _ = tell.send(available.map_err(|error| error.to_string()));
    };
    // Without a thread, the sender is dropped.
    drop(thread::Builder::new().name("check".into()).spawn(looks));
    match told.recv_timeout(LOOK_LIMIT) {
        Ok(available) => end_look(look, Look::Over, &available),
        Err(RecvTimeoutError::Timeout) => {
            end_look(look, Look::Overdue, &overdue());
            // What it finds is too old, but the next look may begin then.
            let _ = told.recv();
            end_look(look, Look::Over, &Ok(()));
        }
        // Nothing is known, least of all that something is missing.
        Err(RecvTimeoutError::Disconnected) => end_look(look, Look::Over, &Ok(())),
    }
}

fn overdue() -> Result<(), String> {
    Err(format!("what is to be served could not be read within {}", Seconds(LOOK_LIMIT)))
}

/// Ends the wait for a look: later callers do not get this result.
fn end_look(look: &Mutex<Look>, now: Look, available: &Result<(), String>) {
    let before = mem::replace(&mut *lock(look), now);
    if let Look::UnderWay(waiting) = before {
        waiting.into_iter().for_each(|done| done(available.clone()));
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
        let stopper = self.clone();
        close_on_a_thread(self.connections(), id, move || stopper.close(id, grace), done)
    }
}

/// Logs what happens in the server, and tells master control what concerns it.
fn observe(log: &Journal, events: &EventSender, build: u64, event: &worker::Event<'_>) {
    // Without master control the event cannot be reported.
    let tell = |event| drop(events.send(event));
    match event {
        // Another generation could not accept either.
        worker::Event::Failed { failure: failure @ worker::Failure::Accept(_) } => {
            tell(Event::PortFailed { reason: failure.to_string() });
        }
        worker::Event::Failed { failure } => {
            tell(Event::Exited { build, failure: Failure::because(failure.to_string(), Vec::new()) });
        }
        worker::Event::Finished => tell(Event::Finished { build }),
        event => log_event(log, event),
    }
}

/// Logs what happens to connections.
pub(crate) fn log_event(log: &Journal, event: &worker::Event<'_>) {
    match event {
        worker::Event::Exhausted { error } => {
            let message = format!("cannot take a connection: {}; waiting until there is room again", Reason(error));
            log.line(Level::Warning, "exhausted", message, []);
        }
        worker::Event::Opaque { id, peer, protocol } => {
            let fields = [("id", (*id).into()), ("peer", peer.to_string().into()), ("protocol", (*protocol).into())];
            let message = format!(
                "connection {id} from {peer} speaks {protocol}, which --relay http passes on unchanged, without moving it at a \
                 restart; use --relay tcp if that is what the program serves"
            );
            log.line(Level::Warning, "not_http", message, fields);
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
