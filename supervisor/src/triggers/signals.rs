//! Signals, and on Windows console events: each requests a stop, or SIGHUP a restart.

use std::io;

use crate::event::{Event, EventSender};
use crate::settings::OnHup;

#[cfg(target_os = "linux")]
pub(crate) use unix::hear_signals;
#[cfg(unix)]
pub(crate) use unix::{Signals, passed_on};
#[cfg(windows)]
pub(crate) use windows::Signals;

#[cfg(unix)]
mod unix {
    use super::{Event, EventSender, OnHup, io};
    use crate::event::Trigger;
    use nix::sys::signal::{SigSet, Signal};
    use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGIO, SIGPROF, SIGQUIT, SIGTERM, SIGURG};
    use signal_hook::consts::{SIGUSR1, SIGUSR2, SIGVTALRM, SIGWINCH};
    use signal_hook::iterator::exfiltrator::WithOrigin;
    use signal_hook::iterator::{Handle, SignalsInfo};
    use std::thread;

    /// The signals that request nothing of the supervisor and are meant for its program. The others that can be caught
    /// indicate that something is wrong with the supervisor itself (SIGPIPE, SIGXCPU, SIGABRT …), or belong to the
    /// terminal's job control.
    pub(crate) fn passed_on() -> impl Iterator<Item = i32> {
        let everywhere = [SIGUSR1, SIGUSR2, SIGWINCH, SIGCONT, SIGALRM, SIGVTALRM, SIGPROF, SIGIO, SIGURG];
        everywhere.into_iter().chain(on_linux())
    }

    #[cfg(target_os = "linux")]
    fn on_linux() -> impl Iterator<Item = i32> {
        use nix::libc::{SIGPWR, SIGRTMAX, SIGRTMIN};
        // From the first one that our C library does not use itself.
        std::iter::once(SIGPWR).chain(SIGRTMIN()..=SIGRTMAX())
    }

    #[cfg(not(target_os = "linux"))]
    fn on_linux() -> impl Iterator<Item = i32> {
        std::iter::empty()
    }

    /// Makes signals reach this thread, whatever was blocked in the process that started this one. Only the signals by
    /// which a terminal would suspend us stay as they are.
    pub(crate) fn hear_signals() {
        let Ok(blocked) = SigSet::thread_get_mask() else { return };
        let jobs = [Signal::SIGTTIN, Signal::SIGTTOU].into_iter().filter(|&signal| blocked.contains(signal));
        let mut stays = SigSet::empty();
        jobs.for_each(|signal| stays.add(signal));
        // It fails for no valid mask.
        let _ = stays.thread_set_mask();
    }

    /// Turns SIGHUP, SIGINT, SIGTERM and SIGQUIT into events, on a thread named `signals`, until it is dropped.
    #[derive(Debug)]
    pub(crate) struct Signals(Handle);

    impl Signals {
        /// The handlers exist when this returns.
        pub(crate) fn start(events: EventSender, on_hup: OnHup, pass_on: bool) -> io::Result<Signals> {
            let wanted = [(SIGHUP, "SIGHUP"), (SIGINT, "SIGINT"), (SIGTERM, "SIGTERM"), (SIGQUIT, "SIGQUIT")];
            // Respect nohup: closing the terminal must not stop the server then.
            let stays_ignored = on_hup == OnHup::Stop && is_ignored(SIGHUP);
            let wanted = wanted.into_iter().filter(|&(signal, _)| signal != SIGHUP || !stays_ignored);
            let wanted: Vec<_> = wanted.collect();
            let passed_on = passed_on().filter(|_| pass_on);
            let taken = wanted.iter().map(|&(signal, _)| signal).chain(passed_on);
            let mut signals = SignalsInfo::<WithOrigin>::new(taken)?;
            let handle = signals.handle();
            let closed = handle.clone();
            thread::Builder::new().name("signals".into()).spawn(move || {
                hear_signals();
                while !closed.is_closed() {
                    let mut together: Vec<_> = signals.wait().collect();
                    // They arrive in no particular order. If a SIGHUP arrives together with a request to stop, the stop
                    // counts.
                    if together.iter().any(|origin| [SIGINT, SIGTERM, SIGQUIT].contains(&origin.signal)) {
                        together.retain(|origin| origin.signal != SIGHUP);
                    }
                    for origin in together {
                        let Some(&(_, name)) = wanted.iter().find(|&&(signal, _)| signal == origin.signal) else {
                            if events.send(Event::Signal { signal: origin.signal }).is_err() {
                                return;
                            }
                            continue;
                        };
                        let sender = origin.process.and_then(|process| u32::try_from(process.pid).ok());
                        let by = Trigger::Signal { name, sender: sender.filter(|&pid| pid != 0) };
                        let event = match on_hup {
                            OnHup::Restart if name == "SIGHUP" => Event::Restart { by, grace: None },
                            OnHup::Restart | OnHup::Stop => Event::Stop { by, grace: None },
                        };
                        if events.send(event).is_err() {
                            return;
                        }
                    }
                }
            })?;
            Ok(Signals(handle))
        }
    }

    impl Drop for Signals {
        fn drop(&mut self) {
            self.0.close();
        }
    }

    /// Whether the signal was ignored when this process started, as Linux shows in proc(5).
    fn is_ignored(signal: i32) -> bool {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        mask & (1 << (signal - 1)) != 0
    }
}

#[cfg(windows)]
mod windows {
    use super::{Event, EventSender, OnHup, io};
    use crate::event::{ConsoleEvent, Trigger};
    use std::future::poll_fn;
    use std::task::{Context, Poll};
    use std::thread;
    use tokio::signal::windows as console;

    /// Turns console events into events, on a thread named `signals`, for the whole life of the process: their handling
    /// cannot be returned to the system.
    #[derive(Debug)]
    pub(crate) struct Signals;

    impl Signals {
        /// The handlers exist when this returns.
        ///
        /// When the window is closed, the user logs off or the system shuts down, Windows ends the process as soon as
        /// its handler returns. So tokio's handler never returns; the process ends when the stop is done.
        pub(crate) fn start(events: EventSender, _on_hup: OnHup, _pass_on: bool) -> io::Result<Signals> {
            let mut console = Console::new()?;
            let runtime = tokio::runtime::Builder::new_current_thread().build()?;
            thread::Builder::new().name("signals".into()).spawn(move || {
                loop {
                    let by = Trigger::ConsoleEvent(runtime.block_on(poll_fn(|context| console.poll(context))));
                    // An error means that the server has stopped already.
                    let _ = events.send(Event::Stop { by, grace: None });
                }
            })?;
            Ok(Signals)
        }
    }

    struct Console {
        ctrl_c: console::CtrlC,
        ctrl_break: console::CtrlBreak,
        close: console::CtrlClose,
        logoff: console::CtrlLogoff,
        shutdown: console::CtrlShutdown,
    }

    impl Console {
        fn new() -> io::Result<Console> {
            Ok(Console {
                ctrl_c: console::ctrl_c()?,
                ctrl_break: console::ctrl_break()?,
                close: console::ctrl_close()?,
                logoff: console::ctrl_logoff()?,
                shutdown: console::ctrl_shutdown()?,
            })
        }

        fn poll(&mut self, context: &mut Context<'_>) -> Poll<ConsoleEvent> {
            // Polling ends at the first that is ready; the others are left for the next call.
            Poll::Ready(if self.ctrl_c.poll_recv(context).is_ready() {
                ConsoleEvent::CtrlC
            } else if self.ctrl_break.poll_recv(context).is_ready() {
                ConsoleEvent::CtrlBreak
            } else if self.close.poll_recv(context).is_ready() {
                ConsoleEvent::Close
            } else if self.logoff.poll_recv(context).is_ready() {
                ConsoleEvent::Logoff
            } else if self.shutdown.poll_recv(context).is_ready() {
                ConsoleEvent::Shutdown
            } else {
                return Poll::Pending;
            })
        }
    }
}
