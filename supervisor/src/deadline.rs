//! Reads from the admin socket, and writes to it, until a time is up: however much progress there is before.

use std::borrow::Borrow;
use std::io::{self, Read, Write};
use std::time::Instant;

use interprocess::local_socket::Stream;
#[cfg(unix)]
use interprocess::local_socket::traits::Stream as _;

/// Reads until `end`, or for as long as it takes if there is none. Windows has no such limit for pipes.
pub(crate) struct DeadlineReader<S> {
    pub(crate) stream: S,
    #[cfg_attr(windows, allow(dead_code))]
    pub(crate) end: Option<Instant>,
}

impl<S: Borrow<Stream>> Read for DeadlineReader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream.borrow();
        #[cfg(unix)]
        {
            let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_recv_timeout(left)?;
        }
        stream.read(buffer)
    }
}

/// Writes until `end`. Windows has no such limit for pipes.
pub(crate) struct DeadlineWriter<'a> {
    pub(crate) stream: &'a Stream,
    #[cfg_attr(windows, allow(dead_code))]
    pub(crate) end: Instant,
}

impl Write for DeadlineWriter<'_> {
    /// A send timeout would begin anew with each part that the client takes.
    #[cfg(unix)]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        use nix::errno::Errno;
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use nix::sys::socket::{MsgFlags, send};
        use std::os::fd::{AsFd, AsRawFd};

        let Stream::UdSocket(stream) = self.stream;
        let stream = stream.as_fd();
        loop {
            match send(stream.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => {}
                Err(Errno::EINTR) => continue,
                sent => return Ok(sent?),
            }
            let left = self.end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            // Rounded up, so that the end has been reached when this gives up.
            let left = PollTimeout::try_from(left.as_millis() + 1).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(stream, PollFlags::POLLOUT)], left) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    #[cfg(windows)]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut stream = self.stream;
        stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::BufReader;
    use std::os::unix::net::UnixStream;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::protocol::{self, LineError};

    #[test]
    fn the_time_of_a_write_is_not_renewed_by_a_client_that_reads_a_little_now_and_then() {
        let (client, ours) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            // Fast enough for any limit that counts from the last progress, but far from reading everything.
            while (&client).read(&mut [0; 4096]).is_ok_and(|length| length > 0) {
                thread::sleep(Duration::from_millis(20));
            }
        });
        let stream = Stream::UdSocket(ours.into());
        let end = Instant::now() + Duration::from_millis(500);
        let written = DeadlineWriter { stream: &stream, end }.write_all(&vec![b'x'; 8 * 1024 * 1024]);
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn the_time_of_a_read_is_not_renewed_by_a_client_that_sends_a_little_now_and_then() {
        let (client, ours) = UnixStream::pair().unwrap();
        thread::spawn(move || {
            // Each byte comes in time for any limit that counts from the last progress. After these the client is gone.
            for _ in 0..1000 {
                if (&client).write_all(b"x").is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        let end = Some(Instant::now() + Duration::from_millis(500));
        let mut reader = BufReader::new(DeadlineReader { stream: Stream::UdSocket(ours.into()), end });
        match protocol::read_line(&mut reader) {
            Err(LineError::Io(error)) => {
                assert!(matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}
