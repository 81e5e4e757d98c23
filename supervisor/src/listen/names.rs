//! What a program calls its sockets by.

use super::address::Address;
#[cfg(unix)]
use super::unix::Bound;
#[cfg(windows)]
use super::windows::Bound;

/// In `LISTEN_FDNAMES`: their own names, or else their ports and paths. Where two
/// have one port, it is the whole address.
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
        // Characters that no name may have are replaced.
        name.replace(|letter| !matches!(letter, ' '..='~') || letter == ':', "_")
    };
    bound.iter().zip(&all).map(name).collect()
}
