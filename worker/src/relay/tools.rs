//! What a loop lends to the connection that it works on.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use super::hub::{Door, Hub};
use super::tally::{Fate, Tally};
use super::target::Target;

/// How much is read at once, in bytes.
const SCRATCH: usize = 64 * 1024;

/// How many buffers are kept to be used again.
const SPARE: usize = 64;

pub(super) struct Tools {
    pub(super) hub: Arc<Hub>,
    /// The place of this loop among the mailboxes.
    pub(super) number: usize,
    pub(super) epoll: OwnedFd,
    /// What was read last. Nothing is kept there.
    pub(super) scratch: Box<[u8]>,
    /// The head of the message that is passed on now.
    pub(super) head: Vec<u8>,
    /// Empty buffers for copies of heads.
    spare: Vec<Vec<u8>>,
    /// When the current events were reported.
    pub(super) now: Instant,
    door: Door,
    epoch: u64,
}

impl Tools {
    pub(super) fn new(hub: Arc<Hub>, number: usize, epoll: OwnedFd) -> Tools {
        let (door, epoch) = hub.door();
        let scratch = vec![0; SCRATCH].into();
        Tools { hub, number, epoll, scratch, head: Vec::new(), spare: Vec::new(), now: Instant::now(), door, epoch }
    }

    /// The door as it is now.
    pub(super) fn door(&mut self) -> &Door {
        if self.epoch != self.hub.epoch() {
            (self.door, self.epoch) = self.hub.door();
        }
        &self.door
    }

    /// The generation that gets clients and requests now.
    pub(super) fn serving(&mut self) -> Option<&Arc<Target>> {
        self.door().serving.as_ref()
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.hub.mailboxes[self.number].tally
    }

    pub(super) fn count(&self, fate: Fate) {
        self.tally().count(fate);
    }

    /// Replaces a buffer that was lost when work was broken off.
    pub(super) fn restore(&mut self) {
        if self.scratch.is_empty() {
            self.scratch = vec![0; SCRATCH].into();
        }
    }

    pub(super) fn copy_of_head(&mut self) -> Vec<u8> {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.extend_from_slice(&self.head);
        copy
    }

    pub(super) fn recycle(&mut self, mut copy: Vec<u8>) {
        if self.spare.len() < SPARE {
            copy.clear();
            self.spare.push(copy);
        }
    }
}
