//! The service manager, of whatever kind, as master control uses it.

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use super::reports::Reports;
use super::store::{Errand, Kept};
use super::systemd::Notify;
use super::view::View;
use crate::journal::Journal;
use crate::listen::{Bound, SocketFile};
use crate::log::{Level, Log};
use crate::text::Reason;

/// How long to wait before retrying a report that the manager had no room for.
const AGAIN: Duration = Duration::from_millis(200);

/// Sends the service manager the reports that it wants. Owned by master control.
pub(crate) struct Manager {
    to: To,
    log: Journal,
    /// When to retry a report that the manager had no room for.
    again: Option<Instant>,
    /// Whether it has been logged that a report could not be sent.
    warned: bool,
}

enum To {
    Nothing,
    /// systemd, or another manager that `NOTIFY_SOCKET` names.
    Notify(Notify),
    /// The service manager of Windows.
    #[cfg_attr(all(unix, not(test)), allow(dead_code))]
    Reports(Reports),
}

impl Manager {
    fn new(to: To, log: Journal) -> Manager {
        Manager { to, log, again: None, warned: false }
    }

    /// There is no service manager.
    pub(crate) fn none() -> Manager {
        Manager::new(To::Nothing, Journal::new(Log::silent()))
    }

    /// The service manager of Windows.
    #[cfg_attr(all(unix, not(test)), allow(dead_code))]
    pub(crate) fn of_service(reports: Reports, log: Journal) -> Manager {
        Manager::new(To::Reports(reports), log)
    }

    /// A service manager such as systemd.
    pub(crate) fn of_notify(notify: Notify, log: Journal) -> Manager {
        Manager::new(To::Notify(notify), log)
    }

    /// The manager that the environment names, if it names one.
    pub(crate) fn from_environment(log: Journal) -> Manager {
        match Notify::from_environment() {
            None => Manager::none(),
            Some(Ok(notify)) => Manager::of_notify(notify, log),
            Some(Err(error)) => {
                let mut manager = Manager::new(To::Nothing, log);
                manager.warn(&error);
                manager
            }
        }
    }

    /// Whether there is a service manager.
    pub(crate) fn listens(&self) -> bool {
        match self.to {
            To::Nothing => false,
            To::Notify(_) | To::Reports(_) => true,
        }
    }

    /// Has the manager keep a listener for the next supervisor, unless it already does so because an earlier supervisor
    /// has asked it to. The file of a Unix socket is kept, too, as soon as the manager has been asked. Returns whether
    /// the listener is kept.
    ///
    /// # Errors
    /// What there is to say when the listener cannot be given to it.
    pub(crate) fn keep(
        &mut self,
        is_kept: bool,
        listener: impl FnOnce() -> io::Result<Bound>,
        file: Option<&SocketFile>,
    ) -> io::Result<bool> {
        let To::Notify(notify) = &mut self.to else { return Ok(is_kept) };
        let Some(store) = notify.store() else { return Ok(is_kept) };
        if let Err(message) = store.take_place() {
            self.log.line(Level::Warning, "not_kept", message, []);
            return Ok(is_kept);
        }
        if !is_kept {
            notify.ask_later(Errand::keep(listener()?, file.map(SocketFile::kept_flag).unwrap_or_default()));
        }
        Ok(true)
    }

    /// Has the manager forget what it has kept for an earlier supervisor.
    pub(crate) fn forget(&mut self, kept: &Kept) {
        if let To::Notify(notify) = &mut self.to {
            notify.ask_later(Errand::Forget { name: kept.name().to_owned() });
            let asked = notify.ask();
            self.warn_of(asked);
        }
    }

    /// When the next keep-alive message is due, or the retry of a report.
    pub(crate) fn next_beat(&self) -> Option<Instant> {
        match &self.to {
            To::Notify(notify) => notify.next_beat().into_iter().chain(self.again).min(),
            To::Nothing | To::Reports(_) => None,
        }
    }

    /// Sends a keep-alive message if one is due.
    pub(crate) fn beat(&mut self, now: Instant) {
        let sent = match &mut self.to {
            To::Notify(notify) => {
                let asked = notify.ask();
                notify.beat(now).and(asked)
            }
            To::Nothing | To::Reports(_) => Ok(()),
        };
        self.warn_of(sent);
    }

    /// Reports what has changed.
    pub(crate) fn tell(&mut self, view: View, now: Instant) {
        let sent = match &mut self.to {
            To::Nothing => Ok(()),
            To::Notify(notify) => {
                let asked = notify.ask();
                notify.tell(view, now).and(asked)
            }
            To::Reports(reports) => reports.tell(&view, now),
        };
        let is_full = sent.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        self.again = is_full.then(|| now + AGAIN);
        self.warn_of(sent);
    }

    fn warn_of(&mut self, sent: io::Result<()>) {
        if let Err(error) = sent {
            self.warn(&error);
        }
    }

    /// Warns only once: a manager that is gone does not reappear within a moment.
    fn warn(&mut self, error: &io::Error) {
        if !self.warned {
            self.warned = true;
            let message = format!("cannot report to the service manager: {}", Reason(error));
            self.log.line(Level::Warning, "no_service_manager", message, []);
        }
    }
}

impl fmt::Debug for Manager {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            To::Nothing => formatter.write_str("Manager(none)"),
            To::Notify(notify) => notify.fmt(formatter),
            To::Reports(reports) => reports.fmt(formatter),
        }
    }
}
