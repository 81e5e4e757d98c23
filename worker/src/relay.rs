//! A port in front of any program: it accepts the clients, and passes their bytes on to the generation that serves now.

#[allow(dead_code, unused_imports, reason = "the loop that uses it comes next")]
mod http;

pub use http::Forwarded;
