//! The one thread that writes lines to stderr, or into a log file. Other threads queue their lines and continue: only
//! this thread waits for a stalled reader, or for a disk.

mod sink;

use std::fmt;
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::lock;
pub(crate) use sink::{LogFile, Sink};

/// The size of the queue, in bytes. A line that does not fit is lost.
const ROOM: usize = 1024 * 1024;

/// How much of that programs can fill with what they write to stderr. After that they wait, as for any pipe.
const ROOM_FOR_PROGRAMS: usize = 64 * 1024;

/// This much goes into a pipe that has room, without waiting.
const PIECE: usize = 512;

/// How long the end of the process waits in total for everything that is not written yet.
pub(crate) const LAST_LINES: Duration = Duration::from_millis(200);

/// How long a thread of a busy machine may take until it runs.
#[cfg(windows)]
const LATE: Duration = Duration::from_secs(5);

/// Writes lines in the order in which they arrive, on a thread named `log`. The thread starts with the first line, and
/// ends when the writer is dropped and everything is written.
pub(crate) struct Writer(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// There is something to write, or no more will come.
    filled: Condvar,
    /// Something was written, or cannot be.
    emptied: Condvar,
    /// Locked only by a thread that counts as writing, or with the queue while there is none: so nobody waits for it.
    sink: Mutex<Sink>,
    on_room: Box<dyn Fn() + Send + Sync>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<u8>,
    /// How many threads are still writing what they took out of the queue, or wait for room to do so.
    writing: usize,
    has_thread: bool,
    /// How many lines were lost since a line last reported how many.
    lost: usize,
    /// Lines are lost until a line has reported how many.
    full: bool,
    /// The last write failed.
    failing: bool,
    /// A flush has waited in vain for what is being written.
    stalled: bool,
    /// The writer was dropped.
    over: bool,
}

impl Writer {
    /// `on_room` is called on the thread when lines were lost and there is room again: the moment to call
    /// [`Writer::take_lost`].
    pub(crate) fn new(sink: Sink, on_room: impl Fn() + Send + Sync + 'static) -> Writer {
        Writer(Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            emptied: Condvar::new(),
            sink: Mutex::new(sink),
            on_room: Box::new(on_room),
        }))
    }

    /// Queues a line without waiting. If there is no room for it, it is lost, and counted.
    pub(crate) fn line(&self, line: &str) {
        let mut queue = self.0.queue();
        queue.full |= queue.waiting.len() + line.len() > ROOM;
        if queue.full {
            queue.lost += 1;
        } else {
            queue.waiting.extend_from_slice(line.as_bytes());
            self.0.wake_thread(&mut queue);
        }
    }

    /// How many lines were lost, if there is room again for a line that reports it. That has to be the next line.
    pub(crate) fn take_lost(&self) -> usize {
        let mut queue = self.0.queue();
        if !queue.has_room_again() {
            return 0;
        }
        queue.full = false;
        mem::take(&mut queue.lost)
    }

    /// Queues something that a program has written. Waits for room.
    pub(crate) fn pass_on(&self, piece: &[u8]) {
        let mut queue = self.0.queue();
        while queue.waiting.len() > ROOM_FOR_PROGRAMS {
            queue = self.0.wait_for_progress(queue, None);
        }
        queue.waiting.extend_from_slice(piece);
        self.0.wake_thread(&mut queue);
    }

    /// Waits until everything is written, but at most until `end`, and not again for a reader that has stalled.
    pub(crate) fn flush(&self, end: Instant) {
        let mut queue = self.0.queue();
        while !queue.stalled && (queue.writing > 0 || !queue.waiting.is_empty()) {
            if Instant::now() >= end {
                queue = self.0.write_at_once(queue);
                queue.stalled = queue.writing > 0 || !queue.waiting.is_empty();
                return;
            }
            queue = self.0.wait_for_progress(queue, Some(end));
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.0.queue().over = true;
        self.0.filled.notify_one();
    }
}

impl fmt::Debug for Writer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Writer").field(&self.0.queue).finish()
    }
}

impl Queue {
    fn has_room_again(&self) -> bool {
        self.lost > 0 && !self.failing && self.waiting.len() <= ROOM / 2
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        lock(&self.queue)
    }

    /// Starts or wakes the thread. If the system gives no thread now, the next caller tries again.
    fn wake_thread(self: &Arc<Self>, queue: &mut Queue) {
        if !queue.has_thread {
            let shared = self.clone();
            let thread = thread::Builder::new().name("log".into()).spawn(move || shared.run());
            queue.has_thread = thread.is_ok();
        }
        self.filled.notify_one();
    }

    /// Waits until something was written, or until `end`.
    fn wait_for_progress<'a>(
        self: &'a Arc<Self>,
        mut queue: MutexGuard<'a, Queue>,
        end: Option<Instant>,
    ) -> MutexGuard<'a, Queue> {
        self.wake_thread(&mut queue);
        match end.map(|end| end.saturating_duration_since(Instant::now())) {
            // No other thread could write.
            Some(left) if !queue.has_thread && queue.writing == 0 => self.write_within(left, queue),
            None if !queue.has_thread && queue.writing == 0 => self.write(queue, usize::MAX),
            None => self.emptied.wait(queue).unwrap_or_else(PoisonError::into_inner),
            Some(left) => self.emptied.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0,
        }
    }

    /// Runs on the thread `log`.
    fn run(&self) {
        #[cfg(unix)]
        outlive_the_terminal();
        let mut queue = self.queue();
        loop {
            // What another thread is writing comes before the rest.
            let idle = |queue: &mut Queue| queue.writing > 0 || queue.waiting.is_empty() && !queue.over;
            queue = self.filled.wait_while(queue, idle).unwrap_or_else(PoisonError::into_inner);
            if queue.waiting.is_empty() {
                return;
            }
            queue = self.write(queue, usize::MAX);
            if queue.has_room_again() {
                drop(queue);
                (self.on_room)();
                queue = self.queue();
            }
        }
    }

    /// Writes a small part of the queue, if there is room for it within the limit. Meanwhile no other thread begins to
    /// write: it would have the sink for as long as a reader stalls.
    fn write_within<'a>(&'a self, limit: Duration, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        queue.writing += 1;
        drop(queue);
        let has_room = lock(&self.sink).has_room_within(limit);
        let mut queue = self.queue();
        queue.writing -= 1;
        if has_room {
            return self.write(queue, PIECE);
        }
        self.emptied.notify_all();
        self.filled.notify_all();
        queue
    }

    /// Writes the queue as far as there is room, in case the thread is late: on a busy machine that may take long.
    #[cfg(unix)]
    fn write_at_once<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        while queue.writing == 0 && !queue.waiting.is_empty() && lock(&self.sink).has_room_within(Duration::ZERO) {
            queue = self.write(queue, PIECE);
        }
        queue
    }

    /// Waits for the thread, in case it is late, and then once more for its reader. Windows does not tell whether there
    /// is room, so no other thread may write.
    #[cfg(windows)]
    fn write_at_once<'a>(self: &'a Arc<Self>, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        let late = Instant::now() + LATE;
        while queue.has_thread && queue.writing == 0 && !queue.waiting.is_empty() && Instant::now() < late {
            queue = self.wait_for_progress(queue, Some(late));
        }
        let end = Instant::now() + LAST_LINES;
        while queue.writing > 0 && Instant::now() < end {
            queue = self.wait_for_progress(queue, Some(end));
        }
        queue
    }

    /// Writes at most this much of the queue.
    fn write<'a>(&'a self, mut queue: MutexGuard<'a, Queue>, most: usize) -> MutexGuard<'a, Queue> {
        let length = most.min(queue.waiting.len());
        let rest = queue.waiting.split_off(length);
        let lines = mem::replace(&mut queue.waiting, rest);
        queue.writing += 1;
        drop(queue);
        // Programs wait for room, and now there is some.
        self.emptied.notify_all();
        let lost = lock(&self.sink).write(&lines);
        let mut queue = self.queue();
        queue.writing -= 1;
        queue.stalled = false;
        queue.failing = lost > 0;
        queue.lost += lost;
        // Otherwise lines would be lost for lack of room, and none would ever find out that writing works again.
        queue.full &= !queue.failing;
        self.emptied.notify_all();
        self.filled.notify_all();
        queue
    }
}

/// A terminal can be set to suspend a background process that writes to it, and with it the server. The thread that
/// writes ignores that.
#[cfg(unix)]
fn outlive_the_terminal() {
    use nix::sys::signal::{SigSet, Signal};
    // It fails only for an invalid signal.
    let _ = SigSet::from(Signal::SIGTTOU).thread_block();
}

#[cfg(all(test, unix))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;
    use std::io::{BufRead, BufReader, Read};
    use std::os::fd::AsFd;
    use std::path::{Path, PathBuf};
    use std::sync::mpsc;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;
    use crate::journal::Journal;
    use crate::log::{Level, Log};

    /// A named pipe, in place of a log file.
    struct Pipe {
        path: PathBuf,
        reader: File,
    }

    impl Pipe {
        fn new(test: &str) -> Pipe {
            let path = std::env::temp_dir().join(format!("mastercontrol-{}-{test}", std::process::id()));
            let _ = std::fs::remove_file(&path);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
            // Opened for both directions, so that nothing waits for the other end.
            let reader = File::options().read(true).write(true).open(&path).unwrap();
            Pipe { path, reader }
        }

        /// Reads line by line.
        fn lines(&self) -> impl Iterator<Item = String> {
            BufReader::new(self.reader.try_clone().unwrap()).lines().map(Result::unwrap)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    fn writer(path: &Path) -> Writer {
        Writer::new(Sink::file(LogFile::open(path.to_owned()).unwrap()), || {})
    }

    fn number(entry: &serde_json::Value, field: &str) -> u64 {
        entry[field].as_u64().unwrap_or_else(|| panic!("no {field} in {entry}"))
    }

    #[test]
    fn no_line_waits_for_a_reader_and_the_log_says_where_lines_were_lost_and_how_many() {
        const LINES: u64 = 20_000;
        let pipe = Pipe::new("lost");
        let journal = Journal::in_file(Log::json(), &pipe.path).unwrap();
        // More than there is room for. If one of them waited, this would never end.
        for number in 1..=LINES {
            journal.line(
                Level::Info,
                "test",
                "a line of some length, as they are".repeat(3),
                [("number", number.into())],
            );
        }
        let (mut last, mut gaps, mut lost) = (0, 0, 0);
        for line in pipe.lines() {
            let entry: serde_json::Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            if entry["event"] == "log_lines_lost" {
                gaps += 1;
                lost += number(&entry, "lost");
                last += number(&entry, "lost");
            }
            last += 1;
            assert_eq!(number(&entry, "seq"), last);
            // Nothing else happens, and all lines are accounted for.
            if last == LINES + gaps {
                break;
            }
        }
        assert!((1..LINES).contains(&lost), "{lost} lines were lost");
        journal.line(Level::Info, "test", "the next one", []);
        assert!(pipe.lines().next().unwrap().contains("the next one"));
    }

    #[test]
    fn a_program_that_nobody_reads_waits_and_leaves_room_for_lines() {
        const LINE: &str = "a line of the log\n";
        let pipe = Pipe::new("program");
        let writer = Arc::new(writer(&pipe.path));
        let (tell, told) = mpsc::channel();
        let program = writer.clone();
        thread::spawn(move || {
            for _ in 0..100 {
                program.pass_on(&[b'x'; 8192]);
                tell.send(()).unwrap();
            }
        });
        let goes_on = |limit| told.recv_timeout(limit).is_ok();
        while goes_on(Duration::from_millis(300)) {}
        (0..1000).for_each(|_| writer.line(LINE));
        assert_eq!(writer.0.queue().lost, 0);
        let all = 100 * 8192 + 1000 * LINE.len();
        let mut read = vec![0; all];
        (&pipe.reader).read_exact(&mut read).unwrap();
        let text = String::from_utf8(read).unwrap();
        assert_eq!(text.matches(LINE).count(), 1000, "a line was cut");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted_and_a_line_that_was_cut_is_ended() {
        let path = std::env::temp_dir().join(format!("mastercontrol-{}-full", std::process::id()));
        let writer = writer(Path::new("/dev/full"));
        let end = || Instant::now() + Duration::from_secs(60);
        for _ in 0..3 {
            writer.line("no room for this\n");
            writer.flush(end());
        }
        // As long as nothing can be written, no loss is reported.
        assert_eq!((writer.take_lost(), writer.0.queue().lost), (0, 3));
        let mut sink = Sink::file(LogFile::open(path.clone()).unwrap());
        sink.write(b"half a li");
        sink.tear();
        *writer.0.sink.lock().unwrap() = sink;
        writer.line("room again\n");
        writer.flush(end());
        assert_eq!((writer.take_lost(), writer.take_lost()), (3, 0));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half a li\nroom again\n");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn the_end_waits_for_a_reader_that_is_slow_and_not_for_one_that_has_stalled() {
        let pipe = Pipe::new("flush");
        let writer = writer(&pipe.path);
        writer.pass_on(&vec![b'x'; 1024 * 1024]);
        writer.flush(Instant::now() + Duration::from_millis(50));
        assert!(writer.0.queue().stalled);
        // This would take that long if it waited.
        writer.flush(Instant::now() + Duration::from_secs(100_000));
        let mut reader = pipe.reader.try_clone().unwrap();
        thread::spawn(move || reader.read_exact(&mut vec![0; 1024 * 1024]));
        while writer.0.queue().stalled {
            thread::yield_now();
        }
        writer.flush(Instant::now() + Duration::from_secs(60));
        assert_eq!(writer.0.queue().writing, 0);
    }

    #[test]
    fn the_end_writes_itself_what_the_thread_has_not_come_to() {
        let pipe = Pipe::new("late");
        let writer = writer(&pipe.path);
        // There is a thread, but it does not get its turn.
        writer.0.queue().has_thread = true;
        writer.line("why it has ended\n");
        writer.flush(Instant::now() + Duration::from_millis(50));
        assert_eq!(writer.0.queue().waiting, b"");
        assert_eq!(pipe.lines().next().unwrap(), "why it has ended");
    }

    /// Whether this process gets no threads: no system has that much room for a stack. If it does, runs the test in a
    /// process that gets none.
    fn is_threadless() -> bool {
        const CHILD: &str = "MASTERCONTROL_TEST_NO_THREADS";
        if std::env::var_os(CHILD).is_some() {
            // Ends the process if the test hangs.
            nix::unistd::alarm::set(60);
            return true;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", thread::current().name().unwrap(), "--nocapture", "--test-threads", "1"])
            .envs([(CHILD, "1"), ("RUST_MIN_STACK", "1000000000000000000")])
            .output()
            .unwrap();
        let text = format!("{}{:?}", String::from_utf8_lossy(&output.stdout), output);
        assert!(output.status.success() && text.contains("1 passed"), "{text}");
        false
    }

    #[test]
    fn without_a_thread_the_end_writes_itself_and_does_not_wait_for_a_reader_that_has_stalled() {
        if !is_threadless() {
            return;
        }
        let pipe = Pipe::new("threadless");
        let writer = writer(&pipe.path);
        let line = format!("{}\n", "x".repeat(10_000));
        writer.line(&line);
        writer.flush(Instant::now() + Duration::from_secs(50));
        assert!(!writer.0.queue().has_thread);
        let mut read = vec![0; line.len()];
        (&pipe.reader).read_exact(&mut read).unwrap();
        assert_eq!(read, line.as_bytes());
        writer.line(&line.repeat(100));
        writer.flush(Instant::now() + Duration::from_millis(50));
        assert!(writer.0.queue().stalled);
    }

    /// The threads of the test ask for a smaller stack.
    #[test]
    fn without_a_thread_no_other_thread_begins_to_write_while_the_end_waits_for_room() {
        if !is_threadless() {
            return;
        }
        let pipe = Pipe::new("alone");
        let writer = Arc::new(writer(&pipe.path));
        // More than the pipe holds, and so much that a program has to wait.
        writer.line(&format!("{}\n", "x".repeat(ROOM - 1)));
        let small = || thread::Builder::new().stack_size(1024 * 1024);
        let (ending, program) = (writer.clone(), writer.clone());
        let end = small().spawn(move || ending.flush(Instant::now() + Duration::from_secs(50))).unwrap();
        // Until the pipe is full, it writes one part after the other.
        let has_room = || poll(&mut [PollFd::new(pipe.reader.as_fd(), PollFlags::POLLOUT)], PollTimeout::ZERO) != Ok(0);
        while has_room() || writer.0.queue().writing == 0 {
            assert!(!end.is_finished(), "no thread counted as writing");
            thread::yield_now();
        }
        let program = small().spawn(move || program.pass_on(b"the program")).unwrap();
        let mut read = vec![0; ROOM];
        (&pipe.reader).read_exact(&mut read).unwrap();
        end.join().unwrap();
        program.join().unwrap();
        writer.flush(Instant::now() + Duration::from_secs(50));
        let mut read = [0; 11];
        (&pipe.reader).read_exact(&mut read).unwrap();
        assert_eq!(&read, b"the program");
    }

    #[test]
    fn what_was_left_to_it_is_written_though_nobody_has_it_any_more() {
        let pipe = Pipe::new("dropped");
        let writer = writer(&pipe.path);
        (0..10_000).for_each(|number| writer.line(&format!("{number}\n")));
        drop(writer);
        assert!(pipe.lines().take(10_000).eq((0..10_000).map(|number| number.to_string())));
    }
}
