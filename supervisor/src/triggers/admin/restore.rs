//! Restores a place: temp cleaners delete sockets of servers that run for weeks, and the directory that the system
//! creates for a user's sockets is removed when that user logs out.

use std::io;

#[cfg(target_os = "linux")]
use interprocess::local_socket::traits::Listener as _;

#[cfg(target_os = "linux")]
use super::linux::{Watch, identity_of};
use super::place::Place;
#[cfg(target_os = "linux")]
use super::place::{listen, prepare};
#[cfg(not(target_os = "linux"))]
use super::unix::Watch;
#[cfg(target_os = "linux")]
use crate::instance::InstanceLockError;

#[cfg(target_os = "linux")]
impl Place {
    pub(super) fn is_whole(&self) -> bool {
        self.socket_is_there() && self.link.as_ref().is_none_or(|link| link.is_in_place()) && self.lock.holds()
    }

    fn socket_is_there(&self) -> bool {
        self.identity.is_some() && identity_of(&self.paths) == self.identity
    }

    /// Recreates what is missing, and watches it if the system gives a watch.
    pub(super) fn restore(&mut self, watch: &mut Watch) -> io::Result<()> {
        let paths = self.paths.now().map_err(io::Error::other)?;
        paths.make_directories()?;
        if !self.lock.holds() {
            let lock = paths.take_lock().map_err(|error| match error {
                InstanceLockError::Taken => io::Error::other("another supervisor has taken the name"),
                InstanceLockError::Unusable { source, .. } => source,
            })?;
            self.lock = lock.into();
        }
        // Without a watch the admin thread looks from time to time.
        let _ = watch.look_at(&paths);
        // The old link removes its file on drop, so drop it before making another one.
        self.link = None;
        if paths == self.paths && self.socket_is_there() {
            self.link = paths.lead_to_socket()?;
            return Ok(());
        }
        self.link = prepare(&paths)?;
        let listener = listen(&paths)?;
        if paths.socket == self.paths.socket {
            // The old listener would remove the new socket, too.
            self.listener.do_not_reclaim_name_on_drop();
        }
        self.listener = listener;
        self.identity = identity_of(&paths);
        self.paths = paths;
        // In the meantime the directory may have been replaced by something else, such as a link.
        self.paths.make_directories()
    }
}

/// On other systems nothing announces that something is missing.
#[cfg(not(target_os = "linux"))]
impl Place {
    pub(super) fn is_whole(&self) -> bool {
        true
    }

    pub(super) fn restore(&mut self, _watch: &mut Watch) -> io::Result<()> {
        Ok(())
    }
}
