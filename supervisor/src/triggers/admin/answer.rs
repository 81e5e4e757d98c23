//! Writes lines to a client, which has a limited time to read them.

use std::io;
use std::time::{Duration, Instant};

use interprocess::local_socket::Stream;
use serde::Serialize;

use crate::deadline::DeadlineWriter;
use crate::protocol::{self, Answer, ErrorCode, Refusal};

/// How long a client may take to send its request, and to read each line of the answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Writes a line of an answer. The client has [`PATIENCE`] to read it.
pub(super) fn write_answer(client: &Stream, line: &impl Serialize) -> io::Result<()> {
    protocol::write_response(&mut DeadlineWriter { stream: client, end: Instant::now() + PATIENCE }, line)
}

/// Tells a client why its request is refused.
pub(super) fn refuse(client: &Stream, code: ErrorCode, message: String, end: Instant) -> io::Result<()> {
    protocol::write_line(&mut DeadlineWriter { stream: client, end }, &Answer::Error(Refusal { code, message }))
}

/// Shows the client that there are no more answers, although its input is still read.
#[cfg(unix)]
pub(super) fn end_answers(client: &Stream) {
    shut_down(client, nix::sys::socket::Shutdown::Write);
}

/// A pipe of Windows has no end of one direction.
#[cfg(windows)]
pub(super) fn end_answers(_client: &Stream) {}

/// Ends the connection, even if another thread still reads from it. The client still gets what was written before.
#[cfg(unix)]
pub(super) fn disconnect(client: &Stream) {
    shut_down(client, nix::sys::socket::Shutdown::Both);
}

#[cfg(unix)]
fn shut_down(client: &Stream, how: nix::sys::socket::Shutdown) {
    use std::os::fd::{AsFd, AsRawFd};

    let Stream::UdSocket(client) = client;
    // This fails if the client has disconnected already.
    let _ = nix::sys::socket::shutdown(client.as_fd().as_raw_fd(), how);
}

/// Nothing wakes a read from a pipe on Windows. So the connection ends when the client ends it.
#[cfg(windows)]
pub(super) fn disconnect(_client: &Stream) {}
