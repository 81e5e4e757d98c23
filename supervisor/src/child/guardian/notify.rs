//! The socket on which a program reports its state, see `sd_notify(3)`.

use std::fs::{self, DirBuilder, File, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

use crate::child::check::Beat;
use crate::instance::temporary;

/// The variable that tells a program the path of the socket, see `sd_notify(3)`.
pub(super) const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The longest path of a temporary directory that can hold a socket: the rest of the path takes 54 bytes, and the limit
/// is 103.
const LONGEST_DIRECTORY: usize = 49;

/// The first part of the name of a socket's directory. The rest is a random number, of which this many hexadecimal
/// digits are written.
const DIRECTORY: &str = "mastercontrol-ready-";
const DIGITS: usize = 16;

/// The longest message, in bytes. Like systemd, this ignores longer messages as a whole: a truncated message could say
/// something that it does not mean.
const LONGEST_MESSAGE: usize = 4096;

/// How many messages are taken at once. There are more only if the senders never pause, and the guardian has to be
/// heard, too.
const AT_ONCE: usize = 64;

/// A message from a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Word {
    /// `READY=1`
    Ready,
    /// `STATUS=…`: what it is doing, in human-readable form.
    Status(String),
    /// `WATCHDOG=1`: it works; or `WATCHDOG=trigger`: it does not.
    Beat(Beat),
    /// `STOPPING=1`: it is about to end.
    Stopping,
}

/// The sender of a message, as the system names it.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) struct Sender {
    /// 0: the process cannot be seen from here, for example because it is in another container.
    pub(super) pid: u32,
    pub(super) user: u32,
}

/// The socket on which a program reports its state. Its file is removed on drop.
///
/// The program may run as another user by now, so any process that knows the path may write there. On Linux the system
/// names the sender. The socket is a file because some libraries that programs use do not support Linux's abstract
/// names.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: UnixDatagram,
    path: PathBuf,
    /// The directory, locked as long as this process lives: however the process ends, a later supervisor can tell that
    /// the directory is no longer needed.
    _lock: File,
}

impl NotifySocket {
    pub(super) fn new() -> io::Result<NotifySocket> {
        // The directory that existed at the start may be gone.
        let is_usable = |directory: &PathBuf| directory.as_os_str().len() <= LONGEST_DIRECTORY && directory.is_dir();
        let temporary = Some(temporary()).filter(is_usable).unwrap_or_else(|| "/tmp".into());
        remove_stale(&temporary);
        NotifySocket::below(&temporary)
    }

    fn below(temporary: &Path) -> io::Result<NotifySocket> {
        loop {
            let directory = temporary.join(format!("{DIRECTORY}{:0DIGITS$x}", random()));
            // Other users may enter it, but not list it.
            DirBuilder::new().mode(0o711).create(&directory)?;
            match NotifySocket::inside(&directory) {
                // The directory was removed as stale before it could be locked.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                made => return made.inspect_err(|_| drop(fs::remove_dir_all(&directory))),
            }
        }
    }

    fn inside(directory: &Path) -> io::Result<NotifySocket> {
        let lock = File::open(directory)?;
        // Where directories cannot be locked, none is ever considered stale.
        let _ = lock.lock();
        fs::set_permissions(directory, Permissions::from_mode(0o711))?;
        let path = directory.join(format!("{:0DIGITS$x}", random()));
        let socket = UnixDatagram::bind(&path)?;
        fs::set_permissions(&path, Permissions::from_mode(0o666))?;
        socket.set_nonblocking(true)?;
        #[cfg(target_os = "linux")]
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::PassCred, &true)?;
        Ok(NotifySocket { socket, path, _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the messages of senders that count, up to a limit at a time.
    pub(super) fn listen(&self, counts: impl Fn(Sender) -> bool) -> Vec<Word> {
        let mut words = Vec::new();
        for message in std::iter::from_fn(|| self.receive()).take(AT_ONCE) {
            if message.sender.is_none_or(&counts) && message.text.len() <= LONGEST_MESSAGE {
                words.extend(message.text.split(|&byte| byte == b'\n').filter_map(Word::of));
            }
            // Senders that wait for a barrier continue only now, so they still existed when they were looked up.
            message.close();
        }
        words
    }

    #[cfg(target_os = "linux")]
    fn receive(&self) -> Option<Message> {
        use nix::libc::{SCM_CREDENTIALS, SCM_RIGHTS};
        use nix::sys::socket::{MsgFlags, UnixCredentials, recvmsg};
        use std::io::IoSliceMut;
        use std::os::fd::AsRawFd;

        let mut text = vec![0; LONGEST_MESSAGE + 1];
        let mut control = nix::cmsg_space!(UnixCredentials, [i32; DESCRIPTORS]);
        let mut pieces = [IoSliceMut::new(&mut text)];
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
        let socket = self.socket.as_raw_fd();
        let received = loop {
            match recvmsg::<()>(socket, &mut pieces, Some(&mut control), flags) {
                Err(nix::errno::Errno::EINTR) => {}
                received => break received.ok()?,
            }
        };
        let length = received.bytes;
        text.truncate(length);
        // The system always names the sender. A sender that it did not name would not count, because no user has this
        // number.
        let (mut sender, mut descriptors) = (Sender { pid: 0, user: u32::MAX }, Vec::new());
        for (kind, numbers) in control_messages(&control) {
            match (kind, &numbers[..]) {
                (SCM_CREDENTIALS, &[pid, user, _group]) => {
                    sender = Sender { pid: pid.unsigned_abs(), user: user.cast_unsigned() };
                }
                (SCM_RIGHTS, passed) => descriptors.extend(passed),
                _ => {}
            }
        }
        Some(Message { text, sender: Some(sender), descriptors })
    }

    /// Other systems do not name the sender.
    #[cfg(not(target_os = "linux"))]
    fn receive(&self) -> Option<Message> {
        let mut text = vec![0; LONGEST_MESSAGE + 1];
        let length = self.socket.recv(&mut text).ok()?;
        text.truncate(length);
        Some(Message { text, sender: None, descriptors: Vec::new() })
    }
}

/// How many descriptors a message may pass. The system closes further ones.
#[cfg(target_os = "linux")]
const DESCRIPTORS: usize = 16;

/// Parses the control messages that the system has written into a zeroed buffer, see cmsg(3): the type of each message,
/// and the numbers in it. `nix` returns none of them if one was truncated: then the sender would be unknown, and
/// descriptors would stay open.
#[cfg(target_os = "linux")]
fn control_messages(mut buffer: &[u8]) -> Vec<(i32, Vec<i32>)> {
    const LENGTH: usize = size_of::<usize>();
    let mut messages = Vec::new();
    while let Some(length) = buffer.first_chunk().map(|length| usize::from_ne_bytes(*length))
        && let Some(message) = buffer.get(LENGTH..length)
    {
        let numbers = message.as_chunks::<4>().0.iter().map(|number| i32::from_ne_bytes(*number));
        let numbers: Vec<_> = numbers.collect();
        if let [_level, kind, numbers @ ..] = &numbers[..] {
            messages.push((*kind, numbers.to_owned()));
        }
        buffer = buffer.get(length.next_multiple_of(LENGTH)..).unwrap_or_default();
    }
    messages
}

#[derive(Debug)]
struct Message {
    text: Vec<u8>,
    /// None: the system does not name the sender.
    sender: Option<Sender>,
    /// The passed descriptors. With `BARRIER=1` this is an end of a pipe, and the sender waits at the other end for it
    /// to be closed.
    descriptors: Vec<i32>,
}

impl Message {
    fn close(self) {
        for descriptor in self.descriptors {
            let _ = nix::unistd::close(descriptor);
        }
    }
}

impl Word {
    /// None: the line means nothing here.
    fn of(line: &[u8]) -> Option<Word> {
        match line {
            b"READY=1" => Some(Word::Ready),
            b"STOPPING=1" => Some(Word::Stopping),
            b"WATCHDOG=1" => Some(Word::Beat(Beat::Works)),
            b"WATCHDOG=trigger" => Some(Word::Beat(Beat::Fails)),
            line => {
                let status = String::from_utf8_lossy(line.strip_prefix(b"STATUS=")?);
                // The program must not be able to control a terminal through its status.
                Some(Word::Status(status.chars().filter(|letter| !letter.is_control()).collect()))
            }
        }
    }
}

impl AsFd for NotifySocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for NotifySocket {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the socket of the program that this process guards, if there is one.
pub(super) fn remove_own() {
    if let Some(socket) = std::env::var_os(NOTIFY_SOCKET) {
        remove(Path::new(&socket));
    }
}

/// Removes a socket that is no longer needed, and its directory.
fn remove(socket: &Path) {
    // Only the first caller finds it.
    let _ = fs::remove_file(socket);
    if let Some(directory) = socket.parent().filter(|directory| is_named_as_ours(directory)) {
        let _ = fs::remove_dir(directory);
    }
}

/// Removes the directories left behind by supervisors of this user that were killed together with their guardians.
fn remove_stale(temporary: &Path) {
    let entries = fs::read_dir(temporary).into_iter().flatten().flatten();
    for directory in entries.map(|entry| entry.path()).filter(|path| is_named_as_ours(path) && is_ours(path)) {
        let Ok(lock) = File::open(&directory) else { continue };
        if lock.try_lock().is_err() {
            continue;
        }
        let files = fs::read_dir(&directory).into_iter().flatten().flatten();
        for file in files.filter(|file| file.file_type().is_ok_and(|kind| kind.is_socket())) {
            let _ = fs::remove_file(file.path());
        }
        // This fails if the directory contains anything else.
        let _ = fs::remove_dir(&directory);
    }
}

fn is_named_as_ours(directory: &Path) -> bool {
    let number = directory.file_name().and_then(|name| name.to_str()?.strip_prefix(DIRECTORY));
    number.is_some_and(|number| number.len() == DIGITS && number.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

fn is_ours(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|directory| directory.is_dir() && directory.uid() == geteuid().as_raw())
}

pub(in crate::child) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::corpus;
    use proptest::prelude::*;

    /// Checks that a message is interpreted exactly as it was sent.
    fn is_heard_as_it_was_said(notify: &NotifySocket, message: &[u8]) -> Result<(), TestCaseError> {
        UnixDatagram::unbound().unwrap().send_to(message, notify.path()).unwrap();
        let lines = String::from_utf8_lossy(message);
        let is_ready = message.len() <= LONGEST_MESSAGE && lines.split('\n').any(|line| line == "READY=1");
        prop_assert_eq!(notify.listen(|_| true).contains(&Word::Ready), is_ready);
        Ok(())
    }

    #[test]
    fn each_message_that_is_kept_is_heard_as_it_was_said() {
        let notify = NotifySocket::new().unwrap();
        for (name, message) in corpus::kept("notify") {
            is_heard_as_it_was_said(&notify, &message).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    #[test]
    fn what_is_nearly_a_message_is_heard_as_it_was_said() {
        let notify = NotifySocket::new().unwrap();
        proptest!(|(message in corpus::nearly("notify"))| is_heard_as_it_was_said(&notify, &message)?);
    }

    #[test]
    fn each_word_is_a_line_of_its_own() {
        let words = |message: &[u8]| message.split(|&byte| byte == b'\n').filter_map(Word::of).collect::<Vec<_>>();
        let status = |text: &str| Word::Status(text.into());
        for (message, expected) in [
            (&b"READY=1"[..], vec![Word::Ready]),
            (b"STATUS=up\nREADY=1\nMAINPID=5\n", vec![status("up"), Word::Ready]),
            (b"WATCHDOG=1\nWATCHDOG=trigger", vec![Word::Beat(Beat::Works), Word::Beat(Beat::Fails)]),
            (b"STOPPING=1", vec![Word::Stopping]),
            (b"STATUS=", vec![status("")]),
            (b"STATUS=READY=1 \x1b[31m\xff", vec![status("READY=1 [31m\u{fffd}")]),
            (b"", vec![]),
            (b"READY=0\nREADY=1x\nSTOPPING=0\nWATCHDOG=2\nBARRIER=1\n\xff\n", vec![]),
        ] {
            assert_eq!(words(message), expected, "{message:?}");
        }
    }

    #[test]
    fn a_notify_socket_hears_and_leaves_nothing_behind() {
        let notify = NotifySocket::new().unwrap();
        let directory = notify.path().parent().unwrap().to_owned();
        let program = UnixDatagram::unbound().unwrap();
        let all = |_| true;
        assert!(notify.listen(all).is_empty());
        program.send_to(b"STATUS=starting", notify.path()).unwrap();
        program.send_to(b"READY=1", notify.path()).unwrap();
        assert_eq!(notify.listen(all), [Word::Status("starting".into()), Word::Ready]);
        assert!(notify.listen(all).is_empty());
        drop(notify);
        assert!(!directory.exists());
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_message_says_whose_it_is_and_what_it_passes_is_closed_when_it_was_heard() {
        use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
        use std::io::{IoSlice, Read};
        use std::os::fd::AsRawFd;

        let notify = NotifySocket::new().unwrap();
        let program = UnixDatagram::unbound().unwrap();
        let (mut barrier, passed) = io::pipe().unwrap();
        let address = UnixAddr::new(notify.path()).unwrap();
        let rights = [passed.as_raw_fd()];
        let control = [ControlMessage::ScmRights(&rights)];
        let text = [IoSlice::new(b"BARRIER=1")];
        sendmsg(program.as_raw_fd(), &text, &control, MsgFlags::empty(), Some(&address)).unwrap();
        drop(passed);
        program.send_to(b"READY=1", notify.path()).unwrap();
        let own = |sender: Sender| sender.pid == std::process::id() && sender.user == geteuid().as_raw();
        assert_eq!(notify.listen(own), [Word::Ready]);
        // The read would block if another process had the other end.
        assert_eq!(barrier.read(&mut [0]).unwrap(), 0);
        program.send_to(b"READY=1", notify.path()).unwrap();
        assert_eq!(notify.listen(|sender| !own(sender)), []);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_sender_that_does_not_stop_is_heard_in_parts() {
        let notify = NotifySocket::new().unwrap();
        let program = UnixDatagram::unbound().unwrap();
        let said = std::cell::Cell::new(0);
        let say = || {
            said.set(said.get() + 1);
            assert!(said.get() < 10_000, "nothing else is heard any more");
            program.send_to(b"STATUS=busy", notify.path()).unwrap();
        };
        say();
        let words = notify.listen(|_| {
            say();
            true
        });
        assert!(!words.is_empty());
        // The rest is returned by the next call.
        assert_eq!(notify.listen(|_| true), [Word::Status("busy".into())]);
    }

    /// Such a message is truncated, and so are those that arrive when this process has no free descriptors.
    #[cfg(target_os = "linux")]
    #[test]
    fn a_message_that_passes_more_than_it_may_says_whose_it_is_and_leaves_nothing_open() {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
        use std::io::IoSlice;
        use std::os::fd::AsRawFd;

        let notify = NotifySocket::new().unwrap();
        let stranger = UnixDatagram::unbound().unwrap();
        let (end, passed) = io::pipe().unwrap();
        let address = UnixAddr::new(notify.path()).unwrap();
        let rights = [passed.as_raw_fd(); DESCRIPTORS + 1];
        let control = [ControlMessage::ScmRights(&rights)];
        let text = [IoSlice::new(b"READY=1")];
        sendmsg(stranger.as_raw_fd(), &text, &control, MsgFlags::empty(), Some(&address)).unwrap();
        drop(passed);
        let own = |sender: Sender| sender.pid == std::process::id() && sender.user == geteuid().as_raw();
        assert_eq!(notify.listen(|sender| !own(sender)), []);
        let mut end = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut end, PollTimeout::ZERO), Ok(1), "its other end is open");
    }

    #[test]
    fn only_what_nobody_has_any_more_is_removed() {
        let temporary = std::env::temp_dir().join(format!("ready-test-{}", std::process::id()));
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir(&temporary).unwrap();
        let directory = |name: &str| {
            let directory = temporary.join(name);
            fs::create_dir(&directory).unwrap();
            drop(UnixDatagram::bind(directory.join("socket")).unwrap());
            directory
        };
        let used = NotifySocket::below(&temporary).unwrap();
        let stale = directory("mastercontrol-ready-0123456789abcdef");
        let (of_instances, of_others) =
            (directory("mastercontrol-1000"), directory("mastercontrol-ready-x123456789abcdef"));
        let with_more = directory("mastercontrol-ready-1123456789abcdef");
        fs::write(with_more.join("file"), "").unwrap();
        remove_stale(&temporary);
        assert!(!stale.exists());
        assert!(of_instances.join("socket").exists() && of_others.join("socket").exists());
        assert!(with_more.join("file").exists());
        UnixDatagram::unbound().unwrap().send_to(b"READY=1", used.path()).unwrap();
        assert_eq!(used.listen(|_| true), [Word::Ready]);
        fs::remove_dir_all(temporary).unwrap();
    }

    #[test]
    fn those_that_come_and_go_at_the_same_time_do_not_disturb_each_other() {
        let temporary = std::env::temp_dir().join(format!("ready-test-many-{}", std::process::id()));
        let _ = fs::remove_dir_all(&temporary);
        fs::create_dir(&temporary).unwrap();
        let come_and_go = || {
            for _ in 0..200 {
                remove_stale(&temporary);
                let notify = NotifySocket::below(&temporary).unwrap();
                UnixDatagram::unbound().unwrap().send_to(b"READY=1", notify.path()).unwrap();
                assert_eq!(notify.listen(|_| true), [Word::Ready]);
            }
        };
        std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(come_and_go))));
        assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0);
        fs::remove_dir(temporary).unwrap();
    }
}
