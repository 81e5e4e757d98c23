//! What `admin-cli` can do, one file a command.

mod check;
mod close;
mod connections;
mod events;
mod free;
mod grace;
mod list;
mod metrics;
mod offer;
mod ping;
mod port;
mod readiness;
mod restart;
mod signal;
mod status;
mod stop;
mod top;
mod wait;

pub(crate) use check::check;
pub(crate) use close::close;
pub(crate) use connections::connections;
pub(crate) use events::events;
pub(crate) use free::free;
pub(crate) use grace::grace;
pub(crate) use list::list;
pub(crate) use metrics::metrics;
pub(crate) use offer::offer;
pub(crate) use ping::ping;
pub(crate) use port::port;
pub(crate) use readiness::readiness;
pub(crate) use restart::restart;
pub(crate) use signal::signal;
pub(crate) use status::status;
pub(crate) use stop::stop;
pub(crate) use top::top;
pub(crate) use wait::wait;
