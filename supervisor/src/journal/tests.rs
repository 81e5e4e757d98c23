//! Readers of a journal that is not logged.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc;
use std::thread;

use proptest::prelude::*;

use super::*;

fn journal() -> Journal {
    Journal::new(Log::silent())
}

fn say(journal: &Journal, times: u64) {
    (0..times).for_each(|_| journal.line(Level::Info, "test", "a test", []));
}

/// What a client of the journal knows. The client may hang up and come back.
#[derive(Default)]
struct Client {
    /// The number of the last entry.
    last: u64,
    heard: u64,
    missed: u64,
}

impl Client {
    /// Takes note of one step. Returns false if there is nothing more for now.
    fn hear(&mut self, next: Next) -> bool {
        match next {
            Next::Position { next, missed, .. } => {
                self.missed += missed;
                assert_eq!(next, self.last + missed + 1, "what is missed is just what lies between");
                self.last += missed;
            }
            Next::Entries(lines) => {
                for seq in numbers(&lines) {
                    assert_eq!(seq, self.last + 1);
                    self.last = seq;
                    self.heard += 1;
                }
            }
            Next::Look => {}
            Next::End { last } => {
                assert_eq!(last, self.last);
                return false;
            }
        }
        true
    }
}

fn numbers(lines: &str) -> Vec<u64> {
    let number = |line: &str| line.strip_prefix("{\"seq\":")?.split(',').next()?.parse().ok();
    lines.lines().map(|line| number(line).unwrap()).collect()
}

/// The same as if that many events happened, only faster.
fn happen(journal: &Journal, times: u64) {
    let mut kept = lock(&journal.shared.kept);
    for _ in 0..times {
        let line = format!("{{\"seq\":{},}}\n", kept.last + 1);
        kept.push(line.into());
    }
}

/// Everything that a reader of past events gets: how many it misses, and the numbers of the rest.
fn all(mut reader: Reader) -> (u64, Vec<u64>) {
    let (mut missing, mut heard) = (0, Vec::new());
    loop {
        match reader.next() {
            Next::Position { missed, .. } => missing += missed,
            Next::Entries(lines) => heard.extend(numbers(&lines)),
            Next::Look => {}
            Next::End { .. } => return (missing, heard),
        }
    }
}

#[test]
fn who_asks_for_nothing_special_gets_the_last_thousand() {
    let journal = journal();
    assert_eq!(all(journal.read(None)), (0, vec![]));
    say(&journal, 3);
    assert_eq!(all(journal.read(None)), (0, vec![1, 2, 3]));
    say(&journal, 1000);
    assert_eq!(all(journal.read(None)), (0, (4..=1003).collect()));
    // Entries that are kept for followers are not kept for others.
    let _follower = journal.follow(None);
    say(&journal, 1);
    assert_eq!(all(journal.read(None)), (0, (5..=1004).collect()));
    assert_eq!(all(journal.read(Some(3))), (0, (4..=1004).collect()));
}

#[test]
fn who_comes_again_goes_on_where_it_was_and_hears_how_many_it_missed() {
    let journal = journal();
    say(&journal, 1005);
    assert_eq!(all(journal.read(Some(1005))), (0, vec![]));
    assert_eq!(all(journal.read(Some(1003))), (0, vec![1004, 1005]));
    assert_eq!(all(journal.read(Some(5))), (0, (6..=1005).collect()));
    assert_eq!(all(journal.read(Some(4))), (1, (6..=1005).collect()));
    assert_eq!(all(journal.read(Some(0))), (5, (6..=1005).collect()));
}

#[test]
fn who_knows_more_than_has_happened_knows_another_journal_and_gets_all_of_this_one() {
    let journal = journal();
    say(&journal, 2);
    for since in [3, u64::MAX] {
        let mut reader = journal.read(Some(since));
        let Next::Position { began, next: 1, missed: 0 } = reader.next() else { panic!("it does not begin at 1") };
        assert_eq!(began, journal.shared.began);
        assert_eq!(all(reader), (0, vec![1, 2]));
    }
}

#[test]
fn details_are_events_only_if_the_log_is_verbose() {
    let journal = journal();
    journal.line(Level::Detail, "test", "not told", []);
    journal.with(Log::silent().verbose(true)).line(Level::Detail, "test", "told", []);
    assert_eq!(all(journal.read(None)), (0, vec![1]));
}

#[test]
fn an_entry_is_one_line_of_json_whatever_the_message_and_the_fields() {
    let journal = journal();
    journal.line(Level::Info, "test", "two\nlines \"quoted\"", [("id", 7.into()), ("seq", "not this one".into())]);
    journal.line(Level::Error, "long", "\0".repeat(MAX_LINE), [("long", "x".repeat(MAX_LINE).into())]);
    let mut reader = journal.read(None);
    assert!(matches!(reader.next(), Next::Position { .. }));
    let Next::Entries(lines) = reader.next() else { panic!("no entries") };
    let entries: Vec<Entry> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((entries[0].seq, entries[0].message.as_str()), (1, "two\nlines \"quoted\""));
    assert_eq!(entries[0].fields, Map::from_iter([("id".to_owned(), 7.into())]));
    assert!(entries[0].time.ends_with('Z'), "{}", entries[0].time);
    assert!(lines.lines().all(|line| line.len() < MAX_LINE));
    assert_eq!((entries[1].event.as_str(), entries[1].message.chars().count()), ("long", CUT + 1));
}

#[test]
fn a_follower_that_waits_hears_what_happens_when_it_happens() {
    let journal = journal();
    let mut reader = journal.follow(None).unwrap();
    let (tell, told) = mpsc::channel();
    thread::spawn(move || while tell.send(reader.next()).is_ok() {});
    assert!(matches!(told.recv().unwrap(), Next::Position { .. }));
    for _ in 0..3 {
        say(&journal, 1);
        let heard = told.recv_timeout(Duration::from_secs(30)).unwrap();
        assert!(matches!(heard, Next::Entries(_)), "{heard:?}");
    }
}

#[test]
fn a_follower_hears_all_up_to_the_end_while_many_speak_and_others_come_and_go() {
    const SPEAKERS: u64 = 4;
    const EACH: u64 = 2000;
    let journal = journal();
    let ending = journal.ending();
    thread::scope(|scope| {
        let followers: Vec<_> = (0..10)
            .map(|_| {
                let mut reader = journal.follow(Some(0)).unwrap();
                scope.spawn(move || {
                    let mut client = Client::default();
                    while client.hear(reader.next()) {}
                    client
                })
            })
            .collect();
        let speakers: Vec<_> = (0..SPEAKERS).map(|_| scope.spawn(|| say(&journal, EACH))).collect();
        for _ in 0..100 {
            // A follower that does not read blocks no other one.
            drop(journal.follow(None).unwrap());
        }
        speakers.into_iter().for_each(|speaker| speaker.join().unwrap());
        drop(ending);
        for follower in followers {
            let Client { last, heard, missed } = follower.join().unwrap();
            assert_eq!((last, heard, missed), (SPEAKERS * EACH, SPEAKERS * EACH, 0));
        }
    });
    // The entries that were kept for them are forgotten.
    assert_eq!(lock(&journal.shared.kept).lines.len(), KEPT);
}

#[test]
fn a_follower_that_is_too_far_behind_hears_how_many_it_missed() {
    let journal = journal();
    let mut reader = journal.follow(None).unwrap();
    let mut client = Client::default();
    assert!(client.hear(reader.next()));
    happen(&journal, KEPT_FOR_FOLLOWERS as u64 + 5);
    drop(journal.ending());
    while client.hear(reader.next()) {}
    assert_eq!((client.heard, client.missed), (KEPT_FOR_FOLLOWERS as u64, 5));
}

#[test]
fn the_one_too_many_cannot_follow_and_makes_the_others_look_whether_their_clients_are_still_there() {
    let journal = journal();
    let mut followers: Vec<_> = (0..MAX_FOLLOWERS).map(|_| journal.follow(None).unwrap()).collect();
    assert!(matches!(followers[0].next(), Next::Position { .. }));
    assert!(journal.follow(None).is_none());
    assert_eq!(followers[0].next(), Next::Look);
    followers.pop();
    followers.push(journal.follow(None).unwrap());
    assert!(journal.follow(None).is_none());
    // Reading past events is not following.
    assert_eq!(all(journal.read(None)), (0, vec![]));
}

/// What may happen to a journal and one client of it.
#[derive(Debug, Clone)]
enum Step {
    Happens(u64),
    Follow,
    /// This many steps of reading.
    Read(usize),
    HangUp,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => (0..30u64).prop_map(Step::Happens),
        1 => (0..1500u64).prop_map(Step::Happens),
        1 => (0..30_000u64).prop_map(Step::Happens),
        3 => Just(Step::Follow),
        5 => (1..8usize).prop_map(Step::Read),
        2 => Just(Step::HangUp),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_client_hears_each_entry_once_or_how_many_it_missed_however_often_it_comes_again(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let journal = journal();
        let ending = journal.ending();
        let mut client = Client::default();
        let mut reader: Option<Reader> = None;
        for step in steps {
            match step {
                Step::Happens(times) => happen(&journal, times),
                Step::Follow => reader = Some(journal.follow(Some(client.last)).unwrap()),
                Step::Read(times) => {
                    // It would wait for more than there is.
                    for _ in 0..times {
                        let last = lock(&journal.shared.kept).last;
                        if let Some(reader) = reader.as_mut().filter(|it| !it.placed || it.next <= last) {
                            client.hear(reader.next());
                        }
                    }
                }
                Step::HangUp => reader = None,
            }
        }
        drop(ending);
        let mut reader = reader.unwrap_or_else(|| journal.follow(Some(client.last)).unwrap());
        while client.hear(reader.next()) {}
        prop_assert_eq!(client.last, lock(&journal.shared.kept).last);
        prop_assert_eq!(client.heard + client.missed, client.last);
    }
}

#[test]
fn a_thread_that_panics_while_it_has_the_lock_does_not_wait_for_it() {
    let mutex = Mutex::new(());
    let held = lock(&mutex);
    assert!(lock_soon(&mutex).is_none());
    drop(held);
    assert!(lock_soon(&mutex).is_some());
}
