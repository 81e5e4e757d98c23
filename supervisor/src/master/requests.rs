//! Requests to master control: the protocol's requests in its own terms.

use std::sync::mpsc::Sender;
use std::time::Duration;

use crate::event::Trigger;
use crate::protocol::{Request, Response};

use super::reply::Reply;
use super::restarts::Restart;

/// A request of an admin client.
#[derive(Debug)]
pub(super) enum Command {
    /// The stop begins after this delay. None: as the settings say.
    Stop(StopRequest, Option<Duration>),
    Restart(Restart),
    /// The rest is answered at once.
    Ask {
        what: Ask,
        by: Trigger,
        reply: Reply,
    },
}

/// Requests that are answered at once, in every state.
#[derive(Debug)]
pub(super) enum Ask {
    Ping,
    Status,
    Connections,
    /// Closes a connection. Its client gets this long to disconnect, or as long as the settings say.
    Close {
        id: u64,
        grace: Option<Duration>,
    },
    /// Moves the deadline of the drain under way to this long from now.
    Grace(Duration),
    /// Sends this signal to the program.
    Signal(i32),
    NotReady,
    Ready,
}

/// Decodes a request. None: it does not concern master control.
pub(super) fn decode(request: Request, by: Trigger, to: Sender<Response>) -> Option<Command> {
    let reply = |wait| Reply::new(to, wait);
    let ask = match request {
        Request::Stop { grace_ms, spread_ms, delay_ms, wait } => {
            let grace = grace_ms.map(Duration::from_millis);
            let spread = spread_ms.map(Duration::from_millis);
            let stop = StopRequest { by, grace, spread, reply: Some(reply(wait)) };
            return Some(Command::Stop(stop, delay_ms.map(Duration::from_millis)));
        }
        Request::Restart { grace_ms, spread_ms, wait } => {
            let grace = grace_ms.map(Duration::from_millis);
            let spread = spread_ms.map(Duration::from_millis);
            return Some(Command::Restart(Restart::new(by, grace, Some(reply(wait))).over(spread)));
        }
        Request::Ping {} => Ask::Ping,
        Request::Status {} => Ask::Status,
        Request::Connections {} => Ask::Connections,
        Request::Close { id, grace_ms } => Ask::Close { id, grace: grace_ms.map(Duration::from_millis) },
        Request::Grace { grace_ms } => Ask::Grace(Duration::from_millis(grace_ms)),
        Request::Signal { signal } => Ask::Signal(signal),
        Request::Drain {} => Ask::NotReady,
        Request::Resume {} => Ask::Ready,
        // The admin socket answers these itself, or sends another event.
        Request::Events { .. } | Request::Pause { .. } => return None,
    };
    Some(Command::Ask { what: ask, by, reply: reply(false) })
}

/// A request to stop.
#[derive(Debug)]
pub(super) struct StopRequest {
    pub(super) by: Trigger,
    /// How long clients get to disconnect. None: as the settings say.
    pub(super) grace: Option<Duration>,
    /// The spread. None: as the settings say.
    pub(super) spread: Option<Duration>,
    /// None: no client waits for an answer.
    pub(super) reply: Option<Reply>,
}

impl StopRequest {
    /// Whether it asks for nothing but a stop.
    pub(super) fn is_plain(&self) -> bool {
        self.grace.is_none() && self.spread.is_none() && self.by.limit().is_none()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::mpsc;

    use super::*;

    fn decoded(request: Request) -> Option<Command> {
        decode(request, Trigger::Code, mpsc::channel().0)
    }

    #[test]
    fn a_stop_has_its_own_times_or_those_of_the_settings() {
        for (grace_ms, delay_ms) in [(Some(1500), Some(0)), (None, Some(20)), (None, None)] {
            let Some(Command::Stop(stop, delay)) =
                decoded(Request::Stop { grace_ms, spread_ms: Some(7), delay_ms, wait: true })
            else {
                panic!("it is no stop")
            };
            assert_eq!((stop.grace, delay), (grace_ms.map(Duration::from_millis), delay_ms.map(Duration::from_millis)));
            assert_eq!(stop.spread, Some(Duration::from_millis(7)));
        }
    }

    #[test]
    fn a_stop_is_plain_unless_it_demands_a_time() {
        use crate::event::ConsoleEvent;
        let plain = |by, grace| StopRequest { by, grace, spread: None, reply: None }.is_plain();
        assert!(plain(Trigger::Console, None));
        assert!(plain(Trigger::Admin { user: None, pid: None }, None));
        assert!(plain(Trigger::ConsoleEvent(ConsoleEvent::CtrlC), None));
        assert!(!plain(Trigger::Code, Some(Duration::ZERO)));
        // The system does not wait long after this event.
        assert!(!plain(Trigger::ConsoleEvent(ConsoleEvent::Close), None));
    }
}
