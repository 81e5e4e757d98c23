//! Socket operations that std lacks: with `rustix` on Linux as they should be, elsewhere as close as std allows.

#[cfg(all(feature = "linux-sys", target_os = "linux"))]
pub(crate) use linux::{has_input, receive_at_once, send_at_once, send_file, send_file_at_once, send_more_follows};
#[cfg(not(all(feature = "linux-sys", target_os = "linux")))]
pub(crate) use portable::{has_input, receive_at_once, send_at_once, send_file, send_file_at_once, send_more_follows};

use std::io;
use std::net::TcpStream;

/// `io::ErrorKind` has no name for this. The numbers are the same on all Unix systems.
#[cfg(feature = "http")]
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    const ENFILE: i32 = 23;
    const EMFILE: i32 = 24;
    const ERROR_TOO_MANY_OPEN_FILES: i32 = 4;
    match error.raw_os_error() {
        Some(ENFILE | EMFILE) => cfg!(unix),
        Some(ERROR_TOO_MANY_OPEN_FILES) => cfg!(windows),
        _ => false,
    }
}

/// Runs `call` without waiting, on a socket that otherwise blocks. No other thread may use the socket meanwhile, except
/// one that is already blocked in it.
fn at_once<T>(stream: &TcpStream, call: impl FnOnce(&TcpStream) -> io::Result<T>) -> io::Result<T> {
    stream.set_nonblocking(true)?;
    let result = call(stream);
    stream.set_nonblocking(false)?;
    result
}

/// What was sent, or nothing if sending would have blocked.
fn or_none<T: Default>(sent: io::Result<T>) -> io::Result<T> {
    match sent {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(T::default()),
        sent => sent,
    }
}

#[cfg(all(feature = "linux-sys", target_os = "linux"))]
mod linux {
    use super::{at_once, or_none};
    use rustix::fs::sendfile;
    use rustix::io::{Errno, retry_on_intr};
    use rustix::net::{RecvFlags, SendFlags, recv, send};
    use std::fs::File;
    use std::io;
    use std::net::TcpStream;

    /// How much is sent at once, in bytes. A single call of `sendfile` would take 2 GiB, and its progress would be
    /// visible only at its end.
    const PIECE: usize = 1024 * 1024;

    /// Whether the client has sent something that has not been read yet, or has closed its side.
    pub(crate) fn has_input(stream: &TcpStream) -> bool {
        let peeked = retry_on_intr(|| recv(stream, &mut [0; 1][..], RecvFlags::DONTWAIT | RecvFlags::PEEK));
        peeked.map(drop) != Err(Errno::AGAIN)
    }

    /// Receives what has arrived.
    pub(crate) fn receive_at_once(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| recv(stream, &mut *buffer, RecvFlags::DONTWAIT))?.0)
    }

    /// Sends as much as the socket takes without waiting. With `more` the system need not send a packet for it yet.
    pub(crate) fn send_at_once(stream: &TcpStream, bytes: &[u8], more: bool) -> io::Result<usize> {
        let more = if more { SendFlags::MORE } else { SendFlags::empty() };
        let sent = retry_on_intr(|| send(stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL | more));
        or_none(sent.map_err(io::Error::from))
    }

    /// Sends bytes that more will follow: the system need not send a packet for them alone.
    pub(crate) fn send_more_follows(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        Ok(retry_on_intr(|| send(stream, bytes, SendFlags::MORE | SendFlags::NOSIGNAL))?)
    }

    /// Sends up to `length` bytes from the file's current position. 0: its end.
    ///
    /// `io::copy` would copy them through this process: it no longer uses `sendfile` from files to sockets, because a
    /// later change to the file may be sent in place of the original content. For a file that is served that is
    /// acceptable.
    pub(crate) fn send_file(stream: &TcpStream, file: &File, length: u64) -> io::Result<u64> {
        let length = usize::try_from(length).unwrap_or(PIECE).min(PIECE);
        Ok(retry_on_intr(|| sendfile(stream, file, None, length))? as u64)
    }

    /// The same, but only as much as the socket takes without waiting.
    pub(crate) fn send_file_at_once(stream: &TcpStream, file: &File, length: u64) -> io::Result<u64> {
        or_none(at_once(stream, |stream| send_file(stream, file, length)))
    }
}

#[cfg(not(all(feature = "linux-sys", target_os = "linux")))]
mod portable {
    use super::{at_once, or_none};
    use std::fs::File;
    use std::io::{self, Read, Write};
    use std::net::TcpStream;

    /// How much is read and sent at once, in bytes.
    const PIECE: usize = 64 * 1024;

    /// Whether the client has sent something that has not been read yet, or has closed its side.
    pub(crate) fn has_input(stream: &TcpStream) -> bool {
        let peeked = at_once(stream, |stream| stream.peek(&mut [0]));
        !peeked.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Receives what has arrived.
    pub(crate) fn receive_at_once(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        at_once(stream, |mut stream| stream.read(buffer))
    }

    /// Sends as much as the socket takes without waiting.
    pub(crate) fn send_at_once(stream: &TcpStream, bytes: &[u8], _more: bool) -> io::Result<usize> {
        or_none(at_once(stream, |mut stream| stream.write(bytes)))
    }

    /// Sends bytes that more will follow.
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

    /// Sends nothing: what was read and not sent would be lost.
    pub(crate) fn send_file_at_once(_stream: &TcpStream, _file: &File, _length: u64) -> io::Result<u64> {
        Ok(0)
    }
}
