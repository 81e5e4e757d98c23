//! What became of the requests of one loop. Only that loop counts here, so there is no contention.

use std::sync::atomic::{AtomicU64, Ordering};

use super::options::RelayCounts;

/// What can be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Succeeded,
    Redirected,
    ClientError,
    ServerError,
    Rejected,
    BadGateway,
    Unavailable,
    GatewayTimeout,
    GivenUp,
    UpstreamFailure,
    Retry,
}

const FATES: usize = Fate::Retry as usize + 1;

#[derive(Debug, Default)]
pub(super) struct Tally([AtomicU64; FATES]);

impl Tally {
    pub(super) fn count(&self, fate: Fate) {
        self.0[fate as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_to(&self, counts: &mut RelayCounts) {
        let of = |fate: Fate| self.0[fate as usize].load(Ordering::Relaxed);
        counts.succeeded += of(Fate::Succeeded);
        counts.redirected += of(Fate::Redirected);
        counts.client_errors += of(Fate::ClientError);
        counts.server_errors += of(Fate::ServerError);
        counts.rejected += of(Fate::Rejected);
        counts.bad_gateway += of(Fate::BadGateway);
        counts.unavailable += of(Fate::Unavailable);
        counts.gateway_timeout += of(Fate::GatewayTimeout);
        counts.given_up += of(Fate::GivenUp);
        counts.upstream_failures += of(Fate::UpstreamFailure);
        counts.retries += of(Fate::Retry);
    }
}
