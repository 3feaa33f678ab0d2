//! What a key with the profile `ssh-auth` signs: requests to log in over SSH, as these users, at servers with these host keys, and only in
//! a session that one of those servers vouched for. Not SSHSIG, which has another frame, and not an agent: `claviger ssh-agent` is one.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use base64ct::{Base64Unpadded, Encoding as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

use super::{ProfileError, listed};
use crate::name::SshUser;

mod request;
#[cfg(test)]
pub(super) mod tests;

pub use request::{Login, SshAuthError};

pub(super) use request::check;

/// A key or a grant has at most this many users, and as many host keys.
pub const MAX_LISTED: usize = 64;
/// The most bytes of one request with what binds it: two keys, a signature and the request itself are under two thousand.
pub const MAX_LOGIN: usize = 16 * 1024;

const FINGERPRINT: &str = "SHA256:";

/// The host key of a server, by its SHA-256 fingerprint as `ssh-keygen -l` prints it: `SHA256:` and 43 characters of base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostKeyId([u8; 32]);

impl HostKeyId {
    /// Of a public key as SSH writes it (RFC 4253 §6.6).
    #[must_use]
    pub fn of(blob: &[u8]) -> Self {
        Self(Sha256::digest(blob).into())
    }
}

impl FromStr for HostKeyId {
    type Err = NotAHostKeyId;
    fn from_str(text: &str) -> Result<Self, NotAHostKeyId> {
        let encoded = text.strip_prefix(FINGERPRINT).ok_or(NotAHostKeyId)?;
        let mut bytes = [0; 32];
        match Base64Unpadded::decode(encoded, &mut bytes) {
            Ok(decoded) if decoded.len() == 32 => Ok(Self(bytes)),
            Ok(_) | Err(_) => Err(NotAHostKeyId),
        }
    }
}

impl fmt::Display for HostKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FINGERPRINT}{}", Base64Unpadded::encode_string(&self.0))
    }
}

impl fmt::Debug for HostKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for HostKeyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostKeyId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The text is no fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a fingerprint such as `ssh-keygen -lf HOST_KEY.pub` prints, `SHA256:` and 43 characters")]
pub struct NotAHostKeyId;

/// How one grant signs: the profile with every choice made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAuthRule {
    /// As whom. Never empty.
    pub users: BTreeSet<SshUser>,
    /// Where. Never empty.
    pub host_keys: BTreeSet<HostKeyId>,
}

/// What a grant says to narrow a key with the profile `ssh-auth`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshAuthNarrowing {
    /// The one user.
    pub user: Option<SshUser>,
    /// The host keys of the servers; empty if the grant leaves them to the key.
    pub host_keys: BTreeSet<HostKeyId>,
}

/// Checks a key's parameters.
pub(super) fn validate(
    users: &BTreeSet<SshUser>,
    host_keys: &BTreeSet<HostKeyId>,
) -> Result<(), ProfileError> {
    if users.is_empty() {
        return Err(ProfileError::Empty("user"));
    }
    for (field, count) in [("user", users.len()), ("host key", host_keys.len())] {
        if count > MAX_LISTED {
            return Err(ProfileError::TooMany {
                field,
                allowed: MAX_LISTED,
            });
        }
    }
    Ok(())
}

/// What remains of the key's users and host keys.
pub(super) fn narrow(
    users: &BTreeSet<SshUser>,
    host_keys: &BTreeSet<HostKeyId>,
    narrowing: &SshAuthNarrowing,
) -> Result<SshAuthRule, ProfileError> {
    let SshAuthNarrowing {
        user,
        host_keys: asked,
    } = narrowing;
    let users = match user {
        None => users.clone(),
        Some(user) if users.contains(user) => BTreeSet::from([user.clone()]),
        Some(user) => {
            return Err(ProfileError::NotAmong {
                field: "user",
                asked: user.to_string(),
                allowed: listed(users),
            });
        }
    };
    // A key that was made for no host keys in particular leaves them to each grant, which must name them then.
    let foreign = asked
        .iter()
        .find(|asked| !host_keys.is_empty() && !host_keys.contains(asked));
    if let Some(foreign) = foreign {
        return Err(ProfileError::NotAmong {
            field: "host key",
            asked: foreign.to_string(),
            allowed: listed(host_keys),
        });
    }
    let host_keys = if asked.is_empty() { host_keys } else { asked };
    if host_keys.is_empty() {
        return Err(ProfileError::NoHostKeys);
    }
    Ok(SshAuthRule {
        users,
        host_keys: host_keys.clone(),
    })
}
