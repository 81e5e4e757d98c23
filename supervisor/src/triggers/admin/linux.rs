//! Temp cleaners delete sockets of servers that run for weeks, and the directory that the system makes for a user's
//! sockets goes when that user logs out. Then the place is made anew.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use interprocess::local_socket::traits::Listener as _;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::place::{Place, listen, prepare};
use crate::instance::{InstanceLockError, InstancePaths};

/// Sees when something in the directories of an instance is deleted or replaced, or one of these.
pub(super) struct Watch(Option<Inotify>);

/// What tells the socket's file from another one that was moved to its place.
pub(super) type Identity = Option<(u64, u64)>;

pub(super) fn identity_of(paths: &InstancePaths) -> Identity {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(&paths.socket).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

impl Watch {
    /// To be made before the socket is: what happens to that from then on is seen.
    pub(super) fn new(paths: &InstancePaths) -> io::Result<Watch> {
        paths.make_directories()?;
        let watch = Watch(Some(Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?));
        watch.look_at(paths)?;
        Ok(watch)
    }

    fn look_at(&self, paths: &InstancePaths) -> io::Result<()> {
        let going = AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF;
        for directory in paths.directories() {
            self.0.as_ref().map(|inotify| inotify.add_watch(directory, going)).transpose()?;
        }
        Ok(())
    }

    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(Inotify::as_fd)
    }

    /// Takes note of all that was seen.
    pub(super) fn saw_something_go(&self) -> bool {
        self.0.as_ref().is_some_and(|inotify| inotify.read_events().is_ok_and(|events| !events.is_empty()))
    }
}

impl Drop for Watch {
    /// Whoever closes the last descriptor of a watch waits for a grace period of the kernel, up to some 20 ms, and so
    /// would the end of the process. So that last one is neither ours nor that of any process: it is in a message that
    /// no socket can receive any more. The kernel collects such messages, and closes it, in its own time.
    fn drop(&mut self) {
        if let Some(inotify) = self.0.take() {
            // At worst this takes the time that it would take anyway.
            let void = send_into_the_void(&inotify);
            // Before the kernel collects anything, which begins when these sockets are closed.
            drop(inotify);
            drop(void);
        }
    }
}

/// Sends a descriptor to a socket that is itself in the message. When the returned sockets are closed, nothing can
/// receive it any more.
fn send_into_the_void(descriptor: &impl AsFd) -> io::Result<[UnixStream; 2]> {
    let (sender, receiver) = UnixStream::pair()?;
    let both = [descriptor.as_fd().as_raw_fd(), receiver.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&both)];
    sendmsg::<()>(sender.as_raw_fd(), &[IoSlice::new(&[0])], &rights, MsgFlags::empty(), None)?;
    Ok([sender, receiver])
}

impl Place {
    pub(super) fn is_whole(&self) -> bool {
        self.socket_is_there() && self.link.as_ref().is_none_or(|link| link.is_in_place()) && self.lock.holds()
    }

    fn socket_is_there(&self) -> bool {
        self.identity.is_some() && identity_of(&self.paths) == self.identity
    }

    /// Makes what is missing.
    pub(super) fn restore(&mut self, watch: &Watch) -> io::Result<()> {
        let paths = self.paths.now().map_err(io::Error::other)?;
        paths.make_directories()?;
        if !self.lock.holds() {
            self.lock = paths.take_lock().map_err(|error| match error {
                InstanceLockError::Taken => io::Error::other("another supervisor has taken the name"),
                InstanceLockError::Unusable { source, .. } => source,
            })?;
        }
        watch.look_at(&paths)?;
        // It removes itself when it is dropped, so before there is another one.
        self.link = None;
        if paths == self.paths && self.socket_is_there() {
            self.link = paths.lead_to_socket()?;
            return Ok(());
        }
        self.link = prepare(&paths)?;
        let listener = listen(&paths)?;
        if paths.socket == self.paths.socket {
            // It would remove the new one, too.
            self.listener.do_not_reclaim_name_on_drop();
        }
        self.listener = listener;
        self.identity = identity_of(&paths);
        self.paths = paths;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;

    use super::*;

    #[test]
    fn what_is_sent_into_the_void_is_closed_though_nobody_receives_it() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let void = send_into_the_void(&theirs).unwrap();
        drop(theirs);
        ours.set_nonblocking(true).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        ours.set_nonblocking(false).unwrap();
        drop(void);
        // Its end comes when the last descriptor of the other one is closed.
        assert_eq!(ours.read(&mut [0]).unwrap(), 0);
    }
}
