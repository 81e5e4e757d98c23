//! The last resort (in the film Tron, it fights for the users): ends the process when a stop overruns its deadline
//! because something hangs, or when master control makes no progress.

use std::fmt;
use std::io;
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::exit::Exit;
use crate::journal::Journal;
use crate::log::Level;
use crate::server::deadline::STOOD_STILL;
use crate::text::Seconds;
use crate::writer::LAST_LINES;

/// How far a stop may overrun its deadline.
pub(crate) const OVERRUN: Duration = STOOD_STILL;

/// How long master control may take for one event. It never waits, so it takes only milliseconds.
const HANG: Duration = Duration::from_secs(10);

/// The last part of each of these limits.
const LAST_CHANCE: Duration = Duration::from_secs(1);

/// The watchdog counts the last part in steps of this length. A machine that is too busy to run it in time does not run
/// the threads and processes that it waits for either, so the last part lasts longer there. On Windows a wait ends with
/// the system's clock, every 15.6 ms.
const STEP: Duration = Duration::from_millis(if cfg!(windows) { 15 } else { 2 });

/// How long the last part lasts at most, on a busy machine. Service managers are asked to wait longer.
const LONGEST: Duration = Duration::from_secs(4);

/// A step that takes this long does not count: the whole process stood still, by Ctrl-Z or with the whole machine. No
/// thread had a chance before, so all get the whole last part again.
const STANDSTILL: Duration = Duration::from_millis(500);

/// How often the last part begins again after a standstill.
const STANDSTILLS: usize = 10;

/// Watches on a thread named `watchdog`, as long as a clone of it exists. The thread does not wake up while there is
/// nothing to watch.
#[derive(Debug, Clone)]
pub(crate) struct Watchdog(Arc<Hold>);

/// Ends the watch when it is dropped.
#[derive(Debug)]
struct Hold(Arc<Watch>);

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.change(|watched| watched.over = true);
    }
}

#[derive(Debug)]
struct Watch {
    watched: Mutex<Watched>,
    changed: Condvar,
}

struct Watched {
    stop: Option<(Instant, Arc<WhatHangs>)>,
    /// Events that master control has not handled. It can be negative for a moment: master control may have handled an
    /// event before its sender has counted it.
    open: i64,
    /// When it last handled an event, or got the first of these.
    since: Instant,
    over: bool,
}

type WhatHangs = dyn Fn() -> String + Send + Sync;

/// Why the process has to end.
enum Why {
    Overrun(Arc<WhatHangs>),
    OutOfControl,
}

impl Watchdog {
    /// Starts the watch.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(log: Journal) -> io::Result<Watchdog> {
        Watchdog::start_with(move |why| abort_process(log, why))
    }

    fn start_with(end: impl FnOnce(Why) + Send + 'static) -> io::Result<Watchdog> {
        let watched = Watched { stop: None, open: 0, since: Instant::now(), over: false };
        let watch = Arc::new(Watch { watched: Mutex::new(watched), changed: Condvar::new() });
        let watcher = watch.clone();
        thread::Builder::new().name("watchdog".into()).spawn(move || {
            if let Some(why) = watcher.wait() {
                end(why);
            }
        })?;
        Ok(Watchdog(Arc::new(Hold(watch))))
    }

    /// Ends the process one second after the deadline of a stop, or later on a busy machine, with `what_hangs` as the
    /// reason.
    pub(crate) fn watch_stop(&self, deadline: Instant, what_hangs: impl Fn() -> String + Send + Sync + 'static) {
        self.change(|watched| watched.stop = Some((last_chance(deadline, OVERRUN), Arc::new(what_hangs))));
    }

    /// The deadline of the stop has moved.
    pub(crate) fn deadline_moved(&self, deadline: Instant) {
        self.change(|watched| {
            if let Some((end, _)) = &mut watched.stop {
                *end = last_chance(deadline, OVERRUN);
            }
        });
    }

    /// Master control has an event to handle.
    pub(crate) fn event_queued(&self) {
        self.change(|watched| {
            if watched.open <= 0 {
                watched.since = Instant::now();
            }
            watched.open += 1;
        });
    }

    /// Master control has handled an event.
    pub(crate) fn event_done(&self) {
        self.change(|watched| {
            watched.since = Instant::now();
            watched.open -= 1;
        });
    }

    /// Ends the watch.
    pub(crate) fn off(&self) {
        self.change(|watched| watched.over = true);
    }

    fn change(&self, change: impl FnOnce(&mut Watched)) {
        self.0.0.change(change);
    }
}

impl Watched {
    /// When the last chance begins.
    fn end(&self) -> Option<Instant> {
        let stop = self.stop.as_ref().map(|(end, _)| *end);
        let master = (self.open > 0).then(|| last_chance(self.since, HANG));
        [stop, master].into_iter().flatten().min()
    }
}

/// When the last part of a limit begins.
fn last_chance(from: Instant, limit: Duration) -> Instant {
    from + limit - LAST_CHANCE
}

impl Watch {
    /// Waits until the process has to end. None: the watch is over.
    fn wait(&self) -> Option<Why> {
        let mut watched = self.lock();
        loop {
            if watched.over {
                return None;
            }
            let Some(end) = watched.end() else {
                watched = self.changed.wait(watched).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let now = Instant::now();
            if now < end {
                watched = self.changed.wait_timeout(watched, end - now).unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            watched = self.wait_for_last_chance(watched, end);
            if !watched.over && watched.end() == Some(end) {
                return Some(match &watched.stop {
                    Some((stop, what_hangs)) if *stop == end => Why::Overrun(what_hangs.clone()),
                    Some(_) | None => Why::OutOfControl,
                });
            }
        }
    }

    /// Waits for the last part of the limit that ends then, or until something changes.
    fn wait_for_last_chance<'a>(&self, mut watched: MutexGuard<'a, Watched>, end: Instant) -> MutexGuard<'a, Watched> {
        let unchanged = |watched: &mut Watched| !watched.over && watched.end() == Some(end);
        for _ in 0..=STANDSTILLS {
            let (began, mut left) = (Instant::now(), LAST_CHANCE);
            loop {
                if left.is_zero() || began.elapsed() > LONGEST || !unchanged(&mut watched) {
                    return watched;
                }
                let step = Instant::now();
                let waited = self.changed.wait_timeout_while(watched, STEP, unchanged);
                watched = waited.unwrap_or_else(PoisonError::into_inner).0;
                if step.elapsed() > STANDSTILL {
                    break;
                }
                left = left.saturating_sub(STEP);
            }
        }
        watched
    }

    fn change(&self, change: impl FnOnce(&mut Watched)) {
        let mut watched = self.lock();
        let before = watched.end();
        change(&mut watched);
        // A later end is noticed when the earlier one is reached. Without any end, the thread must stop its timed wait.
        let end = watched.end();
        let matters = watched.over || end.is_none() || end < before || before.is_none();
        // Before the thread wakes up, because it would wait for the lock.
        drop(watched);
        if matters {
            self.changed.notify_all();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        // Each change is a few assignments that cannot panic.
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Watched").field("open", &self.open).finish_non_exhaustive()
    }
}

/// Ends the process, because master control has panicked.
pub(crate) fn end_after_panic(log: Journal, message: &str) -> ! {
    let message = format!("master control panicked, so the process ends, with all connections: {message}");
    log_and_exit(Exit::OutOfControl, log, move |log| log.line(Level::Error, "out_of_control", message, []))
}

fn abort_process(log: Journal, why: Why) {
    match why {
        Why::Overrun(what_hangs) => log_and_exit(Exit::Overrun, log, move |log| {
            let hung = what_hangs();
            let message =
                format!("the stop overran its deadline by more than {}, so the process ends: {hung}", Seconds(OVERRUN));
            log.line(Level::Error, "overrun", message, [("hung", hung.into())]);
        }),
        Why::OutOfControl => log_and_exit(Exit::OutOfControl, log, move |log| {
            let message = format!(
                "master control has been stuck for more than {}, so the process ends, with all connections: it can no longer be \
                 controlled",
                Seconds(HANG)
            );
            log.line(Level::Error, "out_of_control", message, []);
        }),
    }
}

/// Finding out what hangs may itself hang, and so may the log's reader. Together they get [`LAST_LINES`].
fn log_and_exit(exit: Exit, log: Journal, speak: impl FnOnce(&Journal) + Send + 'static) -> ! {
    let end = Instant::now() + LAST_LINES;
    let (said, done) = mpsc::channel::<()>();
    let journal = log.clone();
    let _ = thread::Builder::new().name("last-words".into()).spawn(move || {
        speak(&journal);
        drop(said);
    });
    let _ = done.recv_timeout(LAST_LINES);
    log.flush_until(end);
    std::process::exit(exit as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A watchdog that tells the test instead of ending the process.
    fn watchdog() -> (Watchdog, mpsc::Receiver<Why>) {
        let (tell, told) = mpsc::channel();
        (Watchdog::start_with(move |why| tell.send(why).unwrap()).unwrap(), told)
    }

    fn ago(time: Duration) -> Instant {
        Instant::now().checked_sub(time).unwrap()
    }

    #[test]
    fn a_stop_that_overruns_ends_the_process_and_one_that_was_cancelled_does_not() {
        let (watchdog, told) = watchdog();
        watchdog.watch_stop(ago(OVERRUN), || "a handler".into());
        assert!(matches!(told.recv().unwrap(), Why::Overrun(hangs) if hangs() == "a handler"));

        let (watchdog, told) = self::watchdog();
        watchdog.watch_stop(Instant::now() + HANG, || "nothing".into());
        watchdog.off();
        assert!(told.recv().is_err());
    }

    #[test]
    fn a_deadline_that_moves_is_watched_where_it_is() {
        let (watchdog, told) = watchdog();
        watchdog.watch_stop(Instant::now() + Duration::from_secs(600), || "a handler".into());
        watchdog.deadline_moved(ago(OVERRUN));
        assert!(matches!(told.recv().unwrap(), Why::Overrun(_)));
    }

    #[test]
    fn an_event_that_nobody_deals_with_ends_the_process() {
        let (watchdog, told) = watchdog();
        // Some are handled, and one is not.
        watchdog.event_queued();
        watchdog.event_queued();
        watchdog.event_done();
        watchdog.change(|watched| watched.since = ago(HANG));
        assert!(matches!(told.recv().unwrap(), Why::OutOfControl));
    }

    #[test]
    fn nothing_is_watched_after_an_event_that_was_dealt_with_before_it_was_said_to_come() {
        let (watchdog, _told) = watchdog();
        watchdog.event_done();
        watchdog.event_queued();
        assert_eq!(watchdog.0.0.lock().end(), None);
    }

    #[test]
    fn after_a_limit_there_is_a_last_chance() {
        let (watchdog, told) = watchdog();
        watchdog.event_queued();
        // As if the process had stood still since then.
        watchdog.change(|watched| watched.since = ago(HANG));
        watchdog.event_done();
        watchdog.watch_stop(ago(OVERRUN), || "a handler".into());
        watchdog.deadline_moved(Instant::now() + HANG);
        watchdog.off();
        assert!(told.recv().is_err());
    }
}
