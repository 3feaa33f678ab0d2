//! A credential as an operator types it: `NAME`, or `NAME@vN` for one version. Whether there is one is the keyring's to say.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::KeyVersion;
use crate::name::{KeyName, SecretName};

/// A name, and one version of it or none in particular.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec<N> {
    /// The credential.
    pub name: N,
    /// Which version; none is whatever the command says of a bare name.
    pub version: Option<KeyVersion>,
}

/// A key as an operator types it.
pub type KeySpec = Spec<KeyName>;
/// A secret as an operator types it.
pub type SecretSpec = Spec<SecretName>;

/// Why a text names no credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError<E> {
    /// Not a name.
    #[error(transparent)]
    Name(E),
    /// Not a version.
    #[error("expected `NAME` or `NAME@vN` with a version such as `@v2`")]
    Version,
}

impl<N: FromStr> FromStr for Spec<N> {
    type Err = SpecError<N::Err>;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, version) = match text.split_once('@') {
            None => (text, None),
            Some((name, version)) => {
                let number = version.strip_prefix('v').filter(|digits| {
                    // One way to write each version.
                    !digits.starts_with('0') && digits.bytes().all(|digit| digit.is_ascii_digit())
                });
                let number = number.and_then(|digits| digits.parse().ok());
                (name, Some(KeyVersion(number.ok_or(SpecError::Version)?)))
            }
        };
        let name = name.parse().map_err(SpecError::Name)?;
        Ok(Self { name, version })
    }
}

impl<N> From<N> for Spec<N> {
    fn from(name: N) -> Self {
        Self { name, version: None }
    }
}

impl<N: fmt::Display> fmt::Display for Spec<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => write!(f, "{}", self.name),
            Some(version) => write!(f, "{}@{version}", self.name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_written_in_one_way() {
        for good in ["release", "release@v1", "release@v4294967295"] {
            assert_eq!(good.parse::<KeySpec>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "@v1",
            "release@",
            "release@v",
            "release@1",
            "release@v0",
            "release@v01",
            "release@v+1",
            "release@v4294967296",
            "release@v1@v2",
            "Release",
        ] {
            assert!(bad.parse::<KeySpec>().is_err(), "{bad}");
        }
    }
}
