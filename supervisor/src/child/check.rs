//! Whether a program that serves still does: a thread that asks it again and again, or hears that it says so.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::probe::{Outcome, Probe};
#[cfg(unix)]
use crate::text::Seconds;

/// How to find out whether a program still works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What shows that.
    pub how: CheckKind,
    /// How often.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// After so many failures in a row it does not work.
    pub failures: u32,
}

/// What shows that a program still works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// It says `WATCHDOG=1` on the socket that `NOTIFY_SOCKET` names.
    #[cfg(unix)]
    Notify,
    /// It answers this.
    Probe(Probe),
}

/// As the command line has it.
impl fmt::Display for CheckKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(unix)]
            CheckKind::Notify => write!(formatter, "notify"),
            CheckKind::Probe(probe) => write!(formatter, "{probe}"),
        }
    }
}

/// What a program says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(windows, allow(dead_code))]
pub(super) enum Beat {
    /// `WATCHDOG=1`
    Works,
    /// `WATCHDOG=trigger`
    Fails,
}

/// Checks until the program ends or is to end, which disconnects `beats`. `failed` hears why it does not work, and then
/// again, if it still does not.
pub(super) fn run(
    check: &Check,
    beats: &Receiver<Beat>,
    ask: impl Fn(&Probe, Duration) -> Outcome,
    failed: impl Fn(String),
) {
    match &check.how {
        #[cfg(unix)]
        CheckKind::Notify => listen(check, beats, failed),
        CheckKind::Probe(probe) => ask_again_and_again(check, beats, || ask(probe, check.timeout), failed),
    }
}

#[cfg(unix)]
fn listen(check: &Check, beats: &Receiver<Beat>, failed: impl Fn(String)) {
    let longest = check.every.saturating_mul(check.failures);
    loop {
        match beats.recv_timeout(longest) {
            Ok(Beat::Works) => {}
            Ok(Beat::Fails) => failed("check notify failed: it sent WATCHDOG=trigger".into()),
            Err(RecvTimeoutError::Timeout) => {
                failed(format!("check notify failed: no WATCHDOG=1 for {}", Seconds(longest)));
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn ask_again_and_again(check: &Check, beats: &Receiver<Beat>, ask: impl Fn() -> Outcome, failed: impl Fn(String)) {
    let mut in_a_row = 0;
    let mut next = Instant::now() + check.every;
    loop {
        match beats.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(_) => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Not later because of an answer that takes long; but never without a pause.
        next = Instant::now() + check.every;
        match ask() {
            Outcome::Answered(_) => in_a_row = 0,
            // Nothing is known of this one.
            Outcome::OfAnother => {}
            Outcome::Failed(reason) => {
                in_a_row += 1;
                if in_a_row >= check.failures {
                    let times = match in_a_row {
                        1 => String::new(),
                        times => format!(" {times} times in a row"),
                    };
                    failed(format!("check {} failed{times}: {reason}", check.how));
                    in_a_row = 0;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::RefCell;
    use std::sync::mpsc;

    /// The reasons that a check has given when a program has answered so.
    fn reasons(failures: u32, answers: &[Outcome]) -> Vec<String> {
        let check = Check {
            how: CheckKind::Probe(Probe::Http("http://a/".parse().unwrap())),
            every: Duration::from_millis(1),
            timeout: Duration::from_secs(1),
            failures,
        };
        let (works, beats) = mpsc::channel();
        let works = RefCell::new(Some(works));
        let answers = RefCell::new(answers.iter());
        let reasons = RefCell::new(Vec::new());
        let ask = |_: &Probe, _: Duration| {
            answers.borrow_mut().next().cloned().unwrap_or_else(|| {
                works.take();
                Outcome::OfAnother
            })
        };
        run(&check, &beats, ask, |reason| reasons.borrow_mut().push(reason));
        reasons.into_inner()
    }

    #[test]
    fn a_check_fails_after_so_many_failures_in_a_row() {
        let fails = || Outcome::Failed("it answers 503".into());
        let works = || Outcome::Answered(String::new());
        let reason = "check http=http://a/ failed 2 times in a row: it answers 503";
        for (answers, times) in [
            (&[fails(), works(), fails(), works()][..], 0),
            (&[fails(), fails()], 1),
            (&[fails(), Outcome::OfAnother, fails()], 1),
            (&[fails(), fails(), fails(), works(), fails()], 1),
            (&[fails(), fails(), fails(), fails()], 2),
        ] {
            assert_eq!(reasons(2, answers), vec![reason; times], "{answers:?}");
        }
        assert_eq!(reasons(1, &[fails()]), ["check http=http://a/ failed: it answers 503"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_program_that_sends_nothing_more_does_not_work() {
        let every = Duration::from_millis(50);
        let check = Check { how: CheckKind::Notify, every, timeout: every, failures: 2 };
        let (says, beats) = mpsc::channel();
        for beat in [Beat::Works, Beat::Fails, Beat::Works] {
            says.send(beat).unwrap();
        }
        let says = RefCell::new(Some(says));
        let reasons = RefCell::new(Vec::new());
        let failed = |reason: String| {
            let mut reasons = reasons.borrow_mut();
            reasons.push(reason);
            if reasons.len() == 2 {
                says.take();
            }
        };
        run(&check, &beats, |_, _| Outcome::OfAnother, failed);
        let expected = ["it sent WATCHDOG=trigger", "no WATCHDOG=1 for 100 ms"];
        assert_eq!(reasons.into_inner(), expected.map(|reason| format!("check notify failed: {reason}")));
    }
}
