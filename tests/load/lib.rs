//! Load for an HTTP server, that counts the fate of every request: the tests use it, and so do the benchmarks.
//!
//! A thread a connection, each with one request under way at a time. No request is ever repeated: what got no whole
//! answer is lost, and is counted by how it was lost.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long an answer may take until its request counts as lost, unless told otherwise.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long a connection waits after a request was lost, or when the system has no port for it: somebody who hammers at
/// a server that is not there takes the processor from those who would put it right.
const PAUSE: Duration = Duration::from_millis(2);

/// What is received at once, in bytes.
const CHUNK: usize = 16 * 1024;

/// What happens to a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Each request has a connection of its own, asks for its end, and the answer is read up to the end of file.
    OnePerConnection,
    /// A connection is used until the server says that it ends, by `Connection: close` or by closing it while it is
    /// idle. The latter is looked for before each request: who finds a closed connection has sent nothing, and so has
    /// lost nothing.
    KeptAlive,
}

/// A load that has not begun yet.
#[derive(Debug, Clone)]
pub struct Load {
    address: SocketAddr,
    mode: Mode,
    request: Vec<u8>,
    body: Vec<u8>,
    connections: usize,
    patience: Duration,
    hesitation: Duration,
    pace: Duration,
}

impl Load {
    /// Asks for `path`, which has to be answered with this body.
    pub fn new(address: SocketAddr, path: &str, body: impl Into<Vec<u8>>, mode: Mode) -> Load {
        let close = if mode == Mode::OnePerConnection { "Connection: close\r\n" } else { "" };
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{close}\r\n").into_bytes();
        let body = body.into();
        let (hesitation, pace) = (Duration::ZERO, Duration::ZERO);
        Load { address, mode, request, body, connections: 16, patience: PATIENCE, hesitation, pace }
    }

    /// How many connections there are at the same time, 16 by default.
    pub fn connections(mut self, connections: usize) -> Load {
        self.connections = connections;
        self
    }

    /// How long an answer may take until its request counts as lost, half a minute by default.
    pub fn patience(mut self, patience: Duration) -> Load {
        self.patience = patience;
        self
    }

    /// How long a connection that was made waits before its first request, not at all by default.
    pub fn hesitation(mut self, hesitation: Duration) -> Load {
        self.hesitation = hesitation;
        self
    }

    /// The least time from the beginning of a connection's request to that of its next one, none by default. With a pace
    /// that the server can follow, the number of lost requests says how long it was away.
    pub fn pace(mut self, pace: Duration) -> Load {
        self.pace = pace;
        self
    }

    /// Begins.
    pub fn begin(self) -> Running {
        let shared = Arc::new(Shared { load: self, done: AtomicBool::new(false) });
        let threads = (0..shared.load.connections)
            .map(|number| {
                let (answered, lost) = (Arc::<Count>::default(), Arc::<Count>::default());
                let client = Client {
                    shared: shared.clone(),
                    stream: None,
                    used: false,
                    buffer: vec![0; CHUNK],
                    report: Report::default(),
                };
                let thread = thread::Builder::new().name(format!("load-{number}")).spawn({
                    let (answered, lost) = (answered.clone(), lost.clone());
                    move || client.run(&answered, &lost)
                });
                Worker { answered, lost, thread: thread.unwrap_or_else(|error| panic!("no thread: {error}")) }
            })
            .collect();
        Running { shared, threads, began: Instant::now() }
    }

    /// Begins, and ends after this time.
    pub fn run_for(self, time: Duration) -> Report {
        let running = self.begin();
        thread::sleep(time);
        running.end()
    }

    /// Begins, and ends when at least so many requests have found their fate.
    pub fn run(self, requests: u64) -> Report {
        let running = self.begin();
        while running.answered() + running.lost() < requests {
            thread::sleep(PAUSE);
        }
        running.end()
    }
}

/// A count that is alone in its cache line, so that it costs its thread nothing.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU64);

#[derive(Debug)]
struct Shared {
    load: Load,
    done: AtomicBool,
}

#[derive(Debug)]
struct Worker {
    answered: Arc<Count>,
    lost: Arc<Count>,
    thread: JoinHandle<Report>,
}

/// A load under way. It ends with [`Running::end`], or when it is dropped.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    threads: Vec<Worker>,
    began: Instant,
}

impl Running {
    /// How many requests have been answered so far.
    pub fn answered(&self) -> u64 {
        self.threads.iter().map(|worker| worker.answered.0.load(Ordering::Relaxed)).sum()
    }

    /// How many requests have been lost so far.
    pub fn lost(&self) -> u64 {
        self.threads.iter().map(|worker| worker.lost.0.load(Ordering::Relaxed)).sum()
    }

    /// Ends: the requests under way are still waited for, and no other begins.
    pub fn end(mut self) -> Report {
        self.shared.done.store(true, Ordering::Relaxed);
        let mut report = Report::default();
        for worker in self.threads.drain(..) {
            report.add(worker.thread.join().unwrap_or_else(|_| panic!("a connection of the load has panicked")));
        }
        report.took = self.began.elapsed();
        report
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.done.store(true, Ordering::Relaxed);
    }
}

/// What became of the requests of a load.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Whole answers, with status 200 and the right body.
    pub answered: u64,
    /// Answers with another status or body, or what is no answer of HTTP at all.
    pub wrong: u64,
    /// Nobody listened.
    pub refused: u64,
    /// The connection was reset, whatever had come before.
    pub reset: u64,
    /// The connection was closed without a byte of an answer.
    pub empty: u64,
    /// The connection was closed after a part of an answer.
    pub cut: u64,
    /// There was no whole answer in time.
    pub timed_out: u64,
    /// Other errors, by their kind.
    pub other: BTreeMap<String, u64>,
    /// Connections that were made.
    pub connections: u64,
    /// Answers after which the server wanted to end a connection that was to be kept.
    pub notified: u64,
    /// Kept connections that were found closed before a request was sent: nothing was lost.
    pub found_closed: u64,
    /// How often the system had no port for a connection, and it was tried again. No request had begun, so none is
    /// lost; but a load like that is not the load that was asked for.
    pub no_port: u64,
    /// The longest time from the beginning of a request, its connection included, to the end of its answer.
    pub slowest: Duration,
    /// How long the load took.
    pub took: Duration,
}

impl Report {
    /// All requests that were not answered.
    pub fn lost(&self) -> u64 {
        let Report { wrong, refused, reset, empty, cut, timed_out, other, .. } = self;
        wrong + refused + reset + empty + cut + timed_out + other.values().sum::<u64>()
    }

    /// Answered requests a second.
    pub fn rate(&self) -> f64 {
        self.answered as f64 / self.took.as_secs_f64().max(f64::MIN_POSITIVE)
    }

    fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Answered => self.answered += 1,
            Fate::Wrong => self.wrong += 1,
            Fate::Empty => self.empty += 1,
            Fate::Cut => self.cut += 1,
            Fate::Failed(kind) => match kind {
                ErrorKind::ConnectionRefused => self.refused += 1,
                ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted | ErrorKind::BrokenPipe => self.reset += 1,
                // A read that waits no longer says one or the other, by the system.
                ErrorKind::TimedOut | ErrorKind::WouldBlock => self.timed_out += 1,
                kind => *self.other.entry(format!("{kind:?}")).or_default() += 1,
            },
        }
    }

    fn add(&mut self, report: Report) {
        self.answered += report.answered;
        self.wrong += report.wrong;
        self.refused += report.refused;
        self.reset += report.reset;
        self.empty += report.empty;
        self.cut += report.cut;
        self.timed_out += report.timed_out;
        for (kind, count) in report.other {
            *self.other.entry(kind).or_default() += count;
        }
        self.connections += report.connections;
        self.notified += report.notified;
        self.found_closed += report.found_closed;
        self.no_port += report.no_port;
        self.slowest = self.slowest.max(report.slowest);
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} answered ({:.0}/s), {} lost: {} wrong, {} refused, {} reset, {} empty, {} cut, {} timed out",
            self.answered,
            self.rate(),
            self.lost(),
            self.wrong,
            self.refused,
            self.reset,
            self.empty,
            self.cut,
            self.timed_out,
        )?;
        for (kind, count) in &self.other {
            write!(formatter, ", {count} {kind}")?;
        }
        write!(
            formatter,
            "; {} connections, {} notified, {} found closed, {} times no port, slowest {:.1?}",
            self.connections, self.notified, self.found_closed, self.no_port, self.slowest
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answered,
    Wrong,
    Empty,
    Cut,
    Failed(ErrorKind),
}

impl From<io::Error> for Fate {
    fn from(error: io::Error) -> Fate {
        Fate::Failed(error.kind())
    }
}

/// One connection of the load, and those that follow it.
struct Client {
    shared: Arc<Shared>,
    stream: Option<TcpStream>,
    /// Whether the connection has been used for a request before.
    used: bool,
    /// What was received of an answer. It is used again for the next one.
    buffer: Vec<u8>,
    report: Report,
}

impl Client {
    fn run(mut self, answered: &Count, lost: &Count) -> Report {
        while !self.shared.done.load(Ordering::Relaxed) {
            let began = Instant::now();
            let fate = match self.request() {
                Ok(fate) => fate,
                Err(NoPort) => {
                    self.report.no_port += 1;
                    thread::sleep(PAUSE);
                    continue;
                }
            };
            self.report.slowest = self.report.slowest.max(began.elapsed());
            self.report.count(fate);
            // Nobody else writes here.
            let count = if fate == Fate::Answered { answered } else { lost };
            count.0.store(count.0.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
            if fate != Fate::Answered {
                self.stream = None;
                thread::sleep(PAUSE);
            }
            thread::sleep(self.shared.load.pace.saturating_sub(began.elapsed()));
        }
        self.report
    }

    fn request(&mut self) -> Result<Fate, NoPort> {
        if self.used && self.stream.as_ref().is_some_and(is_closed) {
            self.report.found_closed += 1;
            self.stream = None;
        }
        if self.stream.is_none() {
            let stream = match TcpStream::connect(self.shared.load.address) {
                Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return Err(NoPort),
                Err(error) => return Ok(error.into()),
                Ok(stream) => stream,
            };
            self.report.connections += 1;
            self.used = false;
            if let Err(error) = stream.set_read_timeout(Some(self.shared.load.patience)) {
                return Ok(error.into());
            }
            self.stream = Some(stream);
            if !self.shared.load.hesitation.is_zero() {
                thread::sleep(self.shared.load.hesitation);
            }
        }
        Ok(self.ask().unwrap_or_else(|fate| fate))
    }

    fn ask(&mut self) -> Result<Fate, Fate> {
        let Some(stream) = &mut self.stream else { return Ok(Fate::Empty) };
        let load = &self.shared.load;
        self.used = true;
        stream.write_all(&load.request)?;
        let mut filled = 0;
        let head = loop {
            let length = receive(stream, &mut self.buffer, filled)?;
            if length == 0 {
                return Ok(if filled == 0 { Fate::Empty } else { Fate::Cut });
            }
            // The end of the header may have begun with what was there before.
            let from = filled.saturating_sub(3);
            filled += length;
            if let Some(end) = end_of_header(&self.buffer[from..filled]) {
                break from + end;
            }
            if filled > CHUNK {
                return Ok(Fate::Wrong);
            }
        };
        let Some(Header { ok, length, close }) = Header::parse(&self.buffer[..head]) else { return Ok(Fate::Wrong) };
        let end = head + length;
        while filled < end {
            match receive(stream, &mut self.buffer, filled)? {
                0 => return Ok(Fate::Cut),
                length => filled += length,
            }
        }
        if !ok || filled > end || self.buffer[head..end] != load.body {
            return Ok(Fate::Wrong);
        }
        match load.mode {
            Mode::OnePerConnection => {
                // Up to the end of file: a reset instead could have destroyed the answer.
                let more = receive(stream, &mut self.buffer, 0)?;
                self.stream = None;
                Ok(if more == 0 { Fate::Answered } else { Fate::Wrong })
            }
            Mode::KeptAlive => {
                if close {
                    self.report.notified += 1;
                    self.stream = None;
                }
                Ok(Fate::Answered)
            }
        }
    }
}

/// The system has no port for one more connection.
struct NoPort;

/// Receives once, behind what is there already.
fn receive(stream: &mut TcpStream, buffer: &mut Vec<u8>, filled: usize) -> io::Result<usize> {
    if buffer.len() < filled + CHUNK / 2 {
        buffer.resize(filled + CHUNK, 0);
    }
    loop {
        match stream.read(&mut buffer[filled..]) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => return received,
        }
    }
}

/// Whether the server has closed a connection on which nothing is under way.
fn is_closed(stream: &TcpStream) -> bool {
    let looked = stream.set_nonblocking(true).and_then(|()| {
        let looked = stream.peek(&mut [0]);
        stream.set_nonblocking(false)?;
        looked
    });
    match looked {
        // Something that nobody asked for: it will be taken for the next answer, and be a wrong one.
        Ok(1..) => false,
        Ok(0) => true,
        Err(error) => error.kind() != ErrorKind::WouldBlock,
    }
}

/// Where the header ends, its last line included.
fn end_of_header(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|&byte| byte == b'\r') {
        from += at;
        if bytes[from..].starts_with(END) {
            return Some(from + END.len());
        }
        from += 1;
    }
    None
}

#[derive(Debug, PartialEq, Eq)]
struct Header {
    ok: bool,
    length: usize,
    close: bool,
}

impl Header {
    /// As much of a header as is of interest here. None: it is none, or does not say how long its body is.
    fn parse(header: &[u8]) -> Option<Header> {
        let mut lines = header.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
        let (version, status) = lines.next()?.split_at_checked(b"HTTP/1.1 ".len())?;
        // Of old servers only those keep a connection that say so, and these are not for the load.
        let (mut length, mut close) = (None, version == b"HTTP/1.0 ");
        if !close && version != b"HTTP/1.1 " {
            return None;
        }
        for line in lines {
            if let Some(value) = value(line, b"content-length:") {
                length = Some(std::str::from_utf8(value).ok()?.parse().ok()?);
            } else if let Some(value) = value(line, b"connection:") {
                close = value.eq_ignore_ascii_case(b"close");
            }
        }
        Some(Header { ok: status.starts_with(b"200 "), length: length?, close })
    }
}

fn value<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| rest.trim_ascii())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::{Shutdown, TcpListener};

    const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody";
    const LAST: &str = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: Close\r\n\r\nbody";

    /// A server that does this with each of its connections, one after the other.
    fn server(mut serve: impl FnMut(TcpStream) + Send + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || listener.incoming().for_each(|stream| serve(stream.unwrap())));
        address
    }

    /// Reads a request. False: there is none any more.
    fn request(stream: &mut TcpStream) -> bool {
        let mut received = Vec::new();
        let mut byte = [0];
        while !received.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return false;
            }
            received.extend(byte);
        }
        true
    }

    fn one(address: SocketAddr, mode: Mode) -> Load {
        Load::new(address, "/", "body", mode).connections(1)
    }

    /// What became of some requests, each of which the server answers with this and then closes the connection.
    fn answered_with(answer: &'static str) -> Report {
        let address = server(move |mut stream| {
            request(&mut stream);
            let _ = stream.write_all(answer.as_bytes());
        });
        one(address, Mode::OnePerConnection).run(5)
    }

    #[test]
    fn whole_answers_count_as_answered_on_connections_of_their_own() {
        for answer in [ANSWER, LAST] {
            let report = answered_with(answer);
            assert!(report.answered >= 5 && report.lost() == 0, "{report}");
            assert_eq!(report.connections, report.answered, "{report}");
        }
    }

    #[test]
    fn an_answer_that_comes_byte_by_byte_is_whole() {
        let address = server(|mut stream| {
            stream.set_nodelay(true).unwrap();
            request(&mut stream);
            for byte in ANSWER.bytes() {
                let _ = stream.write_all(&[byte]);
            }
        });
        let report = one(address, Mode::OnePerConnection).run(5);
        assert!(report.answered >= 5 && report.lost() == 0, "{report}");
    }

    #[test]
    fn an_answer_that_is_larger_than_the_buffer_is_whole() {
        let body = "x".repeat(CHUNK * 5 + 7);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        let address = server(move |mut stream| {
            while request(&mut stream) {
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let report = Load::new(address, "/", body, Mode::KeptAlive).connections(1).run(5);
        assert!(report.answered >= 5 && report.lost() == 0 && report.connections == 1, "{report}");
    }

    #[test]
    fn another_status_another_body_and_what_is_no_http_count_as_wrong() {
        for answer in [
            "HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nbody",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbodY",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbod",
            "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody and more",
            "HTTP/1.1 200 OK\r\n\r\nbody",
            "SHUTDOWN\r\n\r\n",
        ] {
            let report = answered_with(answer);
            assert!(report.wrong >= 5 && report.lost() == report.wrong && report.answered == 0, "{answer:?}: {report}");
        }
    }

    #[test]
    fn no_answer_counts_as_empty_and_a_part_of_one_as_cut() {
        let report = answered_with("");
        assert!(report.empty >= 5 && report.lost() == report.empty && report.answered == 0, "{report}");
        for part in [1, 20, ANSWER.len() - 1] {
            let report = answered_with(&ANSWER[..part]);
            assert!(report.cut >= 5 && report.lost() == report.cut && report.answered == 0, "{part}: {report}");
        }
    }

    /// Under Wine a reset behind an answer looks like the end of file.
    #[cfg(unix)]
    #[test]
    fn a_reset_counts_as_reset_even_behind_a_whole_answer() {
        let address = server(|mut stream| {
            // To close with a part of the request unread resets the connection.
            let _ = stream.read(&mut [0]);
            let _ = stream.write_all(ANSWER.as_bytes());
        });
        let report = one(address, Mode::OnePerConnection).run(5);
        assert!(report.reset >= 5 && report.lost() == report.reset && report.answered == 0, "{report}");
    }

    #[test]
    fn nobody_there_counts_as_refused() {
        // A port that no system gives to anybody.
        let report = one("127.0.0.1:1".parse().unwrap(), Mode::KeptAlive).run(3);
        assert!(report.refused >= 3 && report.lost() == report.refused && report.connections == 0, "{report}");
    }

    #[test]
    fn an_answer_that_never_comes_counts_as_timed_out() {
        let mut held = Vec::new();
        let address = server(move |stream| held.push(stream));
        let report = one(address, Mode::OnePerConnection).patience(Duration::from_millis(50)).run(2);
        assert!(report.timed_out >= 2 && report.lost() == report.timed_out, "{report}");
    }

    #[test]
    fn a_kept_connection_is_used_until_the_server_says_that_it_ends() {
        let address = server(|mut stream| {
            for answer in [ANSWER, ANSWER, LAST] {
                if request(&mut stream) {
                    let _ = stream.write_all(answer.as_bytes());
                }
            }
            // It is the client that closes now.
            let _ = stream.read(&mut [0]);
        });
        let report = one(address, Mode::KeptAlive).run(30);
        assert!(report.lost() == 0 && report.found_closed == 0, "{report}");
        assert_eq!(report.notified, report.answered / 3, "{report}");
        assert_eq!(report.connections, report.answered.div_ceil(3), "{report}");
    }

    #[test]
    fn a_connection_that_is_closed_before_the_next_request_is_found_closed_and_nothing_is_lost() {
        let address = server(|mut stream| {
            request(&mut stream);
            // Most often in one packet with the answer, and then the client finds it before it sends anything.
            let _ = stream.write_all(ANSWER.as_bytes());
            let _ = stream.shutdown(Shutdown::Write);
            while request(&mut stream) {}
        });
        let mut runs = (0..1000).map(|_| one(address, Mode::KeptAlive).run(50));
        let report = runs.find(|report| report.found_closed > 0).expect("it is never found");
        // What was sent in that very moment is lost, and is not hidden.
        assert!(report.answered > 0, "{report}");
        assert_eq!(report.lost(), report.empty, "{report}");
    }

    #[test]
    fn a_request_on_a_kept_connection_that_gets_no_answer_is_lost_and_not_repeated() {
        let seen = Arc::new(AtomicU64::new(0));
        let address = server({
            let seen = seen.clone();
            move |mut stream| {
                if request(&mut stream) {
                    seen.fetch_add(1, Ordering::SeqCst);
                    let _ = stream.write_all(ANSWER.as_bytes());
                }
                if request(&mut stream) {
                    seen.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        let report = one(address, Mode::KeptAlive).run(20);
        assert!(report.empty >= 10 && report.lost() == report.empty, "{report}");
        assert_eq!(report.answered + report.lost(), seen.load(Ordering::SeqCst), "{report}");
    }

    #[test]
    fn the_report_is_one_line_with_every_fate() {
        let mut report = Report { answered: 7, took: Duration::from_secs(1), ..Report::default() };
        report.count(Fate::Failed(ErrorKind::OutOfMemory));
        let text = report.to_string();
        assert!(text.starts_with("7 answered (7/s), 1 lost: 0 wrong, ") && text.contains(", 1 OutOfMemory;"), "{text}");
        assert_eq!(text.lines().count(), 1);
    }
}
