//! Temp cleaners delete sockets of servers that run for weeks. Then the socket is made again.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use interprocess::local_socket::traits::Listener as _;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::server::{Acceptor, listen};
use crate::instance::{InstanceLock, InstanceLockError, InstancePaths};
use crate::log::Level;

/// How often it tries again while its directory vanishes.
const MOVES: usize = 20;

/// Sees when something in the socket's directory is deleted or replaced, or the directory itself.
pub(super) struct Watch(Inotify);

/// What tells the socket's file from another one that was moved to its place.
pub(super) type Identity = Option<(u64, u64)>;

pub(super) fn identity_of(paths: &InstancePaths) -> Identity {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(&paths.socket).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Watch {
    pub(super) fn new(paths: &InstancePaths) -> io::Result<Watch> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let going = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        inotify.add_watch(paths.lock.parent().unwrap_or(Path::new(".")), going)?;
        Ok(Watch(inotify))
    }

    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }

    /// Takes note of all that was seen.
    pub(super) fn saw_something_go(&self) -> bool {
        self.0.read_events().is_ok_and(|events| !events.is_empty())
    }
}

impl Acceptor {
    pub(super) fn is_in_place(&self) -> bool {
        self.identity.is_some() && identity_of(&self.paths) == self.identity && self.lock.holds()
    }

    /// Returns false if that cannot be done.
    pub(super) fn move_in_again(&mut self) -> bool {
        // Whoever deletes the whole directory may do so between two steps of ours.
        let mut moved = self.try_to_move_in_again();
        for _ in 0..MOVES {
            if moved.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
                moved = self.try_to_move_in_again();
            }
        }
        match moved {
            Ok(()) => {
                let path = self.paths.socket.display();
                let message = format!("somebody deleted the admin socket; it has been made again: {path}");
                self.server.log.line(Level::Warning, "admin_socket_restored", message, []);
                true
            }
            Err(error) => {
                self.give_up(&error);
                false
            }
        }
    }

    fn try_to_move_in_again(&mut self) -> io::Result<()> {
        // A listener removes its file when it is dropped, and the old one would remove another's.
        self.listener.do_not_reclaim_name_on_drop();
        if !self.lock.holds() {
            self.lock = InstanceLock::new(&self.paths).map_err(|error| match error {
                InstanceLockError::Taken => io::Error::other("its name was taken meanwhile"),
                InstanceLockError::Unusable { source, .. } => source,
            })?;
        }
        // Before the socket is there: what happens to it from then on is seen.
        self.signal.watch = Watch::new(&self.paths)?;
        self.listener = listen(&self.paths)?;
        self.identity = identity_of(&self.paths);
        Ok(())
    }
}
