//! The health endpoint: HTTP requests about the state, answered by master control. It accepts no commands.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use worker::handlers::{Http, Page};
use worker::{Handle, Server};

use crate::event::{Event, EventSender, Trigger};
use crate::journal::Journal;
use crate::log::Level;
use crate::protocol::{Answer, Request, Response};
use crate::{metrics, text};

/// How many clients are served at the same time. One more takes the place of the one that has been idle
/// or slow for longest; if there is none, it is rejected with a message.
const MAX_CLIENTS: usize = 64;

/// How long a client may take to begin a request, to send the rest of it, and to read the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long master control may take to answer. Probes do not wait much longer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// How long the end of the supervisor waits for the endpoint to end. It takes that long only if nothing can connect to
/// its address, so that its thread cannot be woken.
const END_LIMIT: Duration = Duration::from_secs(1);

/// A separate server beside the supervised one. It answers until it is dropped: then its port is free, without waiting
/// for any client.
#[derive(Debug)]
pub(crate) struct Health {
    server: Handle,
    /// Signals that it has ended.
    ended: Receiver<()>,
}

impl Health {
    /// Answers on a listener that is already bound, as soon as there is a master control to ask.
    pub(crate) fn start(listener: TcpListener, events: EventSender, log: Journal) -> io::Result<Health> {
        let http = Http::pages(move |path| page(path, &events)).patience(PATIENCE);
        let (ends, ended) = mpsc::channel();
        let server = Server::new(http).max_connections(MAX_CLIENTS).observer(move |event| match event {
            worker::Event::Failed { failure } => {
                log.line(Level::Error, "health_lost", format!("the health endpoint is gone: {failure}"), []);
            }
            worker::Event::Finished => {
                let _ = ends.send(()); // An end that came by itself is not awaited.
            }
            _ => {}
        });
        Ok(Health { server: server.start(listener)?, ended })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.server.stopper().address()
    }
}

impl Drop for Health {
    fn drop(&mut self) {
        self.server.stopper().stop_by(Instant::now());
        let _ = self.ended.recv_timeout(END_LIMIT);
    }
}

/// The answer to a request for this path. None: there is no such page.
fn page(path: &str, events: &EventSender) -> Option<Page> {
    let answer = match path {
        "ready" | "readyz" | "metrics" => ask(Request::Status {}, events),
        // As Kubernetes and others call it. Whether there is something to serve says nothing about the supervisor.
        "live" | "livez" | "healthz" => ask(Request::Ping {}, events),
        _ => return None,
    };
    Some(match answer {
        Some(Answer::Pong { .. }) => line(true, "alive".into()),
        Some(Answer::Status(status)) if path == "metrics" => {
            Page { available: true, media_type: metrics::MEDIA_TYPE, text: metrics::text(&status) }
        }
        Some(Answer::Status(status)) => line(status.ready, text::readiness(&status)),
        Some(_) | None => line(false, "master control does not answer".into()),
    })
}

fn line(available: bool, text: String) -> Page {
    Page { available, media_type: "text/plain; charset=utf-8", text: text + "\n" }
}

/// Asks in the same way as a client of the admin socket. None: master control hangs, or has just ended.
fn ask(request: Request, events: &EventSender) -> Option<Answer> {
    let (reply, answers) = mpsc::channel();
    // The log does not name the client of such a request.
    events.send(Event::Request { request, by: Trigger::Code, reply }).ok()?;
    match answers.recv_timeout(ANSWER_LIMIT).ok()? {
        Response::Answer(answer) => Some(answer),
        Response::Progress(_) | Response::Entry(_) => None,
    }
}
