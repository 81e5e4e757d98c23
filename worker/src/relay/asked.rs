//! What other threads ask of connections. The loops answer at once.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use super::hub::{Command, Hub};
use crate::report::{Closed, ConnectionInfo, Outcome};

/// How long a connection that was closed by force may take to end.
const PATIENCE: Duration = Duration::from_millis(500);

/// The connections of this generation, or those that belong to none; oldest first.
pub(super) fn connections(hub: &Hub, target: Option<u64>) -> Vec<ConnectionInfo> {
    let (to, from) = mpsc::channel();
    hub.tell(|| Command::List(target, to.clone()));
    drop(to);
    let mut connections: Vec<ConnectionInfo> = from.iter().collect();
    connections.sort_unstable_by_key(|connection| connection.id);
    connections
}

/// Ends one of them: between two messages, or by force when the grace period is over. Waits for the end. None: there is
/// no such connection.
pub(super) fn close(hub: &Hub, target: Option<u64>, id: u64, grace: Duration) -> Option<Closed> {
    let (found, is_found) = mpsc::channel();
    let (ended, end) = mpsc::channel();
    hub.tell(|| Command::Leave { id, target, found: found.clone(), ended: ended.clone() });
    drop((found, ended));
    let connection = is_found.recv().ok()?;
    let outcome = match end.recv_timeout(grace) {
        Ok(outcome) => outcome,
        Err(RecvTimeoutError::Disconnected) => Outcome::Forced, // The relay has ended.
        Err(RecvTimeoutError::Timeout) => {
            hub.tell(|| Command::Force(id));
            end.recv_timeout(PATIENCE).unwrap_or(Outcome::Forced)
        }
    };
    Some(Closed { connection, outcome, stuck: false })
}
