//! The admin socket: each connection asks for one thing, and gets its answer from master control.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::convert::Infallible;
use std::io::{self, BufReader, Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use interprocess::local_socket::traits::{Stream as _, StreamCommon as _};
use interprocess::local_socket::{Listener, ListenerOptions, Stream};

use crate::deadline_reader::DeadlineReader;
use crate::event::{Event, EventSender, Trigger};
use crate::instance::{InstanceLock, InstancePaths};
use crate::journal::{Journal, MAX_FOLLOWERS, Next, Reader};
use crate::log::Level;
use crate::protocol::{self, Answer, ErrorCode, LineError, MAX_LINE, Progress, Refusal, Request, Response};
#[cfg(unix)]
use crate::text::Reason;

/// How many clients may be about to send their request at the same time.
const MAX_CLIENTS: usize = 64;

/// How long a client may take to send its request, and to read each line of the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The same where the admin thread itself attends to a client: others wait meanwhile, and so does the end of the
/// supervisor, which takes a second at most.
const HURRY: Duration = Duration::from_millis(400);

/// How long the end of the supervisor waits for answers that are being written.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// The admin socket, served by a thread named `admin` until it is closed.
#[derive(Debug)]
pub(crate) struct Admin {
    shutdown: ShutdownHandle,
    /// Hears nothing but its end, when socket and name are free.
    gone: Receiver<Infallible>,
    answers: Arc<Answers>,
}

impl Admin {
    /// Listens on the socket of a place that has been claimed. Clients can connect when this returns.
    pub(crate) fn start(
        paths: InstancePaths,
        lock: InstanceLock,
        events: EventSender,
        log: Journal,
    ) -> io::Result<Admin> {
        let answers = Arc::new(Answers::default());
        let listener = listen(&paths)?;
        let (shutdown, signal) = ShutdownHandle::new(&paths)?;
        let server = AdminServer { answers: answers.clone(), clients: Arc::new(AtomicUsize::new(0)), events, log };
        let (going, gone) = mpsc::channel();
        let acceptor = Acceptor {
            #[cfg(target_os = "linux")]
            identity: linux::identity_of(&paths),
            paths,
            listener,
            lock,
            _going: going,
            signal,
            server,
        };
        thread::Builder::new().name("admin".into()).spawn(move || acceptor.serve())?;
        Ok(Admin { shutdown, gone, answers })
    }

    /// Takes the socket away and frees the name. Clients that wait for an answer still get it.
    pub(crate) fn close(self) -> LastAnswers {
        self.shutdown.close(&self.gone);
        LastAnswers(self.answers)
    }
}

/// Answers that are on their way to clients after the admin socket was closed.
#[derive(Debug)]
pub(crate) struct LastAnswers(Arc<Answers>);

impl LastAnswers {
    /// Waits until all have been written, but not long: a client that does not read is its own fault.
    pub(crate) fn wait(&self) {
        self.0.wait(LAST_ANSWERS);
    }
}

/// How many clients have asked and are not answered yet.
#[derive(Debug, Default)]
struct Answers {
    pending: Mutex<usize>,
    changed: Condvar,
}

impl Answers {
    fn add(&self, change: isize) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        *pending = pending.saturating_add_signed(change);
        self.changed.notify_all();
    }

    fn wait(&self, limit: Duration) {
        let pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_timeout_while(pending, limit, |pending| *pending > 0));
    }
}

/// What the thread `admin` works with. At its end these are dropped in this order: Linux takes some twenty milliseconds
/// to close what watches the directory, and nobody has to wait for that.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux looks at place and claim again"))]
struct Acceptor {
    paths: InstancePaths,
    // Dropped before the claim: it removes its file, and without the claim that may be another instance's.
    listener: Listener,
    lock: InstanceLock,
    #[cfg(target_os = "linux")]
    identity: linux::Identity,
    // From here on socket and name are free.
    _going: Sender<Infallible>,
    signal: ShutdownSignal,
    server: AdminServer,
}

fn listen(paths: &InstancePaths) -> io::Result<Listener> {
    // The place is claimed, so a socket that is there has been left by an instance that is gone.
    paths.remove_socket()?;
    let options = ListenerOptions::new().name(paths.socket_name()?);
    #[cfg(unix)]
    let options = {
        use interprocess::os::unix::local_socket::ListenerOptionsExt;
        options.mode(0o600)
    };
    #[cfg(windows)]
    let options = {
        use interprocess::os::windows::local_socket::ListenerOptionsExt;
        options.security_descriptor(windows::for_its_owner()?)
    };
    let listener = options.create_sync();
    #[cfg(windows)]
    let listener = listener.map_err(windows::told_in_words);
    listener
}

#[cfg(unix)]
use unix::{ShutdownHandle, ShutdownSignal};
#[cfg(windows)]
use windows::{ShutdownHandle, ShutdownSignal};

/// Attends to clients, each on a thread named `admin-client`.
struct AdminServer {
    answers: Arc<Answers>,
    clients: Arc<AtomicUsize>,
    events: EventSender,
    log: Journal,
}

impl AdminServer {
    fn handle_client(&self, client: Stream) {
        let _ = client.set_send_timeout(Some(PATIENCE));
        let slot = ClientSlot::take(&self.clients);
        if slot.is_none() {
            let message = format!("more than {MAX_CLIENTS} clients ask at the same time, try again");
            let _ = protocol::write_line(&mut &client, &Answer::Error(Refusal { code: ErrorCode::Busy, message }));
            return;
        }
        let (answers, events, log) = (self.answers.clone(), self.events.clone(), self.log.clone());
        // Shared with a thread that there may be none of.
        let client = Arc::new(client);
        let theirs = client.clone();
        let thread = thread::Builder::new().name("admin-client".into()).spawn(move || {
            converse(&theirs, slot, &answers, &events, &log, Wait::AsAsked);
        });
        if thread.is_err() {
            // Whoever uses up the threads shall not lock out who has to stop that. But this thread has others to attend
            // to.
            converse(&client, None, &self.answers, &self.events, &self.log, Wait::Never);
        }
    }
}

/// Whether a client may wait for the end of what it asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
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

/// One of the [`MAX_CLIENTS`] places, given back on drop.
struct ClientSlot(Arc<AtomicUsize>);

impl ClientSlot {
    fn take(clients: &Arc<AtomicUsize>) -> Option<ClientSlot> {
        let slot = ClientSlot(clients.clone());
        (clients.fetch_add(1, Ordering::Relaxed) < MAX_CLIENTS).then_some(slot)
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request and its answer. A client that goes away meanwhile, or does not read, ends only its own conversation.
///
/// The seat is free again when the request has been read: who waits for the end of a stop keeps nobody from asking.
fn converse(
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

/// Tells a client what has happened and, if it follows, what happens: at its own pace, and as long as it reads at all.
fn tell_events(mut client: &Stream, by: &Trigger, since: Option<u64>, follow: bool, log: &Journal) {
    let Some(reader) = (if follow { log.follow(since) } else { Some(log.read(since)) }) else {
        let message = format!("{MAX_FOLLOWERS} clients follow the events already: let one of them go, and try again");
        let _ = protocol::write_line(&mut client, &Answer::Error(Refusal { code: ErrorCode::Busy, message }));
        return;
    };
    match write_events(client, reader) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            let message = format!("{by} does not read the events that it asked for, and was let go");
            log.line(Level::Warning, "reader_let_go", message, [("by", by.to_string().into())]);
        }
        // It has gone away.
        Ok(()) | Err(_) => {}
    }
}

fn write_events(mut client: &Stream, mut reader: Reader) -> io::Result<()> {
    loop {
        match reader.next() {
            Next::Position { began, next, missed } => {
                protocol::write_line(&mut client, &Progress::Journal { began, next, missed })?;
            }
            Next::Entries(lines) => {
                client.write_all(lines.as_bytes())?;
                reader.pause();
            }
            Next::Look if has_hung_up(client) => return Ok(()),
            Next::Look => {}
            Next::End { last } => return protocol::write_line(&mut client, &Answer::Events { last }),
        }
    }
}

/// Whether the client has gone away.
#[cfg(unix)]
fn has_hung_up(client: &Stream) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd;

    let Stream::UdSocket(client) = client;
    // That it says nothing more is no reason to go. That both directions are closed is told unasked.
    let mut client = [PollFd::new(client.as_fd(), PollFlags::empty())];
    poll(&mut client, PollTimeout::ZERO).is_ok_and(|closed| closed > 0)
}

/// Windows does not tell before the next write.
#[cfg(windows)]
fn has_hung_up(_client: &Stream) -> bool {
    false
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
