//! HTTP/1.1 for the files below a directory, or for pages that a program makes.
//!
//! One request, in reading order: [`Http::receive`] receives it (`request`), finds the file that it asks for (`target`,
//! `files`), checks whether the client already has that version (`version`) and which part it wants (`range`), and
//! assembles the answer (`header`, `answer`). A small file that was read within the same second is sent as it is
//! (`cache`, `small_file`). A page is made in place of a file.

mod answer;
mod authority;
mod cache;
mod date;
mod files;
mod header;
mod listing;
mod media_type;
mod range;
mod request;
mod small_file;
mod status;
mod target;
#[cfg(test)]
mod tests;
mod version;

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, ErrorKind};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;
use std::str;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::handler::Handler;
use answer::Answer;
use date::Now;
use files::{Files, Found};
use header::{After, Header, Terms};
use media_type::MediaType;
use range::Range;
use request::{Body, Fields, Head, MAX_FIELDS, Method};
use small_file::SmallFile;
use status::Status;
use target::Target;
use version::{Verdict, Version};

/// The longest body that is received and discarded, in bytes. A longer one closes the connection.
const MAX_BODY: u64 = 64 * 1024;

/// How much of a request line is logged, in bytes: even with everything escaped, and escaped once more for JSON, a log
/// line stays within what a pipe takes at once.
const MAX_LOGGED: usize = 380;

/// Serves the files below a directory over HTTP/1.1: GET and HEAD, with listings of directories.
///
/// No file outside the directory is ever served, whatever path or symbolic link is requested. Each request looks the
/// directory up by its path: it may be replaced, or be a symbolic link that is switched. While it is missing, requests
/// are answered with 503, and [`Handler::available`] says why.
///
/// [`Http::pages`] serves generated pages instead.
///
/// ```no_run
/// use std::net::TcpListener;
/// use mastercontrol_worker::{Server, handlers::Http};
///
/// let server = Server::new(Http::new("public")?);
/// let handle = server.start(TcpListener::bind("127.0.0.1:8000")?)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Http {
    source: Source,
    limits: Limits,
    log: Option<Box<Log>>,
}

type Log = dyn Fn(&Logged<'_>) + Send + Sync;

/// The source of the answers.
enum Source {
    Files(Files),
    Pages(Box<Pages>),
}

type Pages = dyn Fn(&str) -> Option<Page> + Send + Sync;

/// A page that is made for a request, see [`Http::pages`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// True if it is what the client asked for (200), false if it explains why that is not available now (503).
    pub available: bool,
    /// Its media type, such as `text/plain; charset=utf-8`.
    pub media_type: &'static str,
    /// Its content.
    pub text: String,
}

/// A request that was answered, for logs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Logged<'a> {
    /// The client's address.
    pub peer: SocketAddr,
    /// The first line of the request as it was received, with everything but printable ASCII escaped. Only its
    /// beginning if it is very long.
    pub request: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub sent: u64,
    /// From the first byte of the request to the last one of the answer.
    pub took: Duration,
}

/// What [`Http::receive`] has received.
enum Received {
    /// A request of this length, and its answer.
    Request(usize, Answer),
    /// No request: some clients send an empty line after a body (RFC 9112, section 2.2).
    EmptyLines,
    /// The client has disconnected.
    End,
}

/// How long a client may take.
#[derive(Debug, Clone, Copy)]
struct Limits {
    /// To send a request, from its first byte.
    request: Duration,
    /// To begin with the next one.
    idle: Duration,
    /// To read anything at all of an answer.
    write: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { request: Duration::from_secs(10), idle: Duration::from_secs(75), write: Duration::from_secs(60) }
    }
}

impl Http {
    /// Serves the files below `directory`. A relative path is relative to the working directory at the time of this
    /// call.
    ///
    /// # Errors
    /// When there is no such directory, or it cannot be read.
    pub fn new(directory: impl AsRef<Path>) -> io::Result<Http> {
        let directory = directory.as_ref();
        let files = Files::new(directory).map_err(|error| not_available(directory, &error))?;
        Ok(Http { source: Source::Files(files), limits: Limits::default(), log: None })
    }

    /// Serves pages that are made for each request, and no files. `pages` is called with the path without its leading
    /// slash (`metrics`) and returns None if there is no such page. It runs on the thread of the connection, and the
    /// client waits meanwhile. When there are too many connections, a client that is slow to send its request or to
    /// read the answer is closed for a new one, as an idle one is.
    pub fn pages(pages: impl Fn(&str) -> Option<Page> + Send + Sync + 'static) -> Http {
        Http { source: Source::Pages(Box::new(pages)), limits: Limits::default(), log: None }
    }

    /// Limits how long a client may take to begin a request, to send the rest of it, and to read anything at all of the
    /// answer. Must not be zero. The defaults suit browsers.
    pub fn patience(mut self, limit: Duration) -> Http {
        self.limits = Limits { request: limit, idle: limit, write: limit };
        self
    }

    /// Calls `log` for each request after its answer has been sent. It runs on the thread of the connection, and the
    /// client waits meanwhile.
    pub fn log(mut self, log: impl Fn(&Logged<'_>) + Send + Sync + 'static) -> Http {
        self.log = Some(Box::new(log));
        self
    }

    /// Receives and answers one request. Returns whether another may follow on the same connection.
    fn exchange(&self, client: &mut Connection) -> io::Result<bool> {
        let began = self.log.is_some().then(Instant::now);
        let (length, answer) = match self.receive(client)? {
            Received::Request(length, answer) => (length, answer),
            Received::EmptyLines => return Ok(true),
            Received::End => return Ok(false),
        };
        let (sent, outcome) = answer.send(client);
        if let (Some(log), Some(began)) = (&self.log, began) {
            let request = logged_line(client.buffered());
            let status = answer.status as u16;
            log(&Logged { peer: client.peer(), request: &request, status, sent, took: began.elapsed() });
        }
        client.consume(length);
        outcome?;
        match answer.after {
            After::Keep { .. } => return Ok(true),
            After::Close => {}
            After::Abandon => client.abandon_input(),
        }
        Ok(false)
    }

    /// Receives one request.
    fn receive(&self, client: &mut Connection) -> io::Result<Received> {
        let mut deadline = None;
        loop {
            client.consume(request::empty_lines(client.buffered()));
            if client.buffered().is_empty() {
                return Ok(Received::EmptyLines);
            }
            if let Some((length, answer)) = self.answer_to(client.buffered(), client.is_last_answer()) {
                return Ok(Received::Request(length, answer));
            }
            if deadline.is_none() {
                // Only for a request that does not arrive at once: a deadline costs a system call.
                deadline = Instant::now().checked_add(self.limits.request);
                client.set_read_deadline(deadline);
            }
            match client.read_more() {
                Ok(0) => return Ok(Received::End),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Ok(Received::Request(client.buffered().len(), refusal(Status::RequestTimeout)));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The length of the first request in the received bytes, and its answer. None if it is not complete.
    fn answer_to(&self, received: &[u8], is_last: bool) -> Option<(usize, Answer)> {
        let mut fields: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        let head = match Head::parse(received, &mut fields) {
            Ok(head) => head?,
            Err(status) => {
                let same = (status == Status::VersionNotSupported).then(|| request::as_http_1_1(received)).flatten();
                return match same {
                    Some(same) => self.answer_to(&same, is_last),
                    None => Some((received.len(), refusal(status))),
                };
            }
        };
        let (length, is_read) = match head.body {
            Body::Bytes(0) => (head.length, true),
            // It is received and discarded.
            Body::Bytes(body @ ..=MAX_BODY) if !head.expects_continue => (head.length + body as usize, true),
            Body::Bytes(_) | Body::Chunked => (head.length, false),
        };
        if received.len() < length {
            return None;
        }
        // Of requests that were sent together, only the last one announces the end of the connection.
        let last = is_last && length + request::empty_lines(&received[length..]) == received.len();
        let after = match () {
            // A client that did not ask to close may be sending its next request at this moment.
            () if !is_read || last && head.keep_alive => After::Abandon,
            () if head.keep_alive => After::Keep { announce: head.old },
            () => After::Close,
        };
        let terms = Terms { now: Now::read(), after, head_only: head.method == Method::Head };
        Some((length, self.answer(&head, terms).unwrap_or_else(|status| Answer::refusal(status, terms))))
    }

    fn answer(&self, head: &Head<'_, '_>, terms: Terms) -> Result<Answer, Status> {
        match head.method {
            Method::Get | Method::Head => {}
            // `*` is all paths.
            Method::Options => return Ok(Answer::methods(terms)),
            Method::Known => return Err(Status::MethodNotAllowed),
            Method::Unknown => return Err(Status::NotImplemented),
        }
        let target = Target::parse(head.target)?;
        match &self.source {
            Source::Files(files) => answer_from(files, &target, head, terms),
            Source::Pages(pages) => {
                // With a trailing slash it is a different path.
                let path = str::from_utf8(target.relative()).ok().filter(|_| !target.is_directory());
                let page = path.and_then(pages).ok_or(Status::NotFound)?;
                let status = if page.available { Status::Ok } else { Status::ServiceUnavailable };
                let mut header = Header::new(status, terms);
                header.field("Cache-Control", "no-store");
                header.field("Content-Type", page.media_type);
                Ok(Answer::with_body(header, page.text.as_bytes()))
            }
        }
    }
}

fn answer_from(files: &Files, target: &Target<'_>, head: &Head<'_, '_>, terms: Terms) -> Result<Answer, Status> {
    match files.find(target, terms.now)? {
        Found::Small(file) if head.is_plain && terms.after == SmallFile::AFTER => {
            Ok(Answer::ready(file, terms.head_only))
        }
        Found::Small(file) => {
            answer_with_file(head, terms, file.version, file.media_type, Content::Memory(file.content()))
        }
        Found::Large(file, version, media_type) => {
            answer_with_file(head, terms, version, media_type, Content::File(file))
        }
        Found::Directory(directory) => {
            let page = listing::page(*directory, target.relative()).map_err(|error| files::status(&error))?;
            Ok(Answer::with_html(Header::new(Status::Ok, terms), &page))
        }
        Found::SlashMissing => {
            let mut header = Header::new(Status::MovedPermanently, terms);
            header.field("Location", target.directory_url());
            Ok(Answer::with_name(header))
        }
    }
}

/// Where the bytes of a file are.
enum Content<'file> {
    Memory(&'file [u8]),
    File(File),
}

/// Answers with a file if the request's conditions hold.
fn answer_with_file(
    head: &Head<'_, '_>,
    terms: Terms,
    version: Version,
    media_type: MediaType,
    content: Content<'_>,
) -> Result<Answer, Status> {
    match version.judge(head) {
        Verdict::Send => {}
        Verdict::PreconditionFailed => return Err(Status::PreconditionFailed),
        Verdict::NotModified => {
            let mut header = Header::new(Status::NotModified, terms);
            header.version(version);
            return Ok(Answer::without_body(header));
        }
    }
    let length = version.length;
    let range = match head.value("range") {
        Some(range) if head.method == Method::Get && version.allows_range(head, terms.now) => {
            Range::parse(range, length)
        }
        _ => Range::Whole,
    };
    let (mut header, start, count) = match range {
        Range::Whole => (Header::new(Status::Ok, terms), 0, length),
        Range::Part { first, last } => {
            let mut header = Header::new(Status::PartialContent, terms);
            header.field("Content-Range", format_args!("bytes {first}-{last}/{length}"));
            (header, first, last - first + 1)
        }
        Range::Unsatisfiable => {
            let mut header = Header::new(Status::RangeNotSatisfiable, terms);
            header.field("Content-Range", format_args!("bytes */{length}"));
            return Ok(Answer::with_name(header));
        }
    };
    header.file(version, media_type);
    match content {
        // A length in memory fits.
        Content::Memory(bytes) => Ok(Answer::with_body(header, &bytes[start as usize..][..count as usize])),
        Content::File(file) => Answer::with_file(header, file, start, count).map_err(|_| Status::InternalServerError),
    }
}

/// The answer to something that is not a valid request.
fn refusal(status: Status) -> Answer {
    Answer::refusal(status, Terms { now: Now::read(), after: After::Abandon, head_only: false })
}

/// The reason why a directory cannot be served, for people.
fn not_available(directory: &Path, error: &io::Error) -> io::Error {
    let name = directory.display();
    let message = match error.kind() {
        ErrorKind::NotFound => format!("there is no directory {name}"),
        ErrorKind::NotADirectory => format!("{name} is not a directory"),
        ErrorKind::PermissionDenied => format!("no permission to read the directory {name}"),
        _ => format!("cannot serve the directory {name}: {error}"),
    };
    io::Error::new(error.kind(), message)
}

fn logged_line(received: &[u8]) -> String {
    let line = request::request_line(received);
    line[..line.len().min(MAX_LOGGED)].escape_ascii().to_string()
}

impl Handler for Http {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        client.set_write_timeout(Some(self.limits.write))?;
        while client.next_message() && self.exchange(client)? {}
        Ok(())
    }

    fn idle_timeout(&self) -> Option<Duration> {
        Some(self.limits.idle)
    }

    /// A page can be asked for again. A file may be large, and its client slow.
    fn closes_slow(&self) -> bool {
        matches!(self.source, Source::Pages(_))
    }

    fn refusal(&self) -> &[u8] {
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
          Content-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\n\r\n\
          Too many connections, try again later\n"
    }

    /// Whether the directory exists and can be read.
    fn available(&self) -> io::Result<()> {
        match &self.source {
            Source::Files(files) => files.check().map_err(|error| not_available(files.directory(), &error)),
            Source::Pages(_) => Ok(()),
        }
    }
}

impl fmt::Debug for Http {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source: &dyn fmt::Debug = match &self.source {
            Source::Files(files) => files,
            Source::Pages(_) => &"pages",
        };
        formatter.debug_struct("Http").field("source", source).field("limits", &self.limits).finish_non_exhaustive()
    }
}
