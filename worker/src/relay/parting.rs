//! Sends a client its last bytes, then waits until it closes, too.

use std::ops::ControlFlow;
use std::time::Duration;

use super::pair::{Course, Pair, Parting};
use super::side::Read;
use super::tools::Tools;
use crate::report::Outcome;

/// How long a client that was answered, but whose input was not read to the end, gets to close its side.
const LINGER: Duration = Duration::from_secs(2);

/// How often its input is read before others get a turn.
const ROUNDS: usize = 16;

/// The client gets its remaining bytes, and then its connection ends.
pub(super) fn begin(pair: &mut Pair, outcome: Outcome) {
    pair.course = Course::Parting(Parting { outcome, until: None });
}

pub(super) fn run(pair: &mut Pair, tools: &mut Tools) -> ControlFlow<Outcome> {
    let Course::Parting(parting) = &mut pair.course else { return ControlFlow::Continue(()) };
    let outcome = parting.outcome;
    if !pair.to_client.flush(&mut pair.client) {
        return ControlFlow::Continue(());
    }
    let until = *parting.until.get_or_insert_with(|| {
        pair.client.half_close();
        tools.now + LINGER
    });
    if pair.client.broken || pair.client.heard_all || until <= tools.now {
        return ControlFlow::Break(outcome);
    }
    for _ in 0..ROUNDS {
        if !pair.client.readable {
            pair.wake_by(until);
            return ControlFlow::Continue(());
        }
        match pair.client.read(&mut tools.scratch) {
            Read::Bytes(length) => pair.received += length as u64,
            Read::Nothing => {}
            Read::End | Read::Broken => return ControlFlow::Break(outcome),
        }
    }
    pair.again = true;
    pair.wake_by(until);
    ControlFlow::Continue(())
}
