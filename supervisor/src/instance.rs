//! Where to find an instance: its name, its admin socket, and the lock that makes the name exclusive.
//!
//! On Unix the lock is in one place per user, independent of the environment: so cron, `sudo` and a login shell find
//! each other's instances, and none takes the name of another. That place is `/run/mastercontrol` for root, and
//! `/tmp/mastercontrol-UID` for others. Beside the lock, `NAME.sock` is the admin socket, or a link to it: if
//! `XDG_RUNTIME_DIR` names a directory of this user, the socket is there. `MASTERCONTROL_DIR` replaces all these
//! directories.
//!
//! On Windows the admin socket is the named pipe `\\.\pipe\mastercontrol-NAME`, and the lock is in the user's local
//! application data.

mod directory;
mod lock;
mod name;
mod paths;

#[cfg(windows)]
pub(crate) use directory::log_file;
#[cfg(unix)]
pub(crate) use directory::temporary;
pub(crate) use lock::{InstanceLock, InstanceLockError};
pub use name::InstanceName;
#[cfg(all(unix, feature = "cli"))]
pub(crate) use paths::MAX_SOCKET_PATH;
pub use paths::{InstancePaths, list};
#[cfg(unix)]
pub(crate) use paths::{Link, remove_leftover_socket};
