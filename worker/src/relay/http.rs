//! The observer of HTTP/1: where messages end, and what is changed in them. It knows only bytes, no sockets.
//!
//! An ambiguous request is refused, because the program might choose the other interpretation: a part of its body would
//! be another request there. An ambiguous answer is doubted: it is passed on until the program closes, and the client's
//! connection ends with it.

mod answer;
mod body;
mod fields;
mod forwarded;
mod opening;
mod request;
mod target;

pub(crate) use answer::{Answer, Kind, answer};
pub(crate) use body::{BadBody, BodyReader};
pub(crate) use fields::MAX_HEAD;
pub use forwarded::Forwarded;
pub(crate) use opening::Opening;
pub(crate) use request::{Method, Request, empty_lines, request};

#[cfg(test)]
mod tests;
