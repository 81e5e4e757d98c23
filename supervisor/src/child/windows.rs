//! Programs on Windows.
//!
//! The supervisor puts itself into a job object. Its descendants are in that job from their first moment on. The system
//! ends all of them when the job is closed, which happens when the supervisor ends, for whatever reason. Since no two
//! programs run at the same time, all processes in the job except the supervisor belong to the running program.
//!
//! A thread named `child` waits until nothing of a program is left, and one named `guardian` carries out requests.

use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::os::windows::process::CommandExt;

use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use send_ctrlc::Interruptible;
use win32job::{ExtendedLimitInfo, Job};
use winsafe::guard::CloseHandleGuard;
use winsafe::{AttachConsole, FreeConsole, HPROCESS, PidParent, co};

use super::family_sockets::FamilySockets;
use super::output::Output;
use super::process::{self, Running};
use super::program::{CannotStart, NOT_FOUND, NOT_RUN, Program, not_found};
use super::started::Started;
use crate::journal::Journal;
use crate::log::Level;
use crate::server::deadline::LastMoment;
use crate::server::program_end::ProgramEnd;
use crate::server::{BuildError, lacking};
use crate::sync::lock;
use crate::text::Reason;

/// How long the processes that a program leaves behind get to end when it ends by itself.
const LEFTOVERS: Duration = Duration::from_secs(1);

/// How often to look for processes to kill: a process that is just being started can be missed.
const KILL_AGAIN: Duration = Duration::from_millis(100);

/// How long to wait for the end of the processes that the last program has left behind.
const LAST: Duration = Duration::from_secs(5);

/// How long to sleep before looking again where nothing can be waited for.
const LOOK: Duration = Duration::from_millis(10);

/// The exit code of killed processes.
const KILLED: u32 = 1;

/// The Windows error for a file that is not a program: `ERROR_BAD_EXE_FORMAT`.
const NO_PROGRAM: i32 = 193;

/// A listening socket for programs: there is none, see `listen/windows.rs`.
#[derive(Debug)]
pub struct Socket {
    /// Its name.
    pub name: String,
    /// The socket.
    pub socket: Infallible,
}

impl Socket {
    pub(super) fn try_clone(&self) -> io::Result<Socket> {
        match self.socket {}
    }
}

/// This process, as the parent of the programs that it starts: all are in one job.
#[derive(Debug, Clone)]
pub(super) struct Host {
    job: &'static Job,
    /// Contains a message when there is no program.
    free: Arc<Mutex<Receiver<()>>>,
    leave: Sender<()>,
}

impl Host {
    /// From now on, all processes that this process starts end with it.
    ///
    /// # Errors
    /// What the system says.
    pub(super) fn new() -> io::Result<Host> {
        let job = Job::create_with_limit_info(ExtendedLimitInfo::new().limit_kill_on_job_close())?;
        job.assign_current_process()?;
        let (leave, free) = mpsc::channel();
        drop(Stay(leave.clone()));
        // Closing it would end this process, too.
        Ok(Host { job: Box::leak(Box::new(job)), free: Arc::new(Mutex::new(free)), leave })
    }

    /// Waits until nothing is left of the last program. Until the result is dropped, no other program can enter.
    fn enter(&self) -> Result<Stay, BuildError> {
        lock(&self.free)
            .recv_timeout(LAST)
            .map_err(|_| "the processes that the previous program left behind do not end")?;
        let stay = Stay(self.leave.clone());
        let others = self.others().map_err(|error| lacking("the list of its processes", &error))?;
        match others.first() {
            None => Ok(stay),
            Some(pid) => {
                Err(format!("process {pid}, started by this one, still runs and would be taken for its").into())
            }
        }
    }

    /// The other processes in the job.
    ///
    /// # Errors
    /// What the system says, also if there are more than 1024. Those can be neither waited for nor killed one by one;
    /// they end with this process.
    fn others(&self) -> io::Result<Vec<u32>> {
        let own = std::process::id();
        let pids = self.job.query_process_id_list()?.into_iter();
        Ok(pids.filter_map(|pid| u32::try_from(pid).ok()).filter(|&pid| pid != own).collect())
    }

    /// Opens one of these processes, if it still exists.
    fn open(&self, pid: u32) -> Option<CloseHandleGuard<HPROCESS>> {
        let process = HPROCESS::OpenProcess(co::PROCESS::SYNCHRONIZE | co::PROCESS::TERMINATE, false, pid).ok()?;
        // While it is open, no other process can get its number. So if the number is listed now, it is the intended
        // process.
        self.others().is_ok_and(|others| others.contains(&pid)).then_some(process)
    }

    /// Returns when there is no other process in the job.
    fn wait_until_alone(&self) {
        loop {
            let others = self.others();
            match others.as_ref().map(|others| others.first().map(|&pid| self.open(pid))) {
                Ok(None) => return,
                Ok(Some(Some(process))) if process.WaitForSingleObject(None).is_ok() => {}
                // It has just ended, or this process may not wait for it.
                Ok(Some(_)) | Err(_) => thread::sleep(LOOK),
            }
        }
    }
}

/// A program's stay in the job.
#[derive(Debug)]
struct Stay(Sender<()>);

impl Drop for Stay {
    fn drop(&mut self) {
        // The receiver may be gone.
        let _ = self.0.send(());
    }
}

/// Sends requests to the thread `guardian`.
#[derive(Debug)]
struct Control(Sender<Word>);

#[derive(Debug)]
enum Word {
    /// Ask the program to end, and kill all that is left after this time. A further request only moves the deadline.
    Stop(Duration),
    /// The program itself has ended.
    Ended,
    /// Nothing of it is left.
    Gone,
}

impl process::Control for Control {
    fn stop(&self, within: Duration) {
        // If the guardian is gone, there is nothing left to do.
        let _ = self.0.send(Word::Stop(within));
    }

    /// Windows has no signals to pass on.
    fn signal(&self, _signal: i32) -> bool {
        false
    }

    fn tell(&self, _signal: i32) {}
}

impl Host {
    /// Starts a program. There are no sockets to pass.
    pub(super) fn start(
        &self,
        build: u64,
        program: &Program,
        _sockets: Vec<Socket>,
        log: Journal,
    ) -> Result<Started, BuildError> {
        let lacking = |what| move |error: io::Error| lacking(what, &error);
        let stay = self.enter()?;
        let (output, stderr) = Output::new(log.stderr()).map_err(lacking("a pipe for what it writes"))?;
        let mut command = Command::new(program.path());
        if let Some(directory) = &program.directory {
            command.current_dir(directory);
        }
        command.envs(program.environment.iter().map(|(name, value)| (name, value)));
        command.args(&program.args).creation_flags(co::CREATE::NEW_PROCESS_GROUP.raw()).stdin(Stdio::null());
        command.stderr(stderr);
        for variable in crate::host::VARIABLES {
            command.env_remove(variable);
        }
        let mut child = Kept(command.spawn().map_err(|error| cannot_start(program, &error))?);
        // The command holds our copy of the pipe.
        drop(command);
        let host = self.clone();
        let kills = Arc::new(Mutex::new(Kills::default()));
        let running_log = log.clone();
        let guardian = Guardian { host: host.clone(), program: child.0.id(), log, kills: kills.clone() };
        let (words, requests) = mpsc::channel();
        let control = Box::new(Control(words.clone()));
        thread::Builder::new()
            .name("guardian".into())
            .spawn(move || guardian.guard(&requests))
            .map_err(lacking("a thread to guard it"))?;
        let (steps, received) = mpsc::channel();
        let sockets = FamilySockets::new(child.0.id(), HashMap::new());
        let running = Running::start(build, program, control, running_log, output, steps, move |running| {
            let pid = child.0.id();
            running.has_started(pid);
            let status = child.0.wait().ok();
            running.has_ended(lock(&kills).end_of(pid, status));
            // There is no guardian here to report it.
            let _ = words.send(Word::Ended);
            host.wait_until_alone();
            running.all_exited(lock(&kills).are_over());
            let _ = words.send(Word::Gone);
            drop(stay);
        });
        let running = running.map_err(lacking("a thread to hear of it"))?;
        Ok(Started { running, steps: received, sockets })
    }
}

/// Why a program cannot be started.
fn cannot_start(program: &Program, error: &io::Error) -> CannotStart {
    match error.kind() {
        ErrorKind::NotFound => program.cannot(NOT_FOUND, not_found(&program.program)),
        _ if program.path().is_dir() => program.cannot(NOT_RUN, "is a directory"),
        ErrorKind::PermissionDenied => program.cannot(NOT_RUN, "not permitted"),
        _ if error.raw_os_error() == Some(NO_PROGRAM) => program.cannot(NOT_RUN, "is no program"),
        _ => program.cannot(NOT_RUN, &format!("cannot be run: {}", Reason(error))),
    }
}

/// A process that ends when this value is dropped.
#[derive(Debug)]
struct Kept(Child);

impl Drop for Kept {
    fn drop(&mut self) {
        // This fails if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The thread `guardian` of a program.
#[derive(Debug)]
struct Guardian {
    host: Host,
    program: u32,
    log: Journal,
    kills: Arc<Mutex<Kills>>,
}

#[derive(Debug, Default)]
struct Kills {
    killed: HashSet<u32>,
    /// Processes from now on belong to the next program.
    over: bool,
}

impl Kills {
    fn end_of(&self, program: u32, status: Option<ExitStatus>) -> ProgramEnd {
        match status.and_then(|status| status.code()) {
            Some(code) if !self.killed.contains(&program) => ProgramEnd::Exited(code),
            Some(_) | None => ProgramEnd::Killed,
        }
    }

    /// Ends the kills, and returns how many there were.
    fn are_over(&mut self) -> usize {
        self.over = true;
        self.killed.len()
    }
}

impl Guardian {
    /// Carries out requests until nothing of the program is left.
    fn guard(&self, requests: &Receiver<Word>) {
        let mut asked = false;
        let mut ended = false;
        let mut killing = false;
        let mut last_moment = LastMoment::default();
        let mut deadline: Option<Instant> = None;
        loop {
            let word = match deadline {
                None => requests.recv().map_err(|mpsc::RecvError| RecvTimeoutError::Disconnected),
                Some(deadline) => requests.recv_timeout(deadline.saturating_duration_since(Instant::now())),
            };
            match word {
                Ok(Word::Stop(_)) if killing => {}
                // At once: a request that follows immediately does not cancel this one.
                Ok(Word::Stop(Duration::ZERO)) => {
                    (asked, killing) = (true, true);
                    self.kill();
                    deadline = Some(Instant::now() + KILL_AGAIN);
                }
                Ok(Word::Stop(within)) => {
                    if !asked && !ended {
                        self.ask();
                    }
                    asked = true;
                    // The time starts when the program has been asked. A time that the clock cannot represent means
                    // never.
                    let until = Instant::now().checked_add(within);
                    // The processes that it left behind already have a deadline.
                    let other = if ended { deadline } else { None };
                    deadline = until.into_iter().chain(other).min();
                }
                Ok(Word::Ended) => {
                    ended = true;
                    if !asked {
                        self.ask_leftovers();
                        deadline = Some(Instant::now() + LEFTOVERS);
                    }
                }
                Ok(Word::Gone) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let now = Instant::now();
                    deadline = deadline.and_then(|deadline| last_moment.instead_of(deadline, now)).or_else(|| {
                        killing = true;
                        self.kill();
                        Some(Instant::now() + KILL_AGAIN)
                    });
                }
            }
        }
    }

    /// Sends Ctrl-Break to the program's whole group. (A group of its own does not receive Ctrl-C.)
    fn ask(&self) {
        if let Err(error) = Group(self.program).terminate()
            && !self.asked_in_its_own_console()
        {
            let message = format!(
                "Ctrl-Break cannot be sent to the program ({}): unless it ends by itself, it is killed at the deadline",
                Reason(&error)
            );
            self.log.line(Level::Warning, "not_asked", message, []);
        }
    }

    /// Sends Ctrl-Break to the processes that the program has left behind in its group. Any others are unknown.
    fn ask_leftovers(&self) {
        if self.host.others().is_ok_and(|others| !others.is_empty()) {
            // Processes outside its group are killed at the deadline.
            let _ = Group(self.program).terminate();
        }
    }

    /// Sends Ctrl-Break in the program's own console: a service has no console, so its program has its own. A process
    /// has at most one, so this fails if the supervisor has one already.
    fn asked_in_its_own_console(&self) -> bool {
        if AttachConsole(PidParent::Pid(self.program)).is_err() {
            return false;
        }
        let asked = Group(self.program).terminate().is_ok();
        let _ = FreeConsole(); // It has just got it.
        asked
    }

    fn kill(&self) {
        let mut kills = lock(&self.kills);
        // If there are more than can be listed, the rest ends with this process.
        for pid in self.host.others().unwrap_or_default() {
            let process = self.host.open(pid).filter(|_| !kills.over);
            // A process that cannot be killed has just ended.
            if process.is_some_and(|process| process.TerminateProcess(KILLED).is_ok()) {
                kills.killed.insert(pid);
            }
        }
    }
}

/// A process group, identified by the number of the process for which it was created.
struct Group(u32);

impl Interruptible for Group {
    fn pid(&mut self) -> io::Result<Option<u32>> {
        Ok(Some(self.0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::log::Log;

    /// What this test is when it runs again, in a process of its own: all that one starts is killed.
    const ROLE: &str = "MASTERCONTROL_TEST_ROLE";

    fn again(role: &str) -> Child {
        let test = "child::windows::tests::a_process_is_killed_also_if_it_has_the_number_of_one_that_was_killed_before";
        let mut again = Command::new(std::env::current_exe().unwrap());
        again.args(["--exact", test]).env(ROLE, role).stdin(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_process_is_killed_also_if_it_has_the_number_of_one_that_was_killed_before() {
        match std::env::var(ROLE).as_deref() {
            Ok("supervisor") => {
                let host = Host::new().unwrap();
                let mut program = again("program");
                let kills = Arc::new(Mutex::new(Kills { killed: HashSet::from([program.id()]), over: false }));
                let log = Journal::new(Log::silent());
                Guardian { host, program: program.id(), log, kills: kills.clone() }.kill();
                assert_eq!(program.wait().unwrap().code(), Some(KILLED.cast_signed()));
                assert_eq!(lock(&kills).are_over(), 1);
            }
            Ok(_) => thread::sleep(Duration::from_secs(10)),
            Err(_) => assert!(again("supervisor").wait().unwrap().success()),
        }
    }
}
