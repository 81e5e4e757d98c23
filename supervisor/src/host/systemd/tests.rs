//! The reports to the service manager, and what happens when they cannot be sent.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use super::*;
use crate::host::Manager;
use crate::journal::Journal;
use crate::log::Log;

/// The messages sent so far, and whether sending fails at the moment.
#[derive(Default, Clone)]
struct Heard(Arc<Mutex<(Vec<String>, bool)>>);

impl Heard {
    fn manager(&self, limit: Option<Duration>, now: Instant) -> Manager {
        let heard = self.clone();
        let line = move |message: &str, _: Option<&Bound>| {
            let (messages, is_deaf) = &mut *heard.0.lock().unwrap();
            match is_deaf {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => {
                    messages.push(message.to_owned());
                    Ok(())
                }
            }
        };
        Manager::of_notify(Notify::new(Box::new(line), limit, now), Journal::new(Log::silent()))
    }

    /// The messages since the last call, without times.
    fn news(&self) -> Vec<String> {
        let messages = std::mem::take(&mut self.0.lock().unwrap().0);
        let short = |line: &str| if line.starts_with("MONOTONIC") { "MONOTONIC".into() } else { line.to_owned() };
        messages.iter().map(|message| message.lines().map(short).collect::<Vec<_>>().join(" ")).collect()
    }

    fn be_deaf(&self, deaf: bool) {
        self.0.lock().unwrap().1 = deaf;
    }
}

fn view(phase: Phase, status: &str, deadline: Option<Instant>) -> View {
    View { phase, status: status.into(), deadline }
}

#[test]
fn only_what_has_changed_is_said() {
    let (heard, now) = (Heard::default(), Instant::now());
    let mut manager = heard.manager(None, now);
    let at = |seconds| Some(now + Duration::from_secs(seconds));
    for (view, said) in [
        (view(Phase::Ready, "one", None), &["READY=1 STATUS=one"][..]),
        (view(Phase::Ready, "one", None), &[]),
        (view(Phase::Ready, "t\nwo", None), &["STATUS=t wo"]),
        (view(Phase::Restarting { build: 2 }, "t\nwo", None), &["RELOADING=1 MONOTONIC"]),
        (view(Phase::Restarting { build: 2 }, "three", at(10)), &["STATUS=three EXTEND_TIMEOUT_USEC=15000000"]),
        (view(Phase::Restarting { build: 3 }, "three", at(10)), &["READY=1", "RELOADING=1 MONOTONIC"]),
        (view(Phase::Ready, "three", None), &["READY=1"]),
        (view(Phase::Stopping, "three", at(10)), &["STOPPING=1 EXTEND_TIMEOUT_USEC=15000000"]),
        (view(Phase::Stopping, "three", at(2)), &["EXTEND_TIMEOUT_USEC=7000000"]),
        (view(Phase::Stopping, "three", at(2)), &[]),
    ] {
        manager.tell(view, now);
        assert_eq!(heard.news(), said);
    }
}

#[test]
fn what_could_not_be_said_is_said_with_the_next_event_if_it_still_holds() {
    let (heard, now) = (Heard::default(), Instant::now());
    let mut manager = heard.manager(None, now);
    heard.be_deaf(true);
    manager.tell(view(Phase::Ready, "one", None), now);
    heard.be_deaf(false);
    manager.tell(view(Phase::Ready, "two", None), now);
    assert_eq!(heard.news(), ["READY=1 STATUS=two"]);
}

#[test]
fn what_the_manager_had_no_room_for_is_said_soon_though_nothing_happens() {
    let (heard, now) = (Heard::default(), Instant::now());
    let mut manager = heard.manager(None, now);
    assert_eq!(manager.next_beat(), None);
    heard.be_deaf(true);
    manager.tell(view(Phase::Ready, "one", None), now);
    heard.be_deaf(false);
    let again = manager.next_beat().expect("it is tried again only when something happens");
    assert!(again > now);
    manager.tell(view(Phase::Ready, "one", None), again);
    assert_eq!(heard.news(), ["READY=1 STATUS=one"]);
    assert_eq!(manager.next_beat(), None);
}

#[test]
fn a_sign_of_life_that_could_not_be_sent_is_sent_before_the_manager_misses_it() {
    let (heard, start, limit) = (Heard::default(), Instant::now(), Duration::from_secs(10));
    let mut manager = heard.manager(Some(limit), start);
    heard.be_deaf(true);
    manager.beat(start + limit / 2);
    heard.be_deaf(false);
    let again = manager.next_beat().unwrap();
    assert!(again < start + limit, "the manager ends the process first");
    manager.beat(again);
    assert_eq!(heard.news(), ["WATCHDOG=1"]);
    assert_eq!(manager.next_beat(), Some(again + limit / 2));
}

#[test]
fn a_status_is_one_line_that_fits_into_a_message() {
    let (heard, now) = (Heard::default(), Instant::now());
    heard.manager(None, now).tell(view(Phase::Ready, &"ä\n".repeat(10_000), None), now);
    let said = heard.news().concat();
    assert!(said.len() < 4096 && said.contains("STATUS=ä ä"), "{said}");
}

#[test]
fn signs_of_life_come_twice_as_often_as_they_have_to() {
    let (heard, start) = (Heard::default(), Instant::now());
    let mut manager = heard.manager(Some(Duration::from_secs(10)), start);
    let mut ticks = 0;
    for second in 0..=30 {
        let now = start + Duration::from_secs(second);
        manager.beat(now);
        ticks += usize::from(manager.next_beat().unwrap() == now + Duration::from_secs(5));
    }
    assert_eq!((heard.news().len(), ticks), (6, 7));
    assert_eq!(Manager::none().next_beat(), None);
}

#[test]
fn a_watchdog_that_is_meant_for_another_process_is_none_of_our_business() {
    let own = std::process::id().to_string();
    for (pid, limit, expected) in [
        (Some(own.as_str()), Some("3000000"), Some(3)),
        (None, Some("3000000"), Some(3)),
        (Some("1"), Some("3000000"), None),
        (Some("?"), Some("3000000"), None),
        (Some(&own), Some("0"), None),
        (Some(&own), Some("soon"), None),
        (Some(&own), None, None),
    ] {
        let variable = |name: &str| if name == "WATCHDOG_PID" { pid } else { limit }.map(str::to_owned);
        assert_eq!(watchdog_limit(variable), expected.map(Duration::from_secs), "{pid:?} {limit:?}");
    }
}

/// Runs in a process of its own, whose limit of descriptors it changes.
#[cfg(unix)]
#[test]
fn what_could_not_be_said_for_lack_of_a_descriptor_is_said_with_the_next_event() {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    const CHILD: &str = "MASTERCONTROL_TEST_NO_DESCRIPTORS";
    let path = std::env::temp_dir().join(format!("mastercontrol-{}-notify", std::process::id()));
    if std::env::var_os(CHILD).is_none() {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", std::thread::current().name().unwrap(), "--nocapture", "--test-threads", "1"])
            .envs([(CHILD, "1".as_ref()), ("NOTIFY_SOCKET", path.as_os_str())])
            .output()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(child.status.success(), "{child:?}");
        let mut said = [0; 100];
        let length = socket.recv(&mut said).unwrap();
        assert_eq!(&said[..length], b"READY=1\nSTATUS=one");
        return;
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 0, hard).unwrap();
    let now = Instant::now();
    let mut manager = Manager::from_environment(Journal::new(Log::silent()));
    manager.tell(view(Phase::Ready, "one", None), now);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    manager.tell(view(Phase::Ready, "one", None), now);
}
