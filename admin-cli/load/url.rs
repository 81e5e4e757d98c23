//! The URL that a load requests.

use std::fmt;
use std::str::FromStr;

/// A URL for HTTP without TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url {
    authority: String,
    /// Without the brackets around an IPv6 address.
    host: String,
    port: u16,
    path: String,
}

impl Url {
    /// Host and port, as written.
    pub fn authority(&self) -> &str {
        &self.authority
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Including the query.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Url, String> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest,
            Some((scheme, _)) if scheme.eq_ignore_ascii_case("https") => {
                return Err("TLS is not supported: give the http URL behind the proxy that ends it".into());
            }
            Some((scheme, _)) => return Err(format!("{scheme} is not supported: give an http URL")),
            None => return Err(format!("an http URL is needed, such as http://{}", text.trim_start_matches('/'))),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("a URL may contain only ASCII characters and no spaces: percent-encode others".into());
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("a user in a URL is not supported".into());
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, after)) => (host, after.strip_prefix(':').or(after.is_empty().then_some(""))),
            None => authority.split_once(':').map_or((authority, Some("")), |(host, port)| (host, Some(port))),
        };
        let port = match port {
            Some("") => Some(80),
            Some(port) => port.parse().ok().filter(|&port| port > 0),
            None => None,
        };
        let port = port.ok_or_else(|| format!("{authority} has no valid port: it must be from 1 to 65535"))?;
        if host.is_empty() {
            return Err("the URL has no host".into());
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url { authority: authority.to_owned(), host: host.to_owned(), port, path: format!("{slash}{path}") })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "http://{}{}", self.authority, self.path)
    }
}
