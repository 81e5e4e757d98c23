//! `kill -9` of programs, guardians and supervisors: what is said of it, and that nothing is left.

use std::fs;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::exec::{assert_leaves_nothing, below, sh};
use crate::pty::is_stopped;
use crate::signals::DEAF;
use crate::support::{HUGE, Home, Instance, LIMIT, eventually, free_port};

const SERVER: &str = env!("CARGO_BIN_EXE_version-1");

/// How often something is killed. More of it, for a longer look than the suite has time for.
fn kills() -> u64 {
    std::env::var("KILLS").map_or(200, |kills| kills.parse().unwrap())
}

/// Numbers that look random, and are the same for the same seed (splitmix64).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Supervisor,
    Guardian,
    Program,
}

/// Supervisors of one name and one port, one after the other.
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

    /// One that runs a server with a descendant which has left it, and takes no crash amiss.
    fn start(&self) -> Instance {
        let options = ["--listen", &self.port, "--grace", HUGE, "--ready", "notify"];
        let patient = ["--restart", "always", "--max-restarts", "100000", "--period", "1ms"];
        let script = format!("setsid sleep 600 & exec {SERVER}");
        let mut command = self.home.exec_command(&[&options[..], &patient].concat(), &sh(&script));
        command.env("TMPDIR", &self.temporary);
        self.home.exec_by(command)
    }

    /// Kills one of these, of whatever generation. None if there is none at this moment.
    fn kill(&mut self, victim: Victim, supervisor: &Instance) -> Option<()> {
        let is_it = |line: &str| match victim {
            Victim::Supervisor => false,
            Victim::Guardian => line.contains(" @guard "),
            Victim::Program => line == SERVER || line.starts_with("sh -c setsid"),
        };
        let found: Vec<_> = below(&self.home, supervisor).into_iter().filter(|(_, line)| is_it(line)).collect();
        let chosen = self.random.below(u64::try_from(found.len().max(1)).unwrap());
        let (pid, _) = found.get(usize::try_from(chosen).unwrap())?;
        kill(Pid::from_raw(i32::try_from(*pid).unwrap()), Signal::SIGKILL).ok()
    }

    fn live(&mut self, kills: u64) {
        let mut instance = self.start();
        for _ in 0..kills {
            let restart = instance.admin_begins(&["restart"]);
            thread::sleep(Duration::from_micros(self.random.below(60_000)));
            match [Victim::Supervisor, Victim::Guardian, Victim::Program][self.random.below(3) as usize] {
                Victim::Supervisor => {
                    instance.kill();
                    eventually("all that it has started is gone", || {
                        let left = self.home.processes();
                        left.iter().all(|(pid, _)| *pid == restart.pid)
                    });
                    instance = self.start();
                }
                victim => {
                    let _ = self.kill(victim, &instance);
                    restart.end();
                }
            }
            // Whoever kills a supervisor while it kills what a guardian has left, kills both.
            eventually("one generation serves, and nothing is left of others", || {
                let below = below(&self.home, &instance);
                let number = |is_it: fn(&str) -> bool| below.iter().filter(|(_, line)| is_it(line)).count();
                let guardians = number(|line| line.contains(" @guard "));
                let (servers, sleepers) = (number(|line| line == SERVER), number(|line| line == "sleep 600"));
                // The sleeper may have been killed before it became one: it has its parent's command line until then.
                guardians == 1 && servers == 1 && sleepers <= 1 && instance.status()["state"] == "serving"
            });
            assert_eq!(answer(&instance), "version_1 0.1.0: hello\n");
        }
        instance.admin(&["stop"]).expect(0);
        assert_eq!(instance.wait(), 0);
        assert_leaves_nothing(&self.home);
        instance.assert_port_is_free();
        let left: Vec<_> = fs::read_dir(&self.temporary).unwrap().flatten().collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// The guardian of the one generation that there is.
fn guardian(home: &Home, instance: &Instance) -> Pid {
    let guardians: Vec<_> = below(home, instance).into_iter().filter(|(_, line)| line.contains(" @guard ")).collect();
    assert_eq!(guardians.len(), 1, "{guardians:?}");
    Pid::from_raw(i32::try_from(guardians[0].0).unwrap())
}

/// A program with two others, none of which ends when it is asked to.
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
    assert!(end.ends_with(": it was killed along with its guardian, 3 processes had to be killed"), "{end}");
    instance.err.wait_for("generation 2 is serving");
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
    stop.end().expect(5).says("it was killed along with its guardian, 3 processes had to be killed");
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
        eventually("it goes on", || !is_stopped(guardian.as_raw().unsigned_abs()));
    }
    kill(guardian, Signal::SIGSTOP).unwrap();
    instance.admin(&["stop"]).expect(0).says("it was killed by SIGTERM");
    assert_eq!(instance.wait(), 0);
    assert_leaves_nothing(&home);
}

#[test]
fn a_guardian_does_not_stay_suspended_where_the_signal_of_that_was_blocked() {
    let home = Home::new();
    let exec = home.exec_command(&["--grace", HUGE], &["sleep", "600"]);
    let mut command = home.program(DEAF[0]);
    command.args(&DEAF[1..]).arg(exec.get_program()).args(exec.get_args());
    command.stderr(std::process::Stdio::piped());
    let instance = home.exec_by(command);
    let guardian = guardian(&home, &instance);
    kill(guardian, Signal::SIGSTOP).unwrap();
    eventually("it goes on", || !is_stopped(guardian.as_raw().unsigned_abs()));
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
}

/// As a debugger does.
#[test]
fn a_guardian_that_is_held_makes_a_stop_overrun_which_speaks_of_the_program() {
    let home = Home::new();
    let instance = home.exec(&["--grace", "0.1"], &["sleep", "600"]);
    let guardian = guardian(&home, &instance);
    ptrace::seize(guardian, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(guardian).unwrap();
    waitpid(guardian, Some(WaitPidFlag::__WALL)).unwrap();
    instance.admin(&["stop"]).expect(6);
    let process = instance.into_process();
    assert_eq!(process.wait(), 8);
    let log = process.err.so_far();
    assert!(
        log.contains("so the process ends: something of the program does not end, although it was killed"),
        "{log}"
    );
    ptrace::detach(guardian, None).unwrap();
    eventually("all are gone", || home.processes().is_empty());
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

#[test]
fn what_a_supervisor_leaves_that_is_killed_together_with_its_guardian_is_removed_by_the_next_one() {
    let lives = Lives::new(0);
    let left = || fs::read_dir(&lives.temporary).unwrap().flatten().map(|entry| entry.path()).collect::<Vec<_>>();
    let instance = lives.start();
    // It shall not clean up after its guardian.
    instance.signal(Signal::SIGSTOP);
    kill(guardian(&lives.home, &instance), Signal::SIGKILL).unwrap();
    eventually("the program has died with it", || !below(&lives.home, &instance).iter().any(|it| it.1 == SERVER));
    instance.kill();
    let leftover = left();
    assert_eq!(leftover.len(), 1, "there is no leftover, so this test does not test anything");
    // What the program had started is nobody's any more, and has the socket.
    for (pid, line) in lives.home.processes() {
        assert_eq!(line, "sleep 600");
        kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
    }
    eventually("the port is free", || TcpListener::bind(("127.0.0.1", lives.port.parse().unwrap())).is_ok());
    let instance = lives.start();
    assert!(left().len() == 1 && left() != leftover, "{:?}", left());
    instance.admin(&["stop"]).expect(0);
    assert_eq!(instance.wait(), 0);
    assert!(left().is_empty(), "{:?}", left());
    assert_leaves_nothing(&lives.home);
}

fn answer(instance: &Instance) -> String {
    let mut stream = TcpStream::connect(instance.address).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).unwrap();
    answer
}

#[test]
fn after_random_kills_during_restarts_the_next_start_works_and_nothing_is_left() {
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
