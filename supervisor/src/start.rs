//! What is started, and in which order.

mod binding;
mod claim;

use std::net::{SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Instant;

use worker::Port;

use crate::announcement::Announcement;
use crate::builder::{Handlers, Options, Programs, Supervisor};
#[cfg(target_os = "linux")]
use crate::child::Relaying;
use crate::child::{Children, Front};
use crate::error::{Error, lacking};
use crate::event::{Event, EventSender};
use crate::handle::{Control, Course, Handle, Remains, Underway};
use crate::health::Health;
use crate::host::Manager;
use crate::instance::InstanceLock;
use crate::journal::Journal;
use crate::listen::{Address, ProgramSocket};
use crate::master::{Identity, Master};
use crate::report::Report;
use crate::server::Builder;
use crate::server::handlers::HandlerBuilder;
#[cfg(target_os = "linux")]
use crate::settings::RelayOptions;
use crate::settings::Settings;
use crate::triggers::admin::{Admin, LAST_ANSWERS};
use crate::triggers::console;
use crate::triggers::signals::Signals;
use crate::watchdog::{self, Watchdog};

use binding::{Bound, bind_health};
use claim::{Claimed, claim, without_admin};

/// Where the clients of a server come from.
#[derive(Debug)]
pub enum Listen {
    /// An address that is bound for it, unless the service manager has passed a socket on it ([`Supervisor::passed`]).
    Bind(SocketAddr),
    /// A listener that is already bound, and that only this supervisor uses.
    Listener(TcpListener),
    /// A listener from which others accept, too, or will, see [`worker::Port::start_shared`]: a stop leaves the
    /// listener, and the clients in its queue, to them.
    Shared(TcpListener),
}

impl Supervisor<Handlers> {
    /// Starts. When this returns, the server accepts connections and all triggers are in place, or it was stopped
    /// before it was ready: the triggers start before the server.
    ///
    /// # Errors
    /// When the address cannot be bound, the name is taken, the server cannot be built, or something else that is
    /// needed cannot be had. Nothing is left behind then; a listener is closed.
    pub fn start(self, listen: Listen) -> Result<Handle, Error> {
        let Supervisor { source: Handlers(factory), mut options } = self;
        // The name first: if two start with the same name, the second reports that, and not a taken port.
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
    /// Binds the sockets and starts the program, which gets them. When this returns, the program is ready, and all
    /// triggers are in place. The path of a Unix socket is removed at the end.
    ///
    /// From then on, this process must not start any other child process: on Unix only the supervisor may wait for one,
    /// and on Windows it would be taken for the program's, and ended with it.
    ///
    /// # Errors
    /// When an address cannot be bound, the name is taken, the program cannot be started or is not ready in time, or
    /// something else that is needed cannot be had: on Windows that is any socket. Nothing is left behind then.
    pub fn start(self, sockets: &[ProgramSocket]) -> Result<Handle<Vec<Address>>, Error> {
        let Supervisor { source: Programs(factory), mut options } = self;
        let claimed = claim(&options)?;
        let mut manager = options.manager();
        let (sockets, bound) = options.bind_sockets(sockets, &mut manager)?;
        start(options, bound, manager, claimed, Supervised::Program, |settings, events, log| {
            let lacking = lacking("the program's guardian");
            let children = Children::new(factory, Front::Sockets(sockets), settings, log, events).map_err(lacking)?;
            #[cfg(unix)]
            children.reap_orphans().map_err(lacking)?;
            Ok((Box::new(children), ()))
        })
    }

    /// Binds the address and starts the program, to which the clients of that address are relayed. Each generation gets
    /// a port of its own (`PORT` in its environment, `{port}` in its arguments), so the program need not know about
    /// inherited sockets, and no connection is lost when it is replaced. Everything else is as with
    /// [`Supervisor::start`].
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
    /// The service manager to inform, if there is one.
    fn manager(&self) -> Manager {
        if self.service_manager { Manager::from_environment(self.journal.clone()) } else { Manager::none() }
    }
}

/// What is supervised, as far as it matters here.
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

/// `builder` makes the [`Builder`] of the generations, and something to drop when their end has been reported.
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
    // From here on a stop may be requested, even before the server is ready.
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
        if let Some(watchdog) = watchdog {
            watchdog.off();
        }
        let remains = Remains { _signals: triggers.signals.take(), _threads: Box::new(threads) };
        let _ = report.send((end, remains)); // It may not be waited for.
    });
    // Without that thread, everything meant for it is dropped, and thereby ended.
    let thread = thread.map_err(lacking("master control"))?;
    let underway = Underway { reported, thread };
    let handle = |course| Handle { control: Control { events }, listens_on, health, course };
    match ready.recv() {
        Ok(()) => Ok(handle(Course::Underway(underway))),
        // It has ended before it was ready.
        Err(mpsc::RecvError) => underway.wait().map(|report| handle(Course::Ended(report))),
    }
}

/// Runs on the thread `master-control`: master control, and then everything to do after its end, in this order.
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
        // Twice that: both the health endpoint and the admin thread may have to wait for a client.
        watchdog.watch_stop(Instant::now() + 2 * LAST_ANSWERS, || "what listens for commands does not end".into());
    }
    drop(files);
    let last_answers = triggers.admin.take().map(Admin::close);
    drop(triggers.name.take());
    // Followers have heard of the whole stop.
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

/// The triggers, once they are started.
struct Triggers {
    signals: Option<Signals>,
    /// Whether Enter stops the server.
    enter: bool,
    health: Option<Health>,
    admin: Option<Admin>,
    /// The name, if there is no admin socket that holds it.
    name: Option<Arc<InstanceLock>>,
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
        let mut triggers = Triggers { signals, enter, health, admin: None, name: None, socket: None };
        if let Some((paths, lock)) = claimed {
            let lock = Arc::new(lock);
            match Admin::start(paths.clone(), lock.clone(), events.clone(), log.clone()) {
                Ok(admin) => (triggers.admin, triggers.socket) = (Some(admin), Some(paths.socket)),
                Err(source) => {
                    without_admin(options.admin, log, Error::AdminSocket { path: paths.socket, source })?;
                    triggers.name = Some(lock);
                }
            }
        }
        Ok(triggers)
    }
}
