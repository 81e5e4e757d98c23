//! One connection of a load, and those that follow it.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::answer::{self, Answer, Fate};
use crate::report::Report;
use crate::{Expected, Mode, PAUSE};

/// How long after the end of a connection a reset may arrive for the request sent on it: longer than most round trips.
const RESET_WITHIN: Duration = Duration::from_millis(200);

/// A new connection whose first request has not been sent by then is idle, so its server may close it.
pub(crate) const IDLE_AFTER: Duration = mastercontrol::worker::FIRST_MESSAGE_WAIT;

/// How often a request is attempted that is not read. The second connection is a new one: it is idle only if this machine
/// is too busy to send the request at once.
const ATTEMPTS: usize = 5;

/// What a load does.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) mode: Mode,
    pub(crate) request: Vec<u8>,
    pub(crate) expected: Expected,
    pub(crate) connections: usize,
    pub(crate) patience: Duration,
    pub(crate) hesitation: Duration,
    pub(crate) pace: Duration,
    pub(crate) resend: bool,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) done: AtomicBool,
    pub(crate) began: Instant,
    /// Which of the addresses has accepted a connection. `usize::MAX`: none yet.
    reached: AtomicUsize,
}

impl Shared {
    pub(crate) fn new(plan: Plan) -> Shared {
        let reached = AtomicUsize::new(usize::MAX);
        Shared { plan, done: AtomicBool::new(false), began: Instant::now(), reached }
    }
}

/// A count that has its cache line to itself, so that it costs its thread nothing.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// May be called only by the single writer.
    fn add_one(&self) {
        self.0.store(self.get() + 1, Ordering::Relaxed);
    }
}

pub(crate) struct Client {
    shared: Arc<Shared>,
    connection: Option<Connection>,
    /// For headers; reused for each answer.
    buffer: Vec<u8>,
    report: Report,
}

struct Connection {
    stream: BufReader<Timed>,
    /// Before it was made.
    began: Instant,
    /// Whether it has carried a request before.
    used: bool,
}

/// A stream whose reads fail when the time for a whole answer is over, however many bytes keep arriving.
struct Timed {
    stream: TcpStream,
    patience: Duration,
    /// When the time for the answer is over.
    deadline: Instant,
    /// How long the system lets a read take. A system call for each read would make the load lighter, so this may be up
    /// to a tenth of the patience longer than what is left.
    timeout: Duration,
}

impl Timed {
    fn new(stream: TcpStream, patience: Duration) -> io::Result<Timed> {
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Timed { stream, patience, deadline: Instant::now() + patience, timeout: patience })
    }

    /// The time for an answer begins.
    fn begin(&mut self) -> io::Result<()> {
        self.deadline = Instant::now() + self.patience;
        if self.timeout < self.patience { self.limit(self.patience) } else { Ok(()) }
    }

    fn limit(&mut self, timeout: Duration) -> io::Result<()> {
        self.timeout = timeout;
        self.stream.set_read_timeout(Some(timeout))
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        if self.timeout > left + self.patience / 10 {
            self.limit(left)?;
        }
        self.stream.read(buffer)
    }
}

/// The system has no port for one more connection.
struct NoPort;

/// What became of one attempt at a request.
enum Attempt {
    Answered(Answer),
    Lost(Fate),
    /// It was sent on an idle connection, which the server closed without reading it.
    Unread(Fate),
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>) -> Client {
        Client { shared, connection: None, buffer: Vec::new(), report: Report::default() }
    }

    pub(crate) fn once(mut self) -> (Fate, Option<u16>) {
        match self.request() {
            Ok(Attempt::Answered(answer)) => (fate(answer), Some(answer.status)),
            Ok(Attempt::Lost(fate) | Attempt::Unread(fate)) => (fate, None),
            Err(NoPort) => (Fate::Failed(ErrorKind::AddrNotAvailable), None),
        }
    }

    /// Sends requests, after an initial wait of this time.
    pub(crate) fn run(mut self, after: Duration, answered: &Count, lost: &Count) -> Report {
        self.wait(after);
        while !self.shared.done.load(Ordering::Relaxed) {
            let began = Instant::now();
            let fate = match self.request() {
                Ok(Attempt::Answered(answer)) => fate(answer),
                Ok(Attempt::Lost(fate) | Attempt::Unread(fate)) => fate,
                Err(NoPort) => {
                    self.report.no_port += 1;
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            self.report.count(fate, began.elapsed(), self.shared.began.elapsed());
            if fate == Fate::Answered {
                answered.add_one();
            } else {
                lost.add_one();
                self.connection = None;
                thread::sleep(PAUSE);
            }
            self.wait(self.shared.plan.pace.saturating_sub(began.elapsed()));
        }
        self.report
    }

    /// Waits, but not longer than the load lasts.
    fn wait(&self, time: Duration) {
        /// The end is noticed within this time.
        const STEP: Duration = Duration::from_millis(50);
        let until = Instant::now() + time;
        while let Some(remaining) = until.checked_duration_since(Instant::now())
            && !remaining.is_zero()
            && !self.shared.done.load(Ordering::Relaxed)
        {
            thread::sleep(remaining.min(STEP));
        }
    }

    fn request(&mut self) -> Result<Attempt, NoPort> {
        for _ in 1..ATTEMPTS {
            let attempt = self.attempt()?;
            if !matches!(attempt, Attempt::Unread(_)) {
                return Ok(attempt);
            }
            self.report.sent_again += 1;
            self.connection = None;
        }
        self.attempt()
    }

    fn attempt(&mut self) -> Result<Attempt, NoPort> {
        if self.connection.as_ref().is_some_and(Connection::is_closed) {
            self.report.found_closed += 1;
            self.connection = None;
        }
        if self.connection.is_none() {
            let began = Instant::now();
            match connect(&self.shared) {
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Err(NoPort),
                Err(error) => return Ok(Attempt::Lost(error.into())),
                Ok(stream) => {
                    self.connection = Some(Connection { stream: BufReader::new(stream), began, used: false });
                }
            }
            self.report.connections += 1;
            if !self.shared.plan.hesitation.is_zero() {
                thread::sleep(self.shared.plan.hesitation);
            }
        }
        let plan = &self.shared.plan;
        let Some(connection) = &mut self.connection else { return Ok(Attempt::Lost(Fate::Empty)) };
        let was_used = std::mem::replace(&mut connection.used, true);
        let sent = connection.send(&plan.request);
        let was_idle = if was_used { plan.resend } else { connection.began.elapsed() >= IDLE_AFTER };
        if let Err(fate) = sent.and_then(|()| connection.await_answer()) {
            let unread = was_idle && connection.is_unread(fate);
            return Ok(if unread { Attempt::Unread(fate) } else { Attempt::Lost(fate) });
        }
        Ok(match connection.receive(plan, &mut self.buffer) {
            Ok(answer) => {
                if plan.mode == Mode::OnePerConnection {
                    self.connection = None;
                } else if answer.is_last {
                    self.report.notified += 1;
                    self.connection = None;
                }
                Attempt::Answered(answer)
            }
            Err(fate) => Attempt::Lost(fate),
        })
    }
}

fn fate(answer: Answer) -> Fate {
    if answer.is_right { Fate::Answered } else { Fate::Wrong }
}

/// Connects to the first address that accepts.
fn connect(shared: &Shared) -> io::Result<Timed> {
    let Shared { plan, reached, .. } = shared;
    let mut failed = io::Error::from(ErrorKind::NotFound);
    for (number, address) in plan.addresses.iter().enumerate() {
        match TcpStream::connect_timeout(address, plan.patience) {
            Ok(stream) => {
                reached.store(number, Ordering::Relaxed);
                return Timed::new(stream, plan.patience);
            }
            // This machine has the address, but no free port.
            Err(error) if error.kind() == ErrorKind::AddrNotAvailable && reached.load(Ordering::Relaxed) == number => {
                return Err(error);
            }
            Err(error) => failed = more_telling(failed, error),
        }
    }
    Err(failed)
}

/// Of two failures to connect, the one that is about the server rather than this machine: it may have no IPv6, for
/// example, although `localhost` has such an address, too.
pub(crate) fn more_telling(before: io::Error, next: io::Error) -> io::Error {
    let is_about_server = |error: &io::Error| {
        !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AddrNotAvailable | ErrorKind::NetworkUnreachable)
    };
    if is_about_server(&before) && !is_about_server(&next) { before } else { next }
}

impl Connection {
    fn send(&mut self, request: &[u8]) -> Result<(), Fate> {
        let timed = self.stream.get_mut();
        timed.begin()?;
        Ok(timed.stream.write_all(request)?)
    }

    /// Waits for the first byte of an answer.
    fn await_answer(&mut self) -> Result<(), Fate> {
        if answer::fill(&mut self.stream)?.is_empty() { Err(Fate::Empty) } else { Ok(()) }
    }

    fn receive(&mut self, plan: &Plan, buffer: &mut Vec<u8>) -> Result<Answer, Fate> {
        let mut answer = answer::read(&mut self.stream, &plan.expected, buffer)?;
        answer.is_right &= self.stream.buffer().is_empty();
        if plan.mode == Mode::OnePerConnection && answer.is_right {
            // Read up to the end of file: a reset instead could have destroyed the answer.
            answer.is_right &= answer::fill(&mut self.stream)?.is_empty();
        }
        Ok(answer)
    }

    /// Whether the server has closed a connection on which no request is in progress.
    fn is_closed(&self) -> bool {
        let stream = &self.stream.get_ref().stream;
        let looked = stream.set_nonblocking(true).and_then(|()| {
            let looked = stream.peek(&mut [0]);
            stream.set_nonblocking(false)?;
            looked
        });
        match looked {
            // Unsolicited data: it will be taken for the next answer, and be a wrong one.
            Ok(1..) => false,
            Ok(0) => true,
            Err(error) => error.kind() != ErrorKind::WouldBlock,
        }
    }

    /// Whether a request that got no byte of an answer was left unread by the server. A reset is the evidence: the
    /// system resets a connection when a process closes a socket with unread data, and when data arrives after that.
    fn is_unread(&self, fate: Fate) -> bool {
        match fate {
            Fate::Failed(kind) => is_reset(kind),
            // Closed before the request arrived: the reset follows within a round trip. Nothing announces it on a
            // connection that has ended, so it is polled for.
            Fate::Empty => {
                let until = Instant::now() + RESET_WITHIN;
                loop {
                    match self.stream.get_ref().stream.take_error() {
                        Ok(None) if Instant::now() < until => thread::sleep(PAUSE),
                        Ok(error) => return error.is_some(),
                        Err(_) => return false,
                    }
                }
            }
            Fate::Answered | Fate::Wrong | Fate::Cut => false,
        }
    }
}

pub(crate) fn is_reset(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe)
}
