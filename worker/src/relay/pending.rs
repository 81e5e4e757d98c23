//! Bytes that wait for room to be sent, or for the rest of their message. Nothing is allocated while there are none.

use super::side::Side;

#[derive(Debug, Default)]
pub(super) struct Pending {
    bytes: Vec<u8>,
    /// How many of them were consumed.
    used: usize,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.used == self.bytes.len()
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[self.used..]
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(super) fn consume(&mut self, length: usize) {
        self.used += length;
        if self.is_empty() {
            self.clear();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Pending::default();
    }

    /// Takes all of them; the caller uses them up or puts back the rest.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let Pending { mut bytes, used } = std::mem::take(self);
        bytes.drain(..used);
        bytes
    }

    /// Sends what can be sent. Returns whether nothing is left.
    pub(super) fn flush(&mut self, to: &mut Side) -> bool {
        if !self.is_empty() {
            let sent = to.write(self.bytes(), false);
            self.consume(sent);
        }
        self.is_empty()
    }

    /// Sends these bytes after the pending ones, and keeps what cannot be sent now.
    pub(super) fn send(&mut self, bytes: &[u8], more: bool, to: &mut Side) {
        let sent = if self.is_empty() { to.write(bytes, more) } else { 0 };
        if sent < bytes.len() {
            self.push(&bytes[sent..]);
        }
    }
}
