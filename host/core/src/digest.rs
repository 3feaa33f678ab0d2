//! SHA-256 digests, one type for each thing that is digested, so that they cannot be mixed up. Not a general hash.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected `sha256:` and 64 lower-case hexadecimal digits")]
pub struct NotADigest;

const PREFIX: &[u8; 7] = b"sha256:";

/// A digest as text; never none.
fn text(digest: &[u8; 32]) -> Option<[u8; PREFIX.len() + 64]> {
    let mut text = [0; PREFIX.len() + 64];
    let (prefix, digits) = text.split_first_chunk_mut()?;
    *prefix = *PREFIX;
    hex::encode_to_slice(digest, digits).ok()?;
    Some(text)
}

macro_rules! digest {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type([u8; 32]);

        impl $type {
            /// The digest of these bytes.
            #[must_use]
            pub fn of(bytes: &[u8]) -> Self {
                Self(Sha256::digest(bytes).into())
            }

            /// The 32 bytes of the digest.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = text(&self.0).ok_or(fmt::Error)?;
                f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $type {
            type Err = NotADigest;
            fn from_str(text: &str) -> Result<Self, NotADigest> {
                let digits = text.strip_prefix("sha256:").ok_or(NotADigest)?;
                if digits.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(NotADigest);
                }
                let mut bytes = [0; 32];
                hex::decode_to_slice(digits, &mut bytes).map_err(|_| NotADigest)?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                // In one piece: every use puts three digests on the log.
                let unwritable = || serde::ser::Error::custom("a digest has no text");
                let text = text(&self.0).ok_or_else(unwritable)?;
                serializer.serialize_str(std::str::from_utf8(&text).map_err(|_| unwritable())?)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest! {
    /// The digest of a component's bytes: the identity of an agent's code.
    ComponentDigest
}
digest! {
    /// The digest of a manifest's bytes: which revision of it decided.
    ManifestDigest
}
digest! {
    /// The digest of what an agent asked to have signed.
    ContentDigest
}

digest! {
    /// The digest of everything that an approval is bound to.
    RequestDigest
}

impl ContentDigest {
    /// The digest of several parts, each behind its length as 8 bytes, big endian: no two lists of parts have the same bytes.
    #[must_use]
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(parted(parts))
    }
}

impl RequestDigest {
    /// As [`ContentDigest::of_parts`].
    #[must_use]
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self(parted(parts))
    }
}

fn parted<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> [u8; 32] {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_reads_what_it_wrote_and_nothing_looser() {
        let digest = ComponentDigest::of(b"abc");
        let text = digest.to_string();
        assert_eq!(
            text,
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(text.parse(), Ok(digest));
        for bad in [
            &text[7..],
            &text[..70],
            &text.to_uppercase(),
            &format!("{text}0"),
            "",
        ] {
            assert_eq!(bad.parse::<ComponentDigest>(), Err(NotADigest), "{bad}");
        }
    }
}
