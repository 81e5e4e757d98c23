//! The parts of a relay in front of any program, which passes the bytes of its clients on to the generation that serves
//! now.

#[allow(dead_code, unused_imports, reason = "the loop that passes the bytes on is not written yet")]
mod http;

pub use http::Forwarded;
