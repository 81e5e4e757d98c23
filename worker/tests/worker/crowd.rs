//! Tests with many clients. The process of the tests also has the other ends of their connections.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// As many clients as a test wants, or fewer where the system gives few descriptors. All tests of a process share these,
/// so only one test at a time has many clients, until it drops the guard.
pub fn crowd(wanted: usize, descriptors_each: usize) -> (usize, MutexGuard<'static, ()>) {
    static CROWD: Mutex<()> = Mutex::new(());
    let guard = CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    (wanted.min(descriptors() / 4 / descriptors_each), guard)
}

/// How many descriptors this process may have. If there is no limit, this is the greatest number.
pub fn descriptors() -> usize {
    static LIMIT: LazyLock<usize> = LazyLock::new(|| {
        // A shell inherits the limit and can print it. It prints no number if there is none.
        let printed = cfg!(unix).then(|| std::process::Command::new("sh").args(["-c", "ulimit -n"]).output().unwrap());
        printed.and_then(|printed| String::from_utf8_lossy(&printed.stdout).trim().parse().ok()).unwrap_or(usize::MAX)
    });
    *LIMIT
}
