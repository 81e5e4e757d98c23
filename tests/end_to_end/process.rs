//! What proc(5) reports about a supervisor.

use std::fs;
use std::thread;
use std::time::Duration;

use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};

use crate::support::{Home, Instance, eventually};

/// The names and states of a process's threads.
pub fn threads(pid: u32) -> Vec<(String, String)> {
    let directory = format!("/proc/{pid}/task");
    let tasks = fs::read_dir(directory).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| {
            // A thread that ends meanwhile is left out.
            let name = fs::read_to_string(task.path().join("comm")).ok()?.trim().to_owned();
            let stat = fs::read_to_string(task.path().join("stat")).ok()?;
            Some((name, stat.rsplit(") ").next()?.split(' ').next()?.to_owned()))
        })
        .collect()
}

/// The id of the thread with this name.
fn task(pid: u32, name: &str) -> nix::unistd::Pid {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let is_it = |task: &fs::DirEntry| fs::read_to_string(task.path().join("comm")).is_ok_and(|it| it.trim() == name);
    let task = tasks.into_iter().find(is_it).unwrap_or_else(|| panic!("there is no thread {name}"));
    nix::unistd::Pid::from_raw(task.file_name().into_string().unwrap().parse().unwrap())
}

/// A master control that is stopped, as by a debugger, while all other threads run: between two events, where it holds
/// nothing that others would wait for.
pub struct Hanging(nix::unistd::Pid);

impl Hanging {
    pub fn new(pid: u32) -> Hanging {
        let name = "master-control";
        let waits = || threads(pid).iter().any(|(other, state)| other == name && state == "S");
        eventually("it waits for the next event", waits);
        let thread = task(pid, name);
        ptrace::seize(thread, ptrace::Options::empty()).unwrap();
        ptrace::interrupt(thread).unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
        Hanging(thread)
    }

    /// Lets it continue.
    pub fn end(self) {
        ptrace::detach(self.0, None).unwrap();
    }

    /// Waits until the process has ended. The tracer of a thread has to see its end, or the process stays.
    pub fn wait(self) {
        waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap();
    }
}

/// The number of open descriptors.
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// The memory in use, in kB.
pub fn memory(pid: u32) -> u64 {
    field(&format!("/proc/{pid}/status"), "VmRSS:").unwrap()
}

fn field(file: &str, name: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// How often threads of the process have begun to wait.
fn wake_ups(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks.filter_map(|task| field(task.path().join("status").to_str()?, "voluntary_ctxt_switches:")).sum()
}

/// The descriptors of a process that a program started by it would inherit.
fn inheritable(pid: u32) -> Vec<String> {
    let descriptors = fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
    descriptors
        .filter_map(|descriptor| {
            let info = fs::read_to_string(descriptor.path()).ok()?;
            let flags = info.lines().find_map(|line| line.strip_prefix("flags:"))?;
            let close_on_exec = u32::from_str_radix(flags.trim(), 8).ok()? & 0o2_000_000 != 0;
            let number = descriptor.file_name().into_string().ok()?;
            let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()?;
            (!close_on_exec).then(|| target.display().to_string())
        })
        .collect()
}

#[test]
fn a_program_that_it_started_would_inherit_none_of_its_sockets_and_pipes() {
    let home = Home::new();
    let instance = home.start(&["echo", "--health", "0"]);
    let mut client = instance.client();
    client.greet();
    assert_nothing_leaks(&instance);
}

/// A program started by the supervisor would inherit none of its sockets and pipes.
pub fn assert_nothing_leaks(instance: &Instance) {
    let stderr = fs::read_link(format!("/proc/{}/fd/2", instance.pid)).unwrap().display().to_string();
    let given = inheritable(std::process::id());
    let leaked: Vec<_> = inheritable(instance.pid)
        .into_iter()
        .filter(|target| target.contains(":[") && !given.contains(target) && *target != stderr)
        .collect();
    assert!(leaked.is_empty(), "{leaked:?}");
}

#[test]
fn an_idle_supervisor_has_no_wake_ups() {
    let home = Home::new();
    let (instance, _pty) = home.start_on_terminal(&["echo", "--health", "0"]);
    let mut client = instance.client();
    client.greet();
    instance.admin(&["ping"]).expect(0);
    instance.admin_begins(&["events", "--follow"]).out.wait_for("listening on");
    eventually("it is idle", || threads(instance.pid).iter().all(|(_, state)| state == "S"));
    // The test is that nothing happens, so there is only time to wait for. It may take a moment until everything rests;
    // something that polls is never at rest.
    let restless = (0..5).all(|_| {
        let before = wake_ups(instance.pid);
        thread::sleep(Duration::from_secs(3));
        before != wake_ups(instance.pid)
    });
    assert!(!restless, "its threads never rest: {:?}", threads(instance.pid));
}

#[test]
fn the_names_of_its_threads_say_what_they_do() {
    let home = Home::new();
    let (instance, _pty) = home.start_on_terminal(&["echo"]);
    let mut client = instance.client();
    client.greet();
    instance.admin(&["ping"]).expect(0); // Answered by master control, so that is there.
    let client_is_gone = || !threads(instance.pid).iter().any(|(name, _)| name == "admin-client");
    eventually("the admin client's thread has ended", client_is_gone);
    let mut expected = [
        "supervisor-unde",
        "master-control",
        "generation",
        "engine",
        "sentinel",
        "admin",
        "signals",
        "console",
        "log",
        "watchdog",
    ];
    expected.sort();
    let names = || {
        let names = threads(instance.pid).into_iter().map(|(name, _)| name);
        // There is one per core.
        let mut names: Vec<String> =
            names.map(|name| if name.starts_with("engine-") { "engine".into() } else { name }).collect();
        names.sort();
        names
    };
    // Each thread sets its own name when it begins to run.
    eventually("all have their names", || names().iter().filter(|name| *name == "supervisor-unde").count() == 1);
    let mut names = names();
    names.dedup();
    assert_eq!(names, expected);
}
