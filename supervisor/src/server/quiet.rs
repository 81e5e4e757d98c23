//! A port that is paused: master control hears when nothing is under way there any more.

use std::thread;

use worker::Paused;

use super::lacking;
use crate::event::{Event, EventSender};

/// Has master control hear that of the pause of this number. Returns how much is under way now.
///
/// # Errors
/// When the system gives no thread.
pub(crate) fn await_quiet(paused: Paused, pause: u64, events: &EventSender) -> Result<usize, String> {
    let (under_way, events) = (paused.under_way(), events.clone());
    let waits = move || {
        if paused.wait() {
            // Without master control there is nobody to tell.
            let _ = events.send(Event::Quiet { pause });
        }
    };
    let thread = thread::Builder::new().name("pause".into()).spawn(waits);
    thread.map(|_| under_way).map_err(|error| lacking("a thread to wait for requests", &error).to_string())
}
