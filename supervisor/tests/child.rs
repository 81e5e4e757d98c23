//! Programs as servers: their guardians, driven as the supervisor drives them, and what is reported to master control.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use mastercontrol::child::driven::{Driven, Heard, One};
use mastercontrol::child::{CannotStart, Probe, Program, Ready, RotationSignals, Socket, StopSignals};
use mastercontrol::{Address, ProgramEnd};

const SUPERVISOR: &str = env!("CARGO_BIN_EXE_supervisor");

/// How long anything may take that should happen at once, on a machine that is busy with other work.
const LIMIT: Duration = Duration::from_secs(45);

/// A grace period that no test can wait for.
const HUGE: Duration = Duration::from_secs(600);

const TERM: i32 = 15;
const KILL: i32 = 9;

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "never came true: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A directory for one test.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("child-test-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&directory); // Of a run that was killed, and had that process id.
        fs::create_dir(&directory).unwrap();
        Directory(directory)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str, mode: u32) -> String {
        let path = self.path(name);
        // A separate process writes it: a file that this one has open for writing is open for a moment in each process
        // that another thread starts, and a file that is open for writing cannot be run.
        let mut writer = Command::new("sh");
        writer.args(["-c", "printf %s \"$2\" > \"$1\" && chmod \"$3\" \"$1\"", "-"]);
        writer.arg(&path).arg(text).arg(format!("{mode:o}"));
        assert!(writer.status().unwrap().success());
        path.to_str().unwrap().into()
    }

    /// The lines of a file, once it has this many.
    fn lines(&self, name: &str, wanted: usize) -> Vec<String> {
        let mut lines = Vec::new();
        eventually(&format!("{name} has {wanted} lines"), || {
            let text = fs::read_to_string(self.path(name)).unwrap_or_default();
            lines = text.lines().map(str::to_owned).collect();
            lines.len() >= wanted && text.ends_with('\n')
        });
        lines
    }

    fn pids(&self, name: &str, wanted: usize) -> Vec<u32> {
        self.lines(name, wanted).iter().map(|line| line.trim().parse().unwrap()).collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether a process runs. A zombie does not.
fn runs(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit_once(") ").unwrap().1.starts_with('Z'))
}

/// Whether a process exists, even as a zombie.
fn is_there(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

fn kill(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status().unwrap().success());
}

/// A guardian, and the supervisor's end of its socket.
struct Guardian {
    process: Child,
    requests: Option<UnixStream>,
    reports: BufReader<UnixStream>,
}

impl Guardian {
    fn new(program: &[&str]) -> Guardian {
        Guardian::with(program, |_| {})
    }

    fn sh(script: &str) -> Guardian {
        Guardian::new(&["sh", "-c", script])
    }

    fn with(program: &[&str], change: impl FnOnce(&mut Command)) -> Guardian {
        let (ours, its) = UnixStream::pair().unwrap();
        let mut command = Command::new(SUPERVISOR);
        command.args(["@guard", "0", "", ""]).args(program).stdin(Stdio::from(OwnedFd::from(its))).process_group(0);
        change(&mut command);
        let process = command.spawn().unwrap();
        ours.set_read_timeout(Some(LIMIT)).unwrap();
        Guardian { process, reports: BufReader::new(ours.try_clone().unwrap()), requests: Some(ours) }
    }

    fn order(&self, order: &str) {
        self.requests.as_ref().unwrap().write_all(format!("{order}\n").as_bytes()).unwrap();
    }

    /// The next report. Empty: the guardian has ended.
    fn report(&mut self) -> String {
        let mut line = String::new();
        self.reports.read_line(&mut line).unwrap();
        line.trim_end().into()
    }

    /// The program's process id.
    fn started(&mut self) -> u32 {
        let report = self.report();
        report.strip_prefix("started ").unwrap_or_else(|| panic!("{report}")).parse().unwrap()
    }

    /// All further reports. Returns when the guardian has ended by itself.
    fn rest(mut self) -> Vec<String> {
        let mut reports = Vec::new();
        loop {
            match self.report() {
                end if end.is_empty() => break,
                report => reports.push(report),
            }
        }
        assert!(self.process.wait().unwrap().success());
        reports
    }
}

impl Drop for Guardian {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn every_exit_code_is_told() {
    for code in 0..=255 {
        let mut guardian = Guardian::sh(&format!("exit {code}"));
        guardian.started();
        assert_eq!(guardian.rest(), [format!("ended exit {code}"), "gone 0".into()]);
    }
}

#[test]
fn every_signal_that_ends_a_program_is_told_by_its_number() {
    // The signals that end a program, including a realtime signal.
    for signal in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 25, 26, 27, 29, 30, 31, 40] {
        let mut guardian = Guardian::sh(&format!("ulimit -c 0; kill -{signal} $$; sleep 1000"));
        guardian.started();
        assert_eq!(guardian.rest(), [format!("ended signal {signal}"), "gone 0".into()]);
    }
}

#[test]
fn a_signal_is_passed_on_to_the_program_only() {
    let directory = Directory::new();
    let said = directory.path("said").display().to_string();
    let script = format!(
        "trap 'echo got >> {said}' USR1 USR2 WINCH
         (trap 'echo wrong >> {said}' USR1 USR2 WINCH; while :; do sleep 0.01; done) &
         echo ready >> {said}
         while :; do sleep 0.01; done"
    );
    let mut guardian = Guardian::sh(&script);
    guardian.started();
    directory.lines("said", 1);
    for (before, signal) in [10, 12, 28].into_iter().enumerate() {
        guardian.order(&format!("signal {signal}"));
        directory.lines("said", before + 2);
    }
    guardian.order("stop 15 0");
    guardian.rest();
    assert_eq!(directory.lines("said", 4), ["ready", "got", "got", "got"]);
}

#[test]
fn a_program_that_heeds_the_signal_ends_by_it_long_before_the_deadline() {
    let mut guardian = Guardian::new(&["sleep", "1000"]);
    guardian.started();
    guardian.order("stop 15 600000");
    assert_eq!(guardian.rest(), ["ended signal 15", "gone 0"]);
}

#[test]
fn a_suspended_program_can_be_stopped() {
    let mut guardian = Guardian::new(&["sleep", "1000"]);
    let program = guardian.started();
    kill(program, "STOP");
    assert_eq!(guardian.report(), format!("suspended {program} 19"));
    guardian.order("stop 15 600000");
    assert_eq!(guardian.rest(), ["ended signal 15", "gone 0"]);
}

#[test]
fn a_suspension_of_the_program_is_told_and_no_other() {
    let directory = Directory::new();
    let pid = directory.path("pid").display().to_string();
    let script = format!(
        "sh -c 'kill -STOP $$' & echo $$ > {pid}; while [ -e {pid} ]; do sleep 0.01; done
         kill -TTIN $$; kill -KILL $!; exit 3"
    );
    let mut guardian = Guardian::sh(&script);
    let program = guardian.started();
    directory.pids("pid", 1);
    fs::remove_file(directory.path("pid")).unwrap();
    assert_eq!(guardian.report(), format!("suspended {program} 21"));
    kill(program, "CONT");
    assert_eq!(guardian.rest(), ["ended exit 3", "gone 0"]);
}

#[test]
fn the_whole_group_gets_the_stop_signal() {
    let directory = Directory::new();
    let said = directory.path("said").display().to_string();
    let script = format!(
        "sh -c 'trap \"echo child >> {said}; exit\" TERM; echo ready >> {said}; while :; do sleep 0.01; done' &
         trap 'echo program >> {said}; wait; exit 7' TERM; echo ready >> {said}; while :; do sleep 0.01; done"
    );
    let mut guardian = Guardian::sh(&script);
    guardian.started();
    directory.lines("said", 2);
    guardian.order("stop 15 600000");
    assert_eq!(guardian.rest(), ["ended exit 7", "gone 0"]);
    let said: HashSet<_> = directory.lines("said", 4).into_iter().collect();
    assert_eq!(said, ["ready", "program", "child"].map(String::from).into());
}

#[test]
fn a_program_that_ignores_the_signal_is_killed_at_the_deadline() {
    let directory = Directory::new();
    let pids = directory.path("pids").display().to_string();
    let mut guardian = Guardian::sh(&format!("trap '' TERM; sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait"));
    guardian.started();
    let pids = directory.pids("pids", 2);
    guardian.order("stop 15 50");
    assert_eq!(guardian.report(), "ended signal 9");
    assert_eq!(guardian.report(), "gone 2");
    assert!(pids.into_iter().all(|pid| !is_there(pid)));
}

/// As if a container were frozen for longer than the grace period.
#[test]
fn after_a_standstill_the_program_has_a_moment_to_do_what_it_was_asked_to() {
    let directory = Directory::new();
    let said = directory.path("said").display().to_string();
    let go = directory.path("go");
    assert!(Command::new("mkfifo").arg(&go).status().unwrap().success());
    // Opened for both, so that neither end waits for the other.
    let mut go = fs::File::options().read(true).write(true).open(&go).unwrap();
    let script = format!(
        "exec 3<> {}; trap 'echo asked >> {said}; read go <&3; exit 3' TERM
         echo up >> {said}; while :; do sleep 0.01; done",
        directory.path("go").display()
    );
    let mut guardian = Guardian::sh(&script);
    let program = guardian.started();
    directory.lines("said", 1);
    let asked = Instant::now();
    guardian.order("stop 15 2000");
    directory.lines("said", 2);
    [guardian.process.id(), program].into_iter().for_each(|pid| kill(pid, "STOP"));
    // The deadline must have passed, by more than any other process would take.
    thread::sleep(Duration::from_millis(3500).saturating_sub(asked.elapsed()));
    go.write_all(b"\n").unwrap();
    // No other process does it, and the program needs none: it has half a second.
    let proceed = |pid: u32| {
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    };
    proceed(guardian.process.id());
    // The guardian would have killed the program by then.
    thread::sleep(Duration::from_millis(50));
    proceed(program);
    let reports = guardian.rest();
    assert!(reports.contains(&"ended exit 3".into()), "{reports:?}");
}

#[test]
fn a_second_stop_moves_the_deadline_and_sends_no_second_signal() {
    let directory = Directory::new();
    let said = directory.path("said").display().to_string();
    let script = format!(
        "trap 'echo stop >> {said}' USR1; trap 'echo other >> {said}' USR2; echo ready >> {said}
         while :; do sleep 0.01; done"
    );
    let mut guardian = Guardian::sh(&script);
    guardian.started();
    directory.lines("said", 1);
    guardian.order("stop 10 600000");
    directory.lines("said", 2);
    guardian.order("stop 10 300000");
    // A shell that got both would handle USR1 first.
    guardian.order("signal 12");
    assert_eq!(directory.lines("said", 3), ["ready", "stop", "other"]);
    guardian.order("stop 10 0");
    assert_eq!(guardian.report(), "ended signal 9");
    assert!(guardian.report().starts_with("gone "));
}

#[test]
fn who_leaves_group_and_session_and_parents_is_gone_all_the_same() {
    let directory = Directory::new();
    let pids = directory.path("pids").display().to_string();
    let script = format!(
        "setsid sh -c 'trap \"\" TERM; (trap \"\" TERM; exec setsid sleep 1000) & echo $! >> {pids}; sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait' &
         echo $$ >> {pids}; sleep 1000"
    );
    let mut guardian = Guardian::sh(&script);
    guardian.started();
    let pids = directory.pids("pids", 4);
    guardian.order("stop 15 100");
    assert_eq!(guardian.report(), "ended signal 15");
    let gone = guardian.report();
    assert!(gone.starts_with("gone "), "{gone}");
    assert!(pids.iter().all(|&pid| !is_there(pid)), "{pids:?}");
    assert_ne!(gone, "gone 0");
}

#[test]
fn what_a_program_leaves_behind_is_ended_after_it() {
    let directory = Directory::new();
    let pids = directory.path("pids").display().to_string();
    let script = format!(
        "setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' & setsid sh -c 'trap \"\" TERM; echo $$ >> {pids}; while :; do sleep 1; done' &
         while [ $(wc -l < {pids}) -lt 2 ]; do sleep 0.01; done; exit 3"
    );
    fs::write(directory.path("pids"), "").unwrap();
    let mut guardian = Guardian::sh(&script);
    guardian.started();
    assert_eq!(guardian.report(), "ended exit 3");
    let gone = guardian.report();
    assert!(gone.starts_with("gone ") && gone != "gone 0", "{gone}");
    assert!(directory.pids("pids", 2).into_iter().all(|pid| !is_there(pid)));
}

#[test]
fn an_orphan_s_end_is_not_taken_for_the_program_s_and_a_thousand_are_reaped() {
    let directory = Directory::new();
    let done = directory.path("done").display().to_string();
    // Each inner shell leaves an orphan.
    let script = format!("for i in $(seq 1000); do (exit 9 &) ; done; echo done > {done}; exec sleep 1000");
    let mut guardian = Guardian::sh(&script);
    let program = guardian.started();
    directory.lines("done", 1);
    let children = format!("/proc/{0}/task/{0}/children", guardian.process.id());
    eventually("only the program is left", || fs::read_to_string(&children).unwrap().trim() == program.to_string());
    guardian.order("stop 15 600000");
    assert_eq!(guardian.rest(), ["ended signal 15", "gone 0"]);
}

#[test]
fn all_is_gone_when_the_supervisor_is() {
    let directory = Directory::new();
    let pids = directory.path("pids").display().to_string();
    let script = format!(
        "trap '' TERM; setsid sh -c 'trap \"\" TERM; sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait' & echo $$ >> {pids}; wait"
    );
    let mut guardian = Guardian::sh(&script);
    let program = guardian.started();
    let mut pids = directory.pids("pids", 3);
    pids.push(program);
    guardian.requests = None;
    // The reader is a copy of the same socket.
    guardian.reports.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    guardian.process.wait().unwrap();
    assert!(pids.iter().all(|&pid| !is_there(pid)), "{pids:?}");
}

#[test]
fn the_program_is_gone_when_the_guardian_is_killed() {
    let mut guardian = Guardian::sh("trap '' TERM; while :; do sleep 0.1; done");
    let program = guardian.started();
    guardian.process.kill().unwrap();
    eventually("the program is gone", || !runs(program));
}

#[test]
fn signals_that_mean_the_supervisor_do_not_end_a_guardian() {
    let mut guardian = Guardian::sh("exec sleep 1000");
    guardian.started();
    for signal in ["HUP", "INT", "QUIT", "TERM", "USR1", "USR2", "ALRM", "VTALRM", "PROF", "IO"] {
        kill(guardian.process.id(), signal);
    }
    guardian.order("stop 2 600000");
    // The program itself ignores none of these.
    assert_eq!(guardian.rest(), ["ended signal 2", "gone 0"]);
}

#[test]
fn what_is_not_found_is_127_and_what_cannot_be_run_is_126() {
    let directory = Directory::new();
    let wire = directory.write("plain", "#!/bin/sh\n", 0o644);
    let lost = directory.write("lost", "#!/no/such/interpreter\n", 0o755);
    let own = directory.0.to_str().unwrap();
    for (program, code, reason) in [
        ("nosuchprogram", 127, "not found"),
        ("/no/such/program", 127, "not found"),
        (&wire, 126, "not executable, or not permitted"),
        (own, 126, "is a directory"),
        (&lost, 126, "its interpreter /no/such/interpreter: not found"),
    ] {
        let guardian = Guardian::new(&[program, "argument"]);
        assert_eq!(guardian.rest(), [format!("cannot-start {code} {program}: {reason}"), "gone 0".into()]);
    }
}

#[test]
fn a_program_that_exits_as_if_it_were_not_found_was_started() {
    for code in [126, 127] {
        let mut guardian = Guardian::sh(&format!("exit {code}"));
        guardian.started();
        assert_eq!(guardian.rest(), [format!("ended exit {code}"), "gone 0".into()]);
    }
}

#[test]
fn a_program_inherits_three_descriptors_no_blocked_signal_and_a_group_of_its_own() {
    let directory = Directory::new();
    let (fds, status) = (directory.path("fds"), directory.path("status"));
    let script = format!(
        "ls -l /proc/self/fd > {}; cat /proc/self/status > {}; ps -o pid=,pgid= -p $$ > {}",
        fds.display(),
        status.display(),
        directory.path("group").display()
    );
    // Descriptors of another library that are not closed on exec, and blocked signals.
    let outer = "import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU, signal.SIGCHLD, signal.SIGTERM})
os.dup2(os.open('/dev/null', os.O_RDONLY), 5)
os.dup2(5, 9)
os.execv(sys.argv[1], sys.argv[1:])";
    let (ours, its) = UnixStream::pair().unwrap();
    let mut process = Command::new("python3")
        .args(["-c", outer, SUPERVISOR, "@guard", "0", "", "", "sh", "-c", &script])
        .stdin(Stdio::from(OwnedFd::from(its)))
        .spawn()
        .unwrap();
    ours.set_read_timeout(Some(LIMIT)).unwrap();
    let reports: Vec<_> = BufReader::new(&ours).lines().map(Result::unwrap).collect();
    assert_eq!(reports[1..], ["ended exit 0", "gone 0"]);
    assert!(process.wait().unwrap().success());
    let listing = fs::read_to_string(fds).unwrap();
    // The fourth is the directory that `ls` reads.
    assert_eq!(listing.lines().filter(|line| line.contains(" -> ")).count(), 4, "{listing}");
    assert!(listing.contains(" 0 -> /dev/null"), "{listing}");
    let status = fs::read_to_string(status).unwrap();
    let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim();
    assert_eq!(u64::from_str_radix(blocked, 16).unwrap(), 0);
    let group = fs::read_to_string(directory.path("group")).unwrap();
    let mut numbers = group.split_whitespace();
    assert_eq!(numbers.next(), numbers.next());
}

#[test]
fn a_stage_that_makes_no_sense_is_refused() {
    for args in [&["@guard"][..], &["@launch", "x", "", "", "p"]] {
        let output = Command::new(SUPERVISOR).args(args).stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&output.stderr).contains("own use"));
    }
}

fn program(program: &str, args: &[&str]) -> Program {
    Program {
        program: program.into(),
        args: args.iter().map(OsString::from).collect(),
        directory: None,
        environment: Vec::new(),
        stop: StopSignals::one(TERM),
        rotation: RotationSignals::default(),
        success: Vec::new(),
        ready: Ready::Auto,
        ready_within: LIMIT,
        overlap: Duration::ZERO,
        check: None,
    }
}

fn sh(script: &str) -> Program {
    program("sh", &["-c", script])
}

fn python(script: &str) -> Program {
    program("python3", &["-c", script])
}

fn driven(program: Program, sockets: Vec<Socket>) -> Driven {
    Driven::new(Path::new(SUPERVISOR), program, sockets).unwrap()
}

fn next(driven: &Driven) -> Heard {
    driven.next(LIMIT).expect("nothing happens")
}

fn failed(driven: &Driven) -> String {
    match next(driven) {
        Heard::Failed(_, reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn finished(driven: &Driven) -> u64 {
    match next(driven) {
        Heard::Finished(build) => build,
        other => panic!("{other:?}"),
    }
}

fn built(driven: &Driven) -> Result<One, String> {
    match next(driven) {
        Heard::Built(_, built) => built,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_that_ends_by_itself_has_failed_and_is_then_finished() {
    for (script, reason, end) in [
        ("sleep 0.1; exit 3", "it exited with code 3", ProgramEnd::Exited(3)),
        ("ulimit -c 0; sleep 0.1; kill -SEGV $$", "it was killed by SIGSEGV", ProgramEnd::Signaled(11)),
    ] {
        let driven = driven(sh(script), Vec::new());
        let one = driven.build_here(1).unwrap();
        assert_eq!(failed(&driven), reason);
        assert_eq!(finished(&driven), 1);
        assert_eq!(one.end(), (Some(end), 0));
    }
}

#[test]
fn an_asked_end_is_no_failure() {
    let driven = driven(program("sleep", &["1000"]), Vec::new());
    let one = driven.build_here(1).unwrap();
    one.stop(HUGE);
    assert_eq!(finished(&driven), 1);
    assert_eq!(one.end(), (Some(ProgramEnd::Signaled(TERM)), 0));
}

#[test]
fn a_stop_that_is_made_shorter_kills() {
    let directory = Directory::new();
    let ready = directory.path("ready").display().to_string();
    let driven = driven(sh(&format!("trap '' TERM; echo $$ > {ready}; while :; do sleep 0.01; done")), Vec::new());
    let one = driven.build_here(1).unwrap();
    directory.lines("ready", 1);
    one.stop(HUGE);
    one.stop(Duration::ZERO);
    assert_eq!(finished(&driven), 1);
    let (end, killed) = one.end();
    assert_eq!(end, Some(ProgramEnd::Signaled(KILL)));
    assert!(killed >= 1);
}

/// The guardian learns of both at once.
#[test]
fn a_stop_right_behind_a_kill_does_not_take_it_back() {
    let directory = Directory::new();
    let ready = directory.path("ready").display().to_string();
    let driven = driven(sh(&format!("echo $PPID > {ready}; exec sleep 1000")), Vec::new());
    let one = driven.build_here(1).unwrap();
    let guardian = directory.lines("ready", 1)[0].parse().unwrap();
    // Its deputy would continue it.
    let deputy = cfg!(target_os = "linux").then(|| parent(guardian));
    deputy.into_iter().chain([guardian]).for_each(|pid| kill(pid, "STOP"));
    one.stop(Duration::ZERO);
    one.stop(HUGE);
    [guardian].into_iter().chain(deputy).for_each(|pid| kill(pid, "CONT"));
    assert_eq!(finished(&driven), 1);
    assert_eq!(one.end().0, Some(ProgramEnd::Signaled(KILL)));
}

#[test]
fn what_is_given_up_fails_for_that_reason() {
    let driven = driven(program("sleep", &["1000"]), Vec::new());
    let mut one = driven.build_here(1).unwrap();
    one.give_up("it hangs");
    assert_eq!(failed(&driven), "it hangs");
    assert_eq!(finished(&driven), 1);
}

#[test]
fn what_is_dropped_is_gone() {
    let directory = Directory::new();
    let ready = directory.path("ready").display().to_string();
    let driven = driven(sh(&format!("trap '' TERM; echo $$ > {ready}; while :; do sleep 0.01; done")), Vec::new());
    let one = driven.build_here(1).unwrap();
    let pid = directory.pids("ready", 1)[0];
    drop(one);
    assert_eq!(finished(&driven), 1);
    assert!(!is_there(pid));
}

/// Reports when it runs and when it is asked to end, and then ends in its own time.
fn polite(directory: &Directory) -> Program {
    let said = directory.path("said").display().to_string();
    sh(&format!("trap 'echo asked >> {said}; exit 7' TERM; echo up >> {said}; while :; do sleep 0.01; done"))
}

#[test]
fn a_program_is_asked_to_end_before_it_is_killed_whyever_it_has_to() {
    let deeds: [fn(One); 2] = [|mut one| one.give_up("it hangs"), drop];
    for deed in deeds {
        let directory = Directory::new();
        let driven = driven(polite(&directory), Vec::new());
        let one = driven.build_here(1).unwrap();
        directory.lines("said", 1);
        deed(one);
        assert_eq!(directory.lines("said", 2), ["up", "asked"]);
    }
    let directory = Directory::new();
    let late = Program { ready: Ready::Notify, ready_within: Duration::from_secs(3), ..polite(&directory) };
    let mut driven = driven(late, Vec::new());
    driven.build(1);
    assert_eq!(built(&driven).unwrap_err(), "it was not ready within 3 s: it did not send READY=1");
    assert_eq!(directory.lines("said", 2), ["up", "asked"]);
}

#[test]
fn a_program_that_has_to_run_for_long_to_be_ready_has_that_long() {
    let directory = Directory::new();
    let mut driven = driven(Program { ready: Ready::After(HUGE), ..polite(&directory) }, Vec::new());
    driven.build(1);
    directory.lines("said", 1);
    assert!(driven.limit() > HUGE, "{:?}", driven.limit());
    driven.close(HUGE);
    assert_eq!(directory.lines("said", 2), ["up", "asked"]);
}

#[test]
fn a_command_that_asks_a_program_is_asked_to_end_itself_before_it_is_killed() {
    let directory = Directory::new();
    let said = directory.path("said").display().to_string();
    let command = format!("trap 'echo asked >> {said}; exit 7' TERM; echo up >> {said}; while :; do sleep 0.01; done");
    let asked = Program { ready: Ready::Probe(Probe::Exec(command)), ..program("sleep", &["1000"]) };
    let mut driven = driven(asked, Vec::new());
    driven.build(1);
    directory.lines("said", 1);
    driven.close(HUGE);
    assert_eq!(directory.lines("said", 2), ["up", "asked"]);
    drop(built(&driven));
    assert_eq!(finished(&driven), 1);
}

#[test]
fn a_program_that_cannot_be_started_says_so_with_the_shell_s_code() {
    let driven = driven(program("nosuchprogram", &[]), Vec::new());
    let error = driven.build_here(1).unwrap_err();
    let wanted = CannotStart { code: 127, message: "nosuchprogram: not found".into() };
    assert_eq!(error.downcast_ref::<CannotStart>(), Some(&wanted));
}

#[test]
fn signals_are_passed_on() {
    let directory = Directory::new();
    let said = directory.path("said").display().to_string();
    let script = format!("trap 'echo got >> {said}; exit 5' USR1; echo ready >> {said}; while :; do sleep 0.01; done");
    let driven = driven(sh(&script), Vec::new());
    let one = driven.build_here(1).unwrap();
    directory.lines("said", 1);
    one.signal(10);
    assert_eq!(failed(&driven), "it exited with code 5");
    finished(&driven);
    drop(one);
}

#[test]
fn sockets_are_at_3_and_4_with_their_names_and_nothing_else_is_open() {
    let directory = Directory::new();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let unix = directory.path("unix");
    let address = tcp.local_addr().unwrap();
    let sockets = vec![
        Socket { name: "http".into(), socket: tcp.into() },
        Socket { name: String::new(), socket: UnixListener::bind(&unix).unwrap().into() },
    ];
    let script = "
import os, socket
env = os.environ
assert env['LISTEN_PID'] == str(os.getpid()), env['LISTEN_PID']
facts = [env['LISTEN_FDS'], env['LISTEN_FDNAMES'], sorted(int(fd) for fd in os.listdir('/proc/self/fd'))]
tcp, unix = socket.socket(fileno=3), socket.socket(fileno=4)
for listener in tcp, unix:
    client, _ = listener.accept()
    client.sendall(repr(facts).encode() + b'\\n')
    client.close()
tcp.accept()
";
    let driven = driven(python(script), sockets);
    assert!(driven.overlaps());
    let one = driven.build_here(1).unwrap();
    // The fifth is the directory that is being read.
    let wanted = "['2', 'http:', [0, 1, 2, 3, 4, 5]]\n";
    let mut line = String::new();
    BufReader::new(TcpStream::connect(address).unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, wanted);
    line.clear();
    BufReader::new(UnixStream::connect(&unix).unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, wanted);
    one.stop(HUGE);
    finished(&driven);
}

#[test]
fn the_port_is_free_when_the_program_is_finished_and_no_guardian_holds_it() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let sockets = vec![Socket { name: String::new(), socket: tcp.into() }];
    // The program closes the socket and keeps running.
    let script = "import os, time\nos.close(3)\ntime.sleep(1000)";
    let mut driven = driven(python(script), sockets);
    let one = driven.build_here(1).unwrap();
    driven.close(HUGE);
    // If a process still has it, its queue may fill up.
    let connect = || TcpStream::connect_timeout(&address, LIMIT);
    eventually("nobody has the socket", || {
        connect().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
    one.stop(Duration::ZERO);
    finished(&driven);
}

#[test]
fn the_next_one_starts_on_the_same_socket_before_the_last_one_goes() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap();
    let script = "
import os, socket
listener = socket.socket(fileno=3)
while True:
    client, _ = listener.accept()
    client.sendall(b'%d\\n' % os.getpid())
    client.close()
";
    let mut driven = driven(python(script), vec![Socket { name: "a".into(), socket: tcp.into() }]);
    let ask = || {
        let mut line = String::new();
        BufReader::new(TcpStream::connect(address).unwrap()).read_line(&mut line).unwrap();
        line
    };
    let first = driven.build_here(1).unwrap();
    let served_by = ask();
    driven.build(2);
    let second = built(&driven).unwrap();
    first.retire(HUGE);
    assert_eq!(finished(&driven), 1);
    assert_ne!(ask(), served_by);
    second.stop(HUGE);
    assert_eq!(finished(&driven), 2);
}

#[test]
fn a_program_says_that_it_is_ready() {
    let directory = Directory::new();
    let socket = directory.path("socket");
    let script = format!(
        "
import os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ['NOTIFY_SOCKET'])
open('{0}.new', 'w').write(os.environ['NOTIFY_SOCKET'] + '\\n')
os.rename('{0}.new', '{0}')
notify.send(b'STATUS=starting')
while not os.path.exists('{0}.go'):
    time.sleep(0.01)
notify.send(b'STATUS=started\\nREADY=1')
time.sleep(1000)
",
        socket.display()
    );
    let mut driven = driven(Program { ready: Ready::Notify, ..python(&script) }, Vec::new());
    driven.build(1);
    let notify = PathBuf::from(&directory.lines("socket", 1)[0]);
    assert!(driven.next(Duration::from_millis(300)).is_none(), "it is not ready");
    fs::write(directory.path("socket.go"), "").unwrap();
    let one = built(&driven).unwrap();
    one.stop(HUGE);
    assert_eq!(finished(&driven), 1);
    assert!(!notify.exists() && !notify.parent().unwrap().exists());
}

#[test]
fn a_program_that_is_not_ready_in_time_is_gone_and_its_last_words_are_told() {
    let directory = Directory::new();
    let pid = directory.path("pid").display().to_string();
    let script = format!("echo $$ > {pid}; echo one >&2; echo two >&2; trap '' TERM; sleep 1000");
    let slow = Program { ready: Ready::Notify, ready_within: Duration::from_secs(3), ..sh(&script) };
    let mut driven = driven(slow, Vec::new());
    driven.build(1);
    assert_eq!(built(&driven).unwrap_err(), "it was not ready within 3 s: it did not send READY=1");
    assert!(!is_there(directory.pids("pid", 1)[0]));
}

#[test]
fn a_program_that_ends_before_it_is_ready_was_never_built() {
    for ready in
        [Ready::Notify, Ready::After(HUGE), Ready::Probe(Probe::Connect(Address::Tcp(([127, 0, 0, 1], 1).into())))]
    {
        let broken = Program { ready, ..sh("echo SyntaxError >&2; exit 3") };
        let mut driven = driven(broken, Vec::new());
        driven.build(1);
        let wanted = "it exited with code 3 before it was ready";
        assert_eq!(built(&driven).unwrap_err(), wanted);
        assert!(driven.next(Duration::from_millis(100)).is_none(), "master control hears of one that it has not got");
    }
}

#[test]
fn a_program_is_ready_when_its_port_answers() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let script =
        format!("import socket, time\ns = socket.create_server(('127.0.0.1', {}))\ntime.sleep(1000)", address.port());
    let driven =
        driven(Program { ready: Ready::Probe(Probe::Connect(Address::Tcp(address))), ..python(&script) }, Vec::new());
    let one = driven.build_here(1).unwrap();
    TcpStream::connect(address).unwrap();
    one.stop(HUGE);
    finished(&driven);
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn the_queue_of_a_socket_of_ours_does_not_make_a_program_ready() {
    let tcp = TcpListener::bind("0.0.0.0:0").unwrap();
    let loopback = Address::Tcp(([127, 0, 0, 1], tcp.local_addr().unwrap().port()).into());
    let ready = Ready::Probe(Probe::Connect(loopback));
    let hangs = Program { ready, ready_within: Duration::from_secs(1), ..program("sleep", &["1000"]) };
    let mut driven = driven(hangs, vec![Socket { name: String::new(), socket: tcp.into() }]);
    driven.build(1);
    let reason = built(&driven).unwrap_err();
    assert!(reason.contains("since the supervisor holds that socket"), "{reason}");
}

#[test]
fn a_program_is_ready_after_a_time() {
    let time = Duration::from_millis(200);
    let mut driven = driven(Program { ready: Ready::After(time), ..program("sleep", &["1000"]) }, Vec::new());
    let began = Instant::now();
    driven.build(1);
    let one = built(&driven).unwrap();
    assert!(began.elapsed() >= time);
    drop(one);
    finished(&driven);
}

/// The launcher, which exists before the program, would lose them.
#[test]
fn signals_that_come_before_the_program_has_started_are_for_the_program() {
    for _ in 0..20 {
        let guardian = Guardian::new(&["sleep", "1000"]);
        guardian.order("stop 15 600000");
        assert_eq!(guardian.rest().split_off(1), ["ended signal 15", "gone 0"]);
        let guardian = Guardian::new(&["sleep", "1000"]);
        guardian.order("signal 12");
        assert_eq!(guardian.rest().split_off(1), ["ended signal 12", "gone 0"]);
    }
}

#[test]
fn a_build_under_way_is_handed_over_when_no_server_is_wanted_any_more() {
    let directory = Directory::new();
    let pid = directory.path("pid").display().to_string();
    let never = Program { ready: Ready::Notify, ready_within: HUGE, ..sh(&format!("echo $$ > {pid}; sleep 1000")) };
    let mut driven = driven(never, Vec::new());
    driven.build(1);
    let pid = directory.pids("pid", 1)[0];
    // The program has begun its work, and is asked to end at once, whatever its builder is doing.
    driven.close(HUGE);
    let one = built(&driven).unwrap();
    assert_eq!(finished(&driven), 1);
    assert!(!is_there(pid));
    assert_eq!(one.end(), (Some(ProgramEnd::Signaled(TERM)), 0));
    driven.build(2);
    assert_eq!(built(&driven).unwrap_err(), "the server is being stopped");
}

#[test]
fn a_killed_guardian_is_a_failure_and_nothing_of_its_family_is_left() {
    let directory = Directory::new();
    let pids = directory.path("pids").display().to_string();
    let script = format!(
        "trap '' TERM HUP; setsid sh -c 'trap \"\" TERM HUP; sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait' &
         env -i sleep 1000 & echo $! >> {pids}; echo $$ >> {pids}; wait"
    );
    let driven = driven(sh(&script), Vec::new());
    let one = driven.build_here(1).unwrap();
    let pids = directory.pids("pids", 4);
    let program = *pids.iter().find(|&&pid| runs(pid) && stat_parent_is_guardian(pid)).unwrap();
    kill(parent(program), "KILL");
    assert_eq!(failed(&driven), "it was killed along with its guardian");
    assert_eq!(finished(&driven), 1);
    assert!(pids.iter().all(|&pid| !is_there(pid)), "{pids:?}");
    assert_eq!(one.end(), (Some(ProgramEnd::Unguarded), 4));
}

#[test]
fn a_guardian_that_is_killed_before_the_program_is_ready_is_named() {
    let directory = Directory::new();
    let pid = directory.path("pid").display().to_string();
    let never = Program { ready: Ready::Notify, ready_within: HUGE, ..sh(&format!("echo $$ > {pid}; sleep 1000")) };
    let mut driven = driven(never, Vec::new());
    driven.build(1);
    let guardian = parent(directory.pids("pid", 1)[0]);
    // The start of the program has woken it. When it sleeps again, it has reported that.
    eventually("the guardian sleeps", || stat(guardian)[0] == "S");
    kill(guardian, "KILL");
    assert_eq!(built(&driven).unwrap_err(), "it was killed along with its guardian before it was ready");
}

/// The fields of proc_pid_stat(5) after the name: the state, the parent, and others.
fn stat(pid: u32) -> Vec<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').map(str::to_owned).collect()
}

fn parent(pid: u32) -> u32 {
    stat(pid)[1].parse().unwrap()
}

fn stat_parent_is_guardian(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{}/comm", parent(pid))).is_ok_and(|name| name.trim() == "guardian")
}

#[test]
fn a_killed_supervisor_leaves_neither_program_nor_notify_socket() {
    let directory = Directory::new();
    let notify = directory.path("mastercontrol-ready-0123456789abcdef");
    fs::create_dir(&notify).unwrap();
    let socket = notify.join("socket");
    fs::write(&socket, "").unwrap();
    let mut guardian = Guardian::with(&["sleep", "1000"], |command| {
        command.env("NOTIFY_SOCKET", &socket);
    });
    guardian.started();
    guardian.reports.get_ref().shutdown(std::net::Shutdown::Both).unwrap();
    let end = guardian.process.wait().unwrap();
    assert_eq!(end.signal(), None);
    assert!(!notify.exists());
}
