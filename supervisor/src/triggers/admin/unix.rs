//! Wakes and ends the admin thread on Unix.

use std::convert::Infallible;
use std::io::{self, PipeReader, PipeWriter};
#[cfg(not(target_os = "linux"))]
use std::os::fd::BorrowedFd;
use std::sync::mpsc::Receiver;

#[cfg(target_os = "linux")]
use super::linux::Watch;
use crate::instance::InstancePaths;

/// Closing this end of the pipe ends the thread `admin`.
#[derive(Debug)]
pub(super) struct ShutdownHandle(PipeWriter);

pub(super) struct ShutdownSignal {
    pub(super) closed: PipeReader,
    pub(super) watch: Watch,
}

impl ShutdownHandle {
    pub(super) fn new(paths: &InstancePaths) -> io::Result<(ShutdownHandle, ShutdownSignal)> {
        paths.make_directories()?;
        let (closed, shutdown) = io::pipe()?;
        Ok((ShutdownHandle(shutdown), ShutdownSignal { closed, watch: Watch::new() }))
    }

    pub(super) fn close(self, gone: &Receiver<Infallible>) {
        drop(self.0);
        let _ = gone.recv();
    }
}

/// On other systems nothing announces that the socket's file was deleted.
#[cfg(not(target_os = "linux"))]
pub(super) struct Watch;

#[cfg(not(target_os = "linux"))]
impl Watch {
    fn new() -> Watch {
        Watch
    }

    /// There is nothing to wait for.
    pub(super) fn sees_all(&self) -> bool {
        true
    }

    pub(super) fn look_at(&mut self, _paths: &InstancePaths) -> io::Result<()> {
        Ok(())
    }

    pub(super) fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    pub(super) fn saw_something_go(&self) -> bool {
        false
    }
}
