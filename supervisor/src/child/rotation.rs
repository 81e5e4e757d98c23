//! A program hears that new clients go elsewhere, and that they come back.

use std::sync::{Mutex, PoisonError};

/// What a program gets that is taken out of rotation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RotationSignals {
    /// When it is: it takes no new work then. Behind a relay also when its drain begins, long before the signal to end.
    pub drain: Option<i32>,
    /// When it is back.
    pub resume: Option<i32>,
}

/// What one program has heard.
#[derive(Debug)]
pub(super) struct Rotation {
    signals: RotationSignals,
    is_out: Mutex<bool>,
}

impl Rotation {
    /// Of a program that has just started, and takes itself to be in rotation.
    pub(super) fn new(signals: RotationSignals) -> Rotation {
        Rotation { signals, is_out: Mutex::new(false) }
    }

    /// Sends the signal for that, unless it has been.
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
