//! Listeners that the service manager keeps for the next supervisor, see `FDSTORE=1` in sd_notify(3): clients waiting
//! in their queues survive a restart of the service, a crash of this process, and its upgrade.

#[cfg(unix)]
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::listen::{Address, Bound};
#[cfg(unix)]
use crate::listen::{FileIdentity, file_identity};

/// The variable that holds the number of descriptors that the manager keeps. systemd sets it since version 254.
pub(crate) const VARIABLE: &str = "FDSTORE";

/// How many listeners the manager can keep, and how many it has been asked to keep.
#[derive(Debug)]
pub(super) struct Store {
    places: usize,
    taken: usize,
}

impl Store {
    /// None: the manager keeps none.
    pub(super) fn from_environment() -> Option<Store> {
        let places = std::env::var(VARIABLE).ok()?.parse().ok().filter(|places| *places > 0)?;
        Some(Store { places, taken: 0 })
    }

    /// Reserves a place for one more listener.
    ///
    /// # Errors
    /// When there is none, for people.
    pub(super) fn take_place(&mut self) -> Result<(), String> {
        if self.taken == self.places {
            return Err(format!(
                "the service manager keeps no more than {} of the listeners for the next supervisor: raise \
                 FileDescriptorStoreMax=",
                self.places
            ));
        }
        self.taken += 1;
        Ok(())
    }
}

/// The prefix of the names under which the manager keeps listeners for this program. Sockets of a `.socket` unit must
/// not have it: by default they have the name of the unit.
#[cfg(unix)]
const PREFIX: &str = "mastercontrol-listener-";

/// A request to the manager.
#[derive(Debug)]
pub(crate) enum Errand {
    /// Keep a listener under this name. `is_kept` is set when the manager has been asked.
    Keep { name: String, listener: Bound, is_kept: Arc<AtomicBool> },
    /// Forget the listener with this name.
    Forget { name: String },
}

impl Errand {
    /// A request to keep this listener. `is_kept` is set when the manager has been asked.
    pub(super) fn keep(listener: Bound, is_kept: Arc<AtomicBool>) -> Errand {
        Errand::Keep { name: name_of(&listener), listener, is_kept }
    }

    /// Notes that the manager has got this request.
    pub(super) fn note_sent(&self) {
        match self {
            Errand::Keep { is_kept, .. } => is_kept.store(true, Ordering::SeqCst),
            Errand::Forget { .. } => {}
        }
    }

    pub(super) fn listener(&self) -> Option<&Bound> {
        match self {
            Errand::Keep { listener, .. } => Some(listener),
            Errand::Forget { .. } => None,
        }
    }

    pub(super) fn message(&self) -> String {
        match self {
            // Nothing closes the listener, so the manager need not watch whether it was closed.
            Errand::Keep { name, .. } => format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"),
            Errand::Forget { name } => format!("FDSTOREREMOVE=1\nFDNAME={name}"),
        }
    }
}

/// A descriptor that the manager has kept for this process.
#[derive(Debug)]
pub(crate) struct Kept {
    name: String,
    /// None: it is not a listening socket.
    listener: Option<Bound>,
}

/// Whether this is the name of a descriptor that an earlier supervisor has had kept.
#[cfg(unix)]
pub(super) fn is_kept(name: &str) -> bool {
    name.starts_with(PREFIX)
}

impl Kept {
    #[cfg(unix)]
    pub(super) fn new(name: String, listener: Option<Bound>) -> Kept {
        Kept { name, listener }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether a client that connects to this address reaches this listener. (Port 0 is any port.)
    pub(super) fn is_at(&self, wanted: &Address) -> bool {
        let Some(listener) = &self.listener else { return false };
        match (&listener.address, wanted) {
            (Address::Tcp(own), Address::Tcp(wanted)) => {
                own == wanted || (wanted.port() == 0 && own.ip() == wanted.ip())
            }
            // The path may lead elsewhere by now. While the listener exists, no other file has its file's inode.
            #[cfg(unix)]
            (Address::Unix(own), Address::Unix(wanted)) => own == wanted && self.is_file_at(wanted),
            #[cfg(unix)]
            (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
        }
    }

    pub(super) fn into_listener(self) -> Option<Bound> {
        self.listener
    }

    /// Whether the file of this Unix socket is at this path.
    #[cfg(unix)]
    fn is_file_at(&self, path: &Path) -> bool {
        file_identity(path).is_some_and(|file| self.name == name_of_file(file))
    }

    /// Removes the file by which clients have found it: nothing will listen there any more.
    #[cfg(unix)]
    pub(crate) fn remove_file(&self) {
        if let Some(Bound { address: Address::Unix(path), .. }) = &self.listener
            && self.is_file_at(path)
        {
            // Otherwise the next supervisor that listens there removes it.
            let _ = std::fs::remove_file(path);
        }
    }

    /// Why a server with these addresses cannot use it, in human-readable form.
    pub(crate) fn why_not(&self, wanted: &[Address]) -> String {
        match &self.listener {
            None => format!("{} is no listening socket", self.name),
            Some(listener) if wanted.contains(&listener.address) => {
                format!("{} leads elsewhere by now", listener.address)
            }
            Some(listener) => format!("\"listen\" does not name {}", listener.address),
        }
    }
}

#[cfg(unix)]
fn name_of_file(file: FileIdentity) -> String {
    let (device, inode) = file;
    format!("{PREFIX}unix-{device}-{inode}")
}

#[cfg(unix)]
fn name_of(listener: &Bound) -> String {
    match &listener.address {
        // A name must not contain a colon.
        Address::Tcp(address) => format!("{PREFIX}tcp-{}", address.to_string().replace(':', "_")),
        Address::Unix(path) => name_of_file(file_identity(path).unwrap_or_default()),
    }
}

#[cfg(windows)]
fn name_of(listener: &Bound) -> String {
    match listener.socket {}
}
