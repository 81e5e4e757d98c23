//! Reading from the admin socket until a time is up.

use std::borrow::Borrow;
use std::io::{self, Read};
use std::time::Instant;

use interprocess::local_socket::Stream;
use interprocess::local_socket::traits::Stream as _;

/// Reads until `end`; without that for as long as it takes. Windows has no such limit for pipes.
pub(crate) struct DeadlineReader<S> {
    pub(crate) stream: S,
    pub(crate) end: Option<Instant>,
}

impl<S: Borrow<Stream>> Read for DeadlineReader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut stream = self.stream.borrow();
        if cfg!(unix) {
            let left = self.end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            stream.set_recv_timeout(left)?;
        }
        stream.read(buffer)
    }
}
