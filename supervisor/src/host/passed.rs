//! The sockets that a service manager passes to this process, as specified by sd_listen_fds(3).

use std::fmt;
use std::net::{SocketAddr, TcpListener};

use super::store::Kept;
use crate::listen::{Address, Bound};

/// The listening sockets that the service manager passed to this process. The manager may keep them, and pass them to
/// the next process.
#[derive(Debug, Default)]
pub struct Passed {
    sockets: Vec<Bound>,
    /// Descriptors that it has kept for an earlier supervisor.
    kept: Vec<Kept>,
}

impl Passed {
    /// The addresses that they are bound to.
    pub fn addresses(&self) -> Vec<Address> {
        self.sockets.iter().map(|socket| socket.address.clone()).collect()
    }

    /// The TCP socket on this address.
    pub(crate) fn take_tcp(&mut self, address: SocketAddr) -> Option<TcpListener> {
        let position = self.sockets.iter().position(|socket| socket.address.tcp() == Some(address))?;
        self.sockets.drain(position..=position).find_map(Bound::into_tcp)
    }

    /// All of them, in the manager's order.
    pub(crate) fn take(&mut self) -> Vec<Bound> {
        std::mem::take(&mut self.sockets)
    }

    /// The listeners that the manager has kept for these addresses, and the other descriptors that it has kept.
    pub(crate) fn take_kept(&mut self, wanted: &[Address]) -> (Vec<Option<Bound>>, Vec<Kept>) {
        let mut kept = std::mem::take(&mut self.kept);
        let mut found: Vec<_> = wanted.iter().map(|_| None).collect();
        // Addresses with any port come last.
        let is_choosy = |address: &Address| address.tcp().is_none_or(|address| address.port() != 0);
        for choosy in [true, false] {
            for (wanted, found) in wanted.iter().zip(&mut found).filter(|(wanted, _)| is_choosy(wanted) == choosy) {
                let position = kept.iter().position(|kept| kept.is_at(wanted));
                *found = position.and_then(|position| kept.remove(position).into_listener());
            }
        }
        (found, kept)
    }
}

/// The passed sockets cannot be used by a server.
#[derive(Debug)]
pub struct PassedError(String);

impl fmt::Display for PassedError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for PassedError {}

/// Takes the sockets that the service manager passed to this process. Call this at the start of a program, before it
/// has other threads or files: it also removes the sockets from the environment.
///
/// # Errors
/// When what it passed is not what it says, or something else than listening TCP and Unix sockets.
pub fn passed() -> Result<Passed, PassedError> {
    system::passed()
}

#[cfg(unix)]
mod system {
    use std::ffi::OsString;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::SocketAddr;
    use std::path::{Path, PathBuf};

    use listenfd::ListenFd;
    use nix::sys::socket::{getsockopt, sockopt::AcceptConn};

    use super::{Address, Bound, Kept, Passed, PassedError};
    use crate::host::{pidfd, store};

    /// The first descriptor that is passed.
    const FIRST: usize = 3;

    /// The most sockets that a program gets, see `child/guardian/stage.rs`.
    const MOST: usize = 999;

    pub(super) fn passed() -> Result<Passed, PassedError> {
        let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let is_own = |name, own: Option<u64>| {
            variable(name).is_none_or(|said| own.is_none_or(|own| said.to_str() == Some(&own.to_string())))
        };
        // Checked here as well: the crate accepts sockets without a process id, too.
        let is_meant = variable("LISTEN_PID").is_some()
            && is_own("LISTEN_PID", Some(std::process::id().into()))
            && is_own(pidfd::VARIABLE, pidfd::own_id());
        let Some(count) = variable("LISTEN_FDS").filter(|_| is_meant) else { return Ok(Passed::default()) };
        let count = count_of(&count)?;
        let names = names(variable("LISTEN_FDNAMES"), count)?;
        // The crate could not tell a closed descriptor from one that is not a socket.
        if let Some(closed) = (FIRST..FIRST + count).find(|number| is_closed(*number)) {
            let message = format!(
                "the service manager says that it passed {} (LISTEN_FDS={count}), but descriptor {closed} is not open: \
                 start the supervisor without a program in between that closes it",
                if count == 1 { "a socket".into() } else { format!("{count} sockets") }
            );
            return Err(PassedError(message));
        }
        let mut all = ListenFd::from_env();
        let mut passed = Passed::default();
        for (index, name) in names.into_iter().enumerate() {
            match name {
                Some(name) if store::is_kept(&name) => {
                    let listener = take(&mut all, index, None).ok();
                    passed.kept.push(Kept::new(name, listener));
                }
                name => passed.sockets.push(take(&mut all, index, name)?),
            }
        }
        Ok(passed)
    }

    fn count_of(said: &OsString) -> Result<usize, PassedError> {
        let count = said.to_str().and_then(|said| said.parse().ok()).filter(|count| *count <= MOST);
        count.ok_or_else(|| {
            PassedError(format!(
                "LISTEN_FDS is {said:?}: it has to be the number of sockets that the service manager passed, from 0 to \
                 {MOST}; remove the variable if there are none"
            ))
        })
    }

    /// The name of each socket. None: it has no name.
    fn names(said: Option<OsString>, count: usize) -> Result<Vec<Option<String>>, PassedError> {
        let Some(said) = said.filter(|_| count > 0) else { return Ok(vec![None; count]) };
        let said = said.to_string_lossy().into_owned();
        let names: Vec<_> = said.split(':').map(|name| Some(name.to_owned())).collect();
        if names.len() == count {
            return Ok(names);
        }
        let message = format!(
            "LISTEN_FDNAMES has {} ({said}), and LISTEN_FDS is {count}: each socket that the service manager passes has \
             one name",
            if names.len() == 1 { "one name".into() } else { format!("{} names", names.len()) }
        );
        Err(PassedError(message))
    }

    fn is_closed(number: usize) -> bool {
        let all = Path::new("/dev/fd");
        all.exists() && all.join(number.to_string()).symlink_metadata().is_err()
    }

    fn take(all: &mut ListenFd, index: usize, name: Option<String>) -> Result<Bound, PassedError> {
        let number = FIRST + index;
        let which = name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        let refuse = |problem: &str| {
            Err(PassedError(format!("descriptor {number}{which}, which the service manager passed, is {problem}")))
        };
        let (address, socket) = if let Ok(Some(listener)) = all.take_tcp_listener(index) {
            (listener.local_addr().map(Address::Tcp), OwnedFd::from(listener))
        } else if let Ok(Some(listener)) = all.take_unix_listener(index) {
            (listener.local_addr().map(|address| Address::Unix(path(&address))), OwnedFd::from(listener))
        } else if matches!(all.take_udp_socket(index), Ok(Some(_)))
            || matches!(all.take_unix_datagram(index), Ok(Some(_)))
        {
            return refuse("a datagram socket; in a .socket unit write ListenStream= instead of ListenDatagram=");
        } else {
            return refuse("no TCP or Unix socket; in a .socket unit write ListenStream=");
        };
        if getsockopt(&socket, AcceptConn) != Ok(true) {
            return refuse("a connection and no listening socket; in a .socket unit leave out Accept=yes");
        }
        match address {
            Ok(address) => Ok(Bound { address, name, socket, file: None }),
            Err(_) => refuse("a socket without an address"),
        }
    }

    /// The path as systemd writes it: an abstract name begins with @.
    fn path(address: &SocketAddr) -> PathBuf {
        #[cfg(target_os = "linux")]
        if let Some(name) = std::os::linux::net::SocketAddrExt::as_abstract_name(address) {
            return format!("@{}", String::from_utf8_lossy(name)).into();
        }
        address.as_pathname().map(Path::to_owned).unwrap_or_default()
    }
}

/// On Windows no service manager passes sockets.
#[cfg(windows)]
mod system {
    use super::{Passed, PassedError};

    pub(super) fn passed() -> Result<Passed, PassedError> {
        Ok(Passed::default())
    }
}
