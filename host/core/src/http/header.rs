//! Which header fields an agent may send, and in which bytes. Not what the host adds: that is in the plan it makes.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A header field's value has at most this many bytes.
pub const MAX_HEADER_VALUE: usize = 4 * 1024;
/// A header field's name has at most this many bytes.
const MAX_HEADER_NAME: usize = 64;

/// The name of a header field (RFC 9110 §5.1) in lower case: 1 to 64 of `[a-z0-9-_]`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderName(
    // Invariant: 1 to 64 of [a-z0-9-_].
    Arc<str>,
);

impl HeaderName {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the host alone decides about this field: it is part of framing, routing or authentication. No grant can allow it to
    /// an agent.
    #[must_use]
    pub fn is_host_owned(&self) -> bool {
        let name = self.as_str();
        HOST_OWNED.contains(&name) || HOST_OWNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    }

    /// Whether no agent gets this field of an answer, whatever a grant says: it sets a credential, asks for one, or belongs to the
    /// connection.
    #[must_use]
    pub fn is_never_returned(&self) -> bool {
        let name = self.as_str();
        NEVER_RETURNED.contains(&name) || name.starts_with("proxy-") || name.starts_with("sec-")
    }

    /// Whether any grant allows this field: agents need no permission for it, and no credential goes there.
    #[must_use]
    pub fn is_common(&self) -> bool {
        ALWAYS.contains(&self.as_str())
    }
}

/// Fields that change where a request goes, how it is framed, who it is from, or what proxies make of it.
const HOST_OWNED: &[&str] = &[
    "accept-encoding",
    "alt-used",
    "authorization",
    "connection",
    "content-digest",
    "content-encoding",
    "content-length",
    "cookie",
    "cookie2",
    "dpop",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "keep-alive",
    "max-forwards",
    "origin",
    "referer",
    "signature",
    "signature-input",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "via",
    "x-amz-content-sha256",
    "x-amz-date",
    "x-amz-security-token",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
];
const HOST_OWNED_PREFIXES: &[&str] = &["proxy-", "sec-", "x-forwarded-"];

/// Fields of answers that hold credentials or their negotiation, or that are about the connection (RFC 9110 §7.6.1).
const NEVER_RETURNED: &[&str] = &[
    "alt-svc",
    "authentication-info",
    "authorization",
    "clear-site-data",
    "connection",
    "content-encoding",
    "cookie",
    "dpop-nonce",
    "keep-alive",
    "refresh",
    "set-cookie",
    "set-cookie2",
    "strict-transport-security",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "www-authenticate",
];

/// Fields that every HTTP library sends of itself and that the host decides about: dropped without a word, so that libraries work
/// unchanged.
const DROPPED: &[&str] = &["accept-encoding", "connection", "content-length", "host", "te"];

/// Fields that any grant allows.
const ALWAYS: &[&str] = &[
    "accept",
    "accept-language",
    "cache-control",
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-unmodified-since",
    "pragma",
    "user-agent",
];

/// The name of a header field that cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {MAX_HEADER_NAME} characters of a-z, 0-9, - and _")]
pub struct NotAHeaderName;

impl FromStr for HeaderName {
    type Err = NotAHeaderName;
    fn from_str(text: &str) -> Result<Self, NotAHeaderName> {
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_');
        if text.is_empty() || text.len() > MAX_HEADER_NAME || !text.bytes().all(fits) {
            return Err(NotAHeaderName);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for HeaderName {
    type Error = NotAHeaderName;
    fn try_from(text: String) -> Result<Self, NotAHeaderName> {
        text.parse()
    }
}

impl From<HeaderName> for String {
    fn from(name: HeaderName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for HeaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Why a header field is not sent. Names are escaped; values are never quoted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderError {
    /// Not a name.
    #[error("`{0}` is no name of a header field")]
    Name(String),
    /// The host decides about it.
    #[error("`{0}` is the host's to set")]
    HostOwned(String),
    /// The credential goes there.
    #[error("`{0}` holds the credential, which the host attaches")]
    Slot(String),
    /// The grant does not list it.
    #[error(
        "`{0}` is not one of the request headers that the grant allows; list it in `headers` to allow it"
    )]
    NotAllowed(String),
    /// Bytes that are not visible ASCII and spaces within, or too many.
    #[error(
        "the value of `{0}` is not acceptable; expected at most {MAX_HEADER_VALUE} visible ASCII characters and spaces between them"
    )]
    Value(String),
    /// The same field twice.
    #[error("`{0}` is there twice")]
    Repeated(String),
    /// `host` is not the URL's.
    #[error("`host` is not the host of the URL")]
    Host,
}

/// The fields of an agent's request that are sent, with names in lower case. `slots` are the fields into which the host puts a credential,
/// `listed` are those that the grant allows beyond the common ones, `authority` is the URL's.
///
/// # Errors
/// The first field that is not acceptable.
pub fn checked_headers(
    given: &[(String, Vec<u8>)],
    listed: &[HeaderName],
    slots: &[HeaderName],
    authority: &str,
) -> Result<Vec<(HeaderName, Vec<u8>)>, HeaderError> {
    let mut out: Vec<(HeaderName, Vec<u8>)> = Vec::new();
    for (name, value) in given {
        let shown = || crate::name::escape(name, 64);
        let checked: HeaderName = name
            .to_ascii_lowercase()
            .parse()
            .map_err(|NotAHeaderName| HeaderError::Name(shown()))?;
        if slots.contains(&checked) {
            return Err(HeaderError::Slot(shown()));
        }
        if checked.as_str() == "host" && value != authority.as_bytes() {
            return Err(HeaderError::Host);
        }
        if DROPPED.contains(&checked.as_str()) {
            continue;
        }
        if checked.is_host_owned() {
            return Err(HeaderError::HostOwned(shown()));
        }
        if !ALWAYS.contains(&checked.as_str()) && !listed.contains(&checked) {
            return Err(HeaderError::NotAllowed(shown()));
        }
        let edge = |b: Option<&u8>| b == Some(&b' ');
        let fits = |b: &u8| b.is_ascii_graphic() || *b == b' ';
        if value.len() > MAX_HEADER_VALUE
            || !value.iter().all(fits)
            || edge(value.first())
            || edge(value.last())
        {
            return Err(HeaderError::Value(shown()));
        }
        if out.iter().any(|(other, _)| *other == checked) {
            return Err(HeaderError::Repeated(shown()));
        }
        out.push((checked, value.clone()));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, value: &[u8], listed: &[&str]) -> Result<usize, HeaderError> {
        let listed: Vec<HeaderName> = listed.iter().map(|name| name.parse().unwrap()).collect();
        let slot = ["authorization".parse().unwrap()];
        checked_headers(&[(name.to_owned(), value.to_vec())], &listed, &slot, "h:8443").map(|sent| sent.len())
    }

    #[test]
    fn only_listed_fields_are_sent_and_the_host_keeps_its_own() {
        assert_eq!(check("Accept", b"text/html", &[]), Ok(1));
        assert_eq!(check("accept-encoding", b"gzip", &[]), Ok(0));
        assert_eq!(check("Host", b"h:8443", &[]), Ok(0));
        assert_eq!(check("hOsT", b"evil.test", &[]), Err(HeaderError::Host));
        assert!(matches!(
            check("x-trace", b"1", &[]),
            Err(HeaderError::NotAllowed(_))
        ));
        assert_eq!(check("x-trace", b"1", &["x-trace"]), Ok(1));
        for name in [
            "x-forwarded-host",
            "proxy-authorization",
            "transfer-encoding",
            "upgrade",
            "expect",
            "cookie",
        ] {
            assert!(
                matches!(check(name, b"1", &[name]), Err(HeaderError::HostOwned(_))),
                "{name}"
            );
        }
        assert!(matches!(
            check("Authorization", b"Bearer x", &["authorization"]),
            Err(HeaderError::Slot(_))
        ));
    }

    #[test]
    fn every_byte_of_names_and_values_is_decided() {
        for byte in 0..=u8::MAX {
            let value = check("accept", &[b'a', byte, b'a'], &[]);
            assert_eq!(
                value.is_ok(),
                byte.is_ascii_graphic() || byte == b' ',
                "value {byte:#x}"
            );
            let name = String::from_utf8_lossy(&[b'x', byte]).into_owned();
            let known = checked_headers(&[(name, b"1".to_vec())], &[], &[], "h");
            assert!(known.is_err(), "name {byte:#x}");
        }
        for value in [&b" a"[..], b"a ", &[b'a'; MAX_HEADER_VALUE + 1]] {
            assert!(check("accept", value, &[]).is_err());
        }
    }
}
