//! How long tests wait, and what ends one that hangs.

use std::io::{self, Write};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

/// A grace period longer than any test can wait for: the watchdog ends a stop that takes all of it.
pub const HUGE: Duration = Duration::from_secs(600);

/// How long anything that should happen at once may take on a busy machine.
pub const LIMIT: Duration = Duration::from_secs(45);

/// Ends the whole run and names the test if a test takes too long: a hanging test says nothing by itself.
pub struct Watchdog {
    _alive: Sender<()>,
}

impl Watchdog {
    pub fn start() -> Watchdog {
        let (alive, ended) = mpsc::channel::<()>();
        let test = thread::current().name().unwrap_or("?").to_owned();
        thread::spawn(move || {
            if ended.recv_timeout(Duration::from_secs(60)) == Err(RecvTimeoutError::Timeout) {
                let _ = writeln!(io::stderr(), "watchdog: {test} hangs");
                std::process::abort();
            }
        });
        Watchdog { _alive: alive }
    }
}

/// Waits until a condition holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never came true: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
