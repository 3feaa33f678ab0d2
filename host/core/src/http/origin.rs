//! An origin: `https`, a host and a port. Not a URL, and never a pattern.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A host name has at most this many bytes (RFC 1035 §2.3.4, without the trailing dot).
const MAX_HOST: usize = 253;
/// A label of a host name has at most this many bytes (RFC 1035 §2.3.4).
const MAX_LABEL: usize = 63;
/// The port of `https` (RFC 9110 §4.2.2).
const HTTPS: u16 = 443;

/// An origin (RFC 6454) of the scheme `https` with a host name in lower-case ASCII: what a grant names, and the one authority for
/// policy, resolution, connection, TLS and `Host`. Addresses are no host names: a grant names who is meant, not where it is today.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Origin {
    // Invariant: labels of [a-z0-9-] that neither begin nor end with `-`, the last one not all digits; no trailing dot.
    host: Arc<str>,
    port: u16,
}

/// Why a text is no origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotAnOrigin {
    /// Another scheme, or none.
    #[error("expected `https://` and a host name")]
    Scheme,
    /// Something after the port.
    #[error("an origin ends with its host name or port; paths belong into `allow`")]
    Path,
    /// A user or password.
    #[error("an origin has no user; a credential belongs into `inject`")]
    User,
    /// An address, or a text that some parsers take for one.
    #[error("expected a host name, not an address")]
    Address,
    /// Not a host name in the one accepted spelling.
    #[error(
        "expected a host name in lower-case ASCII (an international one as `xn--…`), without a trailing dot"
    )]
    Host,
    /// Not a port.
    #[error("expected a port from 1 to 65535 without leading zeros, and none if it is 443")]
    Port,
}

impl Origin {
    /// The host name: what is resolved, sent as SNI and demanded of the certificate.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// The value of `Host`: with the port unless it is that of the scheme (RFC 9110 §7.2).
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == HTTPS {
            self.host.to_string()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Reads `host[:port]`.
    ///
    /// # Errors
    /// When it is not in the one accepted spelling.
    pub fn from_authority(text: &str) -> Result<Self, NotAnOrigin> {
        if text.contains('@') {
            return Err(NotAnOrigin::User);
        }
        if text.starts_with('[') {
            return Err(NotAnOrigin::Address);
        }
        let (host, port) = match text.split_once(':') {
            None => (text, HTTPS),
            Some((host, digits)) => (host, port(digits)?),
        };
        check_host(host)?;
        Ok(Self {
            host: host.into(),
            port,
        })
    }
}

/// One spelling for each port: no sign, no leading zero, and the default one is not written.
fn port(digits: &str) -> Result<u16, NotAnOrigin> {
    let plain = !digits.is_empty() && !digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit());
    match digits.parse() {
        Ok(port) if plain && port != HTTPS => Ok(port),
        Ok(_) | Err(_) => Err(NotAnOrigin::Port),
    }
}

fn check_host(host: &str) -> Result<(), NotAnOrigin> {
    let fits = |label: &str| {
        !label.is_empty()
            && label.len() <= MAX_LABEL
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    if host.is_empty() || host.len() > MAX_HOST || !host.split('.').all(fits) {
        return Err(NotAnOrigin::Host);
    }
    // The URL standard takes a host whose last label is a number, `0x…` included, for an IPv4 address.
    let last = host.rsplit('.').next().unwrap_or_default();
    let numeric = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric(last) || hexadecimal {
        return Err(NotAnOrigin::Address);
    }
    Ok(())
}

impl FromStr for Origin {
    type Err = NotAnOrigin;
    fn from_str(text: &str) -> Result<Self, NotAnOrigin> {
        let rest = text.strip_prefix("https://").ok_or(NotAnOrigin::Scheme)?;
        if rest.contains(['/', '?', '#', '\\']) {
            return Err(NotAnOrigin::Path);
        }
        Self::from_authority(rest)
    }
}

impl TryFrom<String> for Origin {
    type Error = NotAnOrigin;
    fn try_from(text: String) -> Result<Self, NotAnOrigin> {
        text.parse()
    }
}

impl From<Origin> for String {
    fn from(origin: Origin) -> Self {
        origin.to_string()
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_has_one_spelling() {
        for good in [
            "https://api.github.com",
            "https://localhost:8443",
            "https://xn--pi-6kc.example.com",
            "https://a-b.c1",
        ] {
            assert_eq!(good.parse::<Origin>().unwrap().to_string(), good);
        }
        for (bad, why) in [
            ("http://api.github.com", NotAnOrigin::Scheme),
            ("HTTPS://api.github.com", NotAnOrigin::Scheme),
            ("https:api.github.com", NotAnOrigin::Scheme),
            ("https:///api.github.com", NotAnOrigin::Path),
            ("https://api.github.com/", NotAnOrigin::Path),
            ("https://h\\@evil.test", NotAnOrigin::Path),
            ("https://u@api.github.com", NotAnOrigin::User),
            ("https://Api.github.com", NotAnOrigin::Host),
            ("https://api.github.com.", NotAnOrigin::Host),
            ("https://api..com", NotAnOrigin::Host),
            ("https://-a.com", NotAnOrigin::Host),
            ("https://*.github.com", NotAnOrigin::Host),
            ("https://аpi.example.com", NotAnOrigin::Host),
            ("https://", NotAnOrigin::Host),
            ("https://127.0.0.1", NotAnOrigin::Address),
            ("https://2130706433", NotAnOrigin::Address),
            ("https://0x7f.1", NotAnOrigin::Address),
            ("https://h.0x7f", NotAnOrigin::Address),
            ("https://h.0x", NotAnOrigin::Address),
            ("https://[::1]", NotAnOrigin::Address),
            ("https://a.com:443", NotAnOrigin::Port),
            ("https://a.com:0", NotAnOrigin::Port),
            ("https://a.com:08443", NotAnOrigin::Port),
            ("https://a.com:+1", NotAnOrigin::Port),
            ("https://a.com:", NotAnOrigin::Port),
            ("https://a.com:65536", NotAnOrigin::Port),
        ] {
            assert_eq!(bad.parse::<Origin>(), Err(why), "{bad}");
        }
    }
}
