//! How many descriptors this process may have open. The limit that it starts with, the soft one, is low for the sake of
//! programs that use `select`. Each may raise it to the hard one.

use std::sync::OnceLock;

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// The soft limit that this process was started with, if it has been raised since.
static RAISED_FROM: OnceLock<rlim_t> = OnceLock::new();

/// How many there can be. None: the system does not say, or any number.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub(crate) fn most() -> Option<usize> {
    // FreeBSD's limits are signed, and a limit that is larger than any number of descriptors is none.
    getrlimit(Resource::RLIMIT_NOFILE).ok().and_then(|(_, hard)| usize::try_from(hard).ok())
}

/// Takes all that there can be, for servers of our own and for a relay. A program begins with the limit that this
/// process was started with.
#[cfg_attr(not(feature = "cli"), allow(dead_code))]
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        // macOS has another limit below that. Then it stays as it is.
        && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok()
    {
        let _ = RAISED_FROM.set(soft); // The first one counts.
    }
}

/// The limit that a program is to begin with. None: that of this process.
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
