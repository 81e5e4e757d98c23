//! What std cannot ask of a socket: with the feature `http`, which brings `rustix`, on Linux as it should be; else as
//! near as std comes.

#[cfg(all(feature = "http", target_os = "linux"))]
pub(crate) use linux::{send_at_once, send_file, send_more_follows};
#[cfg(not(all(feature = "http", target_os = "linux")))]
pub(crate) use portable::{send_at_once, send_file, send_more_follows};

/// Whether a client has sent nothing that was not read yet, and has not closed its side either. Nobody else may use the
/// socket meanwhile, except for a read that waits already.
#[cfg(windows)]
pub(crate) fn is_silent(stream: &std::net::TcpStream) -> bool {
    let peeked = stream.set_nonblocking(true).and_then(|()| {
        let peeked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        peeked
    });
    peeked.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[cfg(all(feature = "http", target_os = "linux"))]
mod linux {
    use rustix::fs::sendfile;
    use rustix::io::{Errno, retry_on_intr};
    use rustix::net::{SendFlags, send};
    use std::fs::File;
    use std::io;
    use std::net::TcpStream;

    /// How much is sent at once, in bytes. One call of `sendfile` would take 2 GiB, and only at its end would anybody
    /// see that something was sent.
    const PIECE: usize = 1024 * 1024;

    /// Sends as much as the socket takes without waiting. The end of the stream is to follow, in the same packet.
    pub(crate) fn send_at_once(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        let flags = SendFlags::DONTWAIT | SendFlags::MORE | SendFlags::NOSIGNAL;
        match retry_on_intr(|| send(stream, bytes, flags)) {
            Err(Errno::AGAIN) => Ok(0),
            sent => Ok(sent?),
        }
    }

    /// Sends what more is going to follow: the system need not make a packet for it alone.
    pub(crate) fn send_more_follows(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| send(stream, bytes, SendFlags::MORE | SendFlags::NOSIGNAL))?)
    }

    /// Sends up to `length` bytes from the file's current position. 0: its end.
    ///
    /// `io::copy` would copy them through this process: it has given up `sendfile` from files to sockets, since a later
    /// change of the file can be sent in place of what was there. For a file that is served that is all right.
    pub(crate) fn send_file(stream: &TcpStream, file: &File, length: u64) -> io::Result<u64> {
        let length = usize::try_from(length).unwrap_or(PIECE).min(PIECE);
        Ok(retry_on_intr(|| sendfile(stream, file, None, length))? as u64)
    }
}

#[cfg(not(all(feature = "http", target_os = "linux")))]
mod portable {
    use std::fs::File;
    use std::io::{self, Read, Write};
    use std::net::TcpStream;

    /// How much is read and sent at once, in bytes.
    const PIECE: usize = 64 * 1024;

    /// Sends as much as the socket takes without waiting. Nobody else may use the socket meanwhile, except for a read
    /// that waits already.
    pub(crate) fn send_at_once(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        stream.set_nonblocking(true)?;
        let sent = stream.write(bytes);
        stream.set_nonblocking(false)?;
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            sent => sent,
        }
    }

    /// Sends what more is going to follow.
    pub(crate) fn send_more_follows(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        stream.write(bytes)
    }

    /// Sends up to `length` bytes from the file's current position. 0: its end.
    pub(crate) fn send_file(mut stream: &TcpStream, mut file: &File, length: u64) -> io::Result<u64> {
        let mut piece = vec![0; usize::try_from(length).unwrap_or(PIECE).min(PIECE)];
        let length = file.read(&mut piece)?;
        stream.write_all(&piece[..length])?;
        Ok(length as u64)
    }
}
