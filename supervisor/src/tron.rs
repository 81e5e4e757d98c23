//! The last resort: ends the process when a stop overruns its deadline because something hangs.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::exit::Exit;
use crate::log::{Level, Log};

/// How far a stop may overrun its deadline.
pub(crate) const OVERRUN: Duration = Duration::from_secs(1);

/// Who wakes up that much after the time has been suspended meanwhile, by Ctrl-Z or with the whole machine.
const LATE: Duration = Duration::from_millis(500);

/// How long the last words may take. Whoever reads stderr may hang, too.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Watches over one stop, on a thread named `tron`. Dropping it calls the watch off.
#[derive(Debug)]
pub(crate) struct Tron(Sender<Instant>);

impl Tron {
    /// Ends the process one second after the deadline, and says with `what_hangs` why.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn watch(
        log: Log,
        deadline: Instant,
        what_hangs: impl Fn() -> String + Send + 'static,
    ) -> std::io::Result<Tron> {
        let (moved, deadlines) = mpsc::channel();
        thread::Builder::new().name("tron".into()).spawn(move || {
            let mut end = deadline + OVERRUN;
            loop {
                match deadlines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    Ok(deadline) => end = deadline + OVERRUN,
                    Err(RecvTimeoutError::Disconnected) => return,
                    // The whole process stood still, and has to have its second now.
                    Err(RecvTimeoutError::Timeout) if end.elapsed() > LATE => end = Instant::now() + OVERRUN,
                    Err(RecvTimeoutError::Timeout) => derez(log, what_hangs),
                }
            }
        })?;
        Ok(Tron(moved))
    }

    /// The deadline has moved.
    pub(crate) fn deadline_moved(&self, deadline: Instant) {
        // The watch ends only with the process, or when it is called off.
        let _ = self.0.send(deadline);
    }
}

fn derez(log: Log, what_hangs: impl Fn() -> String + Send + 'static) -> ! {
    let (said, done) = mpsc::channel::<()>();
    let _ = thread::Builder::new().name("last-words".into()).spawn(move || {
        let hung = what_hangs();
        let message = format!("the stop overran its deadline by {OVERRUN:?}, so the process ends: {hung}");
        log.line(Level::Error, "overrun", message, [("hung", hung.into())]);
        drop(said);
    });
    let _ = done.recv_timeout(LAST_WORDS);
    std::process::exit(Exit::Overrun as i32)
}
