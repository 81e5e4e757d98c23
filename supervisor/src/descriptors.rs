//! How many descriptors this process may have open. The limit at its start, the soft one, is low for the sake of
//! programs that use `select`. Any process may raise it to the hard one.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The soft limit that this process was started with, if it has been raised since.
static RAISED_FROM: OnceLock<rlim_t> = OnceLock::new();

/// The most there can be. None: the system does not say, or there is no limit.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn most() -> Option<usize> {
    // FreeBSD's limits are signed, and a limit larger than any number of descriptors is no limit.
    getrlimit(Resource::RLIMIT_NOFILE).ok().and_then(|(_, hard)| usize::try_from(hard).ok())
}

/// Raises the limit as far as possible, for our own servers and for a relay. Programs still begin with the limit that
/// this process was started with.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        // macOS has another, lower limit. In that case this one stays as it is.
        && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()
    {
        let _ = RAISED_FROM.set(soft); // The first one counts.
    }
}

/// The limit that a program begins with. None: that of this process.
pub(crate) fn of_programs() -> Option<rlim_t> {
    RAISED_FROM.get().copied()
}

/// Sets the limit of this process, which is about to become a program.
pub(crate) fn begin_with(soft: rlim_t) {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // A lower one is always allowed.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, soft.min(hard), hard);
    }
}
