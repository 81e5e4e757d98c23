//! A generation that has not ended.

use std::time::Instant;

use worker::Counts;

use crate::protocol::{self, Change, ProgramConnection};
use crate::server::Generation;
use crate::text;
use crate::wire;

/// A generation that has not ended, and its numbers.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) build: u64,
    pub(super) number: u64,
    pub(super) generation: Box<dyn Generation>,
    pub(super) since: Instant,
    /// How it differs from the generation before. None: unknown.
    pub(super) changes: Option<Vec<Change>>,
    /// The program that it runs, for people.
    pub(super) program: Option<String>,
}

impl Live {
    /// How many connections it has. None: only its program knows.
    pub(super) fn open(&self) -> Option<usize> {
        self.generation.clients().map(|clients| clients.counts().now)
    }

    /// What has changed, as the end of a message.
    pub(super) fn changed(&self) -> String {
        match self.changes.as_deref() {
            None | Some([]) => String::new(),
            Some(changes) => {
                let changes: Vec<_> = changes.iter().map(text::change).collect();
                format!("; changed: {}", changes.join(", "))
            }
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.generation.clients().map(|clients| clients.counts()).unwrap_or_default()
    }

    /// The connections that it serves now, oldest first.
    pub(super) fn connections(&self) -> Vec<protocol::Connection> {
        let connections = self.generation.clients().map(|clients| clients.connections()).unwrap_or_default();
        connections.iter().map(|connection| wire::connection(connection, Some(self.number), false)).collect()
    }

    /// The connections of its program, as the last look during the drain showed them.
    pub(super) fn seen(&self) -> Vec<ProgramConnection> {
        let of_this = |seen| ProgramConnection { generation: Some(self.number), ..seen };
        self.generation.seen().into_iter().map(of_this).collect()
    }
}
