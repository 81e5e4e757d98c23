//! What is started, in which order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use crate::announcement::Announcement;
use crate::builder::{Source, Supervisor};
use crate::child::{self, Children};
use crate::client::{self, Patience};
use crate::error::Error;
use crate::event::EventSender;
use crate::handle::{Control, Course, Running, join};
use crate::health::Health;
use crate::holder;
use crate::host::{Manager, Passed};
use crate::instance::{InstanceLock, InstanceLockError, InstanceName, InstancePaths};
use crate::journal::Journal;
use crate::listen::{self, Address};
use crate::log::Level;
use crate::master::{Identity, Master};
use crate::protocol::{Answer, Request};
use crate::server::Builder;
use crate::server::handlers::ThreadBuilder;
use crate::settings::{AdminSocket, Settings};
use crate::text;
use crate::triggers::admin::{Admin, LAST_ANSWERS};
use crate::triggers::console;
use crate::triggers::signals::Signals;
use crate::watchdog::{self, Watchdog};

impl Supervisor {
    /// Binds the address and starts. When this returns, the server takes connections and all triggers are in place, or
    /// it was stopped before it was ready: the triggers are there before.
    ///
    /// # Errors
    /// When the address cannot be bound, the name is taken, the server cannot be built, or something else that is
    /// needed cannot be had. Nothing is left behind then.
    pub fn start(self, address: SocketAddr) -> Result<Running, Error> {
        // The name first: of two that are started with the same name, the second hears that, and not of a taken port.
        let claimed = self.claim()?;
        let listener = listen::bind_tcp(address).map_err(|source| cannot_bind(&Address::Tcp(address), source))?;
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
            let bound = listen::Bound::new(address).map_err(|source| cannot_bind(address, source))?;
            sockets.push(child::Socket { name: bound.name(), socket: bound.socket });
            files.extend(bound.file);
            bound_to.push(bound.address);
        }
        self.start_claimed(bound_to, files, "", claimed, |source, settings, events, _, log| {
            let Source::Programs(factory) = source else {
                return Err(Error::Build { source: "a server thread is no program".into() });
            };
            let lacking = |source| Error::Start { what: "the program's guardian", source };
            let children = Children::new(factory, sockets, settings, log, events).map_err(lacking)?;
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
        let thread = thread::Builder::new().name("master-control".into()).spawn(move || {
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
                Err(InstanceLockError::Taken) if self.socket.is_some() => Err(socket_taken(&paths)),
                Err(InstanceLockError::Taken) => Err(name_taken(&self.name, &paths)),
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
            cannot_bind(&address, source)
        }
    })
}

/// What the instance at this place says of itself.
fn describe_holder(paths: &InstancePaths) -> Option<String> {
    match client::ask(paths, Request::Status {}, Patience::short(), |_| {}) {
        Ok(Answer::Status(status)) => Some(format!("{} on {} (pid {})", status.kind, text::place(&status), status.pid)),
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
