//! What a supervisor listens on: sockets that the service manager passed or kept, and those that are bound.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use crate::builder::Options;
use crate::child;
use crate::error::{Error, lacking};
use crate::holder;
use crate::host::Manager;
use crate::listen::{self, Address, ProgramSocket, SocketFile};
use crate::log::Level;

/// How often to check whether a taken address is free. Nothing announces that.
const LOOK: Duration = Duration::from_millis(10);

/// How long a service manager may take to close what it had kept at an address.
const FORGOTTEN: Duration = Duration::from_secs(2);

/// What a supervisor listens on, before there is a server.
pub(super) struct Bound<L, F> {
    /// What the handle reports.
    pub(super) listens_on: L,
    pub(super) addresses: Vec<Address>,
    /// Dropped when nothing listens any more, and before that is reported.
    pub(super) files: F,
    /// Where the listener comes from, for people, unless it was bound here.
    pub(super) whence: String,
}

/// The listener of a server that has one, and whether it is shared.
pub(super) type BoundListener = (TcpListener, bool, Bound<SocketAddr, ()>);

/// The sockets of programs.
pub(super) type BoundSockets = (Vec<child::Socket>, Bound<Vec<Address>, Vec<SocketFile>>);

impl Options {
    /// What the service manager has kept for each of these addresses. It forgets the rest. The time is how long one of
    /// the addresses may still be taken because of that.
    fn find_kept(&mut self, addresses: &[Address], manager: &mut Manager) -> (Vec<Option<listen::Bound>>, Duration) {
        let (found, rest) = self.passed.take_kept(addresses);
        for kept in &rest {
            let why = kept.why_not(addresses);
            let message = format!("closed a listener that the service manager had kept: {why}");
            self.journal.line(Level::Info, "listener_closed", message, []);
            #[cfg(unix)]
            kept.remove_file();
            manager.forget(kept);
        }
        (found, if rest.is_empty() { Duration::ZERO } else { FORGOTTEN })
    }

    /// The listener that was passed or kept, or one that is bound now.
    pub(super) fn bind_one(&mut self, address: SocketAddr, manager: &mut Manager) -> Result<BoundListener, Error> {
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
        let shared =
            manager.keep(is_kept, || listen::Bound::of_tcp(&listener), None).map_err(lacking("the listener"))?;
        self.bound(listener, shared, whence(0, is_kept.into(), 1))
    }

    /// The sockets of programs: those that were passed, and these, which are kept or bound now.
    pub(super) fn bind_sockets(
        &mut self,
        sockets: &[ProgramSocket],
        manager: &mut Manager,
    ) -> Result<BoundSockets, Error> {
        let addresses: Vec<_> = sockets.iter().map(|socket| socket.address.clone()).collect();
        let (found, patience) = self.find_kept(&addresses, manager);
        let mut bound = self.passed.take();
        let (passed, kept) = (bound.len(), found.iter().flatten().count());
        for (socket, found) in sockets.iter().zip(&found) {
            let again = || found.as_ref().map_or_else(|| listen::Bound::new(socket), |found| found.again(socket));
            let one = bind(&socket.address, patience, again).map_err(|error| not_beside(error, &bound))?;
            manager
                .keep(found.is_some(), || one.try_clone(), one.file.as_ref())
                .map_err(lacking("a listening socket"))?;
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
        Ok((sockets, Bound { listens_on: bound_to.clone(), addresses: bound_to, files, whence }))
    }

    /// The server has only this listener.
    pub(super) fn bound(
        &mut self,
        listener: TcpListener,
        shared: bool,
        whence: String,
    ) -> Result<BoundListener, Error> {
        let address = listener.local_addr().map_err(lacking("the listener"))?;
        if let Some(other) = self.passed.addresses().first() {
            let message = format!("it is on {other}, and the server listens on {address} alone");
            return Err(lacking("on a socket that the service manager passed")(io::Error::other(message)));
        }
        let addresses = vec![Address::Tcp(address)];
        Ok((listener, shared, Bound { listens_on: address, addresses, files: (), whence }))
    }
}

/// Where listeners come from, for people, unless they were bound here: this many were passed, and this many kept.
fn whence(passed: usize, kept: usize, all: usize) -> String {
    let some = |number: usize, how: &str| match (number, all) {
        (0, _) => String::new(),
        (1, 1) => format!(", socket {how} by the service manager"),
        (number, all) if number == all => format!(", sockets {how} by the service manager"),
        (number, all) => format!(", {number} of {all} sockets {how} by the service manager"),
    };
    some(passed, "passed") + &some(kept, "kept")
}

/// This error, unless the address is taken by one of the sockets that have just been bound: then it says that.
fn not_beside(error: Error, bound: &[listen::Bound]) -> Error {
    let Error::Bind { address, holder, source } = error else { return error };
    let in_the_way = |one: &&listen::Bound| address.tcp().is_some_and(|address| one.address.excludes(address));
    match bound.iter().find(in_the_way).filter(|_| source.kind() == io::ErrorKind::AddrInUse) {
        Some(one) => {
            let message = format!("{}, on which this supervisor listens, too, is in the way; keep one", one.address);
            Error::Bind { address, holder: None, source: io::Error::other(message) }
        }
        None => Error::Bind { address, holder, source },
    }
}

/// Binds the address of the health endpoint. The server has been bound to its own.
pub(super) fn bind_health(health: SocketAddr, server: &[Address]) -> Result<TcpListener, Error> {
    let is_own = |address: &Address| address.tcp().is_some_and(|address| address.port() == health.port());
    bind(&Address::Tcp(health), Duration::ZERO, || listen::bind_tcp(health)).map_err(|error| match error {
        // Perhaps on another address, such as that of all interfaces.
        Error::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse && server.iter().any(is_own) => {
            let message = format!("port {} is the server's own; choose another one", health.port());
            Error::Start { what: "the health endpoint", source: io::Error::new(source.kind(), message) }
        }
        error => error,
    })
}

/// Binds an address. If it is taken, this is retried while its holder is ending, and for as long as `patience`: a
/// supervisor that starts right after another one was killed finds the processes that the other one had started.
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

fn cannot_bind(address: &Address, source: io::Error) -> Error {
    let taken = source.kind() == io::ErrorKind::AddrInUse;
    let holder = if taken { holder::holder_of(address) } else { None };
    Error::Bind { address: address.clone(), holder, source }
}
