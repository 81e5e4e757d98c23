//! Input and output that another process has made non-blocking.

use std::io::{self, Read, Write};
#[cfg(unix)]
use std::os::fd::AsFd;

#[cfg(unix)]
use nix::errno::Errno;
#[cfg(unix)]
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits for input or room in a pipe or a terminal that another process has made non-blocking: it is so for all that
/// share it.
#[derive(Debug)]
pub struct Patient<T>(pub T);

#[cfg(unix)]
impl<T: AsFd> Patient<T> {
    fn when_ready<R>(&mut self, ready: PollFlags, mut attempt: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        loop {
            match attempt(&mut self.0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match poll(&mut [PollFd::new(self.0.as_fd(), ready)], PollTimeout::NONE) {
                        Ok(_) | Err(Errno::EINTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                done => return done,
            }
        }
    }
}

#[cfg(unix)]
impl<R: Read + AsFd> Read for Patient<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.when_ready(PollFlags::POLLIN, |input| input.read(bytes))
    }
}

#[cfg(unix)]
impl<W: Write + AsFd> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.when_ready(PollFlags::POLLOUT, |output| output.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.when_ready(PollFlags::POLLOUT, W::flush)
    }
}

/// Windows has nothing like that.
#[cfg(windows)]
impl<R: Read> Read for Patient<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.read(bytes)
    }
}

#[cfg(windows)]
impl<W: Write> Write for Patient<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}
