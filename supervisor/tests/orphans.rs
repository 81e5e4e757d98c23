//! Orphans become children of a supervisor of programs. This test is a process of its own, because it affects all
//! children of the process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol::ProgramEnd;
use mastercontrol::child::driven::{Driven, Heard};
use mastercontrol::child::{Program, Ready, RotationSignals, StopSignals};

const LIMIT: Duration = Duration::from_secs(45);

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// The guardian is killed, so all orphans are ours: both those that have already ended, and those that have left the
/// group, the session and the environment.
#[test]
fn no_orphan_is_left_and_none_stays_a_zombie() {
    let pids = std::env::temp_dir().join(format!("orphans-test-{}", std::process::id()));
    let script = format!(
        "for i in $(seq 20); do env -i setsid sleep 1000 & echo $! >> {0}; done; sh -c 'echo $PPID' >> {0}
         read -r _ _ _ guardian _ < /proc/$$/stat; sleep 0.2; kill -KILL $guardian; while :; do :; done",
        pids.display()
    );
    let program = Program {
        program: "sh".into(),
        args: vec!["-c".into(), script.into()],
        directory: None,
        environment: Vec::new(),
        stop: StopSignals::one(15),
        rotation: RotationSignals::default(),
        success: Vec::new(),
        ready: Ready::Auto,
        ready_within: LIMIT,
        overlap: Duration::ZERO,
        check: None,
    };
    let driven = Driven::new(Path::new(env!("CARGO_BIN_EXE_supervisor")), program, Vec::new()).unwrap();
    driven.reap_orphans().unwrap();
    let one = driven.build_here(1).unwrap();
    assert!(matches!(driven.next(LIMIT), Some(Heard::Failed(1, _))));
    assert!(matches!(driven.next(LIMIT), Some(Heard::Finished(1))));
    assert_eq!(one.end(), (Some(ProgramEnd::Unguarded), 21));
    let known = fs::read_to_string(&pids).unwrap();
    fs::remove_file(&pids).unwrap();
    assert_eq!(known.lines().count(), 21);
    eventually("all are gone", || known.lines().all(|pid| !Path::new("/proc").join(pid).exists()));
}
