//! `kill -9` of programs, guardians and supervisors, some of them suspended: what is reported, and that nothing is
//! left.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::exec::{as_process_1, assert_leaves_nothing, assert_nothing_runs, below, sh};
use crate::pty::{is_stopped, stat};
use crate::signals::DEAF;
use crate::support::{HUGE, Home, Instance, LIMIT, Reader, SUPERVISOR, USUAL_KILLS, eventually, free_port};

const SERVER: &str = env!("CARGO_BIN_EXE_version-1");

/// How often something is killed or suspended. `KILLS` asks for a longer run than the suite has time for.
fn kills() -> u64 {
    std::env::var("KILLS").map_or(USUAL_KILLS.into(), |kills| kills.parse().unwrap())
}

/// Numbers that look random and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(u64::try_from(choices.len()).unwrap())).unwrap()]
    }

    /// Waits for a random moment of a restart.
    fn moment(&mut self) {
        thread::sleep(Duration::from_micros(self.below(60_000)));
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Deputy,
    Guardian,
    Program,
}

/// What is done to a victim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Kill,
    Suspend,
    KillWhileSuspended,
}

/// Supervisors with one name and one port, one after the other.
struct Lives {
    home: Home,
    port: String,
    temporary: PathBuf,
    random: Random,
}

impl Lives {
    fn new(seed: u64) -> Lives {
        let home = Home::new();
        let temporary = home.directory().join("tmp");
        fs::create_dir(&temporary).unwrap();
        Lives { home, port: free_port().to_string(), temporary, random: Random(seed) }
    }

    /// A supervisor that tolerates crashes, with a server that has a detached descendant. Each start writes more than
    /// fits into a pipe that is not read. With `proves`, a generation proves itself beside the old one, and is checked
    /// while it serves.
    fn start(&self, proves: bool) -> Instance {
        let options = ["--listen", &self.port, "--grace", HUGE, "--ready", "notify", "--restart", "always"];
        let proving =
            ["--overlap", "50ms", "--check", "exec=true", "--check-every", "100ms", "--check-failures", "100"];
        let more = if proves { &proving[..] } else { &[] };
        let script = format!("setsid sleep 600 & seq 20000 >&2 & exec {SERVER}");
        let mut command = self.home.exec_command(&[&options[..], more].concat(), &sh(&script));
        command.env("TMPDIR", &self.temporary);
        self.home.exec_by(command)
    }

    /// The entries of its journal, because its log may not be read.
    fn events(&self, instance: &Instance) -> String {
        self.home.admin(&["--name", &instance.name, "events"]).out
    }

    /// A process of this kind, of whatever generation. None: there is none at this moment.
    fn find(&mut self, victim: Victim, supervisor: &Instance) -> Option<Pid> {
        let below = |is_it: fn(&str) -> bool| {
            let found = below(&self.home, supervisor).into_iter().filter(|(_, line)| is_it(line));
            found.map(|(pid, _)| pid).collect::<Vec<_>>()
        };
        let found = match victim {
            Victim::Supervisor => vec![supervisor.pid],
            Victim::Deputy => below(|line| line.contains(" @deputy ")),
            Victim::Guardian => below(|line| line.contains(" @guard ")),
            Victim::Program => below(|line| line == SERVER || line.starts_with("sh -c setsid")),
        };
        (!found.is_empty()).then(|| Pid::from_raw(i32::try_from(self.random.of(&found)).unwrap()))
    }

    fn live(&mut self, kills: u64) {
        let mut instance = self.start(false);
        for _ in 0..kills {
            // It stays like that, maybe while the program and the supervisor have much to write.
            instance.err.read_by(self.random.of(&[Reader::Eager, Reader::Slow, Reader::Stalled]));
            let restart = instance.admin_begins(&["restart"]);
            self.random.moment();
            let victim = self.random.of(&[Victim::Supervisor, Victim::Deputy, Victim::Guardian, Victim::Program]);
            let deed = self.random.of(&[Deed::Kill, Deed::Suspend, Deed::KillWhileSuspended]);
            let found = self.find(victim, &instance);
            // It may have ended meanwhile.
            let send = |signal| _ = found.map(|pid| kill(pid, signal));
            if deed != Deed::Kill {
                send(Signal::SIGSTOP);
                self.random.moment();
            }
            match (deed, victim) {
                (Deed::Suspend, _) => {
                    send(Signal::SIGCONT);
                    restart.end();
                }
                (_, Victim::Supervisor) => {
                    let log = instance.err.clone();
                    // The next one starts at once, while everything that this one started is still ending.
                    instance.kill();
                    log.read_by(Reader::Eager);
                    let proves = self.random.of(&[false, true]);
                    instance = self.start(proves);
                }
                (_, Victim::Deputy | Victim::Guardian | Victim::Program) => {
                    send(Signal::SIGKILL);
                    restart.end();
                }
            }
            // A kill of a supervisor while it kills what a guardian has left kills both.
            let (began, mut has_said) = (Instant::now(), false);
            eventually("one generation serves, and nothing is left of others", || {
                let below = below(&self.home, &instance);
                if !has_said && began.elapsed() > LIMIT / 2 {
                    has_said = true;
                    // Shows why it takes so long, in case it never comes true.
                    eprintln!(
                        "{deed:?} of {victim:?}\n{below:#?}\n{:#}\n{}",
                        instance.status(),
                        self.events(&instance)
                    );
                }
                let number = |is_it: &dyn Fn(&str) -> bool| below.iter().filter(|(_, line)| is_it(line)).count();
                // A check has a guardian and a deputy of its own, for a moment.
                let is_check = |line: &str| line.ends_with("\ntrue");
                let guardians = number(&|line| line.contains(" @guard ") && !is_check(line));
                let deputies = number(&|line| line.contains(" @deputy ") && !is_check(line));
                let (servers, sleepers) = (number(&|line| line == SERVER), number(&|line| line == "sleep 600"));
                // The sleeper may have been killed before it became one: until then it has its parent's command line.
                let status = instance.status();
                let is_alone = guardians == 1 && deputies <= 1 && servers == 1 && sleepers <= 1;
                let is_well = is_alone && status["state"] == "serving" && status["drain"].is_null();
                // One that has been killed may still be ending, and then closes the connection.
                is_well
                    && match answer(&instance) {
                        Ok(answer) => answer == "version_1 0.1.0: hello\n",
                        Err(error) if [ErrorKind::WouldBlock, ErrorKind::TimedOut].contains(&error.kind()) => {
                            panic!("{deed:?} of {victim:?}: a client got no answer\n{}", self.events(&instance))
                        }
                        Err(_) => false,
                    }
            });
        }
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        instance.err.read_by(Reader::Eager);
        assert_leaves_nothing(&self.home);
        instance.assert_port_is_free();
        let left: Vec<_> = fs::read_dir(&self.temporary).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The guardian of the only generation.
fn guardian(home: &Home, instance: &Instance) -> Pid {
    stage(home, instance, " @guard ")
}

/// The deputy of that guardian.
fn deputy(home: &Home, instance: &Instance) -> Pid {
    stage(home, instance, " @deputy ")
}

fn stage(home: &Home, instance: &Instance, stage: &str) -> Pid {
    let found: Vec<_> = below(home, instance).into_iter().filter(|(_, line)| line.contains(stage)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    Pid::from_raw(i32::try_from(found[0].0).unwrap())
}

/// A program with two other processes, none of which ends when it is asked to.
fn stubborn(home: &Home, options: &[&str]) -> Instance {
    let script = "trap '' TERM; setsid sleep 600 & sleep 601 & echo up; wait";
    let instance = home.exec(&[&["--grace", HUGE], options].concat(), &sh(script));
    instance.out.wait_for("up");
    eventually("all are there", || {
        below(home, &instance).iter().filter(|(_, line)| line.starts_with("sleep 60")).count() == 2
    });
    instance
}

#[test]
fn a_killed_guardian_is_said_to_be_the_reason_and_what_had_to_be_killed_is_counted() {
    let home = Home::new();
    let instance = stubborn(&home, &[]);
    kill(guardian(&home, &instance), Signal::SIGKILL).unwrap();
    instance.err.wait_for("error: generation 1 crashed: it was killed along with its guardian");
    let end = instance.err.wait_for("generation 1 stopped in");
    assert!(end.ends_with("(killed along with its guardian, 3 processes had to be killed)"), "{end}");
    instance.err.wait_for("generation 2 is ready: ");
    instance.admin(&["stop", "--now"]).expect(5);
    assert_eq!(instance.wait(), 5);
    assert_leaves_nothing(&home);
}

/// A shell starts a child, and then becomes the supervisor by `exec`. On command, that child leaves a daemon behind.
#[test]
fn a_killed_guardian_takes_nothing_along_that_is_not_its_program_s() {
    let home = Home::new();
    let (go, duration) = (home.directory().join("go"), unique());
    let exec = home.exec_command(&["--grace", HUGE], &["sleep", "600"]);
    let script = format!(
        "(while [ ! -e {go} ]; do sleep 0.01; done; (env -i setsid sleep {duration} &); sleep 600) & exec \"$@\"",
        go = go.display()
    );
    let mut command = home.program("sh");
    command.args(["-c", &script, "sh"]).arg(exec.get_program()).args(exec.get_args()).stderr(Stdio::piped());
    let instance = home.exec_by(command);
    fs::write(&go, "").unwrap();
    let daemon = || sleeper(duration);
    let parent = |pid: u32| stat(pid, 4);
    eventually("the daemon has come to the supervisor", || {
        daemon().is_some_and(|pid| parent(pid) == instance.pid.to_string())
    });
    let daemon = daemon().unwrap();
    kill(guardian(&home, &instance), Signal::SIGKILL).unwrap();
    instance.err.wait_for("generation 1 stopped in");
    instance.err.wait_for("generation 2 is ready: ");
    assert_eq!(sleeper(duration), Some(daemon));
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_eq!(sleeper(duration), Some(daemon));
    kill(Pid::from_raw(i32::try_from(daemon).unwrap()), Signal::SIGKILL).unwrap();
    for (pid, line) in home.processes() {
        assert!(line.starts_with("sh -c (while") || line == "sleep 600", "{line}");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }
}

/// A time to sleep that no other run of the tests uses, because all runs see the same processes.
fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    1_000_000 + std::process::id() * 10 + NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The process that sleeps for this long, whatever its environment.
fn sleeper(duration: u32) -> Option<u32> {
    let line = format!("sleep\0{duration}\0");
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|it| it == line))
}

/// By then, a process that has changed its group, session, parent and environment is a child of the deputy.
#[test]
fn as_process_1_a_killed_guardian_leaves_nothing_of_its_program_and_takes_nothing_of_others() {
    let home = Home::new();
    let (own, other) = (unique(), unique());
    let script = format!("(env -i setsid sleep {own} &); echo up; exec sleep 600");
    let Some(process) = as_process_1(&home, &["--restart", "always", "--grace", HUGE], &script) else { return };
    process.out.wait_for("up");
    eventually("its daemon is there", || sleeper(own).is_some());
    let daemon = sleeper(own);
    let find = |first: &str, rest: &str| {
        let is_it = |line: &str| line.strip_prefix(first).is_some_and(|line| line.starts_with(rest));
        home.processes().into_iter().find(|(_, line)| is_it(line)).unwrap().0
    };
    let supervisor = find(SUPERVISOR, " exec ");
    // As `exec` into a container does.
    let mut visitor = home.program("nsenter");
    visitor.args(["--target", &supervisor.to_string(), "--pid", "--mount", "sh", "-c"]);
    visitor.arg(format!("(env -i setsid sleep {other} > /dev/null 2>&1 &)"));
    home.run(visitor).expect(0);
    eventually("the visitor's daemon has come to process 1", || {
        sleeper(other).is_some_and(|pid| stat(pid, 4) == supervisor.to_string())
    });
    let guardian = Pid::from_raw(i32::try_from(find("supervisor", " @guard ")).unwrap());
    kill(guardian, Signal::SIGKILL).unwrap();
    process.err.wait_for("generation 1 stopped in");
    process.err.wait_for("generation 2 is ready: ");
    eventually("the next one has a daemon, too", || sleeper(own).is_some());
    assert_ne!(sleeper(own), daemon);
    assert!(sleeper(other).is_some());
    kill(Pid::from_raw(i32::try_from(supervisor).unwrap()), Signal::SIGTERM).unwrap();
    assert_eq!(process.wait(), 0, "{}", process.err.whole());
    assert_nothing_runs(&home);
}

#[test]
fn a_killed_deputy_leaves_the_program_serving_and_a_stop_works() {
    let home = Home::new();
    let instance = stubborn(&home, &[]);
    kill(deputy(&home, &instance), Signal::SIGKILL).unwrap();
    eventually("it is gone", || !below(&home, &instance).iter().any(|(_, line)| line.contains(" @deputy ")));
    assert_eq!(instance.status()["crashes"], 0);
    instance.admin(&["stop", "--grace", "0.1"]).expect(5).says("3 processes had to be killed");
    assert_eq!(instance.wait(), 5);
    assert_leaves_nothing(&home);
}

#[test]
fn a_guardian_that_is_killed_together_with_its_deputy_leaves_nothing_that_can_be_known() {
    let home = Home::new();
    let instance = stubborn(&home, &[]);
    kill(deputy(&home, &instance), Signal::SIGKILL).unwrap();
    kill(guardian(&home, &instance), Signal::SIGKILL).unwrap();
    instance.err.wait_for("error: generation 1 crashed: it was killed along with its guardian");
    instance.err.wait_for("generation 2 is ready: ");
    eventually("only one generation is left", || {
        below(&home, &instance).iter().filter(|(_, line)| line.starts_with("sleep 60")).count() == 2
    });
    instance.admin(&["stop", "--now"]).expect(5);
    assert_eq!(instance.wait(), 5);
    assert_leaves_nothing(&home);
}

#[test]
fn a_guardian_that_is_killed_during_a_stop_ends_it_and_that_is_said() {
    let home = Home::new();
    let instance = stubborn(&home, &[]);
    let stop = instance.admin_begins(&["stop"]);
    instance.err.wait_for("stopping, grace period 600 s");
    kill(guardian(&home, &instance), Signal::SIGKILL).unwrap();
    stop.end().expect(5).says("killed along with its guardian, 3 processes had to be killed");
    assert_eq!(instance.wait(), 5);
    assert_leaves_nothing(&home);
}

#[test]
fn without_restarts_a_killed_guardian_ends_the_supervisor_as_its_program_was_ended() {
    let home = Home::new();
    let instance = stubborn(&home, &["--restart", "never"]);
    kill(guardian(&home, &instance), Signal::SIGKILL).unwrap();
    assert_eq!(instance.wait(), 128 + 9);
    assert!(instance.log().contains("the server ended: it was killed along with its guardian"), "{}", instance.log());
    assert_leaves_nothing(&home);
}

#[test]
fn a_guardian_does_not_stay_suspended() {
    let home = Home::new();
    let instance = home.exec(&["--grace", HUGE], &["sleep", "600"]);
    let guardian = guardian(&home, &instance);
    for _ in 0..3 {
        kill(guardian, Signal::SIGSTOP).unwrap();
        eventually("it is continued", || !is_stopped(guardian.as_raw().unsigned_abs()));
    }
    kill(guardian, Signal::SIGSTOP).unwrap();
    instance.admin(&["stop"]).expect(0).says("exited on SIGTERM");
    assert_eq!(instance.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn a_guardian_does_not_stay_suspended_where_the_signal_of_that_was_blocked() {
    let home = Home::new();
    let exec = home.exec_command(&["--grace", HUGE], &["sleep", "600"]);
    let mut command = home.program(DEAF[0]);
    command.args(&DEAF[1..]).arg(exec.get_program()).args(exec.get_args());
    command.stderr(Stdio::piped());
    let instance = home.exec_by(command);
    let guardian = guardian(&home, &instance);
    kill(guardian, Signal::SIGSTOP).unwrap();
    eventually("it is continued", || !is_stopped(guardian.as_raw().unsigned_abs()));
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

/// A process that is held as by a debugger: nothing else can continue it.
struct Held(Pid);

impl Held {
    fn new(pid: Pid) -> Held {
        ptrace::seize(pid, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(pid).unwrap();
        waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        Held(pid)
    }

    fn end(self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

#[test]
fn a_guardian_that_is_held_makes_a_stop_overrun_which_speaks_of_the_program() {
    let home = Home::new();
    let instance = home.exec(&["--grace", "0.1"], &["sleep", "600"]);
    let guardian = guardian(&home, &instance);
    let held = Held::new(guardian);
    instance.admin(&["stop"]).expect(6);
    let process = instance.into_process();
    assert_eq!(process.wait(), 8);
    process.err.wait_for("so the process ends: a process of the program does not end although it was killed");
    held.end();
    eventually("all are gone", || home.processes().is_empty());
}

#[test]
fn a_guardian_that_is_held_and_a_flood_of_signals_hold_up_no_command_and_the_stop_is_not_lost() {
    let home = Home::new();
    let instance = home.exec(&["--grace", HUGE], &["sleep", "600"]);
    let held = Held::new(guardian(&home, &instance));
    eventually("signals are dropped", || {
        instance.signal(Signal::SIGWINCH);
        instance.err.so_far().contains("SIGWINCH and further signals are not passed on")
    });
    assert_eq!(instance.status()["state"], "serving");
    instance.admin(&["signal", "HUP"]).expect(1).says("the guardian of the program does not read");
    instance.admin(&["stop", "--no-wait"]).expect(0);
    held.end();
    assert_eq!(instance.wait(), 0);
    assert!(instance.log().contains("exited on SIGTERM"), "{}", instance.log());
    assert_leaves_nothing(&home);
}

#[test]
fn a_program_that_is_suspended_is_logged_and_goes_on_when_it_is_continued() {
    let home = Home::new();
    let instance = home.exec(&["--grace", HUGE], &sh("echo up $$; kill -TSTP $$; echo on; exec sleep 600"));
    let pid = instance.out.wait_for("up ").split_once(' ').unwrap().1.to_owned();
    let line = instance.err.wait_for("suspended");
    let wanted = format!("warning: the program (pid {pid}) was suspended by SIGTSTP; `kill -CONT {pid}` continues it");
    assert!(line.ends_with(&wanted), "{line}");
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGCONT).unwrap();
    instance.out.wait_for("on");
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert_eq!(instance.log().matches("suspended").count(), 1, "{}", instance.log());
}

fn suspend(instance: &Instance) {
    instance.signal(Signal::SIGSTOP);
    eventually("it is suspended", || is_stopped(instance.pid));
}

#[test]
fn a_supervisor_that_is_killed_together_with_its_guardian_leaves_nothing() {
    let lives = Lives::new(0);
    let instance = lives.start(false);
    // It must not clean up after its guardian.
    suspend(&instance);
    kill(guardian(&lives.home, &instance), Signal::SIGKILL).unwrap();
    instance.kill();
    eventually("all are gone", || lives.home.processes().is_empty());
    assert_eq!(fs::read_dir(&lives.temporary).unwrap().count(), 0);
}

/// Its descendants have the port until they are killed, which takes a moment.
#[test]
fn a_start_right_after_a_kill_waits_for_the_port() {
    let home = Home::new();
    let port = free_port().to_string();
    let command = || home.exec_command(&["--listen", &port, "--grace", HUGE], &["sleep", "600"]);
    let killed = home.exec_by(command());
    let held = Held::new(guardian(&home, &killed));
    killed.kill();
    let next = home.spawn(command());
    thread::sleep(Duration::from_millis(500));
    assert!(next.is_running(), "{}", next.err.so_far());
    held.end();
    next.err.wait_for("listening on ");
    next.signal(Signal::SIGTERM);
    assert_eq!(next.wait(), 0, "{}", next.err.so_far());
    assert_leaves_nothing(&home);
}

#[test]
fn what_a_supervisor_leaves_that_is_killed_together_with_its_guardians_is_removed_by_the_next_one() {
    let lives = Lives::new(0);
    let left = || fs::read_dir(&lives.temporary).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let instance = lives.start(false);
    let below = |instance: &Instance| below(&lives.home, instance);
    eventually("all that the program starts has been started", || {
        let is_there_to_stay = |line: &str| line == SERVER || line == "sleep 600" || line.contains(" @");
        let below = below(&instance);
        below.iter().any(|it| it.1 == "sleep 600") && below.iter().all(|it| is_there_to_stay(&it.1))
    });
    // It must not clean up after them.
    suspend(&instance);
    kill(deputy(&lives.home, &instance), Signal::SIGKILL).unwrap();
    kill(guardian(&lives.home, &instance), Signal::SIGKILL).unwrap();
    eventually("the program has died with it", || !below(&instance).iter().any(|it| it.1 == SERVER));
    instance.kill();
    let leftover = left();
    assert_eq!(leftover.len(), 1, "there is no leftover, so this test does not test anything");
    // A process that the program had started is an orphan now, and has the socket.
    let are_orphans = || lives.home.processes().iter().all(|(_, line)| line == "sleep 600");
    eventually("only orphans are left", are_orphans);
    for (pid, _) in lives.home.processes() {
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }
    eventually("the port is free", || TcpListener::bind(("127.0.0.1", lives.port.parse().unwrap())).is_ok());
    let instance = lives.start(false);
    assert!(left().len() == 1 && left() != leftover, "{:?}", left());
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert!(left().is_empty(), "{:?}", left());
    assert_leaves_nothing(&lives.home);
}

fn answer(instance: &Instance) -> io::Result<String> {
    let mut stream = TcpStream::connect(instance.address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"hello\n")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}

#[test]
fn after_random_kills_and_suspensions_during_restarts_it_serves_again_and_nothing_is_left() {
    let seed =
        std::env::var("SEED").map_or_else(|_| RandomState::new().build_hasher().finish(), |it| it.parse().unwrap());
    // Shown when the test fails.
    eprintln!("SEED={seed}");
    let lives = 4;
    thread::scope(|scope| {
        for life in 0..lives {
            scope.spawn(move || Lives::new(seed.wrapping_add(life)).live(kills().div_ceil(lives)));
        }
    });
}
