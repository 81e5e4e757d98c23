//! How a program ended.

use std::fmt;
#[cfg(unix)]
use std::ops::RangeInclusive;
use std::process::ExitStatus;

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProgramEnd {
    /// By itself, with this code.
    Exited(i32),
    /// By the signal with this number.
    Signaled(i32),
    /// It was killed because its guardian, the process between it and the supervisor, was killed.
    Unguarded,
    /// On Windows: it was killed by its supervisor.
    #[cfg(windows)]
    Killed,
}

/// The exit code of a program that was ended by Ctrl-C or Ctrl-Break: `STATUS_CONTROL_C_EXIT`.
#[cfg(windows)]
const CONSOLE_EVENT: i32 = 0xc000_013a_u32.cast_signed();

impl From<ExitStatus> for ProgramEnd {
    fn from(status: ExitStatus) -> ProgramEnd {
        #[cfg(unix)]
        if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
            return ProgramEnd::Signaled(signal);
        }
        // A program that was not ended by a signal has an exit code.
        ProgramEnd::Exited(status.code().unwrap_or(1))
    }
}

impl ProgramEnd {
    /// Says it of this subject instead of "it".
    pub(crate) fn of(self, of: &str) -> impl fmt::Display {
        Said { of, end: self }
    }

    /// Whether this counts as success: exit code 0, or one of these.
    pub fn is_success(self, codes: &[i32]) -> bool {
        self == ProgramEnd::Exited(0) || (self != ProgramEnd::Unguarded && codes.contains(&self.code()))
    }

    /// The exit code with which a shell reports this.
    pub fn code(self) -> i32 {
        match self {
            ProgramEnd::Exited(code) => code,
            ProgramEnd::Signaled(signal) => 128_i32.saturating_add(signal),
            ProgramEnd::Unguarded => 128 + 9, // SIGKILL
            #[cfg(windows)]
            ProgramEnd::Killed => 1,
        }
    }
}

impl fmt::Display for ProgramEnd {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of("it").fmt(formatter)
    }
}

/// The end of something that has a name.
struct Said<'a> {
    of: &'a str,
    end: ProgramEnd,
}

impl fmt::Display for Said<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Said { of, end } = self;
        match end {
            #[cfg(windows)]
            ProgramEnd::Exited(CONSOLE_EVENT) => write!(formatter, "{of} was ended by a console event"),
            // In the form in which tables list these codes: a crash, for one.
            #[cfg(windows)]
            ProgramEnd::Exited(code @ ..0) => write!(formatter, "{of} exited with code {code:#X}"),
            ProgramEnd::Exited(code) => write!(formatter, "{of} exited with code {code}"),
            ProgramEnd::Signaled(signal) => write!(formatter, "{of} was killed by {}", SignalName(*signal)),
            ProgramEnd::Unguarded => write!(formatter, "{of} was killed along with its guardian"),
            #[cfg(windows)]
            ProgramEnd::Killed => write!(formatter, "{of} was killed"),
        }
    }
}

/// The real-time signals as numbered by glibc, Go and systemd, and so by most programs, even where the C library of the
/// supervisor itself (musl) reserves the first one.
#[cfg(target_os = "linux")]
pub(crate) const REAL_TIME: RangeInclusive<i32> = 34..=64;

/// None can be sent from here.
#[cfg(all(unix, not(target_os = "linux")))]
#[expect(clippy::reversed_empty_ranges, reason = "there are none")]
pub(crate) const REAL_TIME: RangeInclusive<i32> = 1..=0;

/// A signal for people: its name, or its number if it has none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SignalName(pub(crate) i32);

impl SignalName {
    /// None: this system has no such signal.
    pub(crate) fn known(self) -> Option<String> {
        #[cfg(unix)]
        if let Ok(signal) = nix::sys::signal::Signal::try_from(self.0) {
            return Some(signal.as_str().to_owned());
        }
        #[cfg(unix)]
        if REAL_TIME.contains(&self.0) {
            return Some(format!("SIGRTMIN+{}", self.0 - REAL_TIME.start()));
        }
        None
    }
}

impl fmt::Display for SignalName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.known() {
            Some(name) => formatter.write_str(&name),
            None => write!(formatter, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_program_is_told_in_words_and_as_a_shell_does() {
        assert_eq!(
            (ProgramEnd::Exited(3).to_string().as_str(), ProgramEnd::Exited(3).code()),
            ("it exited with code 3", 3)
        );
        assert_eq!(ProgramEnd::Signaled(99_999).to_string(), "it was killed by signal 99999");
        assert_eq!(ProgramEnd::Exited(3).of("the command").to_string(), "the command exited with code 3");
        assert_eq!(ProgramEnd::Signaled(9).code(), 137);
        assert_eq!(ProgramEnd::Unguarded.code(), 137);
        #[cfg(unix)]
        assert_eq!(ProgramEnd::Signaled(11).to_string(), "it was killed by SIGSEGV");
        #[cfg(windows)]
        assert_eq!(ProgramEnd::Exited(-1_073_741_819).to_string(), "it exited with code 0xC0000005");
    }
}
