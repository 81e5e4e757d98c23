//! Enter on the console requests a stop. End of file does not.

use std::io::{self, IsTerminal, Read};
use std::thread;

use crate::event::{Event, EventSender, Trigger};
use crate::patient::Patient;
use crate::settings::Console;

/// Listens to stdin on a thread named `console`, if stdin is meant for us. The thread is never joined: a read from
/// stdin cannot be interrupted.
///
/// Returns whether the user can press Enter there now.
pub(crate) fn start(console: Console, events: EventSender) -> io::Result<bool> {
    let is_terminal = io::stdin().is_terminal();
    // A file or a pipe may be the input of the script that started this process: the rest of the script, or a list.
    if is_terminal || console == Console::Stdin {
        thread::Builder::new().name("console".into()).spawn(move || {
            let enter = || events.send(Event::Stop { by: Trigger::Console, grace: None }).is_ok();
            // An error means that the console is gone, like end of file; the other triggers remain.
            let _ = if is_terminal { listen_to_terminal(enter) } else { listen(enter) };
        })?;
    }
    Ok(is_terminal && is_in_foreground())
}

/// Whether this process gets the terminal's input, and not the shell that has started it with `&`.
#[cfg(unix)]
fn is_in_foreground() -> bool {
    use nix::unistd::{getpgrp, tcgetpgrp};
    tcgetpgrp(io::stdin()).is_ok_and(|group| group == getpgrp())
}

#[cfg(windows)]
fn is_in_foreground() -> bool {
    true
}

/// Calls `enter` for each line feed on stdin, until it returns false or stdin ends.
fn listen(mut enter: impl FnMut() -> bool) -> io::Result<()> {
    let mut stdin = Patient(io::stdin().lock());
    while let Some(lines) = lines(&mut stdin)? {
        for _ in 0..lines {
            if !enter() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads once and counts the line feeds. None: end of file.
fn lines(input: &mut impl Read) -> io::Result<Option<usize>> {
    let mut text = [0; 1024];
    loop {
        return match input.read(&mut text) {
            Ok(0) => Ok(None),
            Ok(length) => Ok(Some(text[..length].iter().filter(|&&byte| byte == b'\n').count())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => Err(error),
        };
    }
}

/// Like [`listen`], but reads only available input, and only in the foreground: a background process that reads from
/// its terminal is suspended. The terminal becomes readable when there is input, and after `fg` that input is ours.
///
/// Edge-triggered, because a line that the shell is about to read keeps the terminal readable all the time.
#[cfg(target_os = "linux")]
fn listen_to_terminal(mut enter: impl FnMut() -> bool) -> io::Result<()> {
    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
    use nix::unistd::{getpgrp, tcgetpgrp};
    use std::os::fd::AsFd;

    let stdin = io::stdin();
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    epoll.add(&stdin, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0))?;
    let is_readable = || {
        let mut stdin = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        poll(&mut stdin, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    };
    let mut happened = [EpollEvent::empty()];
    loop {
        match epoll.wait(&mut happened, EpollTimeout::NONE) {
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        if happened[0].events().intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
            return Ok(());
        }
        // A terminal returns one line per read, and announces several at once.
        while is_readable() && tcgetpgrp(&stdin)? == getpgrp() {
            match lines(&mut stdin.lock()) {
                // Ctrl-D: it is not Enter, and the terminal still exists.
                Ok(None) => {}
                Ok(Some(lines)) => {
                    for _ in 0..lines {
                        if !enter() {
                            return Ok(());
                        }
                    }
                }
                // The process has just been moved to the background.
                Err(error) if error.raw_os_error() == Some(Errno::EIO as i32) => break,
                // Another process has read the line first, and stdin is non-blocking.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
    }
}

/// In the background, listening ends here instead of suspending the process, since SIGTTIN is blocked.
#[cfg(not(target_os = "linux"))]
fn listen_to_terminal(enter: impl FnMut() -> bool) -> io::Result<()> {
    listen(enter)
}

/// Keeps the terminal from suspending this process and the threads that it starts from now on: with these signals
/// blocked, a background read fails, and a background write succeeds.
#[cfg(unix)]
pub(crate) fn block_job_control() -> io::Result<()> {
    use nix::sys::signal::{SigSet, Signal};
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTTIN);
    signals.add(Signal::SIGTTOU);
    Ok(signals.thread_block()?)
}

/// There is no job control on Windows.
#[cfg(windows)]
pub(crate) fn block_job_control() -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_line_feed_is_an_enter_and_the_end_is_none() {
        let mut input: &[u8] = b"\r\nno line\n";
        assert_eq!(lines(&mut input).unwrap(), Some(2));
        assert_eq!(lines(&mut input).unwrap(), None);
    }
}
