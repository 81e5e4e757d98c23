//! What has shown that a program is ready.

use std::fmt;
use std::time::Duration;

use crate::text::Seconds;

/// What has shown that a program is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Evidence {
    /// It has run for this long.
    Ran(Duration),
    /// One of its processes listens on this address, on a socket that is not from us.
    Listens(String),
    /// It has sent `READY=1`.
    Notified,
    /// It has answered; the text describes how.
    Answered(String),
}

impl Evidence {
    /// Whether it shows that the program accepts connections, and not merely that it runs.
    pub(super) fn shows_service(&self) -> bool {
        match self {
            Evidence::Ran(_) => false,
            Evidence::Listens(_) | Evidence::Notified | Evidence::Answered(_) => true,
        }
    }
}

/// The text after `ready: `.
impl fmt::Display for Evidence {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Evidence::Ran(time) => write!(formatter, "it has run for {}", Seconds(*time)),
            Evidence::Listens(address) => write!(formatter, "it listens on {address}"),
            Evidence::Notified => write!(formatter, "it sent READY=1"),
            Evidence::Answered(how) => write!(formatter, "{how}"),
        }
    }
}
