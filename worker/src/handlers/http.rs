//! HTTP/1.1 for the files below a folder, or for pages that a program makes.
//!
//! One request, in reading order: [`Http::exchange`] receives its head (`request`), finds the file that it asks for
//! (`target`, `files`), looks whether the client has that version already (`version`) and which part it wants
//! (`range`), puts the answer together and sends it (`answer`). A page is made in the place of a file.

mod answer;
mod files;
mod listing;
mod range;
mod request;
mod target;
#[cfg(test)]
mod tests;
mod version;

use std::fmt;
use std::fs::{File, Metadata};
use std::io::{self, BufRead, ErrorKind};
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::{Connection, Handler};
use answer::{After, Answer, Status};
use files::{Files, Found};
use range::Range;
use request::{Body, Fields, Head, MAX_FIELDS, Method};
use target::Target;
use version::{Verdict, Version};

/// The longest body that is read and thrown away, in bytes. With a longer one the connection is closed.
const MAX_BODY: u64 = 64 * 1024;

/// How much of a request line is logged, in bytes: with everything escaped, and once more for JSON, a line of a log
/// stays within what a pipe takes at once.
const MAX_LOGGED: usize = 380;

/// Serves the files below a directory over HTTP/1.1: GET and HEAD, with listings of directories.
///
/// No file outside the directory is ever served, by whatever path or symbolic link it is asked for.
///
/// [`Http::pages`] serves what code makes instead.
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

/// Where the answers come from.
enum Source {
    Files(Files),
    Pages(Box<Pages>),
}

type Pages = dyn Fn(&str) -> Option<Page> + Send + Sync;

/// A page that was made because somebody asked for it, see [`Http::pages`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Whether it is what was asked for (200). With false it says why there is nothing to be had at the moment (503).
    pub available: bool,
    /// Its media type, such as `text/plain; charset=utf-8`.
    pub media_type: &'static str,
    /// What it says.
    pub text: String,
}

/// A request that was answered, for logs.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Logged<'a> {
    /// The client's address.
    pub peer: SocketAddr,
    /// The first line of the request as it was received, with everything escaped that is not printable ASCII. Only
    /// its beginning if it is very long.
    pub request: &'a str,
    /// The status of the answer.
    pub status: u16,
    /// Bytes of the answer's body that were sent.
    pub sent: u64,
    /// From the first byte of the request to the last one of the answer.
    pub took: Duration,
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

/// How far the request under way got.
enum Step {
    /// More of its head has to be received.
    Incomplete,
    /// Its body has to be thrown away before it is answered.
    Body { head: usize, body: u64 },
    /// It took so many bytes, and its answer is ready.
    Answered(usize),
}

/// Why there is no whole request.
enum Missing {
    /// The client has closed its side.
    Left,
    /// It was not there in time.
    Late,
}

impl Http {
    /// Serves the files below `directory`.
    ///
    /// # Errors
    /// When the directory cannot be opened.
    pub fn new(directory: impl AsRef<Path>) -> io::Result<Http> {
        let directory = directory.as_ref();
        let files = Files::new(directory).map_err(|error| {
            let name = directory.display();
            let message = match error.kind() {
                ErrorKind::NotFound => format!("there is no directory {name}"),
                ErrorKind::NotADirectory => format!("{name} is not a directory"),
                ErrorKind::PermissionDenied => format!("no permission to read the directory {name}"),
                _ => format!("cannot serve the directory {name}: {error}"),
            };
            io::Error::new(error.kind(), message)
        })?;
        Ok(Http { source: Source::Files(files), limits: Limits::default(), log: None })
    }

    /// Serves pages that are made when somebody asks for them, and no files. `pages` gets the path without the slash at
    /// its beginning (`metrics`), and has None for what does not exist. It is called on the thread of the connection:
    /// while it runs, that client waits.
    pub fn pages(pages: impl Fn(&str) -> Option<Page> + Send + Sync + 'static) -> Http {
        Http { source: Source::Pages(Box::new(pages)), limits: Limits::default(), log: None }
    }

    /// How long a client may take to begin with a request, to send the rest of it, and to read anything at all of the
    /// answer: more than none. By default it has as long as browsers want.
    pub fn patience(mut self, limit: Duration) -> Http {
        self.limits = Limits { request: limit, idle: limit, write: limit };
        self
    }

    /// Who hears of each request when it was answered. Called from the thread of the connection: while it runs, that
    /// client waits.
    pub fn log(mut self, log: impl Fn(&Logged<'_>) + Send + Sync + 'static) -> Http {
        self.log = Some(Box::new(log));
        self
    }

    /// Receives and answers one request. Returns whether another may follow on the same connection.
    fn exchange(&self, client: &mut Connection, answer: &mut Answer) -> io::Result<bool> {
        let began = self.log.is_some().then(Instant::now);
        let mut line = None;
        match self.prepare(client, answer, &mut line)? {
            Ok(()) => {}
            Err(Missing::Left) => return Ok(false),
            Err(Missing::Late) => {
                answer.after = After::Abandon;
                answer.refuse(Status::RequestTimeout);
            }
        }
        let (sent, outcome) = answer.send(client);
        if let (Some(log), Some(began)) = (&self.log, began) {
            let request = line.unwrap_or_else(|| logged_line(client.buffered()));
            let status = answer.status as u16;
            log(&Logged { peer: client.peer(), request: &request, status, sent, took: began.elapsed() });
        }
        outcome?;
        if answer.after == After::Abandon {
            client.abandon_input();
        }
        Ok(matches!(answer.after, After::Keep { .. }))
    }

    /// Receives one request and puts its answer together. `line` gets what is logged of it.
    fn prepare(
        &self,
        client: &mut Connection,
        answer: &mut Answer,
        line: &mut Option<String>,
    ) -> io::Result<Result<(), Missing>> {
        let mut late = None;
        loop {
            match self.step(client.buffered(), client.is_draining(), answer, None) {
                Step::Answered(length) => {
                    *line = self.log.is_some().then(|| logged_line(client.buffered()));
                    client.consume(length);
                    return Ok(Ok(()));
                }
                Step::Body { head, body } => {
                    *line = self.log.is_some().then(|| logged_line(client.buffered()));
                    let head = client.buffered()[..head].to_vec();
                    client.consume(head.len());
                    late.get_or_insert_with(|| self.set_deadline(client));
                    if let Err(missing) = throw_away(client, body)? {
                        return Ok(Err(missing));
                    }
                    self.step(&head, client.is_draining(), answer, Some(client.buffered().len()));
                    return Ok(Ok(()));
                }
                Step::Incomplete => {
                    late.get_or_insert_with(|| self.set_deadline(client));
                    if let Err(missing) = receive(client)? {
                        return Ok(Err(missing));
                    }
                }
            }
        }
    }

    /// The request has to be there in time. This is said only when it does not come at once: each deadline costs
    /// a system call.
    fn set_deadline(&self, client: &mut Connection) {
        client.set_read_deadline(Instant::now().checked_add(self.limits.request));
    }

    /// Answers the request if it is complete. `behind_body` says that the body has been read already, and how many
    /// bytes have been received behind it.
    fn step(&self, received: &[u8], draining: bool, answer: &mut Answer, behind_body: Option<usize>) -> Step {
        let mut fields: Fields<'_> = [const { MaybeUninit::uninit() }; MAX_FIELDS];
        answer.head_only = false;
        let head = match Head::parse(received, &mut fields) {
            Ok(Some(head)) => head,
            Ok(None) => return Step::Incomplete,
            Err(status) => {
                answer.after = After::Abandon;
                answer.refuse(status);
                return Step::Answered(received.len());
            }
        };
        let body_left = match head.body {
            Body::Bytes(0) => false,
            Body::Bytes(_) if behind_body.is_some() => false,
            Body::Bytes(body) if body <= MAX_BODY && !head.expects_continue => {
                return Step::Body { head: head.length, body };
            }
            Body::Bytes(_) | Body::Chunked => true,
        };
        answer.head_only = head.method == Method::Head;
        // Of requests that were sent together, the last one is told that nothing is answered any more.
        let last = draining && behind_body.unwrap_or(received.len() - head.length) == 0;
        answer.after = match () {
            // A client that did not ask to close may send its next request at this moment.
            () if body_left || last && head.keep_alive => After::Abandon,
            () if head.keep_alive => After::Keep { tell: head.old },
            () => After::Close,
        };
        self.answer(&head, answer);
        Step::Answered(head.length)
    }

    fn answer(&self, head: &Head<'_, '_>, answer: &mut Answer) {
        if let Err(status) = self.try_answer(head, answer) {
            answer.refuse(status);
        }
    }

    fn try_answer(&self, head: &Head<'_, '_>, answer: &mut Answer) -> Result<(), Status> {
        match head.method {
            Method::Get | Method::Head => {}
            Method::Known => return Err(Status::MethodNotAllowed),
            Method::Unknown => return Err(Status::NotImplemented),
        }
        let target = Target::parse(head.target)?;
        let files = match &self.source {
            Source::Files(files) => files,
            Source::Pages(pages) => {
                // With a slash at its end it is another path.
                let path = str::from_utf8(&target.path).ok().filter(|_| !target.folder);
                answer.page(&path.and_then(pages).ok_or(Status::NotFound)?);
                return Ok(());
            }
        };
        match files.find(&target).map_err(|error| files::status(&error))? {
            Found::File(file, metadata) => answer_with_file(head, answer, file, &metadata, &target.path),
            Found::Index(file, metadata, name) => answer_with_file(head, answer, file, &metadata, name.as_bytes()),
            Found::Folder(folder) => {
                let page = listing::page(folder, &target.path).map_err(|error| files::status(&error))?;
                answer.begin(Status::Ok);
                answer.end_with_html(&page);
                Ok(())
            }
            Found::SlashMissing => {
                answer.begin(Status::MovedPermanently);
                answer.field("Location", target.folder_url());
                answer.end_with_name();
                Ok(())
            }
        }
    }
}

/// Answers with a file if the request's conditions hold. Its media type follows from `name`.
fn answer_with_file(
    head: &Head<'_, '_>,
    answer: &mut Answer,
    file: File,
    metadata: &Metadata,
    name: &[u8],
) -> Result<(), Status> {
    let version = Version::of(metadata);
    match version.judge(head) {
        Verdict::Send => {
            let Some((start, count)) = begin_with_range(head, answer, version) else { return Ok(()) };
            write_version(answer, version);
            answer.field("Accept-Ranges", "bytes");
            write_media_type(answer, name);
            answer.end_with_file(file, start, count).map_err(|error| match error.kind() {
                ErrorKind::UnexpectedEof => Status::ServiceUnavailable, // It is being rewritten.
                _ => Status::InternalServerError,
            })
        }
        Verdict::NotModified => {
            answer.begin(Status::NotModified);
            write_version(answer, version);
            answer.end();
            Ok(())
        }
        Verdict::PreconditionFailed => Err(Status::PreconditionFailed),
    }
}

/// Begins the answer with the file, or the part of it, that was asked for, and returns where that begins and how long
/// it is. None: the file has no such part, and the answer says so.
fn begin_with_range(head: &Head<'_, '_>, answer: &mut Answer, version: Version) -> Option<(u64, u64)> {
    let range = match head.value("range") {
        Some(range) if head.method == Method::Get && version.allows_range(head.value("if-range")) => {
            Range::parse(range, version.length)
        }
        _ => Range::Whole,
    };
    let length = version.length;
    match range {
        Range::Whole => {
            answer.begin(Status::Ok);
            Some((0, length))
        }
        Range::Part { first, last } => {
            answer.begin(Status::PartialContent);
            answer.field("Content-Range", format_args!("bytes {first}-{last}/{length}"));
            Some((first, last - first + 1))
        }
        Range::Unsatisfiable => {
            answer.begin(Status::RangeNotSatisfiable);
            answer.field("Content-Range", format_args!("bytes */{length}"));
            answer.end_with_name();
            None
        }
    }
}

fn write_version(answer: &mut Answer, version: Version) {
    if let Some(date) = version.last_modified() {
        answer.field("Last-Modified", date);
    }
    answer.field("ETag", version.etag());
}

fn write_media_type(answer: &mut Answer, path: &[u8]) {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let extension = name.iter().rposition(|&byte| byte == b'.').map(|dot| &name[dot + 1..]);
    let extension = extension.and_then(|extension| str::from_utf8(extension).ok()).unwrap_or_default();
    let media_type = mime_guess::from_ext(extension).first_raw().unwrap_or("application/octet-stream");
    if media_type.starts_with("text/") {
        answer.field("Content-Type", format_args!("{media_type}; charset=utf-8"));
    } else {
        answer.field("Content-Type", media_type);
    }
}

/// Receives more of the request under way.
fn receive(client: &mut Connection) -> io::Result<Result<(), Missing>> {
    match client.read_more() {
        Ok(0) => Ok(Err(Missing::Left)),
        Ok(_) => Ok(Ok(())),
        Err(error) if error.kind() == ErrorKind::TimedOut => Ok(Err(Missing::Late)),
        Err(error) => Err(error),
    }
}

/// Receives a body and throws it away.
fn throw_away(client: &mut Connection, body: u64) -> io::Result<Result<(), Missing>> {
    let mut left = body;
    while left > 0 {
        if client.buffered().is_empty()
            && let Err(missing) = receive(client)?
        {
            return Ok(Err(missing));
        }
        let part = client.buffered().len().min(usize::try_from(left).unwrap_or(usize::MAX));
        client.consume(part);
        left -= part as u64;
    }
    Ok(Ok(()))
}

fn logged_line(received: &[u8]) -> String {
    let line = request::request_line(received);
    line[..line.len().min(MAX_LOGGED)].escape_ascii().to_string()
}

impl Handler for Http {
    fn serve(&self, client: &mut Connection) -> io::Result<()> {
        client.set_idle_timeout(Some(self.limits.idle));
        client.set_write_timeout(Some(self.limits.write))?;
        let mut answer = Answer::new();
        while client.next_message() && self.exchange(client, &mut answer)? {
            answer.recycle();
        }
        Ok(())
    }

    fn refusal(&self) -> &[u8] {
        b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n\
          Content-Type: text/plain; charset=utf-8\r\nContent-Length: 38\r\n\r\n\
          Too many connections, try again later\n"
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
