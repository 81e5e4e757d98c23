//! Finds the processes that hold a TCP port, as far as the system shows them.

#[cfg(target_os = "linux")]
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::listen::Address;

/// A process that has a listening socket open. A process with two such sockets counts as two holders, and so do two
/// processes that share one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The address that the socket listens on.
    pub address: SocketAddr,
    /// The user who created the socket. None: the system does not show it.
    pub user: Option<User>,
    /// The process that has it open. None: it cannot be seen from here.
    pub process: Option<Process>,
    /// The socket's number in proc(5).
    #[cfg(target_os = "linux")]
    pub(super) socket: u64,
}

/// A process that has a listening socket open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its process id.
    pub pid: u32,
    /// Its name, as the system shows it.
    pub name: String,
    /// Its program and arguments, separated by spaces.
    pub command: String,
    /// Its user.
    pub user: User,
}

/// `python3 (pid 412, root)`.
impl fmt::Display for Process {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Process { pid, name, user, .. } = self;
        write!(formatter, "{name} (pid {pid}, {user})")
    }
}

/// A user of this system, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User(pub u32);

impl User {
    /// Whether this is another user, whose processes are not to be ended from here. To root nobody is.
    pub fn is_foreign(self) -> bool {
        #[cfg(unix)]
        let own = nix::unistd::geteuid();
        #[cfg(unix)]
        return !own.is_root() && own.as_raw() != self.0;
        // Other systems do not show users by number.
        #[cfg(not(unix))]
        false
    }
}

/// The user's name, or `user 1000` if it has none.
impl fmt::Display for User {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        #[cfg(unix)]
        if let Ok(Some(user)) = nix::unistd::User::from_uid(self.0.into()) {
            return formatter.write_str(&user.name);
        }
        write!(formatter, "user {}", self.0)
    }
}

/// The program that listens where `address` needs to, such as `nginx (pid 412)`. None if it cannot be seen.
#[cfg(target_os = "linux")]
pub(crate) fn holder_of(address: &Address) -> Option<String> {
    let process = in_the_way(address).ok()?.into_iter().find_map(|(process, _)| process)?;
    Some(format!("{} (pid {})", process.name, process.pid))
}

/// How long it makes sense to wait until no process listens there any more: zero unless all processes that do are about
/// to end.
#[cfg(target_os = "linux")]
pub(crate) fn time_to_end(address: &Address) -> Duration {
    // After a supervisor is killed, its program is killed in turn. On a busy machine that takes a while.
    const ENDING: Duration = Duration::from_secs(5);
    let own = User(nix::unistd::geteuid().as_raw());
    let time = |(process, user): (Option<Process>, Option<User>)| match process {
        // In this order: the process may end while its ancestors are looked up.
        Some(process) if linux::is_left_behind(process.pid) || linux::is_ending(process.pid) => ENDING,
        // A process that is ending no longer shows its sockets, but keeps them for a moment.
        None if user.is_none_or(|user| user == own) => ENDING,
        Some(_) | None => Duration::ZERO,
    };
    in_the_way(address).map_or(Duration::ZERO, |holders| holders.into_iter().map(time).min().unwrap_or(ENDING))
}

/// The processes that listen where `address` needs to, and the users who created their sockets, as far as the system
/// shows them.
#[cfg(target_os = "linux")]
fn in_the_way(address: &Address) -> io::Result<Vec<(Option<Process>, Option<User>)>> {
    Ok(match address {
        Address::Tcp(address) => {
            let in_the_way = |holder: &Holder| {
                let ips = [holder.address.ip(), address.ip()];
                ips[0] == ips[1] || ips.iter().any(|ip| ip.is_unspecified())
            };
            let holders = holders(address.port())?.into_iter().filter(in_the_way);
            holders.map(|holder| (holder.process, holder.user)).collect()
        }
        Address::Unix(path) => {
            let processes = who_has(&linux::listening_on(path).map_err(io::Error::other)?)?;
            processes.into_iter().map(|(process, _)| (Some(process), None)).collect()
        }
    })
}

/// All holders of a TCP port.
///
/// # Errors
/// When the system does not say which ports are in use.
#[cfg(target_os = "linux")]
pub fn holders(port: u16) -> io::Result<Vec<Holder>> {
    linux::holders(port).map_err(|error| io::Error::other(format!("cannot see which ports are in use: {error}")))
}

/// The processes that have any of these sockets open, with those sockets, oldest process first. Processes that cannot
/// be inspected are missing.
#[cfg(target_os = "linux")]
pub(super) fn who_has(sockets: &HashSet<u64>) -> io::Result<Vec<(Process, HashSet<u64>)>> {
    linux::who_has(sockets).map_err(|error| io::Error::other(format!("cannot see who has sockets open: {error}")))
}

/// The loopback addresses of this machine where a process listens on a TCP port: it accepts a connection.
///
/// # Errors
/// None.
#[cfg(not(target_os = "linux"))]
pub fn holders(port: u16) -> io::Result<Vec<Holder>> {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};
    // A local listener accepts at once. Without a listener, Windows keeps trying for two seconds.
    let limit = Duration::from_millis(500);
    let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    let taken = addresses.into_iter().filter(|address| TcpStream::connect_timeout(address, limit).is_ok());
    Ok(taken.map(|address| Holder { address, user: None, process: None }).collect())
}

/// Only Linux shows this.
#[cfg(not(target_os = "linux"))]
pub(crate) fn holder_of(_address: &Address) -> Option<String> {
    None
}

/// After a supervisor is killed, its program is killed in turn. On Windows both end together.
#[cfg(not(target_os = "linux"))]
pub(crate) fn time_to_end(_address: &Address) -> Duration {
    if cfg!(unix) { Duration::from_secs(1) } else { Duration::ZERO }
}

impl Process {
    /// The processes that would have to end so that it is not started again: the process itself, then the supervisor
    /// whose program it is or was started by, then the supervisor of that supervisor; the outermost last.
    pub fn keepers(&self) -> Vec<u32> {
        #[cfg(target_os = "linux")]
        return std::iter::once(self.pid).chain(linux::supervisors_of(self.pid)).collect();
        #[cfg(not(target_os = "linux"))]
        vec![self.pid]
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::collections::HashSet;
    use std::fs;
    use std::io;
    use std::iter;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::MetadataExt;
    use std::path::Path;

    use procfs::process::{self, FDInfo, FDTarget, StatFlags, Status, all_processes};
    use procfs::{FromBufRead, ProcResult};

    use super::{Holder, Process, User};
    use crate::child::guardian::stage::{self, Above};
    use crate::proc_file;
    use crate::tcp_sockets::{self, StateFlags, TcpSocket};

    pub(super) fn holders(port: u16) -> ProcResult<Vec<Holder>> {
        let listeners = tcp_sockets::at_port(port, StateFlags::LISTEN)?;
        let processes = who_has(&listeners.iter().map(|listener| listener.inode).collect())?;
        let holders = listeners.into_iter().flat_map(|listener| {
            let TcpSocket { local: address, user, inode: socket, .. } = listener;
            let holder = |process| Holder { address, user: Some(User(user)), process, socket };
            let with_it = processes.iter().filter(|(_, open)| open.contains(&socket));
            let seen: Vec<Holder> = with_it.map(|(process, _)| holder(Some(process.clone()))).collect();
            if seen.is_empty() { vec![holder(None)] } else { seen }
        });
        Ok(holders.collect())
    }

    pub(super) fn who_has(sockets: &HashSet<u64>) -> ProcResult<Vec<(Process, HashSet<u64>)>> {
        if sockets.is_empty() {
            return Ok(Vec::new());
        }
        let mut processes: Vec<_> = all_processes()?
            .filter_map(|process| {
                let process = process.ok()?;
                let open: HashSet<u64> = process.fd().ok()?.filter_map(|open| socket_of(&open.ok()?)).collect();
                let open: HashSet<u64> = open.intersection(sockets).copied().collect();
                // A process that has ended in the meantime has none.
                if open.is_empty() {
                    None
                } else {
                    Some((process.stat().ok()?.starttime, describe(&process).ok()?, open))
                }
            })
            .collect();
        // A process inherits a socket from an older one, and many keep it only until they run their program.
        processes.sort_by_key(|(started, ..)| *started);
        Ok(processes.into_iter().map(|(_, process, open)| (process, open)).collect())
    }

    /// The sockets that listen on a path.
    pub(super) fn listening_on(path: &Path) -> ProcResult<HashSet<u64>> {
        // `procfs` fails if any path is not UTF-8, and cuts paths at spaces.
        let table = fs::read("/proc/net/unix")?;
        Ok(table.split(|&byte| byte == b'\n').filter_map(|line| inode_at(line, path)).collect())
    }

    /// The inode in a line of proc_net_unix(5), `Num RefCount Protocol Flags Type St Inode Path`, if it has this path
    /// and is not connected: connections show the path of their server, too.
    fn inode_at(line: &[u8], path: &Path) -> Option<u64> {
        let fields = line.strip_suffix(path.as_os_str().as_bytes())?.strip_suffix(b" ")?;
        let fields: Vec<&str> = str::from_utf8(fields).ok()?.split_ascii_whitespace().collect();
        let [_, _, _, _, _, "01", inode] = fields[..] else { return None };
        inode.parse().ok()
    }

    fn socket_of(descriptor: &FDInfo) -> Option<u64> {
        match descriptor.target {
            FDTarget::Socket(socket) => Some(socket),
            _ => None,
        }
    }

    fn describe(process: &process::Process) -> ProcResult<Process> {
        // `procfs` fails if the name or an argument is not UTF-8.
        let status = Status::from_buf_read(proc_file::read(process.pid(), "status")?.as_bytes())?;
        let name = printable(&status.name);
        let command = printable(&command_line(process.pid())?.join(" "));
        Ok(Process { pid: process.pid().unsigned_abs(), name, command, user: User(status.euid) })
    }

    /// A process's program and arguments, without empty ones.
    fn command_line(pid: impl std::fmt::Display) -> io::Result<Vec<String>> {
        let line = proc_file::read(pid, "cmdline")?;
        Ok(line.split('\0').filter(|word| !word.is_empty()).map(str::to_owned).collect())
    }

    /// A program can choose its name freely, and must not be able to control a terminal with it.
    fn printable(text: &str) -> String {
        text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
    }

    /// The supervisors above a process: each has a guardian between itself and its program. A process that a supervisor
    /// has only adopted does not belong to its program.
    pub(super) fn supervisors_of(pid: u32) -> Vec<u32> {
        let line: Vec<u32> = iter::successors(Some(pid), parent).collect();
        line.windows(2)
            .filter(|pair| above(pair[0]).is_some() && above(pair[1]).is_none())
            .map(|pair| pair[1])
            .collect()
    }

    /// Whether a process was started by a supervisor that is gone, so that its guardian is about to end it. If the
    /// process is a guardian itself, it is about to end.
    pub(super) fn is_left_behind(pid: u32) -> bool {
        let mut line = iter::successors(Some(pid), parent);
        let Some(guardian) = line.find(|&pid| above(pid).is_some()) else { return false };
        let mut supervisor = line.next();
        if above(guardian) == Some(Above::Guardian) && supervisor.and_then(above) == Some(Above::Deputy) {
            supervisor = line.next();
        }
        // Only a supervisor runs the same executable, or the guardian of another supervisor, which may have adopted
        // this one.
        supervisor.is_none_or(|pid| above(pid).is_some() || program(pid) != program(guardian))
    }

    /// Whether it is gone or about to be: it runs no program any more.
    pub(super) fn is_ending(pid: u32) -> bool {
        let flags =
            find(pid).and_then(|process| process.stat().ok()).map(|stat| StatFlags::from_bits_retain(stat.flags));
        flags.is_none_or(|flags| flags.contains(StatFlags::PF_EXITING))
    }

    fn parent(pid: &u32) -> Option<u32> {
        find(*pid)?.stat().ok()?.ppid.try_into().ok().filter(|&parent: &u32| parent > 0)
    }

    fn above(pid: u32) -> Option<Above> {
        stage::above(&command_line(pid).ok()?)
    }

    /// The identity of its executable file.
    fn program(pid: u32) -> Option<(u64, u64)> {
        let file = fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    }

    fn find(pid: u32) -> Option<process::Process> {
        process::Process::new(pid.try_into().ok()?).ok()
    }

    #[cfg(test)]
    #[allow(clippy::unwrap_used)]
    mod tests {
        use std::ffi::OsStr;
        use std::os::fd::OwnedFd;
        use std::os::unix::net::UnixListener;
        use std::os::unix::process::CommandExt;
        use std::process::Command;

        use super::*;

        #[test]
        fn a_process_and_a_socket_with_bytes_that_are_no_text_are_found() {
            let odd = OsStr::from_bytes(b"odd \xff");
            let directory = std::env::temp_dir().join(format!("mastercontrol-find-{}", std::process::id()));
            fs::create_dir(&directory).unwrap();
            let (path, program) = (directory.join("socket \u{fc}").with_extension(odd), directory.join(odd));
            std::os::unix::fs::symlink("/bin/sleep", &program).unwrap();
            let listener = UnixListener::bind(&path).unwrap();
            let sockets = listening_on(&path).unwrap();
            let mut command = Command::new(&program);
            command.arg0(odd).arg("600").stdin(OwnedFd::from(listener));
            let mut child = command.spawn().unwrap();
            drop(command);
            fs::remove_dir_all(&directory).unwrap();
            let found = who_has(&sockets);
            child.kill().unwrap();
            child.wait().unwrap();
            let found = found.unwrap();
            // A process that another test starts may have it, too, for a moment.
            let (process, _) = found.iter().find(|(process, _)| process.pid == child.id()).unwrap();
            assert_eq!(process.name, "odd \u{fffd}");
            assert_eq!(process.command, "odd \u{fffd} 600");
        }
    }
}
