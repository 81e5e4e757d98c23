//! One client of the admin socket: who it is, its request, and the answers.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use interprocess::local_socket::Stream;
use interprocess::local_socket::traits::StreamCommon as _;

use super::PATIENCE;
use super::follow::tell_events;
use crate::deadline_reader::DeadlineReader;
use crate::event::{Event, EventSender, Trigger};
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{self, Answer, ErrorCode, LineError, MAX_LINE, Refusal, Request, Response};
#[cfg(unix)]
use crate::text::Reason;

/// How many clients may be about to send their request at the same time.
pub(super) const MAX_CLIENTS: usize = 64;

/// The same where the admin thread itself attends to a client: others wait meanwhile, and so does the end of the
/// supervisor, which takes a second at most.
const HURRY: Duration = Duration::from_millis(400);

/// How many clients have asked and are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pending: Mutex<usize>,
    changed: Condvar,
}

impl Answers {
    pub(super) fn add(&self, change: isize) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending = pending.saturating_add_signed(change);
        self.changed.notify_all();
    }

    pub(super) fn wait(&self, limit: Duration) {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(pending, limit, |pending| *pending > 0));
    }
}

/// One of the [`MAX_CLIENTS`] places, given back on drop.
pub(super) struct ClientSlot(Arc<AtomicUsize>);

impl ClientSlot {
    pub(super) fn take(clients: &Arc<AtomicUsize>) -> Option<ClientSlot> {
        let slot = ClientSlot(clients.clone());
        (clients.fetch_add(1, Ordering::Relaxed) < MAX_CLIENTS).then_some(slot)
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a client may wait for the end of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    AsAsked,
    Never,
}

impl Wait {
    /// How long the client may take to send its request.
    fn patience(self) -> Duration {
        match self {
            Wait::AsAsked => PATIENCE,
            Wait::Never => HURRY,
        }
    }
}

/// One request and its answer. A client that goes away meanwhile, or does not read, ends only its own conversation.
///
/// The seat is free again when the request has been read: who waits for the end of a stop keeps nobody from asking.
pub(super) fn converse(
    client: &Stream,
    slot: Option<ClientSlot>,
    answers: &Answers,
    events: &EventSender,
    log: &Journal,
    may_wait: Wait,
) {
    let mut output = client;
    let by = match identify(client) {
        Ok(by) => by,
        Err(message) => {
            log.line(Level::Warning, "not_permitted", format!("admin socket: {message}"), []);
            let _ =
                protocol::write_line(&mut output, &Answer::Error(Refusal { code: ErrorCode::NotPermitted, message }));
            return;
        }
    };
    let patience = may_wait.patience();
    let request = match read_request(client, patience) {
        Ok(Some(Request::Stop { grace_ms, delay_ms, .. })) if may_wait == Wait::Never => {
            Request::Stop { grace_ms, delay_ms, wait: false }
        }
        Ok(Some(Request::Restart { grace_ms, .. })) if may_wait == Wait::Never => {
            Request::Restart { grace_ms, wait: false }
        }
        Ok(Some(Request::Events { .. })) if may_wait == Wait::Never => {
            let message = "the system gives no thread to somebody who reads the events, try again".into();
            let _ = protocol::write_line(&mut output, &Answer::Error(Refusal { code: ErrorCode::Busy, message }));
            return;
        }
        Ok(Some(request)) => request,
        Ok(None) => return,
        Err(refusal) => {
            let _ = protocol::write_line(&mut output, &Answer::Error(refusal));
            discard_a_line(client, patience);
            return;
        }
    };
    drop(slot);
    answers.add(1);
    if let Request::Events { since, follow } = request {
        tell_events(client, &by, since, follow, log);
    } else {
        ask_master_control(client, request, by, events, may_wait);
    }
    answers.add(-1);
}

fn ask_master_control(mut client: &Stream, request: Request, by: Trigger, events: &EventSender, may_wait: Wait) {
    let (reply, responses) = mpsc::channel();
    // If master control is gone, so is the other end of `responses`.
    let _ = events.send(Event::Request { request, by, reply });
    let next = || match may_wait {
        Wait::AsAsked => responses.recv().ok(),
        // This is the admin thread. At its end, the supervisor waits for that one, and nobody answers any more.
        Wait::Never => responses.recv_timeout(HURRY).ok(),
    };
    while let Some(response) = next() {
        let last = matches!(response, Response::Answer(_));
        if protocol::write_line(&mut client, &response).is_err() || last {
            break;
        }
    }
}

fn read_request(client: &Stream, patience: Duration) -> Result<Option<Request>, Refusal> {
    let mut input = BufReader::new(DeadlineReader { stream: client, end: Some(Instant::now() + patience) });
    match protocol::read_line(&mut input) {
        Ok(line) => protocol::parse_request(&line).map(Some),
        Err(LineError::Closed) => Ok(None),
        Err(LineError::TooLong) => Err(Refusal {
            code: ErrorCode::BadRequest,
            message: format!("the request is longer than {MAX_LINE} bytes"),
        }),
        Err(LineError::Io(error)) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Refusal {
                code: ErrorCode::BadRequest,
                message: format!("the request took longer than {patience:?}"),
            }),
            _ => Ok(None),
        },
    }
}

/// Gives the client of a bad request the chance to read its answer: it would be lost with unread input.
fn discard_a_line(client: &Stream, patience: Duration) {
    let mut rest = DeadlineReader { stream: client, end: Some(Instant::now() + patience) }.take(MAX_LINE as u64);
    let _ = io::copy(&mut rest, &mut io::sink());
}

/// Who asks. An error if that is neither this process's user nor root.
#[cfg(unix)]
fn identify(client: &Stream) -> Result<Trigger, String> {
    let peer = client.peer_creds().map_err(|error| format!("cannot tell who the client is: {}", Reason(&error)))?;
    let Some(user) = peer.euid() else {
        return Err("this system does not tell who the client is".into());
    };
    let own = nix::unistd::geteuid().as_raw();
    if user != own && user != 0 {
        return Err(format!("user {user} may not command the supervisor of user {own}"));
    }
    Ok(Trigger::Admin { user: Some(user), pid: peer.pid().and_then(|pid| u32::try_from(pid).ok()) })
}

/// Windows tells the process. Who may write to the pipe is in its access list.
#[cfg(windows)]
fn identify(client: &Stream) -> Result<Trigger, String> {
    let pid = client.peer_creds().ok().and_then(|peer| peer.pid());
    Ok(Trigger::Admin { user: None, pid })
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::log::Log;
    use crate::watchdog::OVERRUN;

    #[test]
    fn a_client_that_says_nothing_does_not_keep_the_admin_thread_beyond_the_end_of_the_supervisor() {
        assert!(HURRY * 2 < OVERRUN); // Once for the request, and once for whoever hears that it was bad.
        let (client, theirs) = UnixStream::pair().unwrap();
        let (events, _received) = mpsc::channel();
        let (answers, events) = (Answers::default(), EventSender::new(events, None));
        converse(&Stream::UdSocket(theirs.into()), None, &answers, &events, &Journal::new(Log::silent()), Wait::Never);
        let refusal = protocol::read_line(&mut BufReader::new(client)).unwrap();
        let refusal = String::from_utf8(refusal).unwrap();
        assert!(refusal.contains(&format!("the request took longer than {HURRY:?}")), "{refusal}");
    }
}
