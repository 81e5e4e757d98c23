//! A supervisor for a socket server: it starts the server, keeps it up, and ends it well.
//!
//! Give it a [`Handler`] and say where the order to stop may come from:
//!
//! ```no_run
//! use std::time::Duration;
//! use mastercontrol::{AdminSocket, Console, Log, Supervisor, worker::handlers::Echo};
//!
//! let running = Supervisor::new(Echo)
//!     .grace(Duration::from_secs(10))
//!     .console(Console::Terminal)
//!     .signals()
//!     .admin(AdminSocket::Require)
//!     .log(Log::text())
//!     .start("127.0.0.1:9999".parse()?)?;
//! let report = running.wait()?;
//! println!("{} clients were notified", report.drain.notified);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Without triggers only code stops it, with [`Running::control`].

mod deadline_reader;
mod event;
mod exit;
mod journal;
mod listen;
mod log;
mod master;
mod restart;
mod server;
mod sync;
mod watchdog;
mod wire;

pub mod child;
pub mod cli;
pub mod client;
mod health;
pub mod holder;
pub mod host;
pub mod instance;
pub mod metrics;
pub mod protocol;
pub mod text;
mod triggers;

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use event::{ConsoleEvent, ServiceControl, Trigger};
pub use exit::Exit;
pub use journal::Journal;
pub use listen::Address;
pub use log::{Level, Log};
pub use restart::{RestartMode, RestartPolicy};
pub use server::{BuildError, ProgramEnd, Settings};
pub use worker;
pub use worker::Handler;

use event::{Event, EventSender};
use health::Health;
use host::{Manager, Passed};
use instance::{InstanceLock, InstanceLockError, InstanceName, InstancePaths};
use master::{Identity, Master};
use server::handlers::{Factory, ThreadBuilder};
use server::{Builder, Ended};
use text::{Reason, Seconds};
use triggers::admin::{Admin, LAST_ANSWERS};
use triggers::console;
use triggers::signals::Signals;
use watchdog::Watchdog;

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--version` says behind a program's name: the version of this crate, and the protocol's.
pub fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{VERSION} (protocol {})", protocol::VERSION));
    &TEXT
}

/// How long clients get to leave, unless told otherwise.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(5);

/// Whether a supervisor listens on an admin socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminSocket {
    /// It does not.
    Off,
    /// It does if it can. If its directory cannot be used, that is logged and the server is started without it.
    Try,
    /// It does, or it does not start.
    Require,
}

/// What SIGHUP does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnHup {
    /// It stops the server, as the other signals do.
    Stop,
    /// It restarts the server.
    Restart,
}

/// Where Enter is heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Console {
    /// On stdin if that is a terminal. Anything else is left to those it belongs to.
    Terminal,
    /// On stdin, whatever that is: each line is an Enter.
    Stdin,
}

/// Where generations of the server come from.
enum Source {
    Threads(Factory),
    Programs(child::ProgramFactory),
}

/// A supervisor that has not been started yet.
pub struct Supervisor {
    source: Source,
    settings: Settings,
    journal: Journal,
    name: InstanceName,
    kind: String,
    console: Option<Console>,
    signals: bool,
    on_hup: OnHup,
    admin: AdminSocket,
    socket: Option<PathBuf>,
    health: Option<SocketAddr>,
    last_resort: bool,
    shared: bool,
    service_manager: bool,
    #[cfg(windows)]
    service: Option<host::windows_service::Service>,
    /// The program, for people.
    shown: Option<String>,
}

impl Supervisor {
    /// A supervisor for a server whose connections are served by `handler`, by the same one after each restart. It has
    /// no triggers and logs nothing.
    pub fn new(handler: impl Handler) -> Supervisor {
        let handler: Arc<dyn Handler> = Arc::new(handler);
        Supervisor::with_factory(move |_| Ok(handler.clone()))
    }

    /// A supervisor for a server that is built afresh for each restart: `factory` makes the handler of each generation,
    /// and may change what this supervisor was told to use as settings. With an error, or a panic, the supervisor does
    /// not start, or the restart fails and the old generation goes on.
    ///
    /// It is called on a thread of its own.
    pub fn with_factory(
        factory: impl FnMut(&mut Settings) -> Result<Arc<dyn Handler>, BuildError> + Send + 'static,
    ) -> Supervisor {
        Supervisor::of(Source::Threads(Box::new(factory)))
    }

    /// A supervisor for a program, of which each generation is a process. `factory` says for each which program that
    /// is, and may change what this supervisor was told to use as settings. To be started with
    /// [`Supervisor::start_program`].
    pub fn program(
        factory: impl FnMut(&mut Settings) -> Result<child::Program, BuildError> + Send + 'static,
    ) -> Supervisor {
        Supervisor::of(Source::Programs(Box::new(factory)))
    }

    fn of(source: Source) -> Supervisor {
        Supervisor {
            source,
            settings: Settings {
                grace: DEFAULT_GRACE,
                max_connections: worker::MAX_CONNECTIONS,
                restart: RestartPolicy::default(),
                check_every: None,
                log: Log::silent(),
            },
            journal: Journal::new(Log::silent()),
            name: InstanceName::default(),
            kind: "server".into(),
            console: None,
            signals: false,
            on_hup: OnHup::Stop,
            admin: AdminSocket::Off,
            socket: None,
            health: None,
            last_resort: false,
            shared: false,
            service_manager: false,
            #[cfg(windows)]
            service: None,
            shown: None,
        }
    }

    /// The name under which `admin-cli` finds this instance: `server`, unless told otherwise.
    pub fn name(mut self, name: InstanceName) -> Supervisor {
        self.name = name;
        self
    }

    /// What is served, for people: `server`, unless told otherwise.
    pub fn kind(mut self, kind: &str) -> Supervisor {
        self.kind = kind.into();
        self
    }

    /// What program is the server, for people.
    pub fn shown_as(mut self, program: &str) -> Supervisor {
        self.shown = Some(program.into());
        self
    }

    /// How long clients get to leave, unless a trigger says otherwise: [`DEFAULT_GRACE`] at the start.
    pub fn grace(mut self, grace: Duration) -> Supervisor {
        self.settings.grace = grace;
        self
    }

    /// How events are logged: not at all at the start.
    pub fn log(self, log: Log) -> Supervisor {
        let journal = self.journal.with(log);
        self.journal(journal)
    }

    /// The journal for what happens, if others than this supervisor have something to say there, too. It is of this
    /// supervisor alone, and events are logged as it says.
    pub fn journal(mut self, journal: Journal) -> Supervisor {
        self.settings.log = journal.log();
        self.journal = journal;
        self
    }

    /// How many connections are served at once, see [`worker::Server::max_connections`].
    pub fn max_connections(mut self, limit: usize) -> Supervisor {
        self.settings.max_connections = limit;
        self
    }

    /// When the server is started again after it has ended by itself: [`RestartPolicy::default`] at the start.
    pub fn restart(mut self, policy: RestartPolicy) -> Supervisor {
        self.settings.restart = policy;
        self
    }

    /// How often to look whether the server takes connections, see [`Settings::check_every`]: never at the start.
    pub fn check_every(mut self, interval: Duration) -> Supervisor {
        self.settings.check_every = Some(interval);
        self
    }

    /// Enter stops the server; a second Enter closes what is left by force. End of file is not Enter.
    ///
    /// On Unix the calling thread, and the threads that it starts from then on, have SIGTTIN and SIGTTOU blocked: the
    /// terminal cannot suspend them.
    pub fn console(mut self, console: Console) -> Supervisor {
        self.console = Some(console);
        self
    }

    /// SIGHUP, SIGINT, SIGTERM and SIGQUIT (on Windows: console events) stop the server; a second one closes what is
    /// left by force. They stay taken for the rest of the process, also when the supervisor has ended.
    ///
    /// When the console's window is closed, the user logs off or the system shuts down, Windows leaves a process five
    /// seconds: clients get four of them at most, and the process has to end when the stop is done.
    pub fn signals(mut self) -> Supervisor {
        self.signals = true;
        self
    }

    /// What SIGHUP does, with [`Supervisor::signals`]: it stops the server, unless told otherwise.
    pub fn on_hup(mut self, action: OnHup) -> Supervisor {
        self.on_hup = action;
        self
    }

    /// Whether `admin-cli` can command this instance.
    pub fn admin(mut self, admin: AdminSocket) -> Supervisor {
        self.admin = admin;
        self
    }

    /// Puts the admin socket at a path of its own instead of the one that belongs to the name.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Supervisor {
        self.socket = Some(path.into());
        self
    }

    /// Answers `GET /ready`, `/live` and `/metrics` over HTTP on this address, from the start to the very end. Nobody
    /// can command anything there.
    pub fn health(mut self, address: SocketAddr) -> Supervisor {
        self.health = Some(address);
        self
    }

    /// Ends the whole process when a stop overruns its deadline by a second ([`Exit::Overrun`]), or when master control
    /// hangs or panics ([`Exit::OutOfControl`]): nobody could command it any more.
    pub fn last_resort(mut self) -> Supervisor {
        self.last_resort = true;
        self
    }

    /// Others accept from the listener, too, or will, see [`worker::Server::shared_listener`]: a stop leaves it, and
    /// the clients that wait in its queue, to them. For [`Supervisor::start_on`].
    pub fn shared(mut self) -> Supervisor {
        self.shared = true;
        self
    }

    /// Tells the host's service manager, if it wants to know (`NOTIFY_SOCKET`), when the server is ready, restarted and
    /// stopped, how long a stop may take, and that master control is alive (`WATCHDOG_USEC`).
    pub fn service_manager(mut self) -> Supervisor {
        self.service_manager = true;
        self
    }

    /// The service manager of Windows stops the server, and is told when it is ready, that it stops, and how long that
    /// may take.
    #[cfg(windows)]
    pub fn service(mut self, service: host::windows_service::Service) -> Supervisor {
        self.service = Some(service);
        self
    }

    /// Binds the address and starts. When this returns, the server takes connections and all triggers are in place, or
    /// it was stopped before it was ready: the triggers are there before.
    ///
    /// # Errors
    /// When the address cannot be bound, the name is taken, the server cannot be built, or something else that is
    /// needed cannot be had. Nothing is left behind then.
    pub fn start(self, address: SocketAddr) -> Result<Running, Error> {
        // The name first: of two that are started with the same name, the second hears that, and not of a taken port.
        let claimed = self.claim()?;
        let listener = listen::bind_tcp(address).map_err(|source| Error::bind(&Address::Tcp(address), source))?;
        self.start_on_claimed(listener, "", claimed)
    }

    /// Binds the addresses and starts the program, which gets their sockets. When this returns it is ready, and all
    /// triggers are in place. The path of a Unix socket is removed at the end.
    ///
    /// No other child process may be started by this process from then on: on Unix nobody but the supervisor may wait
    /// for one, and on Windows it would be taken for the program's, and ended with it.
    ///
    /// # Errors
    /// When an address cannot be bound, the name is taken, the program cannot be started or is not ready in time, or
    /// something else that is needed cannot be had: on Windows that is any socket. Nothing is left behind then.
    pub fn start_program(self, addresses: &[Address]) -> Result<Running, Error> {
        let claimed = self.claim()?;
        let (mut sockets, mut files, mut bound_to) = (Vec::new(), Vec::new(), Vec::new());
        for address in addresses {
            let bound = listen::Bound::new(address).map_err(|source| Error::bind(address, source))?;
            sockets.push(child::Socket { name: bound.name(), socket: bound.socket });
            files.extend(bound.file);
            bound_to.push(bound.address);
        }
        self.start_claimed(bound_to, files, "", claimed, |source, settings, events, _, log| {
            let Source::Programs(factory) = source else {
                return Err(Error::Build { source: "a server thread is no program".into() });
            };
            let lacking = |source| Error::Start { what: "the program's guardian", source };
            let children = child::Children::new(factory, sockets, settings, log, events).map_err(lacking)?;
            #[cfg(unix)]
            children.reap_orphans().map_err(lacking)?;
            Ok(Box::new(children))
        })
    }

    /// Starts on the socket that the service manager passed to this process, which shares it: see
    /// [`Supervisor::shared`].
    ///
    /// # Errors
    /// When the name is taken, or something else that is needed cannot be had. Nothing is left behind then.
    pub fn start_passed(self, passed: Passed) -> Result<Running, Error> {
        let claimed = self.claim()?;
        self.shared().start_on_claimed(passed.listener, ", socket passed by the service manager", claimed)
    }

    /// Starts on a listener that is bound already.
    ///
    /// # Errors
    /// When the name is taken, or something else that is needed cannot be had. Nothing is left behind then, except the
    /// listener, which is closed.
    pub fn start_on(self, listener: TcpListener) -> Result<Running, Error> {
        let claimed = self.claim()?;
        self.start_on_claimed(listener, "", claimed)
    }

    fn start_on_claimed(
        self,
        listener: TcpListener,
        whence: &'static str,
        claimed: Option<(InstancePaths, InstanceLock)>,
    ) -> Result<Running, Error> {
        let address = listener.local_addr().map_err(|source| Error::Start { what: "the listener", source })?;
        let addresses = vec![Address::Tcp(address)];
        self.start_claimed(addresses, (), whence, claimed, |source, settings, events, shared, log| match source {
            Source::Threads(factory) => {
                Ok(Box::new(ThreadBuilder::new(factory, listener, shared, settings, log, events)))
            }
            Source::Programs(_) => Err(Error::Build { source: "a program is no server thread".into() }),
        })
    }

    /// `files` are dropped when nothing listens any more, and nobody has heard of that yet. `whence` says for people
    /// where the listener comes from, if that is not a matter of course. `builder` makes what makes the generations.
    fn start_claimed(
        self,
        addresses: Vec<Address>,
        files: impl Send + 'static,
        whence: &'static str,
        claimed: Option<(InstancePaths, InstanceLock)>,
        builder: impl FnOnce(Source, Settings, EventSender, bool, Journal) -> Result<Box<dyn Builder>, Error>,
    ) -> Result<Running, Error> {
        let lacking = |what| move |source| Error::Start { what, source };
        let health = self.health.map(|health| bind_health(health, &addresses)).transpose()?;
        let log = self.journal;
        let watchdog =
            self.last_resort.then(|| Watchdog::start(log.clone())).transpose().map_err(lacking("the last resort"))?;
        let (events, received) = mpsc::channel();
        let events = EventSender::new(events, watchdog.clone());
        let pass_on = matches!(self.source, Source::Programs(_));
        if self.console.is_some() {
            console::block_job_control().map_err(lacking("the console"))?;
        }
        let builder = builder(self.source, self.settings.clone(), events.clone(), self.shared, log.clone())?;
        // From here on somebody may ask for the end, also while the server is not ready yet.
        let signals = if self.signals {
            Some(Signals::start(events.clone(), self.on_hup, pass_on).map_err(lacking("the signal handlers"))?)
        } else {
            None
        };
        let enter = self.console.map(|console| console::start(console, events.clone())).transpose();
        let enter = enter.map_err(lacking("the console thread"))?.unwrap_or(false);
        let health = health.map(|listener| Health::start(listener, events.clone(), log.clone()));
        let health = health.transpose().map_err(lacking("the health endpoint"))?;
        let health_address = health.as_ref().map(Health::address);
        let admin = match claimed {
            None => None,
            Some((paths, lock)) => match Admin::start(paths.clone(), lock, events.clone(), log.clone()) {
                Ok(admin) => Some((admin, paths)),
                Err(source) => {
                    without_admin(self.admin, &log, Error::AdminSocket { path: paths.socket, source })?;
                    None
                }
            },
        };
        let socket = admin.as_ref().map(|(_, paths)| paths.socket.clone());
        let admin = admin.map(|(admin, _)| admin);
        let identity = Identity {
            name: self.name.to_string(),
            kind: self.kind,
            addresses: addresses.clone(),
            program: self.shown,
            health: health_address,
            log: log.clone(),
            started: Instant::now(),
        };
        let listens_on = addresses.clone();
        let manager = if self.service_manager { Manager::from_environment(log.clone()) } else { Manager::none() };
        #[cfg(windows)]
        let manager = match self.service {
            Some(service) => Manager::of_service(service.commands(events.clone()), log.clone()),
            None => manager,
        };
        let (started, ready) = mpsc::channel();
        let announcement = Announcement {
            log: log.clone(),
            addresses: listens_on,
            whence,
            socket,
            health: health_address,
            enter,
            started,
        };
        let master = Master::new(identity, builder, self.settings, watchdog.clone(), manager, Some(announcement));
        let ending = log.ending();
        let thread = std::thread::Builder::new().name("master-control".into()).spawn(move || {
            let _until_the_end = signals;
            let end = panic::catch_unwind(AssertUnwindSafe(|| master.run(&received)));
            let mut end = end.unwrap_or_else(|panic| match &watchdog {
                Some(_) => watchdog::end_after_panic(log, worker::panic_message(&*panic)),
                None => panic::resume_unwind(panic),
            });
            if let Some(watchdog) = &watchdog {
                // Twice that: the health endpoint and the admin thread may have to wait for a client, too.
                watchdog
                    .watch_stop(Instant::now() + 2 * LAST_ANSWERS, || "what listens for commands does not end".into());
            }
            drop(files);
            let last_answers = admin.map(Admin::close);
            // Those who follow have heard of the whole stop.
            drop(ending);
            end.adopt(received);
            // None of its clients waits for an answer any more, and its port is free before anybody hears of the end.
            drop(health);
            end.answer();
            if let Some(last_answers) = last_answers {
                last_answers.wait();
            }
            if let Some(watchdog) = watchdog {
                watchdog.off();
            }
            end.result
        });
        // Without that thread, all that it should have had is dropped, which ends it.
        let thread = thread.map_err(lacking("master control"))?;
        let running = |course| Running { control: Control { events }, addresses, health: health_address, course };
        match ready.recv() {
            Ok(()) => Ok(running(Course::Underway(thread))),
            // It has ended before it was ready.
            Err(mpsc::RecvError) => join(thread).map(|report| running(Course::Ended(report))),
        }
    }

    /// Takes the name, unless there is no admin socket to be found under it.
    fn claim(&self) -> Result<Option<(InstancePaths, InstanceLock)>, Error> {
        if self.admin == AdminSocket::Off {
            return Ok(None);
        }
        let paths = match &self.socket {
            Some(path) => InstancePaths::at(path),
            None => InstancePaths::of(&self.name),
        };
        let claimed = paths
            .map_err(|message| Error::AdminSocket {
                path: self.socket.clone().unwrap_or_else(|| self.name.as_str().into()),
                source: io::Error::new(io::ErrorKind::InvalidInput, message),
            })
            .and_then(|paths| match InstanceLock::new(&paths) {
                Ok(lock) => Ok((paths, lock)),
                Err(InstanceLockError::Taken) if self.socket.is_some() => Err(Error::socket_taken(&paths)),
                Err(InstanceLockError::Taken) => Err(Error::name_taken(&self.name, &paths)),
                Err(InstanceLockError::Unusable { path, source }) => Err(Error::AdminSocket { path, source }),
            });
        match claimed {
            Ok(claimed) => Ok(Some(claimed)),
            Err(error) => without_admin(self.admin, &self.journal, error).map(|()| None),
        }
    }
}

/// Binds the address of the health endpoint. The server has been bound to its own.
fn bind_health(health: SocketAddr, server: &[Address]) -> Result<TcpListener, Error> {
    let address = Address::Tcp(health);
    listen::bind_tcp(health).map_err(|source| {
        if server.contains(&address) && source.kind() == io::ErrorKind::AddrInUse {
            let message = format!("port {} is the server's own; choose another one", health.port());
            Error::Start { what: "the health endpoint", source: io::Error::new(source.kind(), message) }
        } else {
            Error::bind(&address, source)
        }
    })
}

/// What the instance at this place says of itself.
fn describe_holder(paths: &InstancePaths) -> Option<String> {
    match client::ask(paths, protocol::Request::Status {}, client::Patience::short(), |_| {}) {
        Ok(protocol::Answer::Status(status)) => {
            Some(format!("{} on {} (pid {})", status.kind, text::place(&status), status.pid))
        }
        Ok(_) | Err(_) => None,
    }
}

/// Goes on without an admin socket, if that is allowed and the reason is not that the name is taken.
fn without_admin(admin: AdminSocket, log: &Journal, error: Error) -> Result<(), Error> {
    match (&error, admin) {
        (Error::AdminSocket { .. }, AdminSocket::Try) => {
            let message = format!("{error}; going on without it, only Enter, signals and code stop this server");
            log.line(Level::Warning, "no_admin_socket", message, []);
            Ok(())
        }
        _ => Err(error),
    }
}

/// What is said when the server is ready, to the operator and to whoever starts it.
#[derive(Debug)]
struct Announcement {
    log: Journal,
    addresses: Vec<Address>,
    whence: &'static str,
    socket: Option<PathBuf>,
    health: Option<SocketAddr>,
    enter: bool,
    started: mpsc::Sender<()>,
}

impl Announcement {
    fn make(self) {
        let Announcement { addresses, whence, .. } = self;
        let pid = std::process::id();
        let socket = self.socket.map(|path| path.display().to_string());
        let admin = socket.as_ref().map(|path| format!(", admin socket {path}")).unwrap_or_default();
        let health = self.health.map(|address| format!(", health on {address}")).unwrap_or_default();
        let enter = if self.enter { ", press Enter to stop" } else { "" };
        let doing = match &addresses[..] {
            [] => "running".into(),
            addresses => format!("listening on {}", listen::in_words(addresses)),
        };
        let message = format!("{doing} (pid {pid}{whence}){admin}{health}{enter}");
        let fields = [
            ("address", addresses.iter().find_map(Address::tcp).map(|address| address.to_string()).into()),
            ("addresses", addresses.iter().map(Address::to_string).collect()),
            ("pid", pid.into()),
            ("socket", socket.into()),
            ("health", self.health.map(|address| address.to_string()).into()),
        ];
        self.log.line(Level::Info, "listening", message, fields);
        let _ = self.started.send(()); // Whoever starts it waits for this.
    }
}

fn join(thread: JoinHandle<Result<Report, Error>>) -> Result<Report, Error> {
    // Master control does not panic; should it do so, that goes on to whoever waits for it.
    thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
}

/// A supervisor that runs. Dropping this leaves it running.
#[derive(Debug)]
pub struct Running {
    control: Control,
    addresses: Vec<Address>,
    health: Option<SocketAddr>,
    course: Course,
}

#[derive(Debug)]
enum Course {
    Underway(JoinHandle<Result<Report, Error>>),
    /// It was stopped before the server was ready.
    Ended(Report),
}

impl Running {
    /// The address that the server listens on, or the first one with a port. Of a program without such sockets of ours
    /// nobody knows: `0.0.0.0:0`.
    pub fn address(&self) -> SocketAddr {
        self.addresses.iter().find_map(Address::tcp).unwrap_or_else(|| ([0, 0, 0, 0], 0).into())
    }

    /// All that the server listens on. Of a program without sockets of ours nobody knows.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The address of the health endpoint, if there is one.
    pub fn health(&self) -> Option<SocketAddr> {
        self.health
    }

    /// What stops or restarts the server from any thread.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Waits until the server has stopped, whoever asked for it, and says what became of its connections.
    ///
    /// # Errors
    /// When the server failed instead of being stopped, and is not started again.
    pub fn wait(self) -> Result<Report, Error> {
        match self.course {
            Course::Underway(thread) => join(thread),
            Course::Ended(report) => Ok(report),
        }
    }
}

/// Stops or restarts a server from any thread: a handler's own thread included, since it only asks and does not wait.
#[derive(Debug, Clone)]
pub struct Control {
    events: EventSender,
}

impl Control {
    /// Asks for a stop, in which clients get this long to leave. A stop that is under way is made shorter, but not
    /// longer.
    pub fn stop(&self, grace: Duration) {
        // If nobody listens any more, the server has stopped already.
        let _ = self.events.send(Event::Stop { by: Trigger::Code, grace: Some(grace) });
    }

    /// Asks for a restart: a new generation of the server takes over, and the clients of the old one get this long to
    /// leave. If it fails, that is logged, and the old generation goes on.
    pub fn restart(&self, grace: Duration) {
        // If nobody listens any more, the server has stopped already.
        let _ = self.events.send(Event::Restart { by: Trigger::Code, grace: Some(grace) });
    }
}

/// How a stop went.
#[derive(Debug, Clone)]
pub struct Report {
    /// What asked for it.
    pub by: Trigger,
    /// What became of the connections.
    pub drain: worker::DrainReport,
    /// How the program ended, if the server was one.
    pub program: Option<ProgramEnd>,
    /// How many of its processes had to be killed.
    pub killed: usize,
}

impl Report {
    /// The exit code that says how the stop went.
    pub fn exit(&self) -> Exit {
        Exit::from(&self.wire())
    }

    fn wire(&self) -> protocol::Report {
        let ended = Ended { drain: self.drain.clone(), program: self.program, killed: self.killed };
        wire::report(&self.by.to_string(), &ended)
    }
}

/// Why a supervisor did not start, or ended.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The address cannot be bound.
    Bind {
        /// The address.
        address: Address,
        /// Who has it, where the system tells.
        holder: Option<String>,
        /// What the system said.
        source: io::Error,
    },
    /// The name is taken by another instance.
    NameTaken {
        /// The name.
        name: String,
        /// Who has it, if it says so.
        holder: Option<String>,
    },
    /// The admin socket's path is taken by another instance.
    SocketTaken {
        /// The path.
        path: PathBuf,
        /// Who has it, if it says so.
        holder: Option<String>,
    },
    /// The admin socket cannot be had.
    AdminSocket {
        /// The socket, its lock, or their directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something else that is needed cannot be had.
    Start {
        /// What that is.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The server cannot be built.
    Build {
        /// Why.
        source: BuildError,
    },
    /// The server ended by itself, and its policy does not start it again.
    Ended {
        /// Why.
        reason: String,
        /// How the program ended, if the server was one.
        program: Option<ProgramEnd>,
    },
    /// The server failed too often.
    CrashedTooOften {
        /// How often within the period.
        times: usize,
        /// The period of the policy.
        period: Duration,
        /// Why it failed the last time.
        reason: String,
    },
}

impl Error {
    fn bind(address: &Address, source: io::Error) -> Error {
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

    /// The exit code for a program that ends with this error.
    pub fn exit(&self) -> Exit {
        match self {
            Error::Bind { source, .. } | Error::AdminSocket { source, .. } | Error::Start { source, .. }
                if source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Exit::NotPermitted
            }
            Error::Build { source } => match source.downcast_ref::<io::Error>() {
                Some(error) if error.kind() == io::ErrorKind::PermissionDenied => Exit::NotPermitted,
                Some(_) | None => Exit::Failed,
            },
            Error::Bind { .. }
            | Error::NameTaken { .. }
            | Error::SocketTaken { .. }
            | Error::AdminSocket { .. }
            | Error::Start { .. }
            | Error::Ended { .. } => Exit::Failed,
            Error::CrashedTooOften { .. } => Exit::CrashedTooOften,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Bind { address: Address::Tcp(address), holder, source } => match source.kind() {
                io::ErrorKind::AddrInUse => {
                    let holder = holder.as_deref().unwrap_or("another program");
                    write!(formatter, "port {} is taken by {holder}; stop that or choose another port", address.port())
                }
                io::ErrorKind::PermissionDenied if cfg!(windows) => write!(
                    formatter,
                    "no permission to listen on port {}: the system keeps it for itself (`netsh interface ipv4 show \
                     excludedportrange tcp` lists such ports), or another program does; choose another one",
                    address.port()
                ),
                io::ErrorKind::PermissionDenied => write!(
                    formatter,
                    "no permission to listen on port {}: ports below 1024 need a privilege, choose a higher one",
                    address.port()
                ),
                io::ErrorKind::AddrNotAvailable => {
                    write!(formatter, "this machine has no address {}; try 127.0.0.1 or 0.0.0.0", address.ip())
                }
                _ => write!(formatter, "cannot listen on {address}: {}", Reason(source)),
            },
            #[cfg(unix)]
            Error::Bind { address: Address::Unix(path), holder, source } => {
                let directory = path.parent().unwrap_or(path).display();
                let path = path.display();
                match source.kind() {
                    io::ErrorKind::AddrInUse => {
                        let holder = holder.as_deref().unwrap_or("another program");
                        write!(formatter, "{path} is taken by {holder}; stop that or choose another path")
                    }
                    io::ErrorKind::AlreadyExists => {
                        write!(formatter, "{path} is there and is no socket; remove it or choose another path")
                    }
                    io::ErrorKind::NotFound => {
                        write!(
                            formatter,
                            "there is no directory {directory} for the socket; make it or choose another path"
                        )
                    }
                    io::ErrorKind::PermissionDenied => {
                        write!(
                            formatter,
                            "no permission to listen on {path}: choose a directory that is this user's own"
                        )
                    }
                    _ => write!(formatter, "cannot listen on {path}: {}", Reason(source)),
                }
            }
            Error::NameTaken { name, holder } => {
                let holder = holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default();
                write!(formatter, "the name {name} is taken{holder}; stop that or choose another name with --name")
            }
            Error::SocketTaken { path, holder } => {
                let holder = holder.as_ref().map(|holder| format!(" by {holder}")).unwrap_or_default();
                write!(formatter, "the socket {} is taken{holder}; stop that or choose another path", path.display())
            }
            Error::AdminSocket { path, source } => {
                write!(formatter, "cannot use {} for the admin socket: {}", path.display(), Reason(source))
            }
            Error::Start { what, source } => write!(formatter, "cannot start {what}: {}", Reason(source)),
            Error::Build { source } => write!(formatter, "{source}"),
            Error::Ended { reason, program: _ } => write!(formatter, "the server ended: {reason}"),
            Error::CrashedTooOften { times, period, reason } => write!(
                formatter,
                "the server crashed {times} times within {}, which is too often: {reason}",
                Seconds(*period)
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Bind { source, .. } | Error::AdminSocket { source, .. } | Error::Start { source, .. } => {
                Some(source)
            }
            Error::Build { source } => Some(&**source),
            Error::NameTaken { .. }
            | Error::SocketTaken { .. }
            | Error::Ended { .. }
            | Error::CrashedTooOften { .. } => None,
        }
    }
}
