//! Whether a serving program still works: a thread that probes it again and again, or waits for its messages.

use std::fmt;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use worker::deadline_after;

use super::probe::{Outcome, Probe};
#[cfg(unix)]
use crate::text::Seconds;

/// How to find out whether a program still works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What shows that it works.
    pub how: CheckKind,
    /// The interval.
    pub every: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// The number of failures in a row after which it counts as not working.
    pub failures: u32,
}

/// What shows that a program still works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckKind {
    /// It sends `WATCHDOG=1` to the socket in `NOTIFY_SOCKET`.
    #[cfg(unix)]
    Notify,
    /// It answers this probe.
    Probe(Probe),
}

impl CheckKind {
    /// The same for a program with this private port.
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    pub(super) fn at_port(&self, port: u16) -> CheckKind {
        match self {
            CheckKind::Probe(probe) => CheckKind::Probe(probe.at_port(port)),
            #[cfg(unix)]
            CheckKind::Notify => CheckKind::Notify,
        }
    }
}

/// As written on the command line.
impl fmt::Display for CheckKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            #[cfg(unix)]
            CheckKind::Notify => write!(formatter, "notify"),
            CheckKind::Probe(probe) => write!(formatter, "{probe}"),
        }
    }
}

/// What a program says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(windows, allow(dead_code))]
pub(super) enum Beat {
    /// `WATCHDOG=1`
    Works,
    /// `WATCHDOG=trigger`
    Fails,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shown {
    /// The program works.
    Works,
    /// It does not, for this reason.
    Fails(String),
}

/// Checks until the program ends or has to end, which disconnects `beats`. `heard` is called for each good answer, and
/// whenever there are as many failures in a row as the check allows. A program on `probation` is probed more often
/// until its first answer: often enough to fail within that time.
pub(super) fn run(
    check: &Check,
    probation: Duration,
    beats: &Receiver<Beat>,
    ask: impl Fn(&Probe, Duration) -> Outcome,
    heard: impl Fn(Shown),
) {
    match &check.how {
        #[cfg(unix)]
        CheckKind::Notify => listen(check, beats, heard),
        CheckKind::Probe(probe) => {
            ask_again_and_again(check, probation, beats, || ask(probe, check.timeout), heard);
        }
    }
}

#[cfg(unix)]
fn listen(check: &Check, beats: &Receiver<Beat>, heard: impl Fn(Shown)) {
    let failed = |reason: String| heard(Shown::Fails(format!("check notify failed: {reason}")));
    let longest = check.every.saturating_mul(check.failures);
    loop {
        match beats.recv_timeout(longest) {
            Ok(Beat::Works) => heard(Shown::Works),
            Ok(Beat::Fails) => failed("it sent WATCHDOG=trigger".into()),
            Err(RecvTimeoutError::Timeout) => failed(format!("no WATCHDOG=1 for {}", Seconds(longest))),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn ask_again_and_again(
    check: &Check,
    probation: Duration,
    beats: &Receiver<Beat>,
    ask: impl Fn() -> Outcome,
    heard: impl Fn(Shown),
) {
    let mut in_a_row = 0;
    let now = Instant::now();
    let (mut every, mut next) = if probation.is_zero() {
        (check.every, deadline_after(now, check.every))
    } else {
        // The last failure has to happen before the end of the probation.
        ((probation / check.failures.saturating_add(1)).min(check.every), now)
    };
    loop {
        match beats.recv_timeout(next.saturating_duration_since(Instant::now())) {
            Ok(_) => continue,
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let asked = Instant::now();
        match ask() {
            Outcome::Answered(_) => {
                in_a_row = 0;
                every = check.every;
                heard(Shown::Works);
            }
            // This says nothing about this program.
            Outcome::OfAnother | Outcome::Unclear(_) => {}
            Outcome::Failed(reason) => {
                in_a_row += 1;
                if in_a_row >= check.failures {
                    let times = match in_a_row {
                        1 => String::new(),
                        times => format!(" {times} times in a row"),
                    };
                    heard(Shown::Fails(format!("check {} failed{times}: {reason}", check.how)));
                    in_a_row = 0;
                }
            }
        }
        // Not later because of an answer that takes long: after one that takes longer than that, at once.
        next = deadline_after(asked, every);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::cell::RefCell;
    use std::sync::mpsc;

    /// The reasons that a check reports for a program with these answers.
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
        let heard = |shown| match shown {
            Shown::Works => {}
            Shown::Fails(reason) => reasons.borrow_mut().push(reason),
        };
        run(&check, Duration::ZERO, &beats, ask, heard);
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

    #[test]
    fn a_check_without_a_limit_on_its_times_never_comes_and_is_no_panic() {
        let check = Check {
            how: CheckKind::Probe(Probe::Http("http://a/".parse().unwrap())),
            every: Duration::MAX,
            timeout: Duration::MAX,
            failures: 1,
        };
        let (works, beats) = mpsc::channel();
        drop(works);
        ask_again_and_again(&check, Duration::ZERO, &beats, || panic!("it is asked"), |_| ());
    }

    /// When a program on probation was asked and the result, until it has been asked once for each answer.
    fn on_probation(check: &Check, probation: Duration, answers: &[Outcome]) -> Vec<(Duration, Option<Shown>)> {
        let began = Instant::now();
        let (works, beats) = mpsc::channel();
        let works = RefCell::new(Some(works));
        let answers = RefCell::new(answers.iter().cloned());
        let asked = RefCell::new(Vec::new());
        let ask = |_: &Probe, _: Duration| {
            let answer = answers.borrow_mut().next();
            if answer.is_some() {
                asked.borrow_mut().push((began.elapsed(), None));
            } else {
                works.take();
            }
            answer.unwrap_or(Outcome::OfAnother)
        };
        let heard = |shown| asked.borrow_mut().last_mut().unwrap().1 = Some(shown);
        run(check, probation, &beats, ask, heard);
        asked.into_inner()
    }

    #[test]
    fn a_program_on_probation_is_asked_often_enough_to_fail_meanwhile_and_rarely_once_it_has_answered() {
        let check = Check {
            how: CheckKind::Probe(Probe::Http("http://a/".parse().unwrap())),
            every: Duration::from_secs(600),
            timeout: Duration::from_secs(1),
            failures: 3,
        };
        let fails = || Outcome::Failed("it answers 503".into());
        let probation = Duration::from_millis(40);
        let asked = on_probation(&check, probation, &[fails(), Outcome::OfAnother, fails(), fails()]);
        let failed = Shown::Fails("check http=http://a/ failed 3 times in a row: it answers 503".into());
        assert_eq!(asked.iter().map(|(_, shown)| shown.clone()).collect::<Vec<_>>(), [None, None, None, Some(failed)]);
        let check = Check { every: Duration::from_millis(400), ..check };
        let works = || Outcome::Answered(String::new());
        let asked = on_probation(&check, probation, &[works(), works()]);
        assert!(asked.iter().all(|(_, shown)| *shown == Some(Shown::Works)), "{asked:?}");
        assert!(asked[1].0 - asked[0].0 >= check.every - probation, "{asked:?}");
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
        let works = RefCell::new(0);
        let heard = |shown| {
            let Shown::Fails(reason) = shown else { return *works.borrow_mut() += 1 };
            let mut reasons = reasons.borrow_mut();
            reasons.push(reason);
            if reasons.len() == 2 {
                says.take();
            }
        };
        run(&check, Duration::ZERO, &beats, |_, _| Outcome::OfAnother, heard);
        assert_eq!(works.into_inner(), 2);
        let expected = ["it sent WATCHDOG=trigger", "no WATCHDOG=1 for 100 ms"];
        assert_eq!(reasons.into_inner(), expected.map(|reason| format!("check notify failed: {reason}")));
    }
}
