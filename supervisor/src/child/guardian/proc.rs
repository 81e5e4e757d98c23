//! Processes as Linux describes them in proc(5).

use std::fs;
use std::io;
use std::path::Path;

use rustix::process::{Pid, WaitOptions, waitpid};

use crate::proc_file;

/// A process as proc(5) shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: Pid,
    pub(super) parent: i32,
    pub(super) group: i32,
    /// It has ended but has not been reaped yet.
    ended: bool,
}

/// The children of this process, ended ones included.
pub(super) fn children() -> Vec<Pid> {
    // The table of all processes is long; a kernel built for it also has the short list.
    listed_children().unwrap_or_else(|_| {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        all().into_iter().filter(|process| process.parent == own).map(|process| process.pid).collect()
    })
}

/// How often the list is read to see it twice the same.
const MORE_READS: usize = 10;

fn listed_children() -> io::Result<Vec<Pid>> {
    let mut children = listed_children_of("self")?;
    // One that ends meanwhile can make the list omit others; see proc_tid_children(5).
    for _ in 0..MORE_READS {
        let again = listed_children_of("self")?;
        if again == children {
            break;
        }
        children = again;
    }
    Ok(children.into_iter().filter_map(Pid::from_raw).collect())
}

fn listed_children_of(process: &str) -> io::Result<Vec<i32>> {
    // Not every kernel has it.
    fs::metadata("/proc/thread-self/children")?;
    let mut children = Vec::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // If a thread has ended in the meantime, its children belong to another thread.
        let listed = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
        children.extend(listed.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok()));
    }
    Ok(children)
}

/// All descendants of this process, breadth first.
pub(in crate::child) fn descendants(root: u32) -> Vec<u32> {
    let children: Box<dyn Fn(u32) -> Vec<u32>> = if Path::new("/proc/thread-self/children").exists() {
        // A process that has ended in the meantime has none.
        Box::new(|pid| {
            listed_children_of(&pid.to_string()).unwrap_or_default().into_iter().map(i32::unsigned_abs).collect()
        })
    } else {
        let all = all();
        let number = |pid: Pid| pid.as_raw_nonzero().get().unsigned_abs();
        Box::new(move |pid| {
            let its = all.iter().filter(|process| process.parent.unsigned_abs() == pid);
            its.map(|process| number(process.pid)).collect()
        })
    };
    let mut found = children(root);
    let mut next = 0;
    while let Some(&pid) = found.get(next) {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// All processes on the system.
pub(super) fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| process(Pid::from_raw(pid)?).ok()).collect()
}

/// This process, if it still exists.
pub(super) fn process(pid: Pid) -> io::Result<Process> {
    let stat = proc_file::read(pid.as_raw_nonzero(), "stat")?;
    parse(pid, &stat).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Parses a line of proc_pid_stat(5). The second field is a name in parentheses and may contain any character.
fn parse(pid: Pid, stat: &str) -> Option<Process> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let ended = matches!(fields.next()?, "Z" | "X");
    Some(Process { pid, parent: fields.next()?.parse().ok()?, group: fields.next()?.parse().ok()?, ended })
}

/// The user who owns this process.
pub(super) fn user(pid: u32) -> Option<u32> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(format!("/proc/{pid}")).ok().map(|process| process.uid())
}

/// Whether this child has ended by itself and only has to be reaped.
pub(super) fn has_ended(child: Pid) -> bool {
    process(child).map_or(true, |process| process.ended)
}

/// Reaps this child if it has ended. Returns whether it is gone.
pub(super) fn reap_one(child: Pid) -> bool {
    !matches!(waitpid(Some(child), WaitOptions::NOHANG), Ok(None))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_process_whose_name_is_not_utf_8_is_seen() {
        use std::os::unix::ffi::OsStrExt;
        let program = std::env::temp_dir().join(std::ffi::OsStr::from_bytes(b"proc-\xff"));
        let program = program.with_extension(std::process::id().to_string());
        std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
        let child = std::process::Command::new(&program).arg("600").spawn();
        fs::remove_file(&program).unwrap();
        let mut child = child.unwrap();
        let seen = process(Pid::from_raw(child.id().try_into().unwrap()).unwrap());
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(seen.unwrap().parent, i32::try_from(std::process::id()).unwrap());
    }

    #[test]
    fn a_process_is_read_whatever_its_name() {
        let pid = Pid::from_raw(7).unwrap();
        for name in ["sh", "a b", ") S 1 1", "(()"] {
            let process = parse(pid, &format!("7 ({name}) S 5 6 6 0 -1 4194560")).unwrap();
            assert_eq!((process.parent, process.group, process.ended), (5, 6, false), "{name}");
        }
        assert!(parse(pid, "7 (sh) Z 5 6 6 0 -1 4194560").unwrap().ended);
        assert_eq!(parse(pid, "7 (sh"), None);
    }
}
