//! What a program writes to stderr, on its way through the supervisor: the last lines say why it was not ready.

use std::collections::VecDeque;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use crate::writer::Writer;

/// How many lines are kept.
const KEPT: usize = 10;

/// How much of a line is kept.
const LONGEST: usize = 500;

/// How long to wait for what is still on its way from a program that has ended.
const REST: Duration = Duration::from_secs(1);

/// Copies what a program writes to our own stderr, on a thread named `stderr`, and keeps its last lines.
#[derive(Debug)]
pub(super) struct Output {
    tail: Arc<Mutex<Tail>>,
    /// Disconnected at the end of it.
    end: Receiver<()>,
}

impl Output {
    /// Returns where the program shall write, too.
    pub(super) fn new(stderr: Arc<Writer>) -> io::Result<(Output, PipeWriter)> {
        let (reader, writer) = io::pipe()?;
        let tail = Arc::new(Mutex::new(Tail::default()));
        let (until, end) = mpsc::channel::<()>();
        let keeper = tail.clone();
        thread::Builder::new().name("stderr".into()).spawn(move || {
            let _until = until;
            copy(reader, &keeper, &stderr);
        })?;
        Ok((Output { tail, end }, writer))
    }

    /// Its last lines, when the program is gone.
    pub(super) fn last_lines(&self) -> Vec<String> {
        // A program that is gone writes no more; but somebody may have its stderr who is none of its family.
        let _ = self.end.recv_timeout(REST);
        self.tail.lock().unwrap_or_else(PoisonError::into_inner).lines()
    }
}

/// Until the last of those who can write has gone. When nobody reads our own stderr, this waits, and then the program
/// does, as if it wrote there itself.
fn copy(mut from: PipeReader, tail: &Mutex<Tail>, stderr: &Writer) {
    let mut piece = [0; 8192];
    loop {
        let piece = match from.read(&mut piece) {
            Ok(0) => return,
            Ok(length) => &piece[..length],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(_) => return,
        };
        tail.lock().unwrap_or_else(PoisonError::into_inner).add(piece);
        stderr.pass_on(piece);
    }
}

/// The last lines.
#[derive(Debug, Default)]
struct Tail {
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
        lines[kept..].iter().map(|line| String::from_utf8_lossy(line).trim_end().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
