//! A program's stderr, on its way through the supervisor: the last lines say why the program failed.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, PipeReader, PipeWriter, Read};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::sync::lock;
use crate::writer::Writer;

/// How many lines are kept.
const KEPT: usize = 10;

/// How many bytes of a line are kept. All lines together take at most about 4 KiB.
const LONGEST: usize = 400;

/// The longest wait for output still in transit from a program that has ended: less than `OVERRUN`, or a stop that
/// kills a program while nobody reads the log would seem to hang.
const REST: Duration = Duration::from_millis(500);

/// Copies a program's stderr to our own, on a thread named `stderr`, and keeps the last lines.
#[derive(Debug)]
pub(super) struct Output {
    kept: Arc<Kept>,
    /// To see whether there is more to read.
    #[cfg(unix)]
    pipe: PipeReader,
}

#[derive(Debug, Default)]
struct Kept {
    tail: Mutex<Tail>,
    changed: Condvar,
}

impl Output {
    /// Also returns the pipe end to which the program writes.
    pub(super) fn new(stderr: Arc<Writer>) -> io::Result<(Output, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        #[cfg(unix)]
        let pipe = reader.try_clone()?;
        let kept = Arc::new(Kept::default());
        let theirs = kept.clone();
        thread::Builder::new().name("stderr".into()).spawn(move || {
            copy(reader, &theirs, &stderr);
            lock(&theirs.tail).is_whole = true;
            theirs.changed.notify_all();
        })?;
        let output = Output {
            kept,
            #[cfg(unix)]
            pipe,
        };
        Ok((output, writer))
    }

    /// Waits briefly until everything that the program has written is passed on; if a reader has stalled, it does not
    /// wait a second time. Other processes may still have the program's stderr open, so the test is that no output is
    /// in transit.
    pub(super) fn settle(&self) {
        let end = Instant::now() + REST;
        let mut tail = lock(&self.kept.tail);
        // The reading thread holds this lock from the read until the tail is updated.
        while !tail.is_whole && !tail.is_stalled && (tail.is_passing_on || !self.is_empty()) {
            let remaining = end.saturating_duration_since(Instant::now());
            tail.is_stalled = remaining.is_zero();
            tail = self.kept.changed.wait_timeout(tail, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Its last lines, once the program has ended.
    pub(super) fn last_lines(&self) -> Vec<String> {
        self.settle();
        self.lines_so_far()
    }

    /// Its last lines so far, without waiting for output in transit.
    pub(super) fn lines_so_far(&self) -> Vec<String> {
        lock(&self.kept.tail).lines()
    }

    #[cfg(unix)]
    fn is_empty(&self) -> bool {
        wait_for_input(&self.pipe, nix::poll::PollTimeout::ZERO).is_ok_and(|readable| !readable)
    }

    /// This cannot be determined. The reader notices only when the last writer has ended.
    #[cfg(windows)]
    fn is_empty(&self) -> bool {
        false
    }
}

/// Whether there is input, or end of file, within this time.
#[cfg(unix)]
fn wait_for_input(pipe: &PipeReader, limit: nix::poll::PollTimeout) -> io::Result<bool> {
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, poll};
    use std::os::fd::AsFd;
    loop {
        match poll(&mut [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)], limit) {
            Ok(readable) => return Ok(readable > 0),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Copies until the last process that can write has ended. While our own stderr is not read, this blocks, and then so
/// does the program, as if it wrote there itself.
fn copy(mut from: PipeReader, kept: &Kept, stderr: &Writer) {
    let mut piece = [0; 8192];
    loop {
        // Do not hold the lock while waiting.
        #[cfg(unix)]
        if wait_for_input(&from, nix::poll::PollTimeout::NONE).is_err() {
            return;
        }
        #[cfg(unix)]
        let mut tail = lock(&kept.tail);
        let read = from.read(&mut piece);
        #[cfg(windows)]
        let mut tail = lock(&kept.tail);
        let piece = match read {
            Ok(0) => return,
            Ok(length) => &piece[..length],
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        tail.add(piece);
        tail.is_passing_on = true;
        drop(tail);
        stderr.pass_on(piece);
        let mut tail = lock(&kept.tail);
        tail.is_passing_on = false;
        tail.is_stalled = false;
        drop(tail);
        kept.changed.notify_all();
    }
}

/// The last lines.
#[derive(Debug, Default)]
struct Tail {
    /// End of file has been read.
    is_whole: bool,
    /// The last piece is being passed on at the moment.
    is_passing_on: bool,
    /// A wait for that timed out, and nothing has changed since.
    is_stalled: bool,
    complete: VecDeque<Vec<u8>>,
    current: Vec<u8>,
}

impl Tail {
    fn add(&mut self, piece: &[u8]) {
        for &byte in piece {
            if byte != b'\n' {
                if self.current.len() < LONGEST {
                    self.current.push(byte);
                }
                continue;
            }
            let line = std::mem::take(&mut self.current);
            if !line.trim_ascii().is_empty() {
                self.complete.push_back(line);
            }
            if self.complete.len() > KEPT {
                self.complete.pop_front();
            }
        }
    }

    fn lines(&self) -> Vec<String> {
        let current = Some(&self.current).filter(|line| !line.is_empty());
        let lines: Vec<_> = self.complete.iter().chain(current).collect();
        let kept = lines.len().saturating_sub(KEPT);
        lines[kept..].iter().map(|line| plain(line)).collect()
    }
}

/// The line without anything that would move the cursor or change the colors of the terminal on which it is read.
fn plain(line: &[u8]) -> String {
    let mut text = String::new();
    let line = String::from_utf8_lossy(line);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\t' => text.push(' '),
            // `ESC [` starts a sequence that ends with its first letter (ECMA-48).
            '\x1b' if letters.as_str().starts_with('[') => _ = letters.find(|letter| letter.is_ascii_alphabetic()),
            letter if letter.is_control() => {}
            letter => text.push(letter),
        }
    }
    text.truncate(text.trim_end().len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_do_nothing_to_a_terminal() {
        let mut tail = Tail::default();
        tail.add(b"\x1b[1;31merror:\x1b[0m\tno \x07memory\r\n\x9b2J\x1b]0;title\x07\n");
        assert_eq!(tail.lines(), ["error: no memory", "\u{fffd}2J]0;title"]);
    }

    #[test]
    fn the_last_lines_are_kept_even_without_a_line_feed() {
        let mut tail = Tail::default();
        for line in 0..20 {
            tail.add(format!("line {line}\r\n").as_bytes());
        }
        tail.add(b"\n");
        tail.add(b"the e");
        tail.add(b"nd");
        let lines = tail.lines();
        assert_eq!(lines.len(), KEPT);
        assert_eq!((lines[0].as_str(), lines[9].as_str()), ("line 11", "the end"));
    }

    #[test]
    fn a_line_without_end_takes_no_room_without_end() {
        let mut tail = Tail::default();
        tail.add(&[b'x'; 100_000]);
        assert_eq!(tail.lines(), ["x".repeat(LONGEST)]);
    }
}
