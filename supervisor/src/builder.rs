//! A supervisor before it is started: what it supervises, and how.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use worker::Handler;

use crate::child::{Program, ProgramFactory};
#[cfg(windows)]
use crate::host::windows_service::Service;
use crate::instance::InstanceName;
use crate::journal::Journal;
use crate::log::Log;
use crate::restart::RestartPolicy;
use crate::server::BuildError;
use crate::server::handlers::Factory;
use crate::settings::{AdminSocket, Console, DEFAULT_GRACE, OnHup, Settings};

/// Where generations of the server come from.
pub(crate) enum Source {
    Threads(Factory),
    Programs(ProgramFactory),
}

/// A supervisor that has not been started yet.
pub struct Supervisor {
    pub(crate) source: Source,
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
    pub(crate) shared: bool,
    pub(crate) service_manager: bool,
    #[cfg(windows)]
    pub(crate) service: Option<Service>,
    /// The program, for people.
    pub(crate) shown: Option<String>,
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
    pub fn program(factory: impl FnMut(&mut Settings) -> Result<Program, BuildError> + Send + 'static) -> Supervisor {
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

    /// Ends the whole process when a stop overruns its deadline by a second ([`crate::Exit::Overrun`]), or when master
    /// control hangs or panics ([`crate::Exit::OutOfControl`]): nobody could command it any more.
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
    pub fn service(mut self, service: Service) -> Supervisor {
        self.service = Some(service);
        self
    }
}
