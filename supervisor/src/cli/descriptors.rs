//! How many descriptors this process may have open. The limit that it starts with, the soft one, is low for the sake of
//! programs that use `select`. Each may raise it to the hard one.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// How many there can be. None: the system does not say, or any number.
pub(super) fn most() -> Option<usize> {
    // FreeBSD's limits are signed, and a limit that is larger than any number of descriptors is none.
    getrlimit(Resource::RLIMIT_NOFILE).ok().and_then(|(_, hard)| usize::try_from(hard).ok())
}

/// Takes all that there can be. A program that this process starts would inherit that, so it is for servers of our own.
pub fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // macOS has another limit below that. Then it stays as it is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}
