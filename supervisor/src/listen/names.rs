//! The names by which a program finds its sockets.

use super::address::Address;
#[cfg(unix)]
use super::unix::Bound;
#[cfg(windows)]
use super::windows::Bound;

/// The names for `LISTEN_FDNAMES`: the sockets' own names, or else their ports and paths. If two share a port, each
/// gets its whole address.
pub(crate) fn names(bound: &[Bound]) -> Vec<String> {
    let short = |bound: &Bound| match (&bound.name, &bound.address) {
        (Some(name), _) => name.clone(),
        (None, Address::Tcp(address)) => address.port().to_string(),
        #[cfg(unix)]
        (None, Address::Unix(path)) => path.to_string_lossy().into_owned(),
    };
    let all: Vec<_> = bound.iter().map(short).collect();
    let is_shared = |name: &str| all.iter().filter(|other| *other == name).count() > 1;
    let name = |(bound, short): (&Bound, &String)| {
        let name = if bound.name.is_none() && is_shared(short) { bound.address.to_string() } else { short.clone() };
        // Replace characters that are not allowed in a name.
        name.replace(|letter| !matches!(letter, ' '..='~') || letter == ':', "_")
    };
    bound.iter().zip(&all).map(name).collect()
}
