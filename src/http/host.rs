//! Which names this server answers to.

use std::fmt;
use std::net::{Ipv6Addr, SocketAddr};
use std::str::FromStr;

use http::uri::Authority;

/// A host name or address as it stands in a URL, in the one spelling that compares equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a host name; write names or addresses without a port, like \"ibvwatch.internal\", \"192.0.2.7\" or \"[::1]\""
)]
pub struct InvalidHostName(String);

impl HostName {
    fn new(host: &str) -> Self {
        let inside = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        match inside.and_then(|address| address.parse::<Ipv6Addr>().ok()) {
            Some(address) => Self(format!("[{address}]")),
            None => Self(host.to_ascii_lowercase()),
        }
    }

    /// The host of a `Host` header, whatever its port; `None` where it has none.
    pub(super) fn of_header(value: &str) -> Option<Self> {
        let authority: Authority = value.parse().ok()?;
        let host = authority.host();
        // What stands before the host would be a user, and no browser sends one.
        let behind = authority.as_str().strip_prefix(host)?;
        let is_port = |port: &str| !port.is_empty() && port.parse::<u16>().is_ok();
        let whole = behind.is_empty() || behind.strip_prefix(':').is_some_and(is_port);
        (whole && !host.is_empty()).then(|| Self::new(host))
    }
}

impl FromStr for HostName {
    type Err = InvalidHostName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Ok(Self(format!("[{address}]")));
        }
        match text.parse::<Authority>() {
            Ok(authority) if authority.host() == text && !text.is_empty() => Ok(Self::new(text)),
            Ok(_) | Err(_) => Err(InvalidHostName(text.to_owned())),
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the server listens and which names it answers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Without one, there is no server.
    pub listen: Option<SocketAddr>,
    /// A page elsewhere can have a browser ask this server under a name of its own choosing;
    /// whoever asks for another name than these is refused.
    pub allowed_hosts: Vec<HostName>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_names_a_host_by_any_port_and_spelling() {
        let same = [
            ("localhost", "LocalHost:9478"),
            ("127.0.0.1", "127.0.0.1:80"),
            ("[::1]", "[0:0::1]:9478"),
            ("::1", "[::1]"),
            ("watch.example", "WATCH.example"),
        ];
        for (allowed, header) in same {
            let allowed: HostName = allowed.parse().unwrap();
            assert_eq!(HostName::of_header(header), Some(allowed), "{header}");
        }
    }

    #[test]
    fn what_is_no_host_is_none() {
        let odd = [
            "",
            ":9478",
            "localhost:",
            "localhost:port",
            "localhost:99999",
            "me@localhost",
            "localhost@evil.example",
            "localhost, evil.example",
            "local host",
            "localhost/",
            "http://localhost",
            "[::1",
            "::1",
        ];
        for header in odd {
            assert_eq!(HostName::of_header(header), None, "{header:?}");
        }
        for written in ["", "localhost:9478", "a b", "http://localhost", "me@localhost", "*/"] {
            assert!(written.parse::<HostName>().is_err(), "{written:?}");
        }
    }
}
