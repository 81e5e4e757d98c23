//! The admin protocol, as the programs implement it.
//!
//! A client connects to the admin socket (on Windows: the named pipe) and sends one request: one JSON object on one
//! line, in UTF-8, at most 64 KiB long. The supervisor sends any number of event lines, then one result line, and
//! closes the connection: one request per connection. The supervisor's lines are at most 64 KiB long, too. To make a
//! line fit, it cuts long texts, which then end in `…`, and long lists. An event line with a `seq` is an [`Entry`] of
//! the journal, sent only in answer to `events`; every other event line is [`Progress`].
//!
//! ```text
//! -> {"v":1,"request":"stop","grace_ms":5000}
//! <- {"event":"draining","by":"admin client (user 1000, pid 77)","open":2,"remaining_ms":4999,"connections":[…]}
//! <- {"result":"stopped","report":{"by":"…","notified":2,"disconnected":2,"closed":0,"forced":0,"stuck":0,"took_ms":740,"connections":[]}}
//! ```
//!
//! `v` is the protocol's version, 1. A request with another version, an unknown request, an unknown field and a
//! duplicate field are answered with an error that names the supervisor's version. `ping` is answered for any `v`, so a
//! client that does not understand the supervisor can still ask for its version.
//!
//! Requests, fields, events and words such as those of [`State`] may be added without a new `v`. Clients ignore fields
//! and events that they do not know, and show unknown words as they are.

mod answer;
mod connection;
mod entry;
mod line;
pub(crate) mod members;
mod progress;
mod request;
mod status;
#[cfg(test)]
mod tests;

pub use answer::{Answer, Change, ErrorCode, MAX_CHANGES, Refusal, Undone};
pub use connection::{Activity, Connection, ConnectionState, Drain, MAX_NAMED, Outcome, ProgramConnection, Report};
pub use entry::{Entry, Level};
pub(crate) use line::CUT;
pub use line::{
    LineError, MAX_LINE, Response, VERSION, parse_request, parse_response, read_line, write_line, write_request,
    write_response,
};
pub use progress::Progress;
pub use request::Request;
pub use status::{Counts, Delay, LastEnd, Pause, Relay, Requests, State, Status};
