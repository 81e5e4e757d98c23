//! The connection to a supervisor, and the process at its other end.

use std::io::{self, ErrorKind};
#[cfg(windows)]
use std::thread;
#[cfg(any(windows, target_os = "linux"))]
use std::time::Duration;
use std::time::Instant;

use interprocess::local_socket::Stream;

use super::error::AskError;
use crate::instance::InstancePaths;

/// What Windows reports for a pipe that accepts no client now: `ERROR_PIPE_BUSY`.
#[cfg(windows)]
const PIPE_BUSY: i32 = 231;

/// How often to check whether a pipe accepts a client.
#[cfg(windows)]
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Connects to a supervisor. If it hangs and its queue is full, this waits until the time is up.
pub(super) fn connect(paths: &InstancePaths, end: Instant) -> Result<Stream, AskError> {
    use ErrorKind::{ConnectionRefused, InvalidInput, NotADirectory, NotFound, PermissionDenied, TimedOut, WouldBlock};
    connect_until(paths, end).map_err(|error| match error.kind() {
        // A socket with that path cannot exist, so no process listens there.
        NotFound | ConnectionRefused | NotADirectory | InvalidInput => AskError::NotRunning,
        PermissionDenied => AskError::NotPermitted(error),
        WouldBlock | TimedOut => AskError::NoResponse,
        _ => AskError::Io(error),
    })
}

/// The function of the library does not wait here if the queue is full.
#[cfg(target_os = "linux")]
fn connect_until(paths: &InstancePaths, end: Instant) -> io::Result<Stream> {
    use std::os::fd::AsRawFd;
    use std::os::unix::net::UnixStream;

    use nix::errno::Errno;
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

    let address = UnixAddr::new(paths.client_path()?)?;
    let stream = UnixStream::from(socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        // This limits `connect`, too. A timeout of zero would mean forever.
        stream.set_write_timeout(Some(left.max(Duration::from_millis(1))))?;
        match connect(stream.as_raw_fd(), &address) {
            Ok(()) => return Ok(Stream::UdSocket(stream.into())),
            // This process was suspended meanwhile, for example by Ctrl-Z.
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn connect_until(paths: &InstancePaths, end: Instant) -> io::Result<Stream> {
    use interprocess::ConnectWaitMode;
    use interprocess::local_socket::{ConnectOptions, GenericFilePath, ToFsName};

    let wait_mode = ConnectWaitMode::Timeout(end.saturating_duration_since(Instant::now()));
    let name = paths.client_path()?.to_fs_name::<GenericFilePath>()?;
    ConnectOptions::new().name(name).wait_mode(wait_mode).connect_sync()
}

/// The owner of the pipe is unknown. The function of the library lets a service at the other end act in the name of the
/// user who connects, who may be an administrator. This one only lets it see which user that is.
#[cfg(windows)]
fn connect_until(paths: &InstancePaths, end: Instant) -> io::Result<Stream> {
    use std::fs::OpenOptions;
    use std::os::windows::fs::OpenOptionsExt;
    use std::os::windows::io::OwnedHandle;

    use interprocess::os::windows::named_pipe::local_socket::Stream as Pipe;
    use winsafe::co::{FILE_FLAG, FILE_SECURITY};

    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(FILE_FLAG::OVERLAPPED.raw());
    options.security_qos_flags(FILE_SECURITY::IDENTIFICATION.raw());
    loop {
        match options.open(paths.client_path()?) {
            Ok(pipe) => return Ok(Stream::NamedPipe(Pipe::try_from(OwnedHandle::from(pipe))?)),
            // All its instances have clients, and the supervisor has not created the next one yet.
            Err(error) if error.raw_os_error() == Some(PIPE_BUSY) => {
                if Instant::now() >= end {
                    return Err(ErrorKind::TimedOut.into());
                }
                thread::sleep(LOOK_EVERY);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Refuses to talk to the process of another user: it may have taken the place of a supervisor of ours. Root talks to
/// all, and everybody to root.
#[cfg(unix)]
pub(super) fn check_user(stream: &Stream, paths: &InstancePaths) -> Result<(), AskError> {
    let Stream::UdSocket(stream) = stream;
    #[cfg(target_os = "linux")]
    let user = nix::sys::socket::getsockopt(stream, nix::sys::socket::sockopt::PeerCredentials).map(|peer| peer.uid());
    #[cfg(not(target_os = "linux"))]
    let user = nix::unistd::getpeereid(stream).map(|(user, _)| user.as_raw());
    let (user, own) = (user.map_err(|error| AskError::Io(error.into()))?, nix::unistd::geteuid().as_raw());
    if [own, 0].contains(&user) || own == 0 {
        return Ok(());
    }
    let socket = paths.socket.display();
    let message = format!("the process that listens on {socket} belongs to user {user}, and not to you");
    Err(AskError::NotPermitted(io::Error::new(ErrorKind::PermissionDenied, message)))
}

/// A pipe does not tell the user at its other end. See [`connect_until`].
#[cfg(windows)]
#[allow(clippy::unnecessary_wraps, reason = "the other one fails")]
pub(super) fn check_user(_stream: &Stream, _paths: &InstancePaths) -> Result<(), AskError> {
    Ok(())
}

/// The process that listens there. None: it cannot be seen from here.
#[cfg(target_os = "linux")]
pub(super) fn supervisor(stream: &Stream) -> Option<u32> {
    use nix::sys::socket::{getsockopt, sockopt};
    let Stream::UdSocket(stream) = stream;
    let credentials = getsockopt(stream, sockopt::PeerCredentials).ok()?;
    u32::try_from(credentials.pid()).ok().filter(|&pid| pid > 0)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn supervisor(_stream: &Stream) -> Option<u32> {
    None
}

/// Whether a process is suspended: by Ctrl-Z, a signal or a debugger.
#[cfg(target_os = "linux")]
pub(super) fn is_suspended(pid: u32) -> bool {
    // The state follows the name, which is in parentheses and may contain some itself.
    let stat = crate::proc_file::read(pid, "stat").unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_suspended(_pid: u32) -> bool {
    false
}

#[cfg(all(test, windows))]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use interprocess::local_socket::{ListenerOptions, traits::Listener as _};

    use super::*;

    #[test]
    fn a_pipe_whose_owner_takes_no_client_is_waited_for_and_not_for_ever() {
        const LOOK: Duration = Duration::from_secs(1);
        let paths = InstancePaths::of(&format!("takes-no-client-{}", std::process::id()).parse().unwrap()).unwrap();
        assert!(matches!(connect(&paths, Instant::now() + LOOK), Err(AskError::NotRunning)));
        let listener = ListenerOptions::new().name(paths.socket_name().unwrap()).create_sync().unwrap();
        // It takes the only place.
        let _first = connect(&paths, Instant::now() + LOOK).unwrap();
        let (heard, hears) = mpsc::channel();
        let asks = paths.clone();
        thread::spawn(move || heard.send(connect(&asks, Instant::now() + LOOK).map(drop)));
        assert!(matches!(hears.recv_timeout(30 * LOOK).unwrap(), Err(AskError::NoResponse)));
        thread::spawn(move || [listener.accept(), listener.accept()].map(Result::unwrap));
        connect(&paths, Instant::now() + 30 * LOOK).unwrap();
    }
}
