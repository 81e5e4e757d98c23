//! What is started, in which order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use worker::Port;

use crate::announcement::Announcement;
use crate::builder::{Handlers, Options, Programs, Supervisor};
#[cfg(target_os = "linux")]
use crate::child::Relaying;
use crate::child::{self, Children, Front};
use crate::client::{self, Patience};
use crate::error::Error;
use crate::event::{Event, EventSender};
use crate::handle::{Control, Course, Handle, Underway};
use crate::health::Health;
use crate::holder;
use crate::host::Manager;
use crate::instance::{InstanceLock, InstanceLockError, InstanceName, InstancePaths};
use crate::journal::Journal;
use crate::listen::{self, Address, ProgramSocket};
use crate::log::Level;
use crate::master::{Identity, Master};
use crate::protocol::{Answer, Request};
use crate::report::Report;
use crate::server::Builder;
use crate::server::handlers::HandlerBuilder;
#[cfg(target_os = "linux")]
use crate::settings::RelayOptions;
use crate::settings::{AdminSocket, Settings};
use crate::text;
use crate::triggers::admin::{Admin, LAST_ANSWERS};
use crate::triggers::console;
use crate::triggers::signals::Signals;
use crate::watchdog::{self, Watchdog};

/// Where the clients of a server come from.
#[derive(Debug)]
pub enum Listen {
    /// An address that is bound for it, unless the service manager has passed a socket on it ([`Supervisor::passed`]).
    Bind(SocketAddr),
    /// A listener that is bound already, and that this supervisor has for itself.
    Listener(TcpListener),
    /// A listener from which others accept, too, or will, see [`worker::Port::start_shared`]: a stop leaves it, and
    /// the clients that wait in its queue, to them.
    Shared(TcpListener),
}

/// How often to look whether an address is free that was not. Nothing announces that.
const LOOK: Duration = Duration::from_millis(10);

/// How long a lock may outlive the supervisor that had it.
const FORKED: Duration = Duration::from_millis(500);

/// How long a service manager may take to close what it had kept at an address.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// An instance's name, taken: no other one has its paths.
type Claimed = (InstancePaths, InstanceLock);

/// What a supervisor listens on, before there is a server.
struct Bound<L, F> {
    /// What the handle says.
    listens_on: L,
    addresses: Vec<Address>,
    /// Dropped when nothing listens any more, and before that is reported.
    files: F,
    /// Where the listener comes from, for people, if that is not a matter of course.
    whence: String,
}

impl Supervisor<Handlers> {
    /// Starts. When this returns, the server takes connections and all triggers are in place, or it was stopped before
    /// it was ready: the triggers are there before.
    ///
    /// # Errors
    /// When the address cannot be bound, the name is taken, the server cannot be built, or something else that is
    /// needed cannot be had. Nothing is left behind then; a listener is closed.
    pub fn start(self, listen: Listen) -> Result<Handle, Error> {
        let Supervisor { source: Handlers(factory), mut options } = self;
        // The name first: of two that are started with the same name, the second hears that, and not of a taken port.
        let claimed = claim(&options)?;
        let mut manager = options.manager();
        let (listener, shared, bound) = match listen {
            Listen::Bind(address) => options.bind_one(address, &mut manager)?,
            Listen::Listener(listener) => options.bound(listener, false, String::new())?,
            Listen::Shared(listener) => options.bound(listener, true, String::new())?,
        };
        start(options, bound, manager, claimed, Supervised::Handlers, |settings, events, log| {
            let port = if shared { Port::start_shared(listener) } else { Port::start(listener) };
            let port = Arc::new(port.map_err(lacking("the port"))?);
            Ok((Box::new(HandlerBuilder::new(factory, port.clone(), settings, log, events)), port))
        })
    }
}

impl Supervisor<Programs> {
    /// Binds the sockets and starts the program, which gets them. When this returns it is ready, and all
    /// triggers are in place. The path of a Unix socket is removed at the end.
    ///
    /// No other child process may be started by this process from then on: on Unix only the supervisor may wait
    /// for one, and on Windows it would be taken for the program's, and ended with it.
    ///
    /// # Errors
    /// When an address cannot be bound, the name is taken, the program cannot be started or is not ready in time, or
    /// something else that is needed cannot be had: on Windows that is any socket. Nothing is left behind then.
    pub fn start(self, sockets: &[ProgramSocket]) -> Result<Handle<Vec<Address>>, Error> {
        let Supervisor { source: Programs(factory), mut options } = self;
        let claimed = claim(&options)?;
        let mut manager = options.manager();
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.address.clone()).collect();
        let (found, patience) = options.find_kept(&addresses, &mut manager);
        let mut bound = options.passed.take();
        let (passed, kept) = (bound.len(), found.iter().flatten().count());
        for (socket, found) in sockets.iter().zip(&found) {
            let again = || found.as_ref().map_or_else(|| listen::Bound::new(socket), |found| found.again(socket));
            let mut one = bind(&socket.address, patience, again)?;
            let is_kept = manager.keep(found.is_some(), || one.try_clone()).map_err(lacking("a listening socket"))?;
            if let Some(file) = one.file.as_mut().filter(|_| is_kept) {
                file.keep();
            }
            bound.push(one);
        }
        let names = listen::names(&bound);
        let (mut sockets, mut files, mut bound_to) = (Vec::new(), Vec::new(), Vec::new());
        for (one, name) in bound.into_iter().zip(names) {
            sockets.push(child::Socket { name, socket: one.socket });
            files.extend(one.file);
            bound_to.push(one.address);
        }
        let whence = whence(passed, kept, bound_to.len());
        let bound = Bound { listens_on: bound_to.clone(), addresses: bound_to, files, whence };
        start(options, bound, manager, claimed, Supervised::Program, |settings, events, log| {
            let lacking = lacking("the program's guardian");
            let children = Children::new(factory, Front::Sockets(sockets), settings, log, events).map_err(lacking)?;
            #[cfg(unix)]
            children.reap_orphans().map_err(lacking)?;
            Ok((Box::new(children), ()))
        })
    }

    /// Binds the address and starts the program, to which the clients of that address are relayed. Each generation gets
    /// a port of its own (`PORT` in its environment, `{port}` in its arguments), so the program needs to know nothing of
    /// sockets from others, and no connection is lost when it is replaced. The rest is as with [`Supervisor::start`].
    ///
    /// A stop may take five seconds longer than the grace period: the program is asked to end when the last connection
    /// has ended, or at the deadline, and is killed five seconds after that.
    ///
    /// # Errors
    /// As with [`Supervisor::start`].
    #[cfg(target_os = "linux")]
    pub fn start_relayed(self, address: SocketAddr, relay: &RelayOptions) -> Result<Handle<SocketAddr>, Error> {
        let Supervisor { source: Programs(factory), mut options } = self;
        let claimed = claim(&options)?;
        let mut manager = options.manager();
        let (listener, shared, bound) = options.bind_one(address, &mut manager)?;
        start(options, bound, manager, claimed, Supervised::RelayedProgram, |settings, events, log| {
            let relaying = Relaying::start(listener, shared, relay, log.clone(), events.clone());
            let relaying = relaying.map_err(lacking("the relay"))?;
            let lacking = lacking("the program's guardian");
            let children = Children::new(factory, Front::Relay(relaying), settings, log, events).map_err(lacking)?;
            children.reap_orphans().map_err(lacking)?;
            Ok((Box::new(children), ()))
        })
    }
}

impl Options {
    /// The service manager that is to be told, if there is one.
    fn manager(&self) -> Manager {
        if self.service_manager { Manager::from_environment(self.journal.clone()) } else { Manager::none() }
    }

    /// What the service manager has kept for each of these addresses. It forgets the rest. The time is how long one of them
    /// may be taken until then.
    fn find_kept(&mut self, addresses: &[Address], manager: &mut Manager) -> (Vec<Option<listen::Bound>>, Duration) {
        let (found, rest) = self.passed.take_kept(addresses);
        for kept in &rest {
            let why = kept.why_not(addresses);
            let message = format!("closed a listener that the service manager had kept: {why}");
            self.journal.line(Level::Info, "listener_closed", message, []);
            manager.forget(kept);
        }
        (found, if rest.is_empty() { Duration::ZERO } else { FORGOTTEN })
    }

    /// The listener of a server that has one, and whether it is shared: the one that was passed or kept, or one that is bound
    /// now.
    fn bind_one(
        &mut self,
        address: SocketAddr,
        manager: &mut Manager,
    ) -> Result<(TcpListener, bool, Bound<SocketAddr, ()>), Error> {
        if let Some(listener) = self.passed.take_tcp(address) {
            self.find_kept(&[], manager);
            return self.bound(listener, true, whence(1, 0, 1));
        }
        let (mut found, patience) = self.find_kept(&[Address::Tcp(address)], manager);
        let kept = found.pop().flatten().and_then(listen::Bound::into_tcp);
        let is_kept = kept.is_some();
        let listener = match kept {
            Some(listener) => listener,
            None => bind(&Address::Tcp(address), patience, || listen::bind_tcp(address))?,
        };
        let shared = manager.keep(is_kept, || listen::Bound::of_tcp(&listener)).map_err(lacking("the listener"))?;
        self.bound(listener, shared, whence(0, is_kept.into(), 1))
    }

    /// The server has this listener, and no other one.
    fn bound(
        &mut self,
        listener: TcpListener,
        shared: bool,
        whence: String,
    ) -> Result<(TcpListener, bool, Bound<SocketAddr, ()>), Error> {
        let address = listener.local_addr().map_err(lacking("the listener"))?;
        if let Some(other) = self.passed.addresses().first() {
            let message = format!("it is on {other}, and the server listens on {address} alone");
            return Err(lacking("on a socket that the service manager passed")(io::Error::other(message)));
        }
        let addresses = vec![Address::Tcp(address)];
        Ok((listener, shared, Bound { listens_on: address, addresses, files: (), whence }))
    }
}

/// Where listeners come from, for people, if that is not a matter of course: so many were passed, and so many kept.
fn whence(passed: usize, kept: usize, all: usize) -> String {
    let some = |number: usize, how: &str| match (number, all) {
        (0, _) => String::new(),
        (1, 1) => format!(", socket {how} by the service manager"),
        (number, all) if number == all => format!(", sockets {how} by the service manager"),
        (number, all) => format!(", {number} of {all} sockets {how} by the service manager"),
    };
    some(passed, "passed") + &some(kept, "kept")
}

/// What is supervised, as far as that makes a difference here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Supervised {
    Handlers,
    /// It gets the signals that ask nothing of the supervisor, and only it knows its connections.
    Program,
    /// It gets the signals, and its connections are ours.
    #[cfg(target_os = "linux")]
    RelayedProgram,
}

impl Supervised {
    fn has_program(self) -> bool {
        self != Supervised::Handlers
    }

    fn has_clients(self) -> bool {
        self != Supervised::Program
    }
}

/// `builder` makes what makes the generations, and something that is dropped when their end has been reported.
fn start<L, T: Send + 'static>(
    options: Options,
    bound: Bound<L, impl Send + 'static>,
    manager: Manager,
    claimed: Option<Claimed>,
    supervised: Supervised,
    builder: impl FnOnce(Settings, EventSender, Journal) -> Result<(Box<dyn Builder>, T), Error>,
) -> Result<Handle<L>, Error> {
    let Bound { listens_on, addresses, files, whence } = bound;
    let health = options.health.map(|health| bind_health(health, &addresses)).transpose()?;
    let log = options.journal.clone();
    let watchdog = options.last_resort.then(|| Watchdog::start(log.clone())).transpose();
    let watchdog = watchdog.map_err(lacking("the last resort"))?;
    let (events, received) = mpsc::channel();
    let events = EventSender::new(events, watchdog.clone());
    if options.console.is_some() {
        console::block_job_control().map_err(lacking("the console"))?;
    }
    let (builder, threads) = builder(options.settings.clone(), events.clone(), log.clone())?;
    // From here on a stop may be requested, also while the server is not ready yet.
    let mut triggers = Triggers::start(&options, &events, supervised, health, claimed)?;
    let health = triggers.health.as_ref().map(Health::address);
    #[cfg(windows)]
    let manager = match options.service {
        Some(service) => Manager::of_service(service.commands(events.clone()), log.clone()),
        None => manager,
    };
    let (started, ready) = mpsc::channel();
    let announcement = Announcement {
        log: log.clone(),
        kind: options.kind.clone(),
        addresses: addresses.clone(),
        whence,
        socket: triggers.socket.clone(),
        socket_chosen: options.socket.is_some(),
        health,
        enter: triggers.enter,
        started,
    };
    let identity = Identity {
        name: options.name.to_string(),
        kind: options.kind,
        addresses,
        program: options.shown,
        has_clients: supervised.has_clients(),
        health,
        log,
        started: Instant::now(),
    };
    let log = identity.log.clone();
    let master = Master::new(identity, builder, options.settings, watchdog.clone(), manager, Some(announcement));
    let (report, reported) = mpsc::channel();
    let thread = thread::Builder::new().name("master-control".into()).spawn(move || {
        let end = run(master, received, &mut triggers, files, watchdog.as_ref(), log);
        let _ = report.send(end); // It may not be waited for.
        // Threads end with these, and a process that ends now need not wait for them.
        if let Some(watchdog) = watchdog {
            watchdog.off();
        }
        drop((triggers.signals, threads));
    });
    // Without that thread, all that it should have had is dropped, which ends it.
    let thread = thread.map_err(lacking("master control"))?;
    let underway = Underway { reported, thread };
    let handle = |course| Handle { control: Control { events }, listens_on, health, course };
    match ready.recv() {
        Ok(()) => Ok(handle(Course::Underway(underway))),
        // It has ended before it was ready.
        Err(mpsc::RecvError) => underway.wait().map(|report| handle(Course::Ended(report))),
    }
}

/// Runs on the thread `master-control`: it, and what is to be done after its end, in this order.
fn run(
    master: Master,
    received: Receiver<Event>,
    triggers: &mut Triggers,
    files: impl Send,
    watchdog: Option<&Watchdog>,
    log: Journal,
) -> Result<Report, Error> {
    let ending = log.ending();
    let end = panic::catch_unwind(AssertUnwindSafe(|| master.run(&received)));
    let mut end = end.unwrap_or_else(|panic| match watchdog {
        Some(_) => watchdog::end_after_panic(log.clone(), worker::panic_message(&*panic)),
        None => panic::resume_unwind(panic),
    });
    if let Some(watchdog) = watchdog {
        // Twice that: the health endpoint and the admin thread may have to wait for a client, too.
        watchdog.watch_stop(Instant::now() + 2 * LAST_ANSWERS, || "what listens for commands does not end".into());
    }
    drop(files);
    let last_answers = triggers.admin.take().map(Admin::close);
    // Those who follow have heard of the whole stop.
    drop(ending);
    end.adopt(received);
    // None of its clients waits for an answer any more, and its port is free before the end is reported.
    drop(triggers.health.take());
    end.answer();
    if let Some(last_answers) = last_answers {
        last_answers.wait();
    }
    log.flush();
    end.result
}

/// What can ask for something, once it is started.
struct Triggers {
    signals: Option<Signals>,
    /// Whether Enter stops the server.
    enter: bool,
    health: Option<Health>,
    admin: Option<Admin>,
    /// Where the admin socket is.
    socket: Option<PathBuf>,
}

impl Triggers {
    fn start(
        options: &Options,
        events: &EventSender,
        supervised: Supervised,
        health: Option<TcpListener>,
        claimed: Option<Claimed>,
    ) -> Result<Triggers, Error> {
        let log = &options.journal;
        let signals = || Signals::start(events.clone(), options.on_hup, supervised.has_program());
        let signals = options.signals.then(signals).transpose().map_err(lacking("the signal handlers"))?;
        let enter = options.console.map(|console| console::start(console, events.clone())).transpose();
        let enter = enter.map_err(lacking("the console thread"))?.unwrap_or(false);
        let health = health.map(|listener| Health::start(listener, events.clone(), log.clone())).transpose();
        let health = health.map_err(lacking("the health endpoint"))?;
        let mut triggers = Triggers { signals, enter, health, admin: None, socket: None };
        if let Some((paths, lock)) = claimed {
            match Admin::start(paths.clone(), lock, events.clone(), log.clone()) {
                Ok(admin) => (triggers.admin, triggers.socket) = (Some(admin), Some(paths.socket)),
                Err(source) => without_admin(options.admin, log, Error::AdminSocket { path: paths.socket, source })?,
            }
        }
        Ok(triggers)
    }
}

/// That the supervisor could not be started for lack of something.
fn lacking(what: &'static str) -> impl Fn(io::Error) -> Error + Copy {
    move |source| Error::Start { what, source }
}

/// Takes the name, unless there is no admin socket to be found under it.
fn claim(options: &Options) -> Result<Option<Claimed>, Error> {
    if options.admin == AdminSocket::Off {
        return Ok(None);
    }
    let paths = match &options.socket {
        Some(path) => InstancePaths::at(path),
        None => InstancePaths::of(&options.name),
    };
    let claimed = paths
        .map_err(|message| Error::AdminSocket {
            path: options.socket.clone().unwrap_or_else(|| options.name.as_str().into()),
            source: io::Error::new(io::ErrorKind::InvalidInput, message),
        })
        .and_then(|paths| match take_lock(|| paths.take_lock(), || describe_holder(&paths).is_some()) {
            Ok(lock) => Ok((paths, lock)),
            Err(InstanceLockError::Taken) if options.socket.is_some() => Err(socket_taken(&paths)),
            Err(InstanceLockError::Taken) => Err(name_taken(&options.name, &paths)),
            Err(InstanceLockError::Unusable { path, source }) => Err(Error::AdminSocket { path, source }),
        });
    match claimed {
        Ok(claimed) => Ok(Some(claimed)),
        Err(error) => without_admin(options.admin, &options.journal, error).map(|()| None),
    }
}

/// Takes a lock. If it is taken, but no instance answers, that is tried again for a moment: a process that was forked by
/// a supervisor which has been killed holds it until it runs another program.
fn take_lock(
    mut take: impl FnMut() -> Result<InstanceLock, InstanceLockError>,
    mut answers: impl FnMut() -> bool,
) -> Result<InstanceLock, InstanceLockError> {
    let began = Instant::now();
    loop {
        match take() {
            Err(InstanceLockError::Taken) if began.elapsed() < FORKED && !answers() => thread::sleep(LOOK),
            taken => return taken,
        }
    }
}

/// Binds an address. If it is taken, that is tried again while its holder is ending, and for as long as `patience`: a
/// supervisor that is started right after another one was killed finds what that one had started.
fn bind<T>(address: &Address, patience: Duration, bind: impl Fn() -> io::Result<T>) -> Result<T, Error> {
    let began = Instant::now();
    loop {
        match bind() {
            Ok(bound) => return Ok(bound),
            Err(error)
                if error.kind() == io::ErrorKind::AddrInUse
                    && began.elapsed() < holder::time_to_end(address).max(patience) =>
            {
                thread::sleep(LOOK);
            }
            Err(source) => return Err(cannot_bind(address, source)),
        }
    }
}

/// Binds the address of the health endpoint. The server has been bound to its own.
fn bind_health(health: SocketAddr, server: &[Address]) -> Result<TcpListener, Error> {
    let address = Address::Tcp(health);
    if server.contains(&address) {
        let message = format!("port {} is the server's own; choose another one", health.port());
        let source = io::Error::new(io::ErrorKind::AddrInUse, message);
        return Err(Error::Start { what: "the health endpoint", source });
    }
    bind(&address, Duration::ZERO, || listen::bind_tcp(health))
}

/// What the instance at this place says of itself.
fn describe_holder(paths: &InstancePaths) -> Option<String> {
    match client::ask(paths, Request::Status {}, Patience::short(), |_| {}) {
        Ok(Answer::Status(status)) => Some(format!("{} on {} (pid {})", status.kind, text::place(&status), status.pid)),
        Ok(_) | Err(_) => None,
    }
}

/// Starts without an admin socket, if that is allowed and the reason is not that the name is taken.
fn without_admin(admin: AdminSocket, log: &Journal, error: Error) -> Result<(), Error> {
    match (&error, admin) {
        (Error::AdminSocket { .. }, AdminSocket::Try) => {
            let message = format!("{error}; starting without it: only Enter, signals and code stop this server");
            log.line(Level::Warning, "no_admin_socket", message, []);
            Ok(())
        }
        _ => Err(error),
    }
}

fn cannot_bind(address: &Address, source: io::Error) -> Error {
    let taken = source.kind() == io::ErrorKind::AddrInUse;
    let holder = if taken { holder::holder_of(address) } else { None };
    Error::Bind { address: address.clone(), holder, source }
}

fn name_taken(name: &InstanceName, paths: &InstancePaths) -> Error {
    Error::NameTaken { name: name.to_string(), holder: describe_holder(paths) }
}

fn socket_taken(paths: &InstancePaths) -> Error {
    Error::SocketTaken { path: paths.socket.clone(), holder: describe_holder(paths) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_lock_that_no_instance_answers_for_is_tried_again() {
        let path = std::env::temp_dir().join(format!("mastercontrol-start-{}.lock", std::process::id()));
        let mut held = Some(InstanceLock::of_file(path.clone()).unwrap());
        let taken = take_lock(|| InstanceLock::of_file(path.clone()), || true);
        assert!(matches!(taken, Err(InstanceLockError::Taken)));
        let releases = || {
            held.take();
            false
        };
        take_lock(|| InstanceLock::of_file(path.clone()), releases).unwrap();
    }
}
