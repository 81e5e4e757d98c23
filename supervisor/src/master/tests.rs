//! Master control, with generations that only pretend and a clock of its own.
#![allow(clippy::unwrap_used)]

mod cases;
mod drive;
mod random;
mod world;
