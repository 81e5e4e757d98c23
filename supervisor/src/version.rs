//! Which version this is.

use std::sync::LazyLock;

use crate::protocol;

/// The version of this crate.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// What `--version` prints after a program's name: the version of this crate, and the protocol's.
pub fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| format!("{VERSION} (protocol {})", protocol::VERSION));
    &TEXT
}
