//! What makes an instance reachable and its name exclusive: the socket, a link to it, and the lock.

use std::io;
use std::sync::Arc;

use interprocess::local_socket::{Listener, ListenerOptions};

#[cfg(target_os = "linux")]
use super::linux;
#[cfg(windows)]
use super::windows;
#[cfg(unix)]
use crate::instance::Link;
use crate::instance::{InstanceLock, InstancePaths};

/// At the end the fields are dropped in this order: once the lock is released, the files that are removed might be
/// another instance's.
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "only Linux looks at them again"))]
pub(super) struct Place {
    pub(super) listener: Listener,
    #[cfg(unix)]
    pub(super) link: Option<Link>,
    pub(super) lock: Arc<InstanceLock>,
    pub(super) paths: InstancePaths,
    #[cfg(target_os = "linux")]
    pub(super) identity: linux::Identity,
}

impl Place {
    /// Listens at a place whose lock is held. Clients can connect when this returns.
    pub(super) fn take(paths: InstancePaths, lock: Arc<InstanceLock>) -> io::Result<Place> {
        #[cfg(unix)]
        let link = prepare(&paths)?;
        Ok(Place {
            listener: listen(&paths)?,
            #[cfg(unix)]
            link,
            lock,
            #[cfg(target_os = "linux")]
            identity: linux::identity_of(&paths),
            paths,
        })
    }
}

/// Removes what a dead instance has left behind, and makes the link to the socket that will be created.
#[cfg(unix)]
pub(super) fn prepare(paths: &InstancePaths) -> io::Result<Option<Link>> {
    paths.remove_leftovers()?;
    paths.lead_to_socket()
}

pub(super) fn listen(paths: &InstancePaths) -> io::Result<Listener> {
    let options = ListenerOptions::new().name(paths.socket_name()?);
    #[cfg(unix)]
    let options = {
        use interprocess::os::unix::local_socket::ListenerOptionsExt;
        options.mode(0o600)
    };
    #[cfg(windows)]
    let options = {
        use interprocess::os::windows::local_socket::ListenerOptionsExt;
        options.security_descriptor(windows::for_its_owner()?)
    };
    let listener = options.create_sync();
    #[cfg(windows)]
    let listener = listener.map_err(windows::told_in_words);
    listener
}
