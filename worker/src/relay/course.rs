//! What is done with a pair, depending on what is known of its bytes.

use std::ops::ControlFlow;

use super::answers;
use super::bytes::{self, Step};
use super::message::{Exchange, Next, Stage};
use super::pair::{Course, Pair};
use super::parting;
use super::requests;
use super::tools::Tools;

/// How many messages of one client are served before others get a turn.
const ROUNDS: usize = 16;

/// Does all that can be done without waiting.
pub(super) fn run(pair: &mut Pair, tools: &mut Tools) -> Step {
    pair.due = None;
    pair.again = false;
    for _ in 0..ROUNDS {
        let next = match &pair.course {
            Course::Bytes(_) => return bytes::run(pair, tools),
            Course::Parting(_) => return parting::run(pair, tools),
            Course::Messages(Exchange { stage: Stage::Between, .. }) => requests::next(pair, tools)?,
            Course::Messages(Exchange { stage: Stage::UnderWay(_), .. }) => answers::carry_on(pair, tools)?,
        };
        if next == Next::Wait {
            return ControlFlow::Continue(());
        }
    }
    pair.again = true;
    ControlFlow::Continue(())
}
