//! What is done with a pair, by what is known of its bytes.

use super::bytes::{self, Step};
use super::pair::{Course, Pair};
use super::parting;
use super::tools::Tools;

/// Does all that can be done without waiting.
pub(super) fn run(pair: &mut Pair, tools: &mut Tools) -> Step {
    pair.due = None;
    pair.again = false;
    match &pair.course {
        Course::Bytes(_) => bytes::run(pair, tools),
        Course::Parting(_) => parting::run(pair, tools),
    }
}
