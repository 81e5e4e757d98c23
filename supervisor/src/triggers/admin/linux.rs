//! Notices on Linux when files of an instance vanish.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use crate::instance::InstancePaths;

/// Notices when something in the directories of an instance, or one of the directories, is deleted or replaced.
pub(super) struct Watch(Option<Inotify>);

/// Distinguishes the socket's file from another one that was moved to its place.
pub(super) type Identity = Option<(u64, u64)>;

pub(super) fn identity_of(paths: &InstancePaths) -> Identity {
    use std::os::unix::fs::MetadataExt;
    std::fs::symlink_metadata(&paths.socket).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Something is deleted or replaced.
fn going() -> AddWatchFlags {
    AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
}

impl Watch {
    /// Sees nothing yet.
    pub(super) fn new() -> Watch {
        Watch(None)
    }

    pub(super) fn sees_all(&self) -> bool {
        self.0.is_some()
    }

    /// Sees what happens in these directories from now on, or nothing: few watches exist per user, and other programs
    /// may have them all.
    pub(super) fn look_at(&mut self, paths: &InstancePaths) -> io::Result<()> {
        let inotify = match self.0.take() {
            Some(inotify) => inotify,
            None => Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?,
        };
        let watched =
            paths.directories().into_iter().try_for_each(|directory| inotify.add_watch(directory, going()).map(drop));
        // Closed as a watch is, if it does not see all.
        let watch = Watch(Some(inotify));
        watched?;
        *self = watch;
        Ok(())
    }

    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(Inotify::as_fd)
    }

    /// Consumes all events. Returns whether there were any.
    pub(super) fn saw_something_go(&self) -> bool {
        self.0.as_ref().is_some_and(|inotify| inotify.read_events().is_ok_and(|events| !events.is_empty()))
    }
}

impl Drop for Watch {
    /// Closing the last descriptor of a watch takes a grace period of the kernel, up to some 20 ms, and so would the
    /// end of the process. So neither this process nor any other holds the last one: it is in a message that no socket
    /// can receive any more. The kernel garbage-collects such messages, and closes the descriptor, in its own time.
    fn drop(&mut self) {
        if let Some(inotify) = self.0.take() {
            // If this fails, closing takes the time that it would take anyway.
            let void = send_into_the_void(&inotify);
            // Before the kernel collects anything, which starts when these sockets are closed.
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Read;
    use std::thread;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn what_is_sent_into_the_void_is_closed_though_nobody_receives_it() {
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let void = send_into_the_void(&theirs).unwrap();
        drop(theirs);
        ours.set_nonblocking(true).unwrap();
        assert_eq!(ours.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(void);
        // End of file arrives when the last descriptor of the other end is closed. A process that another test is just
        // starting has all descriptors for a moment, and the kernel looks again only when some Unix socket is closed.
        let end = Instant::now() + Duration::from_secs(60);
        let read = loop {
            match ours.read(&mut [0]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                    drop(UnixStream::pair().unwrap());
                    thread::sleep(Duration::from_millis(2));
                }
                read => break read,
            }
        };
        assert_eq!(read.unwrap(), 0);
    }
}
