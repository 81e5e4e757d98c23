//! Closes one connection, and answers the request when it is closed.

use std::convert::Infallible;
use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use worker::Closed;

use crate::event::Trigger;
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{Answer, ErrorCode, Progress};
use crate::server::Clients;
use crate::text::{self, Seconds, limit_ms};
use crate::wire;

use super::reply::Reply;

/// Closes the connection `id`, whose client gets `grace` to disconnect. `clients` come with their generation's number.
pub(super) fn close<'a>(
    mut clients: impl Iterator<Item = (Option<u64>, &'a dyn Clients)>,
    id: u64,
    grace: Duration,
    by: &Trigger,
    reply: Reply,
    log: &Journal,
) {
    let closing = clients.find_map(|(generation, clients)| {
        let (log, reply) = (log.clone(), reply.clone());
        let (announced, announcement) = mpsc::channel::<Infallible>();
        let done = move |closed: &Closed| {
            // The connection may be closed before that has been announced. This is a thread of its own, so it can wait.
            let _ = announcement.recv();
            let outcome = wire::outcome(closed);
            let fields = [("id", id.into()), ("outcome", json!(outcome))];
            log.line(Level::Info, "connection_closed", text::describe_closed(id, &outcome), fields);
            reply.answer(Answer::Closed { id, outcome });
        };
        let closing = clients.close(id, grace, Box::new(done)).transpose()?;
        Some(closing.map(|connection| (wire::connection(&connection, generation, false), announced)))
    });
    match closing {
        Some(Ok((connection, announced))) => {
            let when = match limit_ms(grace) {
                Some(0) => "now".to_owned(),
                Some(_) => format!("within {}", Seconds(grace)),
                None => "when its client disconnects".to_owned(),
            };
            let message = format!("{by}: closing connection {id} from {} {when}", connection.peer);
            let fields = [("by", by.to_string().into()), ("id", id.into())];
            log.line(Level::Info, "closing_connection", message, fields);
            reply.report(Progress::Closing { connection });
            drop(announced);
        }
        Some(Err(error)) => {
            let message = format!("the system does not give a thread for that: {}", text::Reason(&error));
            reply.refuse(ErrorCode::Failed, message);
        }
        None => reply.refuse(ErrorCode::NoConnection, format!("there is no connection {id}")),
    }
}
