//! One client of the admin socket: its identity, its request, and the answers.

use std::io::{self, BufReader, Read};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use interprocess::local_socket::Stream;

use super::answer::{PATIENCE, disconnect, end_answers, refuse, write_answer};
use super::follow::tell_events;
use super::slots::ClientSlot;
use crate::deadline::DeadlineReader;
use crate::event::{Event, EventSender, Trigger};
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{self, ErrorCode, LineError, MAX_LINE, Refusal, Request, Response};
use crate::text::Seconds;

/// How long the client may take in total when the admin thread itself answers: meanwhile other clients wait, and so
/// does the end of the supervisor, which takes a second at most.
const HURRY: Duration = Duration::from_millis(800);

/// How long a client may take to send its request if the one before it has sent none in time. A client that waited
/// meanwhile has sent its request already.
const MOMENT: Duration = Duration::from_millis(20);

/// How many clients have made a request that is not answered yet.
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

/// What the client sends. One request may be read with more after it.
type Input = BufReader<DeadlineReader<Arc<Stream>>>;

/// How much time a client may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Time {
    /// It has its own thread, which can wait for the end of what the client asks for.
    Own,
    /// It uses the thread of the admin socket, and has this long to send its request.
    Borrowed { to_ask: Duration },
}

impl Time {
    /// For the next client that uses the thread of the admin socket. Many silent ones in a row, each with the whole time,
    /// would keep the others waiting until those give up.
    pub(super) fn borrowed(last: Option<Asked>) -> Time {
        Time::Borrowed { to_ask: if last == Some(Asked::Late) { MOMENT } else { HURRY } }
    }

    fn is_borrowed(self) -> bool {
        self != Time::Own
    }

    /// How long the client may take to send its request.
    fn to_ask(self) -> Duration {
        match self {
            Time::Own => PATIENCE,
            Time::Borrowed { to_ask } => to_ask,
        }
    }

    /// How long the client may take to send its request and to read why it is wrong; if the time is borrowed, also to
    /// read another answer.
    fn in_total(self) -> Duration {
        if self.is_borrowed() { HURRY } else { PATIENCE }
    }
}

/// Whether a client has sent its request in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    InTime,
    Late,
}

/// Handles one request and its answer. A client that disconnects in the meantime, or does not read, ends only its own
/// conversation.
///
/// `slot` is released when the request has been read: a client that waits for the end of a stop does not keep others
/// from making requests.
pub(super) fn converse(
    client: &Arc<Stream>,
    slot: Option<ClientSlot>,
    answers: &Answers,
    events: &EventSender,
    log: &Journal,
    time: Time,
) -> Asked {
    let now = Instant::now();
    let (asked_by, end) = (now + time.to_ask(), now + time.in_total());
    let by = match identify(client) {
        Ok(by) => by,
        Err(message) => {
            log.line(Level::Warning, "not_permitted", format!("admin socket: {message}"), []);
            let _ = refuse(client, ErrorCode::NotPermitted, message, end);
            return Asked::InTime;
        }
    };
    let mut input = BufReader::new(DeadlineReader { stream: client.clone(), end: Some(asked_by) });
    let request = match read_request(&mut input, time) {
        Ok(Some(Request::Stop { grace_ms, spread_ms, delay_ms, .. })) if time.is_borrowed() => {
            Request::Stop { grace_ms, spread_ms, delay_ms, wait: false }
        }
        Ok(Some(Request::Restart { grace_ms, spread_ms, .. })) if time.is_borrowed() => {
            Request::Restart { grace_ms, spread_ms, wait: false }
        }
        Ok(Some(Request::Events { .. } | Request::Pause { .. })) if time.is_borrowed() => {
            let message = "the system gives no thread to a client that stays, try again".into();
            let _ = refuse(client, ErrorCode::Busy, message, end);
            return Asked::InTime;
        }
        Ok(Some(request)) => request,
        Ok(None) => return Asked::InTime,
        Err(Refusal { code, message }) => {
            drop(slot);
            let asked = if Instant::now() < asked_by { Asked::InTime } else { Asked::Late };
            let _ = refuse(client, code, message, end);
            end_answers(client);
            discard_a_line(input);
            return asked;
        }
    };
    drop(slot);
    answers.add(1);
    if let Request::Events { since, follow } = request {
        tell_events(client, &by, since, follow, log);
    } else {
        let end = time.is_borrowed().then_some(end);
        ask_master_control(client, input, request, by, events, end);
    }
    answers.add(-1);
    Asked::InTime
}

/// Sends the request to master control, and the responses to the client. Without `end` this may take any time.
fn ask_master_control(
    client: &Arc<Stream>,
    input: Input,
    request: Request,
    by: Trigger,
    events: &EventSender,
    end: Option<Instant>,
) {
    let (reply, responses) = mpsc::channel();
    let event = match request {
        Request::Pause { max_ms, hold } => {
            let max = max_ms.map(Duration::from_millis);
            Event::Pause { by, max, holder: hold.then(next_holder), reply }
        }
        request => Event::Request { request, by, reply },
    };
    let holder = if let Event::Pause { holder, .. } = &event { *holder } else { None };
    // If master control is gone, so is the other end of `responses`.
    let _ = events.send(event);
    // Only now, so that master control learns of the end after the beginning.
    if let Some(holder) = holder {
        watch_holder(input, holder, events);
    }
    let next = || match end {
        None => responses.recv().ok(),
        // This is the admin thread. At its end the supervisor waits for this thread, and nothing answers any more.
        Some(end) => responses.recv_timeout(end.saturating_duration_since(Instant::now())).ok(),
    };
    while let Some(response) = next() {
        let last = matches!(response, Response::Answer(_));
        if write_answer(client, &response).is_err() || last {
            break;
        }
    }
    if holder.is_some() {
        // The watching thread has the connection open, too.
        disconnect(client);
    }
}

/// A number for a client that holds something.
fn next_holder() -> u64 {
    static NUMBERS: AtomicU64 = AtomicU64::new(0);
    NUMBERS.fetch_add(1, Ordering::Relaxed) + 1
}

/// Notifies master control when this client releases what it holds, or is gone.
fn watch_holder(mut input: Input, holder: u64, events: &EventSender) {
    input.get_mut().end = None;
    let theirs = events.clone();
    let thread = thread::Builder::new().name("admin-holder".into()).spawn(move || {
        // Input, also what came with the request, and end of file mean the same.
        let _ = input.read(&mut [0]);
        let _ = theirs.send(Event::HolderGone { holder });
    });
    if thread.is_err() {
        // Without the thread, nothing would report that it is gone.
        let _ = events.send(Event::HolderGone { holder });
    }
}

fn read_request(input: &mut Input, time: Time) -> Result<Option<Request>, Refusal> {
    match protocol::read_line(input) {
        Ok(line) => protocol::parse_request(&line).map(Some),
        Err(LineError::Closed) => Ok(None),
        Err(LineError::TooLong) => Err(Refusal {
            code: ErrorCode::BadRequest,
            message: format!("the request is longer than {MAX_LINE} bytes"),
        }),
        Err(LineError::Io(error)) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(Refusal {
                code: ErrorCode::BadRequest,
                message: format!("the request took longer than {}", Seconds(time.to_ask())),
            }),
            _ => Ok(None),
        },
    }
}

/// Gives the client of a bad request the chance to read its answer, which would be lost if input remained unread.
fn discard_a_line(input: Input) {
    let _ = io::copy(&mut input.take(MAX_LINE as u64), &mut io::sink());
}

/// Identifies the client. It is an error if it belongs neither to this process's user nor to root. The process id is
/// only for the log: a client in another PID namespace has no number here.
#[cfg(unix)]
fn identify(client: &Stream) -> Result<Trigger, String> {
    let Stream::UdSocket(client) = client;
    let (user, pid) =
        peer(client.as_fd()).map_err(|error| format!("cannot tell which user the client is: {}", error.desc()))?;
    let own = nix::unistd::geteuid().as_raw();
    if user != own && user != 0 {
        return Err(format!("user {user} may not command the supervisor of user {own}"));
    }
    Ok(Trigger::Admin { user: Some(user), pid })
}

/// The user at the other end, and the process if the system names it.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn peer(client: BorrowedFd<'_>) -> nix::Result<(u32, Option<u32>)> {
    let peer = nix::sys::socket::getsockopt(&client, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok((peer.uid(), u32::try_from(peer.pid()).ok().filter(|&pid| pid > 0)))
}

#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn peer(client: BorrowedFd<'_>) -> nix::Result<(u32, Option<u32>)> {
    let (user, _) = nix::unistd::getpeereid(client)?;
    Ok((user.as_raw(), None))
}

/// Windows names the process. The pipe's access list determines who may write to it.
#[cfg(windows)]
fn identify(client: &Stream) -> Result<Trigger, String> {
    use interprocess::local_socket::traits::StreamCommon as _;

    let pid = client.peer_creds().ok().and_then(|peer| peer.pid());
    Ok(Trigger::Admin { user: None, pid })
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::log::Log;
    use crate::watchdog::OVERRUN;

    #[test]
    fn the_client_of_a_bad_request_sees_the_end_of_the_answers_although_it_could_send_more() {
        let (mut client, theirs) = UnixStream::pair().unwrap();
        client.write_all(b"{}\n").unwrap();
        let conversation = thread::spawn(move || {
            let (events, _received) = mpsc::channel();
            let (client, log) = (Arc::new(Stream::UdSocket(theirs.into())), Journal::new(Log::silent()));
            converse(&client, None, &Answers::default(), &EventSender::new(events, None), &log, Time::Own);
        });
        let mut answers = String::new();
        client.read_to_string(&mut answers).unwrap();
        assert!(answers.ends_with("}\n") && answers.contains("bad_request"), "{answers}");
        client.write_all(b"more").expect("it is still read");
        drop(client);
        conversation.join().unwrap();
    }

    #[test]
    fn a_client_that_says_nothing_does_not_keep_the_admin_thread_beyond_the_end_of_the_supervisor() {
        assert!(HURRY < OVERRUN);
        let (client, theirs) = UnixStream::pair().unwrap();
        let (events, _received) = mpsc::channel();
        let (answers, events) = (Answers::default(), EventSender::new(events, None));
        converse(
            &Arc::new(Stream::UdSocket(theirs.into())),
            None,
            &answers,
            &events,
            &Journal::new(Log::silent()),
            Time::borrowed(None),
        );
        let refusal = protocol::read_line(&mut BufReader::new(client)).unwrap();
        let refusal = String::from_utf8(refusal).unwrap();
        assert!(refusal.contains("the request took longer than 800 ms"), "{refusal}");
    }
}
