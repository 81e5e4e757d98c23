//! A program that is ready, as master control sees it: a generation.

use std::sync::Arc;
use std::time::Duration;

use worker::ServerError;

use super::evidence::Evidence;
use super::looks::Looks;
use super::process::Running;
use crate::event::{Event, EventSender};
use crate::protocol::ProgramConnection;
use crate::server::deadline::Deadline;
use crate::server::{Availability, Clients, Ended, Failure, Generation, Look};

/// A program that is ready.
#[derive(Debug)]
pub(super) struct Child {
    running: Arc<Running>,
    /// None: nothing has shown that it is ready, and it has ended already or has to end.
    evidence: Option<Evidence>,
    looks: Looks,
    events: EventSender,
}

impl Child {
    pub(super) fn new(running: Arc<Running>, evidence: Option<Evidence>, looks: Looks, events: EventSender) -> Child {
        Child { running, evidence, looks, events }
    }

    /// How it ended.
    #[expect(clippy::unnecessary_wraps, reason = "as master control hears it")]
    pub(super) fn ended(&self) -> Result<Ended, ServerError> {
        Ok(Ended { held_up_by: self.looks.seen(), ..self.running.ended() })
    }
}

impl Generation for Child {
    /// It accepts connections already, if it has a socket to accept from.
    fn serve(&self) {}

    /// It accepts connections until it reacts to the signal. Until then both generations do.
    fn retire_by(&self, deadline: Deadline, spread: Duration) {
        self.stop_by(deadline, spread);
    }

    fn stop_by(&self, deadline: Deadline, _spread: Duration) {
        self.running.stop_by(deadline);
        let running = self.running.clone();
        self.looks.begin(move |limit| running.wait_until_over(limit));
    }

    /// The signal is sent only once.
    fn move_deadline(&self, deadline: Deadline) {
        self.running.stop_by(deadline);
    }

    fn clients(&self) -> Option<&dyn Clients> {
        None
    }

    fn look(&self) -> Option<Look> {
        self.looks.look()
    }

    fn seen(&self) -> Vec<ProgramConnection> {
        self.looks.seen()
    }

    fn evidence(&self) -> Option<String> {
        self.evidence.as_ref().map(Evidence::to_string)
    }

    fn is_known_to_serve(&self) -> bool {
        self.evidence.as_ref().is_some_and(Evidence::shows_service)
    }

    fn unproved(&self) -> Option<Failure> {
        let check = self.running.unproved()?;
        let reason = format!("check {check} has had no good answer from it");
        Some(Failure::because(reason, self.running.lines_so_far()))
    }

    fn pid(&self) -> Option<u32> {
        self.running.pid()
    }

    fn says(&self) -> Option<String> {
        self.running.says()
    }

    /// The queue of its socket takes connections whatever the program does, so connecting would show nothing.
    fn check(&self, _limit: Duration) {
        let _ = self.events.send(Event::Checked { build: self.running.build(), accepting: true });
    }

    /// Only the program knows whether it is available.
    fn available(&self, done: Availability) {
        done(Ok(()));
    }

    fn set_in_rotation(&self, in_rotation: bool) {
        self.running.set_in_rotation(in_rotation);
    }

    fn give_up(&mut self, why: &str) {
        self.running.give_up(why);
    }

    fn signal(&self, signal: i32) -> bool {
        self.running.signal(signal)
    }

    fn end(self: Box<Self>) -> Result<Ended, ServerError> {
        self.ended()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.running.is_left() {
            self.running.end();
        }
    }
}
