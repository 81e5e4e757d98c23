//! A supervisor before it is started: what it supervises, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use worker::Handler;

use crate::child::{Program, ProgramFactory};
use crate::host::Passed;
#[cfg(windows)]
use crate::host::windows_service::Service;
use crate::instance::InstanceName;
use crate::journal::Journal;
use crate::log::Log;
use crate::restart::RestartPolicy;
use crate::server::BuildError;
use crate::server::handlers::Factory;
use crate::settings::{AdminSocket, Console, DEFAULT_GRACE, OnHup, Settings};

/// What is supervised: a server thread of this process, whose connections a handler serves.
pub struct Handlers(pub(crate) Factory);

/// What is supervised: programs.
pub struct Programs(pub(crate) ProgramFactory);

/// A supervisor that has not been started yet: of handlers ([`Supervisor::new`], [`Supervisor::with_factory`]) or of a
/// program ([`Supervisor::program`]).
///
/// The two are different types: a program is started with the addresses of its sockets, and has none of the settings of
/// a server thread:
///
/// ```no_run
/// # use mastercontrol::{Address, Listen, Supervisor, worker::handlers::Echo};
/// Supervisor::new(Echo).max_connections(100).start(Listen::Bind("127.0.0.1:7777".parse()?))?.wait()?;
/// Supervisor::program(|_| Err("which one?".into())).start(&[Address::Tcp("127.0.0.1:7777".parse()?).into()])?.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```compile_fail
/// # use mastercontrol::{Listen, Supervisor};
/// Supervisor::program(|_| Err("which one?".into())).start(Listen::Bind("127.0.0.1:7777".parse()?))?.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// ```compile_fail
/// # use mastercontrol::Supervisor;
/// Supervisor::program(|_| Err("which one?".into())).max_connections(100).start(&[])?.wait()?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a supervisor does nothing until it is started"]
pub struct Supervisor<S = Handlers> {
    pub(crate) source: S,
    pub(crate) options: Options,
}

/// The options that are the same whatever is supervised.
pub(crate) struct Options {
    pub(crate) settings: Settings,
    pub(crate) journal: Journal,
    pub(crate) name: InstanceName,
    pub(crate) kind: String,
    pub(crate) console: Option<Console>,
    pub(crate) signals: bool,
    pub(crate) on_hup: OnHup,
    pub(crate) admin: AdminSocket,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) health: Option<SocketAddr>,
    pub(crate) last_resort: bool,
    pub(crate) service_manager: bool,
    pub(crate) passed: Passed,
    #[cfg(windows)]
    pub(crate) service: Option<Service>,
    /// The program, for people.
    pub(crate) shown: Option<String>,
}

impl Supervisor<Handlers> {
    /// A supervisor for a server whose connections are served by `handler`, the same one after each restart. It has no
    /// triggers and logs nothing.
    pub fn new(handler: impl Handler) -> Supervisor<Handlers> {
        let handler: Arc<dyn Handler> = Arc::new(handler);
        Supervisor::with_factory(move |_| Ok(handler.clone()))
    }

    /// A supervisor for a server that is built afresh for each restart: `factory` makes the handler of each generation,
    /// and may change its settings, which begin as those of this supervisor. If the factory fails or panics, the
    /// supervisor does not start, or the restart fails and the old generation keeps serving.
    ///
    /// It is called on a thread of its own.
    pub fn with_factory(
        factory: impl FnMut(&mut Settings) -> Result<Arc<dyn Handler>, BuildError> + Send + 'static,
    ) -> Supervisor<Handlers> {
        Supervisor::of(Handlers(Box::new(factory)))
    }

    /// How many connections are served at once, see [`worker::Server::max_connections`].
    pub fn max_connections(mut self, limit: usize) -> Supervisor<Handlers> {
        self.options.settings.max_connections = limit;
        self
    }

    /// How often to check whether the server accepts connections, see [`Settings::check_every`]: never by default.
    pub fn check_every(mut self, interval: Duration) -> Supervisor<Handlers> {
        self.options.settings.check_every = Some(interval);
        self
    }
}

impl Supervisor<Programs> {
    /// A supervisor for a program, each generation of which is a process. `factory` says which program a generation
    /// runs, and may change its settings, which begin as those of this supervisor.
    ///
    /// It is called on a thread of its own.
    pub fn program(
        factory: impl FnMut(&mut Settings) -> Result<Program, BuildError> + Send + 'static,
    ) -> Supervisor<Programs> {
        Supervisor::of(Programs(Box::new(factory)))
    }

    /// The program that is the server, for people.
    pub fn shown_as(mut self, program: &str) -> Supervisor<Programs> {
        self.options.shown = Some(program.into());
        self
    }
}

impl<S> Supervisor<S> {
    fn of(source: S) -> Supervisor<S> {
        let options = Options {
            settings: Settings {
                grace: DEFAULT_GRACE,
                delay: Duration::ZERO,
                spread: Duration::ZERO,
                max_connections: worker::MAX_CONNECTIONS,
                restart: RestartPolicy::default(),
                check_every: None,
                log: Log::silent(),
                parts: Vec::new(),
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
            service_manager: false,
            passed: Passed::default(),
            #[cfg(windows)]
            service: None,
            shown: None,
        };
        Supervisor { source, options }
    }

    /// The name by which `admin-cli` finds this instance: `server` by default.
    pub fn name(mut self, name: InstanceName) -> Supervisor<S> {
        self.options.name = name;
        self
    }

    /// What is served, for people: `server` by default.
    pub fn kind(mut self, kind: &str) -> Supervisor<S> {
        self.options.kind = kind.into();
        self
    }

    /// How long clients get to disconnect, unless a trigger says otherwise: [`DEFAULT_GRACE`] by default.
    pub fn grace(mut self, grace: Duration) -> Supervisor<S> {
        self.options.settings.grace = grace;
        self
    }

    /// How long a stop waits before it begins, unless a trigger says otherwise: not at all by default. Meanwhile the
    /// server is not ready but still accepts, so that load balancers notice. A second request to stop skips the wait.
    pub fn delay(mut self, delay: Duration) -> Supervisor<S> {
        self.options.settings.delay = delay;
        self
    }

    /// The time over which a drain notifies clients and closes connections, oldest first, unless a trigger says
    /// otherwise: all at once by default. A time longer than the grace period counts as the grace period.
    pub fn spread(mut self, spread: Duration) -> Supervisor<S> {
        self.options.settings.spread = spread;
        self
    }

    /// How events are logged: not at all by default.
    pub fn log(self, log: Log) -> Supervisor<S> {
        let journal = self.options.journal.with(log);
        self.journal(journal)
    }

    /// The journal for events, for when others than this supervisor record events there, too. It must belong to this
    /// supervisor alone, and events are logged as it says.
    pub fn journal(mut self, journal: Journal) -> Supervisor<S> {
        self.options.settings.log = journal.log();
        self.options.journal = journal;
        self
    }

    /// When the server is started again after it has ended by itself: [`RestartPolicy::default`] by default.
    pub fn restart(mut self, policy: RestartPolicy) -> Supervisor<S> {
        self.options.settings.restart = policy;
        self
    }

    /// Enter stops the server; a second Enter closes by force what is left. End of file is not Enter.
    ///
    /// On Unix, SIGTTIN and SIGTTOU are blocked in the calling thread and in the threads that it starts from then on:
    /// the terminal cannot suspend them.
    pub fn console(mut self, console: Console) -> Supervisor<S> {
        self.options.console = Some(console);
        self
    }

    /// SIGHUP, SIGINT, SIGTERM and SIGQUIT (on Windows: console events) stop the server; a second one closes by force
    /// what is left. They stay taken for the rest of the process, even after the supervisor has ended.
    ///
    /// When the console window is closed, the user logs off or the system shuts down, Windows gives a process five
    /// seconds: clients get at most four of them, and the process has to end when the stop is done.
    pub fn signals(mut self) -> Supervisor<S> {
        self.options.signals = true;
        self
    }

    /// What SIGHUP does, with [`Supervisor::signals`]: it stops the server by default.
    pub fn on_hup(mut self, action: OnHup) -> Supervisor<S> {
        self.options.on_hup = action;
        self
    }

    /// Whether `admin-cli` can command this instance.
    pub fn admin(mut self, admin: AdminSocket) -> Supervisor<S> {
        self.options.admin = admin;
        self
    }

    /// Puts the admin socket at this path instead of the one that belongs to the name.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Supervisor<S> {
        self.options.socket = Some(path.into());
        self
    }

    /// Answers `GET /ready`, `/live` and `/metrics` over HTTP on this address, from the start to the very end. It
    /// accepts no commands.
    pub fn health(mut self, address: SocketAddr) -> Supervisor<S> {
        self.options.health = Some(address);
        self
    }

    /// Ends the whole process when a stop overruns its deadline by a second, or by up to four on a busy machine
    /// ([`crate::Exit::Overrun`]), or when master control hangs or panics ([`crate::Exit::OutOfControl`]) and the process
    /// could no longer be controlled.
    pub fn last_resort(mut self) -> Supervisor<S> {
        self.options.last_resort = true;
        self
    }

    /// Tells the host's service manager, if it listens (`NOTIFY_SOCKET`), when the server is ready, restarted and
    /// stopped, how long a stop may take, and that master control is alive (`WATCHDOG_USEC`).
    pub fn service_manager(mut self) -> Supervisor<S> {
        self.options.service_manager = true;
        self
    }

    /// The sockets that the service manager passed to this process. A server listens on the one that has its address,
    /// and a program gets all of them, before its other ones. A stop leaves them, and the clients in their queues, as
    /// they are.
    pub fn passed(mut self, passed: Passed) -> Supervisor<S> {
        self.options.passed = passed;
        self
    }

    /// Lets the service manager of Windows stop the server, and tells it when the server is ready, that it stops, and
    /// how long that may take.
    #[cfg(windows)]
    pub fn service(mut self, service: Service) -> Supervisor<S> {
        self.options.service = Some(service);
        self
    }
}
