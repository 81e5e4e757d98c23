//! A client that reads the events.

use std::io::{self, Write};
use std::time::Instant;

use interprocess::local_socket::Stream;

use super::answer::{PATIENCE, refuse, write_answer};
use crate::deadline::DeadlineWriter;
use crate::event::Trigger;
use crate::journal::{Journal, MAX_FOLLOWERS, Next, Reader};
use crate::log::Level;
use crate::protocol::{Answer, ErrorCode, Progress};

/// Sends a client past events and, if it follows, new ones: at its own pace, and as long as it reads at all.
pub(super) fn tell_events(client: &Stream, by: &Trigger, since: Option<u64>, follow: bool, log: &Journal) {
    let Some(reader) = (if follow { log.follow(since) } else { Some(log.read(since)) }) else {
        let message =
            format!("{MAX_FOLLOWERS} clients follow the events already: disconnect one of them, and try again");
        let _ = refuse(client, ErrorCode::Busy, message, Instant::now() + PATIENCE);
        return;
    };
    match write_events(client, reader) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            let message = format!("{by} does not read the events that it asked for, and was disconnected");
            log.line(Level::Warning, "reader_let_go", message, [("by", by.to_string().into())]);
        }
        // The client has disconnected.
        Ok(()) | Err(_) => {}
    }
}

fn write_events(client: &Stream, mut reader: Reader) -> io::Result<()> {
    loop {
        match reader.next() {
            Next::Position { began, next, missed } => {
                write_answer(client, &Progress::Journal { began, next, missed })?;
            }
            Next::Entries(lines) => {
                let end = Instant::now() + PATIENCE;
                DeadlineWriter { stream: client, end }.write_all(lines.as_bytes())?;
                reader.pause();
            }
            Next::Look if has_hung_up(client) => return Ok(()),
            Next::Look => {}
            Next::End { last } => return write_answer(client, &Answer::Events { last }),
        }
    }
}

/// Whether the client has disconnected.
#[cfg(unix)]
fn has_hung_up(client: &Stream) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    let Stream::UdSocket(client) = client;
    // A client that only stops sending has not disconnected. poll reports without being asked that both directions are
    // closed.
    let mut client = [PollFd::new(client.as_fd(), PollFlags::empty())];
    poll(&mut client, PollTimeout::ZERO).is_ok_and(|closed| closed > 0)
}

/// Windows does not show this before the next write.
#[cfg(windows)]
fn has_hung_up(_client: &Stream) -> bool {
    false
}
