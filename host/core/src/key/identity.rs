//! What a key is told by: its public half, or, where it has none, an identifier drawn when it was made. Not key material.

use std::fmt;
use std::str::FromStr;

use base64ct::{Base64UrlUnpadded, Encoding as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Algorithm, PublicKey, UnknownAlgorithm};

/// An algorithm whose keys have no public half. Fixed when a key is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SymmetricAlgorithm {
    /// XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha): seals, with random nonces of 24 bytes.
    XChaCha20Poly1305,
    /// HMAC with SHA-256 (RFC 2104, FIPS 198-1).
    HmacSha256,
}

impl SymmetricAlgorithm {
    /// The name in manifests, on the command line and in the keyring.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::XChaCha20Poly1305 => "xchacha20-poly1305",
            Self::HmacSha256 => "hmac-sha256",
        }
    }
}

impl fmt::Display for SymmetricAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The algorithm of a key of any kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyAlgorithm {
    /// It signs.
    Signing(Algorithm),
    /// It seals or authenticates.
    Symmetric(SymmetricAlgorithm),
}

impl KeyAlgorithm {
    /// The name in manifests, on the command line, in the keyring and on the log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Signing(algorithm) => algorithm.as_str(),
            Self::Symmetric(algorithm) => algorithm.as_str(),
        }
    }

    /// The algorithm, if it signs.
    #[must_use]
    pub const fn signing(self) -> Option<Algorithm> {
        match self {
            Self::Signing(algorithm) => Some(algorithm),
            Self::Symmetric(_) => None,
        }
    }

    /// The algorithm, if its keys have no public half.
    #[must_use]
    pub const fn symmetric(self) -> Option<SymmetricAlgorithm> {
        match self {
            Self::Signing(_) => None,
            Self::Symmetric(algorithm) => Some(algorithm),
        }
    }
}

impl From<Algorithm> for KeyAlgorithm {
    fn from(algorithm: Algorithm) -> Self {
        Self::Signing(algorithm)
    }
}

impl From<SymmetricAlgorithm> for KeyAlgorithm {
    fn from(algorithm: SymmetricAlgorithm) -> Self {
        Self::Symmetric(algorithm)
    }
}

impl PartialEq<Algorithm> for KeyAlgorithm {
    fn eq(&self, other: &Algorithm) -> bool {
        self.signing() == Some(*other)
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for KeyAlgorithm {
    type Err = UnknownAlgorithm;
    fn from_str(text: &str) -> Result<Self, UnknownAlgorithm> {
        for symmetric in [
            SymmetricAlgorithm::XChaCha20Poly1305,
            SymmetricAlgorithm::HmacSha256,
        ] {
            if text == symmetric.as_str() {
                return Ok(Self::Symmetric(symmetric));
            }
        }
        text.parse().map(Self::Signing)
    }
}

impl Serialize for KeyAlgorithm {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for KeyAlgorithm {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Tells a key without a public half from every other: 16 random bytes that say nothing of the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyId([u8; Self::LENGTH]);

impl KeyId {
    /// Its length in bytes.
    pub const LENGTH: usize = 16;

    /// Takes the bytes that were drawn for a key.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; Self::LENGTH]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LENGTH] {
        &self.0
    }
}

/// base64url without padding: 22 characters.
impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&Base64UrlUnpadded::encode_string(&self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

/// What one version of a key is told by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyIdentity {
    /// Its public half.
    Public(PublicKey),
    /// Its identifier: it has no public half.
    Symmetric(KeyId),
}

impl KeyIdentity {
    /// The public half, if there is one.
    #[must_use]
    pub const fn public(&self) -> Option<&PublicKey> {
        match self {
            Self::Public(key) => Some(key),
            Self::Symmetric(_) => None,
        }
    }

    /// The text that tells the key in listings and on the log: the RFC 7638 thumbprint (43 characters), or the identifier (22).
    #[must_use]
    pub fn key_id(&self) -> String {
        match self {
            Self::Public(key) => key.thumbprint(),
            Self::Symmetric(id) => id.to_string(),
        }
    }

    /// Whether a key of this algorithm can be told by it.
    #[must_use]
    pub fn fits(&self, algorithm: KeyAlgorithm) -> bool {
        match (self, algorithm) {
            (Self::Public(key), KeyAlgorithm::Signing(algorithm)) => key.algorithm() == algorithm,
            (Self::Symmetric(_), KeyAlgorithm::Symmetric(_)) => true,
            (Self::Public(_), KeyAlgorithm::Symmetric(_))
            | (Self::Symmetric(_), KeyAlgorithm::Signing(_)) => false,
        }
    }

    /// The bytes that the keyring keeps: [`PublicKey::as_bytes`] or the identifier's 16.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Public(key) => key.as_bytes(),
            Self::Symmetric(id) => id.as_bytes(),
        }
    }

    /// Reads the identity of a key of this algorithm from the encoding of [`KeyIdentity::as_bytes`]; none if it is not one.
    #[must_use]
    pub fn from_bytes(algorithm: KeyAlgorithm, bytes: &[u8]) -> Option<Self> {
        match algorithm {
            KeyAlgorithm::Signing(algorithm) => {
                PublicKey::from_bytes(algorithm, bytes).ok().map(Self::Public)
            }
            KeyAlgorithm::Symmetric(_) => bytes
                .try_into()
                .ok()
                .map(|bytes| Self::Symmetric(KeyId::from_bytes(bytes))),
        }
    }
}

impl From<PublicKey> for KeyIdentity {
    fn from(key: PublicKey) -> Self {
        Self::Public(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_is_read_by_the_name_that_it_is_written_with() {
        for algorithm in [
            KeyAlgorithm::Signing(Algorithm::Ed25519),
            KeyAlgorithm::Signing(Algorithm::P256),
            KeyAlgorithm::Signing(Algorithm::Rsa2048),
            KeyAlgorithm::Symmetric(SymmetricAlgorithm::XChaCha20Poly1305),
            KeyAlgorithm::Symmetric(SymmetricAlgorithm::HmacSha256),
        ] {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
            let json = serde_json::to_string(&algorithm).unwrap();
            assert_eq!(json, format!("\"{algorithm}\""));
            assert_eq!(serde_json::from_str::<KeyAlgorithm>(&json).unwrap(), algorithm);
        }
        assert!("aes".parse::<KeyAlgorithm>().is_err());
    }

    #[test]
    fn an_identity_is_of_its_algorithm_alone() {
        let id = KeyIdentity::Symmetric(KeyId::from_bytes([7; 16]));
        assert_eq!(id.key_id(), "BwcHBwcHBwcHBwcHBwcHBw");
        let hmac = KeyAlgorithm::Symmetric(SymmetricAlgorithm::HmacSha256);
        let p256 = KeyAlgorithm::Signing(Algorithm::P256);
        assert!(id.fits(hmac) && !id.fits(p256));
        assert_eq!(KeyIdentity::from_bytes(hmac, id.as_bytes()), Some(id));
        assert_eq!(KeyIdentity::from_bytes(hmac, &[7; 17]), None);
        assert_eq!(KeyIdentity::from_bytes(p256, &[7; 16]), None);
    }
}
