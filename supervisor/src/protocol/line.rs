//! How messages are written and read, as lines.

use std::io::{self, BufRead, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::answer::{Answer, ErrorCode, Refusal};
use super::entry::Entry;
use super::members::Members;
use super::progress::Progress;
use super::request::Request;

/// The version of the protocol that this file specifies.
pub const VERSION: u64 = 1;

/// The version of the supervisor, not of the protocol.
const RELEASE: &str = env!("CARGO_PKG_VERSION");

/// The longest line, in bytes, its line feed included.
pub const MAX_LINE: usize = 64 * 1024;

/// How many characters remain of a text whose line would be longer than that.
pub(crate) const CUT: usize = 1000;

/// How many characters remain of it in any case: enough for an address, a time, or a word of the protocol.
const LEAST_CUT: usize = 100;

/// A line from the supervisor: any number of events, and then one result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Response {
    /// An entry of the journal.
    Entry(Entry),
    /// Something has happened, and the result is still to come.
    Progress(Progress),
    /// The last line.
    Answer(Answer),
}

/// Why a line could not be read.
#[derive(Debug)]
pub enum LineError {
    /// The other side closed the connection before a line was complete.
    Closed,
    /// The line is longer than [`MAX_LINE`].
    TooLong,
    /// The socket failed.
    Io(io::Error),
}

/// Reads one line, without its line feed. A last line without one counts.
///
/// # Errors
/// When there is no line, or none that is short enough.
pub fn read_line(input: &mut impl BufRead) -> Result<Vec<u8>, LineError> {
    let mut line = Vec::new();
    input.take(MAX_LINE as u64).read_until(b'\n', &mut line).map_err(LineError::Io)?;
    match line.last() {
        None => Err(LineError::Closed),
        Some(b'\n') => {
            line.pop();
            Ok(line)
        }
        Some(_) if line.len() >= MAX_LINE => Err(LineError::TooLong),
        Some(_) => Ok(line),
    }
}

/// Writes a value as one line.
///
/// # Errors
/// What the socket says.
pub fn write_line(output: &mut impl Write, value: &impl Serialize) -> io::Result<()> {
    write_whole(output, serde_json::to_vec(value)?)
}

/// Writes a line, and adds its line feed.
fn write_whole(output: &mut impl Write, mut line: Vec<u8>) -> io::Result<()> {
    line.push(b'\n');
    output.write_all(&line)?;
    output.flush()
}

/// Writes a response as one line. If it would be longer than [`MAX_LINE`], its texts and lists are cut until it fits.
///
/// # Errors
/// What the socket says.
pub fn write_response(output: &mut impl Write, response: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    if line.len() >= MAX_LINE {
        let mut response = serde_json::to_value(response)?;
        let mut length = CUT;
        while line.len() >= MAX_LINE && length > 0 {
            cut(&mut response, length);
            line = serde_json::to_vec(&response)?;
            length /= 2;
        }
    }
    write_whole(output, line)
}

/// Leaves this many characters of each text, and this many elements of each list.
fn cut(value: &mut Value, length: usize) {
    match value {
        Value::String(text) => {
            if let Some((end, _)) = text.char_indices().nth(length.max(LEAST_CUT)) {
                text.truncate(end);
                text.push('…');
            }
        }
        Value::Array(values) => {
            values.truncate(length);
            values.iter_mut().for_each(|value| cut(value, length));
        }
        Value::Object(members) => members.values_mut().for_each(|value| cut(value, length)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Writes a request with the protocol's version.
///
/// # Errors
/// What the socket says.
pub fn write_request(output: &mut impl Write, request: &Request) -> io::Result<()> {
    #[derive(Serialize)]
    struct Envelope<'a> {
        v: u64,
        #[serde(flatten)]
        request: &'a Request,
    }
    write_line(output, &Envelope { v: VERSION, request })
}

/// The longest message about a request that is not understood, in bytes: it quotes what the client has sent, and has to
/// fit into one line, too.
const MAX_COMPLAINT: usize = 1000;

/// Parses a request.
///
/// # Errors
/// What is wrong with it, for the client's answer.
pub fn parse_request(line: &[u8]) -> Result<Request, Refusal> {
    understand_request(line).map_err(|Refusal { code, mut message }| {
        if message.len() > MAX_COMPLAINT {
            message.truncate(message.floor_char_boundary(MAX_COMPLAINT));
            message.push('…');
        }
        Refusal { code, message }
    })
}

fn understand_request(line: &[u8]) -> Result<Request, Refusal> {
    let bad = |message: String| Refusal { code: ErrorCode::BadRequest, message };
    let members: Members =
        parse(line).map_err(|error| bad(format!("this is not a JSON object on one line: {error}")))?;
    let members = members.each_once().map_err(|name| bad(format!("\"{name}\" is there twice; keep one")))?;
    let mut object = Map::from_iter(members);
    match object.remove("v") {
        Some(version) if version == VERSION => {}
        Some(_) if object.get("request").is_some_and(|request| request == "ping") => return Ok(Request::Ping {}),
        None => return Err(bad(format!("\"v\" is missing: say \"v\":{VERSION}"))),
        Some(version) => {
            let message =
                format!("supervisor {RELEASE} speaks version {VERSION} of the protocol, not version {version}");
            return Err(Refusal { code: ErrorCode::UnsupportedVersion, message });
        }
    }
    Request::deserialize(Value::Object(object))
        .map_err(|error| bad(format!("supervisor {RELEASE} does not understand this request: {error}")))
}

/// Parses a line from the supervisor. None: an event that this version does not know.
///
/// # Errors
/// When it is no line of this protocol.
pub fn parse_response(line: &[u8]) -> serde_json::Result<Option<Response>> {
    let object: Map<String, Value> = parse(line)?;
    if object.contains_key("event") && object.contains_key("seq") {
        return Ok(Entry::deserialize(Value::Object(object)).ok().map(Response::Entry));
    }
    if object.contains_key("event") {
        return Ok(Progress::deserialize(Value::Object(object)).ok().map(Response::Progress));
    }
    Answer::deserialize(Value::Object(object)).map(|answer| Some(Response::Answer(answer)))
}

fn parse<T: DeserializeOwned>(line: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(line)
}
