//! The connections of a program that accepts them itself, as seen from outside.

use std::sync::{Arc, Mutex, Once};
#[cfg(target_os = "linux")]
use std::thread;
use std::time::Duration;
#[cfg(target_os = "linux")]
use std::time::Instant;

use super::family_sockets::FamilySockets;
use crate::protocol::ProgramConnection;
use crate::server::Look;
use crate::sync::lock;

/// When to look at a drain for the first time. Most programs have ended by then.
#[cfg(target_os = "linux")]
const FIRST: Duration = Duration::from_millis(200);

/// How often to look after that.
#[cfg(target_os = "linux")]
const EVERY: Duration = Duration::from_secs(1);

/// A slow look is followed by a pause of this many times its duration, because the system may have very many
/// connections.
#[cfg(target_os = "linux")]
const PAUSES: u32 = 20;

/// Looks at the connections of one program.
#[derive(Debug)]
pub(super) struct Looks {
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    sockets: FamilySockets,
    #[cfg_attr(not(target_os = "linux"), allow(dead_code))]
    begun: Once,
    /// The connections that the last look at its drain has shown.
    seen: Arc<Mutex<Vec<ProgramConnection>>>,
}

impl Looks {
    pub(super) fn new(sockets: FamilySockets) -> Looks {
        Looks { sockets, begun: Once::new(), seen: Arc::default() }
    }

    /// Begins to look at its drain, on a thread named `connections`, once a second until the drain is over; `is_over`
    /// waits for that for at most the given time. If no thread can be started, nothing is seen.
    #[cfg(target_os = "linux")]
    pub(super) fn begin(&self, is_over: impl Fn(Duration) -> bool + Send + 'static) {
        self.begun.call_once(|| {
            let (sockets, seen) = (self.sockets.clone(), self.seen.clone());
            let looks = move || {
                let mut pause = FIRST;
                while !is_over(pause) {
                    let began = Instant::now();
                    let accepted = sockets.connections().unwrap_or_default().into_iter().filter(|it| it.pid.is_some());
                    let accepted = accepted.collect();
                    // A program that is being killed has no connections any more; those seen before held it up until
                    // then.
                    if is_over(Duration::ZERO) {
                        return;
                    }
                    *lock(&seen) = accepted;
                    pause = EVERY.max(began.elapsed() * PAUSES);
                }
            };
            let _ = thread::Builder::new().name("connections".into()).spawn(looks);
        });
    }

    /// The system does not show them.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn begin(&self, _is_over: impl Fn(Duration) -> bool + Send + 'static) {}

    /// The connections that the last look at its drain has shown.
    pub(super) fn seen(&self) -> Vec<ProgramConnection> {
        lock(&self.seen).clone()
    }

    /// Looks once, on another thread.
    #[cfg(target_os = "linux")]
    #[expect(clippy::unnecessary_wraps, reason = "other systems do not show them")]
    pub(super) fn look(&self) -> Option<Look> {
        let sockets = self.sockets.clone();
        Some(Box::new(move || sockets.connections()))
    }

    /// The system does not show them.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn look(&self) -> Option<Look> {
        None
    }
}
