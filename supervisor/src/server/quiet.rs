//! Tells master control when nothing is under way any more on a paused port.

use std::thread;

use worker::Paused;

use super::lacking;
use crate::event::{Event, EventSender};

/// Tells master control when nothing is under way any more in the pause with this number. Returns how much is now.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn await_quiet(paused: Paused, pause: u64, events: &EventSender) -> Result<usize, String> {
    let (under_way, events) = (paused.under_way(), events.clone());
    let waits = move || {
        if paused.wait() {
            // Without master control the event cannot be reported.
            let _ = events.send(Event::Quiet { pause });
        }
    };
    let thread = thread::Builder::new().name("pause".into()).spawn(waits);
    thread.map(|_| under_way).map_err(|error| lacking("a thread to wait for requests", &error).to_string())
}
