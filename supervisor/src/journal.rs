//! All events of a supervisor, as numbered entries. They feed two outputs: the log on stderr, and the events at the
//! admin socket.
//!
//! The last entries are kept, and each reader reads on from there at its own pace. So a writer never waits for a
//! reader, and a reader that returns with the number of its last entry continues after that. The log is written by a
//! thread of its own, so nothing waits for it, either.

#[cfg(test)]
mod tests;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::mem;
use std::panic::{self, PanicHookInfo};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError, Weak};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value};

use crate::log::{Log, Place};
use crate::protocol::{CUT, Entry, Level, MAX_LINE};
use crate::sync::lock;
use crate::text::Count;
use crate::writer::{LAST_LINES, LogFile, Sink, Writer};

/// How many entries are kept.
const KEPT: usize = 1000;

/// How many are kept while a client follows: a follower that is up to this far behind misses nothing.
const KEPT_FOR_FOLLOWERS: usize = 20_000;

/// How many clients can follow at the same time.
pub(crate) const MAX_FOLLOWERS: usize = 100;

/// How much a reader takes at once, in bytes, if there is that much.
const PART: usize = 64 * 1024;

/// Events within this time after a follower got some are sent together. Sending each event on its own to each of many
/// followers would take all the time of the processors.
const TOGETHER: Duration = Duration::from_millis(20);

/// The names of the members that every entry has.
const ALWAYS: [&str; 5] = ["seq", "time", "level", "event", "message"];

/// Records everything that happens in a supervisor, for its log and for the admin socket's `events`.
///
/// A clone writes to the same journal.
#[derive(Debug, Clone)]
pub struct Journal {
    log: Log,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    began: String,
    kept: Mutex<Kept>,
    /// There is something new for a waiting reader.
    news: Condvar,
    ended: Condvar,
    /// Gets the lines of the log while `kept` is locked, so that they are in the order of the entries.
    writer: Arc<Writer>,
    /// Where the lines of the log are written.
    place: Place,
}

/// The last entries, and their readers.
#[derive(Debug)]
struct Kept {
    /// Each a line of JSON with its line feed, the newest at the back.
    lines: VecDeque<Box<str>>,
    /// The number of the newest entry.
    last: u64,
    /// How the newest entry was logged.
    log: Log,
    followers: usize,
    /// Whether a reader is waiting for news.
    awaited: bool,
    /// How many clients have asked to follow so far.
    arrivals: u64,
    /// Whether followers need not wait for more entries.
    ended: bool,
}

/// An entry that has no number yet.
struct Draft {
    level: Level,
    event: String,
    message: String,
    fields: Map<String, Value>,
}

impl Draft {
    fn new<const N: usize>(level: Level, event: &str, message: impl Display, fields: [(&str, Value); N]) -> Draft {
        let own = fields.into_iter().filter(|(name, _)| !ALWAYS.contains(name));
        let fields = own.map(|(name, value)| (name.to_owned(), value)).collect();
        Draft { level, event: event.to_owned(), message: message.to_string(), fields }
    }
}

impl Journal {
    /// A journal for one supervisor, see [`Supervisor::journal`](crate::Supervisor::journal), logged as `log` says.
    pub fn new(log: Log) -> Journal {
        Journal::written_to(Sink::stderr(), log)
    }

    /// A journal whose log is appended to this file instead of written to stderr. A file longer than 10 MiB is renamed,
    /// with `.old` after its name, replacing the one before, and a new file begins.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn in_file(log: Log, path: &Path) -> io::Result<Journal> {
        Ok(Journal::written_to(Sink::file(LogFile::open(path.to_owned())?), log))
    }

    fn written_to(sink: Sink, log: Log) -> Journal {
        let kept =
            Kept { lines: VecDeque::new(), last: 0, log, followers: 0, awaited: false, arrivals: 0, ended: false };
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| {
            let shared = shared.clone();
            Shared {
                began: now(),
                kept: Mutex::new(kept),
                news: Condvar::new(),
                ended: Condvar::new(),
                place: sink.place(),
                writer: Arc::new(Writer::new(sink, move || {
                    if let Some(shared) = shared.upgrade() {
                        shared.say_what_was_lost();
                    }
                })),
            }
        });
        Journal { log, shared }
    }

    /// The same journal, but events recorded through this one are logged as `log` says.
    pub fn with(&self, log: Log) -> Journal {
        Journal { log, shared: self.shared.clone() }
    }

    /// Whether something of this level is an event. [`Level::Detail`] counts only if the log is verbose.
    pub fn tells(&self, level: Level) -> bool {
        self.log.tells(level)
    }

    /// How its events are logged.
    pub fn log(&self) -> Log {
        self.log
    }

    /// Records an event with its name, a message for people, and fields for programs, whose names differ from those
    /// that each [entry](Entry) has. A level that it does not [tell](Journal::tells) is not recorded.
    ///
    /// This never waits for the reader of the log, or for a disk. If either is too slow, or the line cannot be written,
    /// the log loses the line. The number of lost lines becomes an entry of its own as soon as there is room again.
    pub fn line<const N: usize>(&self, level: Level, event: &str, message: impl Display, fields: [(&str, Value); N]) {
        if !self.tells(level) {
            return;
        }
        // Before taking the lock: it is unknown how long displaying a message takes.
        let draft = Draft::new(level, event, message, fields);
        self.shared.record(lock(&self.shared.kept), draft, Some(self.log));
    }

    /// Records each panic of this process from now on, in place of the message that a thread writes to stderr itself when
    /// it panics: with that message the thread would wait for the reader of the log, however long it stalls. Here it
    /// waits a fifth of a second at most (on Windows longer if the log's own thread is late), since the process may be about
    /// to end. If `RUST_BACKTRACE` is set, the event has a field `backtrace`.
    ///
    /// This replaces the panic hook of the process, so a program may call it, and a library may not.
    pub fn record_panics(&self) {
        let shared = self.shared.clone();
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // Before taking the lock: a backtrace takes time.
            let draft = draft_of_panic(panic);
            match lock_soon(&shared.kept) {
                Some(kept) => {
                    shared.record(kept, draft, None);
                    shared.writer.flush(Instant::now() + LAST_LINES);
                }
                // The thread has panicked while it was recording something.
                None => usual(panic),
            }
        }));
    }

    /// Waits until the log is written: for a fifth of a second at most, if its reader stalls. Call this at the end of a
    /// program, which otherwise loses its last lines.
    pub fn flush(&self) {
        self.flush_until(Instant::now() + LAST_LINES);
    }

    pub(crate) fn flush_until(&self, end: Instant) {
        self.shared.writer.flush(end);
    }

    /// The writer to stderr, which others use, too.
    pub(crate) fn stderr(&self) -> Arc<Writer> {
        match self.shared.place {
            Place::Stderr(_) => self.shared.writer.clone(),
            Place::File => Arc::new(Writer::new(Sink::stderr(), || {})),
        }
    }

    /// Reads past events.
    pub(crate) fn read(&self, since: Option<u64>) -> Reader {
        let kept = lock(&self.shared.kept);
        Reader::new(&self.shared, &kept, since, Until::Number(kept.last))
    }

    /// Reads past events, and then new ones. None: too many clients do that.
    pub(crate) fn follow(&self, since: Option<u64>) -> Option<Reader> {
        let mut kept = lock(&self.shared.kept);
        kept.arrivals += 1;
        // Wakes followers, so that those whose clients are gone make room.
        self.shared.news.notify_all();
        if kept.followers >= MAX_FOLLOWERS {
            return None;
        }
        kept.followers += 1;
        Some(Reader::new(&self.shared, &kept, since, Until::TheEnd))
    }

    /// Tells followers, when it is dropped, that there is nothing more to wait for.
    pub(crate) fn ending(&self) -> Ending {
        Ending(self.shared.clone())
    }
}

impl Shared {
    /// Records an event, logged in this way or, with None, as the one before.
    fn record(&self, mut kept: MutexGuard<'_, Kept>, draft: Draft, log: Option<Log>) {
        self.add_what_was_lost(&mut kept);
        let log = log.unwrap_or(kept.log);
        self.add(&mut kept, draft, log);
        self.announce(kept);
    }

    fn add(&self, kept: &mut Kept, draft: Draft, log: Log) {
        let Draft { level, event, message, fields } = draft;
        let entry = Entry { seq: kept.last + 1, time: now(), level, event, message, fields };
        let json = json(&entry);
        if let Some(line) = log.line(&entry, &json, self.place) {
            self.writer.line(&line);
        }
        kept.push(json.into());
        kept.log = log;
    }

    fn add_what_was_lost(&self, kept: &mut Kept) {
        let lost = self.writer.take_lost();
        if lost > 0 {
            let message = format!("{} of the log lost: they could not be written in time", Count(lost, "line"));
            let draft = Draft::new(Level::Warning, "log_lines_lost", message, [("lost", lost.into())]);
            self.add(kept, draft, kept.log);
        }
    }

    /// Reports lost lines now that there is room again: perhaps nothing else happens for a long time.
    fn say_what_was_lost(&self) {
        let mut kept = lock(&self.kept);
        self.add_what_was_lost(&mut kept);
        self.announce(kept);
    }

    fn announce(&self, mut kept: MutexGuard<'_, Kept>) {
        if mem::take(&mut kept.awaited) {
            drop(kept);
            self.news.notify_all();
        }
    }
}

impl Kept {
    /// The number of the oldest entry or, if there is none, of the next one.
    fn first(&self) -> u64 {
        self.last + 1 - self.lines.len() as u64
    }

    fn push(&mut self, line: Box<str>) {
        self.lines.push_back(line);
        self.last += 1;
        self.forget();
    }

    fn forget(&mut self) {
        let kept = if self.followers > 0 { KEPT_FOR_FOLLOWERS } else { KEPT };
        let excess = self.lines.len().saturating_sub(kept);
        self.lines.drain(..excess);
    }

    /// About one part of the lines from this number on, which must still be kept. Also returns the number after the
    /// last one.
    fn part(&self, from: u64) -> (String, u64) {
        let mut part = String::new();
        let mut next = from;
        let skipped = usize::try_from(from - self.first()).unwrap_or(usize::MAX).min(self.lines.len());
        for line in self.lines.range(skipped..) {
            if !part.is_empty() && part.len() + line.len() > PART {
                break;
            }
            part.push_str(line);
            next += 1;
        }
        (part, next)
    }
}

/// The lock, unless it is held for so long that this thread may hold it itself.
fn lock_soon<T>(mutex: &Mutex<T>) -> Option<MutexGuard<'_, T>> {
    for _ in 0..100 {
        match mutex.try_lock() {
            Ok(guard) => return Some(guard),
            Err(TryLockError::Poisoned(error)) => return Some(error.into_inner()),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(1)),
        }
    }
    None
}

fn draft_of_panic(panic: &PanicHookInfo<'_>) -> Draft {
    let thread = thread::current().name().unwrap_or("without a name").to_owned();
    let place = panic.location().map(|place| format!(" at {place}")).unwrap_or_default();
    // The message of an assertion has several lines, and an event has one.
    let text = worker::panic_message(panic.payload()).replace('\n', " ");
    let message = format!("thread {thread} panicked{place}: {text}");
    let mut draft = Draft::new(Level::Error, "panicked", message, [("thread", thread.into())]);
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        draft.fields.insert("backtrace".into(), backtrace.to_string().into());
    }
    draft
}

/// An entry as a line of JSON.
fn json(entry: &Entry) -> String {
    // Texts, numbers and maps of these can always be serialized.
    let line = serde_json::to_string(entry).unwrap_or_default();
    if line.len() < MAX_LINE {
        return line + "\n";
    }
    let message = entry.message.chars().take(CUT).chain(['…']).collect();
    json(&Entry { message, event: entry.event.chars().take(CUT).collect(), fields: Map::new(), ..entry.clone() })
}

fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}

/// Ends the journal when it is dropped.
#[derive(Debug)]
pub(crate) struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.0.kept).ended = true;
        self.0.news.notify_all();
        self.0.ended.notify_all();
    }
}

/// Reads the journal.
#[derive(Debug)]
pub(crate) struct Reader {
    shared: Arc<Shared>,
    /// The number of the next entry.
    next: u64,
    /// Whether it has reported where it begins.
    placed: bool,
    until: Until,
    arrivals: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Until {
    Number(u64),
    /// It follows.
    TheEnd,
}

/// What a reader gets next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Where it continues, and how many entries before that it has missed.
    Position { began: String, next: u64, missed: u64 },
    /// Entries, each a line of JSON.
    Entries(String),
    /// Another client wants to follow, so this is the moment to check whether this client is still there.
    Look,
    /// The end: everything up to this number has been read.
    End { last: u64 },
}

impl Reader {
    fn new(shared: &Arc<Shared>, kept: &Kept, since: Option<u64>, until: Until) -> Reader {
        let next = match since {
            None => kept.first().max((kept.last + 1).saturating_sub(KEPT as u64)),
            // The client's last entry belongs to another journal.
            Some(since) if since > kept.last => 1,
            Some(since) => since + 1,
        };
        Reader { shared: shared.clone(), next, placed: false, until, arrivals: kept.arrivals }
    }

    /// Waits for what is next. After the end there is nothing more.
    pub(crate) fn next(&mut self) -> Next {
        let mut kept = lock(&self.shared.kept);
        loop {
            let missed = kept.first().saturating_sub(self.next);
            self.next += missed;
            if missed > 0 || !self.placed {
                self.placed = true;
                return Next::Position { began: self.shared.began.clone(), next: self.next, missed };
            }
            let is_all = match self.until {
                Until::Number(last) => self.next > last,
                Until::TheEnd => kept.ended && self.next > kept.last,
            };
            if is_all {
                return Next::End { last: self.next - 1 };
            }
            if self.next <= kept.last {
                let (part, next) = kept.part(self.next);
                self.next = next;
                return Next::Entries(part);
            }
            if self.arrivals != kept.arrivals {
                self.arrivals = kept.arrivals;
                return Next::Look;
            }
            kept.awaited = true;
            kept = self.shared.news.wait(kept).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Lets a moment pass in which more may happen, if the reader follows and is up to date.
    pub(crate) fn pause(&self) {
        let kept = lock(&self.shared.kept);
        if self.until == Until::TheEnd && self.next > kept.last {
            drop(self.shared.ended.wait_timeout_while(kept, TOGETHER, |kept| !kept.ended));
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.until == Until::TheEnd {
            let mut kept = lock(&self.shared.kept);
            kept.followers -= 1;
            kept.forget();
        }
    }
}
