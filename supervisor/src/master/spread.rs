//! The spread: the time over which the clients of a drain are let go.

use std::time::Duration;

use crate::protocol::{ErrorCode, Refusal};
use crate::settings::Settings;
use crate::text::Seconds;

use super::status::Identity;

/// The spread within this grace period: the requested one, or that of the settings.
pub(super) fn within(grace: Duration, asked: Option<Duration>, settings: &Settings) -> Duration {
    asked.unwrap_or(settings.spread).min(grace)
}

/// Why the requested spread is impossible, if so.
pub(super) fn refusal(
    asked: Option<Duration>,
    grace: Option<Duration>,
    settings: &Settings,
    identity: &Identity,
) -> Option<Refusal> {
    let (asked, grace) = (asked.filter(|asked| !asked.is_zero())?, grace.unwrap_or(settings.grace));
    let message = if !identity.has_clients {
        "the clients cannot be let go one after the other: without --relay only the program knows them".to_owned()
    } else if asked > grace {
        let (asked, grace) = (Seconds(asked), Seconds(grace));
        format!(
            "clients cannot be let go over {asked} within a grace period of {grace}: spread at most {grace}, or give more"
        )
    } else {
        return None;
    };
    Some(Refusal { code: ErrorCode::Failed, message })
}
