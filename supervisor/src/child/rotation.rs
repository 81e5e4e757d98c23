//! Tells a program that new clients go elsewhere, and that they come back.

use std::sync::{Mutex, PoisonError};

/// The signals for a program that is taken out of rotation and put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RotationSignals {
    /// When it is taken out: it should take no new work from then on. Behind a relay it is also sent when its drain
    /// begins, long before the signal to end.
    pub drain: Option<i32>,
    /// When it is put back.
    pub resume: Option<i32>,
}

/// The rotation state that one program has been told.
#[derive(Debug)]
pub(super) struct Rotation {
    signals: RotationSignals,
    is_out: Mutex<bool>,
}

impl Rotation {
    /// For a program that has just started, and assumes that it is in rotation.
    pub(super) fn new(signals: RotationSignals) -> Rotation {
        Rotation { signals, is_out: Mutex::new(false) }
    }

    /// Sends the signal for this change, unless nothing has changed.
    pub(super) fn set(&self, in_rotation: bool, send: impl FnOnce(i32)) {
        let mut is_out = self.is_out.lock().unwrap_or_else(PoisonError::into_inner); // One assignment.
        if std::mem::replace(&mut *is_out, !in_rotation) == in_rotation {
            let signal = if in_rotation { self.signals.resume } else { self.signals.drain };
            if let Some(signal) = signal {
                send(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_one_signal() {
        let heard = |signals, changes: &[bool]| {
            let (rotation, mut heard) = (Rotation::new(signals), Vec::new());
            changes.iter().for_each(|&in_rotation| rotation.set(in_rotation, |signal| heard.push(signal)));
            heard
        };
        let changes = [true, false, false, true, true, false];
        assert_eq!(heard(RotationSignals { drain: Some(10), resume: Some(12) }, &changes), [10, 12, 10]);
        assert_eq!(heard(RotationSignals { drain: Some(10), resume: None }, &changes), [10, 10]);
        assert!(heard(RotationSignals::default(), &changes).is_empty());
    }
}
