//! Ends of times that users choose.

use std::time::{Duration, Instant};

/// The end of a time that begins at `now`.
pub fn deadline_after(now: Instant, time: Duration) -> Instant {
    // A hundred years are as good as for ever, and well within the range of the clock.
    now + time.min(Duration::from_secs(u32::MAX.into()))
}
