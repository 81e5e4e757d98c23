//! When a program is ready: it says so, its address answers, or a time has passed.

use std::net::TcpStream;
use std::time::Duration;

#[cfg(unix)]
use interprocess::ConnectWaitMode;
#[cfg(unix)]
use interprocess::local_socket::{ConnectOptions, GenericFilePath, ToFsName};

use super::family_sockets::FamilySockets;
use crate::listen::Address;

/// What shows that a program is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ready {
    /// One of its processes listens on a socket that is not from us (Linux), or it has run for a second: whichever comes
    /// first.
    Auto,
    /// It has run for this long.
    After(Duration),
    /// It says `READY=1` on the socket that `NOTIFY_SOCKET` names.
    #[cfg(unix)]
    Notify,
    /// It takes connections at this address. Where the system tells (Linux), an answer of another process does not count.
    Connect(Address),
}

/// How long a program has to run to be ready without another sign of that.
const LONG_ENOUGH: Duration = Duration::from_secs(1);

impl Ready {
    /// How long it has to run to be ready without another sign of that. None: that never suffices.
    pub(super) fn enough(&self) -> Option<Duration> {
        match self {
            Ready::Auto => Some(LONG_ENOUGH),
            Ready::After(time) => Some(*time),
            Ready::Connect(_) => None,
            #[cfg(unix)]
            Ready::Notify => None,
        }
    }

    /// Whether nothing announces it.
    pub(super) fn is_looked_for(&self) -> bool {
        match self {
            Ready::Auto | Ready::Connect(_) => true,
            Ready::After(_) => false,
            #[cfg(unix)]
            Ready::Notify => false,
        }
    }
}

/// Whether the program takes connections there, and not another one. That is no client: it leaves at once.
pub(super) fn answers(address: &Address, program: &FamilySockets) -> bool {
    program.listen_at(address) != Some(false) && takes_connections(address)
}

/// Whether something does.
fn takes_connections(address: &Address) -> bool {
    match address {
        Address::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_secs(1)).is_ok(),
        // Does not wait: one whose queue is full takes connections, too.
        #[cfg(unix)]
        Address::Unix(path) => path.as_path().to_fs_name::<GenericFilePath>().is_ok_and(|name| {
            ConnectOptions::new().name(name).wait_mode(ConnectWaitMode::Deferred).connect_sync().is_ok()
        }),
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn a_unix_socket_answers_as_soon_as_it_listens_even_if_its_queue_is_full() {
        use nix::sys::socket::{Backlog, listen};
        use std::os::unix::net::{UnixListener, UnixStream};

        let path = std::env::temp_dir().join(format!("mastercontrol-takes-{}", std::process::id()));
        let address = Address::Unix(path.clone());
        assert!(!takes_connections(&address));
        let listener = UnixListener::bind(&path).unwrap();
        listen(&listener, Backlog::new(0).unwrap()).unwrap();
        let _in_the_queue = UnixStream::connect(&path).unwrap();
        assert!(takes_connections(&address));
        drop(listener);
        assert!(!takes_connections(&address));
        fs::remove_file(path).unwrap();
    }
}
