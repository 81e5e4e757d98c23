//! `offer`: what is running now, for the completions of a shell.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use mastercontrol::Exit;
use mastercontrol::client::{self, Patience};
use mastercontrol::instance;
use mastercontrol::protocol::{Progress, Request};

use crate::args::Offered;
use crate::failure::Failure;
use crate::found::{find, named};
use crate::output;

/// Writes one candidate per line. A shell that completes a word cannot show a message, so what cannot be found is not
/// offered.
pub(crate) fn offer(what: Offered) -> Result<Exit, Failure> {
    match what {
        Offered::Names => {
            find()?.iter().filter(|found| found.status.is_ok()).try_for_each(|it| output::data(it.name.as_str()))?
        }
        Offered::Ports => ports()?.iter().try_for_each(|port| output::data(&port.to_string()))?,
        Offered::Connections => connections()?.iter().try_for_each(|id| output::data(&id.to_string()))?,
    }
    Ok(Exit::Done)
}

fn ports() -> Result<BTreeSet<u16>, Failure> {
    let mut ports = BTreeSet::new();
    for status in find()?.into_iter().filter_map(|found| found.status.ok()) {
        let addresses = status.all_addresses().into_iter().filter_map(|address| address.parse::<SocketAddr>().ok());
        ports.extend(addresses.chain(status.health).map(|address| address.port()));
    }
    Ok(ports)
}

/// The connections of the only supervisor: with several, the shell does not say which one is meant.
fn connections() -> Result<BTreeSet<u64>, Failure> {
    let mut ids = BTreeSet::new();
    if let [one] = &instance::list().map_err(|error| Failure::system(&error))?[..] {
        let paths = named(one)?.paths;
        // A supervisor that does not answer has none to offer.
        let _ = client::ask(&paths, Request::Connections {}, Patience::short(), |progress| {
            if let Progress::Connections { connections } = progress {
                ids.extend(connections.iter().map(|connection| connection.id));
            }
        });
    }
    Ok(ids)
}
